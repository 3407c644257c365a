"""What to train with: by the size of the images when nothing else is said, or by name.

`paper-*` are the paper's (He et al. 2021, appendix A.1), and `px224` is its base network at a batch that one GPU
holds. The smaller ones follow what published runs on small data share: small patches, a shallow narrow decoder and
long schedules; `long-*` take them as far as a GPU makes reasonable. `fast-*` hide more, decode with less and see small
images first, for a good part of the quality in a fraction of the time. `default-*` made, or are to make, the bundle in
models/default: raw pixels, whose reconstructions are pictures, on a GPU and in an hour of two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mae.config import MAEConfig, PresetName, Target, preset
from training.errors import TrainingError
from training.packed import PackInfo

RecipeName = Literal[
    "px32", "px64", "px96", "px224", "long-32", "long-64", "long-96", "fast-32", "fast-64", "fast-224",
    "paper-base", "paper-large", "paper-huge", "default-64", "default-64-cpu",
]  # fmt: skip
Stages = tuple[tuple[float, int], ...]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes in pixels; depth: encoder blocks, None = the preset's; blr: learning rate per 256 images of batch.

    stages: (share of the epochs, side in pixels) of the smaller images that the network sees first, ascending; the rest
    of the epochs sees `image_size`.
    """

    image_size: tuple[int, int]
    pack_size: tuple[int, int]
    patch_size: int
    preset: PresetName = "tiny"
    depth: int | None = None
    decoder_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    batch_size: int = 256
    epochs: int = 400
    warmup_epochs: float = 20
    blr: float = 6e-4
    mask_ratio: float = 0.75
    target: Target = "normalized"
    stages: Stages = ()

    def __post_init__(self) -> None:
        shares = [share for share, _ in self.stages]
        if shares != sorted(shares) or not all(0 < share < 1 for share in shares):
            raise ValueError(f"--stages must name ascending shares of the epochs between 0 and 1, got {shares}")
        for _, side in self.stages:
            if not self.patch_size <= side <= min(self.image_size) or side % self.patch_size:
                raise ValueError(
                    f"--stages: {side} px must be a multiple of the patch, {self.patch_size}, and no more than the "
                    f"image, {min(self.image_size)}"
                )

    def size_at(self, progress: float) -> tuple[int, int]:
        """(height, width) of what the network sees when a share `progress` of the epochs is behind it."""
        return next(((side, side) for share, side in self.stages if progress < share), self.image_size)

    def network(self, info: PackInfo, **overrides: Any) -> MAEConfig:
        """The network for the packed images, whose own mean and std it normalises with."""
        depth: dict[str, Any] = {} if self.depth is None else {"depth": self.depth}
        return preset(
            self.preset, **depth, image_size=self.image_size, patch_size=self.patch_size, channels=info.channels,
            decoder_dim=self.decoder_dim, decoder_depth=self.decoder_depth, decoder_heads=self.decoder_heads,
            mean=info.mean, std=info.std, **{"target": self.target, **overrides},
        )  # fmt: skip


def _px(side: int, patch_size: int, **fields: Any) -> Recipe:
    return Recipe(image_size=(side, side), pack_size=(side, side), patch_size=patch_size, **fields)


_BASE = Recipe(
    image_size=(224, 224), pack_size=(256, 256), patch_size=16, preset="base", decoder_dim=512, decoder_depth=8,
    decoder_heads=16, epochs=800, warmup_epochs=40, blr=1.5e-4,
)  # fmt: skip
_PAPER = replace(_BASE, epochs=1600, batch_size=4096)
_LONG: dict[str, Any] = {"epochs": 1600, "warmup_epochs": 40, "batch_size": 1024, "blr": 3e-4}
_FAST: dict[str, Any] = {"mask_ratio": 0.8, "decoder_depth": 1, "epochs": 200, "warmup_epochs": 10}

RECIPES: dict[RecipeName, Recipe] = {
    "px32": _px(32, 4),
    "px64": _px(64, 8),
    "px96": _px(96, 8),
    "px224": _BASE,
    "long-32": _px(32, 2, **_LONG),
    "long-64": _px(64, 4, **_LONG),
    "long-96": _px(96, 8, preset="small", **_LONG),
    "fast-32": _px(32, 4, stages=((0.6, 24),), **_FAST),
    "fast-64": _px(64, 8, stages=((0.5, 40), (0.8, 48)), **_FAST),
    "fast-224": replace(
        _BASE, stages=((0.5, 128), (0.8, 176)), mask_ratio=0.8, decoder_dim=256, decoder_depth=2, decoder_heads=8,
        epochs=300, warmup_epochs=20, batch_size=1024,
    ),
    "paper-base": _PAPER,
    "paper-large": replace(_PAPER, preset="large"),
    "paper-huge": replace(_PAPER, preset="huge", patch_size=14),
    "default-64": _px(
        64, 8, target="raw", decoder_dim=192, decoder_depth=4, decoder_heads=3, batch_size=1024, epochs=800,
        warmup_epochs=40, blr=3e-4,
    ),
    "default-64-cpu": _px(64, 8, target="raw", depth=6, batch_size=128, epochs=12, warmup_epochs=1.2, blr=2e-3),
}  # fmt: skip
_BY_SIZE: tuple[RecipeName, ...] = ("px32", "px64", "px96", "px224")


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """The network, where it is not the recipe's."""

    recipe: RecipeName | None = None
    """The set of defaults: px* by the images' size, long-* and fast-* for more or less patience, paper-* for ImageNet.
    Default: px*, by the images' size."""
    preset: PresetName | None = None
    """Encoder width and depth. Default: the recipe's."""
    depth: int | None = None
    """Encoder blocks. Default: the recipe's, else the preset's."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels. Default: the recipe's."""
    patch_size: int | None = None
    """Side of a patch, in pixels. Default: the recipe's."""
    decoder_dim: int | None = None
    """Width of the decoder. Default: the recipe's."""
    decoder_depth: int | None = None
    """Decoder blocks. Default: the recipe's."""
    decoder_heads: int | None = None
    """Heads of each decoder block. Default: the recipe's."""


def recipe_for(flags: NetworkFlags, info: PackInfo, **overrides: Any) -> Recipe:
    """The recipe with what the flags and `overrides` set; None means not set.

    Raises TrainingError where the packed images are smaller than what the network is to see.
    """
    recipe = RECIPES[flags.recipe] if flags.recipe else choose_recipe(min(info.size))
    chosen = {f.name: getattr(flags, f.name) for f in fields(NetworkFlags) if f.name != "recipe"} | overrides
    if flags.image_size is not None:
        chosen["image_size"] = (flags.image_size, flags.image_size)
    recipe = replace(recipe, pack_size=info.size, **{k: v for k, v in chosen.items() if v is not None})
    if info.size[0] < recipe.image_size[0] or info.size[1] < recipe.image_size[1]:
        raise TrainingError(
            f"{info.name} is packed at {info.size}, smaller than the network's {recipe.image_size}; choose a smaller "
            f"--image-size, or pack it with python -m training.pack --size {recipe.image_size[0]}"
        )
    return recipe


def choose_recipe(shorter_side: int) -> Recipe:
    """The largest recipe whose images are no larger than what is there, in pixels; the smallest for smaller images."""
    fitting = [name for name in _BY_SIZE if RECIPES[name].image_size[0] <= shorter_side]
    return RECIPES[fitting[-1] if fitting else _BY_SIZE[0]]
