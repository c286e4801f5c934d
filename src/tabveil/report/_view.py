"""What both renderers ask of the dict: words for its codes, columns for its tables.

Privacy: looks at the dict only.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from tabveil.records import most_recognised
from tabveil.report import _draw
from tabveil.report._text import brief, number, percent, rounded_up

STAMPS = {"NOT PRIVATE", "NOT A RELEASE", "INTERNAL"}

REFERENCES = {
    "real": "real rows (train)",
    "holdout": "real rows (holdout)",
    "bootstrap": "bootstrap",
    "independent": "independent",
}
"""Heads of a utility table's columns, best first."""

_SHORT = {"real": "train", "holdout": "holdout"}

EXPLAINED = {
    "real": "as many rows of the training table in place of the synthetic ones",
    "holdout": "as many real rows that no fit has seen in place of the synthetic ones: how far two real samples differ",
    "bootstrap": "training rows drawn with replacement: what a perfect sampler would get",
    "independent": "training rows with every column shuffled for itself: no model of how columns depend on each other",
}

Document = Mapping[str, Any]


def title_case(name: str) -> str:
    """A plugin's name as a heading: "ml_utility" becomes "Ml utility"."""
    words = name.replace("_", " ").strip()
    special = {"ml utility": "Machine-learning utility", "mia marginal": "Membership by marginals"}
    return special.get(words, words[:1].upper() + words[1:])


def metrics(document: Document) -> dict[str, list[Mapping[str, Any]]]:
    """Scores by metric, in order."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for score in document["utility"]:
        found.setdefault(score["metric"], []).append(score)
    return found


def references(scores: Sequence[Mapping[str, Any]]) -> list[str]:
    """The references that any of the scores has, in the order of REFERENCES, others after them."""
    given = {name for s in scores for name in s["references"]}
    return [n for n in REFERENCES if n in given] + sorted(given - set(REFERENCES))


class Column(NamedTuple):
    """A column of a utility table: its head, and the references it shows with a word for each."""

    head: str
    shows: dict[str, str]

    def of(self, score: Mapping[str, Any]) -> dict[str, Any] | None:
        """The first reference of the score that belongs here, and the word for it."""
        found = next((n for n in self.shows if n in score["references"]), None)
        return None if found is None else {"value": score["references"][found], "which": self.shows[found]}


def columns(scores: Sequence[Mapping[str, Any]]) -> list[Column]:
    """The reference columns of a utility table: train and holdout, which hardly any score has both of, share one."""
    given = references(scores)
    apart = any({"real", "holdout"} <= set(s["references"]) for s in scores)
    real = [n for n in ("real", "holdout") if n in given]
    own = [Column(REFERENCES.get(n, n), {n: ""}) for n in given if apart or n not in real]
    return own if apart or not real else [Column("real rows", {n: _SHORT[n] for n in real}), *own]


def worst(scores: Sequence[Mapping[str, Any]]) -> list[tuple[str, list[tuple[str, float]]]]:
    """For each score that says so the places where it is worst."""
    found = [(s["name"], [(k[7:], v) for k, v in s["details"].items() if k.startswith("worst: ")]) for s in scores]
    return [(name, places) for name, places in found if places]


def further(score: Mapping[str, Any]) -> list[tuple[str, float]]:
    """The other details of a score."""
    return [(k, v) for k, v in score["details"].items() if not k.startswith("worst: ")]


def any_series(document: Document, name: str) -> bool:
    """Whether any chart has the series `name`."""
    return any(chart[name] for chart in document["charts"])


def bound(document: Document) -> str:
    """The line no attack gets above, as SVG path data in a square of 200."""
    epsilon, delta = (float(document["promise"][name]) for name in ("epsilon", "delta"))
    bend = (1 - delta) / (1 + math.exp(min(epsilon, 700)))
    return _draw.bound([(a, most_recognised(epsilon, delta, a)) for a in sorted({0.0, bend, 1.0})])


def hash_short(value: str) -> str:
    """The beginning of a hash; the whole of it stands in the page as a title."""
    return f"{value[:12]}…" if len(value) > 16 else value


FILTERS: dict[str, Callable[..., str]] = {
    "brief": brief,
    "number": number,
    "percent": percent,
    "up": rounded_up,
    "short": hash_short,
    "heading": title_case,
}
