"""What a closed terminal leaves behind: nothing that a Ctrl-C would not."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from e2e.conftest import Desk
from tabveil import environments, pipeline
from tabveil.errors import UsageError

SYNTHESIZE = "synthesize table.csv -s schema.yaml -e 1 -d 1e-5 -l ledger.db --dataset people -o release"
STUCK = """
import sys, time
from pathlib import Path
from tabveil import cli, pipeline

def stuck(*_, **__):
    Path("sign").touch()
    time.sleep(300)

pipeline.check_values = stuck
cli.main()
"""


@pytest.fixture(autouse=True)
def not_under_nohup() -> Iterator[None]:
    """What is started inherits a signal that is ignored: these tests may themselves run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@contextlib.contextmanager
def in_a_terminal(
    command: list[str], *, cwd: Path, settings: Mapping[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """A command that leads the session of a terminal, and the terminal's other end: to close it hangs up."""
    ours, its = pty.openpty()
    process = subprocess.Popen(
        command,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **settings},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(its)
    try:
        yield process, ours
    finally:
        process.kill()
        process.wait()
        with contextlib.suppress(OSError):
            os.close(ours)


def soon_free(action: Callable[[], bool]) -> bool:
    """What `action` gives once nobody holds the lock: the kernel closes a dead process's files in any order."""
    for _ in range(600):
        with contextlib.suppress(UsageError):
            return action()
        time.sleep(0.1)
    return action()


def test_a_terminal_that_closes_costs_nothing_before_the_charge(desk: Desk) -> None:
    """With a progress bar in it, whose end nobody can be shown."""
    before = desk.names()
    with in_a_terminal([sys.executable, "-c", STUCK, *SYNTHESIZE.split()], cwd=desk.folder, settings={}) as (
        process,
        tty,
    ):
        os.set_blocking(tty, False)
        while not (desk.folder / "sign").exists():
            assert process.poll() is None
            with contextlib.suppress(OSError):
                os.read(tty, 10_000)  # a terminal that nobody reads from would stop the bar
            time.sleep(0.02)
        os.close(tty)
        assert process.wait(60) == 130
    assert desk.names() - before == {"sign"}
    assert desk.entries() == ["open", "reserve", "release"]


@pytest.mark.parametrize("killed", [False, True])
def test_pip_is_over_when_its_terminal_closes_or_whoever_started_it_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed: bool
) -> None:
    """A real pip that waits for an index that never answers: it connects once it runs, and that ends with it."""
    monkeypatch.setenv("TABVEIL_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    with socket.create_server(("127.0.0.1", 0)) as index:
        index.settimeout(120)
        settings = {
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_INDEX_URL": f"http://127.0.0.1:{index.getsockname()[1]}/simple",
            "PIP_DEFAULT_TIMEOUT": "300",
            "no_proxy": "*",
        }
        create = [sys.executable, "-m", "tabveil", "env", "create", "anonymeter", "--accept-licence"]
        with in_a_terminal(create, cwd=tmp_path, settings=settings) as (process, tty):
            connection, _ = index.accept()
            with connection:
                with pytest.raises(UsageError, match="Another process"):
                    environments.remove("anonymeter")
                process.kill() if killed else os.close(tty)
                assert process.wait(60) == (-signal.SIGKILL if killed else 130)
                connection.settimeout(60)
                while connection.recv(10_000):
                    pass
    assert environments.folder_of("anonymeter").exists() == killed
    assert soon_free(lambda: environments.remove("anonymeter")) == killed


def test_nohup_is_obeyed(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    original = pipeline.check_values

    def hung_up(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGHUP)
        return original(*args, **kwargs)

    monkeypatch.setattr(pipeline, "check_values", hung_up)
    old = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert desk.synthesize().code == 0
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, old)
    assert desk.synthesize(out="again").code == 130
    assert signal.getsignal(signal.SIGHUP) is old
