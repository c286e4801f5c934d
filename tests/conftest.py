"""What every test runs under: a hypothesis profile, no network but loopback, a tiny language model to tune, and one
thread of numerical libraries a process (two processes with two threads each on two cores take nearly twice as long).
"""

from __future__ import annotations

import ipaddress
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before numpy and torch, and for the programs that tests start

import pytest
from hypothesis import HealthCheck, settings

import base_models

settings.register_profile("ci", derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile(
    "nightly", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("TABVEIL_PROFILE", "ci"))


def pytest_configure(config: pytest.Config) -> None:
    """Every generator can be made without options: that of the base model is in the environment, of programs too. No
    environment of packages is there but those that a test makes.
    """
    folder = tempfile.TemporaryDirectory(prefix="tabveil-base-model-")
    config.add_cleanup(folder.cleanup)
    base_models.gpt2(Path(folder.name) / "gpt2", width=16, layers=1)
    os.environ["TABVEIL_BASE_MODEL"] = str(Path(folder.name) / "gpt2")
    os.environ["TABVEIL_HOME"] = str(Path(folder.name) / "home")  # no environment of whoever runs the tests


@pytest.fixture(scope="session")
def make_environment() -> Callable[[str], None]:
    """Makes an environment by name ("" is none), with pip from the index it is set to; skips where pip cannot."""

    def make(name: str) -> None:
        from tabveil import environments
        from tabveil.errors import MissingDependencyError

        try:
            if name:
                environments.create(name, accepted=True)
        except MissingDependencyError as error:
            pytest.skip(str(error))

    return make


class NetworkRefusedError(RuntimeError):
    """A test reached for a machine that is not this one."""


def _is_here(host: object) -> bool:
    if isinstance(host, bytes):
        host = host.decode("ascii", "replace")
    if host in (None, "", "localhost"):
        return True
    try:
        return ipaddress.ip_address(str(host).partition("%")[0]).is_loopback
    except ValueError:
        return False


def _refuse_network(event: str, args: tuple[Any, ...]) -> None:
    """An audit hook sees every connection of the interpreter, also by code that kept its own reference to socket."""
    if event in ("socket.connect", "socket.sendto", "socket.sendmsg"):
        address = args[1]
        if isinstance(address, tuple) and isinstance(address[0], str | bytes) and not _is_here(address[0]):
            raise NetworkRefusedError("Tests open no network but loopback.")
    elif event in ("socket.getaddrinfo", "socket.gethostbyname") and not _is_here(args[0]):
        raise NetworkRefusedError("Tests look up no host but localhost.")


sys.addaudithook(_refuse_network)
