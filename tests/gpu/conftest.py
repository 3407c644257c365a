"""Tests of what only a CUDA device can show; without one they are skipped."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from training.packed import PackedDataset


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device("cuda", 0)


@pytest.fixture(scope="session")
def noise_set(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """4,000 packed images of 40 x 36 pixels in two shards."""
    from benchmarks.synthetic import write_pack

    folder = write_pack(tmp_path_factory.mktemp("packs") / "noise", num_images=4000, size=(40, 36), num_shards=2)
    packed = PackedDataset(folder)
    assert np.unique(packed.pixels(np.arange(64))).size > 200
    return packed
