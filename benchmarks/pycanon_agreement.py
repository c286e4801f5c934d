"""Our anonymity measures beside pycanon's, on random tables made by hypothesis.

    .venv/bin/python benchmarks/pycanon_agreement.py --python pycanon/bin/python

pycanon 1.3.6 pins its numpy and pandas, so it runs in an environment of its own, made with
`python3.11 -m venv pycanon && pycanon/bin/pip install pycanon==1.3.6`. Prints how many tables agree to 1e-9, measure by
measure: first with the number as defined in the literature (ours, rounded where pycanon rounds), then, where pycanon's
differs, with what its code computes instead, so that every difference is accounted for. Tables have 1 to 40 rows; in as
many more, quasi-identifiers may be missing.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _common import head, line
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tabveil.audit import _disclosure as disclosure
from tabveil.audit._classes import View
from tabveil.audit._disclosure import Pairs
from tabveil.audit.anonymity import Policy
from tabveil.columns import Categorical, Integer
from tabveil.schema import Schema

Row = tuple[Any, ...]
ILLS = ("cancer", "flu", "heart", "viral")
SCHEMA = Schema(
    columns=(
        Categorical(name="a", categories=("x", "y", "z"), missing=("",)),
        Integer(name="n", low=0, high=9, missing=("",)),
        Categorical(name="ill", categories=ILLS),
        Integer(name="pay", low=0, high=20),
    ),
    quasi_identifiers=("a", "n"),
    sensitive=("ill", "pay"),
)


def tables(examples: int, *, missing: bool) -> list[list[Row]]:
    """So many tables by hypothesis, the same ones every time."""
    hole = (st.none(),) if missing else ()
    cells = (st.sampled_from("xy"), st.sampled_from([0, 9])), (st.sampled_from(ILLS[:3]), st.integers(0, 6))
    row = st.tuples(*(st.one_of(c, *hole) for c in cells[0]), *cells[1])
    made: list[list[Row]] = []

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(st.integers(1, 40).flatmap(lambda n: st.lists(row, min_size=n, max_size=n)))
    def collect(rows: list[Row]) -> None:
        made.append(rows)

    collect()
    return made[:examples]


def whole_above(c: float) -> float:
    """The least whole number above c, which the definition asks for where whole numbers are meant; infinity stays."""
    return c if math.isinf(c) else math.floor(c + 1e-9) + 1


# Per measure: the literature's number from `Pairs`, rounded where pycanon rounds, and what pycanon's code computes in
# its place, where it is not the same.
OURS: dict[str, Callable[[Pairs], float]] = {
    "alpha": disclosure.alpha,
    "l": disclosure.distinct_l,
    "entropy": lambda p: math.floor(disclosure.entropy_l(p) + 1e-9),
    "recursive": lambda p: whole_above(disclosure.recursive_c(p, least=disclosure.distinct_l(p))),
    "delta": disclosure.delta_disclosure,
    "basic": disclosure.basic_beta,
    "enhanced": disclosure.enhanced_beta,
}


def ascending_c(pairs: Pairs) -> float:
    """pycanon's c: counts in ascending order, so that r1 is the least frequent value; the next whole number above."""
    least = disclosure.distinct_l(pairs)
    if least == 1:
        return math.nan
    found = []
    for group in range(len(pairs.rows)):
        counts = np.sort(pairs.times[pairs.group == group])
        found.append(math.floor(counts[0] / counts[least - 1 :].sum() + 1))
    return max(found)


THEIRS: dict[str, tuple[str, Callable[[Pairs], float]]] = {
    "entropy": (
        "rounds e**H down in doubles, where 2 may be 1.9999...",
        lambda p: int(np.exp(1) ** float(p.summed(-p.shares * np.log(p.shares)).min())),
    ),
    "recursive": ("takes r1 for the least frequent value; nan where l = 1", ascending_c),
    "delta": ("values that a class lacks are passed over", disclosure.delta_disclosure_seen),
    "enhanced": (
        "min(largest gain, largest -ln q), over different values",
        lambda p: min(disclosure.basic_beta(p), float((-np.log(p.whole)).max())),
    ),
    "t": ("ZeroDivisionError where a number has one value", lambda p: math.nan),
}


