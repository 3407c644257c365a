"""bulk.index, the whole: parts become the table of bundle.vectors, each row once, whatever comes between."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import lancedb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from moto.server import ThreadedMotoServer

import bulk.indexing
from bulk.errors import BulkError
from bulk.index import IndexConfig
from bulk.index_table import IndexTable
from bulk.indexing import Summary, index
from bulk.place import open_place
from bundle.vectors import INDEX_TABLE, VECTORS_KEY, IndexInfo
from tests.bulk.index_input import COLUMNS, D, clustered, row, spec, write_part, write_parts

ROOT = Path(__file__).parents[2]


def run(folder: Path | str, **flags: Any) -> Summary:
    return index(IndexConfig(source=folder, **flags))


def opened(location: Path | str) -> Any:
    return lancedb.connect(str(location)).open_table(INDEX_TABLE)


def paths(location: Path | str) -> list[str]:
    return sorted(opened(location).to_arrow()["path"].to_pylist())


def names(count: int) -> list[str]:
    return [f"{number:06d}.jpg" for number in range(count)]


@pytest.fixture
def dst(tmp_path: Path) -> Path:
    return write_parts(tmp_path / "dst", clustered(250))


def test_the_table_is_as_the_contract_says(dst: Path) -> None:
    summary = run(dst)
    table = opened(dst / "_index")
    kinds = {"label": pa.string(), "year": pa.int64(), "score": pa.float64(), "sharp": pa.bool_()}
    told = {"path": pa.string(), "sha256": pa.string(), "vector": pa.list_(pa.float32(), D), **kinds}
    assert {field.name: field.type for field in table.schema if field.name != "_part"} == told
    assert IndexInfo.model_validate_json(table.schema.metadata[VECTORS_KEY]).vectors == spec()
    stored, given = table.to_arrow(), pq.read_table(dst)
    for name in ("path", "sha256", *COLUMNS):
        assert stored[name].to_pylist() == given[name].to_pylist()
    assert stored["vector"].to_pylist() == given["embedding"].to_pylist()
    assert (summary.num_rows, summary.num_new, summary.num_parts, summary.num_left_out) == (250, 250, 3, 0)
    assert summary.recall is None
    assert f"MAEVE_SEARCH_INDEX={dst}/_index python -m service" in str(summary)


def test_a_search_finds_what_comparing_all_finds(dst: Path) -> None:
    run(dst)
    vectors = clustered(250)
    for i in (0, 120, 249):
        found = opened(dst / "_index").search(vectors[i]).distance_type("cosine").limit(5).to_arrow()
        expected = np.argsort(-(vectors @ vectors[i]))[:5]
        assert found["path"].to_pylist() == [f"{j:06d}.jpg" for j in expected]


def test_only_new_parts_are_read_again(dst: Path) -> None:
    run(dst)
    first = dst / "part-000000.parquet"
    whole = first.read_bytes()
    first.write_bytes(b"PAR1" + bytes(len(whole) // 2) + whole[4 + len(whole) // 2 :])  # its footer is as it was
    write_parts(dst, clustered(150, seed=1), first=3)
    summary = run(dst)
    assert (summary.num_rows, summary.num_new, summary.num_parts) == (400, 150, 5)
    assert paths(dst / "_index") == [*names(250), *names(450)[300:]]
    version = opened(dst / "_index").version
    assert run(dst).num_new == 0
    assert opened(dst / "_index").version == version  # nothing was to be done, and nothing was


def test_a_part_that_was_made_again_or_is_gone_takes_its_rows_along(dst: Path) -> None:
    run(dst)
    vectors = clustered(100, seed=2)
    write_part(dst, 1, [row(f"again {i:02d}", vector) for i, vector in enumerate(vectors)])
    (dst / "part-000002.parquet").unlink()
    summary = run(dst)
    assert (summary.num_rows, summary.num_new) == (200, 100)
    assert paths(dst / "_index") == [*names(100), *(f"again {i:02d}" for i in range(100))]


def test_rows_that_were_left_out_are_counted(dst: Path) -> None:
    write_part(dst, 3, [row("unread", None), row("zero", np.zeros(D, np.float32)), row("good", clustered(1)[0])])
    for summary in (run(dst), run(dst)):
        assert (summary.num_rows, summary.num_left_out) == (251, 2)
    assert "left out   2 with an error, or a vector that has no direction" in str(summary)


def test_rows_of_two_runs_at_once_are_put_right(dst: Path) -> None:
    """At a URL nothing keeps two runs apart; both add the part."""
    run(dst)
    table = opened(dst / "_index")
    table.add(table.search().where("path < '000100.jpg'").to_arrow().select(table.schema.names))
    assert table.count_rows() == 350
    assert run(dst).num_rows == 250
    assert paths(dst / "_index") == names(250)


def test_rows_of_two_runs_are_told_where_most_vectors_have_no_direction(tmp_path: Path) -> None:
    zeros = [row(f"zero {i}", np.zeros(D, np.float32)) for i in range(5)]
    write_part(tmp_path, 0, [*zeros, *(row(f"good {i}", vector) for i, vector in enumerate(clustered(2)))])
    run(tmp_path)
    table = opened(tmp_path / "_index")
    table.add(table.to_arrow())
    assert (table.count_rows(), run(tmp_path).num_rows) == (4, 2)


def test_a_missing_lancedb_names_the_extra(dst: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lancedb", None)
    with pytest.raises(BulkError, match=r"LanceDB is not installed: pip install -e '\.\[bulk\]'"):
        run(dst, rebuild=True)


def test_an_index_elsewhere_with_some_of_the_columns(dst: Path, tmp_path: Path) -> None:
    out = tmp_path / "an index"
    summary = run(dst, out=out, columns="year,label")
    assert [name for name in opened(out).schema.names if name in COLUMNS] == ["year", "label"]
    assert "MAEVE_SEARCH_INDEX='" in str(summary)
    write_parts(dst, clustered(50, seed=1), first=3)
    assert run(dst, out=out).num_rows == 300  # the columns are the index's
    with pytest.raises(BulkError, match=r"has the columns year int64, label string, and these would be none; "):
        run(dst, out=out, columns="none")
    run(dst, out=out, columns="none", rebuild=True)
    assert opened(out).schema.names == ["path", "sha256", "vector", "_part"]


def test_an_index_of_another_bundle_is_refused_until_it_is_made_anew(dst: Path) -> None:
    run(dst)
    before = paths(dst / "_index")
    for number in range(3):
        write_part(dst, number, [row(f"b {number}", clustered(1)[0])], kind=spec(bundle="b", digest="b" * 64))
    with pytest.raises(BulkError, match=r"_index holds other vectors .* in bundle \(tiny and b\), digest .*--rebuild"):
        run(dst)
    assert paths(dst / "_index") == before
    assert run(dst, rebuild=True).contents.vectors.bundle == "b"
    assert paths(dst / "_index") == ["b 0", "b 1", "b 2"]


def test_an_index_of_another_dst_is_refused_until_it_is_made_anew(dst: Path, tmp_path: Path) -> None:
    out, other = tmp_path / "index", write_parts(tmp_path / "other", clustered(40, seed=3))
    run(dst, out=out)
    with pytest.raises(BulkError, match=r"made of .*/dst, and holds 3 parts that .*/other has not; .*--rebuild"):
        run(other, out=out)
    run(other, out=out, rebuild=True)
    assert paths(out) == names(40)


def test_a_folder_may_be_moved_and_copied(dst: Path, tmp_path: Path) -> None:
    run(dst)
    run(dst, out=tmp_path / "index")
    moved = dst.rename(tmp_path / "moved")
    write_part(moved, 1, [row("again", clustered(1)[0])])
    assert run(moved).num_rows == 151  # its index lies in it
    shutil.copytree(moved, tmp_path / "dst")
    assert run(tmp_path / "dst", out=tmp_path / "index").num_rows == 151  # where it was


def test_whoever_reads_the_old_index_goes_on_while_it_is_made_anew(dst: Path) -> None:
    run(dst)
    reader = opened(dst / "_index")
    write_parts(dst, clustered(250, seed=9))
    run(dst, rebuild=True)
    vector = clustered(250)[7]
    assert reader.search(vector).distance_type("cosine").limit(1).to_arrow()["_distance"][0].as_py() < 1e-6
    assert (
        opened(dst / "_index").search(vector).distance_type("cosine").limit(1).to_arrow()["_distance"][0].as_py() > 1e-3
    )


def test_many_rows_have_an_approximate_index_that_learns_anew_as_they_grow(
    dst: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk.indexing, "APPROXIMATE_FROM", 600)
    trained = []
    for number, first in ((200, 3), (200, 5), (200, 7), (500, 9)):
        write_parts(dst, clustered(number, seed=first), first=first)
        summary = run(dst)
        table = IndexTable.open(str(dst / "_index"))
        assert table is not None
        trained.append((summary.num_rows, table.num_trained, summary.recall))
    assert [each[:2] for each in trained] == [(450, 0), (650, 650), (850, 650), (1350, 1350)]
    assert trained[0][2] is None
    assert all(found is not None and found > 0.95 for *_, found in trained[1:])
    raw = opened(dst / "_index")
    assert {column: each.name for each in raw.list_indices() for column in each.columns} == {
        "vector": "vector_1350", **{name: f"{name}_idx" for name in COLUMNS},
    }  # fmt: skip
    assert all(raw.index_stats(each.name).num_unindexed_rows == 0 for each in raw.list_indices())
    stats = raw.index_stats("vector_1350")
    assert (stats.index_type, stats.distance_type) == ("IVF_SQ", "cosine")


def test_what_cannot_be_indexed_is_told(tmp_path: Path, dst: Path) -> None:
    write_part(tmp_path / "errors", 0, [row("a", None)])
    with pytest.raises(BulkError, match=r"not one image of .*errors could be embedded; .*/_maeve/errors\.csv says why"):
        run(tmp_path / "errors")
    assert not (tmp_path / "errors" / "_index").exists()
    write_part(tmp_path / "zeros", 0, [row("a", np.zeros(D, np.float32))])
    with pytest.raises(BulkError, match=r"not one vector of .*zeros has a direction"):
        run(tmp_path / "zeros")
    (tmp_path / "file").write_text("")
    with pytest.raises(BulkError, match="file/index: Not a directory; choose another --out"):
        run(dst, out=tmp_path / "file" / "index")
    with pytest.raises(BulkError, match=r"dst holds part-000000\.parquet, which is no index's; choose another --out"):
        run(dst, out=dst)


def test_a_damaged_index_is_told_and_a_table_that_never_was_is_made(dst: Path) -> None:
    run(dst)
    table = dst / "_index" / f"{INDEX_TABLE}.lance"
    for manifest in (table / "_versions").iterdir():
        manifest.write_bytes(b"damaged" * 20)
    with pytest.raises(BulkError, match=r"_index cannot be read or written: .*; if it is damaged, delete it"):
        run(dst)
    shutil.rmtree(table)
    table.mkdir()
    assert run(dst).num_rows == 250


def test_a_table_of_somebody_else_is_left_alone(dst: Path) -> None:
    lancedb.connect(str(dst / "_index")).create_table(INDEX_TABLE, data=[{"vector": [1.0, 2.0]}])
    with pytest.raises(BulkError, match=r"the table images of .*_index is no index of this Maeve"):
        run(dst)
    assert opened(dst / "_index").count_rows() == 1


def test_two_runs_at_once_are_kept_apart(dst: Path) -> None:
    run(dst)
    descriptor = os.open(dst / "_index", os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(BulkError, match=r"another run is writing to .*_index; wait for its end"):
        run(dst)
    os.close(descriptor)
    assert run(dst).num_new == 0


def test_an_unfinished_run_is_told_and_indexed_as_far_as_it_is(dst: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (dst / "_maeve").mkdir()
    pq.write_table(pa.table({"kind": ["files"] * 5}), dst / "_maeve" / "plan-0000.parquet")
    assert run(dst).num_rows == 250
    assert "dst is not finished: 3 of 5 parts are there. The same bulk.embed command" in capsys.readouterr().err


def command(*arguments: str, script: tuple[str, ...] = ("-m", "bulk.index")) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *script, *arguments], capture_output=True, text=True, check=False, cwd=ROOT, timeout=120
    )


def test_a_kill_neither_loses_nor_doubles_a_part(dst: Path) -> None:
    """Of 4 parts, and then of 4 more, one of the old ones made again; every process dies by SIGKILL."""
    script = (str(Path(__file__).with_name("index_killed.py")),)

    def killed(moment: str) -> None:
        assert command(moment, str(dst), script=script).returncode == -signal.SIGKILL, moment

    write_parts(dst, clustered(150, seed=1), first=3)
    killed("while rows are written")
    assert paths(dst / "_index") == []
    killed("between two commits")
    assert paths(dst / "_index") == names(200)
    killed("when it is trained")
    assert opened(dst / "_index").count_rows() == 400
    write_parts(dst, clustered(400, seed=4), first=5)
    write_part(dst, 0, [row(name, vector) for name, vector in zip(names(100), clustered(100, seed=5), strict=True)])
    killed("between removing and adding")
    killed("before it is tidied")
    killed("while it is made anew")
    summary = run(dst)
    assert (summary.num_rows, summary.num_new) == (800, 0)
    stored = opened(dst / "_index").to_arrow()
    given = pq.read_table(dst)
    assert sorted(stored["path"].to_pylist()) == sorted(given["path"].to_pylist())
    by_path = dict(zip(stored["path"].to_pylist(), stored["vector"].to_pylist(), strict=True))
    expected = dict(zip(given["path"].to_pylist(), given["embedding"].to_pylist(), strict=True))
    assert by_path == expected


def test_the_command_says_the_result_on_stdout_and_nothing_of_lancedb(dst: Path) -> None:
    done = command(str(dst))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[0] == f"index      {dst}/_index"
    assert done.stdout.splitlines()[-1].startswith("next       MAEVE_SEARCH_INDEX=")
    failed = command(str(dst / "none"))
    assert (failed.returncode, failed.stdout) == (2, "")
    assert (
        failed.stderr
        == f"error: {dst}/none holds no parts, such as part-000000.parquet; python -m bulk.embed makes them\n"
    )


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """Of a server that speaks S3."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**keys, "AWS_ENDPOINT_URL": f"http://{host}:{port}"}.items():
            patch.setenv(name, value)
        with urlopen(Request(f"http://{host}:{port}/shop", method="PUT"), timeout=10):
            pass  # a bucket is made so
        yield "s3://shop"
    server.stop()


