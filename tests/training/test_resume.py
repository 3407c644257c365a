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
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import Terminated
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

EPOCHS, PER_EPOCH = 3, 12
STEPS = EPOCHS * PER_EPOCH
TIMEOUT_S = 120


def config(data: Path, out: Path, tiny: dict[str, Any], **changes: Any) -> PretrainConfig:
    return PretrainConfig(**{**tiny, "data": data, "out": out, "epochs": EPOCHS, "batch_size": 10, **changes})


def flags(config: PretrainConfig) -> list[str]:
    """The command line that gives this configuration."""
    given = {f"--{name.replace('_', '-')}": value for name, value in vars(config).items()}
    switches = [flag for flag, value in given.items() if value is True]
    valued = [
        flag
        for flag, value in given.items()
        if isinstance(value, str | int | float | Path) and not isinstance(value, bool)
    ]
    return [f"{flag}={given[flag]}" for flag in valued] + switches


def start(config: PretrainConfig, **environment: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "training.pretrain", *flags(config)]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def finish(process: subprocess.Popen[str], status: int) -> str:
    """What it said on stderr."""
    _, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == status, err
    return err


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not path.exists():
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
    """That the saved state goes on from."""
    step: int = torch.load(run / "checkpoint.pt", weights_only=True)["step"]
    return step


def weights(run: Path) -> bytes:
    return (run / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("all_threads")
def test_sigterm_saves_and_resume_ends_with_the_same_bytes(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    """In the middle of an epoch. The undisturbed run saves its state once, at the end."""
    straight = config(packed.folder, tmp_path / "straight", tiny, epochs=1)
    stopped = replace(straight, out=tmp_path / "stopped", checkpoint_minutes=0.0)
    process = start(stopped)
    wait_for(stopped.out / "checkpoint.pt", process)
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


def test_kill_at_any_moment_and_resume_ends_with_the_same_bytes(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    """With a state after every step the kill often falls into the writing of one. One thread, there as here."""
    straight = config(packed.folder, tmp_path / "straight", tiny)
    killed = replace(straight, out=tmp_path / "killed", checkpoint_minutes=0.0)
    process = start(killed, OMP_NUM_THREADS="1")
    wait_for(killed.out / "checkpoint.pt", process)
    delay_s = random.uniform(0, 0.1)
    time.sleep(delay_s)
    process.kill()
    finish(process, -signal.SIGKILL)
    step = step_of(killed.out)
    pretrain(replace(killed, resume=True))
    assert weights(killed.out) == weights(pretrain(straight)), (
        f"killed {delay_s} s after the first save, at step {step}"
    )
    assert steps(killed.out) == list(range(1, STEPS + 1))
    assert epochs(killed.out) == list(range(1, EPOCHS + 1))


def test_a_full_disk_keeps_the_state_before_and_the_run_goes_on_when_there_is_room(
    packed: PackedDataset,
    tmp_path: Path,
    tiny: dict[str, Any],
    command: Callable[..., Any],
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
        outcome = command("training.pretrain", *flags(run))
    assert outcome.status == 2
    assert outcome.err.splitlines()[-1].startswith(f"error: the checkpoint could not be written to {run.out}: ")
    assert "Traceback" not in outcome.err
    assert checkpoint.read_bytes() == before
    pretrain(run)
    assert weights(run.out) == weights(tmp_path / "straight")
