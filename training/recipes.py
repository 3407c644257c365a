"""What to train with when nothing else is said, by the size of the images.

The 224-pixel recipe is the paper's (He et al. 2021, appendix A.1). The smaller ones follow what published runs on small
data share: small patches, a shallow narrow decoder and long schedules.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mae.config import PresetName

RecipeName = Literal["px32", "px64", "px96", "px224"]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Sizes in pixels. blr: learning rate per 256 images of batch."""

    image_size: tuple[int, int]
    pack_size: tuple[int, int]
    patch_size: int
    preset: PresetName = "tiny"
    decoder_dim: int = 128
    decoder_depth: int = 2
    decoder_heads: int = 4
    batch_size: int = 256
    epochs: int = 400
    warmup_epochs: float = 20
    blr: float = 6e-4


RECIPES: dict[RecipeName, Recipe] = {
    "px32": Recipe(image_size=(32, 32), pack_size=(32, 32), patch_size=4),
    "px64": Recipe(image_size=(64, 64), pack_size=(64, 64), patch_size=8),
    "px96": Recipe(image_size=(96, 96), pack_size=(96, 96), patch_size=8),
    "px224": Recipe(
        image_size=(224, 224), pack_size=(256, 256), patch_size=16, preset="base", decoder_dim=512, decoder_depth=8,
        decoder_heads=16, epochs=800, warmup_epochs=40, blr=1.5e-4,
    ),
}  # fmt: skip


def choose_recipe(shorter_side: int) -> Recipe:
    """The largest recipe whose images are no larger than what is there, in pixels; the smallest for smaller images."""
    fitting = [r for r in RECIPES.values() if r.image_size[0] <= shorter_side]
    return fitting[-1] if fitting else RECIPES["px32"]
