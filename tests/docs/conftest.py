"""One service for all pages, and a second one with a key for those that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.docs.browser import Origin, serving_pages
from tests.docs.page import Page
from tests.servers import Running, serving_bundle

KEY = "maeve_of-the-examples"
RATE = "4"  # requests per second, in bursts of twice as many: little enough to be met
PLAIN = ("--runtime", "onnxruntime", "--device", "cpu")  # as `make serve` after a plain install


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    """Of the pages that call the service from elsewhere."""
    with serving_pages() as origin:
        yield origin


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Running]:
    log = tmp_path_factory.mktemp("live") / "log"
    with serving_bundle(*PLAIN, "--cors-origins", origin.url, log=log) as running:
        yield running


@pytest.fixture(scope="session")
def keyed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Running]]:
    """Starts the service with a key when it is first called."""
    started: list[Running] = []
    with ExitStack() as ends:

        def start() -> Running:
            if not started:
                log = tmp_path_factory.mktemp("keyed") / "log"
                service = serving_bundle(*PLAIN, log=log, MAEVE_API_KEY=KEY, MAEVE_RATE_LIMIT=RATE)
                started.append(ends.enter_context(service))
            return started[0]

        yield start


@pytest.fixture
def page(tmp_path: Path, live: Running, keyed: Callable[[], Running], origin: Origin) -> Iterator[Page]:
    with Page(tmp_path / "maeve", live, keyed, KEY, origin.browse) as page:
        yield page
