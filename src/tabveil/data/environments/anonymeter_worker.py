"""anonymeter 1.1.0's three attacks, counted. Runs in the environment `anonymeter`, started by `runner.py`.

Tables: `train` and `holdout`, equally many rows, and `synthetic`; `train_targets` and `holdout_targets`, equally many
too. The job is {"seed": ..., "attacks": [...]}, and the answer has one entry for each attack:

    {"kind": "singling out", "columns": [...], "at_once": 1 or more, "tries": ..., "attempts": ...}
    {"kind": "linkability", "halves": [[...], [...]]}
    {"kind": "inference", "known": [...], "secret": ..., "number": true or false}

    {"tries": ..., "train": ..., "holdout": ..., "naive": ..., "naive_tries": ..., "own": {...}, "failed": ""}

`own` is what anonymeter itself counts of singling out: each query that fits one row of one table, distinct rows or not,
the holdout's number corrected for its size. `tries`, `train` and `holdout` are of queries that fit exactly one of all
real rows, and of those that fit the same row only one: what sides these rows are on is then all that chance decides.
An attack that anonymeter could not finish has `failed`, a type of error, and the counts it got to.

anonymeter draws from generators that nobody can seed, and polars lists groups in any order; both are put right here, so
that a job has one answer. Counts are read from the evaluators' fields, since `results()` fails where they are unlikely.

Privacy: reads coded real rows in a private folder and writes counts; nothing else leaves this process.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pyarrow.parquet as pq
from anonymeter.evaluators import InferenceEvaluator, LinkabilityEvaluator, singling_out_evaluator
from anonymeter.evaluators.inference_evaluator import evaluate_inference_guesses

Frames = Mapping[str, pd.DataFrame]
Counts = dict[str, Any]

TABLES = ("train", "holdout", "synthetic", "train_targets", "holdout_targets")


def answer(job: Mapping[str, Any], folder: Path) -> list[Counts]:
    """The counts of every attack of the job."""
    frames = {t: pq.read_table(folder / f"{t}.parquet").to_pandas(types_mapper=_nullable) for t in TABLES}
    kinds = {"singling out": _singled_out, "linkability": _linked, "inference": _inferred}
    said = []
    for asked in job["attacks"]:
        _seed(job["seed"])
        said.append(kinds[asked["kind"]](asked, frames, job["seed"]))
    return said


def _nullable(kind: Any) -> Any:
    return pd.Int64Dtype() if str(kind) == "int64" else None


def _seed(seed: int) -> None:
    """One answer for one seed: pandas draws from numpy's global state, anonymeter from generators without a seed."""
    np.random.seed(seed % 2**32)
    pl.set_random_seed(seed % 2**32)
    unseeded = np.random.SeedSequence(seed)

    def default_rng(given: Any = None) -> np.random.Generator:
        return _DEFAULT_RNG(unseeded.spawn(1)[0] if given is None else given)

    setattr(np.random, "default_rng", default_rng)  # noqa: B010 - as a plain assignment mypy asks for numpy's own types


_DEFAULT_RNG = np.random.default_rng
pl.DataFrame.group_by = functools.partialmethod(pl.DataFrame.group_by, maintain_order=True)
pl.Series.unique = functools.partialmethod(pl.Series.unique, maintain_order=True)


def _tried(attack: Callable[[], Any]) -> str:
    """The type of the error that ended an attack, "" where none did."""
    try:
        attack()
    except Exception as error:
        return type(error).__name__
    return ""


# -------------------------------------------------------------------------------------------------------- singling out


