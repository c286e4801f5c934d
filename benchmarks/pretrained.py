"""Rows per second of `pretrained_lm` beside be_great's, from one and the same tiny checkpoint.

    OMP_NUM_THREADS=1 .venv/bin/python benchmarks/pretrained.py --great-python /tmp/great/bin/python [--limit 300]

--great-python is an interpreter that has be-great (pip install torch be-great). The checkpoint is a GPT-2 of two layers
with random weights and a tokenizer of single bytes, written by the tests' helper: what is compared is the work done
around a model, not what a model knows. Each fit runs in a process of its own, on a table of 1,000 made-up rows and four
columns. be_great trains all weights, since nothing can be sampled from what it has not learned to write; its sample is
asked for at its defaults and in its guided mode, each for at most --limit seconds. A row is valid where every value is
one the table's columns may show.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

SIDES, HANDS, AGES = ("left", "right"), ("a", "b", "c"), (18, 80)
Numbers = dict[str, Any]


def table(rows: int = 1_000) -> pd.DataFrame:
    """Hand and member follow from the side."""
    import numpy as np

    rng = np.random.default_rng(0)
    left = rng.random(rows) < 0.5
    hand = np.where(left, "a", rng.choice(["b", "c"], rows))
    age = np.clip(rng.normal(45, 12, rows).round(), *AGES).astype(int)
    return pd.DataFrame(
        {"side": np.where(left, *SIDES), "hand": hand, "age": age, "member": np.where(left, "yes", "no")}
    )


def valid(frame: pd.DataFrame) -> float:
    """Share of the rows all of whose values are allowed."""
    age = pd.to_numeric(frame["age"], errors="coerce")
    kept = frame["side"].isin(SIDES) & frame["hand"].isin(HANDS) & frame["member"].isin(("yes", "no"))
    return float((kept & age.between(*AGES) & (age % 1 == 0)).mean()) if len(frame) else 0.0


def ours(base: str, rows: int, epsilon: float) -> Numbers:
    """One fit of `pretrained_lm`, and a sample."""
    import tabveil
    from tabveil.columns import Categorical, Integer
    from tabveil.schema import Schema

    columns = (
        Categorical(name="side", categories=SIDES),
        Categorical(name="hand", categories=HANDS),
        Integer(name="age", low=AGES[0], high=AGES[1]),
        Categorical(name="member", categories=("no", "yes")),
    )
    ledger = tabveil.Ledger(":memory:")
    ledger.open("t", epsilon=1.0, delta=1e-6)
    made = tabveil.create("pretrained_lm", epsilon=epsilon, delta=1e-6, base_model=base, steps=100, learning_rate=0.01)
    start = time.perf_counter()
    made.fit(table(), Schema(columns=columns), ledger=ledger, dataset="t")
    fitted = time.perf_counter() - start
    return {"fit_s": fitted, **timed(lambda: made.sample(rows))}


def great(base: str, rows: int, guided: bool) -> Numbers:
    """One fit of be_great, and a sample."""
    from be_great import GReaT

    with tempfile.TemporaryDirectory() as folder:
        made = GReaT(base, experiment_dir=folder, epochs=60, batch_size=32, learning_rate=3e-3, save_strategy="no")
        start = time.perf_counter()
        made.fit(table())
        fitted = time.perf_counter() - start
        return {"fit_s": fitted, **timed(lambda: made.sample(rows, guided_sampling=guided, device="cpu"))}


def timed(sample: Any) -> Numbers:
    """Seconds, rows, and which share of them is valid."""
    start = time.perf_counter()
    frame = sample()
    return {"sample_s": time.perf_counter() - start, "rows": len(frame), "valid": valid(frame)}


CHILDREN = {
    "ours": lambda base, rows: ours(base, rows, float("inf")),
    "ours, epsilon 1": lambda base, rows: ours(base, rows, 1.0),
    "be_great": lambda base, rows: great(base, rows, guided=False),
    "be_great, guided": lambda base, rows: great(base, rows, guided=True),
}


def child(python: str, name: str, base: Path, *, rows: int, limit: float) -> Numbers | None:
    """What a process of its own measures; None where it took longer than `limit` seconds."""
    command = [python, __file__, "--child", name, str(base), str(rows)]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    if ran.returncode:
        raise SystemExit(ran.stderr)
    found: Numbers = json.loads(ran.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--great-python", required=True)
    parser.add_argument("--rows", type=int, default=2_000)
    parser.add_argument("--guided-rows", type=int, default=100)
    parser.add_argument("--limit", type=float, default=300.0)
    asked = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    import base_models

    with tempfile.TemporaryDirectory() as folder:
        base = base_models.gpt2(Path(folder) / "base", width=64)
        print("| | fit s | rows | sample s | rows/s | valid |\n|---|---|---|---|---|---|")
        for name in CHILDREN:
            python = asked.great_python if name.startswith("be_great") else sys.executable
            rows = asked.guided_rows if name.endswith("guided") else asked.rows
            found = child(python, name, base, rows=rows, limit=asked.limit)
            if found is None:
                print(f"| {name} | | | more than {asked.limit:.0f} s, fit and sample | | |", flush=True)
                continue
            speed = found["rows"] / found["sample_s"]
            seconds = f"{found['fit_s']:.1f} | {found['rows']} | {found['sample_s']:.1f}"
            print(f"| {name} | {seconds} | {speed:.1f} | {100 * found['valid']:.1f} % |", flush=True)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(CHILDREN[sys.argv[2]](sys.argv[3], int(sys.argv[4]))))
    else:
        main()
