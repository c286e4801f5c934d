"""Every registered generator against every check: a new file in generators/ is tested by being there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tabveil.conformance import GENERATOR_CHECKS
from tabveil.generators import generators


@pytest.mark.parametrize("check", GENERATOR_CHECKS, ids=lambda c: c.__name__.removeprefix("check_"))
@pytest.mark.parametrize("name", generators.names())
def test_generator(name: str, check: Callable[[str], None]) -> None:
    check(name)
