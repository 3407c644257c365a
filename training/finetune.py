"""python -m training.finetune --data DIR --init RUN --out RUN2: train a classifier on labeled images, end to end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mae.classifier import Classifier, ClassifierConfig, Pooling
from mae.config import MAEConfig
from mae.model import Normalize
from mae.weights import load_mae, save_model
from training.augment import CropConfig, random_erasing, random_resized_crop
from training.cli import parse
from training.data import Ids, open_data, open_test, require_classes, split_labeled
from training.device import PrecisionName, autocast, pick_device
from training.ema import Ema
from training.errors import run_command
from training.evaluate import Predictions, map_batches, write_predictions
from training.finetune_recipes import FINETUNE_RECIPES, FinetuneFlags, FinetuneRecipe, override, resolve
from training.loop import LoopConfig, step_generator, train
from training.mix import MixConfig, draw_mixing, mix_images, soft_cross_entropy, soft_targets
from training.optim import Schedule, make_adamw
from training.packed import PackedDataset, epoch_order
from training.randaugment import RandAugmentConfig, rand_augment
from training.recipes import NetworkFlags, recipe_for
from training.run import Run, data_fields, read_run, write_labels


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(NetworkFlags, FinetuneFlags):
    """Fine-tune a pre-trained encoder, or with --init none train the same network from scratch."""

    data: Path
    """Labeled images: a folder with one sub-folder per class, Parquet with a column `label`, or a packed set."""
    out: Path
    """The run's folder."""
    init: Path
    """The run of training.pretrain to start from, or `none`: then the recipe and the model flags choose the network."""
    test: Path | None = None
    """Labeled images that are looked at once, at the end."""
    pooling: Pooling = "mean"
    label_fraction: float = 1.0
    """Share of each class whose labels are used, the validation split included."""
    val_fraction: float = 0.1
    """Share of those that is held out for validation."""
    seed: int = 0
    precision: PrecisionName = "auto"
    device: str = "auto"
    checkpoint_minutes: float = 5.0
    resume: bool = False
    """Go on with the run in --out, or begin it where there is none."""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")
        override(FINETUNE_RECIPES["plain"], self)  # raises for what no recipe takes
        ignored = [f.name for f in fields(NetworkFlags) if getattr(self, f.name) is not None]
        if ignored and not self.from_scratch:
            raise ValueError(f"--{ignored[0].replace('_', '-')} goes with --init none; a run brings its own network")

    @property
    def from_scratch(self) -> bool:
        return str(self.init) == "none"


def finetune(config: FinetuneConfig) -> dict[str, float]:
    """Train, evaluate on validation and, once, on the test set; returns the metrics that run.json keeps.

    Raises TrainingError for data or runs that do not fit, and Terminated on SIGTERM.
    """
    start = None if config.from_scratch else _pretrained(config)
    run = Run(config.out, "finetune", asdict(config), resume=config.resume)
    device = pick_device(config.device)
    packed = open_data(
        config.data, config.out / "pack", size=start and start.pack_size, channels=start and start.network.channels
    )
    classes = require_classes(packed)
    test = None if config.test is None else open_test(config.test, config.out, packed, classes)
    train_ids, val_ids = split_labeled(packed, config.label_fraction, config.val_fraction, config.seed)
    network = recipe_for(config, packed.info).network(packed.info) if start is None else start.network
    name, recipe = resolve(config, network, len(train_ids), from_scratch=config.from_scratch)
    torch.manual_seed(config.seed)
    model = Classifier(
        ClassifierConfig(encoder=network, num_classes=len(classes), pooling=config.pooling, drop_path=recipe.drop_path)
    )
    if start is not None:
        model.load_encoder(start.encoder)
    steps = _Steps(config, recipe, packed, train_ids, model.to(device), device)
    run.describe(
        data=data_fields(packed.info), recipe={"name": name, **asdict(recipe)}, num_train=len(train_ids),
        num_val=len(val_ids), epochs=recipe.epochs,
    )  # fmt: skip
    write_labels(config.out, classes)
    print(f"{steps.summary(len(val_ids))}; the {name} recipe", file=sys.stderr)
    steps.train(run, val_ids)
    save_model(steps.result, config.out)
    predictions = {"val": steps.predict(packed, val_ids, "validation")}
    if test is not None:
        predictions["test"] = steps.predict(test, np.arange(len(test)), "test")
    write_predictions(config.out, predictions)
    metrics = {metric: value for name, p in predictions.items() for metric, value in p.scores(name).items()}
    run.describe(metrics=metrics)
    return metrics


class _Start(NamedTuple):
    """encoder: a pre-trained encoder's state dict; pack_size: (height, width) of the images that it saw, in pixels."""

    network: MAEConfig
    encoder: Mapping[str, Tensor]
    pack_size: tuple[int, int]


def _pretrained(config: FinetuneConfig) -> _Start:
    """What --init names. Raises FileNotFoundError, ValueError or TrainingError where it is no pre-training run."""
    model = load_mae(config.init)
    height, width = read_run(config.init, "pretrain")["data"]["pack_size"]
    return _Start(model.config, model.encoder.state_dict(), (height, width))


