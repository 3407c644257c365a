"""Packing: the pixels that the service would make, and an account of what could not be read."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from bundle.manifest import Preprocess
from bundle.preprocess import preprocess
from sources.base import PACK_FILE
from training.data import open_data
from training.errors import TrainingError
from training.pack import pack
from training.packed import CORRUPT_FILE, LABELS_FILE, NO_LABEL, PackedDataset


def square(size: tuple[int, int], channels: int = 3) -> Preprocess:
    return Preprocess(resize=size, crop=size, mean=(0.5,) * channels, std=(0.5,) * channels)


def everything(packed: PackedDataset) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    return packed.pixels(np.arange(len(packed)))


def noise(folder: Path, count: int, size: tuple[int, int] = (20, 30), mode: str = "RGB") -> Path:
    """PNG files, so that every pixel is known."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        image = Image.fromarray(rng.integers(0, 256, (*size, 4), dtype=np.uint8), "RGBA").convert(mode)
        image.save(folder / f"{i:02d}.png")
    return folder


def test_pixels_labels_and_what_is_said_of_them(photos: Path, packed: PackedDataset) -> None:
    files = sorted(photos.rglob("*.jpg"))
    assert packed.info.size == (32, 32)
    assert packed.info.classes == ("blue", "green", "red")
    assert packed.info.name == "photos"
    assert packed.info.source == str(photos)
    assert (packed.info.num_images, packed.info.num_corrupt) == (len(files), 0)
    assert packed.labels.tolist() == [("blue", "green", "red").index(file.parent.name) for file in files]
    assert (packed.folder / CORRUPT_FILE).read_text() == ""
    for image, file in zip(everything(packed), files, strict=True):
        assert np.array_equal(image, preprocess(file.read_bytes(), square((32, 32))))


def test_mean_and_std_are_those_of_the_packed_pixels(packed: PackedDataset) -> None:
    values = everything(packed).reshape(-1, 3) / 255
    assert packed.info.mean == pytest.approx(values.mean(axis=0), abs=1e-12)
    assert packed.info.std == pytest.approx(values.std(axis=0), abs=1e-12)


def test_a_constant_channel_can_still_be_divided_by(tmp_path: Path) -> None:
    (tmp_path / "grey").mkdir()
    Image.new("RGB", (32, 32), (10, 20, 30)).save(tmp_path / "grey" / "a.png")
    assert pack(tmp_path / "grey", tmp_path / "out").info.std == pytest.approx((1 / 255,) * 3)


def test_images_that_cannot_be_read_are_listed_and_left_out(tmp_path: Path) -> None:
    folder = noise(tmp_path / "mixed", 3)
    (folder / "10-cut.png").write_bytes((folder / "00.png").read_bytes()[:300])
    (folder / "01-empty.jpg").touch()
    (folder / "02-text.jpg").write_text("not an image")
    packed = pack(folder, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / CORRUPT_FILE).read_text().splitlines()]
    assert [row["name"] for row in rows] == ["01-empty.jpg", "02-text.jpg", "10-cut.png"]
    assert all(row["error"] for row in rows)
    assert (packed.info.num_images, packed.info.num_corrupt, len(packed)) == (3, 3, 3)
    assert packed.labels.tolist() == [NO_LABEL] * 3
    for image, i in zip(everything(packed), range(3), strict=True):
        assert np.array_equal(image, preprocess((folder / f"{i:02d}.png").read_bytes(), square((32, 32))))


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_channels_are_those_asked_for(channels: int, mode: str, tmp_path: Path) -> None:
    folder = noise(tmp_path / "photos", 2, (32, 32), mode)
    packed = pack(folder, tmp_path / "out", size=(32, 32), channels=channels)
    assert packed.info.channels == len(packed.info.mean) == channels
    for image, file in zip(everything(packed), sorted(folder.iterdir()), strict=True):
        assert np.array_equal(image, np.asarray(Image.open(file)).reshape(32, 32, channels))


def test_a_rectangle_may_be_asked_for(tmp_path: Path) -> None:
    packed = pack(noise(tmp_path / "photos", 2), tmp_path / "out", size=(16, 40))
    assert packed.info.size == (16, 40)
    assert everything(packed).shape == (2, 16, 40, 3)


@pytest.mark.parametrize(("side", "size"), [(20, 32), (63, 32), (64, 64), (100, 96), (224, 256)])
def test_the_size_follows_the_images(side: int, size: int, tmp_path: Path) -> None:
    """By the median of the shorter sides, so that one odd image in three changes nothing."""
    folder = noise(tmp_path / "photos", 2, (side, side + 50))
    Image.new("RGB", (500, 500)).save(folder / "large.png")
    assert pack(folder, tmp_path / "out").info.size == (size, size)


