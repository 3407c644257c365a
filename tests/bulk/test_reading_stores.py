"""Images in stores, listed and read over HTTP: a server that speaks S3, and a web server that fails at times."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.content import read_file, read_files
from bulk.listing import list_pieces
from bulk.pieces import ReadOptions, Row
from bulk.reading import read_piece
from bundle.errors import SourceError, TooLarge
from tests.sources.s3 import Store, running_store
from tests.sources.test_open import structs
from tests.sources.test_tar import tar_bytes

OPTIONS = ReadOptions(max_file_bytes=100, rows_per_piece=40)


def parquet_bytes(columns: dict[str, pa.Array], row_group_size: int) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink, row_group_size=row_group_size)
    content: bytes = sink.getvalue().to_pybytes()
    return content


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with running_store() as store:
        store.put({f"pets/{label}/{i:03}.jpg": b"%d" % i for label in ("cat", "dog") for i in range(50)})
        store.put({f"shards/{i}.tar": tar_bytes({f"{i}.jpg": b"%d" % i, f"{i}.cls": b"7"}) for i in range(3)})
        numbers = structs(*(b"%d" % i for i in range(100)))
        store.put({"tables/x.parquet": parquet_bytes({"image": numbers, "n": pa.array(range(100))}, 60)})
        urls = ["../pets/cat/001.jpg", "s3://photos/pets/dog/002.jpg", "../pets/dog/../cat/001.jpg", "gone.jpg"]
        store.put({"lists/x.parquet": parquet_bytes({"url": pa.array(urls)}, 10)})
        store.put({"odd/big.jpg": b"x" * 101, "odd/empty.jpg": b""})
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    yield server
    server.check_keys(after=None)


def rows(*sources: str) -> list[Row]:
    listing = list_pieces(sources, OPTIONS)
    found = [list(read_piece(piece, OPTIONS, listing.columns)) for piece in listing.pieces]
    assert [piece.count or len(own) for piece, own in zip(listing.pieces, found, strict=True)] == [*map(len, found)]
    return [row for own in found for row in own]


@pytest.mark.usefixtures("store")
def test_a_folder_and_a_pattern() -> None:
    expected = [Row(f"{label}/{i:03}.jpg", b"%d" % i, {"label": label}) for label in ("cat", "dog") for i in range(50)]
    assert rows("s3://photos/pets") == rows("s3://photos/pets/") == expected
    assert rows("s3://photos/pets/**/*.jpg") == expected
    assert rows("s3://photos/pets/*/01?.jpg") == [row for row in expected if row.path[4:6] == "01"]
    assert [row.path for row in rows("s3://photos/pets/cat/001.jpg", "s3://photos/pets/cat")][:2] == [
        "001.jpg", "000.jpg",
    ]  # fmt: skip


@pytest.mark.usefixtures("store")
def test_parquet_and_shards() -> None:
    assert rows("s3://photos/tables") == [Row(f"x.parquet#{i}", b"%d" % i, {"n": i}) for i in range(100)]
    shards = [Row(f"{i}.tar/{i}.jpg", b"%d" % i, {"label": 7}) for i in range(3)]
    assert rows("s3://photos/shards") == rows("s3://photos/shards/{0..2}.tar") == shards


@pytest.mark.usefixtures("store")
def test_a_list_in_a_store_names_files_beside_it() -> None:
    found = {row.path: row.data if isinstance(row.data, bytes) else str(row.data) for row in rows("s3://photos/lists")}
    assert found == {
        "../pets/cat/001.jpg": b"1",
        "s3://photos/pets/dog/002.jpg": b"2",
        "gone.jpg": "the file does not exist",
    }


@pytest.mark.usefixtures("store")
def test_big_and_empty_files() -> None:
    big, empty = rows("s3://photos/odd")
    assert isinstance(big.data, TooLarge)
    assert str(big.data) == "the image has 101 bytes, 100 are allowed"
    assert str(empty.data) == "the file is empty"


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("s3://photoz/pets", "s3://photoz/pets cannot be reached: there is no such bucket"),
        ("s3://photoz/**/*.jpg", r"s3://photoz/\*\*/\*.jpg cannot be reached: there is no such bucket"),
        ("s3://photos/petz", "s3://photos/petz does not exist"),
        ("s3://photos/petz/1.jpg", "s3://photos/petz/1.jpg does not exist"),
        ("s3://photos/pets/*.jpg", r"no images, .parquet or .tar files match s3://photos/pets/\*.jpg"),
        ("s3://photos", "s3://photos holds images and .parquet files and .tar files; name which, with a pattern such"),
    ],
)
def test_what_is_not_in_the_store(source: str, message: str) -> None:
    with pytest.raises(SourceError, match=message):
        rows(source)


def test_a_store_that_lets_nobody_in_is_told_at_once(store: Store) -> None:
    listing = list_pieces(["s3://photos/pets/cat/00?.jpg"], OPTIONS)
    store.check_keys(after=0)
    with pytest.raises(SourceError, match=r"s3://photos/pets may not be read: .*; see to AWS_PROFILE"):
        rows("s3://photos/pets")
    start = time.monotonic()
    (piece,) = listing.pieces
    found = list(read_piece(piece, OPTIONS, listing.columns))
    assert len(found) == 10
    assert all(str(row.data).startswith("the file may not be read: ") for row in found)
    assert time.monotonic() - start < 15


def test_a_store_that_is_gone_costs_each_image_and_not_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulk.content.WAITS_S", (0.01,))
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        for name, value in Store(f"http://127.0.0.1:{bound.getsockname()[1]}").environment.items():
            monkeypatch.setenv(name, value)
        start = time.monotonic()
        found = list(read_files([f"s3://photos/{i}.jpg" for i in range(5)], 100))
    assert [str(data)[:50] for data in found] == ["the file cannot be reached: Failed to connect to 1"] * 5
    assert time.monotonic() - start < 30


class Server(ThreadingHTTPServer):
    """content: what every path has. statuses: of the answers before that, one after the other. asked: all requests."""

    def __init__(self, content: bytes, statuses: Sequence[int], *, tells_length: bool) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.tells_length = content, tells_length
        self.statuses, self.asked = list(statuses), list[str]()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        self.server.asked.append(self.command)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        self.send_response(status)
        if status != 200 or self.server.tells_length:
            self.send_header("Content-Length", str(len(self.server.content)) if status == 200 else "0")
        self.end_headers()
        if with_body and status == 200:
            self.wfile.write(self.server.content)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class has it so
        pass


@contextmanager
def web(content: bytes, *statuses: int, tells_length: bool = True) -> Iterator[tuple[str, Server]]:
    server = Server(content, statuses, tells_length=tells_length)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_what_fails_in_passing_is_asked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bulk.content.WAITS_S", (0.01, 0.01))
    with web(b"photo", 503, 503, 503, 503) as (url, server):  # fsspec asks twice each time
        assert read_file(f"{url}/1.jpg", 100) == b"photo"
        assert len(server.asked) > 4
    with web(b"photo", *[503] * 50) as (url, server):
        assert str(read_file(f"{url}/1.jpg", 100)) == "the file cannot be reached: HTTP status 503"
        assert len(server.asked) < 10
    with web(b"photo", *[403] * 50) as (url, server):
        assert str(read_file(f"{url}/1.jpg", 100)) == "the file may not be read: HTTP status 403"
        assert len(server.asked) < 4
    with web(b"photo", *[404] * 50) as (url, server):
        assert str(read_file(f"{url}/1.jpg", 100)) == "the file does not exist"


@pytest.mark.parametrize("tells_length", [True, False])
def test_no_more_is_read_than_is_allowed(*, tells_length: bool) -> None:
    content = bytes(5_000_000)
    with web(content, tells_length=tells_length) as (url, _):
        assert read_file(f"{url}/1.jpg", len(content)) == content
        refused = read_file(f"{url}/1.jpg", 1000)
    assert isinstance(refused, TooLarge)
    size = "5,000,000" if tells_length else "more than 1,000"
    assert str(refused) == f"the image has {size} bytes, 1,000 are allowed"


def test_a_shard_on_a_web_server() -> None:
    with web(tar_bytes({"1.jpg": b"x", "1.txt": b"cat"})) as (url, _):
        assert rows(f"{url}/x.tar") == [Row("x.tar/1.jpg", b"x", {"label": "cat"})]
        assert [row.path for row in rows(f"{url}/{{0..1}}.tar?signed=1")] == ["0.tar/1.jpg", "1.tar/1.jpg"]
        assert [row.data for row in rows(f"{url}/1.jpg", f"{url}/2.jpg")] != []
