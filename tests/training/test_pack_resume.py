"""A pack that is interrupted, in whatever way, goes on where it was, and ends with the bytes of one that was not."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.errors import SourceError
from sources import Sample, Source, open_source
from sources.base import PACK_FILE
from sources.files import ImageFolder
from training.decode import Decoder
from training.errors import TrainingError
from training.pack import pack
from training.packed import CORRUPT_FILE, PackedDataset

COUNT, SIZE = 120, (8, 8)
# A pack that saves after every part of five images, into shards of seven, and takes its time.
SLOW = """
import sys, time
from pathlib import Path
from training import decode, pack, shards
shards._SHARD_BYTES, shards._SAVE_EVERY_S, decode._BATCH = 7 * 8 * 8 * 3, -1, 5
sums = decode.pixel_sums
decode.pixel_sums = lambda pixels: (time.sleep(0.03), sums(pixels))[1]
pack.pack(sys.argv[1], Path(sys.argv[2]), size=(8, 8), workers=2)
"""


@pytest.fixture
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.shards._SHARD_BYTES", 7 * 8 * 8 * 3)
    monkeypatch.setattr("training.decode._BATCH", 5)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes; every ninth image is broken."""
    folder = tmp_path_factory.mktemp("data") / "noise"
    rng = np.random.default_rng(0)
    for i in range(COUNT):
        path = folder / ("first" if i < 50 else "second") / f"{i:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (*SIZE, 3), dtype=np.uint8)).save(path)
        if i % 9 == 4:
            path.write_bytes(b"broken")
    return folder


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def progress(staging: Path) -> dict[str, Any]:
    try:
        return json.loads((staging / "progress.json").read_text())["progress"]  # type: ignore[no-any-return]
    except FileNotFoundError:
        return {"num_images": 0}


