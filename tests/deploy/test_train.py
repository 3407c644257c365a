"""deploy/train.py, as the profile `train` runs it: stopped and run again, it ends with a bundle."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image

from bundle.store import load_bundle
from tests.deploy.dockerfile import ROOT

TIMEOUT_S = 240
SMALL = ["--recipe=px32", "--depth=1", "--decoder-depth=1", "--batch-size=10", "--epochs=40", "--no-report"]


def _photos(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(40):
        Image.fromarray(rng.integers(0, 256, (32, 32, 3), np.uint8)).save(folder / f"{i}.png")
    return folder


def _train(*arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, str(ROOT / "deploy/train.py"), *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def test_stopped_and_run_again_it_ends_with_a_bundle(tmp_path: Path) -> None:
    photos, run, bundle = _photos(tmp_path / "photos"), tmp_path / "runs/a", tmp_path / "bundles/a"
    first = _train(photos, run, bundle, *SMALL, "--checkpoint-minutes=0")
    deadline = time.monotonic() + TIMEOUT_S
    while not (run / "checkpoint.pt").exists():
        assert first.poll() is None, first.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    first.send_signal(signal.SIGTERM)
    said, _ = first.communicate(timeout=TIMEOUT_S)
    assert first.returncode == 128 + signal.SIGTERM, said
    assert "the state is saved" in said
    assert not bundle.exists()

    second = _train(photos, run, bundle, *SMALL)
    said, _ = second.communicate(timeout=TIMEOUT_S)
    assert second.returncode == 0, said
    assert load_bundle(bundle).manifest.name == "a"


def test_what_training_refuses_is_exported_by_nobody(tmp_path: Path) -> None:
    refused = _train(tmp_path / "nothing", tmp_path / "run", tmp_path / "bundle")
    said, _ = refused.communicate(timeout=TIMEOUT_S)
    assert refused.returncode == 2
    assert "is neither a folder nor a file" in said
    assert "Traceback" not in said


def test_without_arguments_it_says_what_it_wants() -> None:
    lost = _train("photos")
    said, _ = lost.communicate(timeout=TIMEOUT_S)
    assert lost.returncode != 0
    assert said.startswith("usage: train.py DATA RUN BUNDLE")
