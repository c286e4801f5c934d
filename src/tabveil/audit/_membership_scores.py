"""How much a row looks like one that the synthetic table was made from: the scores of the membership attacks.

No score knows which asked row was in train: what comes in is a synthetic table, reference rows that no fit has seen,
and the rows asked about, all as codes. A higher score speaks for membership. Distance is Gower's (1971), not divided
by the number of columns: the difference in units of the declared range, or 0 (same) and 1 (not the same) for listed
values; missing is a value of its own, at 1 from all others.
Densities are sums of the kernel exp(-distance / bandwidth), a
product over columns of numbers and categories alike (Li and Racine 2003). The bandwidth follows the place where the
density is asked for (balloon estimator, Terrell and Scott 1992): a share of the mean distance to its closest reference
rows. Both densities of a ratio share it, so that the kernel's constant cancels.

Privacy: reads real rows outside any budget; a score is about one person and leaves this package only as a count.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tabveil.audit._digits import digit_distance
from tabveil.columns import Column, Grid
from tabveil.encoding import Codes, size

NEIGHBOURS = 5
"""Closest rows that exposure, bandwidth and Gen-LRA look at."""

EDITED = 16
"""Closest synthetic rows that LevAtt compares by digits."""

SHARPNESS = 0.1
"""Bandwidth as a share of the mean distance to the NEIGHBOURS closest reference rows (measured: docs/audit.md)."""

PILOT = 500
"""Reference rows that set the radius."""

BLOCK = 1 << 20
"""Distances held in memory at a time."""

TREES = 100
"""Trees of the classifier."""

BINS = 20
"""Equal parts of a declared range that tell common from rare values."""

_CLOSE = 1e-4
"""Distances below this are as good as none: it keeps ratios of distances finite."""

_TINY = 1e-30
"""Keeps the logarithm of a density finite where the nearest row is very far."""

COPY_FINDERS = ("nearest", "nearest_ratio", "logan", "lev_att", "ensemble")
"""Attacks that claim to find exact copies. A density blurs them, and `monte_carlo` counts whatever is around."""

Floats32 = NDArray[np.float32]
Floats = NDArray[np.float64]
Rows = NDArray[np.int64]
Table = tuple[Codes, ...]


@dataclass(frozen=True, eq=False, repr=False)
class Material:
    """What the attacker has, and whom he asks about.

    Attributes:
      columns: the learned ones, in the order of the codes.
      synthetic: different synthetic rows, codes of each column as in `AuditInput.codes`, shape (m,); m >= 1.
      times: how often each of them occurs, shape (m,).
      reference: real rows that no fit has seen and nobody asks about, shape (r,); r >= 2.
      asked: rows under attack, shape (n,).
      seed: of the classifier's trees.
    """

    columns: tuple[Column, ...]
    synthetic: Table
    times: Rows
    reference: Table
    asked: Table
    seed: int

    @property
    def row_pairs(self) -> int:
        """Distances that the attacks take."""
        n, m, r = (len(t[0]) for t in (self.asked, self.synthetic, self.reference))
        return n * (m + r) + m * r + min(PILOT, r) * m


@dataclass(frozen=True, eq=False, repr=False)
class Around:
    """What lies around each of n rows in a table of m rows.

    Attributes:
      distance: to the k closest rows, in rising order, shape (n, k).
      index: which rows these are, shape (n, k).
      bandwidth: of the kernel there, shape (n,).
      mass: sum of the kernel over all rows, shape (n,).
      within: rows no farther than the radius, shape (n,).
    """

    distance: Floats32
    index: Rows
    bandwidth: Floats
    mass: Floats
    within: Floats


def scores(material: Material) -> tuple[dict[str, Floats], dict[str, Floats]]:
    """Each attack's score by its name, and by kind how exposed a row is; all of shape (n,), finite, higher is more.

    `nearest`: distance to the closest synthetic row (the attack behind DCR). `nearest_ratio`: that distance against the
    one to the closest reference row (GAN-Leaks calibrated, Chen et al. 2020, section 5). `monte_carlo`: synthetic rows
    within a radius (Hilprecht et al. 2019, section 4.1). `domias`: ratio of densities (van Breugel et al. 2023,
    section 4). `logan`: a classifier of synthetic against reference rows (Hayes et al. 2019, section 4), whose odds are
    a ratio of densities, too. `gen_lra`: how much likelier the closest synthetic rows are once the asked row joins the
    reference (Ward, Wang and Cheng 2025, arXiv 2508.21146). `lev_att`: edits between digits (Ward et al. 2025, arXiv
    2512.08875).

    Exposure: `outliers` have rare values, `achilles` lie far from their neighbours (Meeus et al. 2023, section 4). Both
    look at reference rows only, so that training and held-out rows are chosen alike.
    """
    asked, made, known = (scaled(material.columns, t) for t in (material.asked, material.synthetic, material.reference))
    times = material.times.astype(np.float32)
    real = around(asked, known, k=NEIGHBOURS)
    near = around(asked, made, k=EDITED, weights=times, bandwidth=real.bandwidth, radius=_radius(known, made))
    found = {
        "nearest": -near.distance[:, 0].astype(np.float64),
        "nearest_ratio": _log_ratio(real.distance[:, 0], near.distance[:, 0], floor=_CLOSE),
        "monte_carlo": near.within,
        "domias": _log_ratio(near.mass / times.sum(), real.mass / len(known[0]), floor=_TINY),
        "logan": _logan(asked, made, known, times=times, seed=material.seed),
        "gen_lra": _gen_lra(near, around(made, known, k=NEIGHBOURS), times),
        "lev_att": -_edits(material, near).min(axis=1),
    }
    return found, _exposed(material.columns, material.asked, material.reference, real)


def exposure(columns: tuple[Column, ...], *, asked: Table, reference: Table) -> dict[str, Floats]:
    """How exposed each asked row is, as `scores` says it, without any attack; by kind, shape (n,)."""
    near = around(scaled(columns, asked), scaled(columns, reference), k=NEIGHBOURS)
    return _exposed(columns, asked, reference, near)


def _exposed(columns: tuple[Column, ...], asked: Table, reference: Table, near: Around) -> dict[str, Floats]:
    rare = rarity(columns, asked, reference)
    return {"outliers": rare, "achilles": near.distance.mean(axis=1, dtype=np.float64)}


# ------------------------------------------------------------------------------------------------------------ distances


def closest(columns: tuple[Column, ...], asked: Table, rows: Table) -> Floats32:
    """Gower distance of each asked row to the closest of `rows`, not divided by the number of columns.

    Args:
      columns: what the codes stand for.
      asked: codes of each column as in `AuditInput.codes`, shape (n,).
      rows: likewise, shape (m,); m >= 1.

    Returns:
      Shape (n,), each 0 to len(columns).
    """
    nearest: Floats32 = around(scaled(columns, asked), scaled(columns, rows), k=1).distance[:, 0]
    return nearest


def around(
    ours: list[Floats32],
    theirs: list[Floats32],
    *,
    k: int,
    bandwidth: Floats | None = None,
    radius: float = 0.0,
    weights: Floats32 | None = None,
) -> Around:
    """What lies around each of `ours` (scaled columns of shape (n,)) among `theirs` (m,), in blocks of bounded memory.

    Args:
      ours: the rows looked from.
      theirs: the rows looked at, at least one.
      k: how many of the closest to name; m at most.
      bandwidth: of the kernel at each of `ours`, shape (n,), above 0; by default a share of the mean distance to the k
        closest.
      radius: of `within`.
      weights: how often each of `theirs` counts, shape (m,); once by default.
    """
    n, m = len(ours[0]), len(theirs[0])
    k, step = min(k, m), max(1, BLOCK // m)
    counts = np.ones(m, dtype=np.float32) if weights is None else weights
    found = Around(np.empty((n, k), np.float32), np.empty((n, k), np.int64), *np.empty((3, n)))
    gap = np.empty((step, m), dtype=np.float32)
    for start in range(0, n, step):
        part = slice(start, start + step)
        block = [values[part] for values in ours]
        total = _sums(block, theirs, gap[: len(block[0])])
        found.distance[part], found.index[part] = _smallest(total, k)
        own = _bandwidth(found.distance[part]) if bandwidth is None else bandwidth[part]
        found.bandwidth[part] = own
        found.within[part] = (total <= radius) @ counts
        found.mass[part] = np.exp(total / -own[:, None].astype(np.float32)) @ counts
    return found


def _bandwidth(distance: Floats32) -> Floats:
    share: Floats = np.maximum(SHARPNESS * distance.mean(axis=1, dtype=np.float64), _CLOSE)
    return share


def _sums(ours: list[Floats32], theirs: list[Floats32], gap: Floats32) -> Floats32:
    """Sums over columns of differences, each at most 1, shape (n, m); `gap` is room of that shape to work in."""
    total = np.zeros_like(gap)
    for mine, other in zip(ours, theirs, strict=True):
        np.subtract(mine[:, None], other[None, :], out=gap)
        np.abs(gap, out=gap)
        np.minimum(gap, 1, out=gap)
        total += gap
    return total


def _smallest(total: Floats32, k: int) -> tuple[Floats32, Rows]:
    index = np.argpartition(total, k - 1, axis=1)[:, :k] if k > 1 else total.argmin(axis=1)[:, None]
    distance = np.take_along_axis(total, index, axis=1)
    order = np.argsort(distance, axis=1, kind="stable")
    return np.take_along_axis(distance, order, axis=1), np.take_along_axis(index, order, axis=1)


def scaled(columns: tuple[Column, ...], table: Table) -> list[Floats32]:
    """Each column as numbers whose difference, cut at 1, is its distance, shape (rows,); what `around` takes."""
    return [_scale(column, codes) for column, codes in zip(columns, table, strict=True)]


def _scale(column: Column, codes: Codes) -> Floats32:
    """Numbers whose difference, cut at 1, is the column's distance: a grid from 0 to 1, all else whole numbers."""
    if not isinstance(column, Grid):
        return codes.astype(np.float32)
    top = max(1, column.units - 1)
    special = codes - size(column) + 2  # missing is 2, not allowed is 3: at least 1 from each other and from the grid
    return np.where(codes >= size(column), special, codes / top).astype(np.float32)


