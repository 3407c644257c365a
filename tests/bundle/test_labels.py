from __future__ import annotations

from pathlib import Path

import pytest

from bundle.errors import BundleError
from bundle.labels import encode_labels, read_labels


def test_round_trip_keeps_order_repeats_and_any_script(tmp_path: Path) -> None:
    labels = ("zebra", "crane", "crane", "Kätzchen", "猫", 'a "quote"\n')
    (tmp_path / "labels.json").write_bytes(encode_labels(labels))
    assert read_labels(tmp_path / "labels.json") == labels


def test_no_labels_are_the_callers_mistake() -> None:
    with pytest.raises(ValueError, match="at least one class"):
        encode_labels([])


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'["a", 1]', b'"abc"', b"[1, 2", b'["\xff"]'])
def test_anything_but_a_list_of_strings_is_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "labels.json"
    file.write_bytes(content)
    with pytest.raises(BundleError, match="labels"):
        read_labels(file)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="cannot read the labels"):
        read_labels(tmp_path / "labels.json")
