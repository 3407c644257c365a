"""Does the whole path hold together: does pre-training beat from scratch, and is HTTP's accuracy torch's?

    python -m benchmarks.cifar10 --train cifar10-train.parquet --test cifar10-test.parquet --work /tmp/cifar10

Runs the commands that a user would: pack, pre-train on all images without labels, fine-tune on a tenth of the labels,
the same from scratch with the same budget, export, serve, and classify the test set over HTTP. A step whose folder is
there already is resumed or skipped, so the script can be stopped and started again.
"""

from __future__ import annotations

import argparse
import json
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.labeled import classified, read_files
from benchmarks.load.requests import read_photos
from benchmarks.load.servers import Server, ours
from benchmarks.report import Report
from service.client import Client


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--pretrain-epochs", type=int, default=4)
    parser.add_argument("--finetune-epochs", type=int, default=6)
    parser.add_argument("--depth", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    report = Report("cifar10", __doc__ or "")
    work: Path = args.work
    for name, data in (("train.pack", args.train), ("test.pack", args.test)):
        if not (work / name).exists():
            command(report, "pack", f"-m training.pack --data {data} --out {work / name}")
    data, test = work / "train.pack", work / "test.pack"
    seed = f"--seed {args.seed} --resume"
    command(
        report,
        "pre-train",
        f"-m training.pretrain --data {data} --out {work / 'pretrain'} --depth {args.depth} "
        f"--epochs {args.pretrain_epochs} --batch-size 128 --blr 2e-3 {seed}",
    )
    few = (
        f"--finetune-recipe plain --label-fraction 0.1 --epochs {args.finetune_epochs} --batch-size 64 "
        f"--blr 4e-3 {seed} --data {data} --test {test}"
    )
    # From scratch there are no lower layers to spare: layer decay 1.
    starts = {
        "finetune": f"--init {work / 'pretrain'}",
        "scratch": f"--init none --depth {args.depth} --layer-decay 1.0",
    }
    for name, start in starts.items():
        command(report, name, f"-m training.finetune {start} --out {work / name} {few}")
    bundle = work / "bundle"
    if not bundle.exists():
        command(report, "export", f"-m export {work / 'pretrain'} --classifier {work / 'finetune'} --out {bundle}")
    torch_top1 = metric(work / "finetune", "test_top1")
    scratch_top1 = metric(work / "scratch", "test_top1")
    http_top1, seconds, count = http_accuracy(bundle, args.test)
    report.add("top-1 on the test set, pre-trained then 10 % of the labels", f"{torch_top1:.2%}")
    report.add("top-1 on the test set, from scratch on the same 10 %", f"{scratch_top1:.2%}")
    report.add("pre-trained minus from scratch", f"{100 * (torch_top1 - scratch_top1):+.2f} points")
    report.add("top-1 of the same images through POST /classify", f"{http_top1:.2%} ({count / seconds:.0f} img/s)")
    report.add("HTTP minus torch", f"{100 * (http_top1 - torch_top1):+.3f} points")
    report.write()


def command(report: Report, label: str, arguments: str) -> None:
    """Run one of the project's commands and report it with its time; a failure ends the benchmark."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *shlex.split(arguments)], check=True)
    report.add(f"{label}: `python {arguments}`", f"{time.perf_counter() - start:.0f} s")


def metric(run: Path, name: str) -> float:
    document: dict[str, Any] = json.loads((run / "run.json").read_text())
    return float(document["metrics"][name])


def http_accuracy(bundle: Path, test: Path) -> tuple[float, float, int]:
    """(share of correct answers, seconds, number of images) of the encoded test images through the service."""
    images = read_files(str(test))
    with (
        Server(ours(bundle), read_photos(None)[:1]) as server,
        Client(f"http://127.0.0.1:{server.port}", images_per_request=64) as client,
    ):
        start = time.perf_counter()
        right = classified(client, images, top_k=1)
        return float(right.mean()), time.perf_counter() - start, len(images)


if __name__ == "__main__":
    main()
