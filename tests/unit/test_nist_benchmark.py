"""The k-marginal score of benchmarks/nist.py, against scores worked out by hand and against NIST's rules of binning."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd
import pytest

from tabveil.schema import Schema

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def nist(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("nist")


def table(**columns: list[str]) -> pd.DataFrame:
    return pd.DataFrame(columns, dtype=str)


def test_the_score_is_the_one_worked_out_by_hand(nist: ModuleType) -> None:
    real = table(PUMA=["a", "a", "b", "b"], MSP=["1", "1", "2", "2"], SEX=["1", "2", "1", "2"])
    synthetic = table(PUMA=["a", "a", "b", "a"], MSP=["1", "1", "2", "2"], SEX=["1", "1", "1", "2"])
    # shares of (PUMA, MSP, SEX): a11 1/4 and 1/2, a12 1/4 and 0, b21 1/4 and 1/4, b22 1/4 and 0, a22 0 and 1/4
    assert nist.k_marginal(real, synthetic) == pytest.approx((2 - 1.0) * 500)


def test_the_mean_is_over_all_pairs_of_features_that_are_not_the_group(nist: ModuleType) -> None:
    real = table(PUMA=["a", "a"], SEX=["1", "2"], MSP=["1", "1"], HISP=["0", "0"])
    synthetic = table(PUMA=["a", "a"], SEX=["1", "1"], MSP=["1", "1"], HISP=["0", "0"])
    # SEX is off by 1/2 + 1/2 in the two triples that hold it, the triple (PUMA, MSP, HISP) not at all
    assert nist.k_marginal(real, synthetic) == pytest.approx((2 - 2 / 3) * 500)


def test_the_group_makes_pairs_triples(nist: ModuleType) -> None:
    real = table(PUMA=["a", "b"], SEX=["1", "2"], MSP=["1", "2"])
    synthetic = table(PUMA=["b", "a"], SEX=["1", "2"], MSP=["1", "2"])
    assert nist.k_marginal(real, synthetic) == 0
    assert nist.k_marginal(real.drop(columns="PUMA"), synthetic.drop(columns="PUMA")) == 1000


def test_industry_codes_are_left_out(nist: ModuleType) -> None:
    real = table(PUMA=["a", "b"], SEX=["1", "2"], MSP=["1", "2"], INDP=["170", "N"])
    assert nist.k_marginal(real, real.assign(INDP=["9920", "9920"])) == 1000


def test_identical_tables_score_1000_in_any_order_and_writing(nist: ModuleType) -> None:
    rng = np.random.default_rng(1)
    real = table(
        PUMA=list(rng.choice(["a", "b"], 300)),
        SEX=list(rng.choice(["1", "2"], 300)),
        PINCP=[*rng.choice(50_000, 280).astype(str), *["N"] * 20],
        DENSITY=list(rng.choice(["16.3", "2872.7", "52864.7"], 300)),
        POVPIP=[*rng.choice(502, 290).astype(str), *["N"] * 10],
    )
    assert nist.k_marginal(real, real) == 1000
    again = real.sample(frac=1, random_state=2).assign(PINCP=lambda t: t["PINCP"].replace("N", None))
    assert nist.k_marginal(real, again) == 1000


def test_numbers_fall_in_bins_of_the_real_percentile_ranks(nist: ModuleType) -> None:
    ages = [str(i) for i in range(1, 41)]  # rank i / 40, so bins {1}, {2, 3}, ..., {36, 37}, {38, 39, 40}
    real = table(AGEP=ages, SEX=["1"] * 40)
    for new, lost in (("3", 0), ("1", 1), ("0", 1), ("N", 1)):
        moved = real.assign(AGEP=[new if a == "2" else a for a in ages])
        assert nist.k_marginal(real, moved) == pytest.approx((2 - lost * 2 / 40) * 500), new
    assert nist.k_marginal(real, real.assign(AGEP=[*ages[:39], "99"])) == 1000


def test_an_income_above_five_poverty_lines_is_a_bin_of_its_own(nist: ModuleType) -> None:
    real = table(POVPIP=[*map(str, range(461, 501)), "501"], SEX=["1"] * 41)
    moved = real.assign(POVPIP=[*map(str, range(461, 501)), "500"])
    assert nist.k_marginal(real, moved) == pytest.approx((2 - 2 / 41) * 500)


def test_densities_fall_in_equal_steps_of_the_logarithm(nist: ModuleType) -> None:
    # (53364.7 / 10) to the power of 8/20 and 9/20, times 10: the first edges above 150 are 309.67 and 475.62
    real = table(DENSITY=["100.0", "150.1", "309.7", "50000.0"], SEX=["1"] * 4)
    same = real.assign(DENSITY=["16.3", "309.6", "475.6", "52864.7"])
    assert nist.k_marginal(real, same) == 1000
    for moved in ("309.6", "475.7"):
        off = real.assign(DENSITY=["16.3", "150.1", moved, "52864.7"])
        assert nist.k_marginal(real, off) == pytest.approx((2 - 2 / 4) * 500)


def test_disjoint_tables_score_0(nist: ModuleType) -> None:
    assert nist.k_marginal(table(PUMA=["a"], SEX=["1"], MSP=["1"]), table(PUMA=["a"], SEX=["2"], MSP=["1"])) == 0


def test_the_schema_holds_the_24_features_of_the_excerpt(nist: ModuleType) -> None:
    schema = Schema.from_yaml(nist.SCHEMAS / "nist_ma2019.schema.yaml")
    assert len(schema.columns) == 24
    assert schema.target is None
    assert schema.public_rows is None
    assert not schema.draft
    assert {c.name for c in schema.columns} >= {nist.GROUP, *nist.LEFT_OUT, *nist.NUMERIC, *nist.CF21}
    assert all("NIST data dictionary" in c.note for c in schema.columns)


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("mst", {}),
        ("mst:extra_pairs=0", {"extra_pairs": 0}),
        ("aim:max_model_bytes=1e8,rounds=3", {"max_model_bytes": 1e8, "rounds": 3}),
        (
            'aim:weights={"a": 2, "b": 0.5},name=one,two,flag=true',
            {"weights": {"a": 2, "b": 0.5}, "name": "one,two", "flag": True},
        ),
    ],
)
def test_options_of_a_generator_are_numbers_texts_or_json(
    monkeypatch: pytest.MonkeyPatch, text: str, options: dict[str, object]
) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    name, read = importlib.import_module("_common").parse(text)
    assert name == text.split(":")[0]
    assert read == options
    assert [type(v) for v in read.values()] == [type(v) for v in options.values()]


def test_a_split_table_is_read_in_published_form(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    row = {"mdvis": "3", "lncoins": "0", "idp": "v1", "lpi": "1.5", "fmde": "0", "physlm": "0", "disea": "2"}
    row |= {"hlthg": "v0", "hlthf": "v1", "hlthp": "v0"}
    for part, rows in (("train", 2), ("test", 1)):
        pd.DataFrame([row] * rows).to_csv(tmp_path / f"randhie_{part}.csv.gz", index=False)
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    schema, train, test = importlib.import_module("_common").load("randhie", tmp_path)
    assert schema.public_rows is None
    assert (len(train), len(test)) == (2, 1)
    assert tuple(train.columns) == schema.names
    assert test.loc[0, ["mdvis", "idp", "hlthg", "lpi"]].tolist() == [3, True, False, 1.5]
