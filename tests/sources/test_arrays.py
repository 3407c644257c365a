"""Sources of pixels: CIFAR's and STL-10's binary files, and .npy arrays of any number of channels."""

from __future__ import annotations

import pickle
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.errors import InvalidInput, SourceError
from sources import open_source, other_split
from tests.binary_files import Pixels, random_images, write_cifar, write_stl
from training.pack import pack
from training.packed import NO_LABEL


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cifar10")
    for i in (1, 2):
        write_cifar(folder / f"data_batch_{i}.bin", random_images(3, 32, i), [[i], [0], [2]])
    write_cifar(folder / "test_batch.bin", random_images(2, 32, 9), [[1], [1]])
    (folder / "batches.meta.txt").write_text("airplane\nautomobile\nbird\n\n")
    return folder


@pytest.fixture(scope="module")
def stl10(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stl") / "stl10_binary"
    for i, (split, count) in enumerate((("train", 3), ("test", 2), ("unlabeled", 4))):
        write_stl(folder / f"{split}_X.bin", random_images(count, 96, i))
    (folder / "train_y.bin").write_bytes(bytes([1, 3, 2]))
    (folder / "test_y.bin").write_bytes(bytes([2, 2]))
    (folder / "class_names.txt").write_text("airplane\nbird\ncar\n")
    return folder.parent


def pixels_of(data: str) -> Pixels:
    return np.stack([np.asarray(sample.data) for sample in open_source(data)])


def labels_of(data: str) -> list[int | str | None]:
    return [sample.label for sample in open_source(data)]


def test_cifar10(cifar10: Path) -> None:
    source = open_source(f"cifar:{cifar10}")
    assert (source.name, source.classes, source.channels) == ("cifar10", ("airplane", "automobile", "bird"), 3)
    assert labels_of(f"cifar:{cifar10}") == [1, 0, 2, 2, 0, 2]
    train = np.concatenate([random_images(3, 32, 1), random_images(3, 32, 2)])
    assert np.array_equal(pixels_of(f"cifar:{cifar10}#train"), train)
    assert np.array_equal(pixels_of(f"cifar:{cifar10}#test"), random_images(2, 32, 9))
    assert len(open_source(f"cifar:{cifar10}#train+test")) == 8
    assert [sample.name for sample in source][2:4] == ["data_batch_1.bin#2", "data_batch_2.bin#0"]


def test_cifar100_has_a_coarse_and_a_fine_label(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-100-binary"
    write_cifar(folder / "train.bin", random_images(3, 32), [[9, 1], [9, 0], [9, 2]])
    (folder / "fine_label_names.txt").write_text("apple\naquarium_fish\nbaby\n")
    source = open_source(f"cifar:{tmp_path}")
    assert (source.name, source.classes) == ("cifar100", ("apple", "aquarium_fish", "baby"))
    assert labels_of(f"cifar:{folder}") == [1, 0, 2]
    assert np.array_equal(pixels_of(f"cifar:{folder}"), random_images(3, 32))


def test_stl10(stl10: Path) -> None:
    assert open_source(f"stl10:{stl10}").classes == ("airplane", "bird", "car")
    assert labels_of(f"stl10:{stl10}") == [0, 2, 1]
    assert labels_of(f"stl10:{stl10}#test") == [1, 1]
    assert np.array_equal(pixels_of(f"stl10:{stl10}#train"), random_images(3, 96, 0))
    unlabeled = open_source(f"stl10:{stl10}#unlabeled")
    assert unlabeled.classes is None
    assert np.array_equal(pixels_of(f"stl10:{stl10}#unlabeled"), random_images(4, 96, 2))
    assert labels_of(f"stl10:{stl10}#train+unlabeled") == [0, 2, 1, None, None, None, None]


def test_binaries_are_packed_as_they_are(stl10: Path, cifar10: Path, tmp_path: Path) -> None:
    packed = pack(f"stl10:{stl10}#train+unlabeled", tmp_path / "stl")
    assert packed.info.size == (96, 96)
    assert packed.labels.tolist() == [0, 2, 1, *[NO_LABEL] * 4]
    expected = np.concatenate([random_images(3, 96, 0), random_images(4, 96, 2)])
    assert np.array_equal(packed.pixels(np.arange(7)), expected)
    grey = pack(f"cifar:{cifar10}", tmp_path / "grey", channels=1)
    r, g, b = np.moveaxis(random_images(3, 32, 1).astype(int), 3, 0)
    luma = (r * 19595 + g * 38470 + b * 7471 + 0x8000) >> 16  # ITU-R 601, in Pillow's integers
    assert np.array_equal(grey.pixels(np.arange(3))[..., 0], luma)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("cifar:{cifar10}#dev", "cifar has no split 'dev'; choose of train, test, joined by +"),
        ("stl10:{stl10}#train+train", "stl10 has no split 'train+train'; choose of train, test, unlabeled"),
        ("cifar:{tmp}/none", "none is no folder; unpack the binary version of the data set there"),
        ("cifar:{tmp}", "data_batch_1.bin does not exist; unpack the binary version of the data set there"),
        ("stl10:{tmp}#unlabeled", "unlabeled_X.bin does not exist"),
        ("stl10:{tmp}", "class_names.txt with the class names cannot be read"),
    ],
)
def test_what_is_not_there_is_named(data: str, message: str, cifar10: Path, stl10: Path, tmp_path: Path) -> None:
    (tmp_path / "batches.meta.txt").write_text("a\nb\n")
    with pytest.raises(SourceError, match=re.escape(message)):
        open_source(data.format(cifar10=cifar10, stl10=stl10, tmp=tmp_path))


