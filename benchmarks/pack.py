"""How fast are images packed and streamed, next to nothing but decoding them?

    python -m benchmarks.pack
    python -m benchmarks.pack --data photos/

The limit is one thread that decodes and scales the same encoded images from memory. Then they are packed with one
thread and with all, and streamed in batches of 256, several times in turns. Without --data it makes its own: JPEGs
of 64 pixels in a Parquet file.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import cycle, islice
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from benchmarks.report import Report
from sources import open_source
from training.decode import Decoder, default_channels, median_side, num_cores
from training.pack import pack
from training.recipes import choose_recipe
from training.stream import open_stream

_BATCH = 256
_DISTINCT = 64


def make_images(path: Path, count: int, side: int = 64) -> Path:
    """Smooth noise, which compresses about as photos do."""
    rng = np.random.default_rng(0)
    encoded = []
    for _ in range(_DISTINCT):
        coarse = Image.fromarray(rng.integers(0, 256, (side // 4, side // 4, 3), dtype=np.uint8))
        buffer = io.BytesIO()
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        encoded.append(buffer.getvalue())
    pq.write_table(pa.table({"image": list(islice(cycle(encoded), count))}), path, row_group_size=1000)
    return path


def rate(count: int, work: Callable[[], object]) -> float:
    """Images a second."""
    start = time.perf_counter()
    work()
    return count / (time.perf_counter() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="any source that training.pack takes")
    parser.add_argument("--images", type=int, default=12_500, help="how many are made without --data")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        data = args.data or str(make_images(root / "made.parquet", args.images))
        measure(data, root, args.rounds).write()


def measure(data: str, root: Path, rounds: int) -> Report:
    source = open_source(data)
    size = choose_recipe(median_side(source)).pack_size
    decoder = Decoder(source, size, default_channels(source))
    some = [sample.data for sample in islice(source, 1000)]
    count, cores = len(source), num_cores()
    steps = count // _BATCH
    places = (root / f"pack-{i}" for i in range(2 * rounds))
    stream = open_stream(data, root / "stream", size=size)
    work: dict[str, tuple[int, Callable[[], object]]] = {
        "decoding alone, 1 thread": (count, lambda: [decoder(image) for image in islice(cycle(some), count)]),
        "packing, 1 thread": (count, lambda: pack(data, next(places), size=size, workers=1)),
        f"packing, {cores} threads": (count, lambda: pack(data, next(places), size=size)),
        f"streaming, {cores} threads": (steps * _BATCH, lambda: [stream.batch_at(s, _BATCH) for s in range(steps)]),
    }
    rates = [{name: rate(*job) for name, job in work.items()} for _ in range(rounds)]
    stream.close()
    report = Report("pack", __doc__ or "")
    report.add("setting", f"{count:,} images to {size[0]}x{size[1]}, median of {rounds} rounds")
    limit = next(iter(work))
    for name in work:
        median = statistics.median(row[name] for row in rates)
        share = statistics.median(row[name] / row[limit] for row in rates)
        report.add(name, f"{median:,.0f} img/s, {share:.2f}x")
    return report


if __name__ == "__main__":
    main()
