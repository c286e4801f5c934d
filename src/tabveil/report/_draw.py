"""Where things go in a drawing: coordinates and short texts for the SVG templates, nothing that is markup.

Privacy: draws the shares it is given; what an edition may show was decided when the dict was built.
"""

from __future__ import annotations

import datetime as dt
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from tabveil.report._text import compact, number, percent, shortened, visible

Drawing = dict[str, Any]

NAMES = {"synthetic": "synthetic", "real": "train", "holdout": "holdout"}
"""Series of a chart, in the words of its legend."""

WIDTH = 340
_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 40, 8, 8, 22, 150
_LABELS, _VALUES = 132, 46
_EPOCH = dt.datetime(1970, 1, 1)


def chart(data: Mapping[str, Any]) -> Drawing:
    """A drawing of one column: steps for numbers and dates, paired bars for categories."""
    made = _steps(data) if data["edges"] else _bars(data)
    return {**made, "column": data["column"], "kind": data["kind"], "caption": _caption(data), "width": WIDTH}


def series(data: Mapping[str, Any]) -> dict[str, Sequence[float]]:
    """The series that a chart has, synthetic first."""
    return {name: data[name] for name in NAMES if data[name] and len(data[name]) == len(data["labels"])}


def distance(data: Mapping[str, Any], name: str) -> float | None:
    """Total variation distance between the synthetic bars and those of `name`; what is in no bar counts as one more."""
    given = series(data)
    if name not in given or "synthetic" not in given:
        return None
    pairs = list(zip(given["synthetic"], given[name], strict=True))
    rest = abs(sum(a for a, _ in pairs) - sum(b for _, b in pairs))
    return (sum(abs(a - b) for a, b in pairs) + rest) / 2


def _caption(data: Mapping[str, Any]) -> str:
    """What the drawing says, in words, for those who do not see it."""
    given = series(data)
    parts = [
        f"{NAMES[name]} {percent(1 - sum(shares))} missing" for name, shares in given.items() if _lacks(data, shares)
    ]
    away = distance(data, "real")
    if away is not None:
        parts.insert(0, f"distance to train {number(away)}")
    return "; ".join(parts)


def _lacks(data: Mapping[str, Any], shares: Sequence[float]) -> bool:
    return bool(data["edges"]) and sum(shares) < 0.9995


def _told(data: Mapping[str, Any], at: int) -> str:
    """One bin in words: its label and the share of each series."""
    shares = ", ".join(f"{NAMES[name]} {percent(values[at])}" for name, values in series(data).items())
    return f"{visible(data['labels'][at])}: {shares}"


def _summary(data: Mapping[str, Any]) -> str:
    """The fullest bin and, where real rows are shown, the one that is most off."""
    given = series(data)
    own = given.get("synthetic", ())
    if not own or not any(own):
        return "No rows."
    fullest = max(range(len(own)), key=lambda i: own[i])
    text = f"Fullest: {_told(data, fullest)}."
    if "real" in given:
        off = max(range(len(own)), key=lambda i: abs(own[i] - given["real"][i]))
        text += f" Largest difference: {_told(data, off)}."
    return text


# ---------------------------------------------------------------------------------------------------- numbers and dates


def _steps(data: Mapping[str, Any]) -> Drawing:
    edges, given = data["edges"], series(data)
    even = _even(edges)
    places = edges if even else list(range(len(edges)))
    right, bottom = WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    top_share = _ceiling(max((max(s) for s in given.values()), default=1.0))

    def x(place: float) -> float:
        return _LEFT + (right - _LEFT) * (place - places[0]) / (places[-1] - places[0])

    def y(share: float) -> float:
        return bottom - (bottom - _TOP) * min(share / top_share, 1.0)

    spots = [x(p) for p in places]
    return {
        "shape": "steps",
        "height": _HEIGHT,
        "summary": _summary(data),
        "even": even,
        "frame": {"left": _LEFT, "right": right, "top": _TOP, "bottom": bottom},
        "paths": {name: _path(spots, [y(v) for v in values], bottom) for name, values in given.items()},
        "levels": [{"y": round(y(v), 1), "text": _axis_percent(v)} for v in (0.0, top_share / 2, top_share)],
        "ticks": [{"x": round(x(p), 1), "text": text} for p, text in _ticks(data, even=even)],
        "bins": [
            {"x": round(spots[i], 1), "width": round(spots[i + 1] - spots[i], 1), "text": _told(data, i)}
            for i in range(len(data["labels"]))
        ],
    }


def _even(edges: Sequence[float]) -> bool:
    gaps = [b - a for a, b in itertools.pairwise(edges)]
    return max(gaps) - min(gaps) <= 1e-6 * (edges[-1] - edges[0])


