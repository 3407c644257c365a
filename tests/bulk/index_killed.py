"""python index_killed.py MOMENT DST: bulk.index on DST, which kills itself at some moment, as kill -9 does.

Commits are of 100 rows, and an approximate index is made from 300 on.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pyarrow as pa

from bulk import indexing
from bulk.index import main
from bulk.index_parts import Part, read_rows
from bulk.index_table import IndexTable
from bulk.place import Place

moment = sys.argv.pop(1)
replaced: dict[str, object] = {"_ROWS_PER_COMMIT": 100, "APPROXIMATE_FROM": 300}


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed(name: str, *, after: bool, count: int = 1) -> None:
    """Die before or after the `count`-th call of a method of the table."""
    method: Callable[..., Any] = getattr(IndexTable, name)
    calls: list[None] = []

    def call(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == count and not after:
            die()
        done = method(*args, **kwargs)
        if len(calls) == count:
            die()
        return done

    setattr(IndexTable, name, call)


def read_some(place: Place, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows of one part, and then no more."""
    yield next(read_rows(place, parts, schema))
    die()


match moment:
    case "while rows are written":
        replaced["read_rows"] = read_some
    case "between two commits":
        killed("add", after=True, count=2)
    case "between removing and adding":
        killed("remove", after=True)
    case "before it is tidied":
        killed("tidy", after=False)
    case "when it is trained":
        killed("train", after=True)
    case "while it is made anew":
        replaced["read_rows"] = read_some
        sys.argv.append("--rebuild")
    case _:
        raise SystemExit(f"there is no moment {moment!r}")
for name, value in replaced.items():
    setattr(indexing, name, value)
main()
