"""Stores by URL, against a server that speaks S3: what is read, what is listed, and what errors say."""

from __future__ import annotations

import re
import socket
import time
from collections.abc import Iterator

import pytest

from bundle.errors import SourceError
from sources import open_source
from sources.stores import reason
from sources.trees import open_tree
from sources.urls import open_binary, stored_kind
from tests.sources.s3 import Store, running_store
from tests.sources.test_tar import tar_bytes


@pytest.fixture(scope="module")
def server() -> Iterator[Store]:
    with running_store() as store:
        yield store


@pytest.fixture
def store(server: Store, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """The server with three shards and some photos; the environment says where it is."""
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.put({f"shards/{i}.tar": tar_bytes({f"{i}.jpg": b"%d" % i, f"{i}.cls": b"7"}) for i in range(3)})
    names = (
        "a.b/1.jpg",
        "a/2/3.jpg",
        "a/1.jpg",
        "a/notes.txt",
        ".old/1.jpg",
        "vectors/_maeve/run.json",
        "vectors/1.jpg",
    )
    server.put({f"tree/{name}": name.encode() for name in names})
    yield server
    server.check_keys(after=None)
    server.clear()


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    "data", ["s3://photos/shards", "s3://photos/shards/", "s3://photos/shards/*.tar", "s3://photos/shards/{0..2}.tar"]
)
def test_training_reads_shards_from_s3(data: str) -> None:
    samples = [(s.name, s.data, s.label) for s in open_source(data)]
    assert samples == [(f"{i}.tar/{i}", b"%d" % i, 7) for i in range(3)]


@pytest.mark.usefixtures("store")
def test_a_big_file_is_read_in_parts_and_stepped_through(store: Store) -> None:
    content = bytes(range(256)) * 20_000
    store.put({"big": content})
    with open_binary("s3://photos/big") as file:
        assert file.read(10) == content[:10]
        file.seek(5_000_000)
        assert file.read(10) == content[5_000_000:5_000_010]
        file.seek(0)
        assert file.read() == content


@pytest.mark.usefixtures("store")
def test_a_tree_is_walked_as_a_disk_is() -> None:
    jpg = [*open_tree("s3://photos/tree").walk(lambda name: name.endswith(".jpg"), without="_maeve")]
    assert jpg == [".old/1.jpg", "a/1.jpg", "a/2/3.jpg", "a.b/1.jpg"]


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("**/*.jpg", ["a/1.jpg", "a/2/3.jpg", "a.b/1.jpg"]),
        ("a/**", ["a/1.jpg", "a/2/3.jpg", "a/notes.txt"]),
        ("a*/*.{jpg,txt}", ["a/1.jpg", "a/notes.txt", "a.b/1.jpg"]),
        (".*/*", [".old/1.jpg"]),
        ("*/2/?.jpg", ["a/2/3.jpg"]),
        ("nothing/*", []),
    ],
)
def test_patterns_in_a_store(pattern: str, names: list[str]) -> None:
    assert [*open_tree("s3://photos/tree").match(pattern.split("/"), without="_maeve")] == names


@pytest.mark.usefixtures("store")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("s3://photoz/shards", "s3://photoz/shards cannot be reached: there is no such bucket"),
        ("s3://photoz/*.tar", "s3://photoz/*.tar cannot be reached: there is no such bucket"),
        ("s3://photos/shard/*.tar", "no file matches s3://photos/shard/*.tar"),
        ("s3://photos/shards/9.tar", "s3://photos/shards/9.tar does not exist"),
    ],
)
def test_what_is_not_there_is_said_in_one_line(url: str, message: str) -> None:
    with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
        list(open_source(url))
    if "*" not in url:
        with pytest.raises(SourceError, match=f"^{re.escape(message)}$"):
            stored_kind(url)


def test_keys_that_are_not_known_are_not_let_in(store: Store) -> None:
    store.check_keys(after=0)
    with pytest.raises(SourceError, match=r"may not be read: invalid access key id; see to AWS_PROFILE or AWS_ACCESS"):
        open_source("s3://photos/shards")
    with pytest.raises(SourceError, match=r"^s3://photos/shards/0.tar may not be read: .*; see to AWS_PROFILE"):
        list(open_source("s3://photos/shards/0.tar"))


def test_a_server_that_is_not_there_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as bound:  # and does not listen
        bound.bind(("127.0.0.1", 0))
        for name, value in Store(f"http://127.0.0.1:{bound.getsockname()[1]}").environment.items():
            monkeypatch.setenv(name, value)
        start = time.monotonic()
        with pytest.raises(SourceError, match=r"^s3://photos/shards cannot be reached: Failed to connect to"):
            open_source("s3://photos/shards")
    assert time.monotonic() - start < 30


def test_the_google_store_is_asked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GS_NO_SIGN_REQUEST", "1")
    monkeypatch.setattr("sources.stores._GOOGLE_RETRIES_S", 1)
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://127.0.0.1:{bound.getsockname()[1]}")
        with pytest.raises(SourceError, match=r"^gs://photos/0.tar cannot be reached: .*Could not connect to server$"):
            list(open_source("gs://photos/0.tar"))


@pytest.mark.parametrize(
    ("error", "text", "passing"),
    [
        (FileNotFoundError(2, "No such file"), "does not exist", False),
        (PermissionError(13, "no"), "may not be read: permission denied", False),
        (OSError("reading: AWS Error SLOW_DOWN during GetObject operation: Please reduce"), "Please reduce", True),
        (OSError("listing: AWS Error ACCESS_DENIED during ListObjectsV2 operation: No"), "access denied", False),
        (TimeoutError(), "TimeoutError", True),
    ],
)
def test_reasons(error: Exception, text: str, passing: bool) -> None:
    why = reason(error)
    assert text in why.text
    assert why.passing is passing
