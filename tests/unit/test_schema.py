"""Schema: public knowledge in and out of files, refused where it is wrong, marked where it came from rows."""

from __future__ import annotations

import dataclasses
import datetime as dt
import hashlib
import json
import re
import traceback
from pathlib import Path

import pandas as pd
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import tabveil
from tabveil import _schema_text
from tabveil.columns import KINDS, Boolean, Categorical, Date, Datetime, Decimal, Identifier, Integer
from tabveil.errors import DataError, SchemaError
from tabveil.schema import Schema

PACKAGED = Path(tabveil.__file__).parent / "data" / "randhie.schema.yaml"
AGE = Integer(name="age", low=0, high=120, note="a round number")
SEX = Categorical(name="sex", categories=("F", "M"))
PATIENT = Identifier(name="patient", pattern="P{n:06d}")
MINIMAL = "columns:\n- {name: age, kind: integer, low: 0, high: 120}\n"


def odd(**changes) -> Schema:
    """A schema with every kind and names that files dislike."""
    columns = (
        AGE,
        Categorical(name="blank, comma;\t'\"", categories=("no", "1", "2020-01-01", "null", "~", "é\n"), missing=("",)),
        Categorical(name="😀", categories=(" a", "a ", "# no comment", "- x", "a: b"), catch_all="other", ordered=True),
        Decimal(name="no", low=-1e-7, high=0.1, decimals=9),
        Boolean(name="true", true=("ja",), false=("nein",)),
        Date(name="2020-01-01", low=dt.date(1900, 1, 1), high=dt.date(2030, 12, 31), format="%d.%m.%Y"),
        Datetime(name="null", low=dt.datetime(2020, 1, 1), high=dt.datetime(2021, 1, 1, 12, 30), resolution=60),
        PATIENT,
    )
    return Schema(**{"columns": columns, "name": "no", "description": "line\nline: 'x' \u2028", **changes})


# -------------------------------------------------------------------------------------------------------------- files

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
names = texts.filter(bool)
common = {"name": st.just("x"), "note": texts, "source": st.sampled_from(["declared", "charged"])}
gaps = {**common, "missing": st.lists(texts, unique=True, max_size=3)}


def pair(values):
    return st.tuples(values, values).map(sorted)


def grid(kind, values, **fields):
    return st.builds(lambda b, **k: kind(low=b[0], high=b[1], **k), pair(values), **gaps, **fields)


COLUMNS = st.one_of(
    grid(Integer, st.integers(-(2**40), 2**40)),
    grid(Decimal, st.floats(-1e3, 1e3), decimals=st.integers(0, 12)),
    grid(Date, st.dates(dt.date(1000, 1, 1))),
    grid(
        Datetime,
        st.datetimes(dt.datetime(1000, 1, 1)).map(lambda t: t.replace(microsecond=0)),
        resolution=st.integers(1, 10**6),
    ),
    st.builds(
        lambda c, **k: Categorical(categories=c[:-1], catch_all=c[-1], **k),
        st.lists(texts, min_size=2, max_size=6, unique=True),
        ordered=st.booleans(),
        **common,
    ),
    st.builds(Boolean, **common),
    st.builds(Identifier, pattern=names.map(lambda t: t.replace("{", "{{").replace("}", "}}") + "{n:03d}"), **common),
)


@st.composite
def schemas(draw) -> Schema:
    """Valid schemas with odd texts everywhere."""
    titles = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    columns = [dataclasses.replace(draw(COLUMNS), name=title) for title in titles]
    columns.append(Boolean(name="".join(titles) + "."))
    return Schema(tuple(columns), name=draw(names), description=draw(texts), public_rows=draw(st.none() | st.just(7)))


@given(schemas())
def test_json_and_yaml_lose_nothing(schema):
    assert Schema.from_json(schema.to_json()) == schema
    assert Schema.from_dict(json.loads(json.dumps(schema.to_dict()))) == schema
    text = _schema_text.dump_yaml(schema.to_dict(), draft=schema.draft)
    again = Schema.from_dict(_schema_text.parse_yaml(text, name="x"))
    assert again == schema
    assert again.digest == schema.digest


