"""Packages that cannot live beside ours work in an environment of their own, fed by files in a private folder.

    create("anonymeter", accepted=True)                 # what `tabveil env create anonymeter --accept-licence` does
    run("anonymeter", tables={"train": table}, job={...})

What environments there are is data: `data/environments/NAME.yaml` says what it is for and under which licence,
`NAME.txt` pins what pip installs, `NAME_worker.py` is the worker. The worker never is imported into our process.
Where our own interpreter already has the very version that is pinned, it runs the worker; nothing else differs.

An environment lies under `home()`, one folder each. A file written last marks it as whole and says whose licence was
accepted; a folder without it is a leftover, and removed by the next `create`. Only `create` uses the network: pip's.

Privacy: tables reach a worker as Parquet in a temporary folder that only this user can open; it is removed whatever
happens, after Ctrl-C too, and by the worker itself where our process was killed. What a worker prints is thrown away,
and of its errors only type and place are told: a library's message may quote cells.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import fcntl
import hashlib
import importlib.metadata
import importlib.resources
import json
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

_PIP = ("--no-input", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:")
"""Nothing but what is listed, and nothing that would have to run code to be built."""

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
      requirements: everything pip installs, as NAME==VERSION, what the package brings included.
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
        return dict(r.split("==") for r in self.requirements)[self.package]


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
    lines = (_folder() / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    return Environment(**said, requirements=tuple(line for line in lines if line and not line.startswith("#")))


def home() -> Path:
    """Where environments lie: TABVEIL_HOME, else XDG_DATA_HOME/tabveil, else ~/.local/share/tabveil."""
    own = os.environ.get("TABVEIL_HOME")
    data = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return (Path(own) if own else data / "tabveil").absolute() / "environments"


def folder_of(name: str) -> Path:
    """Where the environment called `name` lies, or would."""
    return home() / load(name).name


def is_there(name: str) -> bool:
    """Whether a worker can run: our own interpreter has the package as pinned, or `create` has made the environment."""
    return _is_ours(load(name)) or _is_whole(load(name))


def python_of(name: str) -> str:
    """The interpreter that runs the worker: ours where it has the package as pinned, else the environment's.

    Raises:
      UsageError: there is no such environment.
      MissingDependencyError: it was not made yet, or from another list.
    """
    environment = load(name)
    if _is_ours(environment):
        return sys.executable
    if not _is_whole(environment):
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
      UsageError: no such environment; the notice was not agreed to; or another process is making it.
      MissingDependencyError: not for this Python, or pip could not install something. Nothing is left behind.
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
    with _alone(folder):
        if not _is_whole(environment):
            _make(environment, folder, tell=said)
    return folder


def remove(name: str) -> bool:
    """Remove an environment, or what is left of one; whether there was anything.

    Raises:
      UsageError: no such environment, or another process is making it.
      StorageError: it cannot be removed.
    """
    folder = folder_of(name)
    if not folder.exists():
        return False
    with _alone(folder):
        _clear(folder)
    return True


def accepted_on(name: str) -> str:
    """The day (UTC, as 2026-01-31) on which the licence of an environment was accepted; "" where it was not made."""
    return str(_mark(folder_of(name)).get("accepted_on", ""))


def _make(environment: Environment, folder: Path, *, tell: Tell) -> None:
    """Environments cannot be moved, so it grows in its place, and a file written last says that it is whole."""
    _clear(folder)
    try:
        tell(f"Making {folder}")
        _call([sys.executable, "-I", "-m", "venv", str(folder)], failed="venv could not make the environment")
        tell(f"Fetching {len(environment.requirements)} packages with pip: a minute or a few")
        listed = folder / "requirements.txt"
        listed.write_text("\n".join(environment.requirements) + "\n", encoding="utf-8")
        pip = [str(_python_in(folder)), "-m", "pip", "install", "-r", str(listed)]
        _call([*pip, *_PIP], failed="pip could not install what is pinned")
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


def _call(command: Sequence[str], *, failed: str) -> None:
    """Run a program of ours to its end; its own words are told without addresses, which may hold a password."""
    done = _waited(command, limit_s=LIMIT_S, cwd=None, environment=None, words=subprocess.PIPE)
    if done.returncode:
        lines = [line for line in (done.stderr or "").splitlines() if line.strip()]
        last = next((line for line in reversed(lines) if "ERROR" in line), lines[-1] if lines else "no word of it")
        raise MissingDependencyError(f"{failed}: {re.sub(r'[a-z+]+://[^ ]+', '(an address)', last).strip()}")


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one process makes or removes an environment at a time; the lock is gone with the process."""
    try:
        folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(folder.with_name(f".{folder.name}.lock"), "w", encoding="utf-8") as lock:
            _take(lock, folder.name)
            yield
    except OSError as error:
        reason = error.strerror or "the disk reported an error"
        raise StorageError(f"The folder of environments cannot be written: {reason}.") from error


