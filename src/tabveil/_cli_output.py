"""What every command shares: answers on stdout, messages and progress on stderr, one sentence for whatever goes wrong.

Privacy: an unexpected error is named by its type alone: its text, or a traceback, could quote a row. TABVEIL_DEBUG=1
shows both to whoever sits before the terminal.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import typer
from typer.core import TyperGroup

from tabveil import errors

EXIT_CODES = """\
Exit codes: 0 done · 1 other failure · 2 wrong option or argument · 3 schema wrong or a draft ·
4 table unreadable, or not as its schema says · 5 budget exceeded · 6 ledger unreachable, or no such account ·
7 verification failed · 8 optional package missing · 9 disk full or not writable · 70 internal error ·
130 interrupted.
"""

USAGE_ERROR = typer.BadParameter.__mro__[2]
"""The base of every mistake the parser finds; typer names it differently from version to version."""


class InterruptedRun(errors.TabveilError):
    """Ctrl-C, SIGTERM or SIGHUP, turned into an error of ours before the parser swallows what it was told."""

    exit_code = errors.INTERRUPTED_EXIT_CODE


class Group(TyperGroup):
    """Commands whose interruption keeps the notes that the pipeline gave it."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            failure = InterruptedRun("Interrupted.")
            failure.__notes__ = list(getattr(error, "__notes__", []))
            raise failure from error


def new_app(summary: str) -> typer.Typer:
    """A group of commands with our manners."""
    return typer.Typer(
        cls=Group,
        help=summary,
        epilog=EXIT_CODES,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


# -------------------------------------------------------------------------------------------------------------- answers


def answer(data: Mapping[str, Any], text: str, *, as_json: bool) -> None:
    """A command's result on stdout: `data` as JSON, or `text` for a person."""
    typer.echo(json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False) if as_json else text)


def tell(message: str) -> None:
    """A message for a person, on stderr; lost where that was closed with its terminal."""
    try:
        typer.echo(message, err=True)
    except OSError as error:
        if error.errno != errno.EIO:
            raise


