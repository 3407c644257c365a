"""Golden arrays that are not the graphs' are refused by name, however well their file is signed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bundle.errors import BundleError
from bundle.store import Bundle, write_bundle
from tests.bundle.test_store import FIELDS, FILES

Arrays = dict[str, np.ndarray]


def sound() -> Arrays:
    """Of the toy bundle: 2 images, 4 patches."""
    return {
        "encoder.in.images": np.zeros((2, 16, 16, 3), np.uint8),
        "encoder.in.ids_keep": np.zeros((2, 4), np.int64),
        "encoder.out.cls": np.ones((2, 8), np.float32),
        "head.in.cls": np.ones((2, 8), np.float32),
        "head.out.logits": np.ones((2, 2), np.float32),
    }


def written(folder: Path, content: bytes | Arrays) -> Bundle:
    if not isinstance(content, bytes):
        np.savez(folder / "arrays.npz", **content)  # type: ignore[arg-type]
        content = (folder / "arrays.npz").read_bytes()
    return write_bundle(folder / "toy", FIELDS, {**FILES, "golden.npz": content})


def test_sound_ones_are_given_as_they_are(tmp_path: Path) -> None:
    golden = written(tmp_path, sound()).golden()
    assert golden.keys() == sound().keys()
    np.testing.assert_array_equal(golden["encoder.out.cls"], np.ones((2, 8), np.float32))


@pytest.mark.parametrize(
    ("name", "array", "fault"),
    [
        ("encoder.out.cls", None, "it lacks encoder.out.cls"),
        ("head.in.cls", None, "it lacks head.in.cls"),
        (
            "encoder.in.ids_keep",
            np.zeros((2, 4), np.int32),
            "encoder.in.ids_keep is int32 [2, 4], and should be int64 [N, K] with N = 2",
        ),
        (
            "encoder.out.cls",
            np.ones((3, 8), np.float32),
            "encoder.out.cls is float32 [3, 8], and should be float32 [N, 8] with N = 2",
        ),
        ("head.out.logits", np.ones((2, 3), np.float32), "head.out.logits is float32 [2, 3], and should be"),
        ("head.out.logits", np.ones(2, np.float32), "head.out.logits is float32 [2], and should be"),
        ("encoder.in.images", np.zeros((0, 16, 16, 3), np.uint8), "encoder.in.images is uint8 [0, 16, 16, 3], and"),
        ("head.in.cls", np.full((2, 8), np.nan, np.float32), "head.in.cls has values that are not finite"),
    ],
)
def test_an_array_that_is_not_the_graph_s(tmp_path: Path, name: str, array: np.ndarray | None, fault: str) -> None:
    arrays = {key: value for key, value in (sound() | {name: array}).items() if value is not None}
    with pytest.raises(BundleError) as e:
        written(tmp_path, arrays).golden()
    assert str(e.value).startswith(f"{tmp_path / 'toy' / 'golden.npz'}: {fault}")
    assert str(e.value).endswith("; export the bundle again")


def test_bytes_that_are_no_arrays(tmp_path: Path) -> None:
    np.save(tmp_path / "lone.npy", np.zeros(3))
    np.savez_compressed(tmp_path / "arrays.npz", **sound())  # type: ignore[arg-type]
    packed = (tmp_path / "arrays.npz").read_bytes()
    broken = bytearray(packed)
    broken[100:140] = b"\xff" * 40
    np.savez(tmp_path / "objects.npz", **{**sound(), "head.in.cls": np.array([{}], dtype=object)})  # type: ignore[arg-type]
    cases = {
        "empty": b"",
        "garbage": b"garbage" * 9,
        "cut short": packed[:-30],
        "one array": (tmp_path / "lone.npy").read_bytes(),
        "broken inside": bytes(broken),
        "objects": (tmp_path / "objects.npz").read_bytes(),
    }
    for name, content in cases.items():
        (tmp_path / name).mkdir()
        bundle = written(tmp_path / name, content)
        with pytest.raises(BundleError, match=r"golden\.npz: cannot be read: .+; export the bundle again") as e:
            bundle.golden()
        assert "\n" not in str(e.value), name