def test_a_file_of_another_length_says_which_is_expected(cifar10: Path, stl10: Path, tmp_path: Path) -> None:
    for file in cifar10.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "data_batch_2.bin").write_bytes(bytes(5000))
    message = "data_batch_2.bin has 5,000 bytes; a multiple of 3,073 is expected, 30,730,000 as published"
    with pytest.raises(SourceError, match=message):
        open_source(f"cifar:{tmp_path}")
    for file in (stl10 / "stl10_binary").iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "test_y.bin").write_bytes(b"\1\1\1")
    with pytest.raises(SourceError, match=r"test_y.bin has 3 bytes, 2 are expected: one for each image of test_X.bin"):
        open_source(f"stl10:{tmp_path}#test")
    (tmp_path / "test_y.bin").write_bytes(b"\1\4")
    with pytest.raises(SourceError, match=r"test_y.bin: record 1 has label 3, but there are 3 class names"):
        open_source(f"stl10:{tmp_path}#test")


class _Bomb:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was read')",))


@pytest.mark.parametrize("name", ["data_batch_1", "train"])
def test_pickles_are_refused_unread(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(_Bomb()))
    with pytest.raises(SourceError, match=f"{name} is of the Python version, a pickle, which could run code"):
        open_source(f"cifar:{tmp_path}")
    with pytest.raises(SystemExit):
        pickle.loads((tmp_path / name).read_bytes())  # noqa: S301 - which is why


# .npy


def write_npy(folder: Path, arrays: dict[str, NDArray[Any]]) -> Path:
    for name, array in arrays.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        np.save(folder / name, array)
    return folder


def test_arrays_of_any_number_of_channels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    tiles = {f"{kind}/{i}.npy": rng.integers(0, 256, (16, 16, 5), np.uint8) for kind in ("crop", "town") for i in "12"}
    source = open_source(write_npy(tmp_path / "tiles", tiles))
    assert (source.classes, source.channels, len(source)) == (("crop", "town"), 5, 4)
    packed = pack(tmp_path / "tiles", tmp_path / "out", size=(16, 16))
    assert (packed.info.channels, len(packed.info.mean)) == (5, 5)
    assert packed.labels.tolist() == [0, 0, 1, 1]
    assert np.array_equal(packed.pixels(np.arange(4)), np.stack(list(tiles.values())))
    values = np.stack(list(tiles.values())).reshape(-1, 5) / 255
    assert packed.info.mean == pytest.approx(values.mean(axis=0))
    assert packed.info.std == pytest.approx(values.std(axis=0))


def test_an_array_without_channels_has_one(tmp_path: Path) -> None:
    tile = np.arange(256, dtype=np.uint8).reshape(16, 16)
    write_npy(tmp_path / "tiles", {"1.npy": tile})
    packed = pack(tmp_path / "tiles", tmp_path / "out", size=(16, 16))
    assert np.array_equal(packed.pixels(np.arange(1))[0, :, :, 0], tile)


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.float32, np.float64])
def test_a_range_becomes_0_to_255(kind: Any, tmp_path: Path) -> None:
    tile = np.array([[0, 100, 200, 1100], [1090, 1100, 1200, 9999], [600, 602, 604, 98], [100, 100, 100, 100]], kind)
    folder = write_npy(tmp_path / "tiles", {"1.npy": tile})
    (sample,) = open_source(folder, npy_range=(100, 1100))
    # (v - 100) * 255 / 1000, to the nearest: 25.5 for 200 goes to the even 26, 252.45 for 1090 down
    expected = [[0, 0, 26, 255], [252, 255, 255, 255], [128, 128, 129, 0], [0, 0, 0, 0]]
    assert np.asarray(sample.data)[:, :, 0].tolist() == expected


def test_other_values_than_uint8_need_a_range(tmp_path: Path) -> None:
    folder = write_npy(tmp_path / "tiles", {"1.npy": np.zeros((8, 8), np.uint16)})
    with pytest.raises(SourceError, match=r"1.npy holds uint16; say with python -m training.pack --npy-range LOW"):
        open_source(folder)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((8, 8, 4), np.uint8), "it has 4 channels, the first array has 2"),
        (np.zeros((8, 8, 2, 1), np.uint8), r"an array of \(8, 8, 2, 1\) is not \[H, W, C\] or \[H, W\]"),
        (np.zeros((8, 8, 2), np.complex64), "its values are complex64"),
        (np.full((8, 8, 2), np.nan, np.float32), "it holds values that are not finite; fill them in first"),
        (np.array([_Bomb()], object), "not readable as .npy: Object arrays cannot be loaded"),
        (None, "not readable as .npy"),
    ],
)
def test_an_array_that_does_not_fit_is_corrupt(array: NDArray[Any] | None, message: str, tmp_path: Path) -> None:
    folder = write_npy(tmp_path, {"1.npy": np.zeros((8, 8, 2), np.uint8)})
    if array is None:
        (folder / "2.npy").write_bytes(b"\x93NUMPY")
    else:
        np.save(folder / "2.npy", array, allow_pickle=True)
    data = list(open_source(folder, npy_range=(0, 1)))[1].data
    assert isinstance(data, InvalidInput)
    assert re.search(message, str(data))


def test_a_folder_without_a_readable_array_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.npy").write_bytes(b"nothing")
    with pytest.raises(SourceError, match=r"none of the .npy files in .* could be read as \[H, W, C\] or \[H, W\]"):
        open_source(tmp_path)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ("stl10:files", "stl10:files#test"),
        ("stl10:files#train", "stl10:files#test"),
        ("stl10:files#train+unlabeled", None),
        ("cifar:files", None),
        ("photos", None),
        (Path("stl10"), None),
    ],
)
def test_another_split_of_those_that_have_one(data: str | Path, expected: str | None) -> None:
    assert other_split(data, stl10="test") == expected