@pytest.mark.usefixtures("small_shards")
def test_killed_twice_it_goes_on_and_ends_with_the_same_bytes(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack(images, tmp_path / "whole", size=SIZE)
    out, staging = tmp_path / "out", tmp_path / "out.partial"
    done = [0]
    for _ in range(2):
        process = subprocess.Popen([sys.executable, "-c", SLOW, images, out])
        deadline = time.monotonic() + 60
        while progress(staging)["num_images"] < done[-1] + 20 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        done.append(progress(staging)["num_images"])
    assert 0 < done[1] < done[2] < COUNT
    assert not out.exists()
    with pytest.raises(TrainingError, match="is not a packed data set"):
        PackedDataset(staging)
    for name in ("labels.raw", f"pixels-{done[2] // 7:05d}.npy", "corrupt.jsonl"):
        with (staging / name).open("ab") as f:
            f.write(b"what was appended last, and not vouched for")

    decoded = list[bytes]()
    decode = Decoder.__call__

    def counted(self: Decoder, data: Any) -> Any:
        decoded.append(data)
        return decode(self, data)

    monkeypatch.setattr(Decoder, "__call__", counted)
    packed = pack(images, out, size=SIZE)
    assert 0 < len(decoded) <= COUNT - done[2]
    assert files(packed.folder) == files(whole.folder)
    assert not staging.exists()


@pytest.mark.usefixtures("small_shards")
def test_a_shard_is_what_numpy_saves(images: Path, tmp_path: Path) -> None:
    packed = pack(images, tmp_path / "out", size=SIZE)
    assert list(packed.info.shards.values())[:-1] == [7] * (len(packed) // 7)
    for name, count in packed.info.shards.items():
        array = np.load(packed.folder / name)
        assert array.shape == (count, *SIZE, 3)
        np.save(tmp_path / "again.npy", array)
        assert (tmp_path / "again.npy").read_bytes() == (packed.folder / name).read_bytes()


@pytest.mark.usefixtures("small_shards")
def test_a_full_disk_is_one_line_and_the_same_call_goes_on(
    images: Path,
    tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = pack(images, tmp_path / "whole", size=SIZE)
    monkeypatch.setattr("training.shards._SAVE_EVERY_S", -1)
    with (
        full_disk(500),  # less than a shard, more than the first labels
        pytest.raises(
            TrainingError, match=r"out.partial could not be written: File too large; make room, and the same"
        ),
    ):
        pack(images, tmp_path / "out", size=SIZE)
    assert not (tmp_path / "out").exists()
    packed = pack(images, tmp_path / "out", size=SIZE)
    assert files(packed.folder) == files(whole.folder)


@pytest.mark.usefixtures("small_shards")
def test_what_was_packed_before_an_error_is_kept(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source that breaks off, as a network does."""
    source = open_source(images)
    assert isinstance(source, ImageFolder)

    class BrokenOff(ImageFolder):
        def read(self, chunk: int) -> Iterator[Sample]:
            for i, sample in enumerate(super().read(chunk)):
                if i == 60:
                    raise SourceError("the network is gone")
                yield sample

    broken: Source = BrokenOff(source._listing)
    with monkeypatch.context() as patch:
        patch.setattr("training.pack.open_source", lambda *_args, **_options: broken)
        with pytest.raises(SourceError, match="the network is gone"):
            pack(images, tmp_path / "out", size=SIZE)
    kept = progress(tmp_path / "out.partial")
    assert kept["position"] == [0, 60]
    assert kept["num_images"] + kept["num_corrupt"] == 60
    assert len(pack(images, tmp_path / "out", size=SIZE)) == len(pack(images, tmp_path / "whole", size=SIZE))


def begun(folder: Path, out: Path) -> Path:
    """The beginning of a pack, as an error left it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.shards.ShardWriter.finish", lambda *_: (_ for _ in ()).throw(TrainingError("stopped")))
        with pytest.raises(TrainingError, match="stopped"):
            pack(folder, out, size=SIZE)
    return out.with_name(out.name + ".partial")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": (16, 16)}, r"out.partial holds the beginning of a pack of other size \[8, 8\] instead of \[16, 16\]"),
        ({"size": SIZE, "channels": 1}, "of a pack of other channels 3 instead of 1; remove it"),
    ],
)
def test_the_beginning_of_another_pack_is_not_gone_on_with(
    options: dict[str, Any], message: str, images: Path, tmp_path: Path
) -> None:
    begun(images, tmp_path / "out")
    with pytest.raises(TrainingError, match=message):
        pack(images, tmp_path / "out", **options)


def test_other_files_than_before_are_noticed(images: Path, other_photos: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.symlink_to(images)
    begun(data, tmp_path / "out")
    data.unlink()
    data.symlink_to(other_photos)
    with pytest.raises(TrainingError, match="holds the beginning of a pack of other files; remove it"):
        pack(data, tmp_path / "out", size=SIZE)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("progress.json", b"{", "progress.json is damaged: .*; remove .*out.partial to pack from the start"),
        ("labels.raw", b"", "labels.raw has lost its end; remove .*out.partial to pack from the start"),
        ("corrupt.jsonl", b"", "corrupt.jsonl has lost its end"),
        ("pixels-00000.npy", b"", "pixels-00000.npy has lost its end"),
    ],
)
def test_a_damaged_beginning_is_refused(name: str, content: bytes, message: str, images: Path, tmp_path: Path) -> None:
    (begun(images, tmp_path / "out") / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        pack(images, tmp_path / "out", size=SIZE)


def test_killed_just_before_its_name_a_pack_only_needs_the_name(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = pack(images, tmp_path / "whole", size=SIZE)
    with monkeypatch.context() as patch:
        patch.setattr("training.pack.tidy", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            pack(images, tmp_path / "out", size=SIZE)
    assert (tmp_path / "out.partial" / PACK_FILE).exists()
    monkeypatch.setattr(Decoder, "__call__", None)  # nothing is decoded again
    assert files(pack(images, tmp_path / "out", size=SIZE).folder) == files(whole.folder)


def test_corrupt_files_are_listed_in_their_order(images: Path, tmp_path: Path) -> None:
    packed = pack(images, tmp_path / "out", size=SIZE)
    rows = [json.loads(line) for line in (packed.folder / CORRUPT_FILE).read_text().splitlines()]
    broken = [i for i in range(COUNT) if i % 9 == 4]
    assert [row["name"][-7:] for row in rows] == [f"{i:03d}.png" for i in broken]
    assert packed.info.num_corrupt == len(broken)
