"""Public weights in place of a run: an encoder without a decoder, with a head, and with a classifier."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from bundle.digest import file_sha256
from bundle.store import Bundle
from export.config import ExportConfig
from export.errors import ExportError
from export.pipeline import export_run
from export.runs import read_classifier, read_pretrained
from mae.classifier import Classifier, LinearHead, LinearHeadConfig
from mae.foreign import write_foreign
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder
from mae.weights import load_mae, load_model, save_model
from runtime.onnx import OnnxRuntime
from tests.conftest import LABELS, TinyRuns, write_run


@pytest.fixture
def encoder(tiny_runs: TinyRuns, tmp_path: Path) -> Path:
    """The tiny run's encoder as timm spells it."""
    write_foreign(load_mae(tiny_runs.pretrained), tmp_path / "vit tiny.safetensors", "timm")
    return tmp_path / "vit tiny.safetensors"


def embed(bundle: Bundle) -> dict[str, np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    ids = np.broadcast_to(np.arange(16), (2, 16)).copy()
    runtime = OnnxRuntime(bundle)
    try:
        return runtime.run("encoder", {"images": images, "ids_keep": ids})
    finally:
        runtime.close()


def test_an_encoder_alone_is_a_bundle_without_a_decoder(encoder: Path, tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = export_run(ExportConfig(run=encoder, out=tmp_path / "bundle", precision="fp32"))
    manifest = bundle.manifest
    assert sorted(manifest.graphs) == ["encoder"]
    assert manifest.model.decoder is None
    assert not manifest.can_reconstruct
    assert manifest.name == "vit-tiny"
    assert manifest.provenance.dataset == "unknown, of vit tiny.safetensors"
    assert (manifest.preprocess.resize, manifest.preprocess.crop) == ((32, 32), (32, 32))
    expected = embed(tiny_bundle)
    for name, value in embed(bundle).items():
        np.testing.assert_array_equal(value, expected[name])


def test_a_whole_file_brings_its_decoder(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    write_foreign(load_mae(tiny_runs.pretrained), tmp_path / "full.pth", "fair")
    run = read_pretrained(tmp_path / "full.pth")
    assert isinstance(run.model, MaskedAutoencoder)
    assert run.document.kind == "pretrain"
    assert run.document.figures == {}


def test_a_probe_fits_the_file_that_it_was_fitted_to(encoder: Path, tmp_path: Path) -> None:
    """A probe names the weights of the folder that the file was converted to; the file alone must answer to that."""
    run = read_pretrained(encoder)
    assert isinstance(run.model, PretrainedEncoder)
    save_model(run.model, tmp_path / "init")
    head = LinearHead(LinearHeadConfig(inputs=("cls",), dim=32, num_classes=len(LABELS)))
    probe = write_run(tmp_path / "probe", "probe", head, {})
    document = json.loads((probe / "run.json").read_text())
    document["init_sha256"] = file_sha256(tmp_path / "init" / "model.safetensors")
    (probe / "run.json").write_text(json.dumps(document))
    assert read_classifier(probe, run).labels == LABELS
    write_foreign(PretrainedEncoder(run.model.config), tmp_path / "other.safetensors", "timm")
    with pytest.raises(ExportError, match="probe is a head for another encoder"):
        read_classifier(probe, read_pretrained(tmp_path / "other.safetensors"))


def test_a_public_classifier_brings_its_labels(encoder: Path, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    network = load_model(tiny_runs.finetuned)
    assert isinstance(network, Classifier)
    write_foreign(network, tmp_path / "tuned.pth", "fair", LABELS)
    found = read_classifier(tmp_path / "tuned.pth", read_pretrained(encoder))
    assert found.labels == LABELS
    assert all(torch.equal(t, network.state_dict()[n]) for n, t in found.network.state_dict().items())


def test_a_classifier_alone_is_refused(tiny_runs: TinyRuns, encoder: Path, tmp_path: Path) -> None:
    network = load_model(tiny_runs.finetuned)
    assert isinstance(network, Classifier)
    write_foreign(network, tmp_path / "tuned.pth", "fair", LABELS)
    with pytest.raises(ExportError, match="is a finetune run; give the pre-training run first"):
        read_pretrained(tmp_path / "tuned.pth")
    with pytest.raises(ExportError, match="is a pre-training run, which knows no classes"):
        read_classifier(encoder, read_pretrained(encoder))


def test_a_file_of_something_else_is_an_export_error(tmp_path: Path) -> None:
    (tmp_path / "a.pth").write_text("words")
    with pytest.raises(ExportError, match=r"a.pth is neither a safetensors file nor one of torch.save"):
        read_pretrained(tmp_path / "a.pth")
