"""Environments of packages that cannot live beside ours: made whole or not at all, their workers kept apart."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy
import pyarrow as pa
import pytest

from tabveil import environments
from tabveil.errors import MissingDependencyError, StorageError, TabveilError, UsageError

SENTINEL = "Qx7-sentinel-Zk"
WORKER = '''\
"""A worker of the tests."""

import os
import signal
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq


def answer(job, folder):
    table = pq.read_table(folder / "people.parquet")
    Path(job["pids"]).write_text(str(os.getpid()))
    word = table["word"][0].as_py()
    print(word)
    print(word, file=sys.stderr)
    if job["do"] == "fail":
        raise ValueError(word)
    if job["do"] == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job["do"] == "wait":
        time.sleep(60)
    found = {"rows": table.num_rows, "mode": oct(os.stat(folder).st_mode & 0o777), "folder": str(folder)}
    return found | {"variables": sorted(os.environ), "isolated": sys.flags.isolated, "python": sys.prefix}
'''
TABLE = {"people": pa.table({"word": [SENTINEL, "b", "c"]})}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own, temporary files of its own, and an environment called toy that could be made in it."""
    runner = (environments._folder() / "runner.py").read_text(encoding="utf-8")
    data = tmp_path / "data"
    files = {
        "toy.yaml": "{name: toy, about: a toy, package: toy, pythons: ['3.11', '3.12'], licence: L, notice: N}",
        "toy.txt": "# pinned\ntoy==1.0\n",
        "toy_worker.py": WORKER,
        "runner.py": runner,
    }
    for folder in (data, tmp_path / "tmp"):
        folder.mkdir()
    for name, text in files.items():
        (data / name).write_text(text, encoding="utf-8")
    monkeypatch.setattr(environments, "_folder", lambda: data)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setenv("TABVEIL_HOME", str(tmp_path / "home"))
    return tmp_path


@pytest.fixture
def toy(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The environment toy, made without pip; it sees our pyarrow."""

    def instead(command: list[str], *, lock: object = None, failed: str) -> None:
        if "venv" in command:
            subprocess.run([*command, "--without-pip"], check=True)
            for packages in Path(command[-1]).glob("lib/python*/site-packages"):
                (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")

    monkeypatch.setattr(environments, "_call", instead)
    return environments.create("toy", accepted=True)


def asked(home: Path, do: str) -> dict[str, str]:
    return {"do": do, "pids": str(home / "pid")}


def is_alive(pid: int) -> bool:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, 0)
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    return False


def until(true: Callable[[], bool], *, seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.05)
    return true()


# ----------------------------------------------------------------------------------------------------------- what ships


@pytest.mark.parametrize("name", environments.names())
def test_what_ships_is_pinned_to_the_last_package_and_names_no_place(name: str) -> None:
    found = environments.load(name)
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[0-9.]+( --hash=sha256:[0-9a-f]{64})+", r) for r in found.requirements)
    assert found.version
    assert found.notice
    assert found.licence
    text = (environments._folder() / f"{name}.txt").read_text(encoding="utf-8")
    assert "/" not in text.replace("`tabveil env create", "")
    assert (environments._folder() / f"{name}_worker.py").is_file()


def test_anonymeters_notice_says_that_no_patent_is_licensed() -> None:
    notice = environments.load("anonymeter").notice
    assert "patent rights are granted by this license" in notice
    assert "US-20230401336-A1" in notice


def test_home_follows_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TABVEIL_HOME", "/a")
    assert environments.home() == Path("/a/environments")
    monkeypatch.delenv("TABVEIL_HOME")
    monkeypatch.setenv("XDG_DATA_HOME", "/b")
    assert environments.home() == Path("/b/tabveil/environments")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/c")
    assert environments.home() == Path("/c/.local/share/tabveil/environments")


# --------------------------------------------------------------------------------------------------------------- making


def wheel(folder: Path) -> str:
    """The package toy 1.0, as pip takes it; its SHA-256."""
    folder.mkdir()
    info = "toy-1.0.dist-info"
    with zipfile.ZipFile(folder / "toy-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr("toy.py", "")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256((folder / "toy-1.0-py3-none-any.whl").read_bytes()).hexdigest()


@pytest.fixture
def served(home: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder that pip fetches toy 1.0 from, and nothing else; the SHA-256 of what it gives."""
    settings = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(home / "wheels"), "PIP_CONFIG_FILE": os.devnull}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    return wheel(home / "wheels")


def pinned(home: Path, *hashes: str) -> None:
    """Pin toy 1.0 to files of these SHA-256, a line each, as they are kept."""
    lines = ["# pinned", " \\\n".join(["toy==1.0", *(f"    --hash=sha256:{h}" for h in hashes)])]
    (home / "data" / "toy.txt").write_text("\n".join(lines) + "\n")


