"""Who was in the table? One black-box attack: a row close to a synthetic row is taken for a training row.

The attacker has the synthetic table, the public schema and the rows he asks about; he knows neither the generator nor
how it was fitted. Distance is Gower's (1971): the mean over columns of the difference in units of the declared range,
or of 0 (same) and 1 (not the same) for listed values; missing is a value of its own, at 1 from all others.

Rows that occur more than once in train and holdout together are left out on both sides. A held-out copy of a training
row is no outsider; and leaving out these alone would keep common rows on one side only, so that a table made without
looking at train would seem to know it. Among rows that occur once, who is in train is chance, as in a random split.

Privacy: reads real rows outside any budget; findings are INTERNAL. This attack is among the weakest known, and the
rows of one release are attacked together: its rates describe this release and bound no epsilon, which takes many fits.
A release on which it fails may fall to others ("The DCR Delusion", arXiv 2505.01524).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tabveil.audit.base import ALPHA, AuditInput, Auditor, lacking
from tabveil.audit.rates import Count, beyond, finding
from tabveil.columns import Column, Grid
from tabveil.encoding import Codes, size
from tabveil.records import Finding

TARGETS = 2_000
"""No more rows than this are attacked on each side."""

FEWEST = 20
"""Fewer rows than this on a side say nothing."""

SYNTHETIC_ROWS = 20_000
"""Distances are taken to no more different synthetic rows than this; copies are found among all."""

CELLS = 4_000_000_000
"""Most cells compared: tables with many columns are compared with fewer synthetic rows."""

BLOCK = 1 << 20
"""Distances held in memory at a time."""

FALSE_ALARMS = 0.01
"""Share of outsiders that the second attack may take for training rows."""

CONFIDENCE = 1 - ALPHA / 2
"""Of each of the two findings."""

_NOBODY = -1.0
"""A threshold below every distance."""

_WHAT = "Membership"

Floats = NDArray[np.float32]
Rows = NDArray[np.int64]


class Membership(Auditor):
    """Training rows told from held-out rows by their distance to the closest synthetic row."""

    def why_not(self, data: AuditInput) -> str:
        """There must be rows in all three tables, and enough of them that occur once."""
        reason = lacking(data, roles=("holdout", "train", "synthetic"), what=_WHAT)
        if reason or len(_targets(data).members) >= FEWEST:
            return reason
        return f"{_WHAT} was not measured: it takes {FEWEST} training and {FEWEST} held-out rows that occur only once."

    def compute(self, data: AuditInput) -> list[Finding]:
        """Two findings: accuracy at the best threshold, and training rows recognised at 1 % false alarms."""
        if self.why_not(data):
            return []
        targets = _targets(data)
        near = _distances(data, targets)
        outsiders = near[len(targets.members) :]
        attack = attacked(near[: len(targets.members)], outsiders[: len(targets.members)])
        half = min(TARGETS, len(outsiders) // 2)
        control = attacked(outsiders[half : 2 * half], outsiders[:half])
        return [_accuracy(attack, control, targets), _recognised(attack, control, targets)]


@dataclass(frozen=True, eq=False)
class _Targets:
    """Positions of the rows under attack, and how many were left out.

    Attributes:
      members: in train, shape (n,), in random order.
      outsiders: in holdout, shape (n to 2 * TARGETS,), in random order; the attack takes the first n.
      copies: held-out rows that copy a training row, out of all held-out rows.
    """

    members: Rows
    outsiders: Rows
    copies: Count


def _targets(data: AuditInput) -> _Targets:
    train, holdout = data.groups["train"], data.groups["holdout"]
    times = np.bincount(np.concatenate([train, holdout]))
    once = {"train": np.flatnonzero(times[train] == 1), "holdout": np.flatnonzero(times[holdout] == 1)}
    members, outsiders = (data.shuffled(role, rows, purpose="targets") for role, rows in once.items())
    tried = min(TARGETS, len(members), len(outsiders))
    copies = Count(int(np.isin(holdout, train).sum()), len(holdout))
    return _Targets(members[:tried], outsiders[: 2 * TARGETS], copies)


# ------------------------------------------------------------------------------------------------------------ distances


def _distances(data: AuditInput, targets: _Targets) -> Floats:
    """Distance of each member and then each outsider to the closest synthetic row, in columns: 0 to their number."""
    real = zip(data.codes["train"], data.codes["holdout"], strict=True)
    asked = tuple(np.concatenate([inside[targets.members], outside[targets.outsiders]]) for inside, outside in real)
    group = np.concatenate([data.groups["train"][targets.members], data.groups["holdout"][targets.outsiders]])
    made = data.groups["synthetic"]
    different = data.shuffled("synthetic", np.unique(made, return_index=True)[1], purpose="synthetic")
    kept = different[: min(SYNTHETIC_ROWS, max(1, CELLS // (len(group) * len(asked))))]
    near = closest(data.schema.learned, asked, tuple(c[kept] for c in data.codes["synthetic"]))
    near[np.isin(group, made)] = 0
    return near


def closest(columns: tuple[Column, ...], asked: tuple[Codes, ...], rows: tuple[Codes, ...]) -> Floats:
    """Gower distance of each asked row to the closest of `rows`, not divided by the number of columns.

    Args:
      columns: what the codes stand for.
      asked: codes of each column as in `AuditInput.codes`, shape (n,).
      rows: likewise, shape (m,); m >= 1.

    Returns:
      Shape (n,), each 0 to len(columns).
    """
    ours = [_scaled(c, codes) for c, codes in zip(columns, asked, strict=True)]
    theirs = [_scaled(c, codes) for c, codes in zip(columns, rows, strict=True)]
    best = np.zeros(len(ours[0]), dtype=np.float32)
    step = max(1, BLOCK // len(theirs[0]))
    gap = np.empty((step, len(theirs[0])), dtype=np.float32)
    for start in range(0, len(best), step):
        block = [values[start : start + step] for values in ours]
        best[start : start + step] = _sums(block, theirs, gap[: len(block[0])]).min(axis=1)
    return best


def _sums(ours: list[Floats], theirs: list[Floats], gap: Floats) -> Floats:
    """Sums over columns of differences, each at most 1, shape (n, m); `gap` is room of that shape to work in."""
    total = np.zeros_like(gap)
    for mine, other in zip(ours, theirs, strict=True):
        np.subtract(mine[:, None], other[None, :], out=gap)
        np.abs(gap, out=gap)
        np.minimum(gap, 1, out=gap)
        total += gap
    return total


def _scaled(column: Column, codes: Codes) -> Floats:
    """Numbers whose difference, cut at 1, is the column's distance: a grid from 0 to 1, all else whole numbers."""
    if not isinstance(column, Grid):
        return codes.astype(np.float32)
    top = max(1, column.units - 1)
    special = codes - size(column) + 2  # missing is 2, not allowed is 3: at least 1 from each other and from the grid
    return np.where(codes >= size(column), special, codes / top).astype(np.float32)


