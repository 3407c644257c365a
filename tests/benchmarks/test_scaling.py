"""benchmarks.scaling on a small bundle: it measures, predicts, and writes what benchmarks.machines reads."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path

import numpy as np
import pytest

from benchmarks import queueing, report, scaling
from benchmarks.load.calibration import Calibration, Cost, merged, threads_cpu_s
from benchmarks.machines import measured

CALIBRATION = Calibration(
    decode_s=np.array([0.002]), call_s=(np.array([0.006]), np.array([0.010])), speeds=(1.0, 1.6),
    rare=Cost(loop_s=0.003, lane_s=0.009, client_s=0.002), steady=Cost(loop_s=0.001, lane_s=0.008, client_s=0.001),
)  # fmt: skip


def test_a_thread_s_time_is_what_python_says() -> None:
    before, began = threads_cpu_s(os.getpid())[os.getpid()], time.thread_time()
    while time.thread_time() - began < 0.2:
        pass
    spent = time.thread_time() - began
    assert threads_cpu_s(os.getpid())[os.getpid()] - before == pytest.approx(spent, abs=0.05)


def test_the_machine_is_what_was_measured() -> None:
    machine = CALIBRATION.machine(places=8)
    assert (machine.lanes, machine.cores, machine.max_batch, machine.places) == (2, 2, 2, 8)
    assert CALIBRATION.handover_s == pytest.approx(0.001)
    # alone: 2 ms of a client that was asleep, 3 of a loop that was so twice, 2 to decode and 7 for the call
    [alone] = queueing.open_loop(machine, [0.0], 1).latencies_s
    assert alone == pytest.approx(0.014)
    # at most: an image of a full call takes 2 + 11 / 2 ms of a lane and 2 of the others, of cores that do 1.6
    awake = Calibration(**vars(CALIBRATION) | {"rare": Cost(loop_s=0.001, lane_s=0.009, client_s=0.001)})
    assert 1.5 / 0.0095 < queueing.closed_loop(awake.machine(places=32), 32, 100).rate <= 1.6 / 0.0095


def test_two_calibrations_are_one_of_both_samples() -> None:
    both = merged(CALIBRATION, Calibration(**vars(CALIBRATION) | {"decode_s": np.array([0.004]), "speeds": (1.0, 1.8)}))
    assert both.decode_ms == pytest.approx(3)
    assert both.infer_ms == pytest.approx(5)
    assert both.speeds == pytest.approx((1.0, 1.7))


@pytest.mark.parametrize(("others", "said"), [(0.04, "2% of the cores"), (1.5, "75% of the cores: too much")])
def test_a_machine_that_others_use_is_told(others: float, said: str) -> None:
    assert scaling.taken_by_others([scaling.Load("50%", 100.0, others=[others])], 2).startswith(said)


def test_the_result_is_what_machines_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (report, scaling):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    path = scaling.run(scaling.parse(["--quick"]))
    text = path.read_text()
    found = measured(path)
    assert 0 < found["decode_ms"] < 100
    assert 0 < found["http_ms"] < 100
    assert found["answer_bytes"] > 4 * 32
    assert found["request_bytes"] > 1000
    assert len(re.findall(r"^\| (?:\d+% = \d+/s|32 clients) \|", text, re.MULTILINE)) == len(scaling.SHARES) + 1
    assert re.search(r"^\| other programs meanwhile \| \d+% of the cores", text, re.MULTILINE)
    assert (tmp_path / "scaling.png").stat().st_size > 1000
