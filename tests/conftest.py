"""Fixtures for every package."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bundle.store import Bundle, write_bundle


def _tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """32 px, patch 8, width 32, a decoder and a head of 5 labels."""
    graphs = {
        "encoder": {
            "files": {"fp32": "encoder.onnx"},
            "opset": 20,
            "inputs": [_tensor("images", "uint8", "N", 32, 32, 3), _tensor("ids_keep", "int64", "N", "K")],
            "outputs": [
                _tensor("cls", "float32", "N", 32),
                _tensor("mean", "float32", "N", 32),
                _tensor("tokens", "float32", "N", "1+K", 32),
            ],
        },
        "decoder": {
            "files": {"fp32": "decoder.onnx"},
            "opset": 20,
            "inputs": [_tensor("tokens", "float32", "N", "1+K", 32), _tensor("ids_restore", "int64", "N", 16)],
            "outputs": [_tensor("patches", "float32", "N", 16, 192)],
        },
        "head": {
            "files": {"fp32": "head.onnx"},
            "opset": 20,
            "inputs": [_tensor("mean", "float32", "N", 32)],
            "outputs": [_tensor("logits", "float32", "N", 5)],
        },
    }
    fields: dict[str, Any] = {
        "name": "tiny",
        "model": {
            "image_size": (32, 32),
            "patch_size": 8,
            "channels": 3,
            "dim": 32,
            "depth": 2,
            "heads": 2,
            "mlp_ratio": 4,
            "decoder": {"dim": 32, "depth": 1, "heads": 2},
        },
        "pixel_target": "normalized",
        "preprocess": {"resize": (36, 36), "crop": (32, 32), "mean": [0.5] * 3, "std": [0.25] * 3},
        "pooling": "mean",
        "graphs": graphs,
        "num_classes": 5,
        "parity": {},
        "provenance": {"dataset": "noise", "num_images": 1, "epochs": 0, "maeve_version": "0.1.0"},
    }
    files: dict[str, Path | bytes] = {f"{graph}.onnx": graph.encode() for graph in graphs}
    files["labels.json"] = b'["ant", "bee", "cat", "dog", "elk"]'
    return write_bundle(tmp_path_factory.mktemp("tiny") / "bundle", fields, files)
