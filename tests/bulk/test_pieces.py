"""What is listed: which images, once each, in which order and pieces, with which columns; and what is refused."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.listing import list_pieces
from bulk.pieces import Listing, Piece, ReadOptions
from bundle.errors import SourceError
from tests.sources.test_open import class_names, structs, touch, write_parquet
from tests.sources.test_tar import tar_bytes, write_tar


def listed(*sources: str | Path, per_piece: int = 1024, **options: Any) -> Listing:
    chosen = ReadOptions(max_file_bytes=1000, rows_per_piece=per_piece, **options)
    return list_pieces([str(source) for source in sources], chosen, progress=None)


def names(listing: Listing) -> list[str]:
    """Of image files, as rows would be named."""
    return [piece.prefix + name for piece in listing.pieces for name in piece.names]


def spans(listing: Listing) -> list[tuple[int, int | None]]:
    return [(piece.first, piece.count) for piece in listing.pieces]


# Folders, patterns, files


def test_a_folder_is_cut_in_the_order_of_its_paths(tmp_path: Path) -> None:
    root = touch(tmp_path / "pets", "dog/1.jpg", "cat/2.PNG", "cat/1.jpg", "cat.b/1.jpg", "notes.txt", "9.webp")
    listing = listed(root, per_piece=2)
    assert names(listing) == ["9.webp", "cat/1.jpg", "cat/2.PNG", "cat.b/1.jpg", "dog/1.jpg"]
    assert list(listing.pieces) == [
        Piece("files", str(root), ("9.webp", "cat/1.jpg"), count=2),
        Piece("files", str(root), ("cat/2.PNG", "cat.b/1.jpg"), count=2),
        Piece("files", str(root), ("dog/1.jpg",), count=1),
    ]
    assert listing.columns == {"label": "string"}
    assert listing.pieces[-1] == list(listing.pieces)[2]
    assert listing.pieces[1:] == list(listing.pieces)[1:]
    with pytest.raises(IndexError):
        listing.pieces[3]


def test_without_sub_folders_there_is_no_label(tmp_path: Path) -> None:
    assert listed(touch(tmp_path, "1.jpg", "2.jpg")).columns == {}


def test_where_a_source_is_named_from_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces are read by processes that run elsewhere."""
    touch(tmp_path / "pets", "cat/1.jpg", "dog/1.jpg")
    monkeypatch.chdir(tmp_path)
    whole = listed(tmp_path / "pets")
    assert list(whole.pieces) == list(listed("pets").pieces) == list(listed("./pets/").pieces)
    assert [p.location for p in listed("pets/*/*.jpg").pieces] == [str(tmp_path / "pets")]
    assert [p.location for p in listed("pets/cat/1.jpg", "pets/dog/1.jpg").pieces] == [str(tmp_path / "pets")]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jpg", ["1.jpg"]),
        ("**/*.jpg", ["1.jpg", "cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg"]),
        ("*/*", ["cat/1.jpg", "dog/1.jpg", "dog/2.png"]),
        ("*/*.{png,jfif}", ["dog/2.png", "dog/3.jfif"]),
        ("{cat,dog}/1.jpg", ["cat/1.jpg", "dog/1.jpg"]),
        ("{cat,dog}/**", ["cat/1.jpg", "cat/old/2.jpg", "dog/1.jpg", "dog/2.png"]),
        ("*/3.jfif", ["dog/3.jfif"]),
        ("c*/**/2.jpg", ["cat/old/2.jpg"]),
    ],
)
def test_patterns(pattern: str, expected: list[str], tmp_path: Path) -> None:
    """Names that are not known to be images' are taken where their ending is spelled out."""
    root = touch(
        tmp_path, "1.jpg", "cat/1.jpg", "cat/old/2.jpg", "cat/notes.txt", "dog/1.jpg", "dog/2.png", "dog/3.jfif",
        ".hidden/1.jpg", "cat/.4.jpg",
    )  # fmt: skip
    listing = listed(root / pattern)
    assert names(listing) == expected
    assert listing.columns == ({"label": "string"} if "/" in expected[-1] else {})


def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    assert names(listed(touch(tmp_path / "a [2020]", "1.jpg"))) == ["1.jpg"]


def test_links_round_in_circles_are_left(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "dog/1.jpg")
    for link, target in (("dog/all", root), ("dog/dogs", root / "dog"), ("cat/all", root), ("cat/cats", root / "cat")):
        (root / link).symlink_to(target)
    assert names(listed(root)) == ["cat/1.jpg", "dog/1.jpg"]
    assert names(listed(f"{root}/**/*.jpg")) == ["cat/1.jpg", "dog/1.jpg"]


