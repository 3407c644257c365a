"""Weights on disk: a folder with `model.safetensors` and `model.json`, which says what network they fit."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save, save_file
from torch import Tensor

from mae.classifier import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained, PretrainedEncoder

WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "model.json"

Network = MaskedAutoencoder | PretrainedEncoder | Classifier | LinearHead
_FORMATS: dict[str, type[Network]] = {
    "maeve-mae": MaskedAutoencoder,
    "maeve-classifier": Classifier,
    "maeve-head": LinearHead,
    "maeve-encoder": PretrainedEncoder,
}


def save_tensors(tensors: dict[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """safetensors' save_file, with the mode that new files have here: its own lets nobody but the owner read them."""
    file.touch()
    mode = file.stat().st_mode
    save_file(tensors, file, metadata=metadata)
    file.chmod(mode)


def save_model(model: Network, folder: Path) -> None:
    """Write weights and config, each under a temporary name first, so that a reader never sees half a file."""
    folder.mkdir(parents=True, exist_ok=True)
    (name,) = (name for name, kind in _FORMATS.items() if isinstance(model, kind))
    weights = folder / (WEIGHTS_FILE + ".tmp")
    save_tensors(_tensors(model), weights)
    config = folder / (CONFIG_FILE + ".tmp")
    config.write_text(json.dumps({"format": name, "config": asdict(model.config)}, indent=2) + "\n")
    for temporary in (weights, config):
        with temporary.open("rb") as f:
            os.fsync(f.fileno())  # before the rename, or a power cut could leave the name with nothing behind it
        temporary.replace(temporary.with_suffix(""))


def weights_bytes(model: Network) -> bytes:
    """What `save_model` writes as `model.safetensors`."""
    return save(_tensors(model))


def load_model(folder: Path) -> Network:
    """Read what `save_model` wrote, on the CPU, in evaluation mode.

    Raises FileNotFoundError where a file is missing and ValueError where one is not what it should be.
    """
    for name in (CONFIG_FILE, WEIGHTS_FILE):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} has no {name}; is it the --out of a finished training run?")
    try:
        document = json.loads((folder / CONFIG_FILE).read_text())
        model = _build(document["format"], document["config"])
        model.load_state_dict(load_file(folder / WEIGHTS_FILE))
    except (AttributeError, KeyError, TypeError, ValueError, SafetensorError, RuntimeError) as e:
        raise ValueError(f"{folder} does not hold weights that this version reads: {e}") from e
    return model.eval()


def load_pretrained(folder: Path) -> Pretrained:
    """`load_model`, for a pre-trained network, its decoder there or not. Raises ValueError for another kind."""
    model = load_model(folder)
    if not isinstance(model, MaskedAutoencoder | PretrainedEncoder):
        raise ValueError(f"{folder} holds a {type(model).__name__}, not a pre-trained Masked Autoencoder or encoder")
    return model


def load_mae(folder: Path) -> MaskedAutoencoder:
    """`load_model`, for a pre-trained network with its decoder only. Raises ValueError for another kind."""
    model = load_model(folder)
    if not isinstance(model, MaskedAutoencoder):
        raise ValueError(f"{folder} holds a {type(model).__name__}, not a pre-trained Masked Autoencoder")
    return model


def _tensors(model: Network) -> dict[str, Tensor]:
    return {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}


def _build(name: str, fields: dict[str, Any]) -> Network:
    if name not in _FORMATS:
        raise ValueError(f"unknown format {name!r}; known: {', '.join(_FORMATS)}")
    if name == "maeve-mae":
        return MaskedAutoencoder(_mae_config(fields))
    if name == "maeve-encoder":
        return PretrainedEncoder(_mae_config(fields))
    if name == "maeve-classifier":
        return Classifier(ClassifierConfig(**{**fields, "encoder": _mae_config(fields["encoder"])}))
    return LinearHead(LinearHeadConfig(**{**fields, "inputs": tuple(fields["inputs"])}))


def _mae_config(fields: dict[str, Any]) -> MAEConfig:
    """JSON knows no tuples."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
    return MAEConfig(**values)
