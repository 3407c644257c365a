"""How fast is a search in an index, and how many of the nearest rows does it find?

    python -m benchmarks.search --rows 20000 100000 1000000
    python -m benchmarks.search --data embedded

An index is made as bulk.index makes it and asked as the service asks, one query after the other, for 10 rows, and for
10 of the tenth of the rows that a filter lets through. Beside it in the same rounds, in turns: LanceDB without the
approximate index, and numpy, which has all vectors, and apart from them those of the filter, in memory and is the
limit. Other kinds of index by --kinds. Recall is against numpy. Vectors are of --data, which bulk.embed wrote, or made:
clusters in a space whose directions differ much in weight, leaning all to one side, as those of an encoder do. Queries
are vectors that are not in it.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from benchmarks.report import Report
from bulk.index_parts import common_spec, list_parts, read_rows
from bulk.index_recall import K, best_cosines, recall, unit
from bulk.index_table import ROWS_PER_PARTITION, Contents, IndexTable
from bulk.place import open_place
from bundle.vectors import INDEX_TABLE, REFINE, VectorSpec

# Letters: N rows, Q queries, D width of a vector, K rows asked for.
HEADER = (
    "rows", "how", "made in s", "MB", "recall@10", "queries/s", "p50 ms", "p99 ms", "filtered: recall@10", "p50 ms",
    "p99 ms",
)  # fmt: skip
KINDS = ("IvfSq", "IvfPq", "IvfRq", "IvfHnswSq", "IvfFlat")  # the first is what bulk.index makes
_FILTER = "tenth = '3'"
_NUM_CLUSTERS = 1000
Vectors = NDArray[np.float32]
Search = Callable[[Vectors, str | None], Vectors]  # a query [D] and a filter -> vectors [K, D]


@dataclass(frozen=True)
class Input:
    """rows [N, D] and queries [Q, D] of length 1; tenths: i64 [N], 0 to 9, by which the filter chooses."""

    rows: Vectors
    queries: Vectors
    tenths: NDArray[np.int64]

    @property
    def chosen(self) -> Vectors:
        """Those that the filter lets through."""
        chosen: Vectors = self.rows[self.tenths == 3]
        return chosen


@dataclass
class Timed:
    """Seconds of every query, without and with the filter."""

    plain: list[float] = field(default_factory=list)
    filtered: list[float] = field(default_factory=list)


def made_vectors(count: int, dim: int, *, seed: int = 0) -> Vectors:
    """float32 [count, D] of length 1."""
    rng = np.random.default_rng(seed)
    basis = rng.normal(size=(dim, dim)) * np.arange(1, dim + 1)[:, None] ** -0.7  # [D, D]
    centres, lean = rng.normal(size=(_NUM_CLUSTERS, dim)), rng.normal(size=dim)
    made = np.empty((count, dim), np.float32)
    for start in range(0, count, 100_000):
        own = rng.integers(0, _NUM_CLUSTERS, min(100_000, count - start))
        made[start : start + len(own)] = (centres[own] + rng.normal(size=(len(own), dim))) @ basis + lean
    return unit(made)


def read_vectors(data: str) -> Vectors:
    """float32 [N, D] of length 1: all that bulk.embed wrote."""
    place = open_place(data)
    parts = list_parts(place)
    schema = Contents(common_spec(place, parts), {}, "").schema()
    flat = [batch["vector"].flatten().to_numpy() for batch in read_rows(place, parts, schema)]
    return unit(np.concatenate(flat).reshape(-1, parts[0].spec.dim))


def divided(vectors: Vectors, num_queries: int) -> Input:
    """Queries taken from the vectors at random, and the others in their order."""
    rng = np.random.default_rng(1)
    chosen = np.zeros(len(vectors), bool)
    chosen[rng.choice(len(vectors), num_queries, replace=False)] = True
    return Input(vectors[~chosen], vectors[chosen], rng.integers(0, 10, len(vectors) - num_queries))


def make_table(folder: Path, given: Input) -> Any:
    """LanceDB's table of the rows, as bulk.index makes it, without an approximate index."""
    dim = given.rows.shape[1]
    spec = VectorSpec(
        bundle="made", digest="0" * 64, precision="fp32", pooling="mean", normalize=True, keep=1.0, dim=dim,
        dtype="float32",
    )  # fmt: skip
    contents = Contents(spec, {"tenth": "string"}, "")
    IndexTable.make(str(folder), contents, _batches(given, contents.schema()))
    import lancedb  # after bulk.index_table has seen to its log

    return lancedb.connect(str(folder)).open_table(INDEX_TABLE)


