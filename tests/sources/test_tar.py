"""WebDataset shards: members grouped by key, by path or URL, and whole or not at all."""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest
from fsspec.registry import known_implementations

from bundle.errors import SourceError
from sources import Sample, Source, open_source
from tests.training.conftest import COLORS, jpeg, photo
from training.errors import TrainingError
from training.pack import pack
from training.packed import NO_LABEL

Members = dict[str, bytes]


def tar_bytes(members: Members, mode: str = "w") -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as tar:  # type: ignore[call-overload]
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def write_tar(path: Path, members: Members) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(tar_bytes(members, "w:gz" if path.suffix in (".gz", ".tgz") else "w"))
    return path


@pytest.fixture
def memory() -> Iterator[str]:
    """The URL of a folder in fsspec's own memory, where five shards lie."""
    fs = fsspec.filesystem("memory")
    for i in range(5):
        fs.pipe(f"/shards/data-{i:03d}.tar", tar_bytes({f"{i}.jpg": str(i).encode(), f"{i}.cls": b"7"}))
    yield "memory://shards"
    fs.rm("/shards", recursive=True)


def test_members_of_one_key_are_one_sample(tmp_path: Path) -> None:
    members = {
        "a/1.jpg": b"one", "a/1.cls": b"3\n", "a/1.seg.png": b"mask", "a/2.cls": b"0", "a/2.JPEG": b"two",
        "b/2.webp": b"three", "readme.md": b"text", "4.png": b"four", "4.jpg": b"second image of a key",
    }  # fmt: skip
    source = open_source(write_tar(tmp_path / "pets.tar", members))
    assert (source.name, source.classes, source.lengths, source.known_length) == ("pets", None, [None], None)
    assert list(source) == [
        Sample("pets.tar/a/1", b"one", 3), Sample("pets.tar/a/2", b"two", 0),
        Sample("pets.tar/b/2", b"three", None), Sample("pets.tar/4", b"four", None),
    ]  # fmt: skip
    assert source.count(0) == len(source) == 4


@pytest.mark.parametrize(
    ("members", "label"),
    [
        ({"json": b'{"label": 4, "caption": "a cat"}'}, 4),
        ({"json": b'{"label": "cat"}'}, "cat"),
        ({"json": b'{"caption": "a cat"}'}, None),
        ({"json": b"[1]"}, None),
        ({"txt": b"12\n"}, 12),
        ({"txt": b"tabby cat\n"}, "tabby cat"),
        ({"txt": b""}, None),
        ({"txt": b"2", "json": b'{"label": 1}', "cls": b"0"}, 0),
        ({"txt": b"2", "json": b'{"label": 1}'}, 1),
    ],
)
def test_labels(members: Members, label: int | str | None, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"1.jpg": b"", **{f"1.{kind}": text for kind, text in members.items()}})
    assert [sample.label for sample in open_source(path)] == [label]


@pytest.mark.parametrize(
    ("kind", "content"), [("cls", b"cat"), ("json", b"{"), ("json", b'{"label": [1]}'), ("txt", b"\xff")]
)
def test_a_label_that_cannot_be_read_is_named(kind: str, content: bytes, tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"a/1.jpg": b"", f"a/1.{kind}": content})
    with pytest.raises(SourceError, match=f"{path}: a/1 has an unreadable label: .*; correct it or leave it out"):
        list(open_source(path))


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tgz"])
def test_a_folder_a_pattern_and_a_range_of_shards(suffix: str, tmp_path: Path) -> None:
    for i in range(12):
        write_tar(tmp_path / "shards" / f"data-{i:03d}{suffix}", {f"{i}.jpg": str(i).encode()})

    def read(data: str) -> list[int]:
        return [int(sample.data) for sample in open_source(data) if isinstance(sample.data, bytes)]

    folder = tmp_path / "shards"
    assert read(str(folder)) == list(range(12))
    assert read(f"{folder}/data-00?{suffix}") == list(range(10))
    assert read(f"{folder}/data-{{009..011}}{suffix}") == [9, 10, 11]
    assert read(f"{folder}/data-0{{11,02}}{suffix}") == [11, 2]
    assert read(f"file://{folder}/data-{{000..001}}{suffix}") == [0, 1]
    source = open_source(folder)
    assert len(source) == len(source.lengths) == 12
    assert [sample.data for sample in source.read(7)] == [b"7"]


def test_urls(memory: str) -> None:
    source = open_source(f"{memory}/data-{{001..003}}.tar")
    assert source.name == "shards"
    assert list(source) == [Sample(f"data-{i:03d}.tar/{i}", str(i).encode(), 7) for i in (1, 2, 3)]
    assert [len(open_source(data)) for data in (memory, f"{memory}/*.tar", f"{memory}/data-000.tar")] == [5, 5, 1]
    assert len(open_source(Path(memory))) == 5  # whose two slashes have become one


def test_a_url_is_packed_as_a_folder_is(tmp_path: Path) -> None:
    names = sorted(COLORS)
    images = [(label, i, jpeg(photo(label, i))) for i in range(4) for label in names]
    fs = fsspec.filesystem("memory")
    for shard, part in enumerate((images[:5], images[5:])):
        members = Members()
        for label, i, image in part:
            members |= {f"{label}-{i}.jpg": image, f"{label}-{i}.txt": label.encode()}
        fs.pipe(f"/photos/{shard}.tar", tar_bytes(members))
    for label, i, image in images:
        (tmp_path / "photos" / f"{i}").mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / f"{i}" / f"{label}.jpg").write_bytes(image)
    packed = pack("memory://photos/{0..1}.tar", tmp_path / "a")
    fs.rm("/photos", recursive=True)
    plain = pack(tmp_path / "photos", tmp_path / "b")
    assert (packed.info.name, packed.info.source) == ("photos", "memory://photos/{0..1}.tar")
    assert (packed.info.mean, packed.info.std) == (plain.info.mean, plain.info.std)
    assert (packed.folder / "pixels-00000.npy").read_bytes() == (plain.folder / "pixels-00000.npy").read_bytes()
    assert packed.info.classes == ("blue", "green", "red")
    assert packed.labels.tolist() == [names.index(label) for label, _, _ in images]


