"""What network weights belong to, read off their shapes.

Letters: C channels, P patch side, L patches, D encoder width, E decoder width.
"""

from __future__ import annotations

import math
import re
from typing import Any

from torch import Tensor

from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig
from mae.foreign.hints import Hints
from mae.foreign.names import State
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained, PretrainedEncoder

Foreigner = Pretrained | Classifier

# Heads by width: Touvron et al. 2021 (192, 384), Dosovitskiy et al. 2020 (768 to 1280), He et al. 2021 (a decoder's).
_HEADS = {192: 3, 384: 6, 768: 12, 1024: 16, 1280: 16}
_DECODER_HEADS = {512: 16}


def build(state: State, hints: Hints) -> Foreigner:
    """A fresh network that such weights fit; names as in `mae.foreign.names`, q, k and v apart or not.

    A Classifier where there is a head, pooling `mean` where there is an fc_norm; else a MaskedAutoencoder, or an
    encoder where the decoder is missing. Raises ValueError for what the shapes leave open and the hints do not say.
    """
    has_decoder = any(name.startswith("decoder.") for name in state)
    config = _config(state, hints, has_decoder=has_decoder)
    if has_decoder:
        return MaskedAutoencoder(config)
    if "head.weight" not in state:
        if "fc_norm.weight" in state:
            raise ValueError("there is an fc_norm but no head: neither a classifier nor a pre-trained encoder")
        return PretrainedEncoder(config)
    pooling: Any = "mean" if "fc_norm.weight" in state else "cls"
    classes = _shaped(state, "head.weight", 2).shape[0]
    return Classifier(ClassifierConfig(encoder=config, num_classes=classes, pooling=pooling))


def _config(state: State, hints: Hints, *, has_decoder: bool) -> MAEConfig:
    dim, channels, patch_size, _ = _shaped(state, "encoder.patch_embed.proj.weight", 4).shape  # [D, C, P, P]
    length = _shaped(state, "encoder.pos_embed", 3).shape[1] - 1  # [1, 1 + L, D]
    fields: dict[str, Any] = {
        "image_size": _image_size(length, patch_size, hints),
        "patch_size": patch_size,
        "channels": channels,
        "dim": dim,
        "depth": _depth(state, "encoder"),
        "heads": hints.heads or _known(_HEADS, dim, "an encoder", "--heads"),
        "mlp_ratio": _mlp_ratio(state, "encoder", dim),
    }
    if has_decoder:
        width = _shaped(state, "decoder.embed.weight", 2).shape[0]  # [E, D]
        fields |= {
            "decoder_dim": width,
            "decoder_depth": _depth(state, "decoder"),
            "decoder_heads": hints.decoder_heads or _known(_DECODER_HEADS, width, "a decoder", "--decoder-heads"),
        }
        if _mlp_ratio(state, "decoder", width) != fields["mlp_ratio"]:
            raise ValueError("the encoder's and the decoder's MLPs widen by different factors, which is not supported")
    given = {name: getattr(hints, name) for name in ("target", "loss", "mean", "std")}
    fields |= {name: value for name, value in given.items() if value is not None}
    if channels != MAEConfig.channels and hints.mean is None:
        raise ValueError(f"the pixels' scale of {channels} channels is not known; say --mean and --std, in 0..1 units")
    return MAEConfig(**fields)


def _image_size(length: int, patch_size: int, hints: Hints) -> tuple[int, int]:
    """Of (rows * P, columns * P); a square one where nobody says."""
    if hints.image_size is not None:
        height, width = hints.image_size
        if height % patch_size or width % patch_size or height * width != length * patch_size**2:
            raise ValueError(
                f"an image of {height}x{width} has not the {length} patches of {patch_size}x{patch_size} that these "
                "weights were trained with; --source-image-size is the size before any resizing"
            )
        return hints.image_size
    side = math.isqrt(length)
    if side * side != length:
        raise ValueError(f"{length} positions are no square grid; say what it was with --source-image-size H W")
    return side * patch_size, side * patch_size


def _depth(state: State, part: str) -> int:
    found = [int(m[1]) for name in state if (m := re.match(rf"{part}\.blocks\.(\d+)\.", name))]
    if not found:
        raise ValueError(f"there are no blocks of the {part}")
    return 1 + max(found)


def _mlp_ratio(state: State, part: str, dim: int) -> float:
    """The factor with int(dim * factor) = the MLP's width."""
    hidden = _shaped(state, f"{part}.blocks.0.mlp.fc1.weight", 2).shape[0]
    ratio: float = hidden / dim
    return ratio if int(dim * ratio) == hidden else math.nextafter(ratio, math.inf)


def _known(table: dict[int, int], dim: int, what: str, flag: str) -> int:
    if dim not in table:
        raise ValueError(f"the number of heads of {what} {dim} wide is not known; say it with {flag}")
    return table[dim]


def _shaped(state: State, name: str, ndim: int) -> Tensor:
    if name not in state:
        raise ValueError(f"there is no {name}, without which the network's size is not known")
    tensor = state[name]
    if tensor.ndim != ndim or (ndim == 4 and tensor.shape[2] != tensor.shape[3]):
        raise ValueError(f"{name} has the shape {list(tensor.shape)}, which is not that of a ViT with square patches")
    return tensor
