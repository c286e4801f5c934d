"""What the section on attacks shows: places in its drawings, and its records in the order they are read.

Privacy: looks at the dict only; what an edition may show was decided when that was built.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tabveil.records import most_recognised
from tabveil.report._text import number, percent, shortened, visible, width

Drawing = dict[str, Any]
Entry = Mapping[str, Any]

LABELS, WIDTH, PITCH = 470, 1060, 22
"""Room for names, width and height of a row of the pictures that have one row for each record."""

LETTERS = 76
"""Letters of a name that have room."""

_ASIDE = re.compile(r" \([^()]*\)")
"""What a name says in brackets: the table has it, a picture has no room for it."""

SQUARE, DECADES = 200.0, 3
"""Size of a ROC picture, and how many powers of ten below 1 its axes begin."""

THREE_QUESTIONS = "wp29"
"""The profile whose requirements are shown as cards."""

MOST_ROWS = 1e15
"""More rows than this no table has; larger numbers are not drawn."""

COUNTED = ("k-anonymity", "k-map")
"""Measurements whose number is one of rows that look alike: the picture shows these."""


def beyond(finding: Entry) -> bool:
    """Whether an attack did better than its baseline by more than chance."""
    return _figure(finding["interval"][0]) > _figure(finding["baseline"])


def claimed(finding: Entry) -> bool:
    """Whether the baseline is what is claimed, and not what guessing gets."""
    return finding.get("baseline_of") == "claim"


def claims(findings: Sequence[Entry]) -> list[tuple[Entry, str]]:
    """Attacks on what is claimed, which no picture of shares beside guessing has room for, each with its outcome."""
    return [(f, _outcome(f)) for f in findings if claimed(f)]


def _outcome(finding: Entry) -> str:
    if beyond(finding):
        return "contradicted"
    return "not contradicted" if _figure(finding["ceiling"]) > _figure(finding["baseline"]) else "not answered"


def groups(entries: Sequence[Entry], key: str) -> dict[str, list[Entry]]:
    """Records by the value of `key`, in order."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        found.setdefault(entry[key], []).append(entry)
    return found


def about(findings: Sequence[Entry]) -> list[str]:
    """What is said of an auditor's attacks beside their numbers: threat models, targets and cost, each once."""
    said = [f.get("threat_model", "") for f in findings]
    costs = sorted({f.get("cost", "") for f in findings} - {""})
    seeds = sorted({f["seed"] for f in findings if f.get("seed") is not None})
    effort = [f"Cost: {'; '.join(costs)}."] if costs else []
    repeated = [f"Random state: {', '.join(map(str, seeds))}."] if seeds else []
    return [s for s in (*dict.fromkeys(said), " ".join([*effort, *repeated])) if s]


# ------------------------------------------------------------------------------------------------------------ intervals


def intervals(findings: Sequence[Entry]) -> Drawing | None:
    """Each attack's interval from 0 to 1, beside baseline, control and ceiling; None where there is none to draw.

    Baselines are guessing: what is compared with a claim is on another scale.
    """
    shown = [f for f in findings if _within(f)]
    rows = [{**_bar(f), "y": PITCH * at + 12} for at, f in enumerate(shown)]
    height = PITCH * len(rows)
    ticks = [{"x": _across(t), "text": f"{t:g}"} for t in (0.0, 0.25, 0.5, 0.75, 1.0)]
    return {"rows": rows, "height": height, "ticks": ticks, "left": LABELS, "width": WIDTH} if rows else None


def _within(finding: Entry) -> bool:
    if claimed(finding):
        return False
    numbers = (finding["value"], *finding["interval"], finding["baseline"])
    return len(finding["interval"]) == 2 and all(0 <= _figure(n) <= 1 for n in numbers)


def _bar(finding: Entry) -> Drawing:
    low, high = finding["interval"]
    told = (
        f"{finding['name']}: {number(finding['value'])}, interval {number(low)} to {number(high)}; baseline "
        f"{number(finding['baseline'])}, control {number(finding['control'])}, ceiling {number(finding['ceiling'])}"
    )
    places = {name: _across(finding[name]) for name in ("value", "baseline", "control", "ceiling")}
    ends = {"low": _across(low), "high": _across(high)}
    label = _ends(f"{finding['auditor']}: {_ASIDE.sub('', finding['name'])}")
    return {**places, **ends, "label": label, "text": told, "beyond": beyond(finding)}


def _ends(text: str) -> str:
    """Both ends of a long name: what tells attacks of one auditor apart often stands last."""
    return text if width(text) <= LETTERS else f"{shortened(text, LETTERS - 34)}{text[-34:]}"


def _across(share: Any) -> float:
    return round(LABELS + (WIDTH - LABELS - 10) * min(max(_figure(share), 0.0), 1.0), 1)


# ----------------------------------------------------------------------------------------------------------- ROC curves


def curves(findings: Sequence[Entry], promise: Entry) -> list[Drawing]:
    """One picture for each attack with a ROC curve, on logarithmic axes, beside the line no attack gets above."""
    return [
        {
            "path": _path(_resolved(f)),
            "bound": _path(_bound(promise)) if promise["private"] else "",
            "title": f"{f['auditor']}: {f['name']}",
            "caption": f"{f['auditor']}: {f.get('targets') or f['name']}",
            "text": _told(f),
        }
        for f in findings
        if f.get("false_alarms")
    ]


TICKS = [
    {"at": round(SQUARE * (DECADES - d) / DECADES, 1), "text": f"{100 / 10**d:g} %"} for d in range(DECADES, -1, -1)
]
"""The powers of ten on either axis."""


