"""A folder of photos becomes a service, by the README's commands: pre-train, fine-tune, export, serve, ask.

The photos are made here: three kinds of pictures that differ in what they show, of several sizes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

CLASSES = ("blue", "checks", "stripes")
SMALL = ("--depth", "1", "--batch-size", "32", "--device", "cpu")


def make_photos(folder: Path, per_class: int, seed: int) -> Path:
    """One sub-folder per class, JPEGs of 36 to 60 pixels, so that the smallest recipe is chosen."""
    rng = np.random.default_rng(seed)
    for name in CLASSES:
        (folder / name).mkdir(parents=True)
        for i in range(per_class):
            height, width = rng.integers(36, 60, 2)
            y, x = np.mgrid[:height, :width] // 6
            bright = {"blue": np.zeros_like(x), "checks": (x + y) % 2, "stripes": y % 2}[name] * 160.0
            pixels = np.stack([bright, bright, np.full(bright.shape, 150.0)], axis=2)
            pixels += rng.normal(20, 15, (height, width, 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / name / f"{i:03d}.jpg")
    return folder


def run(*arguments: str | Path) -> str:
    """One of the README's commands, as a user starts it; its standard output."""
    done = subprocess.run([sys.executable, "-m", *map(str, arguments)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@contextmanager
def serve(bundle: Path) -> Iterator[httpx.Client]:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", "service", "--bundle", str(bundle), "--port", str(port)])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
            wait_until_ready(client, process)
            yield client
    finally:
        process.terminate()
        assert process.wait(60) == 0


def wait_until_ready(client: httpx.Client, process: subprocess.Popen[bytes]) -> None:
    for _ in range(600):
        assert process.poll() is None, "the service ended at its start"
        try:
            if client.get("/readyz").is_success:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    pytest.fail("the service was not ready within a minute")


def test_photos_become_a_service(tmp_path: Path) -> None:
    labeled = make_photos(tmp_path / "labeled", 30, seed=0)
    held_out = make_photos(tmp_path / "held-out", 12, seed=1)
    a, b, bundle = tmp_path / "runs/a", tmp_path / "runs/b", tmp_path / "bundles/a"

    run("training.pretrain", "--data", labeled, "--out", a, "--epochs", "6", *SMALL)
    assert list((a / "reconstructions").glob("*.png"))
    finetune = ("--init", a, "--test", held_out, "--epochs", "15", "--warmup-epochs", "1", "--blr", "2e-2")
    run("training.finetune", "--data", labeled, "--out", b, *finetune, "--batch-size", "16", "--device", "cpu")
    assert str(bundle) in run("export", a, "--classifier", b, "--out", bundle)

    torch_top1 = json.loads((b / "run.json").read_text())["metrics"]["test_top1"]
    assert torch_top1 > 0.6  # a third by chance
    photos = sorted(held_out.glob("*/*.jpg"))
    with serve(bundle) as client:
        files = [("file", (p.name, p.read_bytes(), "image/jpeg")) for p in photos]
        predictions = (
            client.post("/classify", files=files, params={"top_k": 1}).raise_for_status().json()["predictions"]
        )
        found = [p[0]["label"] for p in predictions]
        http_top1 = float(np.mean([label == photo.parent.name for label, photo in zip(found, photos, strict=True)]))
        assert http_top1 == pytest.approx(torch_top1, abs=1e-9)

        photo, headers = photos[0].read_bytes(), {"content-type": "image/jpeg"}
        embedding = client.post("/embed", content=photo, headers=headers).raise_for_status().json()
        assert len(embedding["embeddings"][0]) == embedding["dim"] == 192
        picture = client.post("/reconstruct", content=photo, headers={**headers, "accept": "image/png"})
        assert picture.raise_for_status().headers["content-type"] == "image/png"
