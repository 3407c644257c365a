"""benchmarks.commands: a benchmark that is stopped leaves its command the time to save."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.commands import metric, pretraining_cost, run_module
from benchmarks.report import Report

SLOW_TO_END = """
import pathlib, signal, sys, time
def save(*_):
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text("saved")
    sys.exit(130)
signal.signal(signal.SIGINT, save)
pathlib.Path(sys.argv[2]).touch()
time.sleep(60)
"""
BENCHMARK = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from benchmarks.commands import run_module
from benchmarks.report import Report
run_module(Report("x", "?"), "slow", "slow", *sys.argv[1:])
"""


def test_what_was_run_is_told_without_this_machine_s_folders(tmp_path: Path) -> None:
    report = Report("x", "?")
    (tmp_path / "given.json").write_text("{}")
    run_module(report, "tidy", "json.tool", "--indent", 2, tmp_path / "given.json", tmp_path / "out.json")
    (label, value) = report.rows[0]
    assert label == "tidy: `python -m json.tool --indent 2 given.json out.json`"
    assert value.endswith(" s")
    assert (tmp_path / "out.json").read_text() == "{}\n"


def test_a_command_that_fails_ends_the_benchmark_with_its_status(tmp_path: Path) -> None:
    report = Report("x", "?")
    with pytest.raises(SystemExit) as ended:
        run_module(report, "tidy", "json.tool", tmp_path / "missing.json")
    assert ended.value.code not in (0, None)
    assert report.rows == []


def test_ctrl_c_waits_for_the_command_to_save(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text(SLOW_TO_END)
    saved, began = tmp_path / "saved", tmp_path / "began"
    environment = os.environ | {"PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}"}
    group = subprocess.Popen(
        [sys.executable, "-c", BENCHMARK, str(saved), str(began)], env=environment, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not began.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(group.pid, signal.SIGINT)
    assert group.wait(60) == 130
    assert saved.read_text() == "saved"


def test_what_a_pretraining_took_is_its_images_by_its_speed(tmp_path: Path) -> None:
    document = {"epochs": 2.0, "data": {"num_images": 9000}, "metrics": {"reconstruction_loss": 0.5}}
    (tmp_path / "run.json").write_text(json.dumps(document))
    rows = [{"epoch": 1.0, "images_per_s": speed} for speed in (1.0, 5.0, 6.0)] + [{"epoch": 2.0, "probe_top1": 0.1}]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert pretraining_cost(tmp_path) == "2 epochs at 5 img/s, 1 hours"
    assert metric(tmp_path, "reconstruction_loss") == 0.5