def _path(points: Sequence[tuple[Any, Any]]) -> str:
    """A line through (false alarms, recognised) on logarithmic axes, origin top left."""
    places = [(_along(x), SQUARE - _along(y)) for x, y in points]
    return "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in dict.fromkeys(places))


def _resolved(finding: Entry) -> list[tuple[float, float]]:
    """The curve from the lowest share of false alarms that so few others can show; what lies left of it is unknown."""
    points = [(_figure(x), _figure(y)) for x, y in zip(finding["false_alarms"], finding["recognised"], strict=True)]
    least = min((x for x, _ in points if x > 0), default=1.0)
    return [(max(x, least), y) for x, y in points]


def _along(share: Any) -> float:
    least = 10.0**-DECADES
    return SQUARE * (math.log10(min(max(_figure(share), least), 1.0)) / DECADES + 1)


def _bound(promise: Entry) -> list[tuple[float, float]]:
    epsilon, delta = (float(promise[name]) for name in ("epsilon", "delta"))
    alarms = [10 ** (-DECADES * (1 - step / 60)) for step in range(61)]
    return [(a, most_recognised(epsilon, delta, a)) for a in alarms]


def _told(finding: Entry) -> str:
    pairs = zip(finding["false_alarms"], finding["recognised"], strict=True)
    below = [p for p in pairs if p[0] <= 0.01]
    at = f"; at 1 % false alarms {number(below[-1][1])} of members are recognised" if below else ""
    return f"ROC curve of {finding['name']}: area {number(finding['value'])}{at}"


# -------------------------------------------------------------------------------------------------------------- classes


def classes(measurements: Sequence[Entry], judgements: Sequence[Entry]) -> Drawing | None:
    """How many rows look alike at least, on a logarithmic axis, beside the thresholds that profiles ask for."""
    shown = [m for m in measurements if m["name"] in COUNTED and 1 <= _figure(m["value"]) <= MOST_ROWS]
    asked = _thresholds(judgements)
    if not shown:
        return None
    most = max([10.0, *(_figure(m["value"]) for m in shown), *asked])
    powers = math.ceil(math.log10(most) + 1e-9)

    def x(value: float) -> float:
        return round(LABELS + (WIDTH - LABELS - 30) * math.log10(value) / powers, 1)

    rows = [
        {"y": PITCH * at + 12, "x": x(_figure(m["value"])), "label": _ends(_counted(m)), "text": _whole(m)}
        for at, m in enumerate(shown)
    ]
    ticks = [{"x": x(10.0**p), "text": f"{10**p:,}"} for p in range(powers + 1)]
    marks = [{"x": x(value), "text": f"{name}: {number(value)}"} for value, name in sorted(asked.items())]
    return {"rows": rows, "height": PITCH * len(rows), "ticks": ticks, "marks": marks, "left": LABELS, "width": WIDTH}


def _thresholds(judgements: Iterable[Entry]) -> dict[float, str]:
    """How many rows profiles ask for, each number once, with the profiles' names."""
    found: dict[float, list[str]] = {}
    for judgement in judgements:
        threshold = judgement.get("threshold")
        if judgement.get("auditor") == "anonymity" and threshold is not None and 2 <= _figure(threshold) <= MOST_ROWS:
            found.setdefault(_figure(threshold), []).append(judgement["profile"])
    return {value: ", ".join(dict.fromkeys(names)) for value, names in found.items()}


def _counted(measurement: Entry) -> str:
    return visible(f"{measurement['name']}, {measurement['table']}: {', '.join(measurement['columns'])}")


def _whole(measurement: Entry) -> str:
    return f"{_counted(measurement)}: {number(measurement['value'])}"


SIZES = (
    ("unique_rows", "alike with no other"),
    ("rows_below_5", "alike with 1 to 3"),
    ("rows_below_11", "with 4 to 9"),
)
"""How many rows have few that look alike: details of k-anonymity, each including the ones before, and what they add."""


def exposed(measurements: Sequence[Entry]) -> Drawing | None:
    """The share of rows with few that look alike, in parts; None where there is none to draw."""
    shown = [m for m in measurements if m["name"] == "k-anonymity" and _is_counted(m.get("details", {}))]
    most = max((_share(m, SIZES[-1][0]) for m in shown), default=0.0)
    if most <= 0:
        return None
    room = WIDTH - LABELS - 150
    rows = [{**_parts(m, room / most), "y": PITCH * at + 12} for at, m in enumerate(shown)]
    return {"rows": rows, "height": PITCH * len(rows), "left": LABELS, "width": WIDTH}


def _is_counted(details: Mapping[str, Any]) -> bool:
    """Whether there are rows, and no part of them is more than the whole."""
    rows = _figure(details.get("rows", 0.0))
    return 1 <= rows <= MOST_ROWS and all(0 <= _figure(details.get(name, 0.0)) <= rows for name, _ in SIZES)


def _share(measurement: Entry, name: str) -> float:
    details = measurement["details"]
    return _figure(details.get(name, 0.0)) / _figure(details["rows"])


def _parts(measurement: Entry, scale: float) -> Drawing:
    ends = [round(scale * _share(measurement, name), 1) for name, _ in SIZES]
    told = [f"{words}: {percent(_share(measurement, name))}" for name, words in SIZES]
    return {
        "label": _ends(_counted(measurement)),
        "parts": [{"x": LABELS + a, "width": round(b - a, 1)} for a, b in zip([0.0, *ends], ends, strict=False)],
        "end": LABELS + ends[-1] + 8,
        "value": f"{percent(_share(measurement, SIZES[-1][0]))}, k = {number(measurement['value'])}",
        "text": f"{_whole(measurement)}; of its rows (each share with those before) {', '.join(told)}",
    }


def _figure(value: Any) -> float:
    """A figure of the dict, which writes infinities as words."""
    return float(value)