def _batches(given: Input, schema: pa.Schema, size: int = 1024) -> Iterator[pa.RecordBatch]:
    for start in range(0, len(given.rows), size):
        some = given.rows[start : start + size]
        numbers = range(start, start + len(some))
        columns = [
            pa.array([f"{number:09d}.jpg" for number in numbers]),
            pa.array([f"{number:064x}" for number in numbers]),
            pa.FixedSizeListArray.from_arrays(pa.array(some.reshape(-1)), type=schema.field("vector").type),
            pa.array([str(tenth) for tenth in given.tenths[start : start + size]]),
            pa.array(np.full(len(some), start // size, np.uint64)),
        ]
        yield pa.RecordBatch.from_arrays(columns, schema=schema)


def train(folder: Path, table: Any, kind: str) -> None:
    """Replace the table's approximate index by one of this kind, its numbers chosen as for the one of bulk.index."""
    if kind == KINDS[0]:
        ours = IndexTable.open(str(folder))
        assert ours is not None
        ours.train()
        table.checkout_latest()
        return
    import lancedb.index

    num_rows, dim = table.count_rows(), table.schema.field("vector").type.list_size
    # A graph wants few and large partitions, products of few numbers each.
    per_partition = 500_000 if kind == "IvfHnswSq" else ROWS_PER_PARTITION
    options = {"num_sub_vectors": dim // 4} if kind == "IvfPq" else {}
    config = getattr(lancedb.index, kind)(
        distance_type="cosine", num_partitions=max(1, num_rows // per_partition), **options
    )
    table.create_index("vector", config=config, name="vector_0", replace=True)


def drop_approximate(table: Any) -> None:
    for index in table.list_indices():
        if index.columns == ["vector"]:
            table.drop_index(index.name)


def by_lancedb(table: Any, *, exact: bool) -> Search:
    """As the service asks."""

    def search(query: Vectors, where: str | None) -> Vectors:
        asked = table.search(query).distance_type("cosine").limit(K).select(["path", "tenth", "vector", "_distance"])
        asked = asked.bypass_vector_index() if exact else asked.refine_factor(REFINE).maximum_nprobes(0)
        found = (asked if where is None else asked.where(where)).to_arrow()["vector"].combine_chunks()
        vectors: Vectors = found.flatten().to_numpy().reshape(-1, len(query))
        return vectors

    return search


def by_numpy(given: Input) -> Search:
    chosen = given.chosen

    def search(query: Vectors, where: str | None) -> Vectors:
        rows = given.rows if where is None else chosen
        cosines = rows @ query  # [N]
        best = np.argpartition(-cosines, K)[:K]
        return rows[best[np.argsort(-cosines[best])]]

    return search


def in_turns(ways: Sequence[Search], queries: Vectors, rounds: int) -> list[Timed]:
    """Of each way in the same rounds, after one that is left out; the order alternates."""
    timed = [Timed() for _ in ways]
    for i in range(-1, rounds):
        for at in sorted(range(len(ways)), reverse=bool(i % 2)):
            kept = timed[at] if i >= 0 else Timed()
            for where, seconds in ((None, kept.plain), (_FILTER, kept.filtered)):
                for query in queries:
                    start = time.perf_counter()
                    ways[at](query, where)
                    seconds.append(time.perf_counter() - start)
    return timed


def rows_of_table(folder: Path, given: Input, args: argparse.Namespace) -> Iterator[tuple[str, ...]]:
    start = time.perf_counter()
    table = make_table(folder, given)
    written_s, written = time.perf_counter() - start, _size_bytes(folder)
    exact = [best_cosines(given.queries, [rows], K) for rows in (given.rows, given.chosen)]  # [Q, K] each
    limit, all_rows = by_numpy(given), by_lancedb(table, exact=True)

    def told(how: str, made_s: str, size: str, way: Search, timed: Timed) -> tuple[str, ...]:
        shares = [
            recall(given.queries, nearest, lambda query, _, where=where: way(query, where))  # type: ignore[misc]
            for nearest, where in zip(exact, (None, _FILTER), strict=True)
        ]
        rate = len(timed.plain) / sum(timed.plain)
        return (
            f"{len(given.rows):,}", how, made_s, size, f"{shares[0]:.4f}", f"{rate:,.0f}", *_percentiles(timed.plain),
            f"{shares[1]:.4f}", *_percentiles(timed.filtered),
        )  # fmt: skip

    for number, kind in enumerate(args.kinds):
        start, before = time.perf_counter(), _size_bytes(folder)
        train(folder, table, kind)
        trained_s, size = time.perf_counter() - start, _size_bytes(folder) - before
        approximate = by_lancedb(table, exact=False)
        timed = in_turns([limit, all_rows, approximate], given.queries, args.rounds)
        if number == 0:
            yield told("numpy, in memory", "", "", limit, timed[0])
            yield told("LanceDB, all rows", f"{written_s:.1f}", f"{written / 1e6:,.0f}", all_rows, timed[1])
        yield told(f"LanceDB, {kind}", f"+ {trained_s:.1f}", f"+ {size / 1e6:,.0f}", approximate, timed[2])
        drop_approximate(table)


def _percentiles(seconds: Sequence[float]) -> tuple[str, str]:
    median, late = np.percentile(seconds, [50, 99]) * 1e3
    return f"{median:.1f}", f"{late:.1f}"


def _size_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def main() -> None:
    args = _arguments()
    data = None if args.data is None else read_vectors(args.data)
    sizes = args.rows if data is None else [len(data) - args.queries]
    named = "search" if data is None else f"search_{Path(args.data).name}"
    report = Report(args.name or named, __doc__ or "")
    report.add("vectors", "made" if data is None else f"of {Path(args.data).name}")
    report.add("width", str(args.dim if data is None else data.shape[1]))
    report.add("queries", f"{args.queries:,} in {args.rounds} rounds, one after the other")
    report.add("LanceDB", version("lancedb"))
    rows: list[tuple[str, ...]] = []
    for size in sizes:
        vectors = made_vectors(size + args.queries, args.dim) if data is None else data
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            for row in rows_of_table(Path(folder), divided(vectors, args.queries), args):
                print(" ".join(row), flush=True)
                rows.append(row)
    report.table(HEADER, rows)
    report.write()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="what bulk.embed wrote, instead of vectors that are made")
    parser.add_argument("--rows", type=int, nargs="+", default=[5_000, 20_000, 100_000])
    parser.add_argument("--dim", type=int, default=192, help="of vectors that are made")
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kinds", choices=KINDS, nargs="+", default=[KINDS[0]])
    parser.add_argument("--folder", help="where the tables are put; by default that of temporary files")
    parser.add_argument("--name", help="of the file in results/; by default search, or search_NAME for --data NAME")
    args = parser.parse_args()
    if min(args.rows) <= 10 * K or args.queries < 1 or args.rounds < 1:
        parser.error(f"--rows must be more than {10 * K}, --queries and --rounds at least 1")
    return args


if __name__ == "__main__":
    main()