def test_an_output_within_a_source_is_none(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "vectors/part-000000.parquet", "vectors/_maeve/run.json")
    assert names(listed(root)) == ["cat/1.jpg"]
    assert names(listed(f"{root}/**/*")) == ["cat/1.jpg"]
    with pytest.raises(SourceError, match=r"vectors is an output of bulk.embed and holds vectors"):
        listed(root / "vectors")


# Several sources


def test_several_sources_are_told_apart_by_their_names(tmp_path: Path) -> None:
    a, b = touch(tmp_path / "a/pets", "1.jpg"), touch(tmp_path / "b/pets", "1.jpg")
    assert names(listed(b, a)) == ["b/pets/1.jpg", "a/pets/1.jpg"]
    assert names(listed(a, touch(tmp_path / "birds", "1.jpg"))) == ["pets/1.jpg", "birds/1.jpg"]
    inner = touch(tmp_path / "pets/b", "1.jpg").parent
    assert names(listed(inner, a, b)) == [f"{tmp_path.name}/pets/b/1.jpg", "a/pets/1.jpg", "b/pets/1.jpg"]


def test_single_files_are_one_source(tmp_path: Path) -> None:
    root = touch(tmp_path / "pets", "dog/1.jpg", "cat/2.jpg", "cat/1.jfif", "bird/1.jpg")
    listing = listed(root / "dog/1.jpg", root / "cat/2.jpg", root / "cat/1.jfif")
    assert names(listing) == ["cat/1.jfif", "cat/2.jpg", "dog/1.jpg"]
    assert names(listed(root / "dog/1.jpg", root / "bird", root / "cat/2.jpg")) == [
        "pets/cat/2.jpg", "pets/dog/1.jpg", "bird/1.jpg",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("sources", "expected", "num_duplicates"),
    [
        (["pets", "./pets"], ["cat/1.jpg", "cat/2.png", "dog/1.jpg"], 3),
        (["pets/*/1.*", "pets/cat/*"], ["pets/cat/1.jpg", "pets/dog/1.jpg", "cat/2.png"], 1),
        (["pets/cat/1.jpg", "pets/cat/1.jpg", "pets/../pets/cat/2.png"], ["1.jpg", "2.png"], 1),
        (["link", "pets"], ["cat/1.jpg", "cat/2.png", "dog/1.jpg"], 3),
        (["pets/cat", "pets"], ["cat/1.jpg", "cat/2.png", "pets/dog/1.jpg"], 2),
        (["file://{tmp}/pets", "pets/*/1.jpg"], ["cat/1.jpg", "cat/2.png", "dog/1.jpg"], 2),
        (["pets/dog/1.jpg", "pets"], ["dog/1.jpg", "pets/cat/1.jpg", "pets/cat/2.png"], 1),
    ],
)
def test_what_is_named_twice_is_listed_once(
    sources: list[str], expected: list[str], num_duplicates: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touch(tmp_path / "pets", "cat/1.jpg", "cat/2.png", "dog/1.jpg")
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path)
    listing = listed(*(source.format(tmp=tmp_path) for source in sources))
    assert names(listing) == expected
    assert listing.num_duplicates == num_duplicates


def test_several_kinds_stand_side_by_side(tmp_path: Path) -> None:
    folder = touch(tmp_path / "pets", "cat/1.jpg")
    table = write_parquet(tmp_path / "more.parquet", {"image": structs(b"a"), "label": pa.array(["cat"])})
    shard = write_tar(tmp_path / "rest.tar", {"1.jpg": b"x", "1.txt": b"cat"})
    listing = listed(folder, table, shard)
    assert [(p.kind, p.prefix, p.count) for p in listing.pieces] == [
        ("files", "pets/", 1), ("rows", f"{tmp_path.name}/more.parquet", 1), ("tar", f"{tmp_path.name}/rest.tar", None),
    ]  # fmt: skip
    assert listing.columns == {"label": "string"}


# Parquet


