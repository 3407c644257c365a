"""benchmarks.keep: what it measures is what it says, on images whose answers are known."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.report
from benchmarks.keep import Labeled, encode, fitted_hits, head_hits, in_turns, main, read_labeled
from bundle.masking import keep_ids
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.fake import FakeRuntime
from runtime.onnx import OnnxRuntime
from tests.conftest import LABELS

CLASSES = ("zebra", "cat", "ant")  # of which the bundle knows the last two, in another order


@pytest.fixture
def runtime(tiny_bundle: Bundle) -> Iterator[OnnxRuntime]:
    opened = OnnxRuntime(tiny_bundle, lanes=2)
    yield opened
    opened.close()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of four images: dark ones and bright ones."""
    for name, level in (("ant", 40), ("cat", 200)):
        (tmp_path / "photos" / name).mkdir(parents=True)
        for i in range(4):
            Image.new("RGB", (50, 40), (level + i, level, level - i)).save(tmp_path / "photos" / name / f"{i}.png")
    return tmp_path / "photos"


def noise(n: int) -> np.ndarray:
    return np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def test_the_patches_are_the_service_s_whatever_the_batch(tiny_bundle: Bundle, runtime: OnnxRuntime) -> None:
    images = noise(5)
    ids = np.tile(keep_ids(16, 0.5), (5, 1))
    expected = runtime.run("encoder", {"images": images, "ids_keep": ids})
    found = encode(runtime, tiny_bundle, images, 0.5, batch=2)
    for name in ("cls", "mean"):
        np.testing.assert_allclose(found[name], expected[name], atol=1e-5)


def test_labels_are_matched_by_name(tiny_bundle: Bundle, runtime: OnnxRuntime) -> None:
    """Of four images one has a class that the bundle does not know; of the other three the head is right on two."""
    images = noise(4)
    features = encode(runtime, tiny_bundle, images, 1.0, batch=4)
    logits = runtime.run("head", {"mean": features["mean"]})["logits"]
    answers = [LABELS[i] for i in logits.argmax(axis=1)]
    wrong = next(label for label in LABELS if label != answers[2])
    names = ["zebra", answers[1], wrong, answers[3]]
    classes = tuple(dict.fromkeys(["zebra", *reversed(names)]))
    test = Labeled(images, np.array([classes.index(name) for name in names]), classes)
    right = head_hits(runtime, tiny_bundle, features, test)
    assert right is not None
    assert right.tolist() == [True, False, True]
    unknown = Labeled(images, np.zeros(4, np.int64), CLASSES)
    assert head_hits(runtime, tiny_bundle, features, unknown) is None


def test_the_fitted_classifier_learns_what_can_be_learned() -> None:
    """Classes apart by the sign of one feature; with the labels dealt out anew there is nothing to learn."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 4)).astype(np.float32)
    y = (x[:, 1] > 0).astype(np.int64)
    fit: Arrays = {"cls": x[:200, :2], "mean": x[:200, 2:]}
    test: Arrays = {"cls": x[200:, :2], "mean": x[200:, 2:]}
    assert fitted_hits(fit, y[:200], test, y[200:], penalty=1e-4).mean() > 0.97
    assert fitted_hits(fit, rng.permutation(y[:200]), test, y[200:], penalty=1e-4).mean() < 0.7


def test_fewer_patches_in_turns(tiny_bundle: Bundle) -> None:
    """Every keep once a round, and the round before the first does not count."""
    runtime = FakeRuntime(tiny_bundle)
    rates = in_turns(runtime, tiny_bundle, noise(4), (1.0, 0.5), batch=2, rounds=3)
    assert {keep: len(found) for keep, found in rates.items()} == {1.0: 3, 0.5: 3}
    assert all(rate > 0 for found in rates.values() for rate in found)
    assert runtime.calls == [("encoder", 2)] * 2 * 2 * 4


def test_images_to_fit_and_to_test_on_are_others(tiny_bundle: Bundle, photos: Path) -> None:
    fit, test = read_labeled(tiny_bundle, str(photos), 3), read_labeled(tiny_bundle, str(photos), 5, skip=3)
    assert fit.classes == test.classes == ("ant", "cat")
    assert (fit.labels.tolist(), test.labels.tolist()) == ([0, 0, 0], [0, 1, 1, 1, 1])
    assert test.pixels[:, 0, 0, 0].tolist() == [43, 200, 201, 202, 203]
    with pytest.raises(SystemExit, match="holds 8 labeled images, 9 are asked for"):
        read_labeled(tiny_bundle, str(photos), 6, skip=3)
    with pytest.raises(SystemExit, match="has no labels"):
        read_labeled(tiny_bundle, str(photos / "ant"), 1)


def test_the_command_writes_a_table(
    tiny_bundle: Bundle, photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmarks.report, "RESULTS", tmp_path / "results")
    arguments = ["--bundle", str(tiny_bundle.path), "--data", str(photos), "--fit-data", str(photos)]
    numbers = ["--train", "8", "--test", "8", "--images", "4", "--rounds", "1", "--keeps", "0.5"]
    monkeypatch.setattr(sys, "argv", ["keep.py", *arguments, *numbers, "--runtime", "onnxruntime"])
    main()
    text = (tmp_path / "results" / "keep.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if "least" in line]
    assert [row[:2] for row in rows] == [["1", "16"], ["0.5", "8"]]
    assert rows[0][3:6] == ["1.00x", "1.000, least 1.000", "1.000, least 1.000"]
    assert [row[7] for row in rows] == ["100.0% ± 0.0"] * 2  # dark or bright, and tested on what it was fitted on
    assert "--data photos --fit-data photos" in text
    assert str(tmp_path) not in text
