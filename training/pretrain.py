"""python -m training.pretrain --data DIR --out RUN: pre-train a Masked Autoencoder on unlabeled images."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mae.config import Loss, Target
from mae.masking import num_keep, random_masking
from mae.model import MAEOutput, MaskedAutoencoder, Normalize
from mae.weights import save_model
from training.augment import CropConfig, random_resized_crop
from training.cli import parse
from training.data import center_batch, open_data
from training.device import PrecisionName, autocast, pick_device
from training.errors import run_command
from training.logs import LogFlags
from training.loop import LoopConfig, step_generator, train
from training.optim import Schedule, make_adamw
from training.packed import PackedDataset, PackInfo, epoch_order
from training.picture import reconstruction_grid, save_picture
from training.recipes import RECIPES, NetworkFlags, Recipe, recipe_for
from training.run import Run, data_fields

BETAS = (0.9, 0.95)  # He et al. 2021, table 8
_PICTURE_IMAGES = 8
_LOSS_IMAGES, _LOSS_BATCH = 1024, 64


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(NetworkFlags, LogFlags):
    """Pre-train a Masked Autoencoder. Whatever is not set comes from the recipe that fits the images' size."""

    data: Path
    """A folder of images, Parquet, or what training.pack wrote."""
    out: Path
    """The run's folder."""
    mask_ratio: float = 0.75
    target: Target = "normalized"
    """raw makes better pictures, normalized better features."""
    loss: Loss = "mse"
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the random crop's share of the image's area."""
    epochs: int | None = None
    warmup_epochs: float | None = None
    batch_size: int | None = None
    blr: float | None = None
    """Learning rate per 256 images of batch."""
    weight_decay: float = 0.05
    seed: int = 0
    precision: PrecisionName = "auto"
    device: str = "auto"
    picture_every: int | None = None
    """Epochs between two pictures of reconstructions. Default: a tenth of the epochs."""
    checkpoint_minutes: float = 5.0
    resume: bool = False
    """Go on with the run in --out, or begin it where there is none."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "picture_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if not 0 < self.mask_ratio < 1:
            raise ValueError(f"--mask-ratio must lie between 0 and 1, got {self.mask_ratio}")
        if self.blr is not None and self.blr <= 0:
            raise ValueError(f"--blr must be positive, got {self.blr}")
        if self.weight_decay < 0 or self.seed < 0:
            raise ValueError(f"--weight-decay and --seed must not be negative, got {self.weight_decay} and {self.seed}")
        CropConfig(scale=self.crop_scale)  # raises for a range that it does not take