def numbers(count: int) -> dict[str, pa.Array]:
    return {"image": structs(*(b"%d" % i for i in range(count)))}


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        (10, [(0, 10), (10, 10), (20, 10), (30, 5)]),  # as they are
        (3, [(0, 9), (9, 9), (18, 9), (27, 8)]),  # several together
        (35, [(0, 8), (8, 9), (17, 9), (26, 9)]),  # in equal shares
        (14, [(0, 7), (7, 7), (14, 7), (21, 7), (28, 7)]),
    ],
)
def test_rows_are_cut_along_row_groups(group: int, expected: list[tuple[int, int]], tmp_path: Path) -> None:
    pq.write_table(pa.table(numbers(35)), tmp_path / "x.parquet", row_group_size=group)
    assert spans(listed(tmp_path / "x.parquet", per_piece=10)) == expected


def test_a_folder_of_parquet_has_all_scalars_as_columns(tmp_path: Path) -> None:
    for name in ("b", "a"):
        write_parquet(
            tmp_path / f"{name}.parquet",
            {
                "image": structs(b"a"), "label": pa.array([0], pa.int8()), "caption": pa.array(["x"]),
                "score": pa.array([1], pa.float32()), "good": pa.array([True]), "box": pa.array([[1, 2]]),
                "day": pa.array([0], pa.date32()), "kind": pa.array(["k"]).dictionary_encode(), "id": pa.array([b"1"]),
            },
            class_names("cat"),
        )  # fmt: skip
    listing = listed(tmp_path)
    assert [piece.prefix for piece in listing.pieces] == ["a.parquet", "b.parquet"]
    assert listing.columns == {
        "label": "string", "caption": "string", "score": "double", "good": "bool", "day": "string", "kind": "string",
    }  # fmt: skip
    assert listed(tmp_path, columns=("score", "label")).columns == {"score": "double", "label": "string"}
    assert listed(tmp_path, columns=()).columns == {}


def test_integers_beside_decimals_are_decimals(tmp_path: Path) -> None:
    for name, kind in (("a", pa.int64()), ("b", pa.float64())):
        write_parquet(tmp_path / f"{name}.parquet", {"image": structs(b"a"), "x": pa.array([1], kind)})
    assert listed(tmp_path).columns == {"x": "double"}


IMAGE = {"image": structs(b"a")}