@given(schemas())
def test_any_yaml_reader_reads_what_we_write(schema):
    text = _schema_text.dump_yaml(schema.to_dict(), draft=False)
    assert [c["name"] for c in yaml.safe_load(text)["columns"]] == list(schema.names)


@pytest.mark.parametrize("make", [odd, lambda: odd().approve(by="Ada"), lambda: Schema.from_yaml(PACKAGED)])
def test_files_round_trip(make, tmp_path):
    schema = make()
    path = tmp_path / "a name with blanks.yaml"
    schema.to_yaml(path)
    assert Schema.from_yaml(path) == schema
    assert Schema.from_yaml(str(path)).digest == schema.digest


def test_five_thousand_categories_and_two_hundred_columns(tmp_path):
    wide = tuple(Integer(name=f"c{i}", low=0, high=i) for i in range(199))
    schema = Schema((*wide, Categorical(name="long", categories=tuple(f"code {i}" for i in range(5000)))))
    schema.to_yaml(tmp_path / "s.yaml")
    assert Schema.from_yaml(tmp_path / "s.yaml") == schema


def test_yaml_explains_every_field_to_a_reader(tmp_path):
    odd().to_yaml(tmp_path / "s.yaml")
    head = (tmp_path / "s.yaml").read_text().split("tabveil_schema")[0]
    fields = {f.name for kind in KINDS.values() for f in dataclasses.fields(kind)}
    fields |= {f.name for f in dataclasses.fields(Schema)} - {"columns"}
    assert {f for f in fields | set(KINDS) if f not in head} == set()


def test_digest_is_the_hash_of_canonical_json():
    schema = Schema((AGE,))
    assert schema.digest == hashlib.sha256(schema.to_json().encode()).hexdigest()
    assert schema.digest != Schema((dataclasses.replace(AGE, high=121),)).digest
    assert list(json.loads(schema.to_json())) == sorted(schema.to_dict())


def test_hand_written_yaml_needs_little(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.encode())
    assert Schema.from_yaml(path) == Schema((Integer(name="age", low=0, high=120),))


