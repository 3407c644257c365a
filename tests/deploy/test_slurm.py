"""The Slurm script, run by bash with stand-ins for srun and scontrol: stopped it goes back into the queue, and ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "deploy" / "slurm" / "pretrain.sbatch"
TIMEOUT_S = 120


@pytest.fixture
def cluster(tmp_path: Path) -> dict[str, str]:
    """A cluster of this machine: srun runs what it is given, scontrol notes what it is told."""
    tools = tmp_path / "bin"
    tools.mkdir()
    stand_ins = {
        "srun": 'exec "$@"',
        "torchrun": f'exec {sys.executable} -m torch.distributed.run "$@"',
        "scontrol": f'[ "$1" = show ] && echo localhost || echo "$@" >> {tmp_path / "told"}',
    }
    for name, line in stand_ins.items():
        (tools / name).write_text(f"#!/usr/bin/env bash\n{line}\n")
        (tools / name).chmod(0o755)
    return {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "MASTER_PORT": "0",
        "SLURM_JOB_ID": "17",
        "SLURM_JOB_NODELIST": "localhost",
        "SLURM_NNODES": "1",
        "SLURM_GPUS_ON_NODE": "1",
    }


def submit(cluster: dict[str, str], *arguments: object) -> subprocess.Popen[str]:
    command = ["bash", str(SCRIPT), *map(str, arguments)]
    return subprocess.Popen(command, env=cluster, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_a_job_that_is_told_to_stop_goes_back_into_the_queue_and_ends(tmp_path: Path, cluster: dict[str, str]) -> None:
    photos, run = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(photos / f"{i}.png")
    arguments = ["--data", photos, "--out", run, "--depth=1", "--decoder-depth=1", "--batch-size=10", "--epochs=40"]
    first = submit(cluster, *arguments, "--checkpoint-minutes=0")
    deadline = time.monotonic() + TIMEOUT_S
    while not (run / "checkpoint.pt").exists():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 0, said
    assert "the state is saved, go on with --resume" in said
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    assert not (run / "model.safetensors").exists()

    second = submit(cluster, *arguments)
    said, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, said
    assert (tmp_path / "told").read_text() == "requeue 17\n"
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows if "loss" not in row] == list(range(1, 41))


def test_a_job_that_fails_is_not_requeued(tmp_path: Path, cluster: dict[str, str]) -> None:
    job = submit(cluster, "--data", tmp_path / "nothing", "--out", tmp_path / "run")
    said, _ = job.communicate(timeout=TIMEOUT_S)
    assert job.returncode != 0
    assert "is neither a folder nor a file" in said
    assert not (tmp_path / "told").exists()
