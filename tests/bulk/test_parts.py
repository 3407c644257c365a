"""A part: what other readers see of it."""

from __future__ import annotations

import io
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from weakref import WeakSet

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

from bulk.parts import CONTENT_KEY, DIRECTED_KEY, Embedded, encode_part, part_errors, part_info, part_name, part_schema
from bulk.pieces import ColumnType, Scalar
from bundle.store import Bundle
from bundle.vectors import VECTORS_KEY, VectorSpec
from tests.bulk.working import spec_of

COLUMNS: dict[str, ColumnType] = {"label": "string", "count": "int64", "weight": "double", "good": "bool"}


def rows(dim: int) -> list[Embedded]:
    rng = np.random.default_rng(0)
    carried: dict[str, Scalar] = {"label": "cat", "count": 2**40, "weight": 0.5, "good": True}
    return [
        Embedded("a.jpg", "ab" * 32, rng.standard_normal(dim).astype(np.float32), None, carried),
        Embedded("b.jpg", None, None, "the file is empty", {"label": None}),
        Embedded("c.jpg", "cd" * 32, rng.standard_normal(dim).astype(np.float32), None),
    ]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_written_is_read(tiny_bundle: Bundle, tmp_path: Path, dtype: str) -> None:
    spec = spec_of(tiny_bundle, dtype=dtype)
    made = rows(spec.dim)
    (tmp_path / part_name(7)).write_bytes(encode_part(made, part_schema(spec, COLUMNS)))
    table = pq.read_table(tmp_path)
    kind = pa.float16() if dtype == "float16" else pa.float32()
    assert table.schema.names == ["path", "sha256", "embedding", "error", *COLUMNS]
    assert table.schema.field("embedding").type == pa.list_(kind, spec.dim)
    assert [str(table.schema.field(name).type) for name in COLUMNS] == ["string", "int64", "double", "bool"]
    assert VectorSpec.model_validate_json(table.schema.metadata[VECTORS_KEY]) == spec
    for row, found in zip(made, table.to_pylist(), strict=True):
        assert (found["path"], found["sha256"], found["error"]) == (row.path, row.sha256, row.error)
        assert {name: found[name] for name in COLUMNS} == {name: row.columns.get(name) for name in COLUMNS}
        if row.vector is None:
            assert found["embedding"] is None
        else:
            np.testing.assert_array_equal(np.array(found["embedding"]), row.vector.astype(dtype))
    assert ds.dataset(tmp_path).to_table(filter=ds.field("error").is_null()).num_rows == 2


def test_the_file_tells_a_digest_of_all_that_stands_before_its_footer(tiny_bundle: Bundle) -> None:
    spec = spec_of(tiny_bundle)
    data = encode_part(rows(spec.dim), part_schema(spec, COLUMNS))
    told = pq.read_metadata(io.BytesIO(data)).metadata
    footer_bytes = int.from_bytes(data[-8:-4], "little") + 8
    assert told[CONTENT_KEY] == sha256(data[:-footer_bytes]).hexdigest().encode()
    assert told[DIRECTED_KEY] == b"2"


def test_rows_are_taken_as_they_come(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shard of 100,000 members is one part, and is not held as rows."""
    monkeypatch.setattr("bulk.parts._GROUP_ROWS", 4)
    spec = spec_of(tiny_bundle)
    alive = WeakSet[Embedded]()
    most = 0

    def coming() -> Iterator[Embedded]:
        nonlocal most
        for i in range(30):
            row = Embedded(f"{i}.jpg", None, np.full(spec.dim, i, np.float32), None)
            alive.add(row)
            most = max(most, len(alive))
            yield row

    data = encode_part(coming(), part_schema(spec, {}))
    assert most <= 2 * 4 + 1  # a group, and the one before it until its name is taken
    table = pq.read_table(io.BytesIO(data))
    assert table["path"].to_pylist() == [f"{i}.jpg" for i in range(30)]
    assert [vector[0] for vector in table["embedding"].to_pylist()] == list(range(30))
    assert part_info(io.BytesIO(data)) == (30, 0)


def test_the_footer_counts_the_errors(tiny_bundle: Bundle) -> None:
    spec = spec_of(tiny_bundle)
    data = encode_part(rows(spec.dim), part_schema(spec, {}))
    assert part_info(io.BytesIO(data)) == (3, 1)
    assert part_errors(io.BytesIO(data)) == [("b.jpg", "the file is empty")]
    assert encode_part(rows(spec.dim), part_schema(spec, {})) == data
    whole = encode_part([row for row in rows(spec.dim) if row.error is None], part_schema(spec, {}))
    assert part_info(io.BytesIO(whole)) == (2, 0)
    assert part_info(io.BytesIO(encode_part([], part_schema(spec, {})))) == (0, 0)
