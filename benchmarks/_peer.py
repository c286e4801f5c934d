"""One fit of another project's generator: `_peer.py SPEC CSV`, run by the interpreter of that project's environment.

Needs nothing of tabveil: SPEC is the path of a JSON file that holds the table's path, the public bounds and categories,
the budget and which generator. Leaves rows at CSV and prints a line of JSON.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from typing import Any

import pandas as pd


def read(spec: dict[str, Any]) -> pd.DataFrame:
    """The training table: numbers as numbers, the rest as texts."""
    table = pd.read_csv(spec["table"], dtype=str, keep_default_na=False)
    for c in spec["columns"]:
        if c["kind"] in ("integer", "decimal"):
            table[c["name"]] = pd.to_numeric(table[c["name"]])
    return table[[c["name"] for c in spec["columns"]]]


def dpmm(spec: dict[str, Any], table: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """dpmm's pipeline: nine tenths of epsilon for the model, one for PrivTree's bins, which it adds to the model's."""
    from dpmm.pipelines import aim, mst

    domain = {
        c["name"]: {"lower": c["low"], "upper": c["high"]} if "low" in c else {"categories": c["categories"]}
        for c in spec["columns"]
    }
    kind = {"aim": aim.AIMPipeline, "mst": mst.MSTPipeline}[spec["mechanism"]]
    made = kind(
        epsilon=0.9 * spec["epsilon"], delta=spec["delta"], proc_epsilon=0.1 * spec["epsilon"], binner_type="priv-tree"
    )
    start = time.perf_counter()
    made.fit(table, domain=domain)
    fitted = time.perf_counter() - start
    return fitted, made.generate(n_records=spec["rows"])


def dpsynth(spec: dict[str, Any], table: pd.DataFrame) -> tuple[float, pd.DataFrame]:
    """google/dpsynth's in-memory mode at its defaults (32 quantile bins); it samples as many rows as it counted."""
    import numpy as np
    from dpsynth import CategoricalAttribute, NumericalAttribute, TabularConfig, discrete_mechanisms

    domains = {
        c["name"]: NumericalAttribute(c["low"], c["high"], dtype="int" if c["kind"] == "integer" else "float")
        if "low" in c
        else CategoricalAttribute(c["categories"])
        for c in spec["columns"]
    }
    mechanism = {"aim": discrete_mechanisms.AIMConfig, "mst": discrete_mechanisms.MSTConfig}[spec["mechanism"]]()
    start = time.perf_counter()
    made = TabularConfig(domains=domains, discrete_mechanism=mechanism)
    result = made.calibrate(epsilon=spec["epsilon"], delta=spec["delta"])(np.random.default_rng(), table)
    return time.perf_counter() - start, result.synthetic_data


def main() -> None:
    """Fit what the command line names."""
    with open(sys.argv[1]) as file:
        spec = json.load(file)
    fitted, rows = {"dpmm": dpmm, "dpsynth": dpsynth}[spec["peer"]](spec, read(spec))
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    rows.to_csv(sys.argv[2], index=False)
    print(json.dumps({"fit_s": fitted, "peak_mb": peak / 1024}))


if __name__ == "__main__":
    main()
