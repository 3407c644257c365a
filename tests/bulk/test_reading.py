"""What a piece's rows are: every image once, what is carried beside it, and the reason where there is no image."""

from __future__ import annotations

import datetime
import io
import os
import re
import tarfile
from decimal import Decimal
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bulk.listing import list_pieces
from bulk.pieces import Listing, Piece, ReadOptions, Row
from bulk.reading import read_piece
from bundle.errors import InvalidInput, TooLarge
from sources.parquet import open_parquet
from tests.sources.test_open import class_names, structs, touch, write_parquet
from tests.sources.test_tar import tar_bytes, write_tar


def options(max_bytes: int = 1000, **others: Any) -> ReadOptions:
    return ReadOptions(max_file_bytes=max_bytes, **others)


def listed(source: str | Path, chosen: ReadOptions) -> Listing:
    return list_pieces([str(source)], chosen)


def rows(source: str | Path, max_bytes: int = 1000, **others: Any) -> list[Row]:
    """All there are, listed and read."""
    chosen = options(max_bytes, **others)
    listing = listed(source, chosen)
    return read(listing, chosen)


def read(listing: Listing, chosen: ReadOptions) -> list[Row]:
    found = list[Row]()
    for piece in listing.pieces:
        own = list(read_piece(piece, chosen, listing.columns))
        assert piece.count in (None, len(own))
        found += own
    assert len({row.path for row in found}) == len(found)
    return found


def told(found: list[Row]) -> dict[str, bytes | str]:
    """By path: what there is, or the error."""
    return {row.path: row.data if isinstance(row.data, bytes) else str(row.data) for row in found}


# Files


def test_files_with_their_sub_folder_as_label(tmp_path: Path) -> None:
    root = touch(tmp_path, "cat/1.jpg", "cat/old/2.jpg", "3.jpg")
    assert rows(root) == [
        Row("3.jpg", b"3.jpg", {"label": None}),
        Row("cat/1.jpg", b"cat/1.jpg", {"label": "cat"}),
        Row("cat/old/2.jpg", b"cat/old/2.jpg", {"label": "cat"}),
    ]
    assert [row.columns for row in rows(root, columns=())] == [{}, {}, {}]


def test_files_that_cannot_be_read_have_a_reason(tmp_path: Path) -> None:
    root = touch(tmp_path, "1.jpg", "2.jpg", "3.jpg", "4.jpg", "5.jpg")
    (root / "2.jpg").write_bytes(b"")
    (root / "3.jpg").write_bytes(b"x" * 11)
    chosen = options(10)
    listing = listed(root, chosen)
    (root / "1.jpg").unlink()
    (root / "4.jpg").unlink()
    os.mkfifo(root / "4.jpg")
    found = read(listing, chosen)
    assert told(found) == {
        "1.jpg": "the file does not exist",
        "2.jpg": "the file is empty",
        "3.jpg": "the image has 11 bytes, 10 are allowed",
        "4.jpg": "the file is no regular file",
        "5.jpg": b"5.jpg",
    }
    assert isinstance(found[2].data, TooLarge)


def test_links_that_lead_nowhere_are_rows_that_say_so(tmp_path: Path) -> None:
    root = touch(tmp_path / "photos", "1.jpg", "cat/2.jpg")
    links = {"gone.jpg": "nowhere.jpg", "self.jpg": "self.jpg", "gone.txt": "nowhere.txt", "again.jpg": "1.jpg"}
    for name, target in links.items():
        (root / name).symlink_to(target)
    expected = {"again.jpg": b"1.jpg", "gone.jpg": "the file does not exist", "1.jpg": b"1.jpg"}
    for found in (told(rows(root)), told(rows(f"{root}/*.jpg"))):
        assert {name: found[name] for name in expected} == expected
        assert str(found["self.jpg"]).startswith("the file ")
        assert "gone.txt" not in found


