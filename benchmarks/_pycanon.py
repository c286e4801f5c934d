"""pycanon's numbers for many tables: a JSON list on standard input, one on standard output.

Run by the interpreter of pycanon's own environment; needs nothing of tabveil. Each table is a list of rows of four
cells: two quasi-identifiers "a" (text) and "n" (number), and two sensitive columns "ill" (text) and "pay" (number).
"""

from __future__ import annotations

import json
import sys
import warnings
from collections.abc import Callable
from typing import Any

import pandas as pd
from pycanon import anonymity

KNOWN = ["a", "n"]

MEASURES: dict[str, Callable[..., Any]] = {
    "alpha": lambda *given: anonymity.alpha_k_anonymity(*given)[0],
    "l": anonymity.l_diversity,
    "entropy": anonymity.entropy_l_diversity,
    "recursive": lambda *given: anonymity.recursive_c_l_diversity(*given)[0],
    "t": anonymity.t_closeness,
    "delta": anonymity.delta_disclosure,
    "basic": anonymity.basic_beta_likeness,
    "enhanced": anonymity.enhanced_beta_likeness,
}


def told(function: Callable[..., Any], *given: Any) -> float | str:
    """The number, or the name of the error."""
    try:
        return float(function(*given))
    except Exception as error:  # whatever another project raises is a result here
        return type(error).__name__


def main() -> None:
    """Measure every table."""
    warnings.simplefilter("ignore")
    out = []
    for rows in json.load(sys.stdin):
        frame = pd.DataFrame(rows, columns=[*KNOWN, "ill", "pay"])
        numbers = {"k": told(anonymity.k_anonymity, frame, KNOWN)}
        for sensitive in ("ill", "pay"):
            numbers |= {f"{name} {sensitive}": told(f, frame, KNOWN, [sensitive]) for name, f in MEASURES.items()}
        out.append(numbers)
    json.dump(out, sys.stdout)


if __name__ == "__main__":
    main()
