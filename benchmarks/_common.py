"""What the benchmarks share: a generator's name with options, a fit in a process of its own, the fixed evaluator.

Run as a script it is that process: `_common.py SPEC CSV` fits what the JSON of SPEC says, leaves rows at CSV and prints
a line of JSON, so that peak memory and seconds are of this fit alone.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # the parent of `fit_here` needs neither
    from pandas import DataFrame

    from tabveil.schema import Schema

SCHEMAS = Path(__file__).parent / "schemas"
Numbers = dict[str, float]


class Unfinished(SystemExit):
    """A child process failed, or took too long; says which."""


@dataclass(frozen=True)
class Fit:
    """One fit to measure: which generator (`mst:extra_pairs=0`) on which table, under which schema and budget.

    Attributes:
      generator: plugin name and options, as `parse` reads them.
      epsilon, delta: the budget.
      table, schema: paths.
      rows: how many to sample and leave as CSV.
      random_state: of initialisation and sampling, never of noise; None for a fresh one.
    """

    generator: str
    epsilon: float
    delta: float
    table: str
    schema: str
    rows: int
    random_state: int | None = None


def parse(text: str) -> tuple[str, dict[str, Any]]:
    """aim:max_model_bytes=1e8,weights={"a": 2} -> ("aim", {"max_model_bytes": 1e8, "weights": {"a": 2}}).

    A value is JSON where it can be read as JSON, else a text; a comma parts options only before `name=`.
    """
    name, _, rest = text.partition(":")
    pairs = (pair.split("=", 1) for pair in re.split(r",(?=\w+=)", rest) if pair)
    return name, {key: _value(value) for key, value in pairs}


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def load(name: str, data: str | Path) -> tuple[Schema, DataFrame, DataFrame]:
    """One of the split tables: its schema with a private row count, train and test in published form."""
    import pandas as pd

    import tabveil as tv
    from tabveil.encoding import conform

    home = Path(tv.__file__).parent / "data" if name == "randhie" else SCHEMAS
    schema = dataclasses.replace(tv.Schema.from_yaml(home / f"{name}.schema.yaml"), public_rows=None)
    frames = [
        pd.read_csv(Path(data) / f"{name}_{part}.csv.gz", dtype=str, keep_default_na=False)
        for part in ("train", "test")
    ]
    if name == "randhie":  # the benchmark's copy writes its flags as v0 and v1
        flags = {c.name: {"v0": "0", "v1": "1"} for c in schema.columns if c.kind == "boolean"}
        frames = [f.replace(flags) for f in frames]
    train, test = (conform(schema.columns, f) for f in frames)
    return schema, train, test


def row_count(path: str | Path) -> int:
    """Rows of a CSV file below its header."""
    import pandas as pd

    return len(pd.read_csv(path, usecols=[0], dtype=str, keep_default_na=False))


def fit_here(fit: Fit, csv: str) -> Numbers:
    """Fit and sample in this process; rows go to `csv`."""
    import resource
    import time

    import tabveil as tv

    name, options = parse(fit.generator)
    ledger = tv.Ledger(":memory:")
    paid = math.isfinite(fit.epsilon)
    if paid:
        ledger.open("benchmark", epsilon=fit.epsilon, delta=fit.delta)
    made = tv.create(name, epsilon=fit.epsilon, delta=fit.delta, random_state=fit.random_state, **options)
    schema = tv.Schema.from_yaml(fit.schema)
    start, busy = time.perf_counter(), time.process_time()
    made.fit(fit.table, schema, ledger=ledger if paid else None, dataset="benchmark" if paid else None)
    fitted, fit_cpu = time.perf_counter(), time.process_time() - busy
    rows = made.sample(fit.rows)
    sampled = time.perf_counter()
    timed, busy = [], time.process_time()
    for _ in range(3):
        begin = time.perf_counter()
        made.sample(200_000)
        timed.append(time.perf_counter() - begin)
    sample_cpu = (time.process_time() - busy) / 3
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    rows.to_csv(csv, index=False)
    return {
        "fit_s": fitted - start,
        "fit_cpu_s": fit_cpu,
        "sample_s": sampled - fitted,
        "rows_per_s": 200_000 / statistics.median(timed),
        "rows_per_cpu_s": 200_000 / sample_cpu,
        "peak_mb": peak,
        "spent_epsilon": made.statement.epsilon,
    }


def fit_apart(fit: Fit, csv: str) -> Numbers:
    """`fit_here` in a child process."""
    return child([sys.executable, __file__, json.dumps(dataclasses.asdict(fit)), csv])


def child(command: Sequence[str], *, limit: float | None = None) -> Numbers:
    """The JSON of a command's last line.

    Raises:
      Unfinished: it took longer than `limit` seconds and was ended, or it failed; the end of what it said is shown.
    """
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, start_new_session=True) as process:
        try:
            said, errors = process.communicate(timeout=limit)
        except BaseException as error:  # whatever it started ends with it
            os.killpg(process.pid, signal.SIGKILL)
            if isinstance(error, subprocess.TimeoutExpired):
                raise Unfinished(f"not finished in {limit:g} s") from None
            raise
    if process.returncode:
        raise Unfinished(f"{' '.join(command)[:200]} failed:\n{errors[-2000:]}")
    numbers: Numbers = json.loads(said.splitlines()[-1])
    return numbers


def score(arguments: argparse.Namespace, table: str, synthetic: str) -> Numbers:
    """The fixed evaluator's numbers; `synthetic` is a CSV path or one of its @names."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "scores.json"
        command = [arguments.evaluator_python, arguments.evaluator, table, synthetic, str(out)]
        environment = os.environ | {"EVAL_DATA": str(Path(arguments.data).resolve())}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        scores = json.loads(out.read_text())
    return {k: v for k, v in {**scores, **scores.pop("tstr")}.items() if isinstance(v, float)}


