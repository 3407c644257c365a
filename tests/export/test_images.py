"""Where an export finds real images, and how it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bundle.manifest import Preprocess
from export.errors import ExportError
from export.images import MAX_IMAGES, find_images

SPEC = Preprocess(resize=(36, 36), crop=(32, 32), mean=(0.5,) * 3, std=(0.2,) * 3)


def save(path: Path, color: tuple[int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (50, 40), color).save(path)


def test_a_run_s_own_come_first_and_none_are_none(tmp_path: Path) -> None:
    assert find_images(None, tmp_path, SPEC) is None
    pixels = np.arange(2 * 32 * 32 * 3, dtype=np.uint8).reshape(2, 32, 32, 3)
    np.savez_compressed(tmp_path / "samples.npz", images=pixels)
    found = find_images(None, tmp_path, SPEC)
    assert found is not None
    np.testing.assert_array_equal(found.pixels, pixels)
    assert found.source == tmp_path / "samples.npz"


def test_a_folder_is_walked_and_what_cannot_be_read_is_counted(tmp_path: Path) -> None:
    save(tmp_path / "a" / "red.PNG", (255, 0, 0))
    save(tmp_path / "b" / "blue.png", (0, 0, 255))
    (tmp_path / "b" / "broken.jpg").write_bytes(b"\xff\xd8\xff broken")
    (tmp_path / "notes.txt").write_text("words")
    found = find_images(tmp_path, Path("nowhere"), SPEC)
    assert found is not None
    assert found.num_unreadable == 1
    assert found.pixels.shape == (2, 32, 32, 3)
    assert found.pixels[:, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


def test_more_images_than_are_needed_are_taken_evenly(tmp_path: Path) -> None:
    pixels = np.zeros((1000, 2, 2, 1), np.uint8)
    pixels[:, 0, 0, 0] = np.arange(1000) // 4
    np.savez(tmp_path / "many.npz", images=pixels)
    spec = Preprocess(resize=(2, 2), crop=(2, 2), mean=(0.5,), std=(0.2,))
    found = find_images(tmp_path / "many.npz", tmp_path, spec)
    assert found is not None
    values = found.pixels[:, 0, 0, 0].tolist()
    assert len(values) == MAX_IMAGES == 256
    assert values[0] == 0
    assert values[-1] == 249
    assert max(np.diff(values)) <= 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"garbage", "cannot be read"),
        ({"pictures": np.zeros((1, 32, 32, 3), np.uint8)}, "has no array called images"),
        ({"images": np.zeros((1, 32, 32, 3), np.float32)}, r"holds float32 \[1, 32, 32, 3\]"),
        ({"images": np.zeros((1, 16, 32, 3), np.uint8)}, r"the network takes uint8 \[n, 32, 32, 3\]"),
        ({"images": np.zeros((0, 32, 32, 3), np.uint8)}, r"holds uint8 \[0, "),
        ({"images": np.array([{}], dtype=object)}, "cannot be read"),
    ],
)
def test_arrays_that_are_not_the_network_s(tmp_path: Path, content: bytes | dict[str, np.ndarray], says: str) -> None:
    file = tmp_path / "some.npz"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.savez(file, **content)  # type: ignore[arg-type]
    with pytest.raises(ExportError, match=rf"some\.npz .*{says}.*--images"):
        find_images(file, tmp_path, SPEC)


def test_a_lone_array_under_another_name(tmp_path: Path) -> None:
    np.save(tmp_path / "some.npy", np.zeros((1, 32, 32, 3), np.uint8))
    file = (tmp_path / "some.npy").rename(tmp_path / "some.npz")
    with pytest.raises(ExportError, match=r"some\.npz cannot be read: .* an \.npy file.*--images"):
        find_images(file, tmp_path, SPEC)


def test_places_without_images(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"nowhere is neither a folder nor an \.npz file"):
        find_images(tmp_path / "nowhere", tmp_path, SPEC)
    with pytest.raises(ExportError, match=r"holds no images of \.bmp, "):
        find_images(tmp_path, tmp_path, SPEC)
    (tmp_path / "a.jpg").write_bytes(b"")
    with pytest.raises(ExportError, match="holds 1 files that cannot be read and no other images"):
        find_images(tmp_path, tmp_path, SPEC)
    five = Preprocess(resize=(32, 32), crop=(32, 32), mean=(0.5,) * 5, std=(0.2,) * 5)
    with pytest.raises(ExportError, match=r"1, 3 or 4 channels, the network 5; give --images an \.npz"):
        find_images(tmp_path, tmp_path, five)
