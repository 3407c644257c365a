"""What augmentations may be told, checked where it is written down; without torch, which --help does not wait for."""

from __future__ import annotations

from dataclasses import dataclass

MAX_MAGNITUDE = 10.0


@dataclass(frozen=True, kw_only=True)
class CropConfig:
    """scale: range of the crop's share of the image's area; ratio: range of its width over height."""

    scale: tuple[float, float] = (0.2, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"crop.scale must be an increasing range within (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"crop.ratio must be an increasing range above 0, got {self.ratio}")
        if not 0 <= self.flip <= 1:
            raise ValueError(f"crop.flip must lie in 0..1, got {self.flip}")


@dataclass(frozen=True, kw_only=True)
class RandAugmentConfig:
    """num_ops operations in turn, each done with probability `prob` at a magnitude drawn around `magnitude`, 0..10."""

    magnitude: float = 9.0
    magnitude_std: float = 0.5
    num_ops: int = 2
    prob: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.magnitude <= MAX_MAGNITUDE:
            raise ValueError(f"--randaugment must lie in 0..{MAX_MAGNITUDE:g}, got {self.magnitude}")
        if self.magnitude_std < 0 or self.num_ops < 1:
            raise ValueError(
                f"randaugment.magnitude_std must not be negative and num_ops at least 1, "
                f"got {self.magnitude_std} and {self.num_ops}"
            )
        if not 0 <= self.prob <= 1:
            raise ValueError(f"randaugment.prob must lie in 0..1, got {self.prob}")


@dataclass(frozen=True, kw_only=True)
class MixConfig:
    """mixup, cutmix: the Beta distribution's parameter, 0 = off; where both are on, a batch takes either at random."""

    mixup: float = 0.8
    cutmix: float = 1.0

    def __post_init__(self) -> None:
        if self.mixup < 0 or self.cutmix < 0:
            raise ValueError(f"--mixup and --cutmix must not be negative, got {self.mixup} and {self.cutmix}")
