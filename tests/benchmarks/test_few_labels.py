"""benchmarks.few_labels: a small comparison from files to the classifier behind HTTP."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.report
from benchmarks import few_labels


def make_images(folder: Path, per_class: int, seed: int) -> Path:
    """Noise in two colours, which even an epoch tells apart."""
    rng = np.random.default_rng(seed)
    for name, channel in (("blue", 2), ("red", 0)):
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            pixels = rng.integers(0, 80, (32, 32, 3), dtype=np.uint8)
            pixels[:, :, channel] += 150
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_from_files_to_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (benchmarks.report, few_labels):
        monkeypatch.setattr(module, "RESULTS", tmp_path / "results")
    train, test = make_images(tmp_path / "train", 12, seed=0), make_images(tmp_path / "test", 5, seed=1)
    command = [
        "few_labels", "--name", "colours", "--work", str(tmp_path / "work"), "--test", str(test), "--",
        "--data", str(train), "--depth", "1", "--decoder-dim", "32", "--decoder-depth", "1", "--pretrain-epochs", "1",
        "--epochs", "2", "--fractions", "0.5", "--seeds", "0", "1", "--blrs", "4e-3", "--device", "cpu",
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", command)
    few_labels.main()
    text = (tmp_path / "results" / "few_labels_colours.md").read_text()
    document = json.loads((tmp_path / "work" / "comparison" / "compare.json").read_text())
    ours, theirs = (100 * arm["summary"]["test_top1"]["mean"] for arm in document["arms"])
    row = next(line for line in text.splitlines() if line.startswith("| 50 % |"))
    assert [float(each) for each in re.findall(r"\| ([\d.]+) % ±", row)] == pytest.approx([ours, theirs], abs=0.05)
    assert f"| {ours - theirs:+.1f} |" in row
    right = f"{100 * document['arms'][0]['runs'][0]['metrics']['test_top1']:.1f} %"
    assert f"| that classifier in torch | {right} |" in text
    assert f"| and through POST /classify | {right} |" in text
    assert str(tmp_path) not in text
    with Image.open(tmp_path / "results" / "few_labels_colours.png") as picture:
        assert picture.width > 900


def test_no_run_no_mean() -> None:
    assert few_labels.part(None, "mean") == 0
    assert few_labels.part({"mean": 0.5, "std": None}, "std") == 0
