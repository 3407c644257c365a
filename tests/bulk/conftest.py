"""Fixtures of bulk's tests."""

from __future__ import annotations

import pytest

from bundle.store import Bundle
from tests.service.helpers import make_bundle


@pytest.fixture(scope="session")
def fake_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """For the fake runtime alone."""
    return make_bundle(tmp_path_factory.mktemp("bulk") / "fake")
