"""How hypothesis runs here: the same cases every time, no clock, no database beside the tests."""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FUZZ = settings(
    deadline=None, database=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def examples(default: int) -> int:
    """How many cases a test runs; the environment's ``HALLMARK_FUZZ`` may ask for more: more other ones."""
    return max(default, int(os.environ.get("HALLMARK_FUZZ", "0")))
