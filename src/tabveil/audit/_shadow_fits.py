"""Many fits of the generator under audit, their features kept as they come: in processes side by side, resumable.

A fit is one call of `refit` with a seed of its own. What is kept of it are features (numbers about its table) in one
line of JSON; a line that a kill has cut off is not read, and its fit is made again. The same fits of the same audit
have the same file, so that a killed audit goes on.

Fits go through joblib (loky: processes that start fresh, so that no two share the state of a random generator), each
with one thread for linear algebra, where all of them together take longer than starting processes is worth.

Privacy: `refit` reads real rows, outside any account: nothing of its tables but features stays. Tables are passed to
other processes of the same user on the same machine; the file is readable by that user alone. INTERNAL.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from tabveil.audit._membership_scores import Floats
from tabveil.audit._shadow_features import Questions
from tabveil.audit.base import Refit, Tell
from tabveil.errors import StorageError

OUT = -1
"""Side of the fits without a target; those with one have its number."""

PATIENCE = 20.0
"""Seconds of work that are done in this process: starting others takes a few."""

Place = tuple[int, int]
"""A fit: its side, and its number on that side."""


@dataclass(frozen=True, eq=False, repr=False)
class Fitted:
    """What is kept of one fit.

    Attributes:
      digest: of its table's learned columns.
      features: about the table, then about each target.
    """

    digest: str
    features: tuple[Floats, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Game:
    """What all fits share.

    Attributes:
      refit: fits and samples.
      base: the rows that every fit sees.
      added: the row that each side adds, as a frame of one row.
      questions: what is asked of each table.
      entropy: seeds follow from it; the same for the same audit.
    """

    refit: Refit
    base: pd.DataFrame
    added: tuple[pd.DataFrame, ...]
    questions: Questions
    entropy: tuple[int, ...]

    def fitted(self, place: Place) -> Fitted:
        """Make one fit."""
        side, _ = place
        rows = self.base.copy() if side == OUT else pd.concat([self.base, self.added[side]], ignore_index=True)
        return Fitted(*self.questions.answers(self.refit(rows, self.seed(place))))

    def seed(self, place: Place) -> int:
        """Of a fit: a whole number from 0 to below 2^63, different for each."""
        side, number = place
        drawn = np.random.SeedSequence([*self.entropy, side + 1, number]).generate_state(1, np.uint64)[0]
        return int(drawn >> np.uint64(1))


def places(sides: int, fits: int) -> list[Place]:
    """All fits, one of each side after the other, so that what a killed audit has done is of use."""
    return [(side, number) for number in range(fits) for side in range(OUT, sides)]


def play(
    game: Game, wanted: Sequence[Place], *, file: Path | None, jobs: int | None, tell: Tell
) -> dict[Place, Fitted]:
    """Every wanted fit, those in `file` taken from there, the others made and appended to it.

    Args:
      game: what is fitted.
      wanted: the fits.
      file: where features are kept; None keeps them in memory only.
      jobs: processes at a time; None decides by the time that the second fit takes.
      tell: told of the share done, and of the cost once it is known.

    Raises:
      StorageError: the file cannot be written.
    """
    kept = Kept(file)
    asked = set(wanted)
    done = {p: f for p, f in kept.read().items() if p in asked}
    for place, fitted in _made(game, [p for p in wanted if p not in done], jobs=jobs, tell=tell):
        done[place] = fitted
        kept.add(place, fitted)
        tell("shadow fits", len(done) / len(wanted))
    return done


def _made(game: Game, left: list[Place], *, jobs: int | None, tell: Tell) -> Iterator[tuple[Place, Fitted]]:
    """The first two fits here, timed (the first one also imports), the rest side by side where that is quicker."""
    seconds = 0.0
    for place in left[:2]:
        start = time.perf_counter()
        yield place, game.fitted(place)
        seconds = time.perf_counter() - start
    rest = left[2:]
    if rest:
        side_by_side = _processes(seconds * len(rest)) if jobs is None else jobs
        most = seconds * len(rest) / side_by_side
        tell(f"shadow: {len(rest)} fits of {seconds:.2g} s, {side_by_side} at a time, about {most:.2g} s", 0.0)
        yield from _parallel(game, rest, side_by_side)


def _processes(seconds: float) -> int:
    import joblib

    return int(joblib.cpu_count()) if seconds > PATIENCE else 1


def _parallel(game: Game, rest: list[Place], jobs: int) -> Iterable[tuple[Place, Fitted]]:
    """Each fit as soon as it is there; in this process where `jobs` is 1."""
    if jobs == 1:
        return ((place, game.fitted(place)) for place in rest)
    import joblib

    with joblib.parallel_config(backend="loky", n_jobs=jobs, inner_max_num_threads=1):
        # One at a time: a batch that is killed is lost, and fits take longer than passing them on.
        parallel = joblib.Parallel(return_as="generator_unordered", batch_size=1, pre_dispatch="2*n_jobs")
        found: Iterable[tuple[Place, Fitted]] = parallel(joblib.delayed(_one)(game, place) for place in rest)
    return found


def _one(game: Game, place: Place) -> tuple[Place, Fitted]:
    return place, game.fitted(place)


# ----------------------------------------------------------------------------------------------------------------- kept


@dataclass(frozen=True)
class Kept:
    """The file of one audit's fits, one line of JSON each; None keeps nothing."""

    file: Path | None

    def read(self) -> dict[Place, Fitted]:
        """What the file has; lines that are no whole record are left out."""
        if self.file is None or not self.file.exists():
            return {}
        try:
            lines = self.file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError as error:
            raise StorageError(f"{os.fspath(self.file)!r} cannot be read.") from error
        return dict(filter(None, map(_parsed, lines)))

    def add(self, place: Place, fitted: Fitted) -> None:
        """Append a fit, on a line of its own whatever a killed process left.

        Raises:
          StorageError: the file cannot be written.
        """
        if self.file is None:
            return
        record = [*place, fitted.digest, [f.tolist() for f in fitted.features]]
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with open(os.open(self.file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "a", encoding="utf-8") as file:
                file.write("\n" + json.dumps(record))
        except OSError as error:
            raise StorageError(f"{os.fspath(self.file)!r} cannot be written.") from error


def _parsed(line: str) -> tuple[Place, Fitted] | None:
    try:
        side, number, digest, features = json.loads(line)
        return (int(side), int(number)), Fitted(str(digest), tuple(np.array(f, dtype=np.float64) for f in features))
    except (ValueError, TypeError):
        return None
