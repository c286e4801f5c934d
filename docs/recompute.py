"""Recompute an exported ledger account with dp-accounting alone: python recompute.py account.json

Checks that the entries form an unbroken chain of SHA-256 hashes, that the committed charges are the listed events, and
that they cost the stated epsilon to 1e-9 (plus 1e-16 / delta, which double-precision convolution leaves open on another
machine). Prints what it found; exit code 0 if all agrees, 1 if not. It shares no line with the SDK that wrote the
export: read it before you trust it. docs/accounting.md explains the events.

Privacy: reads one JSON file that holds events, labels and times, no table.
"""

import collections
import functools
import hashlib
import json
import math
import sys
from fractions import Fraction

import dp_accounting as dp
from dp_accounting import pld, rdp

PLD = pld.privacy_loss_distribution


def leaves(event, times=1):
    """Pairs (elementary event, how often) of a tree of events."""
    if event["type"] == "SelfComposed":
        return leaves(event["event"], times * event["times"])
    if event["type"] == "Composed":
        return [pair for inner in event["events"] for pair in leaves(inner, times)]
    return [] if event["type"] == "NoOp" else [(event, times)]


def up(fraction):
    """The nearest double that is not smaller."""
    return float(fraction) if float(fraction) >= fraction else math.nextafter(float(fraction), math.inf)


def one_noise(pairs):
    """Noise of the one Gaussian that stands for many, by inverse squares, rounded down."""
    if len(pairs) == 1 and pairs[0][1] == 1:
        return pairs[0][0]["noise_multiplier"]
    total = sum(times / Fraction(event["noise_multiplier"]) ** 2 for event, times in pairs)
    return 1 / math.sqrt(up(total)) * (1 - 1e-15)


def pure_epsilon(event):
    """Pure epsilon of an event that has one, exact."""
    kind, k = event["type"], event.get("sensitivity", 1)
    if kind == "Laplace":
        return 1 / Fraction(event["noise_multiplier"])
    if kind == "DiscreteLaplace":
        return k / Fraction(event["scale"])
    return Fraction(k * Fraction(event["noise_parameter"] if kind == "LibraryDiscreteLaplace" else event["epsilon"]))


def library_event(event):
    """The event for dp-accounting's Rényi accountant."""
    kind = event["type"]
    if kind == "Gaussian":
        return dp.GaussianDpEvent(event["noise_multiplier"])
    if kind == "DiscreteGaussian":  # Canonne, Kamath, Steinke 2020: as continuous noise, in any number of coordinates
        return dp.GaussianDpEvent(event["sigma"] / event["sensitivity"])
    if kind == "PoissonSampled":
        noise = one_noise(merged(leaves(event["event"])))
        return dp.PoissonSampledDpEvent(event["sampling_probability"], dp.GaussianDpEvent(noise))
    if kind == "Laplace":
        return dp.LaplaceDpEvent(event["noise_multiplier"])
    if kind == "ZCDP":
        return dp.ZCDpEvent(event["rho"], event["xi"])
    share = 8 if kind == "ExponentialMechanism" else 2  # an exponential mechanism's loss has range epsilon
    return dp.ZCDpEvent(up(pure_epsilon(event) ** 2 / share))


def distribution(event, interval):
    """Privacy loss distribution of one event."""
    kind, grid = event["type"], {"value_discretization_interval": interval, "use_connect_dots": True}
    if kind == "Gaussian":
        return PLD.from_gaussian_mechanism(event["noise_multiplier"], **grid)
    if kind == "DiscreteGaussian":
        return PLD.from_discrete_gaussian_mechanism(event["sigma"], **grid)
    if kind == "PoissonSampled":
        noise = one_noise(merged(leaves(event["event"])))
        return PLD.from_gaussian_mechanism(noise, sampling_prob=event["sampling_probability"], **grid)
    if kind == "Laplace":
        return PLD.from_laplace_mechanism(event["noise_multiplier"], **grid)
    if kind == "TruncatedSubsampledGaussian":
        sizes = {k: v for k, v in event.items() if k != "type"}
        return PLD.from_truncated_subsampled_gaussian_mechanism(**sizes, value_discretization_interval=interval)
    if kind == "ExponentialMechanism":
        return bounded_range(event["epsilon"], interval)
    return PLD.from_discrete_laplace_mechanism(up(pure_epsilon(event)), **grid)  # dominates all pure DP


