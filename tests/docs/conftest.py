"""One service for all pages, and a second one with a key for those that ask for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from bundle.store import load_bundle
from runtime import open_runtime
from tests.docs.browser import Origin, serving_pages
from tests.docs.markdown import ROOT
from tests.docs.page import Page
from tests.servers import Running, serving_bundle
from tests.service.indexes import embed, rows, spec_of, write_index

SAMPLES = ROOT / "service" / "static" / "samples"
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
    folder = tmp_path_factory.mktemp("live")
    searches = ("--search-index", str(index_samples(folder / "index")), "--thumbnails", str(SAMPLES))
    with serving_bundle(*PLAIN, *searches, "--cors-origins", origin.url, log=folder / "log") as running:
        yield running


def index_samples(folder: Path) -> Path:
    """Of the photos that come with the project, with columns as the examples filter by them."""
    bundle = load_bundle(ROOT / "models" / "default")
    photos = sorted(SAMPLES.glob("*.jpg"))
    with closing(open_runtime(bundle, "onnxruntime", device="cpu", precision="fp32")) as runtime:
        vectors = embed(bundle, [photo.read_bytes() for photo in photos], runtime)
    columns = {"label": [photo.stem.split("-")[0] for photo in photos], "price": [i / 2 for i in range(len(photos))]}
    spec = spec_of(bundle, pooling="mean")
    return write_index(folder, rows(vectors, spec, columns, paths=[photo.name for photo in photos]))


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
