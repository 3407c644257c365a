"""What to fine-tune with when nothing else is said, by the size of the network.

base, large and huge are the paper's (He et al. 2021, table 9, and its code), scratch-base and scratch-large follow its
supervised training (table 11). The px recipes put the same augmentations on a schedule for small data.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Literal

from mae.config import MAEConfig
from training.augmentations import CropConfig, MixConfig, RandAugmentConfig

FinetuneRecipeName = Literal[
    "px32", "px64", "px96", "base", "large", "huge", "scratch-base", "scratch-large", "plain"
]  # fmt: skip
_MIN_STEPS_PER_EPOCH = 16
_MIN_BATCH = 16


@dataclass(frozen=True, kw_only=True)
class FinetuneRecipe:
    """blr, min_lr: learning rates, the first per 256 images of batch; the flags of the same names say the rest."""

    epochs: int = 100
    warmup_epochs: float = 5.0
    batch_size: int = 128
    blr: float = 1e-3
    min_lr: float = 1e-6
    layer_decay: float = 0.75
    drop_path: float = 0.1
    weight_decay: float = 0.05
    betas: tuple[float, float] = (0.9, 0.999)
    label_smoothing: float = 0.1
    crop_scale: tuple[float, float] = (0.08, 1.0)
    randaugment: float = 9.0
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    ema: float = 0.0

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"--epochs and --batch-size must be at least 1, got {self.epochs} and {self.batch_size}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay must lie in (0, 1], got {self.layer_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.blr <= 0 or self.min_lr < 0:
            raise ValueError(f"--blr must be positive and --min-lr not negative, got {self.blr} and {self.min_lr}")
        if self.weight_decay < 0:
            raise ValueError(f"--weight-decay must not be negative, got {self.weight_decay}")
        if not 0 <= self.erasing <= 1:
            raise ValueError(f"--erasing must lie in 0..1, got {self.erasing}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"--ema must be at least 0 and below 1, got {self.ema}")
        CropConfig(scale=self.crop_scale)  # these raise for what they do not take
        RandAugmentConfig(magnitude=self.randaugment)
        MixConfig(mixup=self.mixup, cutmix=self.cutmix)


FINETUNE_RECIPES: dict[FinetuneRecipeName, FinetuneRecipe] = {
    "px32": FinetuneRecipe(crop_scale=(0.3, 1.0)),
    "px64": FinetuneRecipe(crop_scale=(0.2, 1.0)),
    "px96": FinetuneRecipe(),
    "base": FinetuneRecipe(batch_size=1024, blr=5e-4, layer_decay=0.65),
    "large": FinetuneRecipe(batch_size=1024, epochs=50, drop_path=0.2),
    "huge": FinetuneRecipe(batch_size=1024, epochs=50, drop_path=0.3),
    "scratch-base": FinetuneRecipe(
        epochs=300, warmup_epochs=20.0, batch_size=4096, blr=1e-4, min_lr=0.0, layer_decay=1.0, weight_decay=0.3,
        betas=(0.9, 0.95), ema=0.9999,
    ),
    "scratch-large": FinetuneRecipe(
        epochs=200, warmup_epochs=20.0, batch_size=4096, blr=1e-4, min_lr=0.0, layer_decay=1.0, weight_decay=0.3,
        betas=(0.9, 0.95), drop_path=0.2, ema=0.9999,
    ),
    "plain": FinetuneRecipe(epochs=50, crop_scale=(0.2, 1.0), randaugment=0.0, erasing=0.0, mixup=0.0, cutmix=0.0),
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class FinetuneFlags:
    """How to fine-tune, where it is not the recipe's."""

    finetune_recipe: FinetuneRecipeName | None = None
    """The set of defaults for what follows. Default: by the network's size."""
    epochs: int | None = None
    """Passes over the images. Default: the recipe's."""
    warmup_epochs: float | None = None
    """Epochs in which the learning rate rises. Default: the recipe's, at most a fifth of the epochs."""
    batch_size: int | None = None
    """Images per step, of all processes together. Default: the recipe's, less for few images."""
    blr: float | None = None
    """Learning rate per 256 images of batch. Default: the recipe's."""
    min_lr: float | None = None
    """Learning rate at the end. Default: the recipe's."""
    layer_decay: float | None = None
    """Each block learns at this share of the rate of the one after it. Default: the recipe's, from scratch 1."""
    drop_path: float | None = None
    """Share of the residual branches that are left out. Default: the recipe's."""
    weight_decay: float | None = None
    """AdamW's. Default: the recipe's."""
    label_smoothing: float | None = None
    """Share of each label that is spread over all classes. Default: the recipe's."""
    crop_scale: tuple[float, float] | None = None
    """Range of the random crop's share of the image's area. Default: the recipe's."""
    randaugment: float | None = None
    """Magnitude of RandAugment, 0 to 10; 0 = off. Default: the recipe's."""
    erasing: float | None = None
    """Share of the images of which a random box is erased. Default: the recipe's."""
    mixup: float | None = None
    """Parameter of mixup's Beta distribution; 0 = off. Default: the recipe's."""
    cutmix: float | None = None
    """Parameter of CutMix's Beta distribution; 0 = off. Default: the recipe's."""
    ema: float | None = None
    """Decay of the average of the weights that is evaluated and saved; 0 = off. Default: the recipe's."""


def resolve(
    flags: FinetuneFlags, network: MAEConfig, num_train: int, *, from_scratch: bool
) -> tuple[FinetuneRecipeName, FinetuneRecipe]:
    """The name of the recipe that was chosen, and what it comes to with what the flags set.

    From scratch there are no pre-trained lower layers to spare, so every layer learns at the full rate. The batches of
    recipes are made for large sets: for a small one they shrink until an epoch has some steps. A warm-up takes at most
    a fifth of the run. Raises ValueError for flags that cannot be.
    """
    name = flags.finetune_recipe or choose_finetune_recipe(network, from_scratch=from_scratch)
    recipe = FINETUNE_RECIPES[name]
    recipe = replace(recipe, batch_size=_fit_batch(recipe.batch_size, num_train))
    if from_scratch:
        recipe = replace(recipe, layer_decay=1.0)
    recipe = override(recipe, flags)
    return name, replace(
        recipe,
        batch_size=min(recipe.batch_size, num_train),
        warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 5),
    )


def override(recipe: FinetuneRecipe, flags: FinetuneFlags) -> FinetuneRecipe:
    """The recipe with what the flags set; None means not set. Raises ValueError for a value that it does not take."""
    names = {f.name for f in fields(FinetuneRecipe)} & {f.name for f in fields(FinetuneFlags)}
    values = asdict(flags)
    return replace(recipe, **{name: values[name] for name in names if values[name] is not None})


def choose_finetune_recipe(network: MAEConfig, *, from_scratch: bool) -> FinetuneRecipeName:
    """The paper's for encoders of its widths; for narrower ones by the shorter side of their images."""
    if network.dim >= 768:
        if from_scratch:
            return "scratch-base" if network.dim < 1024 else "scratch-large"
        return "base" if network.dim < 1024 else "large" if network.dim < 1280 else "huge"
    side = min(network.image_size)
    return "px32" if side < 64 else "px64" if side < 96 else "px96"


def _fit_batch(batch_size: int, num_train: int) -> int:
    """The recipe's batch, or the power of two, at least 16, that leaves an epoch of num_train images 16 steps."""
    most = max(num_train // _MIN_STEPS_PER_EPOCH, 1)
    return min(batch_size, max(_MIN_BATCH, 1 << (most.bit_length() - 1)))
