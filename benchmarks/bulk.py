"""How much of a bare decode + run loop is left in bulk embedding, and does it come through kills?

    python -m benchmarks.bulk --data train.parquet test.parquet
    python -m benchmarks.bulk --limit 4096 --rounds 1

The loop holds the encoded images in memory and has one thread for each lane of the engine; each decodes as many as the
engine likes in a call, and runs them. Bulk is the command itself, in a process of its own: it starts Ray, lists, reads,
decodes, runs, hashes and writes, and ends. Both in turns, the ratio is the median of the paired ones, once with all
that and once without what the command takes for a single image. Then the command is killed with all its processes a
few times, and goes on: every row has to be there once, and every vector that of an uninterrupted run.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

from benchmarks.report import Report
from bulk.listing import list_pieces
from bulk.pieces import ReadOptions
from bulk.reading import read_piece
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from runtime.agreement import cosines
from runtime.base import Runtime
from runtime.select import open_runtime

HEADER = ("", "img/s", "of the loop")
_DISTINCT, _SIDE, _MADE = 64, 64, 16_384
_OPTIONS = ReadOptions(max_file_bytes=2**26, columns=())


@dataclass(frozen=True)
class Timed:
    """bare_s: the loop; bulk_s: the command, of which one image alone takes start_s."""

    bare_s: float
    bulk_s: float
    start_s: float

    @property
    def ratio(self) -> float:
        return self.bare_s / self.bulk_s

    @property
    def ratio_without_start(self) -> float:
        return self.bare_s / (self.bulk_s - self.start_s)


def encoded_images(sources: Sequence[str], limit: int | None) -> list[bytes]:
    """Those that can be read, in the order of the sources; made ones where there are none."""
    if not sources:
        return list(islice(cycle(_made()), limit or _MADE))
    listing = list_pieces(sources, _OPTIONS)
    rows = (row for piece in listing.pieces for row in read_piece(piece, _OPTIONS, listing.columns))
    return list(islice((row.data for row in rows if isinstance(row.data, bytes)), limit))


def bare_loop(bundle: Bundle, runtime: Runtime, images: Sequence[bytes]) -> NDArray[np.float32]:
    """The bundle's pooling of every image, f32 [N, D], by one thread for each lane."""
    manifest = bundle.manifest
    ids = keep_ids(manifest.model.num_patches, 1.0)  # [K]
    found = np.empty((len(images), manifest.model.dim), np.float32)
    starts = iter(range(0, len(images), runtime.max_batch))
    lock = threading.Lock()

    def lane() -> None:
        while True:
            with lock:
                start = next(starts, None)
            if start is None:
                return
            some = images[start : start + runtime.max_batch]
            pixels = [preprocess(each, manifest.preprocess, channels=manifest.model.channels) for each in some]
            inputs: dict[str, NDArray[Any]] = {"images": np.stack(pixels), "ids_keep": np.tile(ids, (len(some), 1))}
            found[start : start + len(some)] = runtime.run("encoder", inputs, [manifest.pooling])[manifest.pooling]

    threads = [threading.Thread(target=lane) for _ in range(runtime.lanes)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def command(source: Path, bundle: Bundle, runtime: Runtime, out: Path) -> list[str]:
    engine = ["--runtime", runtime.name, "--device", "cpu", "--precision", runtime.precision]
    return [sys.executable, "-m", "bulk.embed", str(source), "--bundle", str(bundle.path), "--out", str(out), *engine]


def seconds_of(line: Sequence[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(line)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def killed_and_resumed(line: Sequence[str], out: Path, kills: int, seed: int = 0) -> None:
    """Each time after some more parts are there, at a random moment within the next ones."""
    rng = random.Random(seed)
    for _ in range(kills):
        before, started = _num_parts(out), time.monotonic()
        process = subprocess.Popen(line, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
        while process.poll() is None and _num_parts(out) <= before:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, time.monotonic() - started))
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    seconds_of(line)


def vectors_of(out: Path) -> tuple[list[str], NDArray[np.float32]]:
    """Paths, and vectors f32 [N, D], in the order of the parts."""
    table = pq.read_table(out, columns=["path", "embedding"])
    flat = table["embedding"].combine_chunks().flatten().to_numpy()
    return table["path"].to_pylist(), flat.reshape(table.num_rows, -1)


def _num_parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


def _made() -> Iterator[bytes]:
    """JPEGs of smooth noise, which compresses about as photos do."""
    rng = np.random.default_rng(0)
    for _ in range(_DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (_SIDE // 4, _SIDE // 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield buffer.getvalue()


def _write(images: Sequence[bytes], path: Path) -> Path:
    pq.write_table(pa.table({"image": list(images)}), path, row_group_size=2048)
    return path


def measure(bundle: Bundle, runtime: Runtime, images: Sequence[bytes], root: Path, rounds: int, kills: int) -> Report:
    source, single = _write(images, root / "images.parquet"), _write(images[:1], root / "one.parquet")
    report = Report("bulk", __doc__ or "")
    report.add("bundle", f"{bundle.manifest.name}, {runtime.name} in {runtime.precision}, {runtime.lanes} lanes")
    report.add("images", f"{len(images):,}, {sum(map(len, images)) / len(images) / 1000:.1f} KB each")
    timed: list[Timed] = []
    bare_vectors = bare_loop(bundle, runtime, images[:256])  # what loads lazily does so here
    out = root / "out"
    for i in range(rounds):
        took: dict[str, float] = {}
        for way in ("bare", "bulk")[:: -1 if i % 2 else 1]:
            if way == "bare":
                start = time.perf_counter()
                bare_vectors = bare_loop(bundle, runtime, images)
                took[way] = time.perf_counter() - start
            else:
                shutil.rmtree(out, ignore_errors=True)
                took[way] = seconds_of(command(source, bundle, runtime, out))
        start_s = seconds_of(command(single, bundle, runtime, root / f"one-{i}"))
        timed.append(Timed(took["bare"], took["bulk"], start_s))
    _add_speed(report, timed, len(images))
    _add_agreement(report, bare_vectors, out)
    if kills:
        killed_and_resumed(command(source, bundle, runtime, root / "killed"), root / "killed", kills)
        _add_kills(report, out, root / "killed", kills)
    return report


def _add_speed(report: Report, timed: Sequence[Timed], count: int) -> None:
    def rate(seconds: Sequence[float]) -> str:
        return f"{count / statistics.median(seconds):,.0f}"

    report.add("the command for one image", f"{statistics.median(t.start_s for t in timed):.1f} s")
    report.table(HEADER, [
        ("bare loop", rate([t.bare_s for t in timed]), "1"),
        ("bulk", rate([t.bulk_s for t in timed]), f"{statistics.median(t.ratio for t in timed):.3f}"),
        ("bulk without its start", rate([t.bulk_s - t.start_s for t in timed]),
         f"{statistics.median(t.ratio_without_start for t in timed):.3f}"),
    ])  # fmt: skip


def _add_agreement(report: Report, bare: NDArray[np.float32], out: Path) -> None:
    _, found = vectors_of(out)
    report.add("least cosine of a vector to the loop's", f"{cosines(found, bare).min():.6f}")


def _add_kills(report: Report, whole: Path, killed: Path, kills: int) -> None:
    (paths, vectors), (paths_after, vectors_after) = vectors_of(whole), vectors_of(killed)
    once = paths_after == paths and len(set(paths)) == len(paths)
    report.add(f"after {kills} kills, every row once and in its place", "yes" if once else "NO")
    if once:
        report.add("vectors equal bit for bit", "yes" if np.array_equal(vectors, vectors_after) else "NO")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--data", nargs="+", default=[], help="any sources that bulk.embed takes")
    parser.add_argument("--limit", type=int, help="images; all by default")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kills", type=int, default=2)
    parser.add_argument("--runtime", default="auto")
    parser.add_argument("--precision", default="auto")
    args = parser.parse_args()
    bundle = load_bundle(args.bundle)
    images = encoded_images(args.data, args.limit)
    runtime = open_runtime(bundle, args.runtime, device="cpu", precision=args.precision)
    try:
        with tempfile.TemporaryDirectory() as folder:
            measure(bundle, runtime, images, Path(folder), args.rounds, args.kills).write()
    finally:
        runtime.close()


if __name__ == "__main__":
    main()
