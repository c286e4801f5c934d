from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch")

from tabveil.columns import Boolean, Categorical, Column, Date, Datetime, Decimal, Integer  # noqa: E402
from tabveil.encoding import Axis, size  # noqa: E402
from tabveil.errors import UsageError  # noqa: E402
from tabveil.generators._trie import Trie  # noqa: E402
from tabveil.generators._wording import Wording, value_texts, written  # noqa: E402

values = st.lists(st.lists(st.integers(1, 4), max_size=6), min_size=1, max_size=12, unique_by=tuple)


def ended(drawn: list[list[int]]) -> list[list[int]]:
    """The same with an end that occurs nowhere else, so that none begins with another."""
    return [[*v, 0] for v in drawn]


def walked(trie: Trie, value: int) -> list[int]:
    """The tokens of a value, choice by choice from the root."""
    if not trie.nodes:
        return trie.tokens[value, : trie.lengths[value]].tolist()
    node, tokens = 0, list[int]()
    for number, took in zip(trie.at[value].tolist(), trie.took[value].tolist(), strict=True):
        if number < 0:
            break
        assert number == node
        assert bool(trie.open[node, took])
        target = int(trie.child[node, took])
        below, stop = (~target, trie.lengths) if target < 0 else (int(trie.some[target]), trie.depth)
        end = int(stop[below] if target < 0 else stop[target])
        more, length = trie.between(torch.tensor([below]), torch.tensor([len(tokens)]), torch.tensor([end]))
        tokens += more[0, : length[0]].tolist()
        assert int(trie.tokens[value, trie.depth[node]]) == int(trie.choices[took])
        node = target
    assert ~node == value
    return tokens


@given(values)
def test_the_choices_of_a_value_give_its_tokens_and_no_others(drawn: list[list[int]]) -> None:
    sequences = ended(drawn)
    trie = Trie.of(sequences)
    for i, sequence in enumerate(sequences):
        assert walked(trie, i) == sequence
    assert (trie.open.sum(1) >= 2).all()


@given(values)
def test_weights_below_a_branch_are_those_of_the_values_that_begin_like_it(drawn: list[list[int]]) -> None:
    sequences = ended(drawn)
    trie, weights = Trie.of(sequences), torch.rand(len(sequences))
    found = trie.gathered(weights)
    for node in range(trie.nodes):
        depth, some = int(trie.depth[node]), sequences[int(trie.some[node])]
        for branch, token in enumerate(trie.choices.tolist()):
            begin = [*some[:depth], token]
            alike = [i for i, s in enumerate(sequences) if s[: depth + 1] == begin]
            assert float(found[node, branch]) == pytest.approx(float(weights[alike].sum()), abs=1e-6)
            assert bool(trie.open[node, branch]) == bool(alike)


@pytest.mark.parametrize("sequences", [[[1], [1, 2]], [[1, 2], [1, 2]], [[], [1]]])
def test_a_value_that_begins_with_another_is_refused(sequences: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="begins with another"):
        Trie.of(sequences)


# --------------------------------------------------------------------------------------------------------------- words
AWKWARD = ("a", "a,", "a, b", "", " ", " a", '"a"', "missing", "no. 1", "ä🎈", "x is y", "a\nb", "no.", "\\", '",')


def bytes_of(texts: list[str]) -> list[list[int]]:
    return [[b + 1 for b in t.encode()] for t in texts]


def test_no_text_of_a_value_with_its_comma_begins_another() -> None:
    column = Categorical(name="c, is", categories=AWKWARD, missing=("?",))
    texts = [written(column, code) + "," for code in range(size(column) + 1)]
    assert len(set(texts)) == len(texts)
    assert not [(a, b) for a in texts for b in texts if a != b and b.startswith(a)]
    Wording.of([Axis.singles(column)], bytes_of, (0,))


def test_values_are_written_as_they_are_published() -> None:
    import datetime as dt

    cases: list[tuple[Column, int, str]] = [
        (Boolean(name="b"), 1, "true"),
        (Integer(name="i", low=-5, high=5), 0, "-5"),
        (Decimal(name="d", low=-1.0, high=2.0, decimals=2), 25, "-0.75"),
        (Date(name="t", low=dt.date(1000, 1, 1), high=dt.date(2020, 1, 31), missing=("",)), 30, "1000-01-31"),
        (Datetime(name="s", low=dt.datetime(2020, 1, 1), high=dt.datetime(2020, 1, 2), resolution=3600), 5, ""),
        (Integer(name="n", low=0, high=5, missing=("",)), 6, "missing"),
    ]
    cases[4] = (*cases[4][:2], "2020-01-01 05:00:00")
    assert [written(column, code) for column, code, _ in cases] == [text for _, _, text in cases]


def test_a_cell_is_written_as_a_value_it_holds() -> None:
    column = Integer(name="n", low=0, high=99, missing=("",))
    axis = Axis(column, np.array([0, 10, 11, 100]), np.array([0, 1, 0, 2]), np.array([1.0, 5.0, 2.0, 1.0]))
    assert value_texts(axis) == ["55", "10", "missing"]


def test_whole_rows_are_put_together_in_any_order() -> None:
    axes = [Axis.singles(Categorical(name=n, categories=("x", "yy, z"))) for n in ("a", "b is", "c")]
    wording = Wording.of(axes, bytes_of, (7,))
    cells = torch.tensor([[0, 1, 0], [1, 1, 1], [1, 0, 0]])
    order = torch.tensor([[0, 1, 2], [2, 0, 1], [1, 2, 0]])
    tokens, lengths, starts = wording.assembled(cells, order)
    texts = [" x,", ' "yy, z",']
    for row in range(3):
        said = "".join(f" {axes[i].column.name} is{texts[cells[row, i]]}" for i in order[row].tolist())
        assert tokens[row, : lengths[row]].tolist() == [7, *bytes_of([said])[0]]
        assert not tokens[row, lengths[row] :].any()
        for i in range(3):
            begin = bytes_of([texts[cells[row, i]]])[0]
            assert tokens[row, starts[row, i] :][: len(begin)].tolist() == begin
    joined, ends = wording.one_after_another(torch.stack([cells, cells.flip(0)], 1), order)
    assert ends.tolist() == (lengths + wording.assembled(cells.flip(0), order)[1]).tolist()
    assert joined[0, : lengths[0]].tolist() == tokens[0, : lengths[0]].tolist()


def test_what_the_tokenizer_cannot_tell_apart_is_written_by_number_and_else_refused() -> None:
    axis = Axis.singles(Categorical(name="c", categories=("ä", "ö", "u")))

    def plain(texts: list[str]) -> list[list[int]]:
        return [[b + 1 for b in t.encode("ascii", "replace")] for t in texts]

    trie = Wording.of([axis], plain, (0,)).tries[0]
    assert [bytes(t - 1 for t in walked(trie, i)).decode() for i in range(3)] == [f" no. {i}," for i in range(3)]
    with pytest.raises(UsageError, match="cannot tell the values of column 'c' apart"):
        Wording.of([axis], lambda texts: [[1]] * len(texts), (0,))


def test_long_names_and_values_are_written_by_number() -> None:
    axis = Axis.singles(Categorical(name="n" * 300, categories=("v" * 300, "w")))
    assert Wording.of([axis], bytes_of, (0,)).longest < 40
