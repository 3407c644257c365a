"""What to train with when nothing else is said, by the size of the images.

The 224-pixel recipe is the paper's (He et al. 2021, appendix A.1). The smaller ones follow what published runs on small
data share: small patches, a shallow narrow decoder and long schedules.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from mae.config import MAEConfig, PresetName, preset
from training.errors import TrainingError
from training.packed import PackInfo

RecipeName = Literal["px32", "px64", "px96", "px224"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes in pixels; depth: encoder blocks, None = the preset's; blr: learning rate per 256 images of batch."""

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

    def network(self, info: PackInfo, **overrides: Any) -> MAEConfig:
        """The network for the packed images, whose own mean and std it normalises with."""
        depth: dict[str, Any] = {} if self.depth is None else {"depth": self.depth}
        return preset(
            self.preset, **depth, image_size=self.image_size, patch_size=self.patch_size, channels=info.channels,
            decoder_dim=self.decoder_dim, decoder_depth=self.decoder_depth, decoder_heads=self.decoder_heads,
            mean=info.mean, std=info.std, **overrides,
        )  # fmt: skip


RECIPES: dict[RecipeName, Recipe] = {
    "px32": Recipe(image_size=(32, 32), pack_size=(32, 32), patch_size=4),
    "px64": Recipe(image_size=(64, 64), pack_size=(64, 64), patch_size=8),
    "px96": Recipe(image_size=(96, 96), pack_size=(96, 96), patch_size=8),
    "px224": Recipe(
        image_size=(224, 224), pack_size=(256, 256), patch_size=16, preset="base", decoder_dim=512, decoder_depth=8,
        decoder_heads=16, epochs=800, warmup_epochs=40, blr=1.5e-4,
    ),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class NetworkFlags:
    """The command line's choice of a network. Whatever is not set comes from the recipe that fits the images' size."""

    recipe: RecipeName | None = None
    """The set of defaults. Default: by the images' size."""
    preset: PresetName | None = None
    """Encoder width and depth."""
    depth: int | None = None
    """Encoder blocks, where they differ from the preset's."""
    image_size: int | None = None
    """Side of the square that the network sees, in pixels."""
    patch_size: int | None = None
    decoder_dim: int | None = None
    decoder_depth: int | None = None
    decoder_heads: int | None = None


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
    fitting = [r for r in RECIPES.values() if r.image_size[0] <= shorter_side]
    return fitting[-1] if fitting else RECIPES["px32"]
