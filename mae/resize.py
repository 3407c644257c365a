"""The same weights for images of another size, or for patches of another size.

Letters: C channels, P and Q the old and the new patch side, D encoder width, E decoder width.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from mae.classifier import Classifier
from mae.config import MAEConfig
from mae.pos_embed import interpolate
from mae.pretrained import Pretrained, config_of

Resizable = TypeVar("Resizable", bound=Pretrained | Classifier)


def resized(
    network: Resizable, *, image_size: tuple[int, int] | None = None, patch_size: int | None = None
) -> Resizable:
    """A copy in evaluation mode; image_size: (height, width) in pixels; None: as it is.

    Position tables, fixed or learned, are interpolated in 2-D where the grid changes: a patch then keeps the position
    that its place in the picture had. The patch embedding is resized by `resize_patch_embed`, the decoder's last layer
    by `resize_pred`. Raises ValueError where the patch does not divide the image.
    """
    old = config_of(network)
    new = replace(old, image_size=image_size or old.image_size, patch_size=patch_size or old.patch_size)
    state = network.state_dict()
    for key in ("encoder.pos_embed", "decoder.pos_embed"):
        if key in state:
            state[key] = interpolate(state[key], old.grid, new.grid)
    if new.patch_size != old.patch_size:
        key = "encoder.patch_embed.proj.weight"
        state[key] = resize_patch_embed(state[key], new.patch_size)
        for key in ("decoder.pred.weight", "decoder.pred.bias"):
            if key in state:
                state[key] = resize_pred(state[key], new.channels, new.patch_size)
    copy = _build(network, new)
    copy.load_state_dict(state)
    copy.eval()
    return copy


def _build(network: Resizable, config: MAEConfig) -> Resizable:
    build: Any = type(network)
    shape = replace(network.config, encoder=config) if isinstance(network, Classifier) else config
    return build(shape)  # type: ignore[no-any-return]


def resize_patch_embed(weight: Tensor, patch_size: int) -> Tensor:
    """[D, C, P, P] -> [D, C, Q, Q], so that a patch and its resized copy are embedded alike.

    The pseudo-inverse resize of FlexiViT (Beyer et al. 2022, https://arxiv.org/abs/2212.08013, sec. 3.4): with B the
    matrix that resizes a patch, the new weight minimises E_x (<x, w> - <B x, w'>)^2 over white x, which is
    w' = (B^T)^+ w. Where B enlarges, B^T w' = w holds exactly. B is the filter that images are resized with.
    """
    old = weight.shape[-1]
    if patch_size == old:
        return weight
    inverse = torch.linalg.pinv(_resize_matrix(old, patch_size).T)  # [Q*Q, P*P]
    flat: Tensor = weight.double().flatten(2) @ inverse.T.to(weight.device)  # [D, C, Q*Q]
    return flat.reshape(*weight.shape[:2], patch_size, patch_size).to(weight.dtype)


def resize_pred(weight: Tensor, channels: int, patch_size: int) -> Tensor:
    """Rows of the decoder's last layer, [P*P*C, E] or a bias [P*P*C] -> [Q*Q*C, ...]: it predicts the resized patch.

    Exact for raw pixels. A patch standardised and then resized has a variance a little off 1, so that a network with
    the normalized target wants some training at the new size.
    """
    pixels = weight.shape[0] // channels
    old = math.isqrt(pixels)
    if patch_size == old:
        return weight
    rows = weight.double().reshape(pixels, -1)  # [P*P, C*E]
    rows = _resize_matrix(old, patch_size).to(weight.device) @ rows  # [Q*Q, C*E]
    return rows.reshape(-1, *weight.shape[1:]).to(weight.dtype)  # [Q*Q*C, ...]


def _resize_matrix(old: int, new: int) -> Tensor:
    """B with vec(resized patch) = B vec(patch): f64 [Q*Q, P*P], bicubic with antialiasing, as images are resized."""
    units = torch.eye(old * old, dtype=torch.float64).reshape(-1, 1, old, old)
    resized_units = F.interpolate(units, size=(new, new), mode="bicubic", antialias=True, align_corners=False)
    return resized_units.flatten(1).T
