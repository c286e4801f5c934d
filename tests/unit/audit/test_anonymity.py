"""Anonymity: published oracles, a brute force that reads like the definitions, and odd tables."""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tabveil.audit import _disclosure as disclosure
from tabveil.audit import audit, measure, notes
from tabveil.audit._classes import Classes, Reader
from tabveil.audit.anonymity import Anonymity, Policy, measured
from tabveil.audit.base import AuditInput
from tabveil.audit.rates import beyond
from tabveil.columns import Boolean, Categorical, Date, Decimal, Identifier, Integer
from tabveil.errors import DataError, SchemaError, UsageError
from tabveil.records import Measurement
from tabveil.schema import Schema

Row = tuple[Any, ...]
ILLS = ("cancer", "flu", "heart", "viral")


def values(found: Sequence[Measurement], **wanted: Any) -> dict[str, float]:
    """Numbers by name, of the measurements whose fields are as wanted."""
    return {m.name: m.value for m in found if all(getattr(m, k) == v for k, v in wanted.items())}


# -------------------------------------------------------------------------------------------------------------- oracles


def hospital() -> tuple[pd.DataFrame, Schema]:
    """12 patients in 3 classes of 4."""
    ills = ["heart", "heart", "viral", "viral", "cancer", "heart", "viral", "viral", *["cancer"] * 4]
    frame = pd.DataFrame({"age": [29] * 4 + [50] * 4 + [35] * 4, "zip": ["a"] * 4 + ["b"] * 8, "ill": ills})
    columns = (
        Integer(name="age", low=0, high=120),
        Categorical(name="zip", categories=("a", "b")),
        Categorical(name="ill", categories=ILLS),
    )
    return frame, Schema(columns=columns, quasi_identifiers=("age", "zip"), sensitive=("ill",))


def test_the_hospital_of_three_classes() -> None:
    frame, schema = hospital()
    policy = Policy(quasi_identifiers=("age", "zip"), sensitive=("ill",), bins=None)
    got = values(measured(frame, schema, policy=policy), columns=("age", "zip"))
    assert got == {
        "k-anonymity": 4,
        "alpha of (alpha, k)-anonymity": 1.0,
        "distinct l-diversity": 1,
        "entropy l-diversity": 1.0,
        "c of recursive (c, 2)-diversity": math.inf,
        "t-closeness, equal distance": pytest.approx(0.583333, abs=5e-7),
        "delta-disclosure": math.inf,  # the first class has no cancer: the paper's bound is asked of every value
        "delta-disclosure, values seen": pytest.approx(0.875469, abs=5e-7),
        "basic beta-likeness": pytest.approx(1.4),
        "enhanced beta-likeness": math.inf,  # cancer gains 1.4, more than -ln(5/12) = 0.875: no beta does
    }


def test_the_enhanced_beta_of_others_is_a_cap_and_not_the_papers() -> None:
    """pycanon's 1.386294 for the hospital is min(largest gain, largest -ln q): two maxima over different values."""
    pairs = disclosure.Pairs.of(np.repeat([0, 1, 2], 4), np.array([1, 1, 2, 2, 0, 1, 2, 2, 0, 0, 0, 0]))
    assert min(disclosure.basic_beta(pairs), float((-np.log(pairs.whole)).max())) == pytest.approx(1.386294, abs=5e-7)
    assert disclosure.enhanced_beta(pairs) == math.inf


def test_salaries_of_li_2007() -> None:
    frame = pd.DataFrame({"zip": list("aaabbbccc"), "salary": [3, 4, 5, 6, 8, 11, 7, 9, 10]})
    columns = (Categorical(name="zip", categories=("a", "b", "c")), Integer(name="salary", low=0, high=100))
    policy = Policy(quasi_identifiers=("zip",), sensitive=("salary",), bins={"salary": None})
    got = values(measured(frame, Schema(columns=columns), policy=policy))
    assert got["t-closeness, ordered distance"] == pytest.approx(0.375)
    assert (got["k-anonymity"], got["distinct l-diversity"]) == (3, 3)
    assert got["entropy l-diversity"] == pytest.approx(3)
    assert got["alpha of (alpha, k)-anonymity"] == pytest.approx(1 / 3)
    assert got["c of recursive (c, 2)-diversity"] == 0.5
    assert got["delta-disclosure"] == math.inf
    # within one class 1/3 of 1/9: a gain of 2; -ln(1/9) = 2.2 allows it
    assert got["basic beta-likeness"] == pytest.approx(2)
    assert got["enhanced beta-likeness"] == pytest.approx(2)