def test_numbered_classes_are_as_many_as_the_highest(tmp_path: Path) -> None:
    image = jpeg(photo("red", 0))
    path = write_tar(tmp_path / "x.tar", {"1.jpg": image, "1.cls": b"2", "2.jpg": image, "3.jpg": image, "3.cls": b"0"})
    packed = pack(path, tmp_path / "out")
    assert packed.info.classes == ("0", "1", "2")
    assert packed.labels.tolist() == [2, NO_LABEL, 0]


def test_names_and_numbers_do_not_mix(tmp_path: Path) -> None:
    image = jpeg(photo("red", 0))
    members = {"1.jpg": image, "1.cls": b"2", "2.jpg": image, "2.txt": b"cat"}
    with pytest.raises(TrainingError, match="label 'cat' beside labels that are numbers; use one kind for all"):
        pack(write_tar(tmp_path / "x.tar", members), tmp_path / "out")


def test_captions_are_no_classes(tmp_path: Path) -> None:
    image = jpeg(photo("red", 0))
    members = Members()
    for i in range(101):
        members |= {f"{i}.jpg": image, f"{i}.txt": f"photo number {i} of a band".encode()}
    packed = pack(write_tar(tmp_path / "x.tar", members), tmp_path / "out")
    assert packed.info.classes is None
    assert set(packed.labels.tolist()) == {NO_LABEL}


# What is not whole


@pytest.mark.parametrize("cut", [1024 + 512 + 300, 2048, 2048 + 100, 10])
@pytest.mark.parametrize("read", [list, len])
def test_a_tar_cut_short_is_noticed_wherever_it_ends(
    cut: int, read: Callable[[Source], object], tmp_path: Path
) -> None:
    """Within a member, between two, and within a header; tarfile itself takes the last two for the end."""
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({"1.jpg": b"a" * 512, "2.jpg": b"b" * 512, "3.jpg": b"c"})[:cut])
    source = open_source(path)
    with pytest.raises(SourceError, match=f"{path} is damaged or cut short: .*; fetch or write it again"):
        read(source)


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9])
def test_a_compressed_tar_cut_short_is_noticed(part: float, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(200_000)
    path = write_tar(tmp_path / "x.tar.gz", {"1.jpg": noise, "2.jpg": noise[::-1]})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(SourceError, match=f"{path} is damaged or cut short"):
        list(open_source(path))


def test_what_cannot_be_stepped_through_is_read_as_a_stream(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a web server that knows no ranges."""

    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

        def seek(self, *_: object) -> int:
            raise OSError("no way back")

    content = tar_bytes({f"{i}.jpg": str(i).encode() * 1000 for i in range(5)})
    path = write_tar(tmp_path / "x.tar", {})
    monkeypatch.setattr("sources.tar.open_binary", lambda _: Pipe(content))
    assert [s.data for s in open_source(path)] == [str(i).encode() * 1000 for i in range(5)]
    monkeypatch.setattr("sources.tar.open_binary", lambda _: Pipe(content[:3000]))
    with pytest.raises(SourceError, match="is damaged or cut short"):
        list(open_source(path))


def test_what_is_no_tar_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_text("no tar at all " * 100)
    with pytest.raises(SourceError, match=r"x.tar is damaged or cut short"):
        list(open_source(tmp_path / "x.tar"))


def test_a_tar_without_images_says_how_they_are_named(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "x.tar", {"IMG.2020.jpg": b"", "b.cls": b"1"})
    with pytest.raises(SourceError, match=r"holds no images, but IMG.2020.jpg; members are named KEY.jpg"):
        list(open_source(path))
    assert list(open_source(write_tar(tmp_path / "empty.tar", {}))) == []


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("nowhere://a/b.tar", "nowhere://a/b.tar: Protocol not known: nowhere"),
        ("nowhere://a/*.tar", "Protocol not known: nowhere"),
        ("memory://missing.tar", "memory://missing.tar does not exist"),
        ("memory://nothing/here", "memory://nothing/here holds neither .parquet nor .tar files"),
        ("memory://nothing/*.tar", r"no file matches memory://nothing/\*.tar"),
        ("data-{3..1}.tar", "the range {3..1} is empty; write the smaller number first"),
        ("memory://a/b.zip", "memory://a/b.zip holds neither .parquet nor .tar files"),
        ("memory://a/{0..1}.zip", r"a/{0..1}.zip is neither a folder of images nor .parquet or .tar files"),
    ],
)
def test_a_place_that_cannot_be_read_is_one_line(data: str, message: str) -> None:
    with pytest.raises(SourceError, match=re.escape(message).replace(r"\\\*", r"\*")) as caught:
        list(open_source(data))
    assert "\n" not in str(caught.value)


def test_a_missing_driver_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(known_implementations, "abfs", {"class": "not_there.Abfs", "err": "Install adlfs"})
    with pytest.raises(SourceError, match=r"abfs://store/a.tar: Install adlfs"):
        list(open_source("abfs://store/a.tar"))