def _singled_out(asked: Mapping[str, Any], frames: Frames, seed: int) -> Counts:
    train, holdout, synthetic = (frames[t][asked["columns"]] for t in ("train", "holdout", "synthetic"))
    tries, mode = asked["tries"], "univariate" if asked["at_once"] == 1 else "multivariate"
    evaluator = singling_out_evaluator.SinglingOutEvaluator(
        ori=train,
        syn=synthetic,
        control=holdout,
        n_attacks=tries,
        n_cols=asked["at_once"],
        max_attempts=asked["attempts"],
        seed=seed,
    )
    queries: list[Any] = []
    made = singling_out_evaluator._generate_singling_out_queries

    def heard(*args: Any, **options: Any) -> Any:
        queries.extend(made(*args, **options))
        return queries

    singling_out_evaluator._generate_singling_out_queries = heard
    failed = _tried(lambda: evaluator.evaluate(mode=mode))
    singling_out_evaluator._generate_singling_out_queries = made
    fields = {"train": "_n_success", "holdout": "_n_control", "naive": "_n_baseline"}
    own = {name: float(value) for name, f in fields.items() if (value := getattr(evaluator, f, None)) is not None}
    own["tries"] = float(len(queries))
    guessed = {"naive": int(own.get("naive", 0)), "naive_tries": tries}
    return {**_rows_singled_out(queries, train, holdout), **guessed, "own": own, "failed": failed}


def _rows_singled_out(queries: Sequence[Any], train: pd.DataFrame, holdout: pd.DataFrame) -> Counts:
    """Rows that some query fits alone, of all real rows, and queries, but for those that fit such a row again."""
    pool = pl.DataFrame(pd.concat([train, holdout], ignore_index=True))
    place = pl.arange(0, len(pool), dtype=pl.Int64)
    found: set[int] = set()
    again = 0
    for query in queries:
        rows = pool.select(place.filter(query)).to_series()
        if len(rows) == 1:
            again += rows[0] in found
            found.add(rows[0])
    ours = sum(row < len(train) for row in found)
    return {"tries": len(queries) - again, "train": ours, "holdout": len(found) - ours}


# ----------------------------------------------------------------------------------------------- linkability, inference


def _linked(asked: Mapping[str, Any], frames: Frames, seed: int) -> Counts:
    halves = asked["halves"]
    train, holdout, synthetic = _plain(frames, [*halves[0], *halves[1]])
    evaluator = LinkabilityEvaluator(
        ori=train, syn=synthetic, control=holdout, aux_cols=(halves[0], halves[1]), n_attacks=len(train), n_neighbors=1
    )
    failed = _tried(lambda: evaluator.evaluate(n_jobs=1))
    fields = {"train": "_attack_links", "holdout": "_control_links", "naive": "_baseline_links"}
    found = {name: getattr(evaluator, f, None) for name, f in fields.items()}
    counts = {name: links.count_links(n_neighbors=1) if links else 0 for name, links in found.items()}
    return {**counts, "tries": 0 if failed else len(train), "naive_tries": len(train), "failed": failed}


def _inferred(asked: Mapping[str, Any], frames: Frames, seed: int) -> Counts:
    train, holdout, synthetic = _plain(frames, [*asked["known"], asked["secret"]])
    evaluator = InferenceEvaluator(
        ori=train,
        syn=synthetic,
        control=holdout,
        aux_cols=asked["known"],
        secret=asked["secret"],
        regression=asked["number"],
        n_attacks=len(train),
    )
    failed = _tried(lambda: evaluator.evaluate(n_jobs=1))
    counts = {
        n: int(getattr(evaluator, f, 0) or 0) for n, f in {"train": "_n_success", "holdout": "_n_control"}.items()
    }
    naive = _guessed_blindly(train[asked["secret"]], synthetic[asked["secret"]], number=asked["number"])
    return {**counts, "naive": naive, "tries": 0 if failed else len(train), "naive_tries": len(train), "failed": failed}


def _guessed_blindly(secrets: pd.Series, synthetic: pd.Series, *, number: bool) -> int:
    """Right guesses of somebody who takes any synthetic row. anonymeter's own baseline lays them beside the secrets by
    row number and loses those without a match, so that its baseline falls the more synthetic rows there are.
    """
    guesses = synthetic.sample(len(secrets), replace=True).set_axis(secrets.index)
    right = evaluate_inference_guesses(guesses=guesses, secrets=secrets, regression=number)
    return int(right.sum())


def _plain(frames: Frames, columns: Sequence[str]) -> list[pd.DataFrame]:
    """Numbers as plain integers: the search for neighbours takes no other."""
    tables = [frames[t][list(columns)] for t in ("train_targets", "holdout_targets", "synthetic")]
    return [t.astype({c: "int64" for c in t if t[c].dtype == "Int64"}) for t in tables]