YAML = [  # text, what the sentence says
    ("", "it must hold keys and values"),
    ("- a\n- b\n", "it must hold keys and values"),
    ("SENTINEL", "it must hold keys and values"),
    ("columns: [\nSENTINEL: {", "not valid YAML at line 2"),
    ("name: a\n\tSENTINEL: 1\n", "not valid YAML at line 2"),
    ("name: 'SENTINEL\n", "not valid YAML at line"),
    ("name: !SENTINEL x\n", "not valid YAML at line 1"),
    ("name: *SENTINEL\n", "not valid YAML at line 1"),
    ("name: \x01SENTINEL\n", "a character that YAML does not allow"),
    ("[" * 5000, "nested too deeply"),
    ("name: a\nname: SENTINEL\n" + MINIMAL, "a key twice, or one that is no text, at line 2"),
    ("? [SENTINEL]\n: 1\n", "a key twice, or one that is no text, at line 1"),
    ("columns:\n- {name: d, kind: date, low: 2020-13-45, high: 2021-01-01}\n", "date or number .* at line 2"),
    ("columns: []\n", "no column to learn"),
    ("columns:\n", "'columns' must be a list"),
    ("columns:\n  age: {kind: integer}\n", "'columns' must be a list"),
    ("columns:\n- age\n", "Column number 1 must be written as keys and values"),
    ("colums: []\n", "unknown key 'colums'; did you mean 'columns'"),
    ("tabveil_schema: 2\n" + MINIMAL, "a newer tabveil"),
    ("columns:\n- {name: age, kind: integr, low: 0, high: 1}\n", "did you mean 'integer'"),
    ("columns:\n- {name: age, low: 0, high: 1}\n", "Column 'age': 'kind' must be one of"),
    ("columns:\n- {name: age, kind: integer, hihg: 1}\n", "Column 'age': unknown key 'hihg'; did you mean 'high'"),
    ("columns:\n- {name: age, kind: integer, low: 0}\n", "'high' must be given"),
    ("columns:\n- {name: age, kind: integer, low: 0, high: '1'}\n", "whole numbers"),
    ("columns:\n- {name: age, kind: integer, low: 0, high: 010}\n", "whole numbers"),
    ("columns:\n- {name: age, kind: integer, low: 0, high: 1:30}\n", "whole numbers"),
    ("columns:\n- {name: sex, kind: categorical, categories: [yes, no]}\n", "put quotes"),
    ("columns:\n- {name: sex, kind: categorical, categories: [1, 2]}\n", "put quotes"),
    ("columns:\n- {name: sex, kind: categorical, categories: [2020-01-01]}\n", "put quotes"),
    ("columns:\n- {name: sex, kind: categorical, categories: [~]}\n", "put quotes"),
    ("columns:\n- {name: sex, kind: categorical, categories: F}\n", "must be a list of texts"),
    ("columns:\n- {name: no, kind: boolean}\n", "put quotes"),
    ("columns:\n- {name: d, kind: date, low: yesterday, high: 2020-01-01}\n", "must be dates"),
    ("columns:\n- {name: t, kind: datetime, low: 2020-01-01T00:00:00Z, high: 2021-01-01}\n", "without a zone"),
    ("columns:\n- {name: a, kind: boolean}\n- {name: a, kind: boolean}\n", "column 'a' more than once"),
    ("public_rows: 0\n" + MINIMAL, "'public_rows' must be a whole number"),
    ("public_rows: true\n" + MINIMAL, "'public_rows' must be a whole number"),
    ("name: 2020\n" + MINIMAL, "'name' must be a text"),
    ("draft: maybe\n" + MINIMAL, "'draft' must be true or false"),
    ("approved_by: Ada\n" + MINIMAL, "belong together"),
    ("approved_by: Ada\napproved_on: tomorrow\n" + MINIMAL, "must be a date"),
]


