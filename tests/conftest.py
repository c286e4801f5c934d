"""What every test runs under: a hypothesis profile, and no network but loopback."""

from __future__ import annotations

import ipaddress
import os
import sys
from typing import Any

from hypothesis import HealthCheck, settings

settings.register_profile("ci", derandomize=True, database=None, deadline=None, max_examples=50)
settings.register_profile(
    "nightly", deadline=None, max_examples=1000, print_blob=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile(os.environ.get("TABVEIL_PROFILE", "ci"))


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
