"""Every mutant: what is planted where, and the named test that must reject it. Data only; test_mutants.py runs it.

docs/mutants.md shows this table; `PYTHONPATH=src:tests python -m mutants.mutants` writes it anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mutants.planting import Edit

TRAPS = {
    "A1": "Bounds, edges or other preprocessing fitted on rows outside the budget",
    "A2": "Categories or types discovered in rows",
    "A3": "Exact frequencies in the conditions of a generator",
    "A4": "Rows drawn by what they hold, accounted as Poisson",
    "A5": "Batches of a fixed size, accounted as Poisson",
    "A6": "Batches capped, or skipped where they are empty",
    "A7": "Several rows clipped as one, or one unit as several",
    "A8": "Gradients outside the clip, and layers that mix rows",
    "A9": "Steps that nobody counted",
    "A10": "Spending past the budget, or without paying",
    "A11": "Rates, steps or noise that follow from rows, so that epsilon does",
    "A12": "Privacy noise that can be repeated",
    "A13": "Floating point and inexact sampling",
    "A14": "Stopping or choosing by private rows",
    "A16": "The row count and the neighbouring relation",
    "A17": "One person with many rows",
    "A18": "Units of privacy mixed up, wrong amounts of noise, biased counts",
    "A19": "Noise solved for another plan",
    "C2": "Audit statistics that say more than they know (not a release: a wrong verdict on one)",
    "C4": "Conditions that bend the model's law (not privacy: exactness)",
}
"""The traps of privacy.md that this version can fall into."""

CONFORMANCE = "tabveil.conformance"
MECHANISMS = "unit.test_mechanisms"
STREAMING = "unit.test_streaming"
TABLES = "unit.test_tables"
SAMPLERS = "unit.test_samplers"
ENCODING = "unit.test_encoding"
DOMAINS = "unit.test_domains"
LEARNING = "unit.test_learning"
ACCOUNTING = "unit.test_accounting"
GENERATORS = "unit.test_generators"
AUTO = "unit.test_auto"
CONDITIONALS = "unit.test_conditionals"
SGD = "unit.test_sgd"
SPELLING = "unit.test_spelling"
MIXTURE = "unit.generators.test_mixture"
RESUMING = "unit.generators.test_resuming"
TVAE = "unit.generators.test_tvae"
CTGAN = "unit.generators.test_ctgan"
PARTS = "unit.generators.test_parts"
PRETRAINED = "unit.generators.test_pretrained_lm"
CANARIES = "unit.audit.test_training"
NEIGHBOURS = "unit.audit.test_canary"
EPSILONS = "unit.audit.test_epsilon_bounds"
CURVES = "unit.audit.test_curves"
RELEASE = "statistical.test_release_law"


@dataclass(frozen=True)
class Check:
    """A test or conformance check: module, function, and the arguments of one of its cases."""

    module: str
    function: str
    given: tuple[object, ...] = ()

    def __str__(self) -> str:
        shown = f"[{'-'.join(str(g) for g in self.given)}]" if self.given else ""
        return f"{self.module}.{self.function}{shown}"


@dataclass(frozen=True)
class Mutant:
    """A planted violation.

    Attributes:
      id: unique.
      trap: a key of TRAPS.
      planted: what is wrong, in words.
      edits: the planted texts.
      check: what must reject it.
      says: part of the failure's message, or of the line of the test that fails.
      error: what the check fails with; another name than AssertionError is a guard of the product, or a tripwire of the
        test, that stopped the mutant before it could release anything.
    """

    id: str
    trap: str
    planted: str
    edits: tuple[Edit, ...]
    check: Check
    says: str
    error: str = "AssertionError"


def _m(
    name: str, planted: str, edits: Edit | tuple[Edit, ...], check: Check, says: str, error: str = "AssertionError"
) -> Mutant:
    trap = name.partition("-")[0].upper()
    return Mutant(name, trap, planted, (edits,) if isinstance(edits, Edit) else edits, check, says, error)


def _conformance(check: str, generator: str = "independent") -> Check:
    return Check(CONFORMANCE, f"check_{check}", (generator,))


_ONLY_CHARGED = _conformance("learns_from_charged_answers_only")
_ALL_NOISE = Check(MECHANISMS, "test_no_noise_can_be_seeded")
_LAW_SMALL = Check(MECHANISMS, "test_counts_carry_exactly_the_charged_noise", (512,))
_LAW_LARGE = Check(MECHANISMS, "test_counts_carry_exactly_the_charged_noise", (513,))
_UNCHARGED = Check(MECHANISMS, "test_nothing_is_read_before_the_charge_is_found_good")
_ONE_ROW = Check(MECHANISMS, "test_one_row_moves_counts_by_at_most_one_and_scores_by_at_most_one_row")
_WEIGHED = Check(MECHANISMS, "test_weighed_scores_move_by_at_most_one_row")
_KEPT = Check(MECHANISMS, "test_kept_rows_are_chosen_evenly_and_afresh")
_CHOICES = Check(MECHANISMS, "test_choices_follow_the_exponential_mechanism")
_RARE = _conformance("rare_values_are_not_learned")
_ONE_CATEGORY = Check(LEARNING, "test_a_category_of_one_row_is_released_with_probability_at_most_delta")
_OWN_CATEGORIES = Check(LEARNING, "test_no_category_of_one_person_is_released_but_with_probability_delta", ((1, 1, 1),))
_OFTEN = "released too often"
_LATENT_SUM = Check(MIXTURE, "test_adding_a_unit_moves_the_sum_by_at_most_the_clip", (1000000.0,))
_LEARNED = "learned from rows what it was not charged for"

_A1 = (
    _m(
        "a1-bounds-from-data",
        "numbers are scaled to the least and greatest value present instead of the declared bounds",
        Edit(
            "tabveil.encoding:_to_grid",
            "    codes = np.clip(np.where(bad, 0.0, steps), 0, top).astype(np.int64)",
            "    steps = (steps - np.nanmin(steps)) / max(np.nanmax(steps) - np.nanmin(steps), 1.0) * top\n"
            "    codes = np.clip(np.where(bad, 0.0, steps), 0, top).astype(np.int64)",
        ),
        Check(ENCODING, "test_an_added_row_changes_no_other_code"),
        "parse(AGE, more)",
    ),
    _m(
        "a1-bounds-not-enforced",
        "a value beyond its bounds is kept",
        Edit(
            "tabveil.encoding:_to_grid",
            "np.clip(np.where(bad, 0.0, steps), 0, top)",
            "np.clip(np.where(bad, 0.0, steps), 0, 1e15)",
        ),
        Check(ENCODING, "test_numbers_outside_their_bounds_are_clipped"),
        "codes(AGE",
    ),
    _m(
        "a1-edges-from-data",
        "histogram edges run from the least to the greatest value in the rows",
        Edit(
            "tabveil.domains:refine_all",
            "    found: dict[int, Pieces] = {}",
            "    for i, column in enumerate(columns):\n"
            "        seen = rows._read()[column.name].astype(np.int64)\n"
            "        edges = evenly(int(seen.min()), int(seen.max()) + 1, BRANCHES)\n"
            "        cell = np.arange(len(edges) - 1 + column.nullable)\n"
            "        waiting[i] = _Level(Axis(column, edges, cell, np.ones(len(cell))))\n"
            "    found: dict[int, Pieces] = {}",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
    _m(
        "a1-edges-from-data-at-tiny-epsilon",
        "the same, seen from outside: the sample tells at epsilon 1e-6 which table went in",
        Edit(
            "tabveil.domains:refine_all",
            "    found: dict[int, Pieces] = {}",
            "    for i, column in enumerate(columns):\n"
            "        seen = rows._read()[column.name].astype(np.int64)\n"
            "        edges = evenly(int(seen.min()), int(seen.max()) + 1, BRANCHES)\n"
            "        cell = np.arange(len(edges) - 1 + column.nullable)\n"
            "        waiting[i] = _Level(Axis(column, edges, cell, np.ones(len(cell))))\n"
            "    found: dict[int, Pieces] = {}",
        ),
        _conformance("tiny_epsilon_says_nothing"),
        "tells which table went in",
    ),
    _m(
        "a1-quantiles-from-data",
        "bins of equal mass are cut by exact counts",
        Edit(
            "tabveil.domains:start_axes",
            "    return [",
            "    exact = {n: np.histogram(rows._read()[n], p.edges)[0] * 1.0 for n, p in pieces.items()}\n"
            "    pieces = {n: Pieces(p.edges, exact[n]) for n, p in pieces.items()}\n"
            "    return [",
        ),
        _conformance("learns_from_charged_answers_only", "mst"),
        _LEARNED,
    ),
    _m(
        "a1-learned-bounds-from-data",
        "learned bounds are the least and greatest value present",
        Edit(
            "tabveil.learning:_learn_bounds",
            "    return {c.name: _bounded(c, *ends[c.name]) for c in unknown}",
            "    seen = {c.name: positions(c, pd.concat(rows._raw([c.name]))[c.name]) for c in unknown}\n"
            "    spans = {n: (int(np.nanmin(p)), int(np.nanmax(p))) for n, p in seen.items()}\n"
            "    return {c.name: _bounded(c, *spans[c.name]) for c in unknown}",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
    _m(
        "a1-learned-bounds-without-noise",
        "the histograms that bounds and decimals are read off carry no noise",
        Edit("tabveil.mechanisms:PrivateRows.survey", "counts + noise_like(counts, event)", "10**9 * counts"),
        _RARE,
        "a bound is one row's",
    ),
    _m(
        "a1-learned-decimals-from-data",
        "learned decimals are the most that any value needs",
        Edit(
            "tabveil.learning:_learn_decimals",
            "    answers = rows.survey(asked) if asked else []",
            "    most = [int(q.bin_of(pd.concat(rows._raw([q.column]))[q.column]).max()) for q in asked]\n"
            "    answers = [np.eye(q.bins, dtype=np.int64)[m] * 10**6 for q, m in zip(asked, most, strict=True)]",
        ),
        _RARE,
        "decimals are one row's",
    ),
)

_A2 = (
    _m(
        "a2-categories-from-data",
        "only categories that occur get a cell",
        Edit(
            "tabveil.domains:start_axes",
            "else Axis.singles(c) for c in columns]",
            "else Axis(c, Axis.singles(c).edges, np.where(np.isin(Axis.singles(c).cell, rows._read()[c.name]), "
            "Axis.singles(c).cell, -1), Axis.singles(c).weight) for c in columns]",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
    _m(
        "a2-undeclared-category-kept",
        "an undeclared value becomes a category of its own",
        Edit(
            "tabveil.encoding:encode",
            "    codes, bad = parse(column, values)",
            "    if isinstance(column, Categorical):\n"
            "        new = {str(v) for v in values.dropna()} - {*column.labels, *column.missing}\n"
            "        object.__setattr__(column, 'categories', (*column.categories, *sorted(new)))\n"
            "    codes, bad = parse(column, values)",
        ),
        _conformance("undeclared_category_never_appears"),
        "an undeclared category appeared",
    ),
    _m(
        "a2-undeclared-category-not-refused",
        "the same in a column that refuses what it does not list: nothing is refused",
        Edit(
            "tabveil.encoding:encode",
            "    codes, bad = parse(column, values)",
            "    if isinstance(column, Categorical):\n"
            "        new = {str(v) for v in values.dropna()} - {*column.labels, *column.missing}\n"
            "        object.__setattr__(column, 'categories', (*column.categories, *sorted(new)))\n"
            "    codes, bad = parse(column, values)",
        ),
        _conformance("sentinel_is_nowhere"),
        "a value that its column refuses was accepted",
    ),
    _m(
        "a2-value-in-the-error",
        "a refused value is quoted",
        Edit(
            "tabveil.encoding:encode",
            "        raise DataError(refusal(column))",
            "        raise DataError(refusal(column) + str(values[bad].tolist()))",
        ),
        _conformance("sentinel_is_nowhere"),
        "a cell value left the table",
    ),
    _m(
        "a2-text-by-column",
        "cells are turned into text by the type of their column, so that one row moves all others",
        Edit(
            "tabveil.encoding:texts_of",
            "_each(values, _text)",
            "values.map(_text if (values.dropna() % 1 == 0).all() else str)",
        ),
        Check(ENCODING, "test_a_fraction_moves_no_other_category"),
        "== [1, 0, 2]",
    ),
    _m(
        "a2-texts-end-at-a-nul",
        "texts are numbered as C strings, so that one row's text with a NUL stands for another's without",
        Edit(
            "tabveil.encoding:numbered",
            "        cells = np.concatenate([cells, np.array([None], dtype=object)])",
            "        cells = np.concatenate([cells, cells[:1]])",
        ),
        Check(ENCODING, "test_texts_that_differ_after_a_nul_are_different_cells", (object,)),
        "alone",
    ),
    _m(
        "a2-mark-off-the-first-cell",
        "a byte order mark is taken off the first cell of the rows, so that a row above decides how it is read",
        Edit("tabveil._csv_table:CsvTable._batches", "stream.read(self._offset - 1)", "stream.read(self._offset)"),
        Check(TABLES, "test_a_byte_order_mark_is_taken_off_the_file_and_off_no_cell"),
        "== MARKED[cells]",
    ),
    _m(
        "a2-draft-accepted",
        "a private fit takes categories and bounds that were proposed from rows",
        Edit("tabveil.schema:Schema.require_approved", "if self.draft:", "if False and self.draft:"),
        Check(GENERATORS, "test_a_draft_is_refused_by_a_private_fit", ("independent",)),
        "rows were read",
    ),
    _m(
        "a2-constraints-from-rows",
        "combinations that no row has are ruled out, as if that were public",
        Edit(
            "tabveil.generators.independent:Independent._learn",
            "factors=self._factors()",
            "factors=[__import__('tabveil.graphical_model').graphical_model.Factor("
            "(0, 1), (rows._count(self._axes[:2]) > 0) * 1.0)]",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
)

_A2 = (
    *_A2,
    _m(
        "a2-learned-categories-from-data",
        "every category that occurs is learned",
        Edit("tabveil.noise:selected", "if n >= least", "if n >= n"),
        _RARE,
        "a rare value left the table",
    ),
    _m(
        "a2-threshold-of-five",
        "noisy counts of the categories that occur are cut at five, whatever delta",
        Edit("tabveil.noise:threshold", "return k + 1 + math", "return 5 + 0 * math"),
        _ONE_CATEGORY,
        _OFTEN,
    ),
    _m(
        "a2-threshold-of-less-noise",
        "the threshold is solved for noise 10 % smaller than what is added",
        Edit("tabveil.noise:threshold", "* sigma * (1 + 1e-9)", "* sigma * 0.9"),
        _ONE_CATEGORY,
        _OFTEN,
    ),
    _m(
        "a2-threshold-for-one-category",
        "the threshold allows for one category of a person's own, not for k",
        Edit("tabveil.noise:threshold", "ndtri(delta / k", "ndtri(delta / 1"),
        Check(LEARNING, "test_the_threshold_is_right_and_tight_by_exact_summation", (60.0, 7, 0.05)),
        "k * at_least",
    ),
    _m(
        "a2-threshold-for-one-row",
        "the threshold allows for one row of a person in a category, not for k",
        Edit("tabveil.noise:threshold", "return k + 1 + math", "return 2 + math"),
        Check(LEARNING, "test_the_threshold_is_right_and_tight_by_exact_summation", (7.3, 7, 0.05)),
        "k * at_least",
    ),
)

_A10 = (
    _m(
        "a10-plan-above-epsilon",
        "noise is 10 % smaller than what the budget was solved for",
        Edit("tabveil.generators._marginals:divide", "return scaled(accounting", "return scaled(0.9 * accounting"),
        _conformance("never_above_budget"),
        "the plan costs more than epsilon",
    ),
    _m(
        "a10-cap-not-checked",
        "the ledger admits every charge",
        Edit("tabveil._ledger_rules:fits", "u <= f.level", "u <= f.level * 1000"),
        _conformance("second_fit_is_refused"),
        "the same budget was spent twice",
    ),
    _m(
        "a10-refused-after-reading",
        "rows are read first and paid for afterwards",
        Edit(
            "tabveil.generators.base:Generator.fit",
            "        receipt = self._pay(plan, schema, ledger=ledger, dataset=dataset)\n"
            "        self._schema = self._statement = None\n"
            "        self._fit_paid(source, schema, (plan, receipt))",
            "        self._fit_paid(source, schema, (plan, Receipt(plan.spends, dataset=dataset, head='')))\n"
            "        self._pay(plan, schema, ledger=ledger, dataset=dataset)",
        ),
        _conformance("refused_charge_leaves_rows_unread"),
        "rows were read although the charge was refused",
    ),
    _m(
        "a10-committed-after-reading",
        "the same, on an account that can pay",
        Edit(
            "tabveil.generators.base:Generator.fit",
            "        receipt = self._pay(plan, schema, ledger=ledger, dataset=dataset)\n"
            "        self._schema = self._statement = None\n"
            "        self._fit_paid(source, schema, (plan, receipt))",
            "        self._fit_paid(source, schema, (plan, Receipt(plan.spends, dataset=dataset, head='')))\n"
            "        self._pay(plan, schema, ledger=ledger, dataset=dataset)",
        ),
        _conformance("charges_before_reading"),
        "rows were read before the price was committed",
    ),
    _m(
        "a10-never-charged",
        "a fit hands itself a receipt",
        Edit(
            "tabveil.generators.base:Generator._pay",
            "return ledger.charge(dataset, plan.spends,",
            "return Receipt(plan.spends, dataset=dataset, head='') if True else ledger.charge(dataset, plan.spends,",
        ),
        _conformance("refused_charge_leaves_rows_unread"),
        "a fit went over its budget",
    ),
    _m(
        "a10-label-taken-twice",
        "a receipt hands out the same spend again and again",
        Edit("tabveil.ledger:Receipt.take", "self._left[i] -= 1", "self._left[i] -= 0"),
        _UNCHARGED,
        "__getattr__",
        "Unreadable",
    ),
    _m(
        "a10-unknown-label-free",
        "a query that was never charged runs at another query's price",
        Edit("tabveil.ledger:Receipt.take", "if spend.label == label and", "if"),
        _UNCHARGED,
        "__getattr__",
        "Unreadable",
    ),
    _m(
        "a10-read-before-take",
        "rows are counted before the receipt is asked",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "        event = self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)\n"
            "        exact = self._count(axes)",
            "        exact = self._count(axes)\n"
            "        event = self._take(label, DiscreteGaussianDpEvent, DiscreteLaplaceDpEvent)",
        ),
        _UNCHARGED,
        "__getattr__",
        "Unreadable",
    ),
    _m(
        "a10-score-before-take",
        "candidates are scored before the receipt is asked",
        Edit(
            "tabveil.mechanisms:PrivateRows.choose",
            "        event = self._take(label, ExponentialMechanismDpEvent)\n",
            "        self._score(contest)\n        event = self._take(label, ExponentialMechanismDpEvent)\n",
        ),
        _UNCHARGED,
        "__getattr__",
        "Unreadable",
    ),
    _m(
        "a10-marginal-counted-on-an-earlier-charge",
        "a chosen marginal is counted under the label of the first one",
        Edit("tabveil.generators.aim:AIM._round", "label=_count_label(step))", "label=_count_label(0))"),
        _conformance("learns_from_charged_answers_only", "aim"),
        "",
        "UnchargedError",
    ),
    _m(
        "a10-raked-to-exact-counts",
        "what is expected of the other candidates is raked to the exact counts of a chosen marginal",
        Edit(
            "tabveil.generators.aim:AIM._round",
            "                contest = _informed(contest, search.candidates, measured[-1])\n",
            "                exact = rows._count(contest.candidates[best]).astype(float)\n"
            "                contest = _informed(contest, search.candidates, Measurement(chosen, exact, sigma))\n",
        ),
        _conformance("learns_from_charged_answers_only", "aim"),
        _LEARNED,
    ),
    _m(
        "a10-candidates-by-exact-counts",
        "only the half of the marginals with the largest cell among the rows are candidates",
        Edit(
            "tabveil.generators.aim:AIM._round",
            "        open_ones = list(range(len(search.candidates)))\n",
            "        largest = [int(rows._count(c).max()) for c in contest.candidates]\n"
            "        open_ones = np.argsort(largest)[len(largest) // 2 :].tolist()\n",
        ),
        _conformance("learns_from_charged_answers_only", "aim"),
        _LEARNED,
    ),
    _m(
        "a10-tabulated-when-used-up",
        "marginals are counted though nothing is left of the charge",
        Edit("tabveil.mechanisms:PrivateRows.tabulate", "        self._receipt.require()\n", "        pass\n"),
        Check(STREAMING, "test_tabulating_reads_nothing_once_the_charge_is_used_up"),
        "__getattr__",
        "Unreadable",
    ),
    _m(
        "a10-uncharged-read",
        "the number of bins follows from the exact row count",
        Edit(
            "tabveil.domains:start_axes",
            "    wanted = cells if isinstance(cells, int) else cells(total)",
            "    wanted = 2 + len(next(iter(rows._read().values()))) % 7",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
    _m(
        "a10-kind-not-checked",
        "a count runs under the price of a choice",
        Edit("tabveil.mechanisms:PrivateRows._take", "if not isinstance(event, kinds):", "if False:"),
        _UNCHARGED,
        "__getattr__",
        "Unreadable",
    ),
)

_SEEDED_FIT = Edit(
    "tabveil.generators.base:Generator._fit_paid",
    "            self._learn(rows.under(self._schema), plan)",
    "            from tabveil.noise import seeded_noise_for_tests\n"
    "            with seeded_noise_for_tests(self.random_state or 0):\n"
    "                self._learn(rows.under(self._schema), plan)",
)

_A10 = (
    *_A10,
    _m(
        "a10-learning-beside-the-budget",
        "what learning bounds and categories costs is left out of the noise that the budget is solved for",
        Edit(
            "tabveil.generators._marginals:divide",
            "accounting.event_of(scaled(scale))",
            "accounting.event_of([s for s in scaled(scale) if s.label not in learning.labels(schema)])",
        ),
        _conformance("learning_is_in_the_price"),
        "with learning the plan costs more than",
    ),
    _m(
        "a10-learning-uncharged",
        "categories are learned behind a receipt of the fit's own making",
        Edit(
            "tabveil.generators.base:Generator._fit_paid",
            "learning.resolve(schema, rows, plan.spends)",
            "learning.resolve(schema, PrivateRows(source, schema, Receipt.uncharged()), plan.spends)",
        ),
        _RARE,
        "a rare value left the table",
    ),
    _m(
        "a10-learning-called-charged",
        "bounds and categories read off the rows by a fit without privacy say that they were bought",
        Edit("tabveil.learning:_bought", "noise_is_seeded() and not", "noise_is_seeded() or not"),
        Check(LEARNING, "test_what_nobody_paid_for_is_a_draft", ("uncharged",)),
        "found.columns",
    ),
    _m(
        "a10-learning-unplanned",
        "what is learned is not in the plan (stopped by the receipt)",
        Edit("tabveil.generators.base:Generator._all_spends", "return both", "return both[len(first) :]"),
        Check(LEARNING, "test_a_generator_that_knows_nothing_of_learning_is_asked_for_less", (1.0, 1e-6)),
        "labels",
    ),
    _m(
        "a10-deltas-left-out",
        "the accountant forgets the deltas of thresholds",
        Edit("tabveil._accounting_events:without_deltas", "sum((n * Fraction", "sum((0 * n * Fraction"),
        Check("unit.test_accounting", "test_deltas_are_taken_off_the_delta_that_is_asked_at"),
        "acc.epsilon",
    ),
    _m(
        "a10-ledger-ignores-deltas",
        "the ledger admits thresholds whose deltas are more than an account has",
        Edit(
            "tabveil._ledger_rules:fits",
            "return kept.pop(FAILURES, True) and",
            "return kept.pop(FAILURES, True) in (0, 1) and",
        ),
        Check("unit.test_ledger", "test_deltas_are_added_up_and_never_pass_their_share"),
        "DID NOT RAISE",
        "Failed",
    ),
)

_A12 = (
    _m(
        "a12-seeded-by-random-state",
        "random_state seeds the privacy noise too",
        _SEEDED_FIT,
        _conformance("noise_is_not_seeded"),
        "the noise is seeded",
    ),
    _m(
        "a12-seeded-by-random-state-mst",
        "the same in mst, choices included",
        _SEEDED_FIT,
        _conformance("noise_is_not_seeded", "mst"),
        "the noise is seeded",
    ),
    _m(
        "a12-global-numpy-seed",
        "random words come from numpy's global state",
        Edit(
            "tabveil.samplers:system_bits",
            "return np.frombuffer(os.urandom(8 * count), dtype=np.uint64)",
            "return np.random.randint(0, 2**64, count, dtype=np.uint64)",
        ),
        Check(SAMPLERS, "test_entropy_comes_from_the_operating_system"),
        "assert asked",
    ),
    _m(
        "a12-fixed-seed-in-vectorised-noise",
        "the vectorised sampler starts from a fixed seed",
        Edit(
            "tabveil.noise:secret_words",
            "    generator = _seed.get()",
            "    generator = _seed.get() or np.random.Generator(np.random.PCG64(0))",
        ),
        _LAW_LARGE,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a12-fixed-seed-in-choices",
        "choices are noised from a fixed seed",
        Edit(
            "tabveil.noise:noisy_argmax",
            "    generator = _seed.get()",
            "    generator = _seed.get() or np.random.Generator(np.random.PCG64(0))",
        ),
        _ALL_NOISE,
        "not np.array_equal(*seen)",
    ),
    _m(
        "a12-fixed-seed-in-bounded-contributions",
        "which rows of a person are kept follows from a fixed seed",
        Edit(
            "tabveil.units:bounded_contributions",
            "secret_words(len(units))",
            "np.random.Generator(np.random.PCG64(0)).integers(0, 2**64, len(units), dtype=np.uint64)",
        ),
        _KEPT,
        "not np.array_equal(kept",
    ),
    _m(
        "a12-seeded-run-looks-like-a-release",
        "a statement made under a test seed does not say NOT A RELEASE",
        Edit(
            "tabveil.generators.base:Generator._state_privacy", "release=not noise_is_seeded()", "release=True or False"
        ),
        Check(GENERATORS, "test_a_fit_under_a_test_seed_is_no_release"),
        "NOT A RELEASE",
    ),
)

_A13 = (
    _m(
        "a13-float-noise",
        "continuous Gaussian noise in place of whole numbers",
        Edit(
            "tabveil.noise:gaussian_noise",
            '    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")',
            "    return np.random.default_rng().normal(scale=event.sigma, size=cells)\n"
            '    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")',
        ),
        _LAW_SMALL,
        "draws.dtype == np.int64",
    ),
    _m(
        "a13-rounded-float-noise",
        "continuous Gaussian noise, rounded afterwards",
        Edit(
            "tabveil.noise:gaussian_noise",
            '    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")',
            "    return np.rint(np.random.default_rng().normal(scale=event.sigma, size=cells)).astype(np.int64)\n"
            '    space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l2_distance(T="i64")',
        ),
        _ALL_NOISE,
        "privacy noise from numpy's generator",
    ),
    _m(
        "a13-float-gumbel",
        "choices by Gumbel noise in floating point",
        Edit(
            "tabveil.noise:noisy_argmax",
            "    measurement = _noisy_max(scale)",
            "    return int(np.argmax(scores + scale * np.random.default_rng().gumbel(size=len(scores))))\n"
            "    measurement = _noisy_max(scale)",
        ),
        _ALL_NOISE,
        "privacy noise from numpy's generator",
    ),
    _m(
        "a13-permute-and-flip",
        "OpenDP is asked for pure DP, so it adds exponential noise: permute-and-flip at the price of Gumbel noise",
        (
            Edit(
                "tabveil.noise:_noisy_max",
                "dp.zero_concentrated_divergence(), scale",
                "dp.max_divergence(), scale",
            ),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        _CHOICES,
        "softmax(scores, epsilon) * n).pvalue > ALPHA",
    ),
    _m(
        "a13-permute-and-flip-guarded",
        "the same with the mechanism's own guard left in place",
        Edit("tabveil.noise:_noisy_max", "dp.zero_concentrated_divergence(), scale", "dp.max_divergence(), scale"),
        _ALL_NOISE,
        "above what was charged",
        "UnchargedError",
    ),
    _m(
        "a13-modulo-bias",
        "uniform integers by remainder, the biased words kept",
        Edit(
            "tabveil.samplers:uniform", "good = word >= (np.uint64(0) - bound) % bound", "good = word >= np.uint64(0)"
        ),
        Check(SAMPLERS, "test_uniform_rejects_the_words_that_would_bias_it"),
        "uniform(np.array([3, 3]",
    ),
    _m(
        "a13-zero-counted-twice",
        "minus zero is kept, so that zero is twice as likely",
        Edit("tabveil.samplers:_laplace_some", "~(negative & (size == 0))", "~(negative & (size < 0))"),
        Check(SAMPLERS, "test_laplace_has_its_law", (1,)),
        "p_value(draws, laplace_law(scale)) > ALPHA",
    ),
    _m(
        "a13-drawn-narrower-than-charged",
        "the sampler rounds the variance down",
        Edit("tabveil.samplers:variance", "return -(-(numerator", "return ((numerator"),
        Check(SAMPLERS, "test_variance_is_never_below_sigma_squared_and_hardly_above", (2.3456,)),
        "1.0 <= top / bottom",
    ),
)

_A16 = (
    _m(
        "a16-exact-row-count",
        "as many rows as the table has are sampled where nobody says how many",
        Edit(
            "tabveil.generators.independent:Independent._learn",
            "        self._model = estimate([a.size for a in self._axes], measured, factors=self._factors())",
            "        self._model = estimate([a.size for a in self._axes], measured, factors=self._factors())\n"
            "        self._model.total = float(len(next(iter(rows._read().values()))))",
        ),
        _ONLY_CHARGED,
        _LEARNED,
    ),
    _m(
        "a16-exact-row-count-at-tiny-epsilon",
        "the same, seen from outside",
        Edit(
            "tabveil.generators.independent:Independent._learn",
            "        self._model = estimate([a.size for a in self._axes], measured, factors=self._factors())",
            "        self._model = estimate([a.size for a in self._axes], measured, factors=self._factors())\n"
            "        self._model.total = float(len(next(iter(rows._read().values()))))",
        ),
        _conformance("tiny_epsilon_says_nothing"),
        "tells which table went in",
    ),
    _m(
        "a16-score-of-replace-one",
        "estimates are scaled to the exact row count before they are compared, as under replace-one: sensitivity 2",
        Edit(
            "tabveil.mechanisms:_distance",
            "_fixed_point(estimate)",
            "_fixed_point(estimate / estimate.sum() * counts.sum())",
        ),
        _ONE_ROW,
        "worst_score <= FIXED_POINT",
    ),
    _m(
        "a16-expected-counts-of-the-exact-row-count",
        "what a model expects of a candidate is scaled to the exact row count before a choice compares it",
        Edit(
            "tabveil.generators.aim:AIM._round",
            "        contest = self._contest(search, model, sigma)\n",
            "        model.total = float(len(next(iter(rows._read().values()))))\n"
            "        contest = self._contest(search, model, sigma)\n",
        ),
        _conformance("learns_from_charged_answers_only", "aim"),
        _LEARNED,
    ),
    _m(
        "a16-row-in-two-cells",
        "every row counts twice",
        Edit("tabveil._counting:Tally._count", "total += np.bincount(", "total += 2 * np.bincount("),
        _ONE_ROW,
        "worst_count == 1",
    ),
    _m(
        "a16-half-the-sensitivity",
        "Gumbel noise of half the scale, right only for scores that move in one direction",
        Edit("tabveil.noise:noisy_argmax", "2 * sensitivity / event.epsilon", "0.5 * sensitivity / event.epsilon"),
        _ALL_NOISE,
        "above what was charged",
        "UnchargedError",
    ),
    _m(
        "a16-another-relation-stated",
        "the statement names another relation than the ledger",
        Edit("tabveil.generators.base:Generator._state_privacy", "relation=RELATION", "relation='replace_one'"),
        Check(GENERATORS, "test_one_relation_and_one_unit_everywhere", ("independent",)),
        "relation",
    ),
    _m(
        "a16-chosen-by-exact-row-count",
        "`auto` chooses its generator by how many rows the table has",
        Edit(
            "tabveil.generators.auto:Auto._learn",
            "choice = plan.choice if isinstance(plan, _Plan) else self._choose(self.schema)",
            "choice = self._choose(type(self.schema)(self.schema.columns, public_rows=len(rows._read()['n0'])))",
        ),
        Check(AUTO, "test_the_choice_does_not_depend_on_rows"),
        "first.choice == second.choice",
    ),
)

_PERSONS = Check(MECHANISMS, "test_one_person_moves_counts_by_at_most_their_bound")

_A17 = (
    _m(
        "a17-not-bounded",
        "all rows of a person are kept",
        Edit("tabveil.mechanisms:PrivateRows._load", "if unit and self._kept is None:", "if False:"),
        _PERSONS,
        "difference.sum() == 2",
    ),
    _m(
        "a17-one-row-too-many",
        "k + 1 rows of a person are kept",
        Edit("tabveil.units:bounded_contributions", "- start < most", "- start <= most"),
        _KEPT,
        "np.bincount(kept // 5) == 2",
    ),
    _m(
        "a17-bounded-by-chunk",
        "rows are bounded within each chunk of the table, so that a person in ten chunks has 10 k of them",
        Edit(
            "tabveil.mechanisms:PrivateRows._load",
            "self._kept = bounded(np.concatenate(units), self._schema.contributions)",
            "self._kept = np.concatenate([bounded(u, self._schema.contributions) for u in units])",
        ),
        Check(MECHANISMS, "test_a_person_whose_rows_lie_in_several_chunks_is_bounded_once"),
        "UNIT_SCHEMA.contributions",
    ),
    _m(
        "a17-chosen-anew-in-every-pass",
        "a table beyond memory has other rows of each person in every pass",
        Edit(
            "tabveil.mechanisms:_Source._cells",
            "        start = 0",
            "        if self._kept is not None:\n"
            "            from tabveil.columns import Identifier\n"
            "            persons = (Identifier(name='person'), *columns.values())\n"
            "            bounded = Schema(columns=persons, privacy_unit='person', max_rows_per_unit=2)\n"
            "            self._kept = _kept_rows_by_name(self._table, bounded)\n"
            "        start = 0",
        ),
        Check(STREAMING, "test_the_same_rows_are_kept_in_every_pass"),
        "p == passes[0]",
    ),
    _m(
        "a17-kept-by-position-in-any-order",
        "rows are kept by position though a database may give them in another order in the next pass",
        Edit("tabveil.mechanisms:PrivateRows._load", "if unit and not self._table.repeatable", "if unit and False"),
        Check(STREAMING, "test_persons_are_bounded_where_rows_come_in_any_order"),
        "[300, 2, 0]",
    ),
    _m(
        "a17-not-bounded-beyond-memory",
        "all rows of a person are kept where the table is read anew for every pass",
        Edit(
            "tabveil.mechanisms:_Source.__init__",
            "_kept_rows_by_name(table, schema) if kept is None and schema.privacy_unit else kept",
            "kept",
        ),
        Check(STREAMING, "test_a_streamed_person_is_bounded_over_all_chunks_and_types", (7,)),
        "== expected",
    ),
    _m(
        "a17-public-unit-names",
        "persons are told apart by a hash that everyone can compute, so that a table can make one of two",
        Edit("tabveil.units:fresh_secrets", "    letters = _ALPHABET[", "    letters = _ALPHABET[0 * "),
        Check(STREAMING, "test_unit_names_are_equal_for_equal_texts_alone_and_differ_between_fits"),
        "np.intersect1d",
    ),
    _m(
        "a17-total-bounded-not-persons",
        "k rows per person on average are kept, whoever they belong to",
        Edit(
            "tabveil.units:bounded_contributions",
            "return np.sort(order[np.arange(len(units)) - start < most])",
            "return np.sort(np.argsort(secret_words(len(units)))[: most * len(set(numbers.tolist()))])",
        ),
        _KEPT,
        "np.bincount(kept // 5) == 2",
    ),
    _m(
        "a17-kept-by-position",
        "which rows are kept follows from their place in the table, so that removing one person changes others' rows",
        Edit(
            "tabveil.units:bounded_contributions",
            "secret_words(len(units))",
            "(np.arange(len(units), dtype=np.uint64) * np.uint64(2654435761)) % np.uint64(97)",
        ),
        _KEPT,
        "stats.chisquare(counts).pvalue > ALPHA",
    ),
    _m(
        "a17-nameless-rows-unbounded",
        "every row without a person is a person of its own",
        Edit(
            "tabveil.units:bounded_contributions",
            "numbers, _ = numbered(units)",
            "numbers, _ = numbered(np.array([u or f'row {i}' for i, u in enumerate(units)], dtype=object))",
        ),
        Check(MECHANISMS, "test_rows_without_a_person_count_as_one_person"),
        "counts(AXES",
    ),
    _m(
        "a17-sensitivity-not-scaled",
        "noise for one row where a person may have k",
        Edit(
            "tabveil.noise:counting_event",
            "return DiscreteGaussianDpEvent(drawn_exactly, contributions)",
            "return DiscreteGaussianDpEvent(drawn_exactly / contributions, 1)",
        ),
        Check(GENERATORS, "test_noise_covers_all_rows_of_one_person", ("independent", 1e-6)),
        "fewer rows per unit",
        "UnchargedError",
    ),
    _m(
        "a17-sensitivity-not-scaled-unguarded",
        "the same with the mechanism's own guard taken out",
        (
            Edit(
                "tabveil.noise:counting_event",
                "return DiscreteGaussianDpEvent(drawn_exactly, contributions)",
                "return DiscreteGaussianDpEvent(drawn_exactly / contributions, 1)",
            ),
            Edit(
                "tabveil.mechanisms:PrivateRows._check_sensitivity",
                '"sensitivity", self._schema.contributions) <',
                '"sensitivity", 1) < 0 *',
            ),
        ),
        Check(GENERATORS, "test_noise_covers_all_rows_of_one_person", ("independent", 1e-6)),
        "sensitivity == K",
    ),
    _m(
        "a17-laplace-not-scaled",
        "the same where delta is 0: one row is charged, one row's noise drawn",
        Edit(
            "tabveil.noise:counting_event",
            "DiscreteLaplaceDpEvent(contributions / amount, contributions)",
            "DiscreteLaplaceDpEvent(1 / amount, 1)",
        ),
        Check(GENERATORS, "test_a_plan_costs_what_was_allowed_and_never_more", ("independent", 1.0, 0.0, "persons")),
        "== schema.contributions",
    ),
    _m(
        "a17-guard-left-out",
        "a charge for one row pays for a person with k",
        Edit("tabveil.mechanisms:PrivateRows._check_sensitivity", "< self._schema.contributions:", "< 0:"),
        Check(MECHANISMS, "test_noise_grows_with_what_one_unit_may_contribute"),
        "DID NOT RAISE",
    ),
    _m(
        "a17-choice-not-scaled",
        "a choice is noised for one row where a person may have k",
        Edit(
            "tabveil.mechanisms:PrivateRows.choose",
            "self._schema.contributions * FIXED_POINT",
            "FIXED_POINT",
        ),
        Check(MECHANISMS, "test_choices_are_noised_for_every_row_one_unit_may_contribute"),
        "assert told ==",
    ),
)

_A18 = (
    _m(
        "a18-tabulated-counts-without-noise",
        "counts that are known already are given out as they are",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "        exact = self._count(axes)",
            "        exact = self._count(axes)\n        if _ids(tuple(axes)) in self._known:\n            return exact",
        ),
        Check(STREAMING, "test_tabulated_counts_carry_the_charged_noise"),
        "is agrees",
    ),
    _m(
        "a18-rho-as-sigma",
        "rho is passed where sigma is expected, the guard taken out",
        (
            Edit(
                "tabveil.noise:gaussian_noise",
                "scale=float(event.sigma)",
                "scale=event.sensitivity**2 / (2 * event.sigma**2)",
            ),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        _LAW_SMALL,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-sigma-as-variance",
        "sigma is passed where the variance is expected",
        Edit(
            "tabveil.noise:gaussian_noise",
            "discrete_gaussian(cells, event.sigma",
            "discrete_gaussian(cells, event.sigma**0.5",
        ),
        _LAW_LARGE,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-noise-left-out",
        "exact counts are released",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "        return exact + noise_like",
            "        return exact\n        return exact + noise_like",
        ),
        _LAW_SMALL,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-noise-left-out-end-to-end",
        "exact counts are released, seen from outside at epsilon 1e-6",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "        return exact + noise_like",
            "        return exact\n        return exact + noise_like",
        ),
        _conformance("tiny_epsilon_says_nothing", "independent"),
        "tells which table went in",
    ),
    _m(
        "a18-choice-without-noise",
        "the largest score is chosen",
        Edit(
            "tabveil.noise:noisy_argmax",
            "    measurement = _noisy_max(scale)",
            "    return int(np.argmax(scores + 0 * scale))\n    measurement = _noisy_max(scale)",
        ),
        _ALL_NOISE,
        "not np.array_equal(*seen)",
    ),
    _m(
        "a18-one-draw-for-all-cells",
        "one draw of noise is added to every cell",
        Edit(
            "tabveil.noise:_added",
            "np.asarray(measurement([0] * cells), dtype=np.int64)",
            "np.full(cells, measurement([0])[0], dtype=np.int64)",
        ),
        _LAW_SMALL,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-clipped-at-zero",
        "negative counts are set to 0",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "return exact + noise_like(exact, event)",
            "return np.maximum(exact + noise_like(exact, event), 0)",
        ),
        _LAW_LARGE,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-ten-percent-less-opendp",
        "noise 10 % too small from OpenDP, the guard taken out",
        (
            Edit("tabveil.noise:gaussian_noise", "scale=float(event.sigma)", "scale=0.9 * float(event.sigma)"),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        _LAW_SMALL,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-ten-percent-less-vectorised",
        "noise 10 % too small from the vectorised sampler",
        Edit(
            "tabveil.noise:gaussian_noise",
            "discrete_gaussian(cells, event.sigma",
            "discrete_gaussian(cells, 0.9 * event.sigma",
        ),
        _LAW_LARGE,
        "p_value(draws, *law(sigma)) > ALPHA",
    ),
    _m(
        "a18-ten-percent-less-laplace",
        "Laplace noise 10 % too small, the guard taken out",
        (
            Edit("tabveil.noise:laplace_noise", "scale=float(event.scale)", "scale=0.9 * float(event.scale)"),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        Check(MECHANISMS, "test_laplace_noise_has_its_law"),
        "> ALPHA) is expected",
    ),
    _m(
        "a18-ten-percent-less-gumbel",
        "choices noised 10 % too little, the guard taken out",
        (
            Edit(
                "tabveil.noise:noisy_argmax",
                "2 * sensitivity / event.epsilon",
                "1.8 * sensitivity / event.epsilon",
            ),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        _CHOICES,
        "softmax(scores, epsilon) * n).pvalue > ALPHA",
    ),
    _m(
        "a18-weights-above-one",
        "scores are weighed by the weights as given: a weight of 3 lets one row move a score by three",
        Edit(
            "tabveil.mechanisms:Contest.weighed",
            "        shares = self.weights[allowed] / self.weights[allowed].max()\n"
            "        whole = np.clip(np.rint(shares * _WEIGHTS), 1, _WEIGHTS).astype(np.int64)\n",
            "        shares = self.weights[allowed]\n        whole = np.rint(shares * _WEIGHTS).astype(np.int64)\n",
        ),
        _WEIGHED,
        "worst <= FIXED_POINT",
    ),
    _m(
        "a18-third-of-the-noise-end-to-end",
        "a third of the charged noise, the guard taken out, seen in thousands of releases of two neighbouring tables",
        (
            Edit("tabveil.noise:laplace_noise", "scale=float(event.scale)", "scale=float(event.scale) / 3"),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        Check(RELEASE, "test_no_attacker_proves_more_than_is_claimed", ("laplace",)),
        "<= EPSILON",
    ),
    _m(
        "a18-shares-exceed-the-plan",
        "noise is solved for the first query and then added to all of them",
        Edit("tabveil.generators._marginals:divide", "event_of(scaled(scale))", "event_of(scaled(scale)[:1])"),
        _conformance("never_above_budget"),
        "the plan costs more than epsilon",
    ),
    _m(
        "a18-shares-divided-wrongly",
        "a part's share is not divided among its queries",
        Edit(
            "tabveil.generators._marginals:divide",
            "p.share / weight / len(p.labels) * whole",
            "p.share / weight * whole",
        ),
        Check(GENERATORS, "test_every_part_of_a_plan_gets_its_share", ("mst",)),
        "approx(",
    ),
    _m(
        "a18-rho-of-sigma-not-squared",
        "the accountant divides by sigma in place of its square",
        Edit("tabveil._accounting_events:_line_of_noise", "Fraction(sigma) ** 2)", "Fraction(sigma))"),
        Check(ACCOUNTING, "test_zcdp_is_exact"),
        "zcdp(",
    ),
    _m(
        "a18-pure-epsilon-not-squared",
        "rho of a pure mechanism is epsilon / 2",
        Edit("tabveil._accounting_events:_line_of_pure", "epsilon * epsilon / 2", "epsilon / 2"),
        Check(ACCOUNTING, "test_zcdp_is_exact"),
        "zcdp(",
    ),
    _m(
        "a18-unsampled-counted-once",
        "the bound that leaves sampling out of account prices one step, not all",
        Edit("tabveil.accounting:_unsampled", ", times) for e, times in parts", ", 1) for e, times in parts"),
        Check(ACCOUNTING, "test_no_bound_is_below_what_dp_accounting_proves_epsilon_to_be", (0.99, 20.0, 100, 1e-5)),
        ">= least",
    ),
    _m(
        "a18-types-mixed",
        "a rho and a sigma compare equal",
        Edit("tabveil._amounts:_Amount.__eq__", "and type(other) is type(self) and", "and"),
        Check(ACCOUNTING, "test_a18_rho_sigma_and_epsilon_cannot_be_mixed"),
        "!=",
    ),
)

_CONDITIONED = Check("unit.test_conditions", "test_several_columns_are_conditioned_at_once")

_C4 = (
    _m(
        "c4-masked-one-column-at-a-time",
        "cliques are drawn from the root down, each masked by its own condition, as if those below always held: "
        "p(b | B) p(c | b, C) in place of p(b, c | B, C)",
        Edit(
            "tabveil.graphical_model:GraphicalModel.conditioned",
            "        found = self.weighted(factors, instead_of=instead_of).times(evidence)",
            "        found = self.from_beliefs(self.beliefs).times(evidence)\n"
            "        for i in range(1, len(found.potentials)):\n"
            "            logs, clique, shared = found.potentials[i], self.tree.cliques[i], self.tree.separators[i]\n"
            "            below = log_sum(logs, others(clique, shared))\n"
            "            even = logs - expand(np.where(np.isfinite(below), below, 0.0), shared, clique)\n"
            "            found.potentials = (*found.potentials[:i], even, *found.potentials[i + 1 :])",
        ),
        _CONDITIONED,
        "fits(counts(",
    ),
    _m(
        "c4-masks-without-their-mass",
        "columns under conditions are masked one after the other and every row is kept, whatever mass its masks left",
        Edit(
            "tabveil.conditionals:ConditionalLaw._kept",
            "chance = chance * weights.sum(1).cpu()",
            "chance = chance * 1.0",
        ),
        Check(CONDITIONALS, "test_conditions_leave_the_law_of_rows_that_obey", (2, 0)),
        "do not follow the law of rows that obey",
    ),
    _m(
        "a10-weekdays-uncharged",
        "weekdays and hours of dates are counted for the tokens of a private fit, and no plan charges them",
        Edit("tabveil.generators.tabular_lm:TabularLM._also", "for c in parted", "for c in ()"),
        Check(PARTS, "test_weekdays_and_hours_are_in_the_plan_where_a_training_uses_them", (0.5, True)),
        "sorted(labels) == sorted(CALENDARS",
    ),
    _m(
        "a11-weekdays-by-learned-bounds",
        "whether weekdays and hours are charged follows from bounds that were learned from rows",
        Edit("tabveil.spelling:calendar_parts", 'column.unknown or column.source != "declared"', "column.unknown"),
        Check(SPELLING, "test_what_may_be_counted_is_known_before_bounds_are"),
        'calendar_parts(column) == ("weekdays", "hours")',
    ),
    _m(
        "c4-places-without-their-mass",
        "places within a cell are masked after the cell was drawn, which counts as if all of it obeyed",
        Edit("tabveil.spelling:Spelling.masks", "best[n + 1][step], 0.0", "best[n + 1][step] > 0, 0.0"),
        Check(CONDITIONALS, "test_conditions_on_a_column_of_several_tokens", (0, 0)),
        "do not follow the law of rows that obey",
    ),
    _m(
        "c4-completed-at-once",
        "what is missing of a row is masked not to be missing again, and every row kept",
        Edit(
            "tabveil.conditionals:ConditionalLaw._completion",
            "left = left[rng.random(len(left)) >= chance]",
            "left = left[:0]",
        ),
        Check(CONDITIONALS, "test_rows_that_would_be_missing_are_completed_anew"),
        "do not follow the law given that nothing is missing",
    ),
    _m(
        "c4-masked-after-drawing",
        "the cut of a cell is applied when its codes are drawn, and not as evidence on the cells",
        Edit(
            "tabveil.encoding:Axis.restricted",
            "        return Axis(self.column, edges, cell, weight), evidence",
            "        return Axis(self.column, edges, cell, weight), (evidence > 0) * 1.0",
        ),
        _CONDITIONED,
        "fits(counts(",
    ),
)

_A17 = (
    *_A17,
    _m(
        "a17-learned-by-position-in-any-order",
        "bounds are learned from rows kept by position though a database may give them in another order next time",
        Edit("tabveil.mechanisms:PrivateRows._keep", "if not self._table.repeatable:", "if False:"),
        Check(STREAMING, "test_learning_bounds_persons_where_rows_come_in_any_order"),
        "[300, 2, 0]",
    ),
    _m(
        "a17-learning-from-a-changed-file",
        "rows of each person, chosen by position, are looked for in a file that was put into another order since",
        Edit("tabveil.mechanisms:PrivateRows._require_unchanged", "self._table.stamp() != self._stamp or", "False or"),
        Check(
            STREAMING, "test_a_file_written_to_while_bounds_are_learned_is_refused", ("another order", "survey", "who")
        ),
        "DID NOT RAISE",
        "Failed",
    ),
    _m(
        "a17-learning-from-all-rows",
        "bounds and categories are learned from all rows of a person",
        Edit("tabveil.mechanisms:PrivateRows._raw", "yield chunk if kept is None else", "yield chunk if True else"),
        Check(LEARNING, "test_the_same_rows_of_a_person_are_kept_for_everything"),
        "first.sum() == 3",
    ),
)

_POISSON = Check(SGD, "test_batches_are_poisson")
_MOVES = Check(SGD, "test_one_unit_moves_the_sum_by_at_most_the_clip", (1, 1, 16))
_PERSON_MOVES = Check(SGD, "test_one_unit_moves_the_sum_by_at_most_the_clip", (1, 2, 16))
_APART = Check(SGD, "test_what_mixes_rows_is_refused")
_FILLED = Check(SGD, "test_batches_are_filled_up_with_rows_that_weigh_nothing")
_SIZE_OR_PLACE = Check(SGD, "test_losses_by_size_place_or_hidden_neighbours_are_refused")
_STEP_NOISE = Check(SGD, "test_a_step_carries_exactly_the_charged_noise")
_STEPS = Check(SGD, "test_no_step_passes_the_charge")
_SHARED = Check(SGD, "test_two_receipts_of_one_charge_share_it")
_COPIES = Check(SGD, "test_copies_of_a_folder_never_run_a_step_twice")
_UNREAD_STEPS = Check(SGD, "test_nothing_is_read_before_the_charge_is_found_good")
_SOLVED = Check(SGD, "test_sigma_is_what_dp_accounting_solves")
_GRID = Check(SGD, "test_sum_and_noise_lie_on_one_grid")
_DRAWN = "        chosen = np.flatnonzero(bernoulli(len(self.starts) - 1, asked.rate, secret_words))\n"
_MORE = "moved the sum by more than the clip"

_SGD = (
    _m(
        "a3-conditions-by-exact-frequencies",
        "the generator's conditions are drawn by how often each cell is among the rows",
        Edit(
            "tabveil.generators.ctgan:CTGAN._trained",
            "        course = Course(\n",
            "        read = rows._read()\n"
            "        game._columns = [\n"
            "            torch.from_numpy(np.bincount(a.cells(read[a.column.name]), minlength=a.size) + 1e-6).float()\n"
            "            for a in counted.axes\n"
            "        ]\n"
            "        course = Course(\n",
        ),
        _conformance("learns_from_charged_answers_only", "ctgan"),
        _LEARNED,
    ),
    _m(
        "a3-starts-at-exact-frequencies",
        "training starts at how often each cell is among the rows",
        Edit(
            "tabveil.generators.ctgan:CTGAN._trained",
            "        course = Course(\n",
            "        read = rows._read()\n"
            "        exact = [np.bincount(a.cells(read[a.column.name]), minlength=a.size) for a in counted.axes]\n"
            "        game.net.out.bias.data.copy_(torch.from_numpy(np.log(np.concatenate(exact) + 1e-6)))\n"
            "        course = Course(\n",
        ),
        _conformance("learns_from_charged_answers_only", "ctgan"),
        _LEARNED,
    ),
    _m(
        "a4-with-replacement",
        "rows of a batch are drawn one after the other, so that a row may be in it several times",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            _DRAWN + "        if len(chosen):\n"
            "            units = np.uint64(len(self.starts) - 1)\n"
            "            chosen = np.sort((secret_words(len(chosen)) % units).astype(np.int64))\n",
        ),
        _POISSON,
        "a row is in a batch twice",
    ),
    _m(
        "a4-some-rows-likelier",
        "rows that a category's frequency favours (here: the first four) get a second coin",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        coins = bernoulli(len(self.starts) - 1, asked.rate, secret_words)\n"
            "        coins[:4] |= bernoulli(4, asked.rate, secret_words)[: len(coins)]\n"
            "        chosen = np.flatnonzero(coins)\n",
        ),
        _POISSON,
        "size_law",
    ),
    _m(
        "a5-fixed-size",
        "batches are shuffled rows of a fixed number, accounted as Poisson",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        units = len(self.starts) - 1\n"
            "        chosen = np.sort(np.argsort(secret_words(units))[: round(units * asked.rate)])\n",
        ),
        _POISSON,
        "batch sizes are not binomial",
    ),
    _m(
        "a5-one-batch-for-two-steps",
        "coins are tossed for every other step only",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        old = self.__dict__.pop('old', None)\n"
            "        coins = bernoulli(len(self.starts) - 1, asked.rate, secret_words) if old is None else old\n"
            "        if old is None:\n"
            "            self.__dict__['old'] = coins\n"
            "        chosen = np.flatnonzero(coins)\n",
        ),
        Check(SGD, "test_rows_of_batches_are_independent"),
        "rows of a batch depend on each other",
    ),
    _m(
        "a6-capped",
        "what is above twice the expected size is dropped",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            _DRAWN + "        chosen = chosen[: round(2 * asked.rate * (len(self.starts) - 1))]\n",
        ),
        _POISSON,
        "batch sizes are not binomial",
    ),
    _m(
        "a6-first-micro-batch-only",
        "units beyond one micro-batch are dropped",
        Edit("tabveil.units:UnitRows.drawn", "range(0, len(chosen), asked.most_units)", "range(0, 1)"),
        Check(SGD, "test_micro_batches_change_nothing"),
        "not close",
    ),
    _m(
        "a6-empty-batch-without-noise",
        "a step whose batch is empty gets no noise, which tells that it was empty",
        Edit(
            "tabveil.mechanisms:PrivateRows.noisy_sum",
            "return total if noise is None else",
            "return total if noise is None or not total.any() else",
        ),
        Check(SGD, "test_an_empty_batch_is_a_step_of_noise_alone"),
        ".abs().min()",
    ),
    _m(
        "a7-rows-clipped-one-by-one",
        "each row of a person is clipped by itself, so that k rows weigh k clips",
        Edit(
            "tabveil._sgd_clipping:Clipper.total",
            "units = Units.of(owners, self.device)",
            "units, real = Units.of(np.arange(len(codes)), self.device), len(owners)",
        ),
        _PERSON_MOVES,
        _MORE,
    ),
    _m(
        "a7-latents-collected",
        "the mixture is fitted to the latents of private rows themselves",
        Edit("tabveil.generators.tvae:TVAE._settle", "if plan.private:", "if False:"),
        Check(TVAE, "test_a_private_training_says_how_many_steps_are_left_and_nothing_else"),
        "needs a clip",
        "UnchargedError",
    ),
    _m(
        "a7-latents-not-clipped",
        "what a row's latent adds to the charged sum is not clipped",
        Edit(
            "tabveil.generators._mixture:clipped_total",
            "summed * (clip * CLIP_MARGIN / length.clamp(min=1e-300)).clamp(max=1.0)[:, None]",
            "summed",
        ),
        _LATENT_SUM,
        "np.linalg.norm(moved) <= CLIP",
    ),
    _m(
        "a7-latents-clipped-row-by-row",
        "the latents of a person's rows are clipped one by one, not together",
        Edit(
            "tabveil.generators._mixture:clipped_total",
            "vectors.new_zeros(units, vectors.shape[1], dtype=torch.float64).index_add_(0, at, vectors.double())",
            "vectors.double()",
        ),
        _LATENT_SUM,
        "np.linalg.norm(moved) <= CLIP",
    ),
    _m(
        "a7-packed-rows",
        "the critic judges each row together with the one before",
        Edit(
            "tabveil.generators.ctgan:PairCritic.forward",
            "        row = self.one_hot(codes)\n",
            "        row = self.one_hot(codes)\n        row = (row + row.roll(1, 0)) / 2\n",
        ),
        Check(CTGAN, "test_one_row_more_moves_a_step_by_its_own_gradient_wherever_it_stands"),
        "np.linalg.norm(moved)",
    ),
    _m(
        "a7-packs-accepted",
        "packs of rows are accepted",
        Edit("tabveil.generators.ctgan:_unpacked", "pac != 1", "pac < 1"),
        Check(CTGAN, "test_packs_are_refused", (1.0, 10)),
        "DID NOT RAISE",
    ),
    _m(
        "a7-rows-drawn-one-by-one",
        "each row of a person is drawn and clipped as if it were a person",
        Edit(
            "tabveil.mechanisms:PrivateRows._in_units",
            "for c in self._schema.modelled], self._owners)",
            "for c in self._schema.modelled], None)",
        ),
        Check(SGD, "test_a_person_is_drawn_and_clipped_as_one"),
        "[2] * 10 + [3]",
    ),
    _m(
        "a8-not-clipped",
        "gradients are not clipped",
        Edit("tabveil._sgd_clipping:Clipper.total", ".clamp(max=1.0)", ".clamp(min=1.0, max=1.0)"),
        _MOVES,
        _MORE,
    ),
    _m(
        "a8-layer-by-layer",
        "the largest layer's norm stands for the whole gradient's",
        Edit(
            "tabveil._sgd_clipping:Clipper.total",
            "torch.stack([f.squared().double() for f in forms]).sum(0)",
            "torch.stack([f.squared().double() for f in forms]).max(0).values",
        ),
        _MOVES,
        _MORE,
    ),
    _m(
        "a8-bias-forgotten",
        "the norm leaves out the bias of a linear layer",
        Edit(
            "tabveil._sgd_forms:LinearForm.squared",
            "rows_squared(self.a) + float(self.bias)",
            "rows_squared(self.a)",
        ),
        Check(SGD, "test_a_row_that_moves_biases_alone_is_clipped"),
        _MORE,
    ),
    _m(
        "a8-several-positions-forgotten",
        "weights that several positions share are left out of the norm",
        Edit(
            "tabveil._sgd_forms:_uncancelled",
            "whole.clamp(min=0.0) + CANCELLED * bound.square()",
            "torch.zeros_like(bound)",
        ),
        Check(SGD, "test_one_unit_moves_the_sum_by_at_most_the_clip", (3, 1, 16)),
        _MORE,
    ),
    _m(
        "a8-nan-kept",
        "a row with an infinite or undefined gradient counts as it is",
        Edit("tabveil._sgd_clipping:Clipper.total", "bad = ~torch.isfinite(squared)", "bad = squared < 0"),
        _MOVES,
        "not finite",
    ),
    _m(
        "a8-filled-rows-weigh",
        "rows that fill a batch up to a multiple weigh as much as real ones",
        Edit("tabveil._sgd_clipping:Clipper.total", "weights[real:] = 0.0", "weights[real:] *= 1.0"),
        _FILLED,
        "not close",
    ),
    _m(
        "a8-not-filled-up",
        "the last rows of a batch are computed by another kernel than their neighbours",
        Edit("tabveil._sgd_clipping:Clipper._filled", "-len(codes) % self._multiple", "0"),
        _FILLED,
        "sizes == {0}",
    ),
    _m(
        "a8-long-rows",
        "squares of a million inputs are summed in single precision",
        Edit("tabveil._sgd_forms:rows_squared", "torch.split(values, WIDTH, dim=1)", "[values]"),
        Check(SGD, "test_norms_of_long_rows_do_not_lose_what_they_add_up"),
        "2.0**-13",
    ),
    _m(
        "a8-signals-too-long",
        "signals beyond what a weight in single precision can bring down to the clip are let through",
        Edit(
            "tabveil._sgd_forms:_uncancelled",
            "torch.where(torch.maximum(reach, lengths) < LARGEST**0.5, lengths, math.nan)",
            "torch.where(reach < LARGEST**0.5, lengths, math.nan)",
        ),
        Check(SGD, "test_signals_too_long_for_their_weight_count_as_zero", (16,)),
        "moved",
    ),
    _m(
        "a8-nan-weighed-by-zero",
        "such a row gets weight 0, which leaves NaN",
        Edit("tabveil._sgd_clipping:Clipper.total", "forms = [f.without(bad) for f in forms]", "pass"),
        _MOVES,
        "not finite",
    ),
    _m(
        "a8-public-masks",
        "masks of a loss follow torch's global seed, and its state tells the batch size",
        Edit("tabveil._sgd_clipping:Clipper.total", "with chance, kept,", "with kept,"),
        Check(SGD, "test_chance_inside_a_loss_is_secret_and_leaves_no_trace", (137,)),
        "the state of the generator tells",
    ),
    _m(
        "a8-public-latents",
        "latents of the charged sum follow random_state, so that one row more changes all others'",
        Edit("tabveil.generators._mixture:measured", "with secret_chance(device):", "if True:"),
        Check(MIXTURE, "test_latents_of_rows_are_drawn_by_chance_nobody_knows"),
        "the state of the generator tells",
    ),
    _m(
        "a8-bias-of-positions-forgotten",
        "the norm of several positions leaves out the bias, and what its gradients cancel",
        Edit("tabveil._sgd_forms:_gram_some", "a @ a.mT + float(bias)", "a @ a.mT"),
        Check(SGD, "test_biases_that_nearly_cancel_are_clipped", (True, 16)),
        _MORE,
    ),
    _m(
        "a8-bias-of-many-positions-forgotten",
        "the norm of many positions of a thin layer leaves out the bias, and what its gradients cancel",
        Edit(
            "tabveil._sgd_forms:_outer_some",
            "    whole = (g.mT @ a)",
            "    bias = False\n    whole = (g.mT @ a)",
        ),
        Check(SGD, "test_biases_that_nearly_cancel_are_clipped", (True, 0)),
        _MORE,
    ),
    _m(
        "a8-half-precision",
        "sums in 16 bits are let through",
        Edit(
            "tabveil._sgd_clipping:_check_precision",
            "if values.dtype not in (torch.float32, torch.float64):",
            "if False:",
        ),
        Check(SGD, "test_half_precision_is_refused", ("bfloat16",)),
        "DID NOT RAISE",
    ),
    _m(
        "a8-broadcast-sum",
        "a sum with one coordinate is added to all of them: sqrt(size) clips",
        Edit("tabveil.mechanisms:_vector", "if part.shape != (size,):", "if False:"),
        Check(SGD, "test_a_sum_of_another_shape_is_refused"),
        "DID NOT RAISE",
    ),
    _m(
        "a8-weight-by-hook",
        "a linear layer under weight_norm is taken for a plain one",
        Edit("tabveil._sgd_clipping:_check", "or layer._forward_pre_hooks)", "or False) and False"),
        Check(SGD, "test_weights_computed_by_hooks_are_refused"),
        "DID NOT RAISE",
    ),
    _m(
        "a8-buffer-of-rows",
        "what a forward pass writes to a buffer is released as it is",
        Edit("tabveil._sgd_clipping:buffers_kept", "copy, True", "copy, False"),
        Check(SGD, "test_buffers_that_a_forward_pass_writes_are_refused", (False,)),
        "DID NOT RAISE",
    ),
    _m(
        "a9-private-without-charge",
        "a private training behind an uncharged receipt takes exact sums",
        Edit("tabveil.mechanisms:PrivateRows._noise_of", "if asked.clip < math.inf:", "if False:"),
        Check(SGD, "test_a_private_schedule_needs_a_charge"),
        "DID NOT RAISE",
    ),
    _m(
        "a9-forked-receipt",
        "a forked process pays with a copy of the receipt",
        Edit("tabveil.ledger:Receipt._check_process", "if os.getpid() != self._process:", "if False:"),
        Check(SGD, "test_a_forked_process_cannot_pay"),
        "paid a second time",
    ),
    _m(
        "a8-batch-statistics",
        "a batch norm is let through",
        Edit("tabveil._sgd_clipping:_check", "if isinstance(layer, _MIXING) or", "if False and"),
        _APART,
        "DID NOT RAISE",
    ),
    _m(
        "a8-mixing-loss",
        "losses that mix rows are let through",
        Edit("tabveil._sgd_apart:check_rows_apart", "for shaken in (False, True):", "for shaken in ():"),
        _APART,
        "DID NOT RAISE",
    ),
    _m(
        "a8-batch-size",
        "losses that depend on how many rows a batch has are let through: batches of one size are compared",
        (
            Edit(
                "tabveil._sgd_apart:_check_losses",
                "alone[batch], rtol=CLOSE",
                "clipper.losses(rows[batch]), rtol=CLOSE",
            ),
            Edit("tabveil._sgd_apart:_check_gradients", "if float((together", "if False and float((together"),
        ),
        _SIZE_OR_PLACE,
        "DID NOT RAISE",
    ),
    _m(
        "a8-hidden-neighbours",
        "mixing behind outputs that start at zero is let through: parameters are not shaken",
        Edit("tabveil._sgd_apart:check_rows_apart", "for shaken in (False, True):", "for shaken in (False,):"),
        _SIZE_OR_PLACE,
        "DID NOT RAISE",
    ),
    _m(
        "a8-penalty-dropped",
        "a gradient penalty is left out of the private sum without a word",
        Edit("tabveil._sgd_apart:_check_gradients", "if norms[-1] < LARGEST and", "if False and"),
        Check(SGD, "test_gradients_of_gradients_are_refused"),
        "DID NOT RAISE",
    ),
    _m(
        "a9-two-gradients-a-step",
        "every step takes two noisy gradients where one was charged (stopped by the receipt)",
        Edit(
            "tabveil.sgd:Course.step",
            "        descent.gradient()\n",
            "        descent.gradient()\n        descent.gradient()\n",
        ),
        _STEPS,
        "Nothing is left",
        "UnchargedError",
    ),
    _m(
        "a9-old-noise",
        "every step gets the noise of the first, so that differences of steps carry none",
        Edit(
            "tabveil.mechanisms:PrivateRows._noise_of",
            "        if noise_is_seeded():\n",
            "        if 'old' not in self.__dict__:\n"
            "            self.__dict__['old'] = RoundedNoise(grid, rounded_noise(asked.size, deviation / grid))\n"
            "        if True:\n"
            "            return self.__dict__['old']\n"
            "        if noise_is_seeded():\n",
        ),
        _STEP_NOISE,
        "noise is repeated",
    ),
    _m(
        "a9-one-step-more",
        "training goes on beyond what was claimed (stopped by the receipt)",
        Edit("tabveil.sgd:train", "range(done, done + claimed)", "range(done, done + claimed + 1)"),
        _STEPS,
        "Nothing is left",
        "UnchargedError",
    ),
    _m(
        "a10-rows-before-the-charge-of-a-step",
        "rows are read before the receipt is asked for a step (stopped by Unreadable)",
        Edit(
            "tabveil.mechanisms:PrivateRows.noisy_sum",
            "        event = self._take(",
            "        self._in_units()\n        event = self._take(",
        ),
        _UNREAD_STEPS,
        "_in_units",
        "Unreadable",
    ),
    _m(
        "a10-another-rate",
        "units are drawn at a rate that was not charged (stopped by Unreadable)",
        Edit("tabveil.mechanisms:PrivateRows._noise_of", "or event.sampling_probability != asked.rate", ""),
        _UNREAD_STEPS,
        "noisy_sum",
        "Unreadable",
    ),
    _m(
        "a10-claims-without-end",
        "the ledger grants whatever is claimed",
        Edit(
            "tabveil._ledger_chain:Chain.claim",
            "min(count, 0 if charge is None else dict(charge.left).get(label, 0))",
            "count",
        ),
        _SHARED,
        "second.claim",
    ),
    _m(
        "a10-claims-not-written",
        "claims are granted and not written down",
        Edit("tabveil._ledger_chain:Chain.claim", "if granted > 0:", "if False:"),
        _SHARED,
        "second.claim",
    ),
    _m(
        "a10-a-resumed-charge-is-whole-again",
        "a process that goes on after a kill gets the whole charge again",
        Edit(
            "tabveil.ledger:Ledger.resume",
            "return _Claimed(self, paid, seq=found.seq, labels=[label for label, _ in found.left], resumed=True)",
            "return paid",
        ),
        _SHARED,
        "second.claim",
    ),
    _m(
        "a10-steps-by-the-state",
        "how many steps are left is read off the saved state and not off the ledger",
        Edit("tabveil.ledger:Ledger._claim", "return chain.claim(seq, *asked)", "return asked[1]"),
        _COPIES,
        "first == 1",
    ),
    _m(
        "a12-training-noise-from-numpy",
        "the noise of training comes from numpy's global generator",
        Edit(
            "tabveil.noise:rounded_noise",
            "np.rint(gaussian(count, secret_words) * deviation)",
            "np.rint(np.random.standard_normal(count) * deviation)",
        ),
        _STEP_NOISE,
        "noise is repeated",
    ),
    _m(
        "a12-coins-from-a-seed",
        "every batch is drawn from the same seed",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        units = len(self.starts) - 1\n"
            "        chosen = np.flatnonzero(np.random.default_rng(0).random(units) < asked.rate)\n",
        ),
        _POISSON,
        "size_law",
    ),
    _m(
        "a13-sum-off-the-grid",
        "noise is added to the sum as it is, so that its last bits tell of the rows",
        Edit("tabveil.noise:RoundedNoise.added_to", "np.rint(total / self.grid)", "total / self.grid"),
        _GRID,
        "the last bits tell of the rows",
    ),
    _m(
        "a13-rounding-not-paid-for",
        "the noise is for the clip alone, and not for what rounding adds to it",
        Edit("tabveil.mechanisms:deviation_and_grid", " + grid * math.sqrt(asked.size)", ""),
        _GRID,
        "approx",
    ),
    _m(
        "a9-answers-given-twice",
        "a process that goes on with a charge may ask again for the counts that another one was given",
        Edit("tabveil.ledger:_shut", "resumed or s.label", "s.label"),
        Check(RESUMING, "test_an_answer_that_may_have_been_given_is_never_asked_for_again", ("counting",)),
        "DID NOT RAISE",
    ),
    _m(
        "a9-answers-not-saved",
        "what was learned of rows before a kill is asked for again (stopped by the receipt)",
        Edit("tabveil._sgd_checkpoints:Checkpoints.once", "if path.exists():", "if False:"),
        Check(RESUMING, "test_another_process_goes_on_where_one_was_killed", (("training", 0.4),)),
        "stays spent",
        "UnchargedError",
    ),
    _m(
        "a10-two-keys",
        "two processes that start at once in one folder charge under a key each",
        Edit("tabveil._atomic:write_text_once", "os.link(beside, target)", "os.replace(beside, target)"),
        Check(SGD, "test_two_processes_that_start_at_once_find_one_key"),
        "two keys, two charges",
    ),
    _m(
        "a10-charged-under-another-key",
        "a process that finds a folder's key charges under one of its own",
        Edit("tabveil._sgd_checkpoints:Checkpoints._key_for", 'str(known["key"])', "uuid.uuid4().hex"),
        Check(RESUMING, "test_a_finished_folder_gives_the_same_model_again"),
        "has no charge to be resumed under this key",
        "LedgerError",
    ),
    _m(
        "a11-rate-by-rows",
        "units are drawn at a rate that follows from how many there are",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        rate = min(1.0, 5 / max(1, len(self.starts) - 1))\n"
            "        chosen = np.flatnonzero(bernoulli(len(self.starts) - 1, rate, secret_words))\n",
        ),
        _POISSON,
        "size_law",
    ),
    _m(
        "a11-steps-by-rows",
        "there are at most as many steps as units",
        Edit(
            "tabveil.sgd:Descent.claim",
            "self._rows.claim(self.schedule.label, count)",
            "self._rows.claim(self.schedule.label, min(count, len(self._rows._in_units().starts) - 1))",
        ),
        Check(SGD, "test_an_empty_batch_is_a_step_of_noise_alone"),
        "== 3",
    ),
    _m(
        "a14-loss-told",
        "a private training tells its loss, for whoever wants to stop early",
        Edit("tabveil.sgd:Descent.loss", "if self.schedule.private:", "if False:"),
        Check(SGD, "test_a_private_training_tells_no_loss_and_no_batch_size"),
        "DID NOT RAISE",
    ),
    _m(
        "a14-stopped-early",
        "training stops where the summed gradient before noise was small",
        (
            Edit(
                "tabveil.sgd:Descent._total",
                "        if self.schedule.private:\n",
                "        self._loss = 0.0\n        if self.schedule.private:\n",
            ),
            Edit(
                "tabveil.sgd:train",
                "                course.step(descent, number)\n",
                "                course.step(descent, number)\n"
                "                if descent._loss == 0.0:\n"
                "                    return number + 1\n",
            ),
        ),
        _STEPS,
        "== 4",
    ),
    _m(
        "a3-real-rows-in-prompts",
        "a private fit of a language model shows it real rows beside a row",
        Edit(
            "tabveil.generators.pretrained_lm:PretrainedLM._checked_neighbours",
            "if neighbours and math.isfinite(self.epsilon):",
            "if False:",
        ),
        Check(PRETRAINED, "test_neighbours_are_refused_where_anything_is_private"),
        "DID NOT RAISE",
    ),
    _m(
        "a8-texts-of-a-batch-mixed",
        "what a language model makes of other rows enters a row's loss",
        Edit(
            "tabveil.generators._row_losses:RowLosses.__call__",
            "*losses], 1).sum(1)",
            "*losses], 1).sum(1) + hidden.abs().sum()",
        ),
        Check(PRETRAINED, "test_the_plan_is_histograms_and_one_training_and_is_what_is_charged"),
        "depends on other rows",
        "UsageError",
    ),
    _m(
        "c4-text-masked-token-by-token",
        "a language model's rows under conditions are kept whatever part of the probability the masks left",
        Edit(
            "tabveil.generators._text_law:TextLaw._tried",
            "rng.random(len(cells)) < writing.weight.cpu().numpy()",
            "rng.random(len(cells)) < 1",
        ),
        Check(PRETRAINED, "test_conditions_on_two_columns_are_exact_and_masking_alone_is_not", ("gpt2",)),
        "do not follow the model's law",
    ),
    _m(
        "a14-generator-stops-early",
        "a private training of a generator watches its loss, to stop when it no longer falls",
        Edit("tabveil.generators._deep:DeepGenerator._run", "if descent.schedule.private:", "if False:"),
        Check(TVAE, "test_a_private_training_says_how_many_steps_are_left_and_nothing_else"),
        "not charged for",
        "UnchargedError",
    ),
    _m(
        "a16-divided-by-the-real-batch",
        "the sum is divided by the number of units that were drawn",
        Edit(
            "tabveil.sgd:Descent._total",
            "return np.asarray(total.cpu().numpy(), dtype=np.float64)",
            "return np.asarray(total.cpu().numpy(), dtype=np.float64) / max(1, len(codes)) * self._expected",
        ),
        Check(SGD, "test_the_divisor_is_the_expected_number"),
        "not close",
    ),
    _m(
        "a18-training-noise-too-small",
        "noise of training 10 % too small",
        Edit("tabveil.mechanisms:deviation_and_grid", "return multiplier * (", "return 0.9 * multiplier * ("),
        _STEP_NOISE,
        "not the charged noise",
    ),
    _m(
        "a18-multiplier-for-deviation",
        "the noise multiplier is taken for the standard deviation",
        Edit("tabveil.mechanisms:deviation_and_grid", "return multiplier * (asked.clip", "return multiplier * (1.0"),
        _STEP_NOISE,
        "not the charged noise",
    ),
    _m(
        "a19-half-the-steps",
        "the noise is solved for half of the steps",
        Edit("tabveil.sgd:Schedule.solved", "_event(rate, noise), steps)", "_event(rate, noise), steps // 2)"),
        _SOLVED,
        "another price than was asked for",
    ),
    _m(
        "a19-another-rate",
        "the noise is solved for a rate 10 % lower",
        Edit("tabveil.sgd:Schedule.solved", "_event(rate, noise), steps)", "_event(0.9 * rate, noise), steps)"),
        _SOLVED,
        "another price than was asked for",
    ),
    _m(
        "a19-others-left-out",
        "what else the fit charges for is left out of the solving",
        Edit("tabveil.sgd:Schedule.solved", "event_of([*beside, Spend(", "event_of([Spend("),
        _SOLVED,
        "dearer.noise > schedule.noise",
    ),
)

_NOT_TRIED_OUT = Edit("tabveil._sgd_apart:check_rows_apart", "for shaken in (False, True):", "for shaken in ():")
"""Made-up rows are not tried out beforehand, so that an audit has something to find."""

_AUDITED = Check(CANARIES, "test_a_right_training_stays_below_its_claim")
_AUDITED_PERSONS = Check(CANARIES, "test_a_right_training_of_persons_stays_below_its_claim")
_EPSILON, _COINS, _NOISE = "MORE THAN IS CLAIMED", "The coins ARE NOT AS CHARGED", "The noise IS NOT AS CHARGED"

_CANARIES = (
    _m(
        "a5-canaries-shuffled",
        "the white-box audit's view: epochs of shuffled rows in batches of one size",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        units = len(self.starts) - 1\n"
            "        order, wanted = self.__dict__.setdefault('order', []), round(units * asked.rate)\n"
            "        if len(order) < wanted:\n"
            "            order[:] = np.argsort(secret_words(units)).tolist()\n"
            "        chosen = np.sort(np.array([order.pop() for _ in range(wanted)]))\n",
        ),
        _AUDITED,
        _COINS,
    ),
    _m(
        "a5-canaries-fixed-size",
        "the white-box audit's view: batches of one size, drawn afresh",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            "        units = len(self.starts) - 1\n"
            "        chosen = np.sort(np.argsort(secret_words(units))[: round(units * asked.rate)])\n",
        ),
        _AUDITED,
        _COINS,
    ),
    _m(
        "a6-canaries-capped",
        "the white-box audit's view: batches end at nine tenths of the expected size",
        Edit(
            "tabveil.units:UnitRows.drawn",
            _DRAWN,
            _DRAWN + "        chosen = chosen[: round(0.9 * asked.rate * (len(self.starts) - 1))]\n",
        ),
        _AUDITED,
        _COINS,
    ),
    _m(
        "a7-canaries-packed",
        "the white-box audit's view: two units in a row are clipped as one",
        (
            Edit(
                "tabveil._sgd_clipping:Clipper.total",
                "Units.of(owners, self.device)",
                "Units.of(owners // 2, self.device)",
            ),
            _NOT_TRIED_OUT,
        ),
        _AUDITED,
        "a canary does not move the sum by one clip",
    ),
    _m(
        "a7-canaries-k-clips",
        "the white-box audit's view: a person's rows are clipped one by one",
        Edit(
            "tabveil._sgd_clipping:Clipper.total",
            "units = Units.of(owners, self.device)",
            "units, real = Units.of(np.arange(len(codes)), self.device), len(owners)",
        ),
        _AUDITED_PERSONS,
        _EPSILON,
    ),
    _m(
        "a7-canaries-drawn-row-by-row",
        "the white-box audit's view: a person's rows are drawn one by one",
        Edit(
            "tabveil.mechanisms:PrivateRows._in_units",
            "for c in self._schema.modelled], self._owners)",
            "for c in self._schema.modelled], None)",
        ),
        _AUDITED_PERSONS,
        "a unit is in a batch twice",
    ),
    _m(
        "a8-canaries-not-clipped",
        "the white-box audit's view: gradients are not clipped",
        Edit("tabveil._sgd_clipping:Clipper.total", ".clamp(max=1.0)", ".clamp(min=1.0, max=1.0)"),
        _AUDITED,
        _EPSILON,
    ),
    _m(
        "a8-canaries-clipped-by-batch",
        "the white-box audit's view: a micro-batch is clipped as if it were one unit",
        (
            Edit(
                "tabveil._sgd_clipping:Clipper.total",
                "Units.of(owners, self.device)",
                "Units.of(np.zeros_like(owners), self.device)",
            ),
            _NOT_TRIED_OUT,
        ),
        _AUDITED,
        "a canary does not move the sum by one clip",
    ),
    _m(
        "a9-canaries-extra-steps",
        "the white-box audit's view: a tenth more steps than were charged, behind a receipt that does not count",
        (
            Edit("tabveil.sgd:train", "range(done, done + claimed)", "range(done, done + claimed + claimed // 10)"),
            Edit("tabveil.ledger:Receipt.take", "self._left[i] -= 1", "self._left[i] -= 0"),
        ),
        _AUDITED,
        "MORE THAN WERE CHARGED",
    ),
    _m(
        "a12-canaries-seeded",
        "the white-box audit's view: every training starts its noise from the same seed",
        Edit(
            "tabveil.mechanisms:PrivateRows._noise_of",
            "        if noise_is_seeded():\n",
            "        rng = self.__dict__.setdefault('rng', np.random.default_rng(0))\n"
            "        if True:\n"
            "            return RoundedNoise(grid, np.rint(rng.standard_normal(asked.size) * deviation / grid))\n"
            "        if noise_is_seeded():\n",
        ),
        _AUDITED,
        "two runs have the same noise",
    ),
    _m(
        "a12-canaries-same-noise",
        "the white-box audit's view: every step has the noise of the first",
        Edit(
            "tabveil.mechanisms:PrivateRows._noise_of",
            "        if noise_is_seeded():\n",
            "        if 'old' not in self.__dict__:\n"
            "            self.__dict__['old'] = RoundedNoise(grid, rounded_noise(asked.size, deviation / grid))\n"
            "        if True:\n"
            "            return self.__dict__['old']\n"
            "        if noise_is_seeded():\n",
        ),
        _AUDITED,
        "steps have the same noise",
    ),
    _m(
        "a18-canaries-no-noise",
        "the white-box audit's view: no noise",
        Edit("tabveil.noise:RoundedNoise.added_to", "+ steps)", "+ 0 * steps)"),
        _AUDITED,
        _EPSILON,
    ),
    _m(
        "a18-canaries-half-noise",
        "the white-box audit's view: half the noise",
        Edit("tabveil.mechanisms:deviation_and_grid", "return multiplier * (", "return 0.5 * multiplier * ("),
        _AUDITED,
        _EPSILON,
    ),
    _m(
        "a18-canaries-noise-by-micro-batch",
        "the white-box audit's view: noise for each micro-batch but the first, so that a small batch gets none",
        Edit(
            "tabveil.mechanisms:PrivateRows.noisy_sum",
            "        for codes, owners in units.drawn(asked):\n"
            "            total += _vector(asked.total(codes, owners), asked.size)\n",
            "        parts = 0\n"
            "        for codes, owners in units.drawn(asked):\n"
            "            total += _vector(asked.total(codes, owners), asked.size)\n"
            "            total = noise.added_to(total) if parts else total\n"
            "            parts += 1\n"
            "        if True:\n"
            "            return total\n",
        ),
        _AUDITED,
        _NOISE,
    ),
)

_NOT_OVER = Check(EPSILONS, "test_bounds_err_no_more_often_than_they_say_on_every_curve", ("accuracy", (40, 40), 0.2))
_NOT_OVER_RATIO = Check(
    EPSILONS, "test_bounds_err_no_more_often_than_they_say_on_every_curve", ("ratio", (40, 25), 0.2)
)

_STATISTICS = (
    _m(
        "c2-delta-ignored",
        "the bound of an epsilon leaves delta out, accuracy",
        Edit("tabveil.audit._epsilon_bounds:log_ratio", "np.maximum(often - delta,", "np.maximum(often - 0 * delta,"),
        _NOT_OVER,
        "wrong <= 0.05",
    ),
    _m(
        "c2-delta-ignored-in-rates",
        "the bound of an epsilon leaves delta out, rates",
        Edit("tabveil.audit._epsilon_bounds:log_ratio", "np.maximum(often - delta,", "np.maximum(often - 0 * delta,"),
        _NOT_OVER_RATIO,
        "wrong <= 0.05",
    ),
    _m(
        "c2-no-margin",
        "rates as counted stand for the ends of their intervals",
        Edit("tabveil.audit._epsilon_bounds:_least", "tries - hits + 1.0, tail)", "tries - hits + 1.0, 0.5)"),
        _NOT_OVER,
        "wrong <= 0.05",
    ),
    _m(
        "c2-twice-the-error",
        "one end takes twice the chance of error",
        Edit(
            "tabveil.audit._epsilon_bounds:_accuracy",
            "hits.tries + alarms.tries, alpha)",
            "hits.tries + alarms.tries, 2 * alpha)",
        ),
        _NOT_OVER,
        "wrong <= 0.05",
    ),
    _m(
        "c2-threshold-on-what-is-counted",
        "the threshold is chosen on the half that is counted",
        Edit(
            "tabveil.audit._epsilon_bounds:empirical_epsilon",
            "learned = (inside[1::2], outside[1::2])",
            "learned = (inside[::2], outside[::2])",
        ),
        Check(EPSILONS, "test_bounds_from_scores_err_no_more_often_than_they_say"),
        "wrong <= 52",
    ),
    _m(
        "c2-no-bonferroni",
        "the best of twenty attacks is taken for the only one",
        Edit("tabveil.audit._counts:shared", "(1 - checked(confidence)) / tried", "1 - checked(confidence)"),
        Check(EPSILONS, "test_what_was_tried_shares_the_chance_of_error"),
        "best.low",
    ),
    _m(
        "c2-one-side",
        "the bound looks at one side only, and misses attacks that are right about outsiders",
        Edit(
            "tabveil.audit._epsilon_bounds:_shown",
            "np.maximum(log_ratio(found, alarmed, delta), log_ratio(1 - alarmed, 1 - found, delta))",
            "log_ratio(found, alarmed, delta)",
        ),
        Check(EPSILONS, "test_both_sides_count"),
        "one.low == pytest.approx(other.low)",
    ),
    _m(
        "c2-one-run-without-delta",
        "the bound from one run leaves out what delta can move",
        Edit(
            "tabveil.audit._one_run:_Guesses.chance", "2 * self.canaries * self.delta", "0 * self.canaries * self.delta"
        ),
        Check(EPSILONS, "test_one_run_errs_no_more_often_than_it_says", (0.05,)),
        "<= 0.05",
    ),
    _m(
        "c2-one-run-below",
        "the bound from one run leaves out that exactly so many may be right",
        Edit("tabveil.audit._one_run:_Guesses.chance", "sf(self.right - 1,", "sf(min(self.right, self.guesses - 1),"),
        Check(EPSILONS, "test_one_run_errs_no_more_often_than_it_says", (0.0,)),
        "<= 0.05",
    ),
    _m(
        "c2-ties-won",
        "scores that are equal count as told apart",
        Edit("tabveil.audit._curves:pairs", "np.arange(count) % 2 == 0", "first == second"),
        Check(CURVES, "test_ties_count_half"),
        "rate == 0.5",
    ),
)

_ROWS_AUDITED = Check(NEIGHBOURS, "test_right_histograms_stay_within_their_claim")
_MORE = "MORE THAN IS CLAIMED"

_NEIGHBOURS = (
    _m(
        "a9-neighbours-answered-twice",
        "the canary audit's view: a histogram is given out twice, behind a receipt that does not count",
        (
            Edit(
                "unit.audit.test_canary:Histograms.fit",
                "        self.noisy, *_ = [rows",
                "        self.noisy, *_ = [rows.counts([a], label=a.column.name) for a in axes]\n"
                "        self.noisy, *_ = [rows",
            ),
            Edit("tabveil.ledger:Receipt.take", "self._left[i] -= 1", "self._left[i] -= 0"),
        ),
        _ROWS_AUDITED,
        _MORE,
    ),
    _m(
        "a12-neighbours-seeded",
        "the canary audit's view: every fit starts its noise from the same seed",
        Edit(
            "tabveil.noise:gaussian_noise",
            "    vectorised =",
            "    return np.rint(np.random.default_rng(cells).normal(0, float(event.sigma), cells)).astype(np.int64)\n"
            "    vectorised =",
        ),
        _ROWS_AUDITED,
        "NOT AS CHARGED",
    ),
    _m(
        "a16-neighbours-row-in-two-cells",
        "the canary audit's view: every row counts twice",
        Edit("tabveil._counting:Tally._count", "total += np.bincount(", "total += 2 * np.bincount("),
        _ROWS_AUDITED,
        "NOT AS CHARGED",
    ),
    _m(
        "a17-neighbours-not-bounded",
        "the canary audit's view: all rows of a person are kept",
        Edit("tabveil.mechanisms:PrivateRows._load", "if unit and self._kept is None:", "if False:"),
        Check(NEIGHBOURS, "test_right_histograms_of_persons_stay_within_their_claim"),
        "moves answers by another amount than it may",
    ),
    _m(
        "a17-neighbours-nameless",
        "the canary audit's view: every row without a person is a person of its own",
        Edit(
            "tabveil.units:bounded_contributions",
            "    numbers, _ = numbered(units)",
            "    numbers, _ = numbered(units)\n"
            "    numbers = np.where(np.asarray(units) == '', len(units) + np.arange(len(units)), numbers)",
        ),
        Check(NEIGHBOURS, "test_right_histograms_of_nameless_rows_stay_within_their_claim"),
        "moves answers by another amount than it may",
    ),
    _m(
        "a18-neighbours-exact",
        "the canary audit's view: exact counts",
        Edit(
            "tabveil.mechanisms:PrivateRows.counts",
            "        return exact + noise_like",
            "        return exact\n        return exact + noise_like",
        ),
        _ROWS_AUDITED,
        "MORE THAN IS CHARGED",
    ),
    _m(
        "a18-neighbours-ten-percent-less",
        "the canary audit's view: noise 10 % too small",
        (
            Edit("tabveil.noise:gaussian_noise", "scale=float(event.sigma)", "scale=0.9 * float(event.sigma)"),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        _ROWS_AUDITED,
        "NOT AS CHARGED",
    ),
    _m(
        "a18-neighbours-choice-without-noise",
        "the canary audit's view: the largest score is chosen",
        Edit(
            "tabveil.noise:noisy_argmax",
            "    measurement = _noisy_max(scale)",
            "    return int(np.argmax(scores + 0 * scale))\n    measurement = _noisy_max(scale)",
        ),
        Check(NEIGHBOURS, "test_right_choices_stay_within_their_claim"),
        "NOT AS CHARGED: choices",
    ),
    _m(
        "a18-neighbours-choice-quarter-of-the-noise",
        "the canary audit's view: choices by a quarter of the noise",
        (
            Edit("tabveil.noise:noisy_argmax", "2 * sensitivity / event.epsilon", "0.5 * sensitivity / event.epsilon"),
            Edit("tabveil.noise:_price", "return float(", "return 0.0 * float("),
        ),
        Check(NEIGHBOURS, "test_right_choices_among_candidates_that_differ_stay_within_their_claim", ("mst",)),
        "NOT AS CHARGED: choices",
    ),
    _m(
        "a2-neighbours-threshold-of-less-noise",
        "the canary audit's view: the threshold is solved for noise 10 % smaller than what is added",
        Edit("tabveil.noise:threshold", "* sigma * (1 + 1e-9)", "* sigma * 0.9"),
        Check(NEIGHBOURS, "test_right_thresholds_stay_within_their_claim", (1, 1.0)),
        "NOT AS CHARGED: more categories",
    ),
    _m(
        "a2-neighbours-threshold-for-one-category",
        "the canary audit's view: the threshold allows for one category of a person's own, not for k",
        Edit("tabveil.noise:threshold", "ndtri(delta / k", "ndtri(delta / 1"),
        Check(NEIGHBOURS, "test_right_thresholds_stay_within_their_claim", (8, 1.0)),
        "NOT AS CHARGED: more categories",
    ),
    _m(
        "a2-neighbours-threshold-for-one-row",
        "the canary audit's view: the threshold allows for one row of a person in a category, not for k",
        Edit("tabveil.noise:threshold", "return k + 1 + math", "return 2 + math"),
        Check(NEIGHBOURS, "test_right_thresholds_stay_within_their_claim", (8, 20.0)),
        "NOT AS CHARGED: more categories",
    ),
)

MUTANTS: tuple[Mutant, ...] = (
    *_A1,
    *_A2,
    *_A10,
    *_A12,
    *_A13,
    *_A16,
    *_A17,
    *_A18,
    *_C4,
    *_SGD,
    *_CANARIES,
    *_NEIGHBOURS,
    *_STATISTICS,
)

HEADER = """# Mutants