def test_recursive_diversity_counts_the_most_frequent_value_first() -> None:
    pairs = disclosure.Pairs.of(np.zeros(7, dtype=np.int64), np.array([0, 0, 0, 0, 1, 1, 2]))
    assert [disclosure.recursive_c(pairs, least=n) for n in (1, 2, 3, 4)] == [4 / 7, 4 / 3, 4, math.inf]
    with pytest.raises(UsageError, match="at least 1"):
        disclosure.recursive_c(pairs, least=0)


# ---------------------------------------------------------------------------------------------------------- brute force

NAIVE_COLUMNS = (
    Integer(name="n", low=0, high=39, missing=("",)),
    Categorical(name="c, 🎈", categories=("a", "b", "c"), missing=("",)),
    Boolean(name='"b"', missing=("",), invalid="missing"),
    Integer(name="pay", low=0, high=12, missing=("",)),
    Categorical(name="ill", categories=ILLS, missing=("",)),
)
NAIVE = Schema(columns=NAIVE_COLUMNS, quasi_identifiers=("n", "c, 🎈", '"b"'), sensitive=("pay", "ill"))


def cell(*choices: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.sampled_from(choices), st.sampled_from(choices))


TABLES = st.lists(
    st.tuples(cell(0, 7, 8, 20, 39), cell("a", "b"), cell(True, False), cell(0, 1, 5, 12), cell(*ILLS[:3])),
    max_size=30,
)


def frame_of(rows: Sequence[Row]) -> pd.DataFrame:
    return pd.DataFrame({c.name: pd.Series([r[i] for r in rows], dtype=object) for i, c in enumerate(NAIVE_COLUMNS)})


