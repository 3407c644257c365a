"""An exported encoder in ONNX Runtime against Hugging Face's ViTMAE: the graph, and software that we did not write.

Pixels go in as bytes on one side and normalised by their image processor's arithmetic on the other; which patches are
seen, and in which order, comes from the same noise.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import ViTMAEForPreTraining, ViTMAEModel
from transformers.utils import logging

from bundle.store import Bundle
from mae.foreign import write_foreign
from mae.weights import load_mae
from runtime.onnx import OnnxRuntime
from tests.conftest import TinyRuns

logging.disable_progress_bar()
TOLERANCE = 2e-5
NUM_IMAGES, LENGTH = 3, 16


@pytest.fixture(scope="module")
def folder(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("hub") / "hub"
    write_foreign(load_mae(tiny_runs.pretrained), out, "hf")
    return out


@pytest.mark.parametrize("mask_ratio", [0.0, 0.25, 0.75])
@torch.inference_mode()
def test_the_graphs_compute_what_their_classes_do(tiny_bundle: Bundle, folder: Path, mask_ratio: float) -> None:
    images = np.random.default_rng(0).integers(0, 256, (NUM_IMAGES, 32, 32, 3), dtype=np.uint8)
    noise = torch.rand(NUM_IMAGES, LENGTH, generator=torch.Generator().manual_seed(1))
    spec = tiny_bundle.manifest.preprocess
    pixels = (images / 255 - np.array(spec.mean)) / np.array(spec.std)
    inputs = torch.from_numpy(pixels.astype(np.float32)).permute(0, 3, 1, 2)  # [N, C, H, W]
    encoder = ViTMAEModel.from_pretrained(folder, mask_ratio=mask_ratio).eval()
    whole = ViTMAEForPreTraining.from_pretrained(folder, mask_ratio=mask_ratio).eval()
    theirs = encoder(inputs, noise=noise)

    kept = theirs.last_hidden_state.shape[1] - 1
    ids_keep = noise.argsort(dim=1)[:, :kept].numpy()  # the smallest noise stays
    runtime = OnnxRuntime(tiny_bundle, lanes=1)
    ours = runtime.run("encoder", {"images": images, "ids_keep": ids_keep})
    np.testing.assert_allclose(ours["tokens"], theirs.last_hidden_state, atol=TOLERANCE)
    np.testing.assert_allclose(ours["cls"], theirs.last_hidden_state[:, 0], atol=TOLERANCE)
    np.testing.assert_allclose(ours["mean"], theirs.last_hidden_state[:, 1:].mean(dim=1), atol=TOLERANCE)
    decoded = runtime.run("decoder", {"tokens": ours["tokens"], "ids_restore": theirs.ids_restore.numpy()})
    np.testing.assert_allclose(decoded["patches"], whole(inputs, noise=noise).logits, atol=TOLERANCE)
    runtime.close()