def _radius(known: list[Floats32], made: list[Floats32]) -> float:
    """How far the closest synthetic row is from a reference row, the median.

    Hilprecht's is the median over the asked rows; here no asked row moves another's score.
    """
    return float(np.median(around([values[:PILOT] for values in known], made, k=1).distance))


# -------------------------------------------------------------------------------------------------------------- attacks


def _log_ratio(above: NDArray[np.floating], below: NDArray[np.floating], *, floor: float) -> Floats:
    ratio: Floats = np.log(above.astype(np.float64) + floor) - np.log(below.astype(np.float64) + floor)
    return ratio


def _logan(asked: list[Floats32], made: list[Floats32], known: list[Floats32], *, times: Floats32, seed: int) -> Floats:
    """Share of trees that take a row for synthetic; trees are grown to the end and see every row, so that they know a
    copy when they meet it. Both classes weigh the same.
    """
    from sklearn.ensemble import ExtraTreesClassifier

    rows = np.concatenate([np.column_stack(made), np.column_stack(known)])
    labels = np.repeat([1, 0], [len(made[0]), len(known[0])])
    weights = np.concatenate([times / times.sum(), np.full(len(known[0]), 1 / len(known[0]))])
    trees = ExtraTreesClassifier(TREES, random_state=seed, n_jobs=1).fit(rows, labels, sample_weight=weights)
    odds: Floats = trees.predict_proba(np.column_stack(asked))[:, 1]
    return odds


