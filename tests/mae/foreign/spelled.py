"""State dicts as FAIR's code and timm's write them, spelled out from their module trees rather than by our tables."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeVar

import torch
from torch import Tensor, nn

Network = TypeVar("Network", bound=nn.Module)
Shapes = dict[str, tuple[int, ...]]
BLOCK = {
    "norm1.weight": (1,), "norm1.bias": (1,),
    "attn.qkv.weight": (3, 1), "attn.qkv.bias": (3,),
    "attn.proj.weight": (1, 1), "attn.proj.bias": (1,),
    "norm2.weight": (1,), "norm2.bias": (1,),
    "mlp.fc1.weight": (4, 1), "mlp.fc1.bias": (4,),
    "mlp.fc2.weight": (1, 4), "mlp.fc2.bias": (1,),
}  # fmt: skip


def blocks(prefix: str, depth: int, dim: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Shapes in units of the width."""
    for i in range(depth):
        for leaf, shape in BLOCK.items():
            yield f"{prefix}.{i}.{leaf}", tuple(dim * n for n in shape)


def encoder_shapes(dim: int, depth: int, patch: int, length: int, channels: int = 3) -> Shapes:
    return {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, 1 + length, dim),
        "patch_embed.proj.weight": (dim, channels, patch, patch),
        "patch_embed.proj.bias": (dim,),
        **dict(blocks("blocks", depth, dim)),
        "norm.weight": (dim,),
        "norm.bias": (dim,),
    }


def decoder_shapes(dim: int, width: int, depth: int, patch: int, length: int, channels: int = 3) -> Shapes:
    return {
        "mask_token": (1, 1, width),
        "decoder_pos_embed": (1, 1 + length, width),
        "decoder_embed.weight": (width, dim),
        "decoder_embed.bias": (width,),
        **dict(blocks("decoder_blocks", depth, width)),
        "decoder_norm.weight": (width,),
        "decoder_norm.bias": (width,),
        "decoder_pred.weight": (patch * patch * channels, width),
        "decoder_pred.bias": (patch * patch * channels,),
    }


def head_shapes(dim: int, classes: int) -> Shapes:
    return {"head.weight": (classes, dim), "head.bias": (classes,)}


def filled(shapes: Shapes) -> dict[str, Tensor]:
    """Tensors of these shapes, every value drawn at random."""
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def randomized(network: Network) -> Network:
    """Every tensor drawn at random: a bias of zero or a norm of one would hide a mistake."""
    generator = torch.Generator().manual_seed(1)
    for tensor in network.state_dict().values():
        tensor.copy_(0.3 * torch.randn(tensor.shape, generator=generator))
    return network.eval()