def binned(row: Row) -> Row:
    """Five bins of eight years each."""
    return (None if row[0] is None else row[0] // 8, *row[1:])


def classes_of(rows: Sequence[Row], subset: Sequence[int]) -> dict[Row, list[Row]]:
    classes: dict[Row, list[Row]] = {}
    for row in rows:
        classes.setdefault(tuple(row[i] for i in subset), []).append(row)
    return classes


def naive(rows: Sequence[Row], subset: Sequence[int], sensitive: int) -> dict[str, float]:
    """Every measure of one sensitive column, one class and one value at a time."""
    classes = classes_of(rows, subset)
    q = {v: n / len(rows) for v, n in Counter(r[sensitive] for r in rows).items()}
    out: dict[str, list[float]] = {}
    for members in classes.values():
        counts = Counter(r[sensitive] for r in members)
        p = {v: counts[v] / len(members) for v in q}
        falling = sorted(counts.values(), reverse=True)
        gains = {v: (p[v] - q[v]) / q[v] for v in q}
        row = {
            "alpha of (alpha, k)-anonymity": max(p.values()),
            "distinct l-diversity": len(counts),
            "entropy l-diversity": math.exp(-sum(x * math.log(x) for x in p.values() if x)),
            "c of recursive (c, 2)-diversity": falling[0] / sum(falling[1:]) if len(falling) > 1 else math.inf,
            "t-closeness, equal distance": sum(abs(p[v] - q[v]) for v in q) / 2,
            "delta-disclosure": max(abs(math.log(p[v] / q[v])) if p[v] else math.inf for v in q),
            "delta-disclosure, values seen": max(abs(math.log(p[v] / q[v])) for v in counts),
            "basic beta-likeness": max(0.0, *gains.values()),
            "enhanced beta-likeness": math.inf
            if any(gains[v] > 1e-12 - math.log(q[v]) for v in q)
            else max(0.0, *gains.values()),
        }
        for name, value in row.items():
            out.setdefault(name, []).append(value)
    highest = ("distinct l-diversity", "entropy l-diversity")
    return {name: min(v) if name in highest else max(v) for name, v in out.items()}


def naive_ordered(rows: Sequence[Row], subset: Sequence[int], sensitive: int) -> float:
    rows = [r for r in rows if r[sensitive] is not None]
    domain = sorted({r[sensitive] for r in rows})
    worst = 0.0
    for members in classes_of(rows, subset).values():
        moved, carried = 0.0, 0.0
        for v in domain:
            carried += sum(r[sensitive] == v for r in members) / len(members)
            carried -= sum(r[sensitive] == v for r in rows) / len(rows)
            moved += abs(carried)
        worst = max(worst, moved / (len(domain) - 1) if len(domain) > 1 else 0.0)
    return worst


def naive_worst(rows: Sequence[Row], largest: int) -> tuple[int, ...]:
    """By smallest class, then by rows in classes of that size, then by fewer columns, then in order."""
    standing = {}
    for size in range(1, largest + 1):
        for subset in itertools.combinations(range(3), size):
            sizes = [len(m) for m in classes_of(rows, subset).values()]
            standing[subset] = (min(sizes), -sum(n for n in sizes if n == min(sizes)), size)
    least = min(standing.values())
    return min(s for s, standing_ in standing.items() if standing_ == least)


@settings(max_examples=200)
@given(rows=TABLES, missing=st.sampled_from(["value", "drop"]), largest=st.integers(1, 3))
def test_one_table_against_brute_force(rows: list[Row], missing: Any, largest: int) -> None:
    names = NAIVE.quasi_identifiers
    policy = Policy(
        quasi_identifiers=names,
        sensitive=NAIVE.sensitive,
        bins={"n": 5},
        missing=missing,
        largest=largest,
    )
    found = measured(frame_of(rows), NAIVE, policy=policy, name="mine")
    kept = [binned(r) for r in rows if missing == "value" or None not in r[:3]]
    if not kept:
        assert found == ()
        return
    worst = naive_worst(kept, largest)
    assert {m.columns for m in found} == {names, tuple(names[i] for i in worst)}
    for subset in {(0, 1, 2), worst}:
        columns = tuple(names[i] for i in subset)
        assert values(found, columns=columns, sensitive="") == {
            "k-anonymity": min(len(m) for m in classes_of(kept, subset).values())
        }
        for at, name in ((3, "pay"), (4, "ill")):
            used = [r for r in kept if missing == "value" or r[at] is not None]
            want = naive(used, subset, at) if used else {}
            if name == "pay" and any(r[at] is not None for r in kept):
                want["t-closeness, ordered distance"] = naive_ordered(kept, subset, at)
            got = values(found, columns=columns, sensitive=name)
            assert got == pytest.approx(want, abs=1e-9)


def naive_replicated(real: Mapping[Row, list[Row]], synthetic: Mapping[Row, list[Row]]) -> int:
    return sum(len(m) == 1 and key in synthetic for key, m in real.items())


@settings(max_examples=200)
@given(real=TABLES, synthetic=TABLES, others=TABLES)
def test_one_against_the_other_against_brute_force(real: list[Row], synthetic: list[Row], others: list[Row]) -> None:
    names = NAIVE.quasi_identifiers
    data = AuditInput(frame_of(synthetic), frame_of(real), None, NAIVE, population=frame_of(others)[list(names)])
    found = Anonymity(bins={"n": 5}).measure(data)
    r, s, o = ([binned(row) for row in rows] for rows in (real, synthetic, others))
    whole = {t: classes_of(rows, (0, 1, 2)) for t, rows in (("real", r), ("synthetic", s), ("population", o))}
    of_whole = [m for m in found if m.columns == names]
    for table, other in (("synthetic", "real"), ("real", "population"), ("synthetic", "population")):
        got = values(of_whole, table=f"{table} against {other}")
        if not (whole[table] and whole[other]):
            assert got == {}
            continue
        matched = [len(whole[other][key]) for key in whole[table] if key in whole[other]]
        assert got["k-map"] == min(matched, default=math.inf)
        if other == "real":
            assert got["replicated uniques"] == naive_replicated(whole["real"], whole["synthetic"]) / len(r)
        if table == "real":
            shares = [min(1, len(whole["real"].get(key, ())) / len(m)) for key, m in whole["population"].items()]
            assert got["delta-presence"] == max(shares)
            (presence,) = [m for m in of_whole if m.name == "delta-presence"]
            assert presence.details["least"] == min(shares)
            outside = sum(max(0, len(m) - len(whole["population"].get(key, ()))) for key, m in whole["real"].items())
            assert presence.details["rows_outside_population"] == outside
    if r and s:
        subsets = [c for n in (1, 2, 3) for c in itertools.combinations(range(3), n)]
        worst = max(naive_replicated(classes_of(r, c), classes_of(s, c)) for c in subsets)
        assert max(m.value for m in found if m.name == "replicated uniques") == worst / len(r)


@settings(max_examples=100)
@given(st.lists(st.tuples(*[st.integers(0, 2**50)] * 3), min_size=1, max_size=40))
def test_keys_beyond_64_bits_are_told_apart(rows: list[Row]) -> None:
    rows = [*rows, *rows[:3]]
    known = tuple(np.array([r[i] for r in rows]) for i in range(3))
    classes = Classes.joint({"t": known}, (2**50 + 1,) * 3)
    assert sorted(classes.rows["t"].tolist()) == sorted(Counter(rows).values())
    same = [classes.of["t"][i] == classes.of["t"][j] for i, j in itertools.combinations(range(len(rows)), 2)]
    assert same == [a == b for a, b in itertools.combinations(rows, 2)]
    pair = classes.within((0, 2))
    assert sorted(pair.rows["t"].tolist()) == sorted(Counter((r[0], r[2]) for r in rows).values())


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 10**12)), min_size=1, max_size=60))
def test_ordered_distance_of_many_values_against_brute_force(rows: list[tuple[int, int]]) -> None:
    group, value = (np.array([r[i] for r in rows]) for i in range(2))
    pairs = disclosure.Pairs.of(group, value)
    assert disclosure.ordered_t(pairs) == pytest.approx(naive_ordered(rows, (0,), 1), abs=1e-9)