class _Steps:
    """One step: a batch, augmented and mixed, and its cross-entropy.

    The crop and all noise come from a generator on the device. What the host must know, such as which images share an
    operation, comes from one on the host, so that no step waits for the device.
    """

    def __init__(
        self,
        config: FinetuneConfig,
        recipe: FinetuneRecipe,
        packed: PackedDataset,
        ids: Ids,
        model: Classifier,
        device: torch.device,
    ) -> None:
        self.config, self.recipe, self.packed, self.ids, self.device = config, recipe, packed, ids, device
        self.model = model
        self.ema = Ema(model, recipe.ema) if recipe.ema > 0 else None
        self.network: MAEConfig = model.config.encoder
        self.batch_size = recipe.batch_size
        self.per_epoch = len(ids) // self.batch_size
        self.normalize = Normalize(self.network.mean, self.network.std).to(device)
        self.fill = [255 * mean for mean in self.network.mean]
        self.crop = CropConfig(scale=recipe.crop_scale)
        self.rand_augment = RandAugmentConfig(magnitude=recipe.randaugment) if recipe.randaugment > 0 else None
        self.mix = MixConfig(mixup=recipe.mixup, cutmix=recipe.cutmix)
        self.autocast = autocast(device, config.precision)
        self.schedule = Schedule(
            peak_lr=recipe.blr * self.batch_size / 256,
            total_steps=recipe.epochs * self.per_epoch,
            warmup_steps=int(recipe.warmup_epochs * self.per_epoch),
            min_lr=recipe.min_lr,
        )

    @property
    def result(self) -> Classifier:
        """What is evaluated and kept."""
        return self.model if self.ema is None else self.ema.averaged

    def summary(self, num_val: int) -> str:
        c = self.config
        return (
            f"{len(self.ids):,} images to train on, {num_val:,} held out, {self.model.config.num_classes} classes; "
            f"from {'scratch' if c.from_scratch else c.init}; {self.recipe.epochs} epochs of {self.per_epoch} steps of "
            f"{self.batch_size} on {self.device}"
        )

    def train(self, run: Run, val_ids: Ids) -> None:
        """Every epoch that is not behind us, each followed by a look at the validation split."""
        optimizer = make_adamw(
            self.model, weight_decay=self.recipe.weight_decay, betas=self.recipe.betas,
            layer_decay=self.recipe.layer_decay, depth=self.network.depth,
        )  # fmt: skip

        def after_epoch(_epoch: int) -> Mapping[str, float]:
            predictions = self.predict(self.packed, val_ids, "validation")
            return {"val_loss": predictions.loss(), **predictions.scores("val")}

        train(
            run, self.model, optimizer, self.schedule, self.loop(), loss_of=self.loss, after_epoch=after_epoch,
            after_step=None if self.ema is None else self.ema.update,
            extra={} if self.ema is None else {"ema": self.ema.averaged},
        )  # fmt: skip

    def loop(self) -> LoopConfig:
        return LoopConfig(
            seed=self.config.seed, batch_size=self.batch_size, steps_per_epoch=self.per_epoch,
            checkpoint_minutes=self.config.checkpoint_minutes, name="fine-tuning",
        )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        images, targets = self.batch(step)
        with self.autocast:
            logits = self.model(images)
        return soft_cross_entropy(logits, targets)

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """What a step sees: images f32 [B, C, H, W] and targets f32 [B, classes], a function of (seed, step)."""
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(len(self.ids), epoch, self.config.seed)
        ids = self.ids[np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])]
        labels = torch.from_numpy(self.packed.labels[ids]).to(self.device, non_blocking=True)
        generator = step_generator(self.config.seed, step, self.device)
        rng = np.random.default_rng([self.config.seed, step, 1])  # 1: apart from the order of epoch number `step`
        pixels = self.packed.batch(ids, self.device)  # u8 [B, C, H, W]
        images = random_resized_crop(pixels, self.network.image_size, self.crop, generator)
        if self.rand_augment is not None:
            images = rand_augment(images, self.rand_augment, self.fill, rng)
        images = random_erasing(self.normalize(images), self.recipe.erasing, rng, generator)
        mixing = draw_mixing(len(ids), self.network.image_size, self.mix, rng)
        if mixing is not None:
            images = mix_images(images, mixing)
        smoothing = self.recipe.label_smoothing
        return images, soft_targets(labels, self.model.config.num_classes, smoothing, mixing)

    def predict(self, packed: PackedDataset, ids: Ids, name: str) -> Predictions:
        """In evaluation mode; the model is left in training mode."""
        model = self.result.eval()
        logits = map_batches(
            packed, ids, self.network.image_size, self.device, lambda pixels: model(self.normalize(pixels)), name
        )
        self.model.train()
        return Predictions(logits, packed.labels[ids])


def main() -> None:
    config = parse(FinetuneConfig, "training.finetune")
    metrics = finetune(config)
    print(f"{config.out}: " + ", ".join(f"{name} {value:.2%}" for name, value in metrics.items()))


if __name__ == "__main__":
    run_command(main)
