"""A run as a job scheduler sees it: told to stop, killed, out of disk, and started again."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from training.errors import Terminated
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain
from training.run import load_checkpoint

EPOCHS, PER_EPOCH = 3, 12
STEPS = EPOCHS * PER_EPOCH
TIMEOUT_S = 120

FlagsOf = Callable[[object], list[str]]


def config(data: Path, out: Path, tiny: dict[str, Any], **changes: Any) -> PretrainConfig:
    return PretrainConfig(**{**tiny, "data": data, "out": out, "epochs": EPOCHS, "batch_size": 10, **changes})


def start(flags: list[str], **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training.pretrain", *flags]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], status: int) -> str:
    """What it said on stderr."""
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, err
    return err


def wait_until(ready: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not ready():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def steps(run: Path) -> list[int]:
    """Of the rows with a loss."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "loss" in row]


def epochs(run: Path) -> list[int]:
    """Of the rows that end an epoch."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["epoch"] for row in rows if "loss" not in row]


def step_of(run: Path) -> int:
    """That the saved state goes on from, 0 without one."""
    state = load_checkpoint(run / "checkpoint.pt")
    return 0 if state is None else int(state["step"])


def _is_past(run: Path, step: int) -> bool:
    return step_of(run) > step


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("all_threads")
def test_sigterm_saves_and_resume_ends_with_the_same_bytes(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], flags_of: FlagsOf
) -> None:
    """In the middle of an epoch. The undisturbed run saves its state once, at the end."""
    straight = config(packed.folder, tmp_path / "straight", tiny, epochs=1)
    stopped = replace(straight, out=tmp_path / "stopped", checkpoint_minutes=0.0)
    process = start(flags_of(stopped))
    wait_until((stopped.out / "checkpoint.pt").exists, process)
    process.send_signal(signal.SIGTERM)
    err = finish(process, 143)
    step = step_of(stopped.out)
    assert 1 <= step < PER_EPOCH
    assert err.splitlines()[-1] == f"stopped at step {step}; the state is saved, go on with --resume"
    assert "Traceback" not in err
    assert not (stopped.out / "model.safetensors").exists()
    assert steps(stopped.out) == list(range(1, step + 1))
    pretrain(replace(stopped, resume=True))
    assert weights(stopped.out) == weights(pretrain(straight))
    assert steps(stopped.out) == list(range(1, PER_EPOCH + 1))
    assert epochs(stopped.out) == [1]


def test_kill_at_any_moments_and_resume_ends_with_the_same_bytes(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], flags_of: FlagsOf
) -> None:
    """Three times, wherever it comes: with a state after every step, often into the writing of one. One thread, there
    as here.
    """
    straight = config(packed.folder, tmp_path / "straight", tiny)
    killed = replace(straight, out=tmp_path / "killed", checkpoint_minutes=0.0, resume=True)
    moments = []
    for _ in range(3):
        before = step_of(killed.out)
        process = start(flags_of(killed), OMP_NUM_THREADS="1")
        wait_until(partial(_is_past, killed.out, before), process)
        delay_s = random.uniform(0, 0.05)
        time.sleep(delay_s)
        if process.poll() is not None:  # it was quicker
            break
        process.kill()
        finish(process, -signal.SIGKILL)
        moments.append((delay_s, step_of(killed.out)))
    pretrain(killed)
    assert weights(killed.out) == weights(pretrain(straight)), f"killed (seconds after a save, step): {moments}"
    assert steps(killed.out) == list(range(1, STEPS + 1))
    assert epochs(killed.out) == list(range(1, EPOCHS + 1))


def test_a_full_disk_keeps_the_state_before_and_the_run_goes_on_when_there_is_room(
    packed: PackedDataset,
    tmp_path: Path,
    tiny: dict[str, Any],
    command: Callable[..., Any],
    flags_of: FlagsOf,
    terminated_once: Callable[[Callable[[], bool]], AbstractContextManager[None]],
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    pretrain(config(packed.folder, tmp_path / "straight", tiny))
    run = config(packed.folder, tmp_path / "run", tiny, checkpoint_minutes=0.0, resume=True)
    checkpoint = run.out / "checkpoint.pt"
    with terminated_once(checkpoint.exists), pytest.raises(Terminated):
        pretrain(run)
    before = checkpoint.read_bytes()
    with full_disk(len(before) // 2):
        outcome = command("training.pretrain", *flags_of(run))
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith(f"error: the checkpoint could not be written to {run.out}: ")
    assert "Traceback" not in outcome.err
    assert checkpoint.read_bytes() == before
    pretrain(run)
    assert weights(run.out) == weights(tmp_path / "straight")
