"""Packages that cannot live beside ours work in an environment of their own, fed by files in a private folder.

    create("anonymeter", accepted=True)                 # what `tabveil env create anonymeter --accept-licence` does
    run("anonymeter", tables={"train": table}, job={...})

What environments there are is data: `data/environments/NAME.yaml` says what it is for and under which licence,
`NAME.txt` pins what pip installs, to the SHA-256 of every file it may be (docs/audit.md says how it is renewed), and
`NAME_worker.py` is the worker. The worker never is imported into our process, nor
does our interpreter run it: what is agreed to and pinned is what reads the rows.

An environment lies under `home()`, one folder each. A file written last marks it as whole and says whose licence was
accepted; a folder without it is a leftover, and removed by the next `create`. Only `create` uses the network: pip's.

Privacy: tables reach a worker as Parquet in a temporary folder that only this user can open. It is removed after
Ctrl-C too, and where our process is killed by the worker, which is there before the first row is written. What a
worker prints is thrown away, and of its errors only type and place are told: a library's message may quote cells.
Whoever can put files into the environment decides what reads the rows; whoever runs the index that pip fetches from
does not, since another file than the pinned one is refused.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import importlib.resources
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from tabveil._atomic import write_text
from tabveil.errors import MissingDependencyError, StorageError, TabveilError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

MARK = "tabveil-environment.json"
"""The file that is written last into an environment: what it was made from, and whose licence was accepted."""

LIMIT_S = 3_600.0
"""Seconds that a worker may take where the caller says nothing."""

_PIP = ("--no-input", "--disable-pip-version-check", "--no-deps", "--require-hashes", "--only-binary", ":all:")
"""Nothing but what is listed, to the last bit, and nothing that would have to run code to be built."""

_TAMPERED = re.compile(r"DO NOT MATCH THE HASHES.*?^ +(?P<package>[\w.-]+==[\w.-]+)", re.DOTALL | re.MULTILINE)
"""What pip says where a file is not the pinned one."""

_PLACES = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")
"""Settings by which pip would install elsewhere."""

_log = logging.getLogger(__name__)

Tell = Callable[[str], None]


class WorkerError(TabveilError):
    """A worker failed, died, or took too long; says of its error the type and place alone."""


@dataclass(frozen=True)
class Environment:
    """What an environment is.

    Attributes:
      name: its name.
      about: what it is for.
      package: the distribution it exists for.
      pythons: versions of Python, as "3.11", that the pinned packages are for.
      licence: the package's licence.
      notice: what must be read before the first use.
      requirements: everything pip installs, as NAME==VERSION --hash=sha256:... and a hash for each further file that
        the package comes in, what the package brings included.
    """

    name: str
    about: str
    package: str
    pythons: tuple[str, ...]
    licence: str
    notice: str
    requirements: tuple[str, ...]

    @property
    def digest(self) -> str:
        """SHA-256 of the pinned list and the notice: another one makes an environment out of date."""
        return hashlib.sha256("\n".join([*self.requirements, self.notice]).encode()).hexdigest()

    @property
    def version(self) -> str:
        """The version of `package` that is pinned."""
        return dict(r.split()[0].split("==") for r in self.requirements)[self.package]


def names() -> list[str]:
    """Names of the environments that can be made, in alphabetical order."""
    return sorted(p.name.removesuffix(".yaml") for p in _folder().iterdir() if p.name.endswith(".yaml"))


def load(name: str) -> Environment:
    """The environment called `name`.

    Raises:
      UsageError: there is none.
    """
    if name not in names():
        raise UsageError(f"There is no environment {name!r}: choose one of {', '.join(names())}.")
    said = yaml.safe_load((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
    said["pythons"], said["notice"] = tuple(said["pythons"]), " ".join(said["notice"].split())
    text = (_folder() / f"{name}.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = (" ".join(line.split()) for line in text.splitlines() if not line.startswith("#"))
    return Environment(**said, requirements=tuple(line for line in lines if line))


def home() -> Path:
    """Where environments lie: TABVEIL_HOME, else XDG_DATA_HOME/tabveil, else ~/.local/share/tabveil.

    Raises:
      StorageError: there is no home, or TABVEIL_HOME is no absolute path.
    """
    own, data = (os.environ.get(name, "").strip() for name in ("TABVEIL_HOME", "XDG_DATA_HOME"))
    try:
        base = Path(own).expanduser() if own else Path(data or "~/.local/share").expanduser() / "tabveil"
    except RuntimeError:
        raise StorageError("There is no home for environments: set TABVEIL_HOME to a folder of yours.") from None
    if not base.is_absolute():
        raise StorageError("The home of environments must not depend on where one stands: give a path from the root.")
    return base / "environments"


def folder_of(name: str) -> Path:
    """Where the environment called `name` lies, or would."""
    return home() / load(name).name


def is_there(name: str) -> bool:
    """Whether a worker can run: `create` has made the environment."""
    try:
        return _is_whole(load(name))
    except StorageError:
        return False


def state(name: str) -> str:
    """What an answer of the environment depends on: from which list it was made, and when; "" where it is not there."""
    mark = _mark(folder_of(name)) if is_there(name) else {}
    return f"{mark['digest']} {mark['accepted_on']}" if mark else ""


def python_of(name: str) -> str:
    """The interpreter that runs the worker: the environment's.

    Raises:
      UsageError: there is no such environment.
      MissingDependencyError: it was not made yet, or from another list.
    """
    if not _is_whole(load(name)):
        raise MissingDependencyError(
            f"{name} needs an environment of its own, which was not made yet: tabveil env create {name}."
        )
    return str(_python_in(folder_of(name)))


# ------------------------------------------------------------------------------------------------------- make, remove


def create(name: str, *, accepted: bool, tell: Tell | None = None) -> Path:
    """Make an environment with venv and pip; nothing is done where it is there already.

    Args:
      name: one of `names()`.
      accepted: that a person has read `load(name).notice` and agreed to go on.
      tell: told what is being done.

    Returns:
      Its folder.

    Raises:
      UsageError: no such environment; the notice was not agreed to; or another process is making or using it.
      MissingDependencyError: not for this Python, or pip could not install something, or was given another file than
        the pinned one. Nothing is left behind.
      WorkerError: pip took longer than LIMIT_S.
      StorageError: the folder cannot be written.
    """
    environment, said = load(name), tell or (lambda _: None)
    if not accepted:
        raise UsageError(f"{environment.notice} To agree: tabveil env create {name} --accept-licence.")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    if python not in environment.pythons:
        known = " or ".join(environment.pythons)
        raise MissingDependencyError(f"{name} is for Python {known}, and this is Python {python}.")
    folder = folder_of(name)
    with _locked(folder) as lock:
        if not _is_whole(environment):
            _make(environment, folder, lock=lock, tell=said)
    return folder


def remove(name: str) -> bool:
    """Remove an environment, or what is left of one; whether there was anything.

    Raises:
      UsageError: no such environment, or another process is making or using it.
      StorageError: it cannot be removed.
    """
    folder = folder_of(name)
    if not folder.exists():
        return False
    with _locked(folder):
        _clear(folder)
    return True


def accepted_on(name: str) -> str:
    """The day (UTC, as 2026-01-31) on which the licence of an environment was accepted; "" where it was not made."""
    return str(_mark(folder_of(name)).get("accepted_on", ""))


def _make(environment: Environment, folder: Path, *, lock: IO[str], tell: Tell) -> None:
    """Environments cannot be moved, so it grows in its place, and a file written last says that it is whole.

    What is started holds the lock too: nobody else comes in before it is over.
    """
    _clear(folder)
    try:
        tell(f"Making {folder}")
        _call([*_module(sys.executable, "venv"), str(folder)], lock=lock, failed="venv could not make the environment")
        tell(f"Fetching {len(environment.requirements)} packages with pip: a minute or a few")
        listed = folder / "requirements.txt"
        listed.write_text("\n".join(environment.requirements) + "\n", encoding="utf-8")
        python = str(_python_in(folder))
        pip = [*_module(python, "pip"), "install", "-r", str(listed), *_PIP]
        _call(pip, lock=lock, failed="pip could not install what is pinned")
        check = [python, "-I", "-c", _CHECK, str(listed)]
        _call(check, lock=lock, failed="pip has not installed what is pinned")
        mark = {
            "name": environment.name,
            "digest": environment.digest,
            "licence": environment.licence,
            "notice": environment.notice,
            "accepted_on": dt.datetime.now(dt.UTC).date().isoformat(),
        }
        write_text(folder / MARK, json.dumps(mark, indent=1, sort_keys=True) + "\n")
    except BaseException:
        _clear(folder)
        raise


def _module(python: str, name: str) -> list[str]:
    """The command that runs a module and is over when we are."""
    return [python, "-I", "-c", _WATCHED, str(os.getpid()), name]


_WATCHED = """
import os, runpy, signal, sys, threading, time

