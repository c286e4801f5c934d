from __future__ import annotations

import itertools
import json
import math
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from dp_accounting import PoissonSampledDpEvent
from scipy import stats

import base_models

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("peft")

import tabveil  # noqa: E402
from tabveil.columns import Boolean, Categorical, Date, Decimal, Integer  # noqa: E402
from tabveil.conditions import Conditions  # noqa: E402
from tabveil.conformance import account, fitted  # noqa: E402
from tabveil.encoding import conform  # noqa: E402
from tabveil.errors import DataError, UsageError  # noqa: E402
from tabveil.generators import _text_law  # noqa: E402
from tabveil.generators._base_model import BaseModel, digest_of  # noqa: E402
from tabveil.generators._text_law import TextLaw  # noqa: E402
from tabveil.generators.base import create, load  # noqa: E402
from tabveil.schema import Schema  # noqa: E402

ALPHA = 1e-9
SMALL: Mapping[str, Any] = {"steps": 2, "rank": 1, "random_state": 0, "match": False}
SCHEMA = Schema(
    columns=(
        Categorical(name="side", categories=("left", "right")),
        Categorical(name="hand, is", categories=("a", "b", "b, c"), missing=("",)),
        Categorical(name="n", categories=("1", "12", "13", "2")),
    )
)


