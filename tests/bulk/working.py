"""What the tests of making parts share: a job without Ray, a run as a process, and what came of it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from moto.server import ThreadedMotoServer
from numpy.typing import NDArray
from pyarrow import fs

from bulk.listing import list_pieces
from bulk.pieces import ReadOptions
from bulk.place import Place, open_place
from bulk.plan import Plans
from bulk.record import Engine, RunRecord
from bulk.watch import Past, Teller
from bulk.worker import Job
from bundle.store import Bundle
from bundle.vectors import VectorSpec
from tests.servers import ROOT
from tests.service.helpers import photo

READING = ReadOptions(max_file_bytes=2**20, rows_per_piece=4)
TIMEOUT_S = 120


def write_photos(folder: Path, count: int, first: int = 0) -> dict[str, bytes]:
    """By their names, in folders `even` and `odd`."""
    made = {f"{('even', 'odd')[i % 2]}/{i:03}.png": photo(i) for i in range(first, first + count)}
    for name, data in made.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return made


def spec_of(bundle: Bundle, **changed: Any) -> VectorSpec:
    fields: dict[str, Any] = {
        "bundle": bundle.manifest.name, "digest": bundle.manifest.digest, "precision": "fp32", "pooling": "mean",
        "normalize": True, "keep": 1.0, "dim": bundle.manifest.model.dim, "dtype": "float32",
    }  # fmt: skip
    return VectorSpec(**fields | changed)


def record_of(bundle: Bundle, **changed: Any) -> RunRecord:
    fields: dict[str, Any] = {
        "created_at": datetime(2026, 1, 2, tzinfo=UTC), "sources": ("photos",), "vectors": spec_of(bundle),
        "engine": Engine(runtime="fake", device="cpu", precision="fp32"), "image_column": None,
        "carried": {"label": "string"}, "max_pixels": 10**6, "max_file_bytes": READING.max_file_bytes, "versions": {},
    }  # fmt: skip
    return RunRecord(**fields | changed)


class Notes:
    """Tells nobody; `deaths` is how often each part's process died before."""

    def __init__(self, deaths: Mapping[int, int] | None = None) -> None:
        self.deaths = Counter(deaths or {})
        self.begun: list[int] = []
        self.ended: list[int] = []

    def past(self, part: int) -> Past:
        return Past(self.deaths[part], part in self.ended)

    def begin(self, part: int) -> None:
        self.begun.append(part)

    def note(self, part: int, num_rows: int) -> None:
        pass

    def end(self, part: int) -> None:
        self.ended.append(part)


def job_of(bundle: Bundle, photos: Path | str, out: Path, teller: Teller | None = None, **record: Any) -> Job:
    """Planned, and nothing made."""
    place = open_place(out)
    plans = plans_of(place, photos)
    return Job(
        place=place, plans=plans, bundle=bundle.path, record=record_of(bundle, **record), reading=READING, lanes=2,
        decoders=1, teller=teller or Notes(),
    )  # fmt: skip


def plans_of(place: Place, photos: Path | str) -> Plans:
    return Plans(place, ()).extended(list_pieces([str(photos)], READING).pieces)


@contextmanager
def store() -> Iterator[dict[str, str]]:
    """An object store in this process, by the variables that tell the way to it."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "us-east-1", "AWS_ACCESS_KEY_ID": "a",
            "AWS_SECRET_ACCESS_KEY": "b",
        }  # fmt: skip
    finally:
        server.stop()


def bucket(access: Mapping[str, str], name: str) -> fs.S3FileSystem:
    """The store, with one more bucket."""
    files = fs.S3FileSystem(
        endpoint_override=access["AWS_ENDPOINT_URL"], region=access["AWS_REGION"], allow_bucket_creation=True,
        access_key=access["AWS_ACCESS_KEY_ID"], secret_key=access["AWS_SECRET_ACCESS_KEY"],
    )  # fmt: skip
    files.create_dir(name)
    return files


@dataclass(frozen=True)
class Found:
    """What readers of Parquet see of an output. vectors: f32 or f16 [N, D], zeros where there is none."""

    paths: list[str]
    sha256: list[str | None]
    vectors: NDArray[Any]
    errors: dict[str, str]
    table: Any

    @classmethod
    def at(cls, out: Path) -> Found:
        table = pq.read_table(out)
        paths = table["path"].to_pylist()
        dim = table.schema.field("embedding").type.list_size
        vectors = np.array([vector or [0] * dim for vector in table["embedding"].to_pylist()])
        errors = {p: e for p, e in zip(paths, table["error"].to_pylist(), strict=True) if e is not None}
        return cls(paths, table["sha256"].to_pylist(), vectors, errors, table)


def command(source: object, bundle: Path, out: object, *flags: str) -> list[str]:
    words = [sys.executable, "-m", "bulk.embed", str(source), "--bundle", str(bundle), "--out", str(out)]
    return [*words, *flags]


def environment(**more: str) -> dict[str, str]:
    """Another working directory than this one's needs to be told where the packages are."""
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "100"} | more


def run(line: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        line, capture_output=True, text=True, check=False, env=environment(**more), timeout=TIMEOUT_S
    )  # fmt: skip
