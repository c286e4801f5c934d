"""Pred-LLM's own protocol (Nguyen et al. 2024): XGBoost trained on synthetic rows, tested on real ones, three seeds.

    .venv/bin/python benchmarks/predllm.py --data ../shared/data --xgboost-python /tmp/xgb/bin/python \
        --sdv-python /tmp/sdv/bin/python --tables iris breast_cancer diabetes adult

Each seed splits a table 80/20 (by class where the target is one), fits to the 80 %, draws as many rows, and scores
XGBoost with its defaults on the 20 %: accuracy, or mean squared error. Beside the paper's score one on the test rows
that do not occur in the training rows: random splits of tables with duplicates reward who remembers. Nothing is
private. The schema is a draft from the rows. --xgboost-python is an interpreter that has xgboost, --sdv-python
(optional) one that has sdv 2. adult is both parts of the split table, without fnlwgt.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _common import Numbers, child, head, keep, line

TABLES = ("iris", "breast_cancer", "diabetes", "adult")
SEEDS = (0, 1, 2)
REGRESSION = {"diabetes"}
SDV = {"SDV CTGAN": "CTGANSynthesizer", "SDV TVAE": "TVAESynthesizer"}


def load(name: str, data: str) -> tuple[Any, str]:
    """A table and its target."""
    import pandas as pd
    from sklearn import datasets

    if name == "adult":
        parts = [pd.read_csv(Path(data) / f"adult_{p}.csv.gz") for p in ("train", "test")]
        return pd.concat(parts, ignore_index=True).drop(columns="fnlwgt"), "income"
    bunch = getattr(datasets, f"load_{name}")(as_frame=True, **({"scaled": False} if name == "diabetes" else {}))
    frame = bunch.frame
    if name not in REGRESSION:
        frame["target"] = pd.Series(bunch.target_names)[bunch.target].to_numpy()
    return frame, "target"


def split(frame: Any, target: str, name: str, seed: int) -> tuple[Any, Any]:
    """80 % and 20 %."""
    from sklearn.model_selection import train_test_split

    by = None if name in REGRESSION else frame[target]
    train, test = train_test_split(frame, test_size=0.2, random_state=seed, stratify=by)
    return train.reset_index(drop=True), test.reset_index(drop=True)


def ours(generator: str, train: Any, target: str) -> Any:
    """Rows of our generator, as many as `train` has."""
    import dataclasses

    import tabveil as tv

    schema = dataclasses.replace(tv.Schema.draft(train), target=target)
    return tv.create(generator, epsilon=math.inf, random_state=0).fit(train, schema).sample(len(train))


def fit_sdv(csv: str, kind: str, out: str) -> Numbers:
    """SDV's rows, by the interpreter that has it."""
    import pandas as pd
    import sdv.single_table
    from sdv.metadata import Metadata

    frame = pd.read_csv(csv)
    made = getattr(sdv.single_table, kind)(Metadata.detect_from_dataframes({"t": frame}))
    made.fit({"t": frame})
    made.sample(num_rows=len(frame))["t"].to_csv(out, index=False)
    return {}


def score(synthetic: str, test: str, target: str) -> Numbers:
    """XGBoost's score, by the interpreter that has it: accuracy where the target is text, else mean squared error."""
    import pandas as pd
    import xgboost

    rows, unseen = pd.read_csv(synthetic), pd.read_csv(test)
    both = pd.concat([rows, unseen], keys=["rows", "test"])
    regression = pd.api.types.is_numeric_dtype(both[target])
    for column in both.columns:
        if not pd.api.types.is_numeric_dtype(both[column]):
            both[column] = both[column].astype("category").cat.codes
    rows, unseen = both.loc["rows"], both.loc["test"]
    if regression:
        model = xgboost.XGBRegressor(n_jobs=1).fit(rows.drop(columns=target), rows[target])
        return {"score": float(((model.predict(unseen.drop(columns=target)) - unseen[target]) ** 2).mean())}
    if rows[target].nunique() < unseen[target].nunique():
        return {"score": 0.0}  # the paper's rule: a class that was missed costs everything
    model = xgboost.XGBClassifier(n_jobs=1).fit(rows.drop(columns=target), rows[target])
    return {"score": float((model.predict(unseen.drop(columns=target)) == unseen[target]).mean())}


def scored(arguments: argparse.Namespace, rows: Any, parts: tuple[Any, Any], target: str) -> Numbers:
    """The score on all test rows, and on those that do not occur in train."""
    train, test = parts
    fresh = test[~test.apply(tuple, axis=1).isin(set(train.apply(tuple, axis=1)))]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        rows.to_csv(f"{folder}/rows.csv", index=False)
        for key, some in (("score", test), ("score_fresh", fresh)):
            some.to_csv(f"{folder}/test.csv", index=False)
            command = [
                arguments.xgboost_python,
                __file__,
                "--score",
                f"{folder}/rows.csv",
                f"{folder}/test.csv",
                target,
            ]
            found[key] = child(command)["score"]
    return found


def candidates(arguments: argparse.Namespace, train: Any, target: str) -> Iterator[tuple[str, Any]]:
    """Who makes rows, and the rows."""
    import pandas as pd

    yield "original", train
    for generator in arguments.generators:
        yield generator, ours(generator, train, target)
    for name, kind in SDV.items() if arguments.sdv_python else ():
        with tempfile.TemporaryDirectory() as folder:
            train.to_csv(f"{folder}/t.csv", index=False)
            child([arguments.sdv_python, __file__, "--sdv", f"{folder}/t.csv", kind, f"{folder}/o.csv"])
            yield name, pd.read_csv(f"{folder}/o.csv")


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--generators", nargs="*", default=["tabular_lm"])
    parser.add_argument("--seeds", nargs="+", type=int, default=list(SEEDS))
    parser.add_argument("--xgboost-python", required=True)
    parser.add_argument("--sdv-python")
    parser.add_argument("--out")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1"}
    head("table", "rows of", "score", "score on test rows not in train", "beside original")
    for name in arguments.tables:
        frame, target = load(name, arguments.data)
        results: dict[str, list[Numbers]] = {}
        for seed in arguments.seeds:
            parts = split(frame, target, name, seed)
            for who, rows in candidates(arguments, parts[0], target):
                results.setdefault(who, []).append(scored(arguments, rows, parts, target))
                keep(arguments, {"table": name, "rows_of": who, "seed": seed, **results[who][-1]})
        best = statistics.mean(r["score"] for r in results["original"])
        for who, found in results.items():
            mean = statistics.mean(r["score"] for r in found)
            fresh = statistics.mean(r["score_fresh"] for r in found)
            line(name, who, f"{mean:.4g}", f"{fresh:.4g}", f"{mean / best - 1:+.1%}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--sdv"]:
        print(json.dumps(fit_sdv(*sys.argv[2:5])))
    elif sys.argv[1:2] == ["--score"]:
        print(json.dumps(score(*sys.argv[2:5])))
    else:
        main()