def pretrain(config: PretrainConfig) -> Path:
    """Run the whole pre-training and return the run's folder. Raises TrainingError, or Terminated on SIGTERM."""
    run = Run(config.out, "pretrain", asdict(config), resume=config.resume, tensorboard=config.tensorboard)
    device = pick_device(config.device)
    size = None if config.recipe is None else RECIPES[config.recipe].pack_size
    packed = open_data(config.data, config.out / "pack", size=size)
    recipe = _resolve(config, packed.info)
    torch.manual_seed(config.seed)
    model = MaskedAutoencoder(recipe.network(packed.info, target=config.target, loss=config.loss)).to(device)
    steps = _Steps(config, recipe, packed, model, device)
    schedule = steps.schedule()
    optimizer = make_adamw(model, weight_decay=config.weight_decay, betas=BETAS)
    run.describe(data=data_fields(packed.info), recipe=asdict(recipe), epochs=recipe.epochs)
    print(steps.summary(), file=sys.stderr)

    def after_epoch(epoch: int) -> Mapping[str, float]:
        if epoch % (config.picture_every or max(1, recipe.epochs // 10)) == 0 or epoch == recipe.epochs:
            path = config.out / "reconstructions" / f"epoch-{epoch:04d}.png"
            save_picture(steps.picture(), path)
            run.log_picture("reconstructions", epoch * steps.per_epoch, path)
        return {}

    train(run, model, optimizer, schedule, steps.loop(), loss_of=steps.loss, after_epoch=after_epoch)
    save_model(model, config.out)
    run.describe(metrics={"reconstruction_loss": steps.fixed_loss()})
    return config.out


def _resolve(config: PretrainConfig, info: PackInfo) -> Recipe:
    """The recipe with what the command line sets; by default a warm-up takes at most a tenth of the run."""
    recipe = recipe_for(
        config, info, epochs=config.epochs, warmup_epochs=config.warmup_epochs, batch_size=config.batch_size,
        blr=config.blr,
    )  # fmt: skip
    if config.warmup_epochs is None:
        recipe = replace(recipe, warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 10))
    return recipe


class _Steps:
    """One step: a batch, a random crop of each image, a random mask, the loss."""

    def __init__(
        self,
        config: PretrainConfig,
        recipe: Recipe,
        packed: PackedDataset,
        model: MaskedAutoencoder,
        device: torch.device,
    ) -> None:
        self.config, self.recipe, self.packed, self.model, self.device = config, recipe, packed, model, device
        self.batch_size = min(recipe.batch_size, len(packed))
        self.per_epoch = len(packed) // self.batch_size
        self.num_keep = num_keep(model.config.num_patches, config.mask_ratio)
        self.normalize = Normalize(model.config.mean, model.config.std).to(device)
        self.crop = CropConfig(scale=config.crop_scale)
        self.autocast = autocast(device, config.precision)

    def summary(self) -> str:
        m, r = self.model.config, self.recipe
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        precision = "bf16" if self.autocast._enabled else "fp32"
        return (
            f"{len(self.packed):,} images of {m.image_size[0]}x{m.image_size[1]}, patches of {m.patch_size}; "
            f"{r.preset} {m.dim}x{m.depth}, decoder {m.decoder_dim}x{m.decoder_depth}, {parameters:.1f} M parameters; "
            f"{r.epochs} epochs of {self.per_epoch} steps of {self.batch_size}; {precision} on {self.device}"
        )

    def schedule(self) -> Schedule:
        return Schedule(
            peak_lr=self.recipe.blr * self.batch_size / 256,
            total_steps=self.recipe.epochs * self.per_epoch,
            warmup_steps=int(self.recipe.warmup_epochs * self.per_epoch),
        )

    def loop(self) -> LoopConfig:
        return LoopConfig(
            seed=self.config.seed, batch_size=self.batch_size, steps_per_epoch=self.per_epoch,
            checkpoint_minutes=self.config.checkpoint_minutes, name="pre-training",
        )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(len(self.packed), epoch, self.config.seed)
        ids = np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])
        pixels = self.packed.batch(ids, self.device)  # u8 [B, C, H, W]
        generator = step_generator(self.config.seed, step, self.device)
        images = self.normalize(random_resized_crop(pixels, self.model.config.image_size, self.crop, generator))
        return self._masked_loss(images, generator)

    @torch.inference_mode()
    def fixed_loss(self) -> float:
        """The mean loss of the first images, uncropped, under fixed masks: comparable between runs."""
        generator = torch.Generator(self.device).manual_seed(0)
        total, count = 0.0, min(len(self.packed), _LOSS_IMAGES)
        for ids in np.split(np.arange(count), range(_LOSS_BATCH, count, _LOSS_BATCH)):
            pixels = center_batch(self.packed, ids, self.model.config.image_size, self.device)
            total += float(self._masked_loss(self.normalize(pixels), generator)) * len(ids)
        return total / count

    def _masked_loss(self, images: Tensor, generator: torch.Generator) -> Tensor:
        noise = torch.rand(len(images), self.model.config.num_patches, generator=generator, device=self.device)
        with self.autocast:
            output: MAEOutput = self.model(images, random_masking(noise, self.num_keep))
        return output.loss

    def picture(self) -> Image.Image:
        """The same images under the same masks every time."""
        ids = np.linspace(0, len(self.packed) - 1, min(_PICTURE_IMAGES, len(self.packed))).astype(np.int64)
        pixels = center_batch(self.packed, ids, self.model.config.image_size, self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.rand(len(ids), self.model.config.num_patches, generator=generator, device=self.device)
        return reconstruction_grid(self.model, pixels, random_masking(noise, self.num_keep))


def main() -> None:
    run = pretrain(parse(PretrainConfig, "training.pretrain"))
    print(f"{run}: the weights, metrics.jsonl and reconstructions/; next: python -m export {run} --out BUNDLE")


if __name__ == "__main__":
    run_command(main)
