"""One service for all pages, and a second one with a key for those that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import pytest

from tests.docs.browser import browse
from tests.docs.page import Page
from tests.docs.servers import Running, serving_default
from tests.service.helpers import free_port

KEY = "maeve_of-the-examples"
RATE = "4"  # requests per second, in bursts of twice as many: little enough to be met


@pytest.fixture(scope="session")
def origin_port() -> int:
    """Of the pages that call the service from elsewhere."""
    return free_port()


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, origin_port: int) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("live") / "log"
    with serving_default(log, "--cors-origins", f"http://127.0.0.1:{origin_port}") as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Running]]:
    """Starts the service with a key when it is first called."""
    started: list[Running] = []
    with ExitStack() as ends:

        def start() -> Running:
            if not started:
                log = tmp_path_factory.mktemp("keyed") / "log"
                service = serving_default(log, MAEVE_API_KEY=KEY, MAEVE_RATE_LIMIT=RATE)
                started.append(ends.enter_context(service))
            return started[0]

        yield start


@pytest.fixture
def page(tmp_path: Path, live: Running, keyed: Callable[[], Running], origin_port: int) -> Iterator[Page]:
    with Page(tmp_path / "maeve", live, keyed, KEY, partial(browse, origin_port)) as page:
        yield page
