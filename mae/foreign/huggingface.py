"""Hugging Face's folders: config.json says what the shapes do not, preprocessor_config.json the pixels' scale.

`ViTMAEForPreTraining` and `ViTMAEModel` of transformers, and `ViTForImageClassification`, which pools the cls token.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mae.classifier import Classifier
from mae.config import MAEConfig
from mae.foreign.files import CONFIG_FILE, PREPROCESSOR_FILE, WEIGHTS_FILES
from mae.foreign.hints import Hints
from mae.foreign.shapes import Foreigner
from mae.layers import NORM_EPS
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained, config_of

_MODEL_TYPES = ("vit_mae", "vit")
# Fields that have one value here: another would compute something else.
_FIXED = {"hidden_act": "gelu", "qkv_bias": True}
# Fields that the shapes say too; where they differ, the two files do not belong together.
_SIZES = {"hidden_size": "dim", "num_hidden_layers": "depth", "patch_size": "patch_size", "num_channels": "channels"}
_BICUBIC = 3  # Pillow's number for it


def read_hints(weights: Path) -> tuple[Hints, tuple[str, ...], dict[str, Any]]:
    """(hints, notes for the reader, config.json), all empty where no such file lies beside the weights.

    timm's config.json gives the pixels' scale alone. Raises ValueError for JSON that is broken, or of a network that is
    not a plain ViT.
    """
    folder = weights.parent
    if weights.name not in WEIGHTS_FILES or not (folder / CONFIG_FILE).is_file():
        return Hints(), (), {}  # a file of any other name may lie beside anything
    config = _read_json(folder / CONFIG_FILE)
    if "pretrained_cfg" in config:
        scale = config["pretrained_cfg"] or {}
        return Hints.read({k: scale[k] for k in ("mean", "std") if k in scale}), (), {}
    if config.get("model_type") not in _MODEL_TYPES:
        known = " or ".join(_MODEL_TYPES)
        raise ValueError(f"{folder / CONFIG_FILE} is of a {config.get('model_type')!r}; {known} is needed")
    for name, value in _FIXED.items():
        if config.get(name, value) != value:
            raise ValueError(f"{folder / CONFIG_FILE} has {name} {config[name]!r}; only {value!r} is supported")
    eps = config.get("layer_norm_eps", 1e-12)
    notes = () if eps == NORM_EPS else (f"its layer_norm_eps is {eps:g}, and {NORM_EPS:g} here",)
    return _hints(config, folder), notes, config


def _hints(config: Mapping[str, Any], folder: Path) -> Hints:
    size = config.get("image_size")
    labels = config.get("id2label")
    is_mae = config["model_type"] == "vit_mae"
    scale = _read_json(folder / PREPROCESSOR_FILE) if (folder / PREPROCESSOR_FILE).is_file() else {}
    return Hints.read({
        "heads": config.get("num_attention_heads"),
        "decoder_heads": config.get("decoder_num_attention_heads"),
        "image_size": [size, size] if isinstance(size, int) else size,
        "target": ("normalized" if config.get("norm_pix_loss", False) else "raw") if is_mae else None,
        "mean": scale.get("image_mean"),
        "std": scale.get("image_std"),
        "labels": None if labels is None else [str(labels[key]) for key in sorted(labels, key=int)],
    })  # fmt: skip


def check_sizes(config: Mapping[str, Any], network: Foreigner) -> None:
    """Raises ValueError where config.json and the weights contradict each other."""
    own = config_of(network)
    for name, field in _SIZES.items():
        if config.get(name, getattr(own, field)) != getattr(own, field):
            raise ValueError(
                f"{CONFIG_FILE} has {name} {config[name]!r}, the weights {getattr(own, field)}: they do not belong "
                "together"
            )


def documents(network: Foreigner, labels: tuple[str, ...] | None) -> dict[str, dict[str, Any]]:
    """The JSON files beside the weights, by name. Raises ValueError for a network that their classes do not have."""
    config = config_of(network)
    fields = _classifier_fields(network, labels) if isinstance(network, Classifier) else _mae_fields(network)
    shape = {
        "attention_probs_dropout_prob": 0.0,
        "dtype": "float32",
        "hidden_act": "gelu",
        "hidden_dropout_prob": 0.0,
        "hidden_size": config.dim,
        "image_size": config.image_size[0] if config.image_size[0] == config.image_size[1] else config.image_size,
        "intermediate_size": int(config.dim * config.mlp_ratio),
        "layer_norm_eps": NORM_EPS,
        "num_attention_heads": config.heads,
        "num_channels": config.channels,
        "num_hidden_layers": config.depth,
        "patch_size": config.patch_size,
        "qkv_bias": True,
    }
    return {CONFIG_FILE: fields | shape, PREPROCESSOR_FILE: _preprocessor(config)}


def _mae_fields(network: Pretrained) -> dict[str, Any]:
    config = network.config
    if config.image_size[0] != config.image_size[1]:
        raise ValueError(f"Hugging Face's ViTMAE takes square images only, not {config.image_size}; write fair or timm")
    fields = {"architectures": ["ViTMAEModel"], "model_type": "vit_mae", "mask_ratio": 0.75}
    if not isinstance(network, MaskedAutoencoder):
        return fields
    return fields | {
        "architectures": ["ViTMAEForPreTraining"],
        "decoder_hidden_size": config.decoder_dim,
        "decoder_intermediate_size": int(config.decoder_dim * config.mlp_ratio),
        "decoder_num_attention_heads": config.decoder_heads,
        "decoder_num_hidden_layers": config.decoder_depth,
        "norm_pix_loss": config.target == "normalized",
    }


def _classifier_fields(network: Classifier, labels: tuple[str, ...] | None) -> dict[str, Any]:
    if network.config.pooling != "cls":
        raise ValueError(
            "Hugging Face's ViTForImageClassification pools the cls token, this classifier the mean of the patches; "
            "write fair or timm"
        )
    names = labels or tuple(map(str, range(network.config.num_classes)))
    return {
        "architectures": ["ViTForImageClassification"],
        "model_type": "vit",
        "id2label": {str(i): name for i, name in enumerate(names)},
        "label2id": {name: i for i, name in enumerate(names)},
    }


def _preprocessor(config: MAEConfig) -> dict[str, Any]:
    return {
        "image_processor_type": "ViTImageProcessor",
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": config.mean,
        "image_std": config.std,
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        "size": {"height": config.image_size[0], "width": config.image_size[1]},
    }


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document = json.loads(file.read_text())
    except ValueError as e:
        raise ValueError(f"{file} is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise ValueError(f"{file} holds no JSON object")
    return document
