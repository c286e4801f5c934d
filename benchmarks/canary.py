"""Planted mistakes, and what the audit by canaries makes of them: claimed epsilon, found epsilon, ceiling.

    PYTHONPATH=src:tests OMP_NUM_THREADS=1 .venv/bin/python benchmarks/canary.py --processes 2 > canary.md

Every mutant of tests/mutants/mutants.py that touches a released answer is planted, one after the other, each in a
process of its own, and a small generator is audited. Prints a table, found ones first; reads no real rows. `--claims
500` audits right generators with many fits.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from dp_accounting import ComposedDpEvent

import tabveil as tv
from mutants.mutants import MUTANTS, Mutant
from mutants.planting import planted
from tabveil import mechanisms
from tabveil.audit._canary_fits import Fits
from tabveil.audit._canary_laws import least_threshold
from tabveil.audit._canary_worlds import worst_case
from tabveil.audit.canary import audit_canaries, audit_generator
from tabveil.audit.rates import beyond
from tabveil.columns import Boolean, Categorical, Decimal, Identifier, Integer
from tabveil.errors import TabveilError
from tabveil.records import Finding
from tabveil.schema import Schema

WORDS = Categorical(name="word", categories=("u", "v", "w"))
LETTERS = Categorical(name="letter", categories=tuple("abcdefgh"))
MANY = Categorical(name="many", categories=tuple(f"c{i}" for i in range(600)))
NUMBER = Integer(name="number", low=0, high=99)
PERSON = Identifier(name="person")
EIGHT = tuple(Categorical(name=f"c{i}", categories=("u", "v", "w")) for i in range(8))
THREE = tuple(Categorical(name=f"c{i}", categories=("u", "w")) for i in range(3))
LEARNED = Categorical(name="word", learn=True)


@dataclass(frozen=True)
class Scene:
    """What is audited, and how.

    Attributes:
      columns: of the made-up rows.
      generator: its name.
      epsilon, delta: what is claimed.
      most: rows of a person; 0 where every row is a unit.
      nameless: the further unit names nobody.
      fits: to each table.
      memory: bytes of codes kept in memory, None for as many as usual.
      target: a column that weighs more.
      rows: makes the smaller table for a generator; None for twenty rows of two kinds.
    """

    columns: tuple[object, ...]
    generator: str = "independent"
    epsilon: float = 1.0
    delta: float = 1e-2
    most: int = 0
    nameless: bool = False
    memory: int | None = None
    fits: int = 90
    target: str | None = None
    rows: Callable[[Scene, Fits], pd.DataFrame] | None = None

    @property
    def schema(self) -> Schema:
        """Public knowledge."""
        if not self.most:
            return Schema(columns=self.columns, target=self.target)
        return Schema(columns=(PERSON, *self.columns), privacy_unit="person", max_rows_per_unit=self.most)

    def audited(self, times: int) -> tuple[Finding, ...]:
        """Its audit, with `times` the fits."""
        generator = tv.create(self.generator, epsilon=self.epsilon, delta=self.delta)
        table = self.rows(self, generator) if self.rows else None
        fits = times * self.fits
        return audit_generator(generator, self.schema, fits=fits, nameless=self.nameless, table=table)


def associated(scene: Scene, generator: Fits) -> pd.DataFrame:
    """Forty rows; every other column repeats the one before it, the later the less often, so that pairs differ by about
    the noise of a choice.
    """
    rng, columns = np.random.default_rng(0), [c for c in scene.columns if isinstance(c, Categorical)]
    codes: list[np.ndarray] = []
    for i, column in enumerate(columns):
        fresh = rng.integers(0, len(column.categories) - 1, 40)
        repeats = rng.random(40) < 0.9 - 0.7 * i / len(columns)
        codes.append(np.where(repeats, codes[-1], fresh) if i % 2 else fresh)
    texts = {c.name: np.array(c.categories, dtype=object)[a] for c, a in zip(columns, codes, strict=True)}
    return pd.DataFrame(texts)


def ample(scene: Scene, generator: Fits) -> pd.DataFrame:
    """400 rows of two kinds, enough for `aim` to choose; one of them is what the further unit holds."""
    return pd.concat([worst_case(scene.schema).tables[1].iloc[[0, -1]]] * 200, ignore_index=True)


def spread(scene: Scene, generator: Fits) -> pd.DataFrame:
    """405 rows of numbers all over the column."""
    return pd.DataFrame({"number": np.arange(405) * 37 % 99, "word": "u"})


def tied(scene: Scene, generator: Fits) -> pd.DataFrame:
    """400 rows in which every marginal has the same largest cell, which the further unit raises in one of them."""
    first, *others = ([c.categories[0], c.categories[-1]] for c in scene.columns if isinstance(c, Categorical))
    names = [c.name for c in scene.columns if isinstance(c, Categorical)]
    return pd.DataFrame(
        {n: ends * 200 for n, ends in zip(names, [first, *others[:-1], others[-1][:1] * 2], strict=True)}
    )


def crowded(scene: Scene, generator: Fits) -> pd.DataFrame:
    """Twelve texts, each as often as the least threshold that the charged delta pays for."""
    noise, failure = next(
        s.event.events for s in generator.plan(scene.schema).spends if isinstance(s.event, ComposedDpEvent)
    )
    return pd.DataFrame({scene.columns[0].name: [f"t{i}" for i in range(12)] * least_threshold(noise, failure.delta)})


SCENES = {
    "rows": Scene((WORDS, LETTERS), fits=150),
    "pure": Scene((WORDS, LETTERS), delta=0.0, fits=150),
    "wide": Scene((MANY, Boolean(name="mark"))),
    "numbers": Scene((NUMBER, WORDS)),
    "learned": Scene((Decimal(name="number", learn=True), Categorical(name="word", learn=True))),
    "pairs": Scene((WORDS, LETTERS, Boolean(name="mark")), generator="mst"),
    "rounds": Scene((WORDS, LETTERS, Boolean(name="mark")), generator="aim", rows=ample),
    "persons": Scene((WORDS, LETTERS), most=2, fits=250),
    "persons, pure": Scene((WORDS, LETTERS), delta=0.0, most=2),
    "choices": Scene(EIGHT, generator="mst", epsilon=10.0, fits=120, rows=associated),
    "totals": Scene(EIGHT, generator="mst", fits=120, rows=associated),
    "weighed": Scene(EIGHT[:4], generator="aim", epsilon=10.0, fits=40, rows=associated, target="c0"),
    "tied": Scene(THREE, generator="aim", fits=40, rows=tied),
    "bins": Scene((NUMBER, WORDS), generator="mst"),
    "spread": Scene((NUMBER, WORDS), fits=40, rows=spread),
    "words": Scene((LEARNED,), fits=40),
    "crowded": Scene((LEARNED,), fits=60, rows=crowded),
    "crowded, persons": Scene((LEARNED,), fits=60, most=8, rows=crowded),
    "crowded, persons, loud": Scene((LEARNED,), epsilon=20.0, fits=60, most=8, rows=crowded),
    "persons, loud": Scene((WORDS, LETTERS), epsilon=4.0, most=2),
    "persons, choices": Scene(EIGHT, generator="mst", epsilon=10.0, most=2, fits=40, rows=associated),
    "persons, learned": Scene((Integer(name="number", learn=True), WORDS), epsilon=20.0, most=2),
    "persons, read anew": Scene((WORDS, LETTERS), most=2, memory=0),
    "nameless": Scene((WORDS, LETTERS), most=2, nameless=True),
}

TOUCHED = (
    "tabveil.mechanisms", "tabveil.noise", "tabveil.units", "tabveil._counting", "tabveil.samplers",
    "tabveil.encoding", "tabveil.domains", "tabveil.learning", "tabveil.generators._marginals",
    "tabveil.generators.independent", "tabveil.generators.mst", "tabveil.generators.aim",
    "tabveil.generators.base", "tabveil.ledger", "tabveil._accounting_events",
)  # fmt: skip
"""Modules that a fit of marginals runs through."""

TRAINING = (
    "drawn",
    "noisy_sum",
    "_noise_of",
    "RoundedNoise",
    "rounded_noise",
    "_in_units",
    "deviation_and_grid",
    "_vector",
)
"""Parts of `mechanisms`, `noise` and `units` that only trainings run: `benchmarks/audit_training.py` has those."""

BY_ID = {
    "laplace": "pure", "third-of-the-noise": "pure", "vectorised": "wide", "as-variance": "wide", "a13-": "wide",
    "a12-fixed-seed-in-v": "wide", "a13-float-noise": "rows",
    "a1-": "numbers", "a1-learned": "learned", "a2-learned": "learned", "a2-threshold": "learned",
    "quantiles": "bins", "uncharged-read": "spread", "a2-threshold-of": "crowded", "one-category": "crowded, persons",
    "for-one-row": "crowded, persons, loud", "learning-beside": "words",
    "a10-learning-uncharged": "learned", "a10-deltas": "learned", "choice": "pairs", "gumbel": "choices",
    "permute": "choices", "score": "totals", "a16-half": "pairs", "weights": "weighed", "a10-marginal": "rounds",
    "a10-raked": "rounds", "a10-candidates": "tied", "a16-expected": "rounds", "a17-": "persons",
    "a17-laplace": "persons, pure", "one-row-too-many": "persons, loud",
    "a17-choice": "persons, choices", "a17-nameless": "nameless", "beyond-memory": "persons, read anew",
    "every-pass": "persons, read anew", "unit-names": "persons, read anew", "learned-from": "persons, learned",
    "a17-learning": "persons, learned", "a17-learned": "persons, learned", "mst": "pairs", "a12-global": "wide",
}  # fmt: skip
"""Which scene a mutant needs, by a part of its id: the last match."""


UNSEEN = {
    "what the made-up rows do not hold: cells undeclared or beyond bounds, mixed types, an order of their own": (
        "a2-undeclared", "a2-text-by", "a2-texts-end", "a17-bounded-by-chunk", "in-any-order", "a17-kept-by-position",
        "a17-public-unit-names", "changed-file", "a12-fixed-seed-in-bounded", "a1-bounds-not-enforced",
    ),
    "a law that is as charged up to one part in millions": ("a13-rounded-float", "a13-float-gumbel", "a13-modulo-bias"),
    "a guard that no right generator runs into": (
        "a10-refused-after", "a10-committed-after", "a10-read-before", "a10-score-before", "a10-tabulated-when",
        "a10-kind-not", "a10-label-taken", "a10-unknown-label", "a17-guard-left", "a10-never-charged",
    ),
    "words: an error, a statement": (
        "a2-value-in", "a10-learning-called", "a12-seeded-run-looks", "a16-another-relation",
    ),
    "a training, or a process that goes on with a charge": (
        "a9-", "a10-learning-unplanned", "a10-a-resumed", "a10-steps-by", "a12-training",
    ),
}  # fmt: skip
"""Mutants, by parts of their ids, that no box sees, and why: they are not planted here."""


def unseen(mutant: Mutant) -> str:
    """Why no box sees a mutant; "" where one may."""
    return next((why for why, parts in UNSEEN.items() if any(p in mutant.id for p in parts)), "")


def scene_of(mutant: Mutant) -> str:
    """Name of the scene in which a mutant is looked for."""
    return next((scene for part, scene in reversed(BY_ID.items()) if part in mutant.id), "rows")


def concerned(mutant: Mutant) -> bool:
    """Whether a mutant touches what a fit of marginals releases."""
    targets = [e.target for e in mutant.edits]
    modules = {t.partition(":")[0] for t in targets}
    trained = any(part in target for target in targets for part in TRAINING)
    views = any(view in mutant.id for view in ("canaries", "neighbours"))
    return mutant.trap != "C4" and not views and modules <= {*TOUCHED} and not trained


def row(given: tuple[str, str, int]) -> tuple[bool, str]:
    """Whether an audit with so many times the scene's fits found a mutant (by id, "" for none), and its row of the
    table.
    """
    ident, name, times = given
    mutant = next((m for m in MUTANTS if m.id == ident), None)
    scene, start = SCENES[name], time.monotonic()
    if scene.memory is not None:
        mechanisms.MEMORY = scene.memory
    try:
        with planted(*(mutant.edits if mutant else ())) as ran:
            found = scene.audited(times)
        reached = len(ran) == len(mutant.edits if mutant else ())
        cells, seen = shown(found), any(map(beyond, found)) or not reached
        cells[-1] = cells[-1] if reached else "the planted text never ran"
        seen = seen and reached
    except (TabveilError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        seen, cells = True, [*["-"] * 5, f"stopped: {type(error).__name__}"]
    seconds = f"{time.monotonic() - start:.0f}"
    planted_text = mutant.planted if mutant else "(nothing)"
    return seen, "| " + " | ".join([ident or "-", planted_text, name, f"{scene.epsilon:g}", *cells, seconds]) + " |"


def shown(found: Sequence[Finding]) -> list[str]:
    """Cells of the table: black box, white box by counts, ceiling, told apart, priced, and what fired."""
    black, white, apart, priced, *_ = found
    others = [f.verdict.partition(": ")[2].rstrip(".") for f in found[4:5] if beyond(f)]
    others += ["what was asked" for f in found[5:] if beyond(f)]
    bounds = [_bound(black), _bound(white), f"{white.ceiling:.2f}", _bound(apart), _bound(priced)]
    return [*bounds, "; ".join(others) or "-"]


def _bound(found: Finding) -> str:
    ends = f" [{found.interval[0]:.2f}, inf)" if math.isinf(found.interval[1]) else ""
    ends += f" of {found.baseline:.2f}" if "told apart" in found.name else ""
    text = f"{found.value:.2f}{ends}"
    return f"**{text}**" if beyond(found) else text


def claims(fits: int) -> None:
    """What is found of right generators, beside what they claim: many fits, and a single one."""
    print("| fit | finding | found | at least | claimed | control | ceiling |\n|---|---|---|---|---|---|---|")
    for name, delta in (("rows", 1e-2), ("pure", 0.0)):
        generator = tv.create("independent", epsilon=SCENES[name].epsilon, delta=delta)
        found = [*audit_generator(generator, SCENES[name].schema, fits=fits), *audit_canaries(generator)]
        for f in found:
            numbers = (f.value, f.interval[0], f.baseline, f.control, f.ceiling)
            print(
                f"| independent, delta {delta:g} | {f.name} | {' | '.join(f'{n:.3g}' for n in numbers)} |", flush=True
            )


def main() -> None:
    """Plant, audit, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--only", nargs="*", default=[], help="ids, or parts of them")
    parser.add_argument("--times", type=int, default=1, help="so many times the fits of each scene")
    parser.add_argument("--claims", type=int, default=0, help="audit right generators instead, with so many fits")
    given = parser.parse_args()
    if given.claims:
        claims(given.claims)
        return
    start = time.monotonic()
    jobs = [("", name, given.times) for name in SCENES if not given.only]
    wanted = [m for m in MUTANTS if concerned(m) and any(part in m.id for part in given.only or [""])]
    jobs += [(m.id, scene_of(m), given.times) for m in wanted if not unseen(m)]
    rows = []
    with multiprocessing.get_context("fork").Pool(given.processes, maxtasksperchild=1) as pool:
        for seen, text in pool.imap(row, jobs, chunksize=1):
            rows.append((seen, text))
            print(text, file=sys.stderr, flush=True)
    heads = (
        "mutant | planted | scene | claimed | black box | white box, counts | ceiling | told apart, of allowed | priced"
    )
    print(f"| {heads} | other findings | s |\n|{'---|' * 11}")
    for which in (True, False):
        print("\n".join(text for seen, text in rows if seen == which))
    found = sum(seen for seen, text in rows if not text.startswith("| - "))
    print(f"\n{found} of {sum(bool(j[0]) for j in jobs)} found; {time.monotonic() - start:.0f} s\n")
    for why in UNSEEN:
        print(f"- not planted, {why}: {', '.join(m.id for m in wanted if unseen(m) == why)}")


if __name__ == "__main__":
    main()
