"""`tabveil plan`: how a forecast looks on a terminal.

Privacy: shows what follows from a schema and a budget; no table is opened.
"""

from __future__ import annotations

import io
import itertools
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tabveil.records import readable, rounded_up

if TYPE_CHECKING:
    from rich.table import Table

    from tabveil.planning import Forecast

WIDTH = 110
"""Columns of text where stdout is no terminal."""


def shown(forecast: Forecast) -> str:
    """The forecast for a person, in colour where stdout is a terminal."""
    from rich.console import Console

    terminal = sys.stdout.isatty()
    page = io.StringIO()
    console = Console(file=page, width=None if terminal else WIDTH, force_terminal=terminal or None, highlight=False)
    console.print(_head(forecast), style="bold")
    console.print(_price(forecast))
    if forecast.spends:
        console.print(_table(forecast))
    console.print(_seconds(forecast))
    console.print(forecast.verdict, style={True: "green", False: "bold red", None: "yellow"}[forecast.enough])
    for note in forecast.notes:
        console.print(note)
    return page.getvalue().rstrip("\n")


def _head(forecast: Forecast) -> str:
    chosen = "" if forecast.fits_as == forecast.generator else f", which chooses {forecast.fits_as}"
    rows = {
        "public": f"{forecast.rows or 0:,} rows, publicly",
        "assumed": f"{forecast.rows or 0:,} rows, assumed",
        "private": "private row count",
    }
    return f"{forecast.generator}{chosen}: epsilon {forecast.epsilon:g}, {rows[forecast.rows_are]}"


def _price(forecast: Forecast) -> str:
    if not math.isfinite(forecast.epsilon):
        return "NOT PRIVATE: nothing is charged and nothing is promised."
    return (
        f"Charged before a row is read: epsilon {rounded_up(forecast.cost)} at delta {forecast.delta:g}, for each "
        f"{forecast.unit} added or removed."
    )


def _table(forecast: Forecast) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    table.add_column("charged", overflow="fold")
    table.add_column("times", justify="right")
    table.add_column("mechanism")
    table.add_column("noise", justify="right")
    table.add_column("rate", justify="right")
    table.add_column("signal/noise", justify="right")
    for label, times, spend in _grouped(forecast.spends):
        signal = "" if spend["signal"] is None else readable(spend["signal"])
        noise = "" if spend["noise"] is None else readable(spend["noise"])
        rate = "" if spend["mechanism"].startswith(("counts", "choice", "categories")) else f"{spend['rate']:.3g}"
        table.add_row(label, f"{times:,}", spend["mechanism"], noise, rate, signal)
    return table


def _grouped(spends: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, Mapping[str, Any]]]:
    """Neighbouring steps of the same price and the same kind of label as one line: label, how often, the first step."""
    lines = []
    for _, group in itertools.groupby(spends, key=lambda s: (s["label"].split()[0], str(s["event"]))):
        alike = list(group)
        more = f", and {len(alike) - 1} more" if len(alike) > 1 else ""
        lines.append((alike[0]["label"] + more, sum(s["count"] for s in alike), alike[0]))
    return lines


def _seconds(forecast: Forecast) -> str:
    if forecast.seconds is None:
        return f"Time: {forecast.timing}"
    return f"Time: about {_duration(forecast.seconds)}. {forecast.timing}"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