def test_images_come_back_from_several_shards(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = noise(tmp_path / "photos", 7, (8, 8))
    whole = pack(folder, tmp_path / "whole", size=(8, 8))
    monkeypatch.setattr("training.shards._SHARD_BYTES", 3 * 8 * 8 * 3 + 1)
    sharded = pack(folder, tmp_path / "sharded", size=(8, 8))
    assert list(whole.info.shards.values()) == [7]
    assert list(sharded.info.shards.values()) == [3, 3, 1]
    assert np.array_equal(everything(sharded), everything(whole))
    ids = np.array([6, 2, 3, 3, 0, 5])
    assert np.array_equal(sharded.pixels(ids), everything(whole)[ids])


def test_a_last_shard_may_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.shards._SHARD_BYTES", 3 * 8 * 8 * 3)
    packed = pack(noise(tmp_path / "photos", 6, (8, 8)), tmp_path / "out", size=(8, 8))
    assert list(packed.info.shards.values()) == [3, 3]


def test_more_images_than_are_in_flight_keep_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.decode._BATCH", 2)
    folder = noise(tmp_path / "photos", 30, (8, 8))
    pixels = everything(pack(folder, tmp_path / "out", size=(8, 8), workers=3))
    for image, file in zip(pixels, sorted(folder.iterdir()), strict=True):
        assert np.array_equal(image, np.asarray(Image.open(file)))


def test_an_existing_folder_is_left_alone(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "precious.txt").write_text("mine")
    with pytest.raises(TrainingError, match="out exists; remove it or choose another --out"):
        pack(photos, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["precious.txt"]


@pytest.mark.parametrize("size", [None, (32, 32)])
def test_a_source_without_a_readable_image_is_refused(size: tuple[int, int] | None, tmp_path: Path) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    with pytest.raises(TrainingError, match="could be read"):
        pack(tmp_path / "broken", tmp_path / "out", size=size)
    assert not (tmp_path / "out").exists()


def test_the_same_place_is_spelled_in_many_ways(photos: Path, tmp_path: Path) -> None:
    first = open_data(f"{photos}/", tmp_path / "cache")
    assert first.info.source == str(photos)
    assert open_data(photos, tmp_path / "cache").folder == first.folder
    assert open_data(f"{photos.parent}/./{photos.name}//", tmp_path / "cache").folder == first.folder


def test_the_flags_reach_the_pack(tmp_path: Path, command: Callable[..., Any]) -> None:
    (tmp_path / "tiles").mkdir()
    np.save(tmp_path / "tiles" / "a.npy", np.full((8, 8, 6), 1500, np.int16))
    arguments = ["--data", tmp_path / "tiles", "--out", tmp_path / "out", "--size", 8, "--workers", 1]
    assert "say with python -m training.pack --npy-range LOW HIGH" in command("training.pack", *arguments).err
    outcome = command("training.pack", *arguments, "--npy-range", 1000, 2000)
    assert (outcome.status, outcome.out) == (0, f"{tmp_path / 'out'}: 1 images of 8x8, 0 unreadable\n")
    assert everything(PackedDataset(tmp_path / "out")).tolist() == np.full((1, 8, 8, 6), 128).tolist()  # from 127.5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--npy-range", "2", "1"], "error: --npy-range must be LOW and a higher HIGH, got (2.0, 1.0)\n"),
        (["--workers", "0"], "error: --workers must be at least 1, got 0\n"),
        (["--channels", "0"], "error: --channels must be at least 1, got 0\n"),
        (["--channels", "2"], "error: images have 1, 3 or 4 channels, not 2; other counts come as .npy arrays\n"),
    ],
)
def test_flags_that_do_not_fit_are_named(
    flags: list[str], message: str, photos: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    outcome = command("training.pack", "--data", photos, "--out", tmp_path / "out", *flags)
    assert (outcome.status, outcome.err) == (2, message)


def test_ctrl_c_is_one_line(
    photos: Path, tmp_path: Path, command: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("training.decode.pixel_sums", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        outcome = command("training.pack", "--data", photos, "--out", tmp_path / "out")
    assert (outcome.status, outcome.err) == (130, "stopped; the same command goes on with what is packed\n")
    assert len(pack(photos, tmp_path / "out")) == 120


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (PACK_FILE, None, "is not a packed data set"),
        (PACK_FILE, b"{", "is not a packed data set"),
        (PACK_FILE, b"[]", "is not a packed data set"),
        (PACK_FILE, b'{"version": 1}', "is not a packed data set"),
        (LABELS_FILE, None, "is incomplete"),
        (LABELS_FILE, b"", "is incomplete"),
        ("pixels-00000.npy", None, "is incomplete"),
        ("pixels-00000.npy", b"", "is incomplete"),
    ],
)
def test_a_damaged_pack_is_refused(name: str, content: bytes | None, message: str, tmp_path: Path) -> None:
    packed = pack(noise(tmp_path / "photos", 2), tmp_path / "out")
    if content is None:
        (packed.folder / name).unlink()
    else:
        (packed.folder / name).write_bytes(content)
    with pytest.raises(TrainingError, match=message):
        PackedDataset(packed.folder)


def test_a_pack_cut_short_is_refused(tmp_path: Path) -> None:
    packed = pack(noise(tmp_path / "photos", 3), tmp_path / "out")
    shard = packed.folder / "pixels-00000.npy"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(TrainingError, match="is incomplete"):
        PackedDataset(packed.folder)
    np.save(shard, np.zeros((2, 32, 32, 3), np.uint8))
    with pytest.raises(TrainingError, match="is incomplete: 2 of 3 images; pack it again"):
        PackedDataset(packed.folder)


def test_a_pack_of_another_version_is_refused(tmp_path: Path) -> None:
    packed = pack(noise(tmp_path / "photos", 2), tmp_path / "out")
    document = json.loads((packed.folder / PACK_FILE).read_text())
    (packed.folder / PACK_FILE).write_text(json.dumps({**document, "version": 2}))
    with pytest.raises(TrainingError, match="its version is 2, not 1"):
        PackedDataset(packed.folder)