@pytest.mark.parametrize(
    ("files", "options", "message"),
    [
        ([{"a": pa.array([1])}], {}, "a.parquet holds no images: no column is binary or a struct with bytes, and none"),
        ([{"a": pa.array([b"1"]), "b": pa.array([b"1"])}], {}, "may hold images, a, b; choose by --image-column"),
        ([IMAGE], {"image_column": "img"}, "a.parquet has no column 'img'; its columns are image"),
        ([IMAGE | {"n": pa.array([1])}], {"image_column": "n"}, "has no images in column 'n': it is int64"),
        ([IMAGE | {"n": pa.array([1])}, IMAGE], {}, "b.parquet has no column 'n' to carry, .*a.parquet has one; name"),
        ([IMAGE, IMAGE | {"n": pa.array([1])}], {}, "a.parquet has no column 'n' to carry, .*b.parquet has one; name"),
        (
            [IMAGE | {"n": pa.array([1])}, IMAGE],
            {"columns": ("n",)},
            "b.parquet has no column 'n' to carry; those with",
        ),
        (
            [IMAGE, {"url": pa.array(["a"])}],
            {},
            "b.parquet has its images in column 'url' as files, .*'image' as bytes",
        ),
        (
            [IMAGE | {"n": pa.array([1])}, IMAGE | {"n": pa.array(["1"])}],
            {},
            "'n' is string in .*b.par.* int64 in .*a.par",
        ),
        ([IMAGE | {"path": pa.array(["x"])}], {}, "a column 'path', which the output has too; rename it, or name with"),
        (
            [IMAGE | {"sha256": pa.array(["x"])}],
            {"columns": ("sha256",)},
            "a column 'sha256', which the output has too",
        ),
        ([{"image": structs()}], {}, "holds no rows"),
    ],
)
def test_parquet_that_does_not_fit_is_refused(
    files: Sequence[Mapping[str, pa.Array]], options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    for name, columns in zip("ab", files, strict=False):
        write_parquet(tmp_path / f"{name}.parquet", dict(columns))
    with pytest.raises(SourceError, match=message):
        listed(tmp_path, **options)


def test_a_list_names_each_file_once(tmp_path: Path) -> None:
    touch(tmp_path, "pets/1.jpg", "pets/2.jpg", "3.jpg")
    paths = ["pets/1.jpg", "./pets/1.jpg", None, "pets/2.jpg", str(tmp_path / "pets/1.jpg"), "3.jpg", None]
    write_parquet(tmp_path / "list.parquet", {"path": pa.array(paths), "n": pa.array(range(7))})
    listing = listed(tmp_path / "list.parquet")
    assert list(listing.pieces) == [
        Piece("rows", str(tmp_path / "list.parquet"), (), 0, 5, listing.pieces[0].num_bytes, "list.parquet", (1, 4), 7)
    ]
    assert (listing.num_duplicates, listing.columns) == (2, {"n": "int64"})
    both = listed(tmp_path / "pets", tmp_path / "list.parquet")
    assert [(p.kind, p.skip, p.count) for p in both.pieces] == [("files", (), 2), ("rows", (0, 1, 3, 4), 3)]
    turned = listed(tmp_path / "list.parquet", tmp_path / "pets")
    assert [(p.kind, p.skip, p.count) for p in turned.pieces] == [("rows", (1, 4), 5)]
    assert (both.num_duplicates, turned.num_duplicates) == (4, 4)


# Tar


def test_a_shard_says_by_its_first_samples_what_it_carries(tmp_path: Path) -> None:
    members = {"1.jpg": b"x", "1.cls": b"3", "1.json": b'{"w": 2, "author": "me", "tags": []}'}
    shard = write_tar(tmp_path / "x.tar", members)
    (tmp_path / "damaged.tar").write_bytes(tar_bytes(members)[:700])
    listing = listed(tmp_path)
    assert [(p.prefix, p.count, p.num_bytes) for p in listing.pieces] == [
        ("damaged.tar", None, 700), ("x.tar", None, shard.stat().st_size),
    ]  # fmt: skip
    assert listing.columns == {"label": "int64"}
    assert listed(shard, columns=("w", "author")).columns == {"w": "int64", "author": "string"}
    with pytest.raises(SourceError, match="there is no column 'tags' to carry; folders have label where"):
        listed(shard, columns=("tags",))
    text = write_tar(tmp_path / "y.tar", {"1.jpg": b"x", "1.txt": b"7"})
    assert listed(text).columns == {"label": "string"}
    assert listed(write_tar(tmp_path / "z.tar", {"1.jpg": b"x"})).columns == {}


# What is refused


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("nowhere", "nowhere is neither a folder nor a file; name a folder, images, .parquet, .tar, or a URL"),
        ("empty", "empty holds no images, .parquet or .tar files"),
        ("empty/*.jpg", "no images, .parquet or .tar files match .*empty/*.jpg"),
        ("nowhere/**/*.jpg", "nowhere/**/*.jpg does not exist"),
        ("mixed", "mixed holds images and .tar files; name which, with a pattern such as '.*mixed/**/*.jpg'"),
        ("mixed/{1..2}.jpg", "mixed/2.jpg, of .*mixed/{1..2}.jpg, does not exist or is no file"),
        ("damaged.parquet", "damaged.parquet: not readable as Parquet"),
        ("memory://nowhere", "memory://nowhere does not exist"),
        ("nothing://a/b", "nothing://a/b: Protocol not known: nothing"),
    ],
)
def test_what_cannot_be_embedded_is_said_in_one_line(source: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    touch(tmp_path, "mixed/1.jpg", "mixed/originals.tar", "damaged.parquet")
    with pytest.raises(SourceError, match=re.escape(message).replace(r"\.\*", ".*")) as caught:
        listed(source if "://" in source else tmp_path / source)
    assert "\n" not in str(caught.value)


def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.jpg", "private/1.jpg")
    (tmp_path / "private").chmod(0)
    if os.access(tmp_path / "private", os.R_OK):
        pytest.skip("root may read everything")
    with pytest.raises(SourceError, match="may not be read: permission denied"):
        listed(tmp_path)


def test_no_source_and_no_size_are_refused() -> None:
    with pytest.raises(SourceError, match="no source is named"):
        listed()
    with pytest.raises(SourceError, match=r"a source is named by an empty text; is a variable of the shell unset\?"):
        listed("")
    with pytest.raises(ValueError, match="rows_per_piece must be at least 1, got 0"):
        ReadOptions(max_file_bytes=1, rows_per_piece=0)


def test_progress_tells_how_many_there_are(tmp_path: Path) -> None:
    counts = list[int]()
    root = touch(tmp_path, *(f"{i}.jpg" for i in range(7)))
    list_pieces([str(root)], ReadOptions(max_file_bytes=1), progress=counts.append)
    assert counts == [7]