def test_venv_and_pip_make_what_is_pinned_and_nothing_where_it_is_there(home: Path, served: str) -> None:
    pinned(home, "0" * 64, served)  # of a wheel for another machine, and of this one
    said: list[str] = []
    leftover = environments.folder_of("toy") / "bin" / "python"
    leftover.parent.mkdir(parents=True)
    leftover.write_text("of a make that was killed")
    assert not environments.is_there("toy")
    folder = environments.create("toy", accepted=True, tell=said.append)
    assert environments.is_there("toy")
    assert len(said) == 2
    python = environments.python_of("toy")
    assert Path(python).is_relative_to(folder)
    subprocess.run([python, "-I", "-c", "import toy"], check=True)
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", environments.accepted_on("toy"))
    assert environments.create("toy", accepted=True, tell=said.append) == folder
    assert len(said) == 2
    (home / "data" / "toy.txt").write_text("toy==1.1\n")
    assert not environments.is_there("toy")


def test_a_file_that_is_not_the_pinned_one_is_refused_and_leaves_nothing(home: Path, served: str) -> None:
    pinned(home, "0" * 64)
    words = r"gave another toy==1\.0 than the pinned one \(its SHA-256 differs\)\. It may have been tampered with"
    with pytest.raises(MissingDependencyError, match=words) as caught:
        environments.create("toy", accepted=True)
    assert "\n" not in str(caught.value)
    assert str(home) not in str(caught.value)
    assert [p.name for p in environments.home().iterdir()] == [".toy.lock"]
    assert not list((home / "tmp").iterdir())


def test_a_program_that_fails_is_quoted_without_addresses() -> None:
    words = "import sys; print('ERROR: no such thing at https://me:secret@host/simple', file=sys.stderr); sys.exit(1)"
    with pytest.raises(MissingDependencyError) as caught:
        environments._call([sys.executable, "-c", words], failed="It failed")
    assert str(caught.value) == "It failed: ERROR: no such thing at (an address)"