def bounded_range(epsilon, interval):
    """Dominates mechanisms whose loss has range epsilon: delta(e) = (1-exp((e-epsilon)/2))^2 / (1-exp(-epsilon))."""
    top = math.ceil(epsilon / interval)
    deltas = []
    for loss in (n * interval for n in range(-top, top + 1)):
        inside = math.expm1((loss - epsilon) / 2) ** 2 / -math.expm1(-epsilon)
        deltas.append(0.0 if loss >= epsilon else -math.expm1(loss) if loss <= -epsilon else inside)
    make = pld.pld_pmf.create_pmf_pessimistic_connect_dots_fixed_gap
    return PLD.PrivacyLossDistribution(make(interval, -top, top, deltas))


def merged(pairs):
    """Equal events together, in the order of their text: rounding then repeats what the ledger computed."""
    counts = collections.Counter()
    for event, times in pairs:
        plain = {k: v for k, v in event.items() if k not in ("label", "count")}
        counts[json.dumps(plain, sort_keys=True)] += times
    return [(json.loads(text), counts[text]) for text in sorted(counts)]


def failing(events):
    """Sum of the deltas of events that go wrong with some probability, and otherwise give nothing away."""
    pairs = [pair for event in events for pair in leaves(event, event["count"])]
    return sum((times * Fraction(event["delta"]) for event, times in pairs if event["type"] == "Delta"), Fraction(0))


def epsilon_of(events, spent):
    """Epsilon by the accountant that `spent` names, at its delta: what `events` with a delta of their own leave of
    it.
    """
    pairs = merged(pair for event in events for pair in leaves(event, event["count"]))
    pairs = [(event, times) for event, times in pairs if event["type"] != "Delta"]
    if not pairs:
        return 0.0
    if spent["accountant"] == "basic":
        return float(sum(times * pure_epsilon(event) for event, times in pairs))
    if spent["accountant"] == "rdp":
        accountant = rdp.RdpAccountant([spent["order"]])
        for event, times in pairs:
            accountant.compose(library_event(event), times)
        return accountant.get_epsilon(spent["delta"]) + spent["rounding"]
    gaussians = [pair for pair in pairs if pair[0]["type"] == "Gaussian"]
    parts = [pair for pair in pairs if pair[0]["type"] != "Gaussian"]
    if gaussians:
        parts.insert(0, ({"type": "Gaussian", "noise_multiplier": one_noise(gaussians)}, 1))
    plds = [(distribution(event, spent["interval"]), times) for event, times in parts]
    composed = functools.reduce(lambda a, b: a.compose(b), [p.self_compose(n) if n > 1 else p for p, n in plds])
    return composed.get_epsilon_for_delta(spent["delta"]) + spent["rounding"]


def chain(entries):
    """(last hash, committed spends); raises ValueError where the chain is broken."""
    last, reserved, committed, unused = "0" * 64, {}, [], {}
    for number, entry in enumerate(entries):
        last = hashlib.sha256((last + entry["payload"]).encode()).hexdigest()
        data = json.loads(entry["payload"])
        if last != entry["hash"] or data["seq"] != number:
            raise ValueError(f"the chain is broken at entry {number}")
        if data["kind"] == "reserve":
            reserved[number] = data["spends"]
        elif data["kind"] == "commit":
            paid = reserved.pop(data["ref"])
            committed += paid
            unused |= {(data["ref"], s["label"]): s["count"] for s in paid}
        elif data["kind"] == "claim":  # a charge that is worked off in parts: no part may be used twice
            unused[data["ref"], data["label"]] -= data["count"]
            if data["count"] < 1 or unused[data["ref"], data["label"]] < 0:
                raise ValueError(f"entry {number} uses more than was paid for")
    return last, committed


def main(path):
    """Check one export; returns the exit code."""
    with open(path, encoding="utf-8") as file:
        export = json.load(file)
    head, committed = chain(export["entries"])
    stated = float(export["spent"]["epsilon"])
    found = epsilon_of(committed, export["spent"]) if export["cap"] else math.inf
    tolerance = 1e-9 + (1e-16 / export["spent"]["delta"] if export["spent"]["accountant"] == "pld" else 0.0)
    agrees = {
        "chain": head == export["head"],
        "events": committed == export["events"],
        "epsilon": found == stated or abs(found - stated) <= tolerance,
        "delta": export["cap"] is None
        or found in (0.0, math.inf)
        or failing(committed) + Fraction(export["spent"]["delta"]) <= Fraction(export["cap"]["delta"]),
        "cap": export["cap"] is None or stated <= export["cap"]["epsilon"] * (1 + 1e-9),
    }
    found_all = ", ".join(f"{what} {'agrees' if good else 'DOES NOT AGREE'}" for what, good in agrees.items())
    sys.stdout.write(
        f"dataset {export['dataset']}: {len(export['entries'])} entries, head {head}\n"
        f"recomputed epsilon {found:.12g}, stated {stated:.12g}\n{found_all}\n"
    )
    return 0 if all(agrees.values()) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
