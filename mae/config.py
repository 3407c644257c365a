"""The network's shape, checked where it is written down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Target = Literal["raw", "normalized"]
Loss = Literal["mse", "l1"]
Pooling = Literal["cls", "mean"]
Feature = Literal["cls", "mean"]
PresetName = Literal["tiny", "small", "base", "large", "huge"]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


_COUNTS = ("patch_size", "channels", "dim", "depth", "heads", "decoder_dim", "decoder_depth", "decoder_heads")


@dataclass(frozen=True, kw_only=True)
class MAEConfig:
    """Encoder, decoder and training target of a Masked Autoencoder; the defaults are the paper's ViT-Base.

    image_size: (height, width) in pixels, each a multiple of patch_size. mean, std: per channel, in 0..1 units.
    target: `raw` = normalised pixels, `normalized` = the same, standardised within each patch (sec. 3 of the paper).
    """

    image_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    channels: int = 3
    dim: int = 768
    depth: int = 12
    heads: int = 12
    mlp_ratio: float = 4.0
    decoder_dim: int = 512
    decoder_depth: int = 8
    decoder_heads: int = 16
    target: Target = "normalized"
    loss: Loss = "mse"
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        for name in _COUNTS:
            if getattr(self, name) < 1:
                raise ValueError(f"model.{name} must be at least 1, got {getattr(self, name)}")
        if any(side < self.patch_size or side % self.patch_size for side in self.image_size):
            raise ValueError(f"model.image_size {self.image_size} must be multiples of patch_size {self.patch_size}")
        for prefix in ("", "decoder_"):
            dim, heads = getattr(self, prefix + "dim"), getattr(self, prefix + "heads")
            if dim % heads:
                raise ValueError(f"model.{prefix}dim {dim} must be a multiple of {prefix}heads {heads}")
            if dim % 4:
                raise ValueError(f"model.{prefix}dim {dim} must be a multiple of 4, for the 2-D sin-cos positions")
        if self.mlp_ratio <= 0:
            raise ValueError(f"model.mlp_ratio must be positive, got {self.mlp_ratio}")
        if self.target not in ("raw", "normalized"):
            raise ValueError(f"model.target must be 'raw' or 'normalized', got {self.target!r}")
        if self.loss not in ("mse", "l1"):
            raise ValueError(f"model.loss must be 'mse' or 'l1', got {self.loss!r}")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ValueError(f"model.mean and model.std must have {self.channels} values, one per channel")
        if min(self.std) <= 0:
            raise ValueError(f"model.std must be positive, got {self.std}")

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """P*P*C, the values in one patch."""
        return self.patch_size**2 * self.channels


# Widths of Dosovitskiy et al. 2020 and Touvron et al. 2021 (tiny, small); huge has patches of 14 in the paper.
PRESETS: dict[PresetName, dict[str, Any]] = {
    "tiny": {"dim": 192, "depth": 12, "heads": 3},
    "small": {"dim": 384, "depth": 12, "heads": 6},
    "base": {"dim": 768, "depth": 12, "heads": 12},
    "large": {"dim": 1024, "depth": 24, "heads": 16},
    "huge": {"dim": 1280, "depth": 32, "heads": 16, "patch_size": 14},
}


def preset(name: PresetName, **overrides: Any) -> MAEConfig:
    """A named encoder width and depth, any field of MAEConfig overridden. Raises ValueError for an unknown name."""
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    return MAEConfig(**{**PRESETS[name], **overrides})
