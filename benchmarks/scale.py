"""Rows beyond memory: how long counting takes and how much memory a fit needs, by number of rows.

Makes a table of 15 columns chunk by chunk (categories, whole numbers, decimals, dates, missing cells; they depend on
one another), fits a generator to it in a process of its own, and prints one line of a Markdown table. The made table
is deleted afterwards unless --keep is given.

    python benchmarks/scale.py --rows 10_000_000 --generator mst --folder /tmp/scale
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from tabveil import mechanisms
from tabveil.columns import Boolean, Categorical, Date, Decimal, Integer
from tabveil.generators.base import create
from tabveil.ledger import Ledger
from tabveil.mechanisms import PrivateRows
from tabveil.schema import Schema
from tabveil.tables import open_table

CHUNK = 1_000_000
EPOCH = dt.date(2015, 1, 1)
REGIONS = tuple(f"region {i:02d}" for i in range(20))
TRADES = tuple(f"trade {i:02d}" for i in range(12))


def listed(name: str, *labels: str) -> Categorical:
    """A column that is never missing."""
    return Categorical(name=name, categories=labels)


SCHEMA = Schema(
    name="scale",
    columns=(
        listed("region", *REGIONS),
        listed("sex", "F", "M"),
        listed("trade", *TRADES),
        Categorical(name="school", categories=("none", "first", "second", "third"), ordered=True),
        listed("status", "single", "married", "widowed", "parted"),
        Boolean(name="smoker"),
        Boolean(name="default"),
        Integer(name="age", low=0, high=110),
        Integer(name="children", low=0, high=15),
        Integer(name="hours", low=0, high=99, missing=("",)),
        Integer(name="visits", low=0, high=365),
        Decimal(name="income", low=0.0, high=99_999.99, decimals=2),
        Decimal(name="balance", low=-10_000.0, high=50_000.0, decimals=2, missing=("",)),
        Date(name="joined", low=EPOCH, high=dt.date(2024, 12, 31)),
        listed("grade", *"ABCDEFG"),
    ),
)


def texts(labels: tuple[str, ...], codes: np.ndarray) -> pa.Array:
    """The labels at `codes`."""
    return pa.DictionaryArray.from_arrays(pa.array(codes.astype(np.int32)), pa.array(labels)).cast(pa.string())


def chunk(rows: int, rng: np.random.Generator) -> pa.Table:
    """`rows` people: age and school move trade, hours, income, balance and grade."""
    age = np.clip(rng.gamma(6.0, 7.0, rows), 0, 110).astype(np.int16)
    school = np.clip(rng.binomial(3, 0.45, rows) - (age < 18), 0, 3)
    region, sex = rng.integers(0, 20, rows), rng.integers(0, 2, rows)
    trade = (school * 3 + rng.integers(0, 4, rows)) % 12
    status = np.where(age < 20, 0, np.where(rng.random(rows) < 0.6, 1, 2 + (age < 60)))
    smoker = rng.random(rows) < 0.15 + 0.1 * (school == 0)
    hours = np.clip(np.where(rng.random(rows) < 0.5, 40, rng.normal(35, 12, rows)), 0, 99).astype(np.int8)
    income = np.clip(np.round(rng.lognormal(9.2 + 0.3 * school, 0.6), 2), 0, 99_999.99) * (age >= 16)
    balance = np.clip(np.round(rng.normal(income / 5, 3_000), 2), -10_000, 50_000)
    children = np.minimum(rng.poisson(np.clip((age - 18) / 25, 0, 2)), 15).astype(np.int8)
    visits = np.minimum(rng.geometric(0.25, rows) - 1 + smoker * 2, 365).astype(np.int16)
    joined = np.minimum(rng.integers(0, 3_653, rows), 3_652).astype(np.int32)
    default = rng.random(rows) < np.where(balance < 0, 0.2, 0.02)
    grade = np.clip((6 - income / 9_000).astype(int) + rng.integers(-1, 2, rows), 0, 6)
    days = pa.array(joined + (EPOCH - dt.date(1970, 1, 1)).days, type=pa.int32()).cast(pa.date32())
    return pa.table(
        {
            "region": texts(REGIONS, region),
            "sex": texts(("F", "M"), sex),
            "trade": texts(TRADES, trade),
            "school": texts(SCHEMA.columns[3].labels, school),
            "status": texts(SCHEMA.columns[4].labels, status),
            "smoker": pa.array(smoker),
            "default": pa.array(default),
            "age": pa.array(age),
            "children": pa.array(children),
            "hours": pa.array(hours, mask=rng.random(rows) < 0.1),
            "visits": pa.array(visits),
            "income": pa.array(income),
            "balance": pa.array(balance, mask=rng.random(rows) < 0.05),
            "joined": days,
            "grade": texts(tuple("ABCDEFG"), grade),
        }
    )


def make(rows: int, path: Path) -> None:
    """Write `rows` rows, a chunk at a time."""
    rng = np.random.default_rng(0)
    first = chunk(1, rng).schema
    csv = path.suffix == ".csv"
    with pacsv.CSVWriter(path, first) if csv else pq.ParquetWriter(path, first, compression="zstd") as writer:
        for start in range(0, rows, CHUNK):
            writer.write_table(chunk(min(CHUNK, rows - start), rng))


def fit(path: Path, generator: str) -> dict[str, object]:
    """Fit in this process; what every pass over the rows took, the whole fit, and the highest memory."""
    passes: list[tuple[int, float, float]] = []
    counted = PrivateRows._pass

    def timed(rows: PrivateRows, marginals: list[object], **named: bool) -> object:
        start, cpu = time.perf_counter(), time.process_time()
        found = counted(rows, marginals, **named)
        if marginals:
            passes.append((len(marginals), time.perf_counter() - start, time.process_time() - cpu))
        return found

    PrivateRows._pass = timed
    ledger = Ledger(":memory:")
    ledger.open("scale", epsilon=1.0, delta=1e-9)
    start, cpu = time.perf_counter(), time.process_time()
    made = create(generator, epsilon=1.0, delta=1e-9)
    made.fit(open_table(path), SCHEMA, ledger=ledger, dataset="scale")
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    # of this process alone: what getrusage says is inherited from the one that made the table
    peak = int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 2**20
    return {"passes": passes, "fit": (seconds, cpu), "peak_gib": peak}


def main() -> None:
    """Make, fit, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=lambda text: int(text.replace("_", "")), default=1_000_000)
    parser.add_argument("--generator", default="mst")
    parser.add_argument("--folder", type=Path, default=Path("scale"))
    parser.add_argument("--format", choices=("parquet", "csv"), default="parquet")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--memory", type=int, default=mechanisms.MEMORY, help="most bytes of codes kept in memory")
    parser.add_argument("--fit", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.fit:
        mechanisms.MEMORY = given.memory
        print(json.dumps(fit(given.fit, given.generator)))
        return
    given.folder.mkdir(parents=True, exist_ok=True)
    path = given.folder / f"rows-{given.rows}.{given.format}"
    if not path.exists():
        make(given.rows, path)
    mebibytes = path.stat().st_size / 2**20
    child = [sys.executable, __file__, "--fit", str(path), "--generator", given.generator]
    child += ["--memory", str(given.memory)]
    told = json.loads(subprocess.run(child, check=True, capture_output=True, text=True).stdout)
    if not given.keep:
        path.unlink()
    wall, cpu = (sum(p[i] for p in told["passes"]) for i in (1, 2))
    passes = ", ".join(f"{c:.1f} ({m})" for m, _, c in told["passes"])
    size = f"{given.rows:,} | {given.format}, {mebibytes:,.0f} MiB"
    counting = f"{wall:.1f} | {cpu:.1f} | {passes}"
    print(f"| {given.generator} | {size} | {counting} | {told['fit'][0]:.1f} | {told['peak_gib']:.2f} |", flush=True)


if __name__ == "__main__":
    main()
