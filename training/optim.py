"""AdamW's parameter groups, and the learning rate over time."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import AdamW


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Linear warm-up from 0, then half a cosine down to min_lr (Loshchilov & Hutter 2017). Lengths in steps."""

    peak_lr: float
    total_steps: int
    warmup_steps: int
    min_lr: float = 0.0

    def __post_init__(self) -> None:
        if self.total_steps < 1:
            raise ValueError(f"schedule.total_steps must be at least 1, got {self.total_steps}")
        if not 0 <= self.warmup_steps <= self.total_steps:
            raise ValueError(f"warm-up of {self.warmup_steps} steps does not fit {self.total_steps} steps in all")

    def lr(self, step: int) -> float:
        if step < self.warmup_steps:
            return self.peak_lr * step / self.warmup_steps
        progress = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        return self.min_lr + (self.peak_lr - self.min_lr) * 0.5 * (1 + math.cos(math.pi * progress))


def make_adamw(
    model: nn.Module, *, weight_decay: float, betas: tuple[float, float], layer_decay: float = 1.0, depth: int = 0
) -> AdamW:
    """No weight decay on biases, norms and single tokens; with layer_decay, each layer learns slower than the next.

    Each group holds its share of the learning rate as `lr_scale`, which `set_lr` applies: layer_decay^(depth + 1 - i)
    for layer i, 0 = the embeddings, depth + 1 = the head (Bao et al. 2022, BEiT, appendix H).
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decay = 0.0 if parameter.ndim <= 1 or name.endswith(("cls_token", "mask_token")) else weight_decay
        scale = layer_decay ** (depth + 1 - _layer(name, depth))
        groups.setdefault((scale, decay), []).append(parameter)
    params: list[dict[str, Any]] = [
        {"params": p, "weight_decay": decay, "lr_scale": scale} for (scale, decay), p in groups.items()
    ]
    return AdamW(params, lr=0.0, betas=betas, fused=True)


def _layer(name: str, depth: int) -> int:
    """0 for the embeddings, 1..depth for the blocks, depth + 1 for what follows them."""
    if name.startswith("encoder.blocks."):
        return int(name.split(".")[2]) + 1
    return 0 if name.startswith(("encoder.patch_embed", "encoder.cls_token")) else depth + 1


def set_lr(optimizer: torch.optim.Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr * group["lr_scale"]