def same(ours: float, theirs: float | str) -> bool:
    """Equal to 1e-9; infinities and NaN like themselves."""
    if isinstance(theirs, str):
        return False
    both_nan = math.isnan(ours) and math.isnan(theirs)
    return both_nan or ours == theirs or abs(ours - theirs) <= 1e-9


def compared(rows: list[Row], theirs: dict[str, Any]) -> dict[str, tuple[bool, bool]]:
    """By measure: whether pycanon's number is the defined one, and whether it is that or the one explained."""
    frame = pd.DataFrame(rows, columns=["a", "n", "ill", "pay"])
    cells = View(SCHEMA, Policy(quasi_identifiers=("a", "n"), sensitive=("ill", "pay"), bins=None)).read(
        frame, role="real"
    )
    group = np.unique(np.stack(cells.known), axis=1, return_inverse=True)[1].ravel()
    out = {"k": (same(float(np.bincount(group).min()), theirs["k"]),) * 2}
    for name, codes in zip(("ill", "pay"), cells.hidden, strict=True):
        pairs = Pairs.of(group, codes)
        ours = {**OURS, "t": disclosure.equal_t if name == "ill" else disclosure.ordered_t}
        for measure, function in ours.items():
            found = theirs[f"{measure} {name}"]
            right = same(float(function(pairs)), found)
            explained = right or (measure in THEIRS and same(float(THEIRS[measure][1](pairs)), found))
            if measure == "t" and isinstance(found, str):
                explained = len(pairs.whole) == 1
            out[f"{measure} {name}"] = right, explained
    return out


def missing_kept(rows: list[Row], theirs: dict[str, Any]) -> tuple[bool, bool]:
    """Whether pycanon's k is that of missing cells as values, and of rows with one left out."""
    frame = pd.DataFrame(rows, columns=["a", "n", "ill", "pay"])
    ks = []
    for missing in ("value", "drop"):
        policy = Policy(quasi_identifiers=("a", "n"), missing=missing)  # type: ignore[arg-type]
        cells = View(SCHEMA, policy).read(frame, role="real")
        left = len(cells) > 0
        ks.append(float(np.unique(np.stack(cells.known), axis=1, return_counts=True)[1].min()) if left else math.inf)
    return same(ks[0], theirs["k"]), same(ks[1], theirs["k"])


def asked(python: Path, made: list[list[Row]]) -> list[dict[str, Any]]:
    """pycanon's numbers."""
    worker = str(Path(__file__).with_name("_pycanon.py"))
    run = subprocess.run([str(python), worker], input=json.dumps(made), capture_output=True, text=True, check=True)
    numbers: list[dict[str, Any]] = json.loads(run.stdout)
    return numbers


def main() -> None:
    """Make tables, ask both, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", type=Path, required=True, help="an interpreter that has pycanon")
    parser.add_argument("--tables", type=int, default=200)
    given_ = parser.parse_args()
    made = tables(given_.tables, missing=False)
    results = [compared(rows, theirs) for rows, theirs in zip(made, asked(given_.python, made), strict=True)]
    head("measure", "tables", "agree with the definition", "or as pycanon computes it", "what pycanon does")
    for key in results[0]:
        right, explained = (sum(r[key][i] for r in results) for i in range(2))
        said = THEIRS[key.split()[0]][0] if right < len(results) and key.split()[0] in THEIRS else ""
        line(key, len(results), right, explained, said)
    holed = tables(given_.tables, missing=True)
    kept = [missing_kept(rows, theirs) for rows, theirs in zip(holed, asked(given_.python, holed), strict=True)]
    as_value, dropped = (sum(k[i] for k in kept) for i in range(2))
    line("k, missing cells", len(kept), as_value, sum(map(any, kept)), f"k of rows without a missing cell: {dropped}")


if __name__ == "__main__":
    main()