# ----------------------------------------------------------------------------------------------------------- edge cases

AGED = Schema(
    columns=(
        Identifier(name="id"),
        Integer(name="age", low=0, high=99, missing=("",)),
        Categorical(name="zip", categories=("a", "b"), missing=("",), invalid="missing"),
        Categorical(name="ill", categories=ILLS, missing=("",)),
    ),
    quasi_identifiers=("age", "zip"),
    sensitive=("ill",),
)


def aged(*rows: Row) -> pd.DataFrame:
    return pd.DataFrame({n: pd.Series([r[i] for r in rows], dtype=object) for i, n in enumerate(("age", "zip", "ill"))})


def test_tables_without_rows_have_no_measurements() -> None:
    some, none = aged((1, "a", "flu")), aged()
    assert measure(none, train=none, schema=AGED) == ()
    assert {m.table for m in measure(none, train=some, schema=AGED)} == {"real"}
    assert {m.table for m in measure(some, train=none, schema=AGED)} == {"synthetic"}
    assert {m.table for m in measure(some, train=none, population=some, schema=AGED)} == {
        "synthetic",
        "synthetic against population",
    }
    assert measure(none, train=none, population=some, schema=AGED) == ()


def test_one_row() -> None:
    got = values(measure(aged(), train=aged((1, "a", "flu")), schema=AGED), columns=("age", "zip"))
    assert got["k-anonymity"] == got["distinct l-diversity"] == got["entropy l-diversity"] == 1
    assert got["t-closeness, equal distance"] == got["basic beta-likeness"] == got["delta-disclosure"] == 0
    assert got["c of recursive (c, 2)-diversity"] == math.inf


def test_all_missing_is_one_class_or_nothing() -> None:
    frame = aged(*[(None, None, None)] * 4)
    policy = Policy(quasi_identifiers=("age", "zip"), sensitive=("ill",))
    got = values(measured(frame, AGED, policy=policy), columns=("age", "zip"))
    assert (got["k-anonymity"], got["distinct l-diversity"]) == (4, 1)
    assert measured(frame, AGED, policy=dataclasses.replace(policy, missing="drop")) == ()


