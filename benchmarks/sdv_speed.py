"""Our deep generators and SDV's on the same rows in one run: seconds of a fit, not private.

    .venv/bin/python benchmarks/sdv_speed.py --data ../shared/data --sdv-python /tmp/sdv/bin/python \
        --generators tvae ctgan [--epochs 60] [--all-epochs] [--options steps=400]

--sdv-python is an interpreter that has sdv 2 (pip install torch sdv). SDV fits 300 epochs by default. With --all-epochs
they are run; otherwise two short fits, of 2 epochs and of --epochs, give the seconds before and per epoch, from which
300 are extrapolated, and the table says so. With --options ours is fitted with these too: fewer steps, say, which
deep.py shows to be enough for SDV's quality. One process and one thread each, one after the other; processor seconds
stand beside those on the clock, which other jobs inflate.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from pathlib import Path

from _common import SCHEMAS, Fit, Numbers, child, head, line, row_count

EPOCHS, SHORT = 300, 2
CLASSES = {"tvae": "TVAESynthesizer", "ctgan": "CTGANSynthesizer"}
SHOWN = ("fit_s", "fit_cpu_s")


def fit_sdv(table: str, generator: str, epochs: int) -> Numbers:
    """One fit of SDV's generator, by the interpreter that has it."""
    import pandas as pd
    import sdv.single_table
    import torch
    from sdv.metadata import Metadata

    torch.set_num_threads(1)
    frame = pd.read_csv(table)
    metadata = Metadata.detect_from_dataframes({"t": frame})
    made = getattr(sdv.single_table, CLASSES[generator])(metadata, epochs=epochs)
    start, busy = time.perf_counter(), time.process_time()
    made.fit({"t": frame})
    return {"fit_s": time.perf_counter() - start, "fit_cpu_s": time.process_time() - busy}


def theirs(arguments: argparse.Namespace, table: str, generator: str) -> Numbers:
    """Seconds of a fit of 300 epochs, run or extrapolated."""

    def run(epochs: int) -> Numbers:
        return child([arguments.sdv_python, __file__, "--child", table, generator, str(epochs)])

    if arguments.all_epochs:
        return run(EPOCHS)
    few, more = run(SHORT), run(arguments.epochs)
    per_epoch = {key: (more[key] - few[key]) / (arguments.epochs - SHORT) for key in SHOWN}
    return {key: few[key] + (EPOCHS - SHORT) * per_epoch[key] for key in SHOWN}


def ours(arguments: argparse.Namespace, table: str, generator: str) -> Numbers:
    """Seconds of our fit."""
    schema = str(SCHEMAS / f"{arguments.table}.schema.yaml")
    fit = Fit(generator, math.inf, 1e-5, table, schema, row_count(table))
    common = str(Path(__file__).parent / "_common.py")
    return child([sys.executable, common, json.dumps(vars(fit)), os.devnull])


def main() -> None:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="folder of the tables")
    parser.add_argument("--table", default="adult")
    parser.add_argument("--sdv-python", required=True)
    parser.add_argument("--generators", nargs="+", choices=sorted(CLASSES), default=["tvae"])
    parser.add_argument("--epochs", type=int, default=60, help=f"of the longer of two short fits, above {SHORT}")
    parser.add_argument("--options", help="of a second fit of ours, such as steps=400")
    parser.add_argument("--all-epochs", action="store_true", help=f"run all {EPOCHS}")
    arguments = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    table = str(Path(arguments.data) / f"{arguments.table}_train.csv.gz")
    extrapolated = "" if arguments.all_epochs else f" extrapolated from {arguments.epochs}"
    head("generator", "fit", *SHOWN, "times faster")
    for generator in arguments.generators:
        sdv = theirs(arguments, table, generator)
        line(generator, f"SDV, {EPOCHS} epochs{extrapolated}", *(f"{sdv[key]:.1f}" for key in SHOWN), "")
        for options in ("", *([arguments.options] if arguments.options else ())):
            mine = ours(arguments, table, f"{generator}:{options}")
            ratio = sdv["fit_cpu_s"] / mine["fit_cpu_s"]
            line(generator, f"ours {options}".strip(), *(f"{mine[key]:.1f}" for key in SHOWN), f"{ratio:.1f}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        print(json.dumps(fit_sdv(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
    else:
        main()
