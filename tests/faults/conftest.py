"""How long each kind of trouble lasts: moments in the ordinary tests, minutes with `make faults`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.store import Bundle
from tests.faults.traffic import Subject, subjects
from tests.service.helpers import RedisServer


@pytest.fixture(scope="session")
def seconds() -> float:
    """Of load per test."""
    return float(os.environ.get("FAULT_SECONDS", "4"))


@pytest.fixture(scope="session")
def photos(tiny_bundle: Bundle) -> list[Subject]:
    return subjects(tiny_bundle, 24)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Not started yet."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()