@pytest.mark.parametrize("error", [KeyboardInterrupt, MissingDependencyError])
def test_what_is_interrupted_or_cannot_be_fetched_leaves_nothing(
    home: Path, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(command: list[str], *, lock: object = None, failed: str) -> None:
        if "venv" not in command:
            raise error
        Path(command[-1]).mkdir()

    monkeypatch.setattr(environments, "_call", half)
    with pytest.raises(error):
        environments.create("toy", accepted=True)
    assert not environments.folder_of("toy").exists()


def test_nothing_is_made_unread_for_another_python_or_twice_at_once(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="--accept-licence"):
        environments.create("toy", accepted=False)
    with pytest.raises(UsageError, match="choose one of toy"):
        environments.create("other", accepted=True)
    environments.home().mkdir(parents=True)
    with open(environments.home() / ".toy.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(UsageError, match="Another process"):
            environments.create("toy", accepted=True)
    text = (home / "data" / "toy.yaml").read_text().replace("'3.11', '3.12'", "'2.7'")
    (home / "data" / "toy.yaml").write_text(text)
    with pytest.raises(MissingDependencyError, match=r"toy is for Python 2\.7"):
        environments.create("toy", accepted=True)
    assert not environments.folder_of("toy").exists()


def test_a_home_that_cannot_be_written_is_said(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "file").write_text("")
    monkeypatch.setenv("TABVEIL_HOME", str(home / "file"))
    with pytest.raises(StorageError, match="cannot be changed"):
        environments.create("toy", accepted=True)


def test_removing(toy: Path) -> None:
    assert environments.remove("toy")
    assert not toy.exists()
    assert not environments.remove("toy")


def test_what_is_not_there_is_named_with_the_command_that_makes_it(home: Path) -> None:
    with pytest.raises(MissingDependencyError, match="tabveil env create toy"):
        environments.run("toy", tables=TABLE, job={})


def test_our_own_interpreter_runs_no_worker(home: Path) -> None:
    """Though it has the very version: nobody agreed to anything, and what lies beside it is not pinned."""
    (home / "data" / "toy.yaml").write_text(
        (home / "data" / "toy.yaml").read_text().replace("package: toy", "package: numpy")
    )
    (home / "data" / "toy.txt").write_text(f"numpy=={numpy.__version__}\n")
    assert not environments.is_there("toy")
    assert environments.state("toy") == ""


def test_neither_the_folder_one_stands_in_nor_pythons_settings_have_a_say(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for place in (home / "here", home / "path"):
        (place / "json").mkdir(parents=True)
        (place / "json" / "__init__.py").write_text(f"open({str(home / 'ran')!r}, 'w')")
    monkeypatch.chdir(home / "here")
    monkeypatch.setenv("PYTHONPATH", str(home / "path"))
    monkeypatch.setenv("PIP_TARGET", str(home / "elsewhere"))
    asked = "import json, os, sys; sys.exit(1 if 'PIP_TARGET' in os.environ or 'PYTHONPATH' in os.environ else 0)"
    environments._call([sys.executable, "-I", "-c", asked], failed="it failed")
    assert not (home / "ran").exists()


def test_what_pip_did_not_install_is_not_there(home: Path, toy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    check = [str(toy / "bin" / "python"), "-I", "-c", environments._CHECK, str(home / "pins.txt")]
    ours = f"numpy=={numpy.__version__} --hash=sha256:{'0' * 64}\n"
    for pins, good in ((ours, True), ("numpy==0.1\n", False), ("no-such-thing==1\n", False)):
        (home / "pins.txt").write_text(pins)
        if good:
            environments._call(check, failed="it failed")
        else:
            with pytest.raises(MissingDependencyError, match="it failed"):
                environments._call(check, failed="it failed")


def test_what_is_started_keeps_others_out_though_we_are_gone(home: Path) -> None:
    folder = environments.folder_of("toy")
    with environments._locked(folder) as lock:
        started = environments._Start(
            [sys.executable, "-c", "import time; time.sleep(60)"],
            cwd=home,
            environment={},
            words=subprocess.DEVNULL,
            lock=lock,
        )
        with environments._running(started):
            lock.close()
            with pytest.raises(UsageError, match="Another process"), environments._locked(folder):
                pass
    with environments._locked(folder, shared=True), environments._locked(folder, shared=True):
        pass


@pytest.mark.parametrize("home_of", ["here/it", "~no-such-user/x"])
def test_a_home_that_depends_on_where_one_stands_is_refused(
    home: Path, home_of: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TABVEIL_HOME", home_of)
    with pytest.raises(StorageError, match="home"):
        environments.home()
    assert not environments.is_there("toy")


def test_a_python_that_does_not_run_is_no_environment(toy: Path) -> None:
    python = toy / "bin" / "python"
    python.unlink()
    python.write_text("no program")
    assert not environments.is_there("toy")
    python.chmod(0o755)
    with pytest.raises(MissingDependencyError, match="cannot be started"):
        environments.run("toy", tables=TABLE, job={})


# -------------------------------------------------------------------------------------------------------------- workers


def test_a_worker_works_apart_in_a_folder_that_is_private_and_gone_afterwards(
    toy: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_TOKEN", SENTINEL)
    said = environments.run("toy", tables=TABLE, job=asked(home, "answer"))
    assert (said["rows"], said["mode"], said["isolated"]) == (3, "0o700", 1)
    assert said["python"] == str(toy)
    assert "SECRET_TOKEN" not in said["variables"]
    assert said["folder"].startswith(str(home / "tmp"))
    assert not list((home / "tmp").iterdir())


@pytest.mark.parametrize(("do", "words"), [("fail", "ValueError in"), ("die", "signal 9"), ("wait", "took longer")])
def test_a_worker_that_fails_tells_no_cell_and_leaves_nothing(
    toy: Path, home: Path, do: str, words: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(environments.WorkerError, match=words) as caught:
        environments.run("toy", tables=TABLE, job=asked(home, do), limit_s=1.5 if do == "wait" else 60.0)
    assert isinstance(caught.value, TabveilError)
    assert SENTINEL not in str(caught.value) + "".join(capfd.readouterr())
    assert not list((home / "tmp").iterdir())
    assert not is_alive(int((home / "pid").read_text()))


def test_ctrl_c_ends_the_worker_and_removes_its_folder(toy: Path, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(process: subprocess.Popen[str], timeout: float | None = None) -> None:
        assert until((home / "pid").exists)
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess.Popen, "communicate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        environments.run("toy", tables=TABLE, job=asked(home, "wait"))
    assert not list((home / "tmp").iterdir())
    assert not is_alive(int((home / "pid").read_text()))


def test_a_worker_whose_parent_was_killed_removes_the_folder_itself(toy: Path, home: Path) -> None:
    source = Path(environments.__file__).parents[1]
    script = f"""if True:
        import sys, tempfile; from pathlib import Path
        sys.path.insert(0, {str(source)!r})
        import pyarrow as pa
        from tabveil import environments
        environments._folder = lambda: Path({str(home / "data")!r})
        tempfile.tempdir = {str(home / "tmp")!r}
        tables = {{"people": pa.table({{"word": ["a"]}})}}
        environments.run("toy", tables=tables, job={asked(home, "wait")!r})
    """
    parent = subprocess.Popen([sys.executable, "-c", script])
    assert until(lambda: (home / "pid").exists() and bool((home / "pid").read_text()))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    pid = int((home / "pid").read_text())
    assert until(lambda: not is_alive(pid) and not list((home / "tmp").iterdir()))


def test_a_job_is_json(toy: Path, home: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        environments.run("toy", tables=TABLE, job={"x": float("nan")})
    assert not list((home / "tmp").iterdir())
    assert json.loads((toy / environments.MARK).read_text())["licence"] == "L"
