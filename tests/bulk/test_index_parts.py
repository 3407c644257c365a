"""bulk.index_parts: what a part is told by, and which of its rows an index takes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import bulk.index_parts
from bulk.errors import BulkError
from bulk.index_parts import Part, carried_columns, common_spec, differences, list_parts, read_rows
from bulk.index_table import Contents
from bulk.parts import has_direction
from bulk.place import open_place
from tests.bulk.index_input import COLUMNS, D, clustered, row, spec, write_part, write_parts


def parts_of(folder: Path) -> list[Part]:
    return list_parts(open_place(folder))


def rows_of(folder: Path, columns: tuple[str, ...] | None = None) -> list[pa.RecordBatch]:
    parts = parts_of(folder)
    schema = Contents(parts[0].spec, carried_columns(parts[0], columns), "..").schema()
    return list(read_rows(open_place(folder), parts, schema))


def test_parts_come_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    for number in (1_000_000, 20, 3):
        write_part(tmp_path, number, [row(f"{number}.jpg", clustered(1)[0])])
    (tmp_path / "part-000001.parquet.partial").write_bytes(b"half")
    (tmp_path / "_index").mkdir()
    seen: list[int] = []
    parts = list_parts(open_place(tmp_path), seen=seen.append)
    assert [part.name for part in parts] == ["part-000003.parquet", "part-000020.parquet", "part-1000000.parquet"]
    assert seen == [1, 2, 3]
    assert [batch["path"][0].as_py() for batch in rows_of(tmp_path)] == ["3.jpg", "20.jpg", "1000000.jpg"]


def test_a_mark_is_of_the_name_and_the_content(tmp_path: Path) -> None:
    vectors = clustered(5)
    for folder in ("a", "b"):
        write_parts(tmp_path / folder, vectors, per_part=5)
    write_part(tmp_path / "b", 1, [row(f"{i:06d}.jpg", vector) for i, vector in enumerate(vectors)])
    write_part(tmp_path / "c", 0, [row(f"{i:06d}.jpg", vector if i else None) for i, vector in enumerate(vectors)])
    (a,), (b, renamed), (c,) = (parts_of(tmp_path / folder) for folder in "abc")
    assert a == b
    assert len({a.mark, renamed.mark, c.mark}) == 3
    assert all(0 <= part.mark < 2**62 for part in (a, renamed, c))
    assert [(part.num_rows, part.num_vectors) for part in (a, c)] == [(5, 5), (5, 4)]


def test_a_vector_that_is_another_one_changes_the_mark(tmp_path: Path) -> None:
    """Whatever the sizes are: the vectors of the two have the same bytes in another order, and compress alike."""
    marks = set()
    for vector in np.eye(D, dtype=np.float32):
        write_part(tmp_path, 0, [row("a", vector)])
        marks.add(parts_of(tmp_path)[0].mark)
    assert len(marks) == D


def test_a_footer_of_any_length_is_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_parts(tmp_path, clustered(10))
    before = parts_of(tmp_path)
    monkeypatch.setattr(bulk.index_parts, "_TAIL_BYTES", 16)
    assert parts_of(tmp_path) == before


def test_rows_are_as_the_index_has_them(tmp_path: Path) -> None:
    vectors = clustered(7)
    write_parts(tmp_path, vectors, per_part=4)
    first, second = rows_of(tmp_path)
    assert first.schema.names == ["path", "sha256", "vector", *COLUMNS, "_part"]
    np.testing.assert_array_equal(np.stack(first["vector"].to_numpy(zero_copy_only=False)), vectors[:4])
    assert second["path"].to_pylist() == ["000004.jpg", "000005.jpg", "000006.jpg"]
    assert set(second["_part"].to_pylist()) == {parts_of(tmp_path)[1].mark}
    table = pq.read_table(tmp_path / "part-000001.parquet")
    for name in ("sha256", *COLUMNS):
        assert second[name].to_pylist() == table[name].to_pylist()
    (only, _) = rows_of(tmp_path, ("year",))
    assert only.schema.names == ["path", "sha256", "vector", "year", "_part"]


def test_a_row_without_a_vector_that_has_a_direction_is_left_out(tmp_path: Path) -> None:
    good = clustered(2)
    odd = np.stack([np.zeros(D), np.full(D, np.nan), np.full(D, 1e30), np.full(D, 1e-30), np.full(D, np.inf)])
    rows = [row("a", good[0]), row("unread", None), *(row(f"odd {i}", v.astype(np.float32)) for i, v in enumerate(odd))]
    write_part(tmp_path, 0, [*rows, row("b", good[1])])
    (batch,) = rows_of(tmp_path)
    assert batch["path"].to_pylist() == ["a", "b"]
    np.testing.assert_array_equal(has_direction(odd.astype(np.float32)), [False] * 5)
    [part] = parts_of(tmp_path)
    assert (part.num_rows, part.num_vectors, part.num_directed) == (8, 7, 2)


def test_vectors_of_float16_come_as_float32(tmp_path: Path) -> None:
    vectors = clustered(3)
    write_part(tmp_path, 0, [row(f"{i}", vector) for i, vector in enumerate(vectors)], kind=spec(dtype="float16"))
    (batch,) = rows_of(tmp_path)
    assert batch.schema.field("vector").type == pa.list_(pa.float32(), D)
    found = np.stack(batch["vector"].to_numpy(zero_copy_only=False))
    np.testing.assert_array_equal(found, vectors.astype(np.float16).astype(np.float32))


def test_a_part_of_errors_alone_gives_no_rows(tmp_path: Path) -> None:
    write_part(tmp_path, 0, [row("a", None), row("b", None)])
    assert parts_of(tmp_path)[0].num_vectors == 0
    assert [len(batch) for batch in rows_of(tmp_path)] == [0]


def test_what_is_no_part_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(BulkError, match=r"nothing holds no parts, such as part-000000\.parquet; python -m bulk\.embed"):
        parts_of(tmp_path / "nothing")
    part = write_parts(tmp_path, clustered(10)) / "part-000000.parquet"
    whole = part.read_bytes()
    for broken in (whole[:-100], b"", b"PAR1" + bytes(100) + b"\xff\xff\xff\x7fPAR1"):
        part.write_bytes(broken)
        with pytest.raises(BulkError, match=r"part-000000\.parquet cannot be read: .*delete it, and the same bulk"):
            parts_of(tmp_path)
    pq.write_table(pq.ParquetFile(pa.BufferReader(whole)).read().replace_schema_metadata({}), part)
    with pytest.raises(BulkError, match=r"part-000000\.parquet does not say what its vectors are"):
        parts_of(tmp_path)
    table = pq.ParquetFile(pa.BufferReader(whole)).read()
    metadata = {b"maeve": spec(dim=8).model_dump_json()}
    pq.write_table(table.replace_schema_metadata(metadata), part)
    with pytest.raises(BulkError, match=r"lacks embeddings of 8 numbers; it has fixed_size_list<.*>\[16\]"):
        parts_of(tmp_path)


def test_a_part_that_breaks_after_its_footer_was_read_is_named(tmp_path: Path) -> None:
    part = write_parts(tmp_path, clustered(10)) / "part-000000.parquet"
    whole = part.read_bytes()
    part.write_bytes(whole[:4] + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])
    with pytest.raises(BulkError, match=r"part-000000\.parquet cannot be read"):
        rows_of(tmp_path)


def test_parts_of_other_vectors_or_columns_do_not_go_together(tmp_path: Path) -> None:
    place, vector = open_place(tmp_path), clustered(1)[0]
    write_part(tmp_path, 0, [row("a", vector)])
    write_part(tmp_path, 1, [row("b", vector)], kind=spec(precision="int8", dtype="float16"))
    assert common_spec(place, parts_of(tmp_path)) == spec()
    write_part(tmp_path, 2, [row("c", vector)], kind=spec(bundle="other", digest="b" * 64, keep=0.5))
    with pytest.raises(BulkError, match=r"part-000002\.parquet differs from .* in bundle \(tiny and other\), digest"):
        common_spec(place, parts_of(tmp_path))
    write_part(tmp_path, 2, [row("c", vector)], columns={**COLUMNS, "year": "double", "more": "string"})
    with pytest.raises(BulkError, match=r"differ in their columns: more, year"):
        common_spec(place, parts_of(tmp_path))


def test_differences_are_those_that_keep_vectors_from_comparing() -> None:
    assert differences(spec(), spec(bundle="renamed", precision="int8", dtype="float16")) == ""
    assert differences(spec(), spec(keep=0.5, pooling="cls")) == "pooling (mean and cls), keep (1.0 and 0.5)"


def test_columns_are_all_or_those_that_are_wanted(tmp_path: Path) -> None:
    (part,) = parts_of(write_parts(tmp_path, clustered(3)))
    assert carried_columns(part, None) == COLUMNS
    assert carried_columns(part, ("year", "label", "year")) == {"year": "int64", "label": "string"}
    assert carried_columns(part, ()) == {}
    with pytest.raises(BulkError, match="have no column 'colour' to filter by; there are: label, year, score, sharp"):
        carried_columns(part, ("year", "colour"))


@pytest.mark.parametrize("name", ["vector", "_part", "_distance", "a.b"])
def test_a_column_that_no_index_can_hold_is_told_with_the_way_out(name: str, tmp_path: Path) -> None:
    write_part(tmp_path, 0, [row("a", clustered(1)[0])], columns={"label": "string", name: "string"})
    (part,) = parts_of(tmp_path)
    with pytest.raises(BulkError, match=rf"a column '{name}' whose name .* leave it out: --columns label$"):
        carried_columns(part, None)
    assert carried_columns(part, ("label",)) == {"label": "string"}


def test_a_column_of_another_type_is_told_with_the_way_out(tmp_path: Path) -> None:
    part = write_part(tmp_path, 0, [row("a", clustered(1)[0])], columns={"year": "int64"})
    table = pq.read_table(part)
    at = table.schema.names.index("year")
    pq.write_table(table.set_column(at, "year", table["year"].cast(pa.int32())), part)
    with pytest.raises(BulkError, match=r"'year' of type int32, which an index does not filter by; .*--columns none"):
        carried_columns(parts_of(tmp_path)[0], None)


def test_few_parts_are_read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_parts(tmp_path, clustered(60), per_part=1)
    opened: list[str] = []
    place = open_place(folder)
    before = type(place).open

    def counted(self: object, name: str) -> object:
        opened.append(name)
        return before(self, name)  # type: ignore[arg-type]

    parts = list_parts(place)
    monkeypatch.setattr(type(place), "open", counted)
    batches = read_rows(place, parts, Contents(parts[0].spec, {}, "..").schema())
    for done in range(1, 11):
        next(batches)
        assert len(opened) <= done + bulk.index_parts._AT_ONCE
    batches.close()  # type: ignore[attr-defined]
    assert len(opened) <= 11 + bulk.index_parts._AT_ONCE