def test_parts_and_index_may_lie_in_a_store(dst: Path, bucket: str) -> None:
    place = open_place(f"{bucket}/embedded")
    for part in sorted(dst.glob("*.parquet"))[:2]:
        place.write(part.name, part.read_bytes())
    assert run(f"{bucket}/embedded").num_rows == 200
    place.write("part-000002.parquet", (dst / "part-000002.parquet").read_bytes())
    summary = run(f"{bucket}/embedded/")
    assert (summary.num_rows, summary.num_new) == (250, 50)
    assert summary.size_bytes > 250 * D * 4
    assert "MAEVE_SEARCH_INDEX=s3://shop/embedded/_index " in str(summary)
    table = IndexTable.open(f"{bucket}/embedded/_index")
    assert table is not None
    vectors = clustered(250)
    np.testing.assert_allclose(table.nearest(vectors[3], 1)[0], vectors[3])


def test_a_store_that_has_no_such_bucket_is_told(dst: Path, bucket: str) -> None:
    with pytest.raises(BulkError, match=r"cannot read s3://none/embedded: .* no such bucket"):
        run(f"{bucket.replace('shop', 'none')}/embedded")
    with pytest.raises(BulkError, match=r"cannot read s3://none/index: .* no such bucket"):
        run(dst, out=f"{bucket.replace('shop', 'none')}/index")