Every trap below was planted in this project's own code, and a named test rejects it. `tests/mutants` plants each one
anew on every run of `make test` and checks that the planted line really ran, that the named test fails, that it fails
for the reason given in `tests/mutants/mutants.py`, and that it passes without the mutant. The letters are those of the
project's list of known violations of differential privacy; traps of mechanisms that do not exist here yet (generators
of their own condition frequencies, attacks) come with them.

This table is written from `tests/mutants/mutants.py`; a test compares the two.
"""


def document(mutants: Sequence[Mutant] = MUTANTS) -> str:
    """docs/mutants.md."""
    parts = [HEADER]
    for trap, words in TRAPS.items():
        rows = [f"| {m.planted}{_guard(m)} | {_places(m)} | `{m.check}` |" for m in mutants if m.trap == trap]
        head = ["| planted | in | rejected by |", "|---|---|---|"]
        parts.append("\n".join([f"## {trap}: {words}", "", *head, *rows, ""]))
    return "\n".join(parts)


def _guard(mutant: Mutant) -> str:
    return "" if mutant.error == "AssertionError" else f" (stopped by {mutant.error})"


def _places(mutant: Mutant) -> str:
    return ", ".join(f"`{e.target.partition('.')[2].replace(':', '.')}`" for e in mutant.edits)


if __name__ == "__main__":
    Path(__file__).parents[2].joinpath("docs", "mutants.md").write_text(document(), encoding="utf-8")
