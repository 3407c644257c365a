"""The project's own commands, run as a user runs them, and what their runs say of themselves."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Report, command_line
from training.pages.record import read_record


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
    report.add(f"{label}: `{command_line(module, words)}`", f"{time.perf_counter() - start:.0f} s")


def metric(run: Path, name: str) -> float:
    """Of a finished run."""
    return read_record(run).metrics[name]


def pretraining_cost(run: Path) -> str:
    """What a pre-training took, however often it was stopped: epochs, speed, and the hours that these come to."""
    record = read_record(run)
    epochs, logged = record.document["epochs"], record.series("images_per_s")
    assert logged is not None  # a run that is finished has steps
    speed = median(logged[1])
    hours = epochs * record.data["num_images"] / speed / 3600
    return f"{epochs:g} epochs at {speed:.0f} img/s, {hours:.2g} hours"
