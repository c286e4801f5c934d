"""Other projects' generators and ours in one run: same rows, same budget, same evaluator, and the ratio of seconds.

    .venv/bin/python benchmarks/peers.py --data ../shared/data --evaluator ../shared/tools/evaluate.py \
        --environments /tmp/peers --peers dpmm-mst dpmm-aim --generators mst aim --epsilons 1 --limit 900 \
        [--dpsynth ../dpsynth --dp-accounting ../differential-privacy --peers dpsynth-mst ...]

Each peer lives in an environment of its own in a folder of --environments; one that is not there is made with venv and
pip. dpsynth is on no package index and needs the head of dp-accounting: --dpsynth and --dp-accounting name clones of
github.com/google/dpsynth and google/differential-privacy. It runs on Python 3.12 (--dpsynth-python).
Every fit, theirs and ours, runs in a process of its own; a peer's that takes over --limit seconds is "not finished".
The seconds are of fitting alone. Nothing of their code is in this repository.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from _common import Fit, Numbers, Unfinished, add_common, child, fit_and_score, head, keep, line, mean, score, split_fit
from utility import split_tables

import tabveil as tv

PINS = {
    "dpmm": ("dpmm==0.1.9",),
    "dpsynth": (
        *("absl-py", "attrs", "numpy", "pandas", "pydantic>=2", "pyyaml", "jax[cpu]==0.11.0", "more-itertools"),
        *("networkx", "scipy", "tqdm", "dp-accounting==0.6.0", "mbi==2.0.0", "etils[epath]"),
    ),
}
PEERS = ("dpmm-mst", "dpmm-aim", "dpsynth-mst", "dpsynth-aim")
SHOWN = ("auc", "tvd1", "tvd2", "tvd3", "detection_auc", "fit_s", "peak_mb")


def environment(arguments: argparse.Namespace, peer: str) -> Path:
    """The interpreter of a peer's environment, made where it is not there."""
    folder = Path(arguments.environments).resolve() / peer
    python = folder / "bin" / "python"
    if not python.exists():
        try:
            make(arguments, peer, python)
        except BaseException:  # half an environment is none
            shutil.rmtree(folder, ignore_errors=True)
            raise
    return python


def make(arguments: argparse.Namespace, peer: str, python: Path) -> None:
    """Make the environment that `python` is to be of."""
    ours = arguments.dpsynth_python if peer == "dpsynth" else sys.executable
    subprocess.run([ours, "-m", "venv", str(python.parents[1])], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, *PINS[peer]], check=True)
    if peer == "dpsynth":
        install_clone(Path(arguments.dp_accounting), "python/dp_accounting", pip)
        install_clone(Path(arguments.dpsynth), ".", pip)


def install_clone(clone: Path, part: str, pip: list[str]) -> None:
    """Install a folder of a git repository's head without the dependencies it names."""
    with tempfile.TemporaryDirectory() as folder:
        archive = ["git", "-C", str(clone), "archive", "HEAD", part]
        files = subprocess.run(archive, check=True, capture_output=True).stdout
        subprocess.run(["tar", "-x", "-C", folder], input=files, check=True)
        subprocess.run([*pip, "--no-deps", "--force-reinstall", str(Path(folder) / part)], check=True)


def public(schema: tv.Schema) -> list[dict[str, Any]]:
    """Names, kinds, bounds and categories, in the words of `_peer.py`."""
    columns = schema.to_dict()["columns"]
    for c in columns:
        if c["kind"] not in ("integer", "decimal", "categorical") or c["missing"]:
            raise SystemExit(f"Column {c['name']} is missing somewhere, or of a kind that peers are not handed.")
    return [{k: c[k] for k in ("name", "kind", "low", "high", "categories") if k in c} for c in columns]


def peer_fit(arguments: argparse.Namespace, name: str, fit: Fit) -> Numbers:
    """A peer's fit, scored."""
    peer, mechanism = name.split("-")
    python = environment(arguments, peer)
    with tempfile.TemporaryDirectory() as folder:
        spec, csv = Path(folder) / "spec.json", str(Path(folder) / "synthetic.csv")
        asked = {"peer": peer, "mechanism": mechanism, "columns": public(tv.Schema.from_yaml(fit.schema))}
        budget = {"epsilon": fit.epsilon, "delta": fit.delta, "rows": fit.rows, "table": fit.table}
        spec.write_text(json.dumps({**asked, **budget}))
        command = [str(python), str(Path(__file__).with_name("_peer.py").resolve()), str(spec), csv]
        return {**child(command, limit=arguments.limit), **score(arguments, arguments.table, csv)}


def main() -> None:
    """Fit ours, then theirs, and print each beside the ratio of its seconds to those of our first generator."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_common(parser)
    parser.add_argument("--table", choices=split_tables(), default="adult")
    parser.add_argument("--environments", required=True, help="folder of the peers' environments")
    parser.add_argument("--dpsynth", help="clone of github.com/google/dpsynth")
    parser.add_argument("--dp-accounting", help="clone of github.com/google/differential-privacy")
    parser.add_argument("--dpsynth-python", default="python3.12")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=["dpmm-mst", "dpmm-aim"])
    parser.add_argument("--generators", nargs="*", default=["mst"])
    parser.add_argument("--epsilons", nargs="+", type=float, default=[1.0])
    parser.add_argument("--fits", type=int, default=1)
    parser.add_argument("--limit", type=float, default=900, help="seconds a peer's fit may take")
    arguments = parser.parse_args()
    head("generator", "epsilon", *SHOWN, *(f"seconds / {g}'s" for g in arguments.generators))
    for epsilon in arguments.epsilons:
        seconds: dict[str, float] = {}
        for name in (*arguments.generators, *arguments.peers):
            report(arguments, name, epsilon, seconds)


def report(arguments: argparse.Namespace, name: str, epsilon: float, seconds: dict[str, float]) -> None:
    """One line: means over the fits, and the ratio to each of our generators, whose seconds are kept in `seconds`."""
    fit = split_fit(arguments, arguments.table, name, epsilon)
    one = peer_fit if name in PEERS else ours
    results: list[Numbers] = []
    try:
        for _ in range(arguments.fits):
            results.append(one(arguments, name, fit))
            keep(arguments, {"generator": name, "epsilon": epsilon, **results[-1]})
    except Unfinished as reason:
        print(reason, file=sys.stderr)
        said = str(reason) if str(reason).startswith("not finished") else "failed"
        line(name, f"{epsilon:g}", *("" for _ in SHOWN[2:]), said, "", *("" for _ in arguments.generators))
        return
    own = float(mean(results, "fit_s", ".6g"))
    if name in arguments.generators:
        seconds[name] = own
    ratios = (f"{own / seconds[g]:.1f}" if g in seconds else "" for g in arguments.generators)
    line(name, f"{epsilon:g}", *(mean(results, key) for key in SHOWN), *ratios)


def ours(arguments: argparse.Namespace, name: str, fit: Fit) -> Numbers:
    """One of tabveil's generators, scored; `name` is in `fit`."""
    return fit_and_score(arguments, fit, arguments.table)


if __name__ == "__main__":
    main()