def _take(lock: IO[str], name: str) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"Another process is making or removing the environment {name!r}: wait for it.") from None


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
      UsageError, MissingDependencyError: as `python_of`.
      WorkerError: the worker failed (type and place of its error are told, never its words), or took too long.
      StorageError: the disk is full.
    """
    python = python_of(name)
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_private_folder())
        files = (_folder() / f for f in ("runner.py", f"{name}_worker.py"))
        runner, worker = (stack.enter_context(importlib.resources.as_file(f)) for f in files)
        _write(folder, tables, job)
        command = [python, "-I", "-B", str(runner), str(worker), str(folder)]
        done = _waited(command, limit_s=limit_s, cwd=folder, environment=_little(folder), words=subprocess.DEVNULL)
        return _read(folder, name, done.returncode)


@contextlib.contextmanager
def _private_folder() -> Iterator[Path]:
    """A folder that only this user can open; gone afterwards, whatever happens."""
    folder = Path(tempfile.mkdtemp(prefix="tabveil-"))  # made with mode 0700
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write(folder: Path, tables: Mapping[str, pa.Table], job: Mapping[str, Any]) -> None:
    import pyarrow.parquet as pq

    try:
        for table, rows in tables.items():
            pq.write_table(rows, folder / f"{table}.parquet")
        (folder / "job.json").write_text(json.dumps(job, allow_nan=False), encoding="utf-8")
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
        raise WorkerError(f"The worker of {name} failed: {said['error']} in {said['place']}.")
    why = f"signal {-code} ended it; memory may have run out" if code < 0 else f"it ended with code {code}"
    raise WorkerError(f"The worker of {name} gave no answer: {why}.")


def _waited(
    command: Sequence[str], *, limit_s: float, cwd: Path | None, environment: Mapping[str, str] | None, words: int
) -> subprocess.CompletedProcess[str]:
    """A program run to its end, which it and its children meet at once when we are interrupted or time is up."""
    process = subprocess.Popen(  # noqa: S603 - programs of ours, without a shell
        command,
        cwd=cwd,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=words,
        text=True,
        start_new_session=True,
    )
    try:
        _, said = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        raise WorkerError(f"A worker took longer than {limit_s:g} seconds and was stopped.") from None
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return subprocess.CompletedProcess(list(command), process.returncode, None, said)


# -------------------------------------------------------------------------------------------------------------- places


def _folder() -> Traversable:
    return importlib.resources.files("tabveil") / "data" / "environments"


def _python_in(folder: Path) -> Path:
    return folder / "bin" / "python"


def _is_ours(environment: Environment) -> bool:
    try:
        return importlib.metadata.version(environment.package) == environment.version
    except importlib.metadata.PackageNotFoundError:
        return False


def _is_whole(environment: Environment) -> bool:
    folder = folder_of(environment.name)
    return _mark(folder).get("digest") == environment.digest and _python_in(folder).exists()


def _mark(folder: Path) -> dict[str, Any]:
    try:
        said = json.loads((folder / MARK).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return said if isinstance(said, dict) else {}
