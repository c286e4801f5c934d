"""Scores of Synth-MIA's attacks (Ward, Lin, Wang and Cheng 2025, arXiv 2509.18014), in an environment that has it.

    PYTHONPATH=Synth-MIA python _synth_mia.py FOLDER

FOLDER holds members.csv, outsiders.csv, synthetic.csv and reference.csv. Every attack runs with its own defaults on
columns encoded one-hot and as ordinals, both scaled by their preprocessor; attacks that fail on an encoding (kernel
densities of one-hot columns are singular) are left out of it. Leaves FOLDER/scores.json: attack and encoding -> scores
of members, then of outsiders. Knows nothing of tabveil.
"""

import json
import random
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from synth_mia import attackers
from synth_mia.utils import TabularPreprocessor

warnings.filterwarnings("ignore")
folder = Path(sys.argv[1])
frames = [
    pd.read_csv(folder / f"{n}.csv", keep_default_na=False) for n in ("members", "outsiders", "synthetic", "reference")
]
found = {}
for encoding in ("one-hot", "ordinal"):
    maker = TabularPreprocessor(fit_target="synth", categorical_encoding=encoding).fit(*frames[:3])
    tables = maker.transform(*frames)[:4]
    for name in attackers.__all__:
        random.seed(0)
        np.random.seed(0)  # noqa: NPY002
        torch.manual_seed(0)
        try:
            scores = getattr(attackers, name)().attack(*tables)[1]
        except (ValueError, np.linalg.LinAlgError) as error:
            print(name, encoding, type(error).__name__, flush=True)
            continue
        found[f"{name} {encoding}"] = np.nan_to_num(np.asarray(scores, dtype=float)).ravel().tolist()
(folder / "scores.json").write_text(json.dumps(found))
