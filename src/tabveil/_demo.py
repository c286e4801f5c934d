"""`tabveil demo`: the whole way from a table to a release and both its reports, on data that is public.

Privacy: nothing private here; 20,190 person-years of the RAND health insurance experiment as statsmodels publishes
them.
"""

from __future__ import annotations

import importlib
import importlib.resources
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pandas as pd

from tabveil.errors import MissingDependencyError
from tabveil.generators.base import Progress
from tabveil.ledger import Ledger
from tabveil.pipeline import INTERNAL, Release, split, synthesize
from tabveil.release import MANIFEST, check_new
from tabveil.schema import Schema

DATASET = "randhie-demo"
EPSILON, DELTA = 1.0, 1e-6
CAP = 2.0
"""What the demo spends, and what its account could spend in all."""

SEED = 0
HELD_OUT = 0.2
LEDGER = "-ledger.db"
"""Added to the release's name for the demo's ledger."""


def demo(out: str | Path, *, progress: Progress | None = None) -> Release:
    """A release of four fifths of `randhie`, measured on the rest; what an earlier demo left at `out` is replaced.

    Args:
      out: folder of the release; the internal report and the ledger go beside it.
      progress: called as progress(stage, share).

    Raises:
      MissingDependencyError: statsmodels is not installed.
      UsageError: `out` holds something else than an earlier demo.
    """
    frame = _table()
    place = Path(out)
    _clear(place)
    schema = _schema()
    train, holdout = split(frame, share=HELD_OUT, random_state=SEED)
    ledger = Ledger(_beside(place, LEDGER))
    ledger.open(DATASET, epsilon=CAP, delta=DELTA, unit=schema.unit)
    return synthesize(
        train,
        replace(schema, public_rows=len(train)),
        epsilon=EPSILON,
        delta=DELTA,
        ledger=ledger,
        dataset=DATASET,
        out=place,
        holdout=holdout,
        random_state=SEED,
        progress=progress,
    )


def _table() -> pd.DataFrame:
    try:
        data = importlib.import_module("statsmodels.datasets.randhie.data")
    except ModuleNotFoundError as error:
        raise MissingDependencyError("The demo's table comes with statsmodels: pip install 'tabveil[demo]'.") from error
    frame: pd.DataFrame = data.load_pandas().data
    return frame


def _schema() -> Schema:
    packaged = importlib.resources.files("tabveil") / "data" / "randhie.schema.yaml"
    with importlib.resources.as_file(packaged) as path:
        return Schema.from_yaml(path)


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)


def _clear(place: Path) -> None:
    """Remove what an earlier demo left, and nothing else."""
    if _is_demo(place):
        shutil.rmtree(place)
        shutil.rmtree(_beside(place, INTERNAL), ignore_errors=True)
    check_new(place)
    check_new(_beside(place, INTERNAL))
    place.parent.mkdir(parents=True, exist_ok=True)
    _beside(place, LEDGER).unlink(missing_ok=True)


def _is_demo(place: Path) -> bool:
    try:
        return bool(json.loads((place / MANIFEST).read_text(encoding="utf-8"))["dataset"] == DATASET)
    except (OSError, ValueError, KeyError, TypeError):
        return False