def watch(parent):
    while os.getppid() == parent:
        time.sleep(0.2)
    os.killpg(0, signal.SIGKILL)

threading.Thread(target=watch, args=(int(sys.argv.pop(1)),), daemon=True).start()
runpy.run_module(sys.argv.pop(1), run_name="__main__", alter_sys=True)
"""
"""Runs a module; where its parent is gone it ends itself and its children, which a hung-up terminal does not reach."""

_CHECK = """
import sys
from importlib.metadata import version
pinned = (line.split()[0].split("==") for line in open(sys.argv[1], encoding="utf-8"))
wrong = [name for name, wanted in pinned if version(name) != wanted]
sys.exit(f"ERROR: another version of {', '.join(wrong)}" if wrong else 0)
"""
"""Whether an environment holds what is pinned."""


def _call(command: Sequence[str], *, lock: IO[str] | None = None, failed: str) -> None:
    """Run a program of ours to its end; its own words are told without addresses, which may hold a password.

    Nothing in the folder one stands in, and no setting of Python's or of where pip installs, has a say in it.
    """
    settings = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON") and k not in _PLACES}
    with tempfile.TemporaryDirectory(prefix="tabveil-") as nowhere:
        started = _Start(command, cwd=Path(nowhere), environment=settings, words=subprocess.PIPE, lock=lock)
        with _running(started) as process:
            said = _end_of(process, limit_s=LIMIT_S)
    if process.returncode:
        if tampered := _TAMPERED.search(said):
            raise MissingDependencyError(
                f"{failed}: the index that pip is set to gave another {tampered['package']} than the pinned one (its "
                "SHA-256 differs). It may have been tampered with, so nothing was installed."
            )
        lines = [line for line in said.splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no word of it")
        raise MissingDependencyError(f"{failed}: {re.sub(r'[a-z+]+://[^ ]+', '(an address)', last).strip()}")


@contextlib.contextmanager
def _locked(folder: Path, *, shared: bool = False) -> Iterator[IO[str]]:
    """One process at a time makes or removes an environment, or several use it; the lock is gone with the process."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(folder.with_name(f".{folder.name}.lock"), "w", encoding="utf-8") as lock:
            _take(lock, folder.name, how=fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
            yield lock
    except OSError as error:
        reason = error.strerror or "the disk reported an error"
        raise StorageError(f"The folder of environments cannot be changed: {reason}.") from error


def _take(lock: IO[str], name: str, *, how: int) -> None:
    try:
        fcntl.flock(lock, how | fcntl.LOCK_NB)
    except BlockingIOError:
        doing = "making, removing or using"
        raise UsageError(f"Another process is {doing} the environment {name!r}: wait for it.") from None


def _clear(folder: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        (folder / MARK).unlink()  # first: what is half removed must not pass for whole
    if folder.exists():
        shutil.rmtree(folder)


# ------------------------------------------------------------------------------------------------------------- workers


def run(name: str, *, tables: Mapping[str, pa.Table], job: Mapping[str, Any], limit_s: float = LIMIT_S) -> Any:
    """What the worker of an environment answers.

    Args:
      name: one of `names()`.
      tables: reach the worker as Parquet files, by name.
      job: what is asked, as JSON.
      limit_s: seconds until it is given up.

    Returns:
      JSON, in a shape that the worker's own file describes.

    Raises:
      UsageError, MissingDependencyError: as `python_of`; or the environment does not work, or is being removed.
      WorkerError: the worker failed (type and place of its error are told, never its words), or took too long.
      StorageError: the disk is full.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_locked(folder_of(name), shared=True))
        python = python_of(name)
        folder = stack.enter_context(_private_folder())
        files = (_folder() / f for f in ("runner.py", f"{name}_worker.py"))
        runner, worker = (stack.enter_context(importlib.resources.as_file(f)) for f in files)
        command = [python, "-I", "-B", str(runner), str(worker), str(folder), str(os.getpid())]
        started = _Start(command, cwd=folder, environment=_little(folder), words=subprocess.DEVNULL)
        process = stack.enter_context(_running(started))
        _write(folder, tables, job)
        _end_of(process, limit_s=limit_s)
        return _read(folder, name, process.returncode)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can open; gone afterwards, whatever happens."""
    try:
        folder = Path(tempfile.mkdtemp(prefix="tabveil-"))  # made with mode 0700
    except OSError as error:
        raise StorageError("There is no place for temporary files: set TMPDIR to a folder of yours.") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.exists():
            _log.warning("The folder %s holds real rows and could not be removed: remove it.", folder)


def _write(folder: Path, tables: Mapping[str, pa.Table], job: Mapping[str, Any]) -> None:
    """The tables, and last the job, for which the worker waits."""
    import pyarrow.parquet as pq

    try:
        for table, rows in tables.items():
            pq.write_table(rows, folder / f"{table}.parquet")
        beside = folder / "job.json.tmp"
        beside.write_text(json.dumps(job, allow_nan=False), encoding="utf-8")
        beside.replace(folder / "job.json")
    except OSError as error:
        reason = error.strerror or "the disk reported an error"
        raise StorageError(f"Temporary files cannot be written: {reason}. Nothing was left behind.") from error


def _little(folder: Path) -> dict[str, str]:
    """A worker's surroundings: nothing of ours but threads and time, and no other place to write to."""
    kept = {k: v for k, v in os.environ.items() if k.endswith("_NUM_THREADS") or k == "PATH"}
    places = dict.fromkeys(("HOME", "TMPDIR", "XDG_CACHE_HOME", "NUMBA_CACHE_DIR"), str(folder))
    return {**kept, **places, "LC_ALL": "C.UTF-8", "POLARS_MAX_THREADS": kept.get("OMP_NUM_THREADS", "1")}


def _read(folder: Path, name: str, code: int) -> Any:
    with contextlib.suppress(OSError, ValueError):
        said = json.loads((folder / "answer.json").read_text(encoding="utf-8"))
        if "answer" in said:
            return said["answer"]
        if said.get("unusable"):
            advice = f"tabveil env remove {name}, then tabveil env create {name}"
            raise MissingDependencyError(f"The environment of {name} does not work ({said['error']}): {advice}.")
        raise WorkerError(f"The worker of {name} failed: {said['error']} in {said['place']}.")
    why = f"signal {-code} ended it; memory may have run out" if code < 0 else f"it ended with code {code}"
    raise WorkerError(f"The worker of {name} gave no answer: {why}.")


@dataclass(frozen=True)
class _Start:
    """A program to be started: of ours, without a shell, in a session of its own."""

    command: Sequence[str]
    cwd: Path
    environment: Mapping[str, str]
    words: int
    lock: IO[str] | None = None


@contextlib.contextmanager
def _running(start: _Start) -> Iterator[subprocess.Popen[str]]:
    """A program that is over when we are, with its children: after an interrupt, or when its time is up."""
    try:
        process = subprocess.Popen(  # noqa: S603 - programs of ours, without a shell
            start.command,
            cwd=start.cwd,
            env=start.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=start.words,
            text=True,
            start_new_session=True,
            pass_fds=() if start.lock is None else (start.lock.fileno(),),
        )
    except OSError as error:
        advice = "tabveil env remove, then tabveil env create"
        raise MissingDependencyError(f"The environment's Python cannot be started: {advice}.") from error
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _end_of(process: subprocess.Popen[str], *, limit_s: float) -> str:
    """What a program said until its end; raises WorkerError where that does not come in time."""
    try:
        _, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"It took longer than {limit_s:g} seconds and was stopped.") from None
    return said or ""


# -------------------------------------------------------------------------------------------------------------- places


def _folder() -> Traversable:
    return importlib.resources.files("tabveil") / "data" / "environments"


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_whole(environment: Environment) -> bool:
    folder = folder_of(environment.name)
    return _mark(folder).get("digest") == environment.digest and os.access(_python_in(folder), os.X_OK)


def _mark(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