def test_a_shard_whose_link_leads_nowhere_is_one_row(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {f"{i}.jpg": b"x" for i in range(40)})
    (tmp_path / "b.tar").symlink_to("nowhere.tar")
    assert str(told(rows(tmp_path))["b.tar"]).endswith("b.tar does not exist")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "1.jpg").open("wb") as file:
        file.truncate(2**40)  # more than there is memory for
    assert told(rows(tmp_path)) == {"1.jpg": "the image has 1,099,511,627,776 bytes, 1,000 are allowed"}


def test_names_that_are_not_text_are_read_and_spelled_out(tmp_path: Path) -> None:
    touch(tmp_path, os.fsdecode(b"caf\xe9/1.jpg"))
    (row,) = rows(tmp_path)
    assert (row.path, row.columns, row.data) == ("caf\\udce9/1.jpg", {"label": "caf\\udce9"}, b"caf\xe9/1.jpg")


# Parquet


def test_rows_have_their_columns_as_python_has_them(tmp_path: Path) -> None:
    moment = datetime.datetime(2026, 3, 1, 12, 30, tzinfo=datetime.UTC)
    write_parquet(
        tmp_path / "x.parquet",
        {
            "image": structs(b"a", b"b"),
            "label": pa.array([1, None], pa.int8()),
            "n": pa.array([None, 2**40]),
            "score": pa.array([0.5, None], pa.float32()),
            "day": pa.array([datetime.date(2026, 3, 1), None]),
            "at": pa.array([moment, None], pa.timestamp("ms", "Europe/Zurich")),
            "local": pa.array([moment.replace(tzinfo=None), None], pa.timestamp("ms")),
            "price": pa.array([Decimal("1.25"), None]),
            "good": pa.array([True, None]),
            "kind": pa.array(["k", None]).dictionary_encode(),
        },
        class_names("cat", "dog"),
    )
    first, second = rows(tmp_path / "x.parquet")
    assert first == Row("x.parquet#0", b"a", {
        "label": "dog", "n": None, "score": 0.5, "day": "2026-03-01", "at": "2026-03-01T12:30:00.000Z",
        "local": "2026-03-01T12:30:00.000", "price": 1.25, "good": True, "kind": "k",
    })  # fmt: skip
    assert second.columns == dict.fromkeys(first.columns) | {"n": 2**40}


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view()])
def test_plain_binary_of_any_name(kind: pa.DataType, tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", {"pixels": pa.array([b"a", None, b""], kind), "n": pa.array([1, 2, 3])})
    assert told(rows(tmp_path)) == {
        "x.parquet#0": b"a", "x.parquet#1": "the image is missing", "x.parquet#2": "the image has no bytes",
    }  # fmt: skip


def test_big_and_missing_images_in_rows(tmp_path: Path) -> None:
    touch(tmp_path, "beside.png")
    images = pa.array(
        [
            {"bytes": b"x" * 11, "path": None},
            None,
            {"bytes": None, "path": "beside.png"},
            {"bytes": b"ok", "path": "n"},
        ],
        pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
    )
    write_parquet(tmp_path / "x.parquet", {"image": images})
    found = rows(tmp_path / "x.parquet", 10)
    assert told(found) == {
        "x.parquet#0": "the image has 11 bytes, 10 are allowed", "x.parquet#1": "the image is missing",
        "x.parquet#2": b"beside.png", "x.parquet#3": b"ok",
    }  # fmt: skip
    assert isinstance(found[0].data, TooLarge)


def test_a_value_that_fits_no_column_costs_its_row_alone(tmp_path: Path) -> None:
    columns = {"image": structs(b"a", b"b"), "label": pa.array([0, 5]), "n": pa.array([2**63, 1], pa.uint64())}
    write_parquet(tmp_path / "x.parquet", columns, class_names("cat"))
    found = rows(tmp_path)
    assert told(found) == {
        "x.parquet#0": "its n is 9223372036854775808, and not of type int64 as elsewhere",
        "x.parquet#1": "its label is 5, and not of type string as elsewhere",
    }
    assert [row.columns for row in found] == [{"label": "cat", "n": None}, {"label": None, "n": 1}]


def many(path: Path, count: int = 3000, group: int = 3000) -> list[Row]:
    """A Parquet file with numbers for images, more than are read at once."""
    numbers = [b"%d" % i for i in range(count)]
    pq.write_table(pa.table({"image": structs(*numbers), "n": pa.array(range(count))}), path, row_group_size=group)
    return [Row(f"{path.name}#{i}", number, {"n": i}) for i, number in enumerate(numbers)]


@pytest.mark.parametrize("group", [3000, 700, 10])
def test_pieces_in_any_order_have_their_own_rows(group: int, tmp_path: Path) -> None:
    expected = many(tmp_path / "x.parquet", group=group)
    chosen = options(rows_per_piece=100)
    pieces = listed(tmp_path, chosen).pieces
    assert len(pieces) >= 30
    found = dict[int, list[Row]]()
    for i in [*range(0, len(pieces), 2), *reversed(range(1, len(pieces), 2)), *range(len(pieces))]:
        found[i] = list(read_piece(pieces[i], chosen, {"n": "int64"}))
    assert [row for i in sorted(found) for row in found[i]] == expected


def test_a_row_group_is_read_once_for_all_its_pieces_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    many(tmp_path / "x.parquet")
    chosen = options(rows_per_piece=100)
    opened = list[str]()

    def counted(file: str) -> pq.ParquetFile:
        opened.append(file)
        return open_parquet(file)

    monkeypatch.setattr("bulk.rows.open_parquet", counted)
    assert len(read(listed(tmp_path, chosen), chosen)) == 3000
    assert opened == [str(tmp_path / "x.parquet")]


def test_a_broken_page_costs_what_is_behind_it_in_its_row_group(tmp_path: Path) -> None:
    count, group = 600, 200
    noise = np.random.default_rng(0).bytes(count * 400)
    table = pa.table({"image": pa.array([noise[i * 400 : i * 400 + 400] for i in range(count)])})
    path = tmp_path / "x.parquet"
    settings: dict[str, Any] = {"compression": "zstd", "use_dictionary": False, "data_page_size": 10_000}
    pq.write_table(table, path, row_group_size=group, write_page_checksum=True, **settings)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(0)
    content = bytearray(path.read_bytes())
    middle = chunk.data_page_offset + chunk.total_compressed_size // 2
    content[middle : middle + 12_000] = bytes(12_000)
    path.write_bytes(content)
    chosen = options(rows_per_piece=600)
    found = read(listed(path, chosen), chosen)
    bad = [i for i, row in enumerate(found) if isinstance(row.data, InvalidInput)]
    assert bad == list(range(bad[0], 400))
    assert 200 <= bad[0] < 400
    assert str(found[399].data).startswith("the row cannot be read: ")
    assert [row.path for row in found] == [f"x.parquet#{i}" for i in range(count)]


def test_a_file_that_is_gone_or_has_shrunk_costs_its_rows(tmp_path: Path) -> None:
    many(tmp_path / "a.parquet", 30)
    many(tmp_path / "b.parquet", 30)
    chosen = options(rows_per_piece=20)
    listing = listed(tmp_path, chosen)
    (tmp_path / "a.parquet").unlink()
    many(tmp_path / "b.parquet", 20)
    found = told(read(listing, chosen))
    assert len(found) == 60
    assert {found[f"a.parquet#{i}"] for i in range(30)} == {"the row cannot be read: the file does not exist"}
    assert [found[f"b.parquet#{i}"] for i in range(20)] == [b"%d" % i for i in range(20)]
    shrunk = "the row cannot be read: the file has 20 rows, fewer than when it was listed"
    assert {found[f"b.parquet#{i}"] for i in range(20, 30)} == {shrunk}


# Lists of files


def test_a_list_of_files(tmp_path: Path) -> None:
    touch(tmp_path, "lists/1.jpg", "pets/2.jpg", "3.jpg")
    fsspec.filesystem("memory").pipe("/listed/4.jpg", b"four")
    paths = ["1.jpg", None, "../pets/2.jpg", "./1.jpg", str(tmp_path / "3.jpg"), "memory://listed/4.jpg", "gone.jpg"]
    write_parquet(tmp_path / "lists/x.parquet", {"image_path": pa.array(paths), "n": pa.array(range(7))})
    found = rows(tmp_path / "lists/x.parquet")
    assert told(found) == {
        "1.jpg": b"lists/1.jpg", "x.parquet#1": "no file is named", "../pets/2.jpg": b"pets/2.jpg",
        str(tmp_path / "3.jpg"): b"3.jpg", "memory://listed/4.jpg": b"four", "gone.jpg": "the file does not exist",
    }  # fmt: skip
    assert [row.columns["n"] for row in found] == [0, 1, 2, 4, 5, 6]
    below = rows(str(tmp_path / "**/x.parquet"))
    assert [row.path for row in below][:3] == ["lists/1.jpg", "lists/x.parquet#1", "pets/2.jpg"]


# Tar shards


def test_members_of_a_shard_with_what_stands_beside_them(tmp_path: Path) -> None:
    shard = write_tar(tmp_path / "x.tar", {
        "a/1.jpg": b"one", "a/1.cls": b"3\n", "a/1.json": b'{"w": 4, "more": [1]}', "a/2.cls": b"0", "a/2.JPEG": b"two",
        "a/2.left.png": b"left", "b/2.webp": b"three", "readme.md": b"text", "4.jpg": b"", "5.jpg": b"x" * 11,
    })  # fmt: skip
    found = rows(shard, 10, columns=("w", "label"))
    assert told(found) == {
        "x.tar/a/1.jpg": b"one", "x.tar/a/2.JPEG": b"two", "x.tar/a/2.left.png": b"left", "x.tar/b/2.webp": b"three",
        "x.tar/4.jpg": "the file is empty", "x.tar/5.jpg": "the image has 11 bytes, 10 are allowed",
    }  # fmt: skip
    assert [(row.columns["w"], row.columns["label"]) for row in found] == [
        (4, 3),
        *[(None, 0)] * 2,
        *[(None, None)] * 3,
    ]
    assert isinstance(found[-1].data, TooLarge)


DEEP = b"[" * 100_000  # more than Python's reader of JSON takes


@pytest.mark.parametrize("label", ["--5", "9" * 5000, str(2**63), "\u0663", "-", "1_0"])
def test_labels_that_are_no_numbers_of_64_bits_stay_text(label: str, tmp_path: Path) -> None:
    members = {"1.jpg": b"x", "1.cls": label.encode(), "1.json": DEEP, "2.jpg": b"y", "2.cls": b"-5", "2.json": b"{}"}
    shard = write_tar(tmp_path / "x.tar", members)
    assert [row.columns["label"] for row in rows(shard)] == [label, "-5"]


def test_bad_labels_behind_the_first_samples_cost_their_images_alone(tmp_path: Path) -> None:
    """Those that tell the columns' types."""
    members = {f"{i:02}.{kind}": b"%d" % i for i in range(34) for kind in ("jpg", "cls")}
    members |= {f"{i:02}.json": b'{"w": 0.5}' for i in range(34)}
    shard = write_tar(tmp_path / "x.tar", dict(sorted(members.items())) | {
        "a.jpg": b"a", "a.cls": b"--5", "b.jpg": b"b", "b.json": DEEP,
        "c.jpg": b"c", "c.json": b'{"w": 1%s}' % (b"0" * 400),
    })  # fmt: skip
    a, b, c = rows(shard, columns=("label", "w"))[34:]
    assert str(a.data) == "its label is '--5', and not of type int64 as elsewhere"
    assert (b.data, b.columns) == (b"b", {"label": None, "w": None})
    assert str(c.data).endswith("0, and not of type double as elsewhere")


@pytest.mark.parametrize(
    ("beside", "label"), [({"1.txt": b"a cat\n"}, "a cat"), ({"1.txt": b"7"}, "7"), ({"1.cls": b"7", "1.txt": b"x"}, 7)]
)
def test_labels_of_a_shard(beside: dict[str, bytes], label: str | int, tmp_path: Path) -> None:
    (row,) = rows(write_tar(tmp_path / "x.tar", {"1.jpg": b"x", **beside}))
    assert row.columns == {"label": label}


def test_a_label_of_another_type_is_told(tmp_path: Path) -> None:
    members = {f"{i}.{kind}": b"%d" % i for i in range(40) for kind in ("jpg", "cls")}
    shard = write_tar(tmp_path / "x.tar", members | {"39.cls": b"cat"})
    found = rows(shard)
    assert [row.data for row in found[:-1]] == [b"%d" % i for i in range(39)]
    assert str(found[-1].data) == "its label is 'cat', and not of type int64 as elsewhere"


def test_a_name_that_comes_twice_and_links(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for content in (b"old", b"new"):
            info = tarfile.TarInfo("1.jpg")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        link = tarfile.TarInfo("2.jpg")
        link.type, link.linkname = tarfile.LNKTYPE, "1.jpg"
        tar.addfile(link)
    (tmp_path / "x.tar").write_bytes(buffer.getvalue())
    assert told(rows(tmp_path)) == {
        "x.tar/1.jpg": b"old", "x.tar/1.jpg#2": b"new",
        "x.tar/2.jpg": "it is a link to 1.jpg, and links within a shard are not followed",
    }  # fmt: skip


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz"])
def test_the_rest_of_a_shard_that_breaks_off_is_one_row(suffix: str, tmp_path: Path) -> None:
    noise = np.random.default_rng(0).bytes(60_000)
    members = {f"{i}.jpg": noise[i * 3000 : i * 3000 + 3000] for i in range(20)}
    path = write_tar(tmp_path / f"x{suffix}", members)
    path.write_bytes(path.read_bytes()[:-30_000])
    *whole, last = rows(path, 10_000)
    assert 5 < len(whole) < 16
    assert told(whole) == {f"{path.name}/{name}": members[name] for name in list(members)[: len(whole)]}
    assert last.path == path.name
    assert re.match(
        rf"what comes behind {len(whole)} samples .* cannot be read: .*{path.name} is damaged", str(last.data)
    )


def test_a_shard_that_is_gone_or_has_no_images_is_one_row(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", {"1.jpg": b"x"})
    write_tar(tmp_path / "b.tar", {"1.mp3": b"x"})
    write_tar(tmp_path / "c.tar", {})
    chosen = options()
    listing = listed(tmp_path, chosen)
    (tmp_path / "a.tar").unlink()
    found = told(read(listing, chosen))
    assert list(found) == ["a.tar", "b.tar"]
    assert str(found["a.tar"]).endswith("a.tar does not exist")
    assert str(found["b.tar"]).endswith("b.tar holds no images, but 1.mp3")


def test_a_plain_tar_of_photos_is_read_image_by_image(tmp_path: Path) -> None:
    """All share the key IMG, so what waits for the end of a key would hold the whole shard."""
    path = tmp_path / "x.tar"
    path.write_bytes(tar_bytes({f"IMG.{i}.jpg": b"%d" % i for i in range(5)})[:-9_000] + b"broken" * 100)
    piece = Piece("tar", str(path), prefix="x.tar")
    first = next(read_piece(piece, options(), {}))
    assert first == Row("x.tar/IMG.0.jpg", b"0", {})