def fit_and_score(arguments: argparse.Namespace, fit: Fit, table: str) -> Numbers:
    """A fit in a child process and what the evaluator says of its rows."""
    with tempfile.TemporaryDirectory() as folder:
        csv = str(Path(folder) / "synthetic.csv")
        return {**fit_apart(fit, csv), **score(arguments, table, csv)}


def split_fit(arguments: argparse.Namespace, table: str, generator: str, epsilon: float) -> Fit:
    """A fit to the training part of one of the split tables, sampled at its size unless `arguments.rows` says more."""
    train = Path(arguments.data) / f"{table}_train.csv.gz"
    rows = getattr(arguments, "rows", None) or row_count(train)
    schema = SCHEMAS / f"{table}.schema.yaml"
    state = getattr(arguments, "random_state", None)
    return Fit(generator, epsilon, arguments.delta, str(train), str(schema), rows, state)


def add_common(parser: argparse.ArgumentParser, *, evaluator: bool = True) -> None:
    """The options that every benchmark has."""
    parser.add_argument("--data", required=True, help="folder of the tables")
    parser.add_argument("--delta", type=float, default=1e-5)
    parser.add_argument("--random-state", type=int, help="of sampling, never of noise; fresh by default")
    parser.add_argument("--out", help="append a line of JSON per fit to this file")
    if evaluator:
        parser.add_argument("--evaluator", required=True, help="the fixed evaluator's script")
        parser.add_argument("--evaluator-python", default=sys.executable, help="an interpreter that has sdmetrics")


def keep(arguments: argparse.Namespace, record: dict[str, Any]) -> None:
    """Append one line to `--out`, where given."""
    if arguments.out:
        Path(arguments.out).parent.mkdir(parents=True, exist_ok=True)
        with open(arguments.out, "a") as file:
            file.write(json.dumps(record) + "\n")


def head(*names: str) -> None:
    """Print the first two lines of a Markdown table."""
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}", flush=True)


def line(*cells: object) -> None:
    """Print one line of a Markdown table."""
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def mean(results: Sequence[Numbers], key: str, form: str = ".4g") -> str:
    """The mean over those results that have `key`, as text; "" where none has."""
    values = [r[key] for r in results if key in r]
    return format(statistics.mean(values), form) if values else ""


if __name__ == "__main__":
    print(json.dumps(fit_here(Fit(**json.loads(sys.argv[1])), sys.argv[2])))
