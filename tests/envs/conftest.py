"""Environments whose simulator may be missing on this machine."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import pytest

from rllib_seqmarl import registry
from rllib_seqmarl.errors import UserError

#: Where this is set, a missing simulator fails the tests that it would skip elsewhere.
REQUIRE_ALL = "SEQMARL_REQUIRE_ALL_ENVIRONMENTS"


@pytest.fixture(scope="session")
def require_installed() -> Callable[..., None]:
    """``require_installed("smac", env_config)`` skips or fails the test where SMAX is missing."""

    def require(name: str, env_config: dict[str, Any]) -> None:
        try:
            registry.environment(name).check(env_config)
        except UserError as error:
            if "not installed" not in str(error):
                return  # some environments need a config; a mistake in it is the test's
            if os.environ.get(REQUIRE_ALL):
                raise
            pytest.skip(str(error))

    return require