def _path(spots: Sequence[float], heights: Sequence[float], bottom: float) -> str:
    steps = " ".join(f"V{h:.1f}H{spots[i + 1]:.1f}" for i, h in enumerate(heights))
    return f"M{spots[0]:.1f} {bottom:.1f}{steps}V{bottom:.1f}"


def _ceiling(share: float) -> float:
    """The next round share from `share` up: 1, 2, 4, 5, 6, 8 times a power of ten, at most 1."""
    if share < 1e-9:
        return 1.0
    scale = 10.0 ** math.floor(math.log10(share))
    return min(1.0, next(m * scale for m in (1, 2, 4, 5, 6, 8, 10) if m * scale >= share * 0.9999))


def _axis_percent(share: float) -> str:
    return f"{100 * share:.3g} %"


def _ticks(data: Mapping[str, Any], *, even: bool) -> list[tuple[float, str]]:
    edges = data["edges"]
    if not even:
        count = len(edges) - 1
        return [(i + 0.5, shortened(_start(data, i), 10)) for i in sorted({0, count // 3, 2 * count // 3, count - 1})]
    if data["kind"] in ("date", "datetime"):
        return [(place, _moment(place, edges[-1] - edges[0])) for place in _thirds(edges)]
    return [(v, compact(v)) for v in _round_values(edges[0], edges[-1])]


def _start(data: Mapping[str, Any], at: int) -> str:
    text = str(data["labels"][at]).partition(" to ")[0]
    if data["kind"] in ("date", "datetime"):
        return text
    try:
        return compact(float(text.replace(",", "")))
    except ValueError:
        return text


def _thirds(edges: Sequence[float]) -> list[float]:
    low, high = edges[0], edges[-1]
    return [low + (high - low) * at for at in (0.06, 0.36, 0.66, 0.94)]


def _moment(seconds: float, span: float) -> str:
    try:
        moment = _EPOCH + dt.timedelta(seconds=seconds)
    except OverflowError:
        return ""
    day = 86_400
    for least, shown in ((1000 * day, "%Y"), (90 * day, "%Y-%m"), (3 * day, "%m-%d")):
        if span >= least:
            return moment.strftime(shown)
    return moment.strftime("%H:%M")


def _round_values(low: float, high: float) -> list[float]:
    """Three to six round numbers between `low` and `high`."""
    raw = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(raw))
    step = next(m * scale for m in (1, 2, 2.5, 5, 10) if m * scale >= raw * 0.9999)
    first = math.ceil(low / step)
    return [round(k * step, 12) for k in range(first, math.floor(high / step) + 1)]


# ----------------------------------------------------------------------------------------------------------- categories


def _bars(data: Mapping[str, Any]) -> Drawing:
    given = series(data)
    pitch = 19 if len(given) > 1 else 16
    longest = max((max(s) for s in given.values()), default=0.0) or 1.0
    room = WIDTH - _LABELS - _VALUES - _RIGHT

    def length(name: str, at: int) -> float:
        return round(room * given[name][at] / longest, 1)

    rows = [
        {
            "y": 4 + at * pitch,
            "label": shortened(str(label), 18),
            "text": _told(data, at),
            "value": percent(given["synthetic"][at]) if "synthetic" in given else "",
            "lengths": {name: length(name, at) for name in given},
        }
        for at, label in enumerate(data["labels"])
    ]
    height = 8 + pitch * len(rows)
    return {
        "shape": "bars",
        "height": height,
        "summary": _summary(data),
        "rows": rows,
        "start": _LABELS,
        "pitch": pitch,
    }


# --------------------------------------------------------------------------------------------------------------- scores


def scale(score: Mapping[str, Any]) -> Drawing | None:
    """Where a score and its references lie on one axis, 0 (worst shown) to 1 (best shown); None if that is unknown."""
    values = {"synthetic": score["value"], **score["references"]}
    known = {k: float(v) for k, v in values.items() if isinstance(v, int | float) and math.isfinite(v)}
    if "synthetic" not in known or len(known) < 2:
        return None
    low, high = min(known.values()), max(known.values())
    if score["goal"] == "min" and isinstance(score["low"], int | float):
        low = min(low, float(score["low"]))
    span = high - low or 1.0
    at = {name: (v - low) / span for name, v in known.items()}
    places = {name: round(1 - a if score["goal"] == "min" else a, 4) for name, a in at.items()}
    order = sorted(places, key=lambda name: -places[name])
    return {"places": places, "text": "from best to worst: " + ", ".join(f"{n} {number(known[n])}" for n in order)}


def bound(points: Sequence[tuple[float, float]], *, size: int = 200) -> str:
    """A line through (false alarms, share found) pairs of 0 to 1 in a square of `size`, origin bottom left."""
    return "M" + "L".join(f"{x * size:.1f} {(1 - y) * size:.1f}" for x, y in points)