def table(rows: int) -> pd.DataFrame:
    """Hand and number follow from the side."""
    rng = np.random.default_rng(0)
    left = rng.random(rows) < 0.5
    hand = np.where(left, "a", rng.choice(["b", "b, c"], rows)).astype(object)
    hand[::10] = None
    n = np.where(left, rng.choice(["1", "12"], rows), rng.choice(["13", "2"], rows))
    return pd.DataFrame({"side": np.where(left, "left", "right"), "hand, is": hand, "n": n})


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama, where other tests have a GPT-2."""
    return base_models.llama(tmp_path_factory.mktemp("llama"), width=16, layers=1)


def plainly(base: Path, schema: Schema = SCHEMA, **options: Any) -> Any:
    """A fit without privacy, seconds long."""
    return create("pretrained_lm", epsilon=math.inf, base_model=str(base), **{**SMALL, **options}).fit(
        table(300), schema
    )


@pytest.fixture(scope="module", params=["gpt2", "llama"])
def law(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> TextLaw:
    """Of a model of two layers whose opinions are far from even, fitted to uneven shares."""
    return law_of(request.param, tmp_path_factory.mktemp(request.param))


def law_of(kind: str, folder: Path, spread: float = 0.4) -> TextLaw:
    found: TextLaw = plainly(getattr(base_models, kind)(folder, spread=spread))._law
    return found


# ------------------------------------------------------------------------------------------------ the law, done plainly
def chances(law: TextLaw, before: Sequence[tuple[int, int]], i: int) -> np.ndarray:
    """The law of column i after others (column, cell), token by token, without cache, padding or trie."""
    words, model = law.reading.wording, law.reading.model
    begin = list(words.begin)
    for c, cell in before:
        trie = words.tries[c]
        begin += words.prompts[c, : words.prompt_lengths[c]].tolist() + trie.tokens[cell, : trie.lengths[cell]].tolist()
    begin += words.prompts[i, : words.prompt_lengths[i]].tolist()
    trie = words.tries[i]
    values = [trie.tokens[v, : trie.lengths[v]].tolist() for v in range(len(trie.lengths))]
    bias = dict[tuple[int, ...], dict[int, float]]()
    for v, tokens in enumerate(values):
        for node, took in zip(trie.at[v].tolist(), trie.took[v].tolist(), strict=True):
            if node >= 0:
                place = bias.setdefault(tuple(tokens[: trie.depth[node]]), {})
                place[int(trie.choices[took])] = float(law.reading.bias[i][node, took])
    out = []
    for tokens in values:
        chance = 1.0
        for at, token in enumerate(tokens):
            open_ = sorted({v[at] for v in values if v[:at] == tokens[:at] and len(v) > at})
            with torch.no_grad():
                logits = model._model(torch.tensor([begin + tokens[:at]])).logits[0, -1].double()
            shifts = torch.tensor([bias.get(tuple(tokens[:at]), {}).get(t, 0.0) for t in open_])
            chance *= float(torch.softmax(logits[open_] + shifts, 0)[open_.index(token)])
        out.append(chance)
    assert sum(out) == pytest.approx(1.0)
    return np.array(out)


def joint(law: TextLaw, order: Sequence[int]) -> np.ndarray:
    """The law of whole rows in an order that begins with a charged share, shape (cells of each column)."""
    sizes = [len(s) for s in law.shares]
    out = np.zeros(sizes)
    first, *rest = order
    for start, share in enumerate(law.shares[first]):
        for cells in itertools.product(*(range(sizes[i]) for i in rest)):
            known, chance = [(first, start)], share
            for i, cell in zip(rest, cells, strict=True):
                chance *= _cached(law, tuple(known), i)[cell]
                known.append((i, cell))
            out[tuple(cell for _, cell in sorted(known))] += chance
    return out


def _cached(law: TextLaw, before: tuple[tuple[int, int], ...], i: int) -> np.ndarray:
    store: dict[Any, np.ndarray] = _KNOWN.setdefault(id(law), {})
    if (before, i) not in store:
        store[before, i] = chances(law, before, i)
    return store[before, i]


_KNOWN: dict[int, dict[Any, np.ndarray]] = {}


def counted(law: TextLaw, codes: Mapping[str, np.ndarray]) -> np.ndarray:
    out = np.zeros([len(s) for s in law.shares])
    np.add.at(out, tuple(codes[a.column.name] for a in law.axes), 1)
    return out


def p_value(seen: np.ndarray, law: np.ndarray) -> float:
    """Of a chi-square test; cells expected fewer than 5 times are taken together."""
    expected = law.flatten() / law.sum() * seen.sum()
    rare = expected < 5
    pairs = [np.append(x.flatten()[~rare], x.flatten()[rare].sum()) for x in (seen, expected)]
    keep = pairs[1] > 0
    assert not pairs[0][~keep].any()
    return float(stats.chisquare(pairs[0][keep], pairs[1][keep] * pairs[0].sum() / pairs[1][keep].sum()).pvalue)


@pytest.mark.statistical
def test_rows_follow_the_models_law_each_feature_beginning_as_many(law: TextLaw) -> None:
    """n = 2,000 for each of three orders, alpha = 1e-9. Orders are drawn for each block, so each is taken alone."""
    for first, *rest in ((0, 1, 2), (1, 2, 0), (2, 0, 1)):
        rng = np.random.default_rng(first)
        order = np.tile([first, *rest], (2_000, 1))
        _, cells = law._tried(np.full((2_000, 3), -1), order, rng, constrained=0, label=None, choices=None)
        seen = counted(law, {a.column.name: cells[:, i] for i, a in enumerate(law.axes)})
        assert p_value(seen, joint(law, [first, *rest])) > ALPHA
    starts = law._starts(3_000, (), None, np.random.default_rng(0))
    assert np.bincount(starts).tolist() == [1_000] * 3


KEPT_WHATEVER_IT_WEIGHS = property(lambda self: torch.ones(len(self.cells)), lambda self, value: None)
NUMBERS = {"gpt2": (0.4, ("12", "2")), "llama": (0.8, ("1", "2"))}
"""How far from even a model is, and values of n that are likely after one allowed hand, unlikely after the other."""


def conditioned(law: TextLaw, numbers: tuple[str, ...]) -> tuple[TextLaw, np.ndarray]:
    """The law under conditions on two columns, and what it should be."""
    where = {"hand, is": ["b, c", None], "n": set(numbers)}
    given = law.given(Conditions.of(SCHEMA, where, None).allowed)
    assert sorted(given._first) == [1, 2]
    exact = joint(law, [*given._first, 0])
    kept = np.zeros_like(exact)
    kept[np.ix_([0, 1], [2, 3], [("1", "12", "13", "2").index(n) for n in numbers])] = 1
    return given, exact * kept


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_conditions_on_two_columns_are_exact_and_masking_alone_is_not(kind: str, tmp_path: Path) -> None:
    """n = 3,000, alpha = 1e-9. The test sees the difference: it refuses tokens masked one by one, every row kept."""
    spread, numbers = NUMBERS[kind]
    law = law_of(kind, tmp_path, spread)
    given, exact = conditioned(law, numbers)
    found = p_value(counted(law, given.sample(3_000, np.random.default_rng(5))), exact)
    assert found > ALPHA, "rows under conditions do not follow the model's law"
    rows = np.full((2_000, 3), -1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_text_law.Writing, "weight", KEPT_WHATEVER_IT_WEIGHS, raising=False)
        orders = np.tile([*given._first, 0], (2_000, 1))
        _, cells = given._tried(rows, orders, np.random.default_rng(6), constrained=2, label=None, choices=None)
    greedy = counted(law, {a.column.name: cells[:, i] for i, a in enumerate(law.axes)})
    assert greedy[exact == 0].sum() == 0
    assert p_value(greedy, exact) < ALPHA


@pytest.mark.statistical
def test_a_balanced_label_has_its_shares_and_the_models_law_given_it(law: TextLaw) -> None:
    """n = 2,000, alpha = 1e-9."""
    asked = Conditions.of(SCHEMA, {"n": {"1", "2"}}, {"side": {"left": 0.8, "right": 0.2}})
    assert asked.balance is not None
    codes, model = law.given(asked.allowed).balanced(asked.balance, 2_000, np.random.default_rng(0))
    assert np.bincount(codes["side"]).tolist() == [1_600, 400]
    exact = joint(law, [0, 2, 1])
    exact[:, :, [1, 2]] = 0
    assert model == pytest.approx(exact.sum((1, 2)) / exact.sum(), abs=0.02)
    exact *= np.array([0.8, 0.2])[:, None, None] / exact.sum((1, 2), keepdims=True)
    assert p_value(counted(law, codes), exact) > ALPHA


@pytest.mark.statistical
def test_cells_are_filled_by_the_models_law_given_what_is_known_and_not_missing(law: TextLaw) -> None:
    """n = 2,000 for each pattern, alpha = 1e-9."""
    known = {"side": np.repeat([0, 2], 2_000), "hand, is": np.full(4_000, 3), "n": np.repeat([4, 3], 2_000)}
    (filled,) = law.completed(known, 1, np.random.default_rng(0))
    assert (filled["side"][:2_000] == 0).all()
    assert (filled["n"][2_000:] == 3).all()
    assert (filled["hand, is"] < 3).all()
    for at, (c, cell), rest in ((slice(0, 2_000), (0, 0), [1, 2]), (slice(2_000, None), (2, 3), [0, 1])):
        exact = np.zeros([len(s) for s in law.shares])
        for first, second in itertools.product(*(range(exact.shape[i]) for i in rest)):
            spot = [0, 0, 0]
            spot[c], spot[rest[0]], spot[rest[1]] = cell, first, second
            chance = _cached(law, ((c, cell),), rest[0])[first]
            exact[tuple(spot)] = chance * _cached(law, ((c, cell), (rest[0], first)), rest[1])[second]
        exact[:, 3] = 0
        assert p_value(counted(law, {n: codes[at] for n, codes in filled.items()}), exact) > ALPHA


def test_a_condition_that_hardly_any_row_meets_is_one_error(law: TextLaw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_text_law, "MOST_TRIES", 500)
    monkeypatch.setattr(_text_law, "TRIES_PER_ROW", 0)
    given, _ = conditioned(law, ("12", "2"))
    with pytest.raises(UsageError, match=r"meet the conditions on 'hand, is', 'n' together"):
        given.sample(20_000, np.random.default_rng(0))


# ----------------------------------------------------------------------------------------------------------- the label
def test_the_label_is_asked_for_again_unless_its_shares_are_the_users(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    labelled = TextLaw._labelled

    def noted(self: TextLaw, cells: np.ndarray, label: int, *rest: Any) -> np.ndarray:
        asked.append(label)
        assert (cells[:, label] < 0).all()
        return labelled(self, cells, label, *rest)

    monkeypatch.setattr(TextLaw, "_labelled", noted)
    made = plainly(base, Schema(columns=SCHEMA.columns, target="hand, is"))
    for where, balance, again in (
        (None, None, True),
        ({"n": "1"}, None, True),
        ({"hand, is": "b"}, None, False),
        (None, "hand, is", False),
    ):
        asked.clear()
        assert len(made.sample(20, where=where, balance=balance)) == 20
        assert bool(asked) == again


# ----------------------------------------------------------------------------------------------------------- the rows
AWKWARD = ("a", "a,", "a, b", " ", '"a"', "missing", "no. 1", "ä🎈", "x is y")
HARD = Schema(
    columns=(
        Categorical(name="is , is", categories=AWKWARD, missing=("",), invalid="missing"),
        Categorical(name="only", categories=("one",)),
        Categorical(name="blank", categories=("", "b")),
        Boolean(name="🎈", missing=("?",), invalid="missing"),
        Integer(name="wide", low=-1_000_000, high=1_000_000, missing=("",)),
        Decimal(name="price is 1", low=-1.0, high=99.99, decimals=2),
        Date(name="day", low=pd.Timestamp("1900-01-01").date(), high=pd.Timestamp("2020-12-31").date()),
    )
)


def hard(rows: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    return pd.DataFrame(
        {
            "is , is": rng.choice([*AWKWARD, ""], rows),
            "only": "one",
            "blank": rng.choice(["", "b"], rows),
            "🎈": rng.choice(["yes", "no", "?"], rows),
            "wide": [None if r < 0.2 else int(1e6 * r) for r in rng.random(rows)],
            "price is 1": np.round(rng.gamma(2, 9, rows), 2),
            "day": pd.to_datetime("1960-01-01") + pd.to_timedelta(rng.integers(0, 9_000, rows), unit="D"),
        }
    )


@pytest.mark.parametrize("rows", [0, 1, 200])
def test_no_row_is_invalid_whatever_the_names_and_the_values(rows: int) -> None:
    made = create("pretrained_lm", epsilon=math.inf, **SMALL).fit(hard(rows), HARD)
    sample = made.sample(300)
    pd.testing.assert_frame_equal(conform(HARD.columns, sample), sample)
    assert sample.notna().all()["blank"]


def test_numbers_alone_and_columns_that_are_all_missing() -> None:
    schema = Schema(
        columns=(Integer(name="x", low=0, high=9_999), Decimal(name="y", low=0.0, high=1.0, decimals=3, missing=("",)))
    )
    frame = pd.DataFrame({"x": np.arange(60) * 100, "y": np.full(60, np.nan)})
    made = create("pretrained_lm", epsilon=math.inf, **SMALL).fit(frame, schema)
    sample = made.sample(50)
    pd.testing.assert_frame_equal(conform(schema.columns, sample), sample)
    assert made.impute(frame.head(3).assign(x=None))["x"].notna().all()


def test_many_patterns_of_missing_cells_are_filled_and_known_cells_kept() -> None:
    made = create("pretrained_lm", epsilon=math.inf, **SMALL).fit(hard(200), HARD)
    frame = conform(HARD.columns, hard(130)).astype(object)
    hidden = np.random.default_rng(0).random(frame.shape) < 0.5
    first, second = made.impute(frame.mask(hidden), m=2, random_state=1)
    assert not first.equals(second)
    known = ~hidden & frame.notna().to_numpy()
    for filled in (first, second):
        assert filled.notna().all(axis=None)
        assert filled.astype(object).to_numpy()[known].tolist() == frame.to_numpy()[known].tolist()


@pytest.mark.nightly
def test_a_model_learns_what_columns_say_of_each_other(tmp_path: Path) -> None:
    """Drawn apart, side and hand would agree in half of the rows. Without privacy; random weights learn slowly."""
    folder = base_models.gpt2(tmp_path, width=64)
    frame, options = table(1_500), {"steps": 100, "learning_rate": 0.01, "rank": 8, "random_state": 0}
    made = create("pretrained_lm", epsilon=math.inf, base_model=folder, **options).fit(frame, SCHEMA)
    sample = made.sample(2_000, random_state=0)
    left, number = sample["side"] == "left", sample["n"].isin(["1", "12"])
    assert (left == number).mean() > 0.75
    assert abs(left.mean() - 0.5) < 0.05


def test_matching_gives_columns_their_charged_shares(law: TextLaw) -> None:
    matched = law.finely_matched(law.shares, np.random.default_rng(1))
    far, near = (
        max(
            float(np.abs(np.bincount(codes, minlength=len(s)) / 2_000 - s).max())
            for s, codes in zip(law.shares, law.sample(2_000, np.random.default_rng(0)).values(), strict=True)
        )
        for law in (law, matched)
    )
    assert near < 0.08 < far


# ------------------------------------------------------------------------------------------------------------- privacy
def test_the_plan_is_histograms_and_one_training_and_is_what_is_charged() -> None:
    made = create("pretrained_lm", epsilon=1.0, delta=1e-6, **{**SMALL, "steps": 3, "rate": 0.2})
    plan, ledger = made.plan(SCHEMA), account(1.0, 1e-6)
    training = plan.spends[-1]
    assert (training.label, training.count) == ("training", 3)
    assert isinstance(training.event, PoissonSampledDpEvent)
    assert training.event.sampling_probability == 0.2
    assert 0.99 < plan.cost <= 1.0
    made.fit(table(100), SCHEMA, ledger=ledger, dataset="conformance")
    assert [e["label"] for e in made.statement.events] == [s.label for s in plan.spends]
    assert made.statement.events[-1]["type"] == "PoissonSampled"
    assert ledger.statement("conformance").epsilon == pytest.approx(plan.cost)
    said = made.statement.outside[-1]
    assert "base model" in said
    assert digest_of(Path(os.environ["TABVEIL_BASE_MODEL"])) in said


def test_only_adapters_are_trained_and_kept(base: Path, tmp_path: Path) -> None:
    made = fitted("pretrained_lm", table(100), SCHEMA, base_model=str(base), **SMALL)
    before = BaseModel(base, rank=1, device="cpu")._model.state_dict()
    after = made._model._model.state_dict()  # type: ignore[attr-defined]
    changed = {name for name, value in after.items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".lora_" in name for name in changed)
    layers = made._model.adapters  # type: ignore[attr-defined]
    assert {type(layer) for layer in layers} == {torch.nn.Linear}
    arrays, _ = made._state()
    kept = sum(a.size for name, a in arrays.items() if name.startswith("net.adapters"))
    assert kept == sum(p.numel() for p in layers.parameters())


def test_a_saved_model_names_its_base_by_hash_and_never_by_path(base: Path, tmp_path: Path) -> None:
    frame = table(120).assign(side="left")
    made = fitted("pretrained_lm", frame, SCHEMA, base_model=str(base), **SMALL)
    made.save(tmp_path / "model")
    texts = [p.read_bytes().decode("latin-1") for p in (tmp_path / "model").iterdir()]
    assert not [t for t in texts if str(base) in t or base.name in t]
    assert any(digest_of(base) in t for t in texts)
    again = load(tmp_path / "model", base_model=str(base))
    pd.testing.assert_frame_equal(made.sample(100, random_state=3), again.sample(100, random_state=3))
    assert again.settings()["base_model_sha256"] == digest_of(base)


def test_a_saved_model_is_not_loaded_without_its_own_base_model(
    base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plainly(base).save(tmp_path)
    with pytest.raises(DataError, match=f"SHA-256 is {digest_of(base)}; .* holds another one"):
        load(tmp_path)
    monkeypatch.delenv("TABVEIL_BASE_MODEL")
    with pytest.raises(DataError, match=r"needs its base model, .* set TABVEIL_BASE_MODEL"):
        load(tmp_path)
    with pytest.raises(UsageError, match="rank cannot be given again"):
        load(tmp_path, base_model=str(base), rank=3)
    monkeypatch.setenv("TABVEIL_BASE_MODEL", str(base))
    assert len(load(tmp_path, device="cpu").sample(2)) == 2


def test_a_fit_goes_on_where_it_was_stopped_and_is_charged_once(tmp_path: Path) -> None:
    ledger = account(1.0, 1e-6)
    options = {**SMALL, "checkpoints": tmp_path / "states"}
    samples = []
    for _ in range(2):
        made = create("pretrained_lm", epsilon=1.0, delta=1e-6, **options)
        made.fit(table(100), SCHEMA, ledger=ledger, dataset="conformance")
        samples.append(made.sample(50, random_state=1))
    pd.testing.assert_frame_equal(*samples)
    assert ledger.statement("conformance").epsilon <= 1.0


# ---------------------------------------------------------------------------------------------------------- neighbours
def test_neighbours_are_refused_where_anything_is_private() -> None:
    with pytest.raises(UsageError, match="epsilon inf only"):
        create("pretrained_lm", epsilon=1.0, delta=1e-6, neighbours=2)


def test_neighbours_are_synthetic_rows_when_sampling(base: Path, tmp_path: Path) -> None:
    made = plainly(base, neighbours=2)
    assert made.statement.stamp == "NOT PRIVATE"
    examples = made._law.examples
    assert examples.drawn(7, np.random.default_rng(0)).shape == (7, 2, 3)
    made.save(tmp_path)
    again = load(tmp_path, base_model=str(base))
    pd.testing.assert_frame_equal(made.sample(60, random_state=1), again.sample(60, random_state=1))
    assert len(made.sample(20, where={"n": "1", "side": "left"})) == 20


def test_neighbours_of_a_row_are_the_rows_most_like_it_and_not_itself() -> None:
    from tabveil.generators._row_losses import Neighbours

    cells = torch.tensor([[0, 0, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1]])
    assert Neighbours(cells, 2).of(cells[:1])[0].tolist() == [[0, 0, 1], [0, 1, 1]]


# ----------------------------------------------------------------------------------------------------- what is refused
def copied(base: Path, folder: Path, *without: str, **config: Any) -> Path:
    folder.mkdir()
    for path in base.iterdir():
        if path.name not in without:
            (folder / path.name).write_bytes(path.read_bytes())
    if config:
        said = json.loads((folder / "config.json").read_text()) | config
        (folder / "config.json").write_text(json.dumps(said))
    return folder


def refused(folder: Path | str) -> str:
    ledger = account(1.0, 1e-6)
    with pytest.raises(UsageError) as caught:
        create("pretrained_lm", epsilon=1.0, delta=1e-6, base_model=folder, **SMALL).fit(
            table(30), SCHEMA, ledger=ledger, dataset="conformance"
        )
    assert ledger.statement("conformance").epsilon == 0
    return str(caught.value)


def test_a_folder_that_is_no_sound_language_model_is_refused_before_the_charge(base: Path, tmp_path: Path) -> None:
    assert "folder on this machine" in refused(tmp_path / "nowhere")
    assert "no .safetensors" in refused(copied(base, tmp_path / "a", "model.safetensors"))
    assert "no config.json" in refused(copied(base, tmp_path / "b", "config.json"))
    assert "no tokenizer" in refused(copied(base, tmp_path / "c", "tokenizer.json", "tokenizer_config.json"))
    assert "lack some of its weights" in refused(copied(base, tmp_path / "d", num_hidden_layers=3))
    code = {"AutoModelForCausalLM": "code.Model", "AutoConfig": "code.Config"}
    assert "needs no code of its own" in refused(copied(base, tmp_path / "e", model_type="own", auto_map=code))
    long = base_models.llama(tmp_path / "f")
    said = json.loads((long / "config.json").read_text())
    (long / "config.json").write_text(json.dumps(said | {"max_position_embeddings": 40}))
    assert "A row may take" in refused(long)


def test_without_a_base_model_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TABVEIL_BASE_MODEL")
    with pytest.raises(UsageError, match="give base_model=, or set TABVEIL_BASE_MODEL"):
        create("pretrained_lm", epsilon=1.0, delta=1e-6).plan(SCHEMA)


@pytest.mark.parametrize("options", [{"rank": 0}, {"neighbours": -1}, {"neighbours": 99}, {"steps": 0}, {"rank": 1.5}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(options))):
        create("pretrained_lm", epsilon=math.inf, **options)


QUIET = """
import sys
opened = []
sys.addaudithook(lambda event, args: opened.append(event) if event.startswith("socket.") else None)
import numpy as np, pandas as pd, tabveil
from tabveil.columns import Categorical
from tabveil.schema import Schema
frame = pd.DataFrame({"a": ["x", "y"] * 20, "b": ["u", "v"] * 20})
schema = Schema(columns=(Categorical(name="a", categories=("x", "y")), Categorical(name="b", categories=("u", "v"))))
made = tabveil.create("pretrained_lm", epsilon=float("inf"), steps=1, rank=1).fit(frame, schema)
assert len(made.sample(5)) == 5
made.save(sys.argv[1])
assert len(tabveil.load(sys.argv[1]).sample(5)) == 5
assert not [e for e in opened if e != "socket.gethostname"], opened
"""


def test_nothing_is_said_and_no_socket_is_opened(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-c", QUIET, str(tmp_path)], env=_environment(), capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def _environment() -> dict[str, str]:
    sources = str(Path(tabveil.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": sources, "OMP_NUM_THREADS": "1"}