@pytest.mark.parametrize(("text", "says"), YAML)
def test_a_wrong_file_is_one_sentence_without_its_content(text, says, tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(text)
    with pytest.raises(SchemaError, match=says) as caught:
        Schema.from_yaml(path)
    assert "\n" not in str(caught.value)
    if "unknown key" not in says:
        assert "SENTINEL" not in "".join(traceback.format_exception(caught.value)).replace(text, "")


def test_unquoted_dates_and_exponents_are_what_they_look_like(tmp_path):
    path = tmp_path / "s.yaml"
    path.write_text(
        "approved_by: Ada\napproved_on: 2026-01-31\ncolumns:\n"
        "- {name: d, kind: date, low: 2020-01-31, high: '2021-01-31'}\n"
        "- {name: t, kind: datetime, low: 2020-01-31, high: 2020-01-31 10:00:00}\n"
        "- {name: x, kind: decimal, low: -1e3, high: 1e3, decimals: 1}\n"
        "- {name: z, kind: categorical, categories: [010, 1:30]}\n"
    )
    schema = Schema.from_yaml(path)
    assert schema["d"] == Date(name="d", low=dt.date(2020, 1, 31), high=dt.date(2021, 1, 31))
    assert schema["t"].low == dt.datetime(2020, 1, 31)
    assert schema["x"].high == 1000.0
    assert schema["z"].categories == ("010", "1:30")
    assert schema.approved_on == "2026-01-31"


@pytest.mark.parametrize(
    ("write", "says"),
    [
        (lambda p: None, "does not exist"),
        (lambda p: p.mkdir(), "is a folder"),
        (lambda p: p.write_bytes("name: ü".encode("latin-1")), "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_read(write, says, tmp_path):
    write(tmp_path / "s.yaml")
    with pytest.raises(SchemaError, match=says):
        Schema.from_yaml(tmp_path / "s.yaml")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", '{"columns": [], "columns": []}', "[" * 10**5])
def test_json_that_is_no_schema(text):
    with pytest.raises(SchemaError):
        Schema.from_json(text)


# -------------------------------------------------------------------------------------------------------------- rules

RULES = [
    (lambda: Schema(()), "no column to learn"),
    (lambda: Schema((PATIENT,)), "no column to learn"),
    (lambda: Schema(("age",)), "must hold columns"),
    (lambda: Schema((AGE, AGE)), "'age' more than once"),
    (lambda: Schema((AGE,), name=""), "must not be empty"),
    (lambda: Schema((AGE,), name="\ud800"), "must be a text"),
    (lambda: Schema((AGE,), public_rows=-1), "at least 1"),
    (lambda: Schema((AGE,), public_rows=1.5), "at least 1"),
    (lambda: Schema((AGE, PATIENT), privacy_unit="patient"), "belong together"),
    (lambda: Schema((AGE, PATIENT), max_rows_per_unit=2), "belong together"),
    (lambda: Schema((AGE, PATIENT), privacy_unit="age", max_rows_per_unit=2), "identifier columns"),
    (lambda: Schema((AGE, PATIENT), privacy_unit="patient", max_rows_per_unit=0), "at least 1"),
    (lambda: Schema((AGE, PATIENT), target="patient"), "learned columns"),
    (lambda: Schema((AGE,), target=["age"]), "learned columns"),
    (lambda: Schema((dataclasses.replace(AGE, source="draft"),)), "'age' still says 'source: draft'"),
    (lambda: Schema((AGE,), draft=True, approved_by="Ada", approved_on="2026-01-01"), "cannot have been approved"),
    (lambda: Schema((AGE,), approved_by=" ", approved_on="2026-01-01"), "name of a person"),
    (lambda: Schema((AGE,), approved_by="Ada", approved_on="20260101"), "must be a date"),
    (lambda: Schema((AGE,))["agee"], "did you mean 'age'"),
]


@pytest.mark.parametrize(("make", "says"), RULES)
def test_rules_of_a_schema(make, says):
    with pytest.raises(SchemaError, match=says):
        make()


def test_the_protected_unit_in_words_and_numbers():
    rows = Schema((AGE, PATIENT))
    people = Schema((AGE, PATIENT), privacy_unit="patient", max_rows_per_unit=4)
    assert (rows.unit, rows.contributions) == ("row", 1)
    assert (people.unit, people.contributions) == ("person named by 'patient' (at most 4 rows each)", 4)
    assert people.learned == (AGE,)
    assert people.names == ("age", "patient")
    assert people.column("age") is people["age"] is AGE


COLUMN_CHECKS = [
    (["sex"], "lacks column 'age'"),
    (["age", "sex", "age"], "column 'age' more than once"),
    (["age", "sex", "SENTINEL", "SENTINEL"], "2 columns that the schema does not name"),
    (["age", "SENTINEL"], "lacks column 'sex' and has 1 column that"),
    (["SENTINEL", "17"], "None of the table's 2 columns"),
    ([], "None of the table's 0 columns"),
]


@pytest.mark.parametrize(("table", "says"), COLUMN_CHECKS)
def test_a_table_of_other_columns_is_refused_without_quoting_it(table, says):
    with pytest.raises(DataError, match=says) as caught:
        Schema((AGE, SEX)).check_columns(table)
    assert "SENTINEL" not in str(caught.value)


def test_the_order_of_columns_does_not_matter():
    Schema((AGE, SEX)).check_columns(["sex", "age"])


def test_many_missing_columns_are_counted():
    schema = Schema(tuple(Integer(name=f"c{i}", low=0, high=1) for i in range(100)))
    with pytest.raises(DataError, match="'c1', 'c2', 'c3', 'c4', 'c5' and 94 more"):
        schema.check_columns(["c0"])


# -------------------------------------------------------------------------------------------------------------- drafts


def mixed() -> pd.DataFrame:
    """A table whose 200 rows hold something of every kind, as text."""
    n = range(200)
    return pd.DataFrame(
        {
            "id": [f"P{i:04d}" for i in n],
            "key": [str(1000 + 3 * i) for i in n],
            "age": [str(17 + i % 74) for i in n],
            "pay": [f"{i * 1.25:.2f}" if i % 9 else "" for i in n],
            "whole": [f"{i % 50}.0" for i in n],
            "tiny": [f"{i % 30}e-5" for i in n],
            "born": [f"{1 + i % 28:02d}.{1 + i % 12:02d}.{1950 + i % 50}" for i in n],
            "seen": [f"2021-05-{1 + i % 28:02d} {i % 24:02d}:30:00" for i in n],
            "ill": [str(i % 2) for i in n],
            "sure": [["True", "false"][i % 2] for i in n],
            "town": ["SENTINEL" if i == 7 else "AB"[i % 2] for i in n],
            "zip": [f"0{i % 5}" for i in n],
            "empty": ["" for i in n],
            "score": ["?" if i % 7 == 0 else str(i % 40) for i in n],
            "coded": ["not asked" if i % 7 == 0 else str(i % 40) for i in n],
            "far": [str(10**17 + i % 3) for i in n],
        }
    )


def test_a_draft_proposes_kinds_and_outward_bounds():
    draft = Schema.draft(mixed())
    assert {c.name: c.kind for c in draft.columns} == {
        "id": "identifier",
        "key": "identifier",
        "age": "integer",
        "pay": "decimal",
        "whole": "integer",
        "tiny": "decimal",
        "born": "date",
        "seen": "datetime",
        "ill": "boolean",
        "sure": "boolean",
        "town": "categorical",
        "zip": "categorical",
        "empty": "categorical",
        "score": "integer",
        "coded": "integer",
        "far": "categorical",
    }
    assert (draft["age"].low, draft["age"].high) == (10, 90)
    assert (draft["pay"].low, draft["pay"].high, draft["pay"].decimals) == (0.0, 300.0, 2)
    assert draft["pay"].missing == ("",)
    assert draft["tiny"].decimals == 5
    assert (draft["born"].low, draft["born"].high) == (dt.date(1950, 1, 1), dt.date(1999, 12, 31))
    assert (draft["seen"].low, draft["seen"].resolution) == (dt.datetime(2021, 1, 1), 60)
    assert draft["zip"].categories == ("00", "01", "02", "03", "04")
    assert draft["score"].missing == ("?",)
    assert draft["coded"].missing == ("not asked",)


def test_a_draft_leaves_out_what_few_rows_hold():
    town = Schema.draft(mixed())["town"]
    assert town.categories == ("A", "B")
    assert town.catch_all == "other"
    assert Schema.draft(mixed().iloc[:50])["town"].catch_all is None  # a small table: every category is rare


@pytest.mark.parametrize("rows", [0, 1, 5, 19])
def test_drafts_of_very_small_tables(rows):
    draft = Schema.draft(mixed().iloc[:rows])
    assert draft.names == tuple(mixed().columns)
    assert Schema.from_json(draft.to_json()) == draft


def test_drafts_of_typed_frames():
    frame = pd.DataFrame(
        {
            "i": [1, 2, 300],
            "f": [0.5, None, 2.25],
            "gap": [1.0, None, 3.0],
            "b": [True, False, True],
            "nb": pd.array([True, None, False], dtype="boolean"),
            "c": pd.Categorical(["x", "y", "x"]),
            "d": pd.to_datetime(["2020-02-03", None, "2021-02-03"]),
            "t": pd.to_datetime(["2020-02-03 10:00", "2020-02-03 11:00", "2021-02-03 12:00"]),
            "f32": pd.Series([0.1, 0.2, 0.3], dtype="float32"),
            "wide": [1e300, 2.0, 3.0],
        }
    )
    draft = Schema.draft(frame)
    kinds = " ".join(c.kind for c in draft.columns)
    assert kinds == "integer decimal integer boolean boolean categorical date datetime decimal categorical"
    assert (draft["f"].decimals, draft["f32"].decimals) == (2, 1)
    assert [c.name for c in draft.columns if c.missing] == ["f", "gap", "nb", "d"]
    assert draft["t"].resolution == 3600


@pytest.mark.parametrize(
    "values",
    [pd.to_timedelta([1, 2], unit="D"), pd.to_datetime(["2020-01-01", "2020-01-02"], utc=True), [1 + 2j, 3j]],
)
def test_types_that_no_kind_can_hold(values):
    with pytest.raises(DataError, match="Column 'x'"):
        Schema.draft(pd.DataFrame({"x": values}))


def test_a_draft_is_refused_until_a_person_approves_it(tmp_path):
    draft = Schema.draft(mixed(), name="patients")
    assert draft.draft is True
    assert {c.source for c in draft.columns} == {"draft"}
    with pytest.raises(SchemaError, match="'patients' is a draft"):
        draft.require_approved()
    draft.to_yaml(tmp_path / "s.yaml")
    assert (tmp_path / "s.yaml").read_text().startswith("# DRAFT. THE BOUNDS AND CATEGORIES BELOW WERE READ FROM")
    approved = Schema.from_yaml(tmp_path / "s.yaml").approve(by="Ada", on="2026-01-31")
    approved.require_approved()
    assert (approved.draft, approved.approved_by, approved.approved_on) == (False, "Ada", "2026-01-31")
    assert {c.source for c in approved.columns} == {"declared"}
    assert all("Approved by Ada on 2026-01-31." in c.note for c in approved.columns)
    assert Schema((AGE,)).approve(by="Ada").columns == (AGE,)


def test_deleting_the_draft_flag_by_hand_is_no_approval():
    data = Schema.draft(mixed()).to_dict()
    data["draft"] = False
    with pytest.raises(SchemaError, match="source: draft"):
        Schema.from_dict(data)


def test_no_value_shows_in_the_repr_of_a_draft():
    draft = Schema.draft(mixed().iloc[:50])
    assert "SENTINEL" in draft["town"].categories
    assert "SENTINEL" not in repr(draft) + repr(draft.columns)


def test_a_draft_can_be_made_of_a_file(tmp_path):
    mixed().to_csv(tmp_path / "t.csv", index=False)
    assert Schema.draft(tmp_path / "t.csv") == Schema.draft(mixed())


# ---------------------------------------------------------------------------------------------------------------- SDV

V1_COLUMNS = {
    "patient": {"sdtype": "id", "regex_format": "P[0-9]{6}"},
    "age": {"sdtype": "numerical", "computer_representation": "Int64"},
    "pay": {"sdtype": "numerical"},
    "sex": {"sdtype": "categorical"},
    "level": {"sdtype": "categorical", "order": [1.0, True, "x"]},
    "born": {"sdtype": "datetime", "datetime_format": "%d.%m.%Y"},
    "ill": {"sdtype": "boolean"},
    "mail": {"sdtype": "email", "pii": True},
}
KNOWN = {
    "age": {"low": 0, "high": 120},
    "pay": {"kind": "decimal", "low": 0, "high": 1e5, "decimals": 2},
    "sex": {"categories": ["F", "M"], "missing": [""]},
    "level": {"categories": ["1", "true", "x"]},
    "born": {"low": dt.date(1900, 1, 1), "high": "2026-12-31"},
}
VERSIONS = {
    "SINGLE_TABLE_V1": {"columns": V1_COLUMNS, "primary_key": "patient", "METADATA_SPEC_VERSION": "SINGLE_TABLE_V1"},
    "V1": {"tables": {"t": {"columns": V1_COLUMNS}}, "relationships": [], "METADATA_SPEC_VERSION": "V1"},
    "V2": {"tables": {"t": {"columns": V1_COLUMNS}}, "relationships": [], "METADATA_SPEC_VERSION": "V2"},
}


@pytest.mark.parametrize("metadata", VERSIONS.values(), ids=VERSIONS)
def test_sdv_metadata_with_public_knowledge_is_a_schema(metadata, tmp_path):
    schema = Schema.from_sdv(metadata, known=KNOWN)
    schema.require_approved()
    assert {c.source for c in schema.columns} == {"declared"}
    assert schema["patient"] == PATIENT
    assert schema["pay"] == Decimal(name="pay", low=0, high=1e5, decimals=2)
    assert schema["sex"] == Categorical(name="sex", categories=("F", "M"), missing=("",))
    assert schema["level"].ordered
    assert schema["mail"].kind == "identifier"
    assert schema["born"].format == "%d.%m.%Y"
    (tmp_path / "m.json").write_text(json.dumps(metadata))
    assert Schema.from_sdv(tmp_path / "m.json", known=KNOWN) == schema


def test_sdv_metadata_without_public_knowledge_says_what_is_missing():
    with pytest.raises(SchemaError) as caught:
        Schema.from_sdv(VERSIONS["V1"])
    said = str(caught.value)
    assert "age: low, high; pay: kind, and what that kind needs; sex: categories; born: low, high." in said
    assert "level" not in said  # its order lists its categories


def test_ranges_that_sdv_learned_from_rows_make_a_draft():
    ranges = {"range_min": 17, "range_max": 90, "decimal_places": 0, "range_is_nullable": True}
    columns = {"age": {"sdtype": "numerical", **ranges}, "ill": {"sdtype": "boolean", "range_is_nullable": False}}
    metadata = {"tables": {"t": {"columns": columns}}, "METADATA_SPEC_VERSION": "V2"}
    schema = Schema.from_sdv(metadata)
    assert schema.draft
    assert schema["age"] == Integer(
        name="age", low=17, high=90, missing=("",), source="draft", note="Ranges from SDV metadata."
    )
    assert schema["ill"].source == "declared"
    declared = Schema.from_sdv(metadata, known={"age": {"low": 0, "high": 120, "missing": ["", "NA"]}})
    assert not declared.draft
    half = Schema.from_sdv(metadata, known={"age": {"low": 0, "high": 120}})
    assert half.draft  # that a cell may be missing still comes from SDV


SDV_MISTAKES = [
    ({}, {}, "no 'columns'"),
    ({"tables": {}}, {}, "names no table"),
    ({"tables": {"a": {}, "b": {}}}, {}, "holds 2 tables"),
    ({"fields": {}, "METADATA_SPEC_VERSION": "0.1"}, {}, "must be of version"),
    ({"columns": {"a": {}}}, {}, "no 'sdtype'"),
    ({"columns": {"age": {"sdtype": "boolean"}}}, {"agee": {}}, "did you mean 'age'"),
    ({"columns": {"age": {"sdtype": "boolean"}}}, {"age": {"low": 0}}, "'known' of column 'age': unknown key 'low'"),
    ({"columns": {"a": {"sdtype": "unknown"}}}, {}, "a: kind"),
    ([], {}, "must be a dict"),
    ("no such file.json", {}, "does not exist"),
]


@pytest.mark.parametrize(("metadata", "known", "says"), SDV_MISTAKES)
def test_wrong_sdv_metadata(metadata, known, says):
    with pytest.raises(SchemaError, match=says):
        Schema.from_sdv(metadata, known=known)


def test_one_table_of_several_is_chosen_by_name():
    metadata = {"tables": {"a": {}, "b": {"columns": {"x": {"sdtype": "boolean"}}}}, "METADATA_SPEC_VERSION": "V1"}
    assert Schema.from_sdv(metadata, table="b").name == "b"
    with pytest.raises(SchemaError, match="no table 'c'"):
        Schema.from_sdv(metadata, table="c")


def test_v2_carries_bounds_there_and_back():
    schema = odd(name="t")
    back = Schema.from_sdv(json.loads(json.dumps(schema.to_sdv())))
    assert back.draft
    for there, here in zip(schema.columns, back.columns, strict=True):
        assert (there.kind, there.name, there.missing) == (here.kind, here.name, here.missing)
        for field in ("low", "high", "labels", "decimals", "pattern", "ordered", "format"):
            if field != "format" or there.kind in ("date", "datetime"):
                assert getattr(there, field, None) == getattr(here, field, None), (there.name, field)


# What SDV allows beside sdtype, read in sdv/metadata of 1.38.0 (V1) and 2.0.0 (V2). The metadata of `odd` was also
# loaded and validated by SDV's own classes of both releases when this was written.
ALLOWED = {
    "V1": {
        "numerical": {"computer_representation"},
        "datetime": {"datetime_format"},
        "categorical": {"order", "order_by"},
        "boolean": set(),
        "id": {"regex_format"},
    },
    "V2": {
        "numerical": {"range_min", "range_max", "range_is_nullable", "decimal_places"},
        "datetime": {"datetime_format", "range_min", "range_max", "range_is_nullable"},
        "categorical": {"range_values", "range_is_nullable", "high_cardinality"},
        "ordinal": {"range_values", "range_is_nullable", "high_cardinality"},
        "boolean": {"range_is_nullable"},
        "id": {"regex_format", "range_is_nullable"},
    },
}


@given(schemas())
def test_what_we_write_for_sdv_obeys_its_rules(schema):
    for version in ("V2", "V1", "SINGLE_TABLE_V1"):
        metadata = schema.to_sdv(version=version)
        table = metadata if version == "SINGLE_TABLE_V1" else metadata["tables"][schema.name]
        assert metadata["METADATA_SPEC_VERSION"] == version
        for sdv in table["columns"].values():
            assert set(sdv) - {"sdtype"} <= ALLOWED[version[-2:]][sdv["sdtype"]]
            re.compile(sdv.get("regex_format", ""))
            if sdv["sdtype"] == "datetime" and "range_min" in sdv:
                low, high = (dt.datetime.strptime(sdv[k], sdv["datetime_format"]) for k in ("range_min", "range_max"))
                assert low <= high


def test_unknown_versions_are_not_written():
    with pytest.raises(SchemaError, match="V2, V1 or SINGLE_TABLE_V1"):
        odd().to_sdv(version="V3")


def test_a_draft_keeps_the_kinds_that_sdv_metadata_says():
    columns = {
        "town": {"sdtype": "city", "pii": True},
        "ill": {"sdtype": "numerical", "computer_representation": "Int64"},
        "age": {"sdtype": "categorical"},
    }
    draft = Schema.draft(mixed(), sdv={"columns": columns})
    assert [draft[c].kind for c in columns] == ["identifier", "integer", "categorical"]
    assert draft.draft


# ------------------------------------------------------------------------------------------------------------ packaged


def test_the_packaged_schema_fits_the_packaged_table():
    data = pytest.importorskip("statsmodels.datasets.randhie").load_pandas().data
    schema = Schema.from_yaml(PACKAGED)
    schema.require_approved()
    schema.check_columns(list(data.columns))
    assert (schema.public_rows, schema.target) == (len(data), "mdvis")
    for column in schema.columns:
        values = data[column.name]
        if isinstance(column, Boolean):
            assert set(values) == {0, 1}
        else:
            assert values.between(column.low, column.high).all()
            digits = getattr(column, "decimals", 0)
            assert ((values - values.round(digits)).abs() < 1e-12).all()


def test_formats_for_writing_come_from_the_schema():
    formats = odd().text_formats
    assert formats == {"decimals": {"no": 9}, "date_formats": {"2020-01-01": "%d.%m.%Y", "null": "%Y-%m-%d %H:%M:%S"}}
