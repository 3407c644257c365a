"""What turns features into class scores: a head on a whole fine-tuned encoder, or a linear head on a frozen one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mae.config import Feature, MAEConfig, Pooling
from mae.layers import NORM_EPS
from mae.model import Encoder, patchify

HEAD_STD = 2e-5  # the paper's code: a head that starts near zero


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig:
    encoder: MAEConfig
    num_classes: int
    pooling: Pooling = "mean"
    drop_path: float = 0.0

    def __post_init__(self) -> None:
        if self.num_classes < 2:
            raise ValueError(f"num_classes must be at least 2, got {self.num_classes}")
        if self.pooling not in ("cls", "mean"):
            raise ValueError(f"pooling must be 'cls' or 'mean', got {self.pooling!r}")
        if not 0 <= self.drop_path < 1:
            raise ValueError(f"drop_path must be at least 0 and below 1, got {self.drop_path}")


class Classifier(nn.Module):
    """An encoder and a linear layer. `cls`: head(norm(x)[cls]); `mean`: head(fc_norm(mean of the patches))."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config.encoder, drop_path=config.drop_path)
        self.fc_norm: nn.Module = nn.Identity()
        if config.pooling == "mean":
            self.encoder.norm = nn.Identity()
            self.fc_norm = nn.LayerNorm(config.encoder.dim, eps=NORM_EPS)
        self.head = nn.Linear(config.encoder.dim, config.num_classes)
        nn.init.trunc_normal_(self.head.weight, std=HEAD_STD)
        nn.init.zeros_(self.head.bias)

    def forward(self, images: Tensor) -> Tensor:
        """images: f32 [N, C, H, W] of normalised pixels -> logits [N, classes]."""
        x = self.encoder(patchify(images, self.config.encoder.patch_size))  # [N, 1 + L, D]
        pooled = x[:, 0] if self.config.pooling == "cls" else x[:, 1:].mean(dim=1)  # [N, D]
        return self.head(self.fc_norm(pooled))  # type: ignore[no-any-return]

    def load_encoder(self, weights: Mapping[str, Tensor]) -> None:
        """Take a pre-trained encoder's state dict, but for its final norm under mean pooling: fc_norm starts fresh."""
        skip = "norm." if self.config.pooling == "mean" else None
        self.encoder.load_state_dict({k: v for k, v in weights.items() if skip is None or not k.startswith(skip)})


@dataclass(frozen=True, kw_only=True)
class LinearHeadConfig:
    """inputs: which features are concatenated, in this order; each has `dim` values."""

    inputs: tuple[Feature, ...]
    dim: int
    num_classes: int

    def __post_init__(self) -> None:
        if not self.inputs or not set(self.inputs) <= {"cls", "mean"} or len(set(self.inputs)) != len(self.inputs):
            raise ValueError(f"head.inputs must be 'cls', 'mean' or both, got {self.inputs}")


class LinearHead(nn.Module):
    """logits = W [features] + b over a frozen encoder's features."""

    def __init__(self, config: LinearHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.dim * len(config.inputs), config.num_classes)

    def forward(self, *features: Tensor) -> Tensor:
        """One tensor [N, D] per name in `config.inputs`, in that order -> logits [N, classes]."""
        return self.linear(torch.cat(features, dim=1))  # type: ignore[no-any-return]