def test_missing_sensitive_cells_count_as_a_value_or_not_at_all() -> None:
    frame = aged((1, "a", "flu"), (1, "a", None), (1, "a", math.nan), (50, "b", None))
    policy = Policy(quasi_identifiers=("age", "zip"), sensitive=("ill",))
    got = values(measured(frame, AGED, policy=policy), columns=("age", "zip"))
    assert got["alpha of (alpha, k)-anonymity"] == 1
    assert got["distinct l-diversity"] == 1
    found = measured(frame, AGED, policy=dataclasses.replace(policy, missing="drop"))
    (l_,) = [m for m in found if m.name == "distinct l-diversity" and m.columns == ("age", "zip")]
    assert (l_.value, l_.details["rows"]) == (1, 1)
    assert "A missing cell is left out with its row." in l_.notes


def test_rows_left_out_are_counted() -> None:
    policy = Policy(quasi_identifiers=("age", "zip"), missing="drop")
    (k, *_) = measured(aged((1, "a", "flu"), (None, "a", "flu")), AGED, policy=policy)
    assert (k.value, k.details["rows"], k.details["left_out_real"]) == (1, 1, 1)


def test_a_constant_column_adds_nothing() -> None:
    frame = aged((5, "a", "flu"), (5, "a", "heart"), (5, "b", "flu"))
    found = measured(frame, AGED, policy=Policy(quasi_identifiers=("age", "zip"), sensitive=("ill",)))
    assert {m.columns for m in found} == {("age", "zip"), ("zip",)}  # the worst subset is the one with fewer columns
    assert values(found, columns=("zip",)) == values(found, columns=("age", "zip"))


def test_categories_of_one_table_only() -> None:
    found = measure(aged((1, "b", "flu")), train=aged((1, "a", "flu"), (1, "a", "heart")), schema=AGED)
    got = values(found, table="synthetic against real", columns=("age", "zip"))
    assert got == {"replicated uniques": 0, "k-map": math.inf}
    (k_map,) = [m for m in found if m.name == "k-map" and m.columns == ("age", "zip")]
    assert k_map.details == {"rows": 1, "rows_without_match": 1}


def test_a_value_the_schema_does_not_list_is_one_of_its_own() -> None:
    frame = aged((1, "a", "flu"), (1, "elsewhere", "flu"), (1, "nowhere", "flu"), (1, None, "flu"))
    policy = Policy(quasi_identifiers=("zip",))
    (k,) = measured(frame, AGED, policy=policy)
    assert (k.value, k.details["classes"]) == (1, 3)


def test_text_and_types_are_read_alike() -> None:
    typed = aged((1, "a", "flu"), (1, None, "flu"), (70, "b", "heart"))
    text = pd.DataFrame({"age": ["1", "1", "70"], "zip": ["a", "", "b"], "ill": ["flu", "flu", "heart"]})
    assert measure(text, train=text, schema=AGED) == measure(typed, train=typed, schema=AGED)


def test_order_of_rows_and_columns_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    frame = aged(
        *zip(rng.integers(0, 99, 200).tolist(), rng.choice(list("ab"), 200), rng.choice(ILLS, 200), strict=True)
    )
    again = frame.sample(frac=1, random_state=1)[["zip", "ill", "age"]]
    first, second = (measure(frame[:50], train=t, schema=AGED) for t in (frame, again))
    assert [dataclasses.replace(m, value=0.0) for m in first] == [dataclasses.replace(m, value=0.0) for m in second]
    assert [m.value for m in first] == pytest.approx([m.value for m in second])


def test_measurements_are_complete_and_survive_json() -> None:
    frame, schema = hospital()
    found = measure(frame, train=frame, population=frame, schema=schema)
    assert {m.table for m in found} == {
        "real",
        "synthetic",
        "synthetic against real",
        "real against population",
        "synthetic against population",
    }
    for m in found:
        assert m.internal
        assert m.auditor == "anonymity"
        assert m.definition.endswith(".")
        assert any(year in m.source for year in ("200", "201", "202"))
        assert "safe" not in f"{m.definition} {m.notes}".lower()
        assert Measurement.from_json(m.to_json()) == m