def columns(rows: Sequence[Sequence[str]]) -> str:
    """`rows` as text, columns aligned; the last one is left as it is."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]) - 1)] if rows else []
    return "\n".join("  ".join([*(c.ljust(w) for c, w in zip(r, widths, strict=False)), r[-1]]).rstrip() for r in rows)


@contextlib.contextmanager
def progress() -> Iterator[Callable[[str, float], None] | None]:
    """A callback that draws one bar per stage on stderr; None where stderr is no terminal.

    What follows a colon in a stage's name may change while it lasts ("training: 7 steps left").
    """
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    look = (TextColumn("{task.description:<28}"), BarColumn(), TimeElapsedColumn())
    with Progress(*look, console=Console(stderr=True), transient=True) as bars:
        tasks: dict[str, Any] = {}

        def show(stage: str, share: float) -> None:
            name = stage.partition(":")[0]
            if name not in tasks:
                tasks[name] = bars.add_task(stage, total=1.0)
            bars.update(tasks[name], completed=share, description=stage)

        yield show


# --------------------------------------------------------------------------------------------------------------- errors


def run(app: typer.Typer, arguments: Sequence[str] | None = None) -> int:
    """Run the command line `arguments` and return its exit code; whatever goes wrong is one line on stderr."""
    debug = bool(os.environ.get("TABVEIL_DEBUG"))
    with _one_interrupt(), _only_our_words(debug):
        try:
            result = app(
                args=None if arguments is None else list(arguments), prog_name="tabveil", standalone_mode=False
            )
        except SystemExit as error:
            return error.code if isinstance(error.code, int) else 1
        except (KeyboardInterrupt, Exception) as error:
            if debug:
                traceback.print_exc()
            code, line = outcome(error)
            tell(f"tabveil: {line}")
            return code
    return result if isinstance(result, int) else 0


class _Told(logging.Handler):
    """Our own log on stderr: sentences without a cell value."""

    def emit(self, record: logging.LogRecord) -> None:
        """Tell it."""
        tell(record.getMessage())


@contextlib.contextmanager
def _only_our_words(debug: bool) -> Iterator[None]:
    """Show our own log; hide the warnings of libraries, which may quote rows."""
    log, told = logging.getLogger("tabveil"), _Told(logging.INFO)
    level, log.propagate = log.level, False
    log.setLevel(logging.INFO)
    log.addHandler(told)
    with warnings.catch_warnings():
        if not debug:
            warnings.simplefilter("ignore")
        try:
            yield
        finally:
            log.removeHandler(told)
            log.setLevel(level)
            log.propagate = True


def outcome(error: BaseException) -> tuple[int, str]:
    """Exit code and the one line for an error: its sentence and notes where it is ours, else its type alone."""
    notes = list(getattr(error, "__notes__", []))
    if isinstance(error, KeyboardInterrupt) or _from_interrupt(error):
        error = InterruptedRun("Interrupted.")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        error = errors.StorageError("The disk is full: nothing half-written is left behind.")
    if isinstance(error, errors.TabveilError):
        return error.exit_code, _line([str(error), *notes])
    if isinstance(error, USAGE_ERROR):
        problem: Any = error
        return 2, _line([problem.format_message(), "See --help."])
    advice = "run with TABVEIL_DEBUG=1 for a traceback (it may show cell values)."
    return errors.INTERNAL_EXIT_CODE, _line([f"Internal error, {type(error).__name__}: {advice}", *notes])


def _from_interrupt(error: BaseException) -> bool:
    """Whether an interrupt inside a library came out as an error of its own: a lock's, a closed terminal's."""
    closed = isinstance(error, OSError) and error.errno == errno.EIO
    found: BaseException | None = error if closed or isinstance(error, RuntimeError) else None
    while found is not None and not isinstance(found, KeyboardInterrupt):
        found = found.__context__
    return found is not None


def _line(parts: Sequence[str]) -> str:
    sentences = (p.strip().rstrip(".") for p in parts)
    return " ".join(" ".join(s if s.endswith("?") else f"{s}." for s in sentences).split())


_INTERRUPTS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def _interrupts() -> list[signal.Signals]:
    """Signals that interrupt; a closed terminal does not where whoever started us said so, as nohup does."""
    return [s for s in _INTERRUPTS if s != signal.SIGHUP or signal.getsignal(s) is not signal.SIG_IGN]


@contextlib.contextmanager
def _one_interrupt() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP (a closed terminal) interrupt once; more of them do not disturb the tidying up.

    The caller's handlers, hook and timer are as before afterwards; his timer stands still meanwhile.
    """
    try:
        old = {s: signal.signal(s, _interrupt) for s in (*_interrupts(), signal.SIGALRM)}
    except ValueError:  # not in the main thread: whoever called us keeps his signals
        yield
        return
    timer = signal.setitimer(signal.ITIMER_REAL, 0)
    hook, sys.unraisablehook = sys.unraisablehook, _unraisable
    try:
        yield
    finally:
        for number in _INTERRUPTS:
            signal.signal(number, signal.SIG_IGN)  # one that comes now would leave this half undone
        signal.setitimer(signal.ITIMER_REAL, 0)
        sys.unraisablehook = hook
        for number, handler in old.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *timer)


def ignore_interrupts() -> None:
    """From now on no interrupt changes anything: for a process that ends by itself and has nothing left to lose."""
    for number in _INTERRUPTS:
        signal.signal(number, signal.SIG_IGN)


PATIENCE = 2.0
"""Seconds between two looks at whether an interrupted run still tidies up or waits for a thread."""


class _StillWaitingError(KeyboardInterrupt):
    """The interrupt of a wait that another interrupt left without an end."""


def _interrupt(number: int, frame: object) -> None:
    for other in _INTERRUPTS:
        signal.signal(other, signal.SIG_IGN)
    signal.signal(signal.SIGALRM, _abandon)
    signal.setitimer(signal.ITIMER_REAL, PATIENCE, PATIENCE)
    raise KeyboardInterrupt


def _abandon(number: int, frame: FrameType | None) -> None:
    """Interrupt a wait for another thread once more: an interrupted run needs no answer of it, and none may ever come.

    An interrupt between a condition's acquiring its lock and saying so leaves that lock held for good
    (`threading.Condition.__enter__` is Python code), and a pool's shutdown then waits for a worker that waits for it.
    """
    if frame is not None and frame.f_globals.get("__name__") == threading.__name__:
        raise _StillWaitingError


def _unraisable(event: Any) -> None:
    """An interrupt in a destructor, where Python drops it, is tried again a moment later; the rest is not shown."""
    if event.exc_type is KeyboardInterrupt:
        signal.signal(signal.SIGALRM, _interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.01)
