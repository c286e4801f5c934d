"""What a privacy statement means, in words and numbers an auditor can check, and which event used how much of it.

Privacy: computes from the statement alone, which holds nothing but public numbers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tabveil.records import PrivacyStatement, most_recognised
from tabveil.report._text import number, rounded_up

FALSE_ALARMS = 0.01
"""The share of outsiders an attacker is ready to take for members, in the sentence that says what the promise means."""

MAX_GROUPS = 8
"""Parts of the budget that are drawn one by one; the smallest of more share the last."""

_STAMP_REASONS = {
    "NOT PRIVATE": "No privacy is promised for this table: treat it as you treat the rows it was made from.",
    "NOT A RELEASE": "Privacy noise was seeded for a test, so whoever knows the seed can take it away. Do not publish.",
    "INTERNAL": "Holds figures computed from real rows outside the privacy budget. Not for publication.",
}

_RELATIONS = {"add_or_remove_one": "Tables that differ by adding or removing one {unit}"}


def stamps(statement: PrivacyStatement, *, edition: str) -> list[dict[str, str]]:
    """What has to be stamped on the report, the gravest first, each with its reason."""
    words = [w for w in (statement.stamp, "INTERNAL" if edition == "internal" else "") if w]
    return [{"text": w, "why": _STAMP_REASONS.get(w, "No privacy is promised for this table.")} for w in words]


def promise(statement: PrivacyStatement) -> dict[str, Any]:
    """The statement as plain values, with its sentence and what it means."""
    data = statement.to_dict()
    return {
        **{k: data[k] for k in ("epsilon", "delta", "unit", "relation", "accountant", "theorem", "dataset")},
        "relation_in_words": _RELATIONS.get(statement.relation, statement.relation).format(unit=statement.unit),
        "private": statement.private,
        "sentence": statement.sentence(),
        "meaning": _meaning(statement) if statement.private else [],
        "outside": list(data["outside"]),
    }


def _meaning(statement: PrivacyStatement) -> list[str]:
    """The promise in plain words. Every bound in them is rounded up."""
    unit, delta = statement.unit, statement.delta
    factor = rounded_up(math.exp(min(statement.epsilon, 700)), digits=3)
    believed = rounded_up(100 / (1 + math.exp(-min(statement.epsilon, 700))), digits=3)
    found = rounded_up(100 * most_recognised(statement.epsilon, delta, FALSE_ALARMS), digits=3)
    alarms = f"{100 * FALSE_ALARMS:g} %"
    plus = f", plus at most {rounded_up(delta)}" if delta else ""
    aside = " (delta aside)" if delta else ""
    return [
        f"Whatever anybody concludes from what is released: one {unit} being in the table or not makes that "
        f"conclusion at most {factor} times as likely{plus}. This holds for every attacker, whatever else they know.",
        f"An attacker who takes at most {alarms} of outsiders for members of the table recognises at most {found} % "
        f"of its members; blind guessing recognises {alarms}.",
        f"Somebody who thought it as likely as not that one particular {unit} is in the table can be brought to "
        f"believe it with at most {believed} % certainty{aside}.",
        *_about_groups(statement),
        *_about_delta(statement),
    ]


def _about_groups(statement: PrivacyStatement) -> list[str]:
    if statement.unit != "row":
        return []
    return [
        "What is protected is one row. Somebody with k rows in the table is protected k times less: epsilon becomes k "
        "times as large for them, and delta grows too."
    ]


def _about_delta(statement: PrivacyStatement) -> list[str]:
    if not statement.delta:
        return []
    return [
        f"Delta = {rounded_up(statement.delta)} is how far the bound may be missed. It should be far smaller than one "
        "divided by the number of rows."
    ]


# --------------------------------------------------------------------------------------------------------------- budget


def budget(statement: PrivacyStatement) -> dict[str, Any]:
    """The charged events and the share of the budget each of them used.

    Shares are by rho of zero-concentrated differential privacy where every event has one (rho adds up, epsilon does
    not), else by number of events.
    """
    prices = [_rho(e, _times(e)) for e in statement.events]
    priced = bool(prices) and all(p is not None and math.isfinite(p) for p in prices)
    weights = [float(p or 0) for p in prices] if priced else [float(_times(e)) for e in statement.events]
    total = sum(weights)
    events = [
        {"label": str(e.get("label", "")), **_described(e), "share": w / total if total else 0.0}
        for e, w in zip(statement.events, weights, strict=True)
    ]
    return {
        "basis": "rho" if priced else "count",
        "rho": total if priced else None,
        "hand_check": _hand_check(total, statement) if priced else None,
        "groups": _groups(events),
        "events": events,
    }


def _hand_check(rho: float, statement: PrivacyStatement) -> float | None:
    """Epsilon by a formula that fits on a postcard: rho + 2 sqrt(rho ln(1/delta)) (Bun and Steinke 2016, Prop. 1.3)."""
    if not statement.private or not statement.delta:
        return None
    return rho + 2 * math.sqrt(rho * math.log(1 / statement.delta))


def _times(event: Mapping[str, Any]) -> int:
    return int(event.get("count", 1))


def _kind(event: Mapping[str, Any]) -> str:
    return str(event.get("type", "")).removesuffix("DpEvent")


def _rho(event: Mapping[str, Any], times: int) -> float | None:
    """rho of `times` such events, None where it is not known how to tell."""
    kind = _kind(event)
    if kind == "SelfComposed":
        return _rho(event["event"], times * int(event.get("times", event.get("count", 1))))
    if kind == "Composed":
        parts = [_rho(e, times) for e in event["events"]]
        return None if any(p is None for p in parts) else sum(p or 0.0 for p in parts)
    if event.get("xi"):
        return None
    one = float(event["rho"]) if "rho" in event else _one_rho(kind, event)
    return None if one is None else times * one


def _one_rho(kind: str, event: Mapping[str, Any]) -> float | None:
    """Gaussian noise: sensitivity^2 / (2 sigma^2). Pure epsilon: epsilon^2 / 2; exponential mechanism epsilon^2 / 8."""
    step = float(event.get("sensitivity", 1))
    if kind in ("Gaussian", "DiscreteGaussian"):
        return (step / float(event.get("sigma", event.get("noise_multiplier", math.inf)))) ** 2 / 2
    if kind == "ExponentialMechanism":
        return float(event["epsilon"]) ** 2 / 8
    if kind in ("Laplace", "DiscreteLaplace"):
        return (step / float(event.get("scale", event.get("noise_multiplier", math.inf)))) ** 2 / 2
    return 0.0 if kind in ("NoOp", "Delta") else None


_MECHANISMS = {
    "Gaussian": "Gaussian noise",
    "DiscreteGaussian": "discrete Gaussian noise",
    "Laplace": "Laplace noise",
    "DiscreteLaplace": "discrete Laplace noise",
    "LibraryDiscreteLaplace": "discrete Laplace noise",
    "ExponentialMechanism": "exponential mechanism",
    "Delta": "threshold",
    "ZCDP": "zero-concentrated mechanism",
    "PoissonSampled": "on a Poisson sample",
    "NonPrivate": "not private",
}
_SKIPPED = {"type", "label", "count", "times", "event", "events"}


def _described(event: Mapping[str, Any]) -> dict[str, Any]:
    """Mechanism, its parameters in words, and how often it ran."""
    return {"mechanism": _mechanism(event), "parameters": _parameters(event), "count": _times(event)}


def _mechanism(event: Mapping[str, Any]) -> str:
    kind = _kind(event)
    inner = [event["event"]] if "event" in event else list(event.get("events", ()))
    names = list(dict.fromkeys(_mechanism(e) for e in inner))
    own = "" if kind in ("SelfComposed", "Composed") else _MECHANISMS.get(kind, kind or "unknown")
    return " ".join([*(n for n in (", ".join(names),) if n), own]).strip()


def _parameters(event: Mapping[str, Any]) -> str:
    """sigma = 3.5, repeated 100 times: numbers exactly as they are charged."""
    own = [f"{k.replace('_', ' ')} = {_exact(v)}" for k, v in event.items() if k not in _SKIPPED]
    inner = [event["event"]] if "event" in event else list(event.get("events", ()))
    own += [text for text in dict.fromkeys(_parameters(e) for e in inner) if text]
    times = event.get("times", event.get("count", 1) if _kind(event) == "SelfComposed" else 1)
    return ", ".join([*own, *([f"{number(times)} times"] if times != 1 else [])])


def _exact(value: Any) -> str:
    return repr(value) if isinstance(value, int | float) else str(value)


def _groups(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Events whose labels begin alike (up to the first name or number) as one part, in the order of their first one."""
    parts: dict[str, dict[str, Any]] = {}
    for event in events:
        stem = re.split(r"[\"'\d:]", event["label"], maxsplit=1)[0].strip() or "unnamed"
        part = parts.setdefault(stem, {"label": event["label"], "events": 0, "share": 0.0})
        part["label"] = f"{stem} …" if part["events"] else event["label"]
        part["events"] += event["count"]
        part["share"] += event["share"]
    kept = sorted(parts.values(), key=lambda p: -p["share"])[
        : MAX_GROUPS - 1 if len(parts) > MAX_GROUPS else MAX_GROUPS
    ]
    rest = [p for p in parts.values() if not any(p is k for k in kept)]
    shown = [p for p in parts.values() if any(p is k for k in kept)]
    if rest:
        other = {"label": f"{len(rest)} smaller parts", "events": sum(p["events"] for p in rest)}
        shown.append({**other, "share": sum(p["share"] for p in rest)})
    return shown