# ----------------------------------------------------------------------------------------------------------------- bins


def read(column: Any, cut: Any, cells: Sequence[Any]) -> list[int]:
    return Reader.of(column, cut).read(pd.Series(list(cells), dtype=object)).tolist()


def test_bins_lie_between_declared_bounds_whatever_rows_say() -> None:
    age = Integer(name="age", low=0, high=99, missing=("",))
    assert read(age, 20, [0, 4, 5, 99, 120, -3, None, "x"]) == [0, 0, 1, 19, 19, 0, 20, 21]
    assert read(age, 20, [40, 41]) == [8, 8]
    assert read(age, 3, [33, 34, 66, 67]) == [0, 1, 1, 2]
    assert read(age, None, [0, 99, None]) == [0, 99, 100]
    assert read(age, [18, 65], [0, 17, 18, 64, 65, 99, None]) == [0, 0, 1, 1, 2, 2, 3]
    born = Date(name="born", low=dt.date(1900, 1, 1), high=dt.date(1999, 12, 31))
    days = [dt.date(1900, 1, 1), dt.date(1949, 12, 31), dt.date(1950, 1, 1), dt.date(1999, 12, 31)]
    assert read(born, [dt.date(1950, 1, 1)], days) == [0, 0, 1, 1]
    wide = Decimal(name="wide", low=0.0, high=2.0**52 - 1, decimals=0)
    assert read(wide, 1000, [0, 2.0**52 - 1]) == [0, 999]


def test_notes_say_where_bins_come_from() -> None:
    for source, said in (
        ("declared", "between declared bounds"),
        ("draft", "between bounds that were read from rows (draft)"),
        ("charged", "between bounds bought under a budget"),
    ):
        age = Integer(name="age", low=0, high=99, source=source)  # type: ignore[arg-type]
        assert said in Reader.of(age, 20).note()
        assert Reader.of(age, [18, 65]).note() == "cut at 2 named edges"
        assert Reader.of(age, 100).note() == ""


# --------------------------------------------------------------------------------------------------------------- attack


