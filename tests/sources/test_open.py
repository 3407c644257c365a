"""Folders and Parquet: which images, in which order, in which chunks, with which class."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bundle.errors import SourceError
from sources import Sample, open_source


def touch(root: Path, *names: str) -> Path:
    """Files whose content is their own name."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode(errors="surrogateescape"))
    return root


def write_parquet(path: Path, columns: dict[str, pa.Array], metadata: dict[bytes, bytes] | None = None) -> Path:
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def structs(*images: bytes | None) -> pa.Array:
    """The type of an image column as Hugging Face `datasets` writes it."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": image, "path": "x.png"} for image in images], kind)


def class_names(*names: str) -> dict[bytes, bytes]:
    document: dict[str, Any] = {"info": {"features": {"label": {"names": names, "_type": "ClassLabel"}}}}
    return {b"huggingface": json.dumps(document).encode()}


# Folders


def test_sub_folders_are_classes(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path / "pets", "dog/2.jpg", "dog/1.PNG", "cat/9.webp"))
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert len(source) == 3
    assert list(source) == [
        Sample("cat/9.webp", b"cat/9.webp", 0),
        Sample("dog/1.PNG", b"dog/1.PNG", 1),
        Sample("dog/2.jpg", b"dog/2.jpg", 1),
    ]


def test_the_first_level_names_the_class_at_any_depth(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "cat/2020/may/1.jpg", "cat/2.jpg", "dog/deep/er/3.jpg"))
    assert source.classes == ("cat", "dog")
    assert [sample.label for sample in source] == [0, 0, 1]


@pytest.mark.parametrize("names", [("1.jpg", "2.jpg"), ("cat/1.jpg", "dog/2.jpg", "3.jpg"), ("all/1.jpg", "all/2.jpg")])
def test_a_loose_image_or_a_single_folder_means_no_labels(names: tuple[str, ...], tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, *names))
    assert source.classes is None
    assert [sample.label for sample in source] == [None] * len(names)


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    everything = touch(tmp_path / "all", "cat/1.jpg", "dog/1.jpg", "emu/1.jpg")
    subset = tmp_path / "subset"
    (subset / "dog").mkdir(parents=True)
    (subset / "cat").symlink_to(everything / "cat")
    (subset / "dog" / "7.jpg").symlink_to(everything / "dog" / "1.jpg")
    (subset / "dog" / "8.jpg").symlink_to(everything / "dog" / "gone.jpg")
    assert list(open_source(subset)) == [
        Sample("cat/1.jpg", b"cat/1.jpg", 0), Sample("dog/7.jpg", b"dog/1.jpg", 1),
    ]  # fmt: skip


def test_a_link_back_up_does_not_go_round_in_circles(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    (root / "dog" / "all").symlink_to(root)
    (root / "dog" / "dogs").symlink_to(root / "dog")
    assert [sample.name for sample in open_source(root)] == ["cat/1.jpg", "dog/1.jpg"]


def test_a_folder_is_cut_into_chunks_that_are_read_alone(tmp_path: Path) -> None:
    names = [f"{label}/{i:03d}.jpg" for label in ("cat", "dog") for i in range(200)]
    source = open_source(touch(tmp_path, *reversed(names)))
    assert source.lengths == [256, 144]
    assert source.known_length == len(source) == 400
    assert [sample.name for sample in source.read(1)] == names[256:]
    assert [sample.label for sample in source.read(1)] == [1] * 144


def test_the_order_is_by_folder_then_by_name(tmp_path: Path) -> None:
    """As `sorted` has it for paths: `a/2` before `a.b/1`, although `.` comes before `/`."""
    names = ("a/2.jpg", "a.b/1.jpg", "a/1/9.jpg", "B/1.jpg", "a/10.jpg")
    root = touch(tmp_path, *names)
    expected = [str(path.relative_to(root)) for path in sorted(root.rglob("*.jpg"))]
    assert [sample.name for sample in open_source(root)] == expected


def test_names_that_are_not_text_are_read_too(tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.jpg")
    assert list(open_source(touch(tmp_path, "b.jpg", name))) == [
        Sample("b.jpg", b"b.jpg", None), Sample(name, name.encode(errors="surrogateescape"), None),
    ]  # fmt: skip


def test_a_file_that_is_gone_has_a_reason_instead_of_pixels(tmp_path: Path) -> None:
    source = open_source(touch(tmp_path, "1.jpg", "2.jpg"))
    (tmp_path / "1.jpg").unlink()
    gone, there = source
    assert str(gone.data) == "the file could not be read: No such file or directory"
    assert there.data == b"2.jpg"


def test_the_fingerprint_follows_the_files(tmp_path: Path) -> None:
    before = open_source(touch(tmp_path, "1.jpg", "2.jpg")).fingerprint()
    assert open_source(tmp_path).fingerprint() == before
    (tmp_path / "2.jpg").rename(tmp_path / "3.jpg")
    assert open_source(tmp_path).fingerprint() != before


def test_a_packed_folder_is_no_source(tmp_path: Path) -> None:
    touch(tmp_path, "pack.json", "pixels-00000.npy")
    with pytest.raises(SourceError, match="is packed already; train on it as it is"):
        open_source(tmp_path)


def test_files_that_are_no_images_are_passed_over(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "dog/1.jpg", "notes.txt", "cat/1.json", "empty.dir/readme.md")
    (root / "dog" / "folder.jpg").mkdir()
    assert [sample.name for sample in open_source(root)] == ["cat/1.jpg", "dog/1.jpg"]
    assert open_source(root).classes == ("cat", "dog")


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "missing is neither a folder nor a file; --data takes a folder, .parquet, .tar, or a URL"),
        ("notes/1.txt", "1.txt is neither a folder of images nor .parquet or .tar files"),
        ("notes", r"notes holds no images \(.bmp, .*\), nor .parquet, .tar or .npy files"),
        ("*.parquet", r"no file matches .*\*.parquet"),
        ("notes/{1..2}.txt", r"notes/2.txt, of .*notes/\{1..2\}.txt, does not exist or is no file"),
        ("notes/{1..1}.txt", "is neither a folder of images nor .parquet or .tar files"),
    ],
)
def test_what_holds_no_images_is_refused(path: str, message: str, tmp_path: Path) -> None:
    touch(tmp_path, "notes/1.txt")
    with pytest.raises(SourceError, match=message):
        open_source(tmp_path / path)


# Parquet


def test_structs_with_class_names_from_the_metadata(tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "pets.parquet",
        {"image": structs(b"a", b"b", b"c"), "label": pa.array([1, 0, 1])},
        class_names("cat", "dog"),
    )
    source = open_source(path)
    assert source.name == "pets"
    assert source.classes == ("cat", "dog")
    assert list(source) == [
        Sample("pets.parquet#0", b"a", 1),
        Sample("pets.parquet#1", b"b", 0),
        Sample("pets.parquet#2", b"c", 1),
    ]


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary()])
def test_plain_binary_whose_labels_name_themselves(kind: pa.DataType, tmp_path: Path) -> None:
    path = write_parquet(
        tmp_path / "x.parquet", {"image": pa.array([b"a", b"b"], kind), "label": pa.array([2, 0], pa.int8())}
    )
    source = open_source(path)
    assert source.classes == ("0", "1", "2")
    assert [(sample.data, sample.label) for sample in source] == [(b"a", 2), (b"b", 0)]


def test_without_a_label_column_nothing_is_labeled(tmp_path: Path) -> None:
    source = open_source(write_parquet(tmp_path / "x.parquet", {"image": structs(b"a")}))
    assert source.classes is None
    assert [sample.label for sample in source] == [None]


def test_missing_labels_and_pixels(tmp_path: Path) -> None:
    """None and -1 both say that there is no label; an image that is missing is an image of no bytes."""
    path = write_parquet(
        tmp_path / "x.parquet", {"image": structs(b"a", b"b", None, b"d"), "label": pa.array([None, -1, 0, 1])}
    )
    assert open_source(path).classes == ("0", "1")
    assert [(sample.data, sample.label) for sample in open_source(path)] == [
        (b"a", None), (b"b", None), (b"", 0), (b"d", 1),
    ]  # fmt: skip


def test_a_folder_of_parquet_is_read_in_the_order_of_its_names(tmp_path: Path) -> None:
    """More rows than are read at once, in several row groups, so that slices of a column meet."""
    count = 1300
    for name, start in (("b", count), ("a", 0)):
        table = pa.table({"image": structs(*(str(start + i).encode() for i in range(count)))})
        pq.write_table(table, tmp_path / f"{name}.parquet", row_group_size=700)
    source = open_source(tmp_path)
    assert source.lengths == [700, 600, 700, 600]
    assert len(source) == 2 * count
    assert [sample.name for sample in source.read(1)] == [f"a.parquet#{row}" for row in range(700, count)]
    assert [sample.data for sample in source] == [str(i).encode() for i in range(2 * count)]
    assert [sample.name for sample in source][count - 1 : count + 1] == [f"a.parquet#{count - 1}", "b.parquet#0"]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"picture": structs(b"a")}, "has no column 'image'; its columns are picture"),
        ({"image": pa.array(["a.png"])}, "column 'image' must hold encoded images, as binary or a struct with bytes"),
        ({"image": pa.array([{"path": "a"}])}, "column 'image' must hold encoded images"),
        ({"image": structs(b"a"), "label": pa.array(["cat"])}, "column 'label' must hold integers, not string"),
        ({"image": structs()}, "x.parquet holds no rows"),
    ],
)
def test_columns_of_another_kind_are_refused(columns: dict[str, pa.Array], message: str, tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=message):
        open_source(write_parquet(tmp_path / "x.parquet", columns))


@pytest.mark.parametrize("label", [2, -2])
def test_a_label_without_a_name_is_refused_with_its_row(label: int, tmp_path: Path) -> None:
    columns = {"image": structs(b"a", b"b"), "label": pa.array([0, label])}
    path = write_parquet(tmp_path / "x.parquet", columns, class_names("cat", "dog"))
    with pytest.raises(SourceError, match=f"x.parquet#1 has label {label}, but there are 2 class names"):
        list(open_source(path))


def test_a_folder_of_parquet_must_agree_on_its_columns(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", {"image": structs(b"a"), "label": pa.array([0])})
    write_parquet(tmp_path / "b.parquet", {"image": structs(b"a")})
    with pytest.raises(SourceError, match=r"b\.parquet has no column 'label'"):
        open_source(tmp_path)


def test_a_pattern_and_a_url_name_parquet_too(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        write_parquet(tmp_path / f"{name}.parquet", {"image": structs(name.encode())})
    assert [s.data for s in open_source(f"{tmp_path}/{{c,a}}.parquet")] == [b"c", b"a"]
    assert [s.data for s in open_source(f"{tmp_path}/[ab].parquet")] == [b"a", b"b"]
    assert [s.data for s in open_source(f"file://{tmp_path}")] == [b"a", b"b", b"c"]


@pytest.mark.parametrize("part", [0.0, 0.5])
def test_half_a_parquet_file_is_refused(part: float, tmp_path: Path) -> None:
    path = write_parquet(tmp_path / "x.parquet", {"image": structs(*[b"a"] * 100)})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(SourceError, match="not readable as Parquet"):
        open_source(path)
