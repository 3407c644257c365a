"""Fixtures for every package: runs as training leaves them, and the bundle exported from them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from bundle.store import Bundle

LABELS = ("ant", "bee", "cat", "dog", "elk")


@dataclass(frozen=True)
class TinyRuns:
    """Random networks for 32-pixel images in patches of 8, width 32, packed at 36 pixels."""

    pretrained: Path
    probe: Path  # a linear head on the mean of the patches, 5 labels
    finetuned: Path  # a whole classifier, mean pooling, 5 labels


@pytest.fixture(scope="session")
def tiny_runs(tmp_path_factory: pytest.TempPathFactory) -> TinyRuns:
    import torch

    from mae import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig, MAEConfig, MaskedAutoencoder

    torch.manual_seed(0)
    config = MAEConfig(
        image_size=(32, 32),
        patch_size=8,
        dim=32,
        depth=2,
        heads=2,
        decoder_dim=32,
        decoder_depth=1,
        decoder_heads=2,
    )
    root = tmp_path_factory.mktemp("runs")
    classifier = Classifier(ClassifierConfig(encoder=config, num_classes=len(LABELS)))
    torch.nn.init.normal_(classifier.head.weight)  # it starts near zero, where all images score the same
    head = LinearHead(LinearHeadConfig(inputs=("mean",), dim=config.dim, num_classes=len(LABELS)))
    return TinyRuns(
        pretrained=write_run(root / "tiny", "pretrain", MaskedAutoencoder(config), {"reconstruction_loss": 0.5}),
        probe=write_run(root / "probe", "probe", head, {"probe_val_top1": 0.25}),
        finetuned=write_run(root / "finetuned", "finetune", classifier, {"val_top1": 0.75}),
    )


def write_run(folder: Path, kind: str, network: Any, metrics: dict[str, float]) -> Path:
    """A finished run's folder; `network` is one that mae.weights can save."""
    from bundle.labels import encode_labels
    from mae.weights import save_model

    save_model(network, folder)
    if kind != "pretrain":
        (folder / "labels.json").write_bytes(encode_labels(LABELS))
    data = {"name": "noise", "num_images": 7, "pack_size": [36, 36], "mean": [0.5] * 3, "std": [0.25] * 3}
    document = {"kind": kind, "config": {}, "data": data, "epochs": 2, "metrics": metrics, "git_commit": "abc123"}
    if kind != "pretrain":
        document["num_val"] = 20
    (folder / "run.json").write_text(json.dumps(document))
    return folder


@pytest.fixture(scope="session")
def tiny_bundle(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """Encoder, decoder and linear head of `tiny_runs`, exported."""
    from export.config import ExportConfig
    from export.pipeline import export_run

    out = tmp_path_factory.mktemp("tiny") / "bundle"
    return export_run(ExportConfig(run=tiny_runs.pretrained, classifier=tiny_runs.probe, out=out, precision="fp32"))