def people(rows: int, seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    table = {"age": rng.integers(0, 100, rows), "zip": rng.choice(["a", "b"], rows), "ill": rng.choice(ILLS, rows)}
    return pd.DataFrame(table)


def test_unique_people_are_found_where_rows_are_copied() -> None:
    train, holdout = people(60, 1), people(60, 2)
    (found,) = audit(train, train=train, holdout=holdout, schema=AGED, auditors=["anonymity"])
    assert (found.value, found.control) == (1.0, 0.0)
    both = pd.concat([train, holdout])
    keys = Counter((a * 20 // 100, z) for a, z in zip(both["age"], both["zip"], strict=True))
    ours = sum(keys[a * 20 // 100, z] == 1 for a, z in zip(train["age"], train["zip"], strict=True))
    assert f"{ours:,} of {ours:,} training rows that are unique" in found.verdict
    assert not beyond(audit(people(60, 3), train=train, holdout=holdout, schema=AGED, auditors=["anonymity"])[0])


def test_reasons_for_no_finding() -> None:
    train, holdout = people(60, 1), people(60, 2)
    bare = dataclasses.replace(AGED, quasi_identifiers=(), sensitive=())
    tables: dict[str, Any] = {"synthetic": train, "train": train}
    (said,) = notes(AuditInput(**tables, holdout=holdout, schema=bare), auditors=["anonymity"])
    assert said == "Anonymity was not measured: the schema declares no quasi-identifiers."
    assert measure(train, train=train, schema=bare) == ()
    (said,) = notes(AuditInput(**tables, holdout=None, schema=AGED), auditors=["anonymity"])
    assert said == "Whether unique people turn up was not measured: there are no held-out rows."
    (said,) = notes(AuditInput(**tables, holdout=train, schema=AGED), auditors=["anonymity"])
    assert said.endswith(
        "no training row, or no held-out row, is unique in its quasi-identifiers among all rows of both."
    )


# --------------------------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ({"quasi_identifiers": ()}, "declare 'quasi_identifiers' in the schema"),
        ({"quasi_identifiers": ("shoe",)}, "'shoe' cannot be a quasi-identifier"),
        ({"quasi_identifiers": ("id",)}, "'id' cannot be a quasi-identifier.*that is no identifier"),
        ({"quasi_identifiers": ("age", "age")}, "'age' is named twice"),
        ({"sensitive": ("age",)}, "'age' is named twice"),
        ({"missing": "guess"}, "'missing' must be"),
        ({"largest": 0}, "'largest' must be"),
        ({"bins": 0}, "'bins' must be 1 to 1,000"),
        ({"bins": True}, "'bins' must be 1 to 1,000"),
        ({"bins": {"age": 0}}, "Column 'age': 'bins' must be 1 to 1,000"),
        ({"bins": {"age": 5000}}, "Column 'age': 'bins' must be 1 to 1,000"),
        ({"bins": {"zip": 3}}, "'bins' names 'zip'"),
        ({"bins": {"ill": 3}}, "'bins' names 'ill'"),
        ({"bins": {"age": []}}, "Column 'age': edges must be"),
        ({"bins": {"age": [65, 18]}}, "Column 'age': edges must be"),
        ({"bins": {"age": ["eighteen"]}}, "Column 'age': edges must be"),
        ({"bins": {"age": "18"}}, "Column 'age': edges must be"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(policy: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        measured(aged((1, "a", "flu")), AGED, policy=Policy(**{"quasi_identifiers": ("age", "zip"), **policy}))


def test_errors_quote_no_cell() -> None:
    secret = "Qx7-sentinel-Zk"
    frame = aged((secret, secret, secret))
    with pytest.raises(DataError) as lacking:
        measured(frame[["zip"]], AGED, policy=Policy(quasi_identifiers=("age",)))
    assert str(lacking.value) == "The real table lacks column 'age': the audit is told to read it."
    with pytest.raises(DataError, match="population table lacks column 'zip'"):
        measure(frame, train=frame, population=frame[["age"]], schema=AGED)
    twice = pd.concat([frame, frame[["age"]]], axis=1)
    with pytest.raises(DataError, match="has more than once column 'age'"):
        measured(twice, AGED, policy=Policy(quasi_identifiers=("age",)))
    said = "".join(m.to_json() for m in measure(frame, train=frame, schema=AGED))
    assert secret not in said


def test_bounds_that_are_to_be_learned_are_asked_for() -> None:
    schema = Schema(columns=(Integer(name="age", learn=True),), quasi_identifiers=("age",))
    with pytest.raises(SchemaError, match=r"'age'.*fitted"):
        measured(pd.DataFrame({"age": [1]}), schema, policy=Policy(quasi_identifiers=("age",)))


def test_no_rows_have_no_pairs() -> None:
    with pytest.raises(UsageError, match="without rows"):
        disclosure.Pairs.of(np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64))


# ---------------------------------------------------------------------------------------------------------------- roles


def test_a_schema_keeps_its_roles_in_text_and_says_nothing_without() -> None:
    assert Schema.from_json(AGED.to_json()) == AGED
    assert Schema.from_dict(AGED.to_dict()).quasi_identifiers == ("age", "zip")
    bare = Schema(columns=AGED.columns)
    assert "sensitive" not in bare.to_dict()
    assert bare.digest != AGED.digest


@pytest.mark.parametrize(
    ("roles", "said"),
    [
        ({"quasi_identifiers": ("id",)}, "'quasi_identifiers' must list names of its learned columns"),
        ({"sensitive": ("shoe",)}, "'sensitive' must list"),
        ({"sensitive": "ill"}, "'sensitive' must list"),
        ({"sensitive": (3,)}, "'sensitive' must list"),
        ({"sensitive": ("ill", "ill")}, "'sensitive' lists a column twice"),
        ({"quasi_identifiers": ("ill",), "sensitive": ("ill",)}, "column 'ill' as quasi-identifier and as sensitive"),
    ],
)
def test_roles_are_names_of_learned_columns(roles: dict[str, Any], said: str) -> None:
    with pytest.raises(SchemaError, match=said):
        Schema(columns=AGED.columns, **roles)
