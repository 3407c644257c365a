"""What of the data a run uses: packs found again, splits that never overlap, and evaluation on the service's pixels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bundle.manifest import Preprocess
from bundle.preprocess import preprocess
from training.data import (
    center_batch,
    labeled_subset,
    open_data,
    open_test,
    require_classes,
    split_labeled,
    split_validation,
)
from training.errors import TrainingError
from training.pack import pack
from training.packed import NO_LABEL, PackedDataset, epoch_order

CPU = torch.device("cpu")
labels_of = st.lists(st.integers(0, 4), min_size=2, max_size=80).map(lambda values: np.array(values, np.int64))


def test_a_packed_folder_is_taken_as_it_is(packed: PackedDataset, tmp_path: Path) -> None:
    assert open_data(packed.folder, tmp_path / "cache").folder == packed.folder
    assert not (tmp_path / "cache").exists()


def test_images_are_packed_once_and_found_again(photos: Path, tmp_path: Path) -> None:
    first = open_data(photos, tmp_path / "cache")
    stamp = (first.folder / "pack.json").stat().st_mtime_ns
    assert open_data(photos, tmp_path / "cache").folder == first.folder == tmp_path / "cache"
    assert (first.folder / "pack.json").stat().st_mtime_ns == stamp


def test_a_pack_of_other_data_is_not_taken_for_these(photos: Path, other_photos: Path, tmp_path: Path) -> None:
    open_data(photos, tmp_path / "cache")
    with pytest.raises(TrainingError, match=f"was packed from {photos}, not {other_photos}; remove it"):
        open_data(other_photos, tmp_path / "cache")


def test_a_pack_of_another_size_or_channels_is_refused(packed: PackedDataset, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"holds images of \(32, 32\), \(64, 64\) are needed; pack with --size 64"):
        open_data(packed.folder, tmp_path / "cache", size=(64, 64))
    with pytest.raises(TrainingError, match="holds 3 channels, 1 are needed; pack images with --channels 1"):
        open_data(packed.folder, tmp_path / "cache", channels=1)


def test_how_many_could_not_be_read_is_said(tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.jpg").write_bytes(next(photos.rglob("*.jpg")).read_bytes())
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"bad")
    open_data(tmp_path / "photos", tmp_path / "cache")
    assert f"1 of the images could not be read, see {tmp_path}/cache/corrupt.jsonl" in capsys.readouterr().err


def test_evaluation_sees_the_services_pixels(photos: Path, tmp_path: Path) -> None:
    """A pack of 36 x 44, of which the network takes 32 x 32 from the centre."""
    files = sorted(photos.rglob("*.jpg"))
    packed = pack(photos, tmp_path / "out", size=(36, 44))
    ids = np.array([100, 3, 57])
    batch = center_batch(packed, ids, (32, 32), CPU)
    assert batch.shape == (3, 3, 32, 32)
    assert batch.dtype == torch.uint8
    spec = Preprocess(resize=(36, 44), crop=(32, 32), mean=(0.5,) * 3, std=(0.5,) * 3)
    for image, i in zip(batch, ids, strict=True):
        assert np.array_equal(image.permute(1, 2, 0).numpy(), preprocess(files[i].read_bytes(), spec))


def test_evaluation_refuses_a_smaller_pack(packed: PackedDataset) -> None:
    with pytest.raises(TrainingError, match=r"holds images of \(32, 32\), smaller than the network's \(40, 32\)"):
        center_batch(packed, np.arange(2), (40, 32), CPU)


# Labels


def test_classes_need_labels(packed: PackedDataset, photos: Path, tmp_path: Path) -> None:
    assert require_classes(packed) == ("blue", "green", "red")
    unlabeled = pack(photos / "red", tmp_path / "out")
    with pytest.raises(TrainingError, match="red has no labels of two classes: use one sub-folder per class, or"):
        require_classes(unlabeled)


def test_every_image_needs_a_label(packed: PackedDataset) -> None:
    partly = PackedDataset(packed.folder)
    partly.labels[:7] = NO_LABEL
    with pytest.raises(TrainingError, match=r"7 images of .* have no label; give every image one"):
        require_classes(partly)


def test_a_test_set_has_the_training_sets_classes_and_size(
    packed: PackedDataset, other_photos: Path, tmp_path: Path
) -> None:
    test = open_test(other_photos, tmp_path / "run", packed, ("blue", "green", "red"))
    assert (len(test), test.info.size) == (30, packed.info.size)
    with pytest.raises(TrainingError, match="has other classes than the training set; name the sub-folders alike"):
        open_test(other_photos, tmp_path / "run", packed, ("blue", "green", "yellow"))


def test_a_test_set_of_other_channels_is_refused(packed: PackedDataset, other_photos: Path, tmp_path: Path) -> None:
    grey = pack(other_photos, tmp_path / "grey", size=(32, 32), channels=1)
    with pytest.raises(TrainingError, match="holds 1 channels, 3 are needed"):
        open_test(grey.folder, tmp_path / "run", packed, ("blue", "green", "red"))


@given(labels=labels_of, fraction=st.floats(0, 1, exclude_min=True), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_share_of_each_class_and_at_least_one(labels: NDArray[np.int64], fraction: float, seed: int) -> None:
    ids = labeled_subset(labels, fraction, np.random.default_rng(seed))
    assert (np.diff(ids) > 0).all()  # sorted, none twice
    for label in np.unique(labels):
        count = int((labels == label).sum())
        assert int((labels[ids] == label).sum()) == max(1, round(fraction * count))


@given(labels=labels_of, fraction=st.floats(0.01, 0.99), seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_validation_is_stratified_and_apart(labels: NDArray[np.int64], fraction: float, seed: int) -> None:
    ids = np.flatnonzero(np.arange(len(labels)) % 3 != 1)  # some images are not to be used at all
    counts = {label: int((labels[ids] == label).sum()) for label in np.unique(labels[ids])}
    if max(counts.values()) == 1:
        with pytest.raises(TrainingError, match="no class has two images"):
            split_validation(labels, ids, fraction, np.random.default_rng(seed))
        return
    training, validation = split_validation(labels, ids, fraction, np.random.default_rng(seed))
    assert set(training).isdisjoint(validation)
    assert sorted([*training, *validation]) == ids.tolist()
    for label, count in counts.items():
        held_out = int((labels[validation] == label).sum())
        assert held_out == min(count - 1, max(1, round(fraction * count)))


@pytest.mark.parametrize("fraction", [0.0, -0.5, 1.5])
def test_fractions_out_of_range_are_named(fraction: float, packed: PackedDataset) -> None:
    with pytest.raises(ValueError, match=r"--label-fraction must lie in \(0, 1\]"):
        split_labeled(packed, fraction, 0.1, 0)
    with pytest.raises(ValueError, match="--val-fraction must lie between 0 and 1"):
        split_labeled(packed, 1.0, fraction, 0)


def test_the_seed_decides_the_split(packed: PackedDataset) -> None:
    first, again, other = (split_labeled(packed, 0.5, 0.2, seed) for seed in (0, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[1], other[1])
    assert (len(first[0]), len(first[1])) == (48, 12)


def test_an_epochs_order_is_a_permutation_of_its_own() -> None:
    orders = [epoch_order(50, epoch, seed) for epoch, seed in ((0, 0), (1, 0), (0, 1))]
    assert all(sorted(order) == list(range(50)) for order in orders)
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[0], orders[2])
    epoch_order.cache_clear()
    assert np.array_equal(epoch_order(50, 0, 0), orders[0])


def test_pack_info_reads_back_what_was_written(packed: PackedDataset) -> None:
    assert PackedDataset(packed.folder).info == replace(packed.info)
