"""The project's own commands, run as a user runs them, and what their runs say of themselves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Report


def run_module(report: Report, label: str, module: str, *arguments: object) -> None:
    """`python -m module arguments`, reported with its time. A failure ends the benchmark with the command's status."""
    words = [str(argument) for argument in arguments]
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-m", module, *words]) as command:
        try:
            status = command.wait()
        except KeyboardInterrupt:
            status = command.wait()  # it was interrupted too, and saves its state first
    if status:
        sys.exit(status)
    # Where a file lies is this machine's affair; what it is called may say something.
    shown = " ".join(Path(word).name if Path(word).is_absolute() else word for word in words)
    report.add(f"{label}: `python -m {module} {shown}`", f"{time.perf_counter() - start:.0f} s")


def metric(run: Path, name: str) -> float:
    """Of a finished run, from its run.json."""
    return float(json.loads((run / "run.json").read_text())["metrics"][name])


def pretraining_cost(run: Path) -> str:
    """What a pre-training took, however often it was stopped: epochs, speed, and the hours that these come to."""
    document = json.loads((run / "run.json").read_text())
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    speed = median(row["images_per_s"] for row in rows if "images_per_s" in row)
    hours = document["epochs"] * document["data"]["num_images"] / speed / 3600
    return f"{document['epochs']:g} epochs at {speed:.0f} img/s, {hours:.2g} hours"
