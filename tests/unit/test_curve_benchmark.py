"""The verdict of benchmarks/curve.py: a step that is worse beyond noise is found, one within noise is not."""

from __future__ import annotations

import argparse
import importlib
import json
from pathlib import Path
from types import ModuleType
from xml.etree import ElementTree

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
EPSILONS = (0.1, 1.0, 10.0)


@pytest.fixture
def curve(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("curve")


def runs(curve: ModuleType, *, means: tuple[float, ...], key: str, fits: int = 5) -> dict:
    """Fits of one generator whose `key` has these means and noise of 0.01; every other score is the same everywhere."""
    rng = np.random.default_rng(3)
    noise = rng.normal(scale=0.01, size=(len(means), fits))
    flat = dict.fromkeys(curve.HIGHER_IS_BETTER, 0.5)
    return {
        ("mst", e): [{**flat, key: m + float(v)} for v in row] for e, m, row in zip(EPSILONS, means, noise, strict=True)
    }


def beyond(curve: ModuleType, made: dict) -> list:
    return curve.verdict(list(curve.steps(made, epsilons=EPSILONS)), alpha=0.05)


@pytest.mark.parametrize(("key", "good", "bad"), [("auc", 0.9, 0.7), ("tvd3", 0.1, 0.3), ("detection_auc", 0.6, 0.8)])
def test_a_step_that_is_worse_beyond_noise_is_found(curve: ModuleType, key: str, good: float, bad: float) -> None:
    found = beyond(curve, runs(curve, means=(bad, good, bad), key=key))
    assert [(s.key, s.low, s.high) for s in found] == [(key, 1.0, 10.0)]
    assert found[0].worse_by == pytest.approx(0.2, abs=0.03)


@pytest.mark.parametrize("key", ["auc", "tvd1"])
def test_noise_alone_is_not_called_worse(curve: ModuleType, key: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert beyond(curve, runs(curve, means=(0.5, 0.5, 0.5), key=key)) == []
    assert "10 steps tested" in capsys.readouterr().out


def test_getting_better_is_not_called_worse(curve: ModuleType) -> None:
    assert beyond(curve, runs(curve, means=(0.7, 0.8, 0.9), key="auc")) == []
    assert beyond(curve, runs(curve, means=(0.3, 0.2, 0.1), key="tvd1")) == []


def test_one_fit_says_nothing(curve: ModuleType) -> None:
    assert beyond(curve, runs(curve, means=(0.9, 0.7, 0.5), key="auc", fits=1)) == []


def test_the_picture_is_xml_with_a_line_for_every_generator_and_score(curve: ModuleType) -> None:
    made = runs(curve, means=(0.7, 0.8, 0.9), key="auc")
    made |= {("a<b&c", e): results for (_, e), results in made.items()}
    root = ElementTree.fromstring(curve.picture(made))
    space = "{http://www.w3.org/2000/svg}"
    assert len(root.findall(f".//{space}circle")) == 2 * len(EPSILONS) * len(curve.HIGHER_IS_BETTER)
    assert "a<b&c" in [t.text for t in root.iter(f"{space}text")]


def test_fits_that_a_file_holds_are_not_run_again(
    curve: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "fits.jsonl"
    record = {"table": "adult", "delta": 1e-5, "generator": "mst", "epsilon": 1.0, **dict.fromkeys(curve.TITLES, 0.5)}
    out.write_text("".join(json.dumps({**record, "table": t}) + "\n" for t in ("adult", "adult", "creditcard")))
    monkeypatch.setattr(curve, "split_fit", lambda *_: None)
    monkeypatch.setattr(curve, "fit_and_score", lambda *_: dict.fromkeys(curve.TITLES, 0.7))
    arguments = argparse.Namespace(out=str(out), table="adult", delta=1e-5, generators=["mst"], epsilons=[1.0], fits=3)
    assert [r["auc"] for r in curve.measure(arguments)["mst", 1.0]] == [0.5, 0.5, 0.7]
    assert len(curve.held(str(out), "adult", 1e-5)["mst", 1.0]) == 3
