"""benchmarks.anomaly: what it measures is what it says, on maps whose answers are known."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import benchmarks.report
from benchmarks.anomaly import KINDS, auroc, error_maps, main, make_parts, standardised
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import make_bundle

DEFAULT_BUNDLE = Path(__file__).parents[2] / "models" / "default"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("anomaly") / "bundle")


def test_good_parts_are_untouched_and_each_defect_changes_a_few_patches(bundle: Bundle) -> None:
    parts = make_parts(bundle, ["", *KINDS, ""], seed=3)
    assert parts.pixels.shape == (5, 32, 32, 3)
    assert (parts.touched[[0, 4]] == 0).all()
    assert ((parts.touched[1:4] > 0).sum(axis=1) > 0).all()
    assert ((parts.touched[1:4] > 0).sum(axis=1) < 13).all()
    assert not np.array_equal(parts.pixels[0], parts.pixels[4])


def test_auroc_counts_what_a_defect_covers_against_what_it_leaves_alone() -> None:
    touched = np.array([[0, 0, 0, 0.05, 0.5, 1]])
    assert auroc(np.array([[1, 2, 3, 99, 4, 5]], np.float32), touched) == 1
    assert auroc(np.array([[4, 5, 6, -9, 1, 2]], np.float32), touched) == 0
    assert auroc(np.array([[1, 3, 5, 0, 2, 4]], np.float32), touched) == 0.5


def test_scores_are_told_in_the_good_ones_deviations() -> None:
    good = np.array([[1, 10], [3, 30]], np.float32)  # means 2 and 20, deviations sqrt(2) and sqrt(200)
    found = standardised(np.array([[2, 20], [4, 40]], np.float32), good)
    np.testing.assert_allclose(found, np.array([[0, 0], [2**0.5, 2**0.5]], np.float32), rtol=1e-6)


def test_fewer_passes_come_out_of_more(bundle: Bundle) -> None:
    parts = make_parts(bundle, KINDS, seed=1)
    runtime = FakeRuntime(bundle, lanes=2)
    both = error_maps(runtime, bundle, parts, 0.5, [2, 6], 0)
    alone = error_maps(runtime, bundle, parts, 0.5, [2], 0)
    np.testing.assert_array_equal(both[2], alone[2])
    assert not np.array_equal(both[6], both[2])


def test_the_whole_writes_a_row_per_ratio_and_passes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.report, "RESULTS", tmp_path)
    flags = "--ratios 0.5 0.25 --passes 2 4 --good 3 --each 1 --seeds 2 --runtime onnxruntime --precision fp32 --name a"
    files = ["--bundle", str(DEFAULT_BUNDLE), "--picture", str(tmp_path / "a.png")]
    monkeypatch.setattr(sys, "argv", ["anomaly", *files, *flags.split()])
    main()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (120 + 3 * 200, 28 + 4 * 200)
    lines = (tmp_path / "a.md").read_text().splitlines()
    rows = [line.strip("|").split("|") for line in lines if line.startswith("| 0.")]
    assert [(row[0].strip(), row[1].strip()) for row in rows] == [("0.5", "2"), ("0.5", "4"), ("0.25", "4")]
    assert all(0 <= float(cell.split("±")[0]) <= 1 for row in rows for cell in row[2:])