def _gen_lra(near: Around, expected: Around, times: Floats32) -> Floats:
    """Log-likelihood of the closest synthetic rows under reference and asked row together, less under reference alone.

    Up to what all rows share. `expected` is what lies around every synthetic row in the reference.
    """
    index = near.index[:, :NEIGHBOURS]
    own = np.exp(near.distance[:, :NEIGHBOURS] / -expected.bandwidth[index])
    gain: Floats = (np.log1p(own / (expected.mass[index] + _TINY)) * times[index]).sum(axis=1)
    return gain


def _edits(material: Material, near: Around) -> Floats:
    """Edits between the digits of each asked row and its closest synthetic rows, summed over columns, shape (n, k).

    Only rows that are close by Gower's distance are compared: all pairs would take a hundred times as long.
    """
    total = np.zeros(near.index.shape)
    for column, asked, made in zip(material.columns, material.asked, material.synthetic, strict=True):
        total += digit_distance(column, asked, made[near.index])
    return total


def rarity(columns: tuple[Column, ...], asked: Table, known: Table) -> Floats:
    """How rare a row's values are among known rows: minus the sum of log-shares over columns, shape (n,).

    Args:
      columns: what the codes stand for.
      asked: codes of each column, shape (n,).
      known: likewise, shape (m,); m >= 1.
    """
    rare = np.zeros(len(asked[0]))
    for column, ours, theirs in zip(columns, asked, known, strict=True):
        cell, seen = (bins(column, codes) for codes in (ours, theirs))
        counts = np.bincount(seen, minlength=int(max(seen.max(), cell.max())) + 1) + 1
        rare -= np.log(counts[cell] / counts.sum())
    return rare


def bins(column: Column, codes: Codes) -> Codes:
    """A value's bin: listed values their own, numbers one of BINS; missing and not allowed after these."""
    values = size(column)
    if not isinstance(column, Grid):
        return codes
    return np.where(codes >= values, codes - values + BINS, codes * BINS // values)
