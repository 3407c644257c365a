"""Fixtures of the service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from bundle.store import Bundle
from tests.service.helpers import RedisServer, make_bundle


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Encoder, decoder and head, without weights."""
    return make_bundle(tmp_path_factory.mktemp("service") / "fake")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the shell that runs the tests has set must not reach the services that they start."""
    import os

    for name in [name for name in os.environ if name.startswith("MAEVE_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    """Not started yet."""
    server = RedisServer(tmp_path)
    yield server
    server.kill()
