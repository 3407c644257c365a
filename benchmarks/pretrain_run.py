"""How fast is a whole pre-training run, its data included?

    python -m benchmarks.pretrain_run [--recipe paper-base --batch 512]

`python -m training.pretrain` itself on packed noise of the right size, once with each feed, for about as long as is
asked; the speed is that of the second half of its log, by when everything is compiled and warm.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.report import Report
from benchmarks.synthetic import write_pack
from training import loop
from training.compute import FeedName
from training.device import pick_device
from training.errors import Terminated
from training.pretrain import PretrainConfig, pretrain
from training.recipes import RECIPES, Recipe


def run(config: PretrainConfig, seconds: float) -> list[dict[str, float]]:
    """The log rows of a run that is told to stop after so many seconds."""
    import signal
    import threading

    timer = threading.Timer(seconds, lambda: signal.raise_signal(signal.SIGTERM))
    timer.daemon = True
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    timer.start()
    try:
        pretrain(config)
    except Terminated:
        pass
    finally:
        timer.cancel()
        signal.signal(signal.SIGTERM, before)
    rows = [json.loads(line) for line in (config.out / "metrics.jsonl").read_text().splitlines()]
    return [row for row in rows if "loss" in row]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipe", choices=list(RECIPES), default="px64")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--images", type=int, default=4096)
    parser.add_argument("--seconds", type=float, default=60.0, help="of each run, compiling included")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--compile", default="auto", choices=["auto", "off", "on", "graphs"])
    args = parser.parse_args()
    device = pick_device(args.device)
    recipe: Recipe = RECIPES[args.recipe]
    feeds: tuple[FeedName, ...] = ("resident", "mapped") if device.type == "cuda" else ("mapped",)
    loop.LOG_EVERY_S = 1.0
    report = Report(f"pretrain_run_{args.recipe}", __doc__ or "")
    side = recipe.image_size[0]
    network = f"{recipe.preset}/{recipe.patch_size} at {side} px, decoder {recipe.decoder_dim} x {recipe.decoder_depth}"
    report.add("setting", f"{network}, batch {args.batch}, {args.images:,} images packed at {recipe.pack_size[0]} px")
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        pack = write_pack(Path(folder) / "pack", num_images=args.images, size=recipe.pack_size, num_shards=4)
        print(f"made the data in {time.perf_counter() - start:.0f} s", flush=True)
        for feed in feeds:
            rows = run(
                PretrainConfig(
                    data=str(pack), out=Path(folder) / feed, recipe=args.recipe, batch_size=args.batch, feed=feed,
                    epochs=10**6, warmup_epochs=1, picture_every=10**6, device=args.device, compile=args.compile,
                ),
                args.seconds,
            )  # fmt: skip
            late = rows[len(rows) // 2 :]
            figures = {
                name: statistics.median(row[name] for row in late) for name in ("images_per_s", "mfu", "data_wait")
            }
            report.add(
                f"feed {feed}",
                f"{figures['images_per_s']:,.0f} img/s, MFU {figures['mfu']:.0%}, waits {figures['data_wait']:.0%}",
            )
            if device.type == "cuda":
                torch.cuda.empty_cache()
    report.write()


if __name__ == "__main__":
    main()
