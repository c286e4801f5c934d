"""Between the price and the fit: the curator's check of values, and a reservation that pays while it runs.

Privacy: the check reads every row outside any budget. It releases nothing; whether it stopped a run depends on the
rows and is for the curator alone, like everything he sees on his own machine.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from tabveil.accounting import DpEvent, Spend
from tabveil.columns import Categorical, Column
from tabveil.encoding import encode, given, refusal, size
from tabveil.errors import DataError, UnchargedError
from tabveil.generators.base import Progress
from tabveil.ledger import Ledger, Receipt, Reservation, Resumable
from tabveil.schema import Schema
from tabveil.tables import open_table


def check_values(table: Any, schema: Schema, *, progress: Progress | None = None) -> None:
    """The curator's check: would a fit refuse a value, is there a row at all, is some column missing in every row?

    Args:
      table: what `open_table` takes; its columns fit `schema`.
      schema: what the columns may hold.
      progress: called as progress(stage, share).

    Raises:
      DataError: a column holds a value that it refuses, is missing in every row, or the table has no rows; one sentence
        that names the column and the rule.

    Privacy: reads every row, outside any budget. Its outcome depends on the rows and is for the curator alone.
    """
    source = open_table(table)
    unit = schema.privacy_unit
    filled = dict.fromkeys([*(c.name for c in schema.learned), *([unit] if unit else [])], False)
    rows = 0
    for chunk in source.compact(list(filled)):
        rows += len(chunk)
        for column in schema.learned:
            filled[column.name] |= bool(_there(column, chunk[column.name]).any())
        if unit:
            filled[unit] |= bool((chunk[unit].astype("string").fillna("") != "").any())
    if progress is not None:
        progress("checking values", 1.0)
    if not rows:
        raise DataError("The table has no rows: there is nothing to learn from.")
    empty = [name for name, seen in filled.items() if not seen]
    if empty:
        raise DataError(
            f"Column {empty[0]!r} is missing in every row: leave it out of the table and its schema, or check which "
            "texts the schema calls missing."
        )


def _there(column: Column, values: pd.Series) -> NDArray[np.bool_]:
    """Which cells are not missing; raises DataError for one that the column refuses.

    Of a column that is still to be learned, only what no bound or category decides can be checked: is a cell readable?
    """
    if not column.unknown:
        return np.asarray(encode(column, values) != size(column))
    found = given(column, values)
    if not column.nullable and not isinstance(column, Categorical) and not found.all():
        raise DataError(refusal(column))
    return found


class Payer(Ledger):
    """A ledger whose next charge commits a reservation that is held already.

    So what was set aside before the curator's check is what pays for the fit, and no other process can take it between.
    """

    def __init__(self, ledger: Ledger, reservation: Reservation, spends: tuple[Spend, ...]) -> None:
        self.__dict__.update(vars(ledger))
        self._reservation, self._spends = reservation, spends
        self._charged: bool | None = False

    def charge(
        self, dataset: str, spends: DpEvent | Iterable[Spend], *, label: str, resumable: Resumable | None = None
    ) -> Receipt:
        """Commit the reservation; raises UnchargedError where it was made for something else."""
        if isinstance(spends, DpEvent) or tuple(spends) != self._spends:
            raise UnchargedError(f"What {label!r} asks for is not what was reserved.")
        self._charged = None
        receipt = self._reservation.commit(resumable=resumable)
        self._charged = True
        return receipt

    def annotate(self, error: BaseException, dataset: str) -> None:
        """Say in a note of `error` whether the account was charged."""
        if self._charged:
            error.add_note(f"The account {dataset!r} had been charged by then.")
        elif self._charged is None:
            error.add_note(f"The account {dataset!r} was being charged: `tabveil ledger show` tells whether it was.")
        else:
            error.add_note("Nothing was charged.")