# --------------------------------------------------------------------------------------------------------------- attack


@dataclass(frozen=True)
class Outcome:
    """What the attack got on the half it had not chosen its thresholds on.

    Attributes:
      told: rows put on the right side by the best threshold, out of all.
      recognised: members recognised by the threshold for few false alarms.
      alarms: outsiders taken for members by that threshold.
    """

    told: Count
    recognised: Count
    alarms: Count


def attacked(members: Floats, outsiders: Floats) -> Outcome:
    """The attack's outcome on equally many distances of members and of outsiders (at least 2), both in random order.

    Every other row serves to choose thresholds, the rest to measure.
    """
    best, strict = _thresholds(members[1::2], outsiders[1::2])
    inside, outside = members[::2], outsiders[::2]
    return Outcome(
        told=_called(inside, best) + _called(outside, best).misses,
        recognised=_called(inside, strict),
        alarms=_called(outside, strict),
    )


def _called(distances: Floats, threshold: float) -> Count:
    return Count(int((distances <= threshold).sum()), len(distances))


def _thresholds(members: Floats, outsiders: Floats) -> tuple[float, float]:
    """The distance that best tells members from outsiders, and the largest that has at most FALSE_ALARMS within it.

    Either is below every distance where that is best: then nobody is taken for a member.
    """
    tried = np.unique(np.concatenate([[_NOBODY], members, outsiders]))
    caught, alarms = (np.searchsorted(np.sort(d), tried, side="right") / len(d) for d in (members, outsiders))
    return float(tried[np.argmax(caught - alarms)]), float(tried[alarms <= FALSE_ALARMS][-1])


# ------------------------------------------------------------------------------------------------------------- findings


def _accuracy(attack: Outcome, control: Outcome, targets: _Targets) -> Finding:
    found = finding(
        auditor=Membership.plugin_name(),
        name="training rows told from others by distance to the closest synthetic row (balanced accuracy)",
        attack=attack.told,
        baseline=0.5,
        control=control.told,
        confidence=CONFIDENCE,
        verdict="",
    )
    said = "can be told from held-out rows" if beyond(found) else "were not told from held-out rows beyond chance"
    return _judged(found, f"Training rows {said} by how close a synthetic row is", targets)


def _recognised(attack: Outcome, control: Outcome, targets: _Targets) -> Finding:
    found = finding(
        auditor=Membership.plugin_name(),
        name=f"training rows recognised at {FALSE_ALARMS:.0%} false alarms (true positive rate)",
        attack=attack.recognised,
        baseline=attack.alarms,
        control=control.recognised,
        confidence=CONFIDENCE,
        verdict="",
    )
    alarms = f"with false alarms on {attack.alarms.rate:.1%} of held-out rows"
    said = "are recognised" if beyond(found) else "were not recognised beyond chance"
    return _judged(found, f"Training rows {said} {alarms} (at most {found.baseline:.1%} by chance)", targets)


def _judged(found: Finding, said: str, targets: _Targets) -> Finding:
    meaning = "people in the table are exposed" if beyond(found) else "this one attack failed, a stronger one may not"
    left_out = f"{targets.copies.hits:,} of {targets.copies.tries:,} held-out rows copy a training row"
    about = "a rate over the rows of one release describes that release and is no bound on epsilon"
    return replace(found, verdict=f"{said}: {meaning}; {about}; {left_out} and were left out, like all that repeat.")
