"""python -m training.finetune --data DIR --init RUN --out RUN2: train a classifier on labeled images, end to end."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mae.classifier import Classifier, ClassifierConfig, Pooling
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder, Normalize
from mae.weights import load_mae, save_model
from training.augment import CropConfig, random_resized_crop
from training.cli import parse
from training.data import Ids, open_data, open_test, require_classes, split_labeled
from training.device import PrecisionName, autocast, pick_device
from training.errors import run_command
from training.evaluate import map_batches, top1
from training.logs import LogFlags
from training.loop import LoopConfig, step_generator, train
from training.optim import Schedule, make_adamw
from training.packed import PackedDataset, PackInfo, epoch_order
from training.recipes import NetworkFlags, recipe_for
from training.run import Run, data_fields, read_run, write_labels

BETAS = (0.9, 0.999)  # He et al. 2021, table 9


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(NetworkFlags, LogFlags):
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
    epochs: int = 50
    warmup_epochs: float = 5.0
    batch_size: int = 128
    blr: float = 1e-3
    """Learning rate per 256 images of batch."""
    min_lr: float = 1e-6
    layer_decay: float = 0.75
    """Each block learns at this share of the rate of the one after it."""
    drop_path: float = 0.1
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    crop_scale: tuple[float, float] = (0.2, 1.0)
    seed: int = 0
    precision: PrecisionName = "auto"
    device: str = "auto"
    checkpoint_minutes: float = 5.0
    resume: bool = False
    """Go on with the run in --out, or begin it where there is none."""

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise ValueError(f"--epochs and --batch-size must be at least 1, got {self.epochs} and {self.batch_size}")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"--layer-decay must lie in (0, 1], got {self.layer_decay}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"--label-smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        if self.blr <= 0 or self.min_lr < 0:
            raise ValueError(f"--blr must be positive and --min-lr not negative, got {self.blr} and {self.min_lr}")
        if self.weight_decay < 0 or self.seed < 0:
            raise ValueError(f"--weight-decay and --seed must not be negative, got {self.weight_decay} and {self.seed}")
        CropConfig(scale=self.crop_scale)  # raises for a range that it does not take
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
    pretrained = None if config.from_scratch else load_mae(config.init)
    size = None if pretrained is None else tuple(read_run(config.init, "pretrain")["data"]["pack_size"])
    channels = None if pretrained is None else pretrained.config.channels
    run = Run(config.out, "finetune", asdict(config), resume=config.resume, tensorboard=config.tensorboard)
    device = pick_device(config.device)
    packed = open_data(config.data, config.out / "pack", size=size, channels=channels)
    classes = require_classes(packed)
    test = None if config.test is None else open_test(config.test, config.out, packed, classes)
    train_ids, val_ids = split_labeled(packed, config.label_fraction, config.val_fraction, config.seed)
    torch.manual_seed(config.seed)
    model = _build_model(config, pretrained, packed.info, len(classes)).to(device)
    steps = _Steps(config, packed, train_ids, model, device)
    schedule = steps.schedule()
    optimizer = make_adamw(
        model, weight_decay=config.weight_decay, betas=BETAS, layer_decay=config.layer_decay, depth=steps.network.depth
    )
    run.describe(data=data_fields(packed.info), num_train=len(train_ids), num_val=len(val_ids), epochs=config.epochs)
    write_labels(config.out, classes)
    print(steps.summary(len(val_ids)), file=sys.stderr)

    def after_epoch(_epoch: int) -> Mapping[str, float]:
        return {"val_top1": steps.accuracy(packed, val_ids, "validation")}

    train(run, model, optimizer, schedule, steps.loop(), loss_of=steps.loss, after_epoch=after_epoch)
    save_model(model, config.out)
    metrics = {"val_top1": steps.accuracy(packed, val_ids, "validation")}
    if test is not None:
        metrics["test_top1"] = steps.accuracy(test, np.arange(len(test)), "test")
    run.describe(metrics=metrics)
    return metrics


def _build_model(
    config: FinetuneConfig, pretrained: MaskedAutoencoder | None, info: PackInfo, num_classes: int
) -> Classifier:
    network = recipe_for(config, info).network(info) if pretrained is None else pretrained.config
    model = Classifier(
        ClassifierConfig(encoder=network, num_classes=num_classes, pooling=config.pooling, drop_path=config.drop_path)
    )
    if pretrained is not None:
        model.load_encoder(pretrained.encoder.state_dict())
    return model


class _Steps:
    """One step: a batch, a random crop of each image, cross-entropy."""

    def __init__(
        self, config: FinetuneConfig, packed: PackedDataset, ids: Ids, model: Classifier, device: torch.device
    ) -> None:
        self.config, self.packed, self.ids, self.model, self.device = config, packed, ids, model, device
        self.network: MAEConfig = model.config.encoder
        self.batch_size = min(config.batch_size, len(ids))
        self.per_epoch = len(ids) // self.batch_size
        self.normalize = Normalize(self.network.mean, self.network.std).to(device)
        self.crop = CropConfig(scale=config.crop_scale)
        self.autocast = autocast(device, config.precision)

    def summary(self, num_val: int) -> str:
        c = self.config
        return (
            f"{len(self.ids):,} images to train on, {num_val:,} held out, {self.model.config.num_classes} classes; "
            f"from {'scratch' if c.from_scratch else c.init}; {c.epochs} epochs of {self.per_epoch} steps of "
            f"{self.batch_size} on {self.device}"
        )

    def schedule(self) -> Schedule:
        return Schedule(
            peak_lr=self.config.blr * self.batch_size / 256,
            total_steps=self.config.epochs * self.per_epoch,
            warmup_steps=int(min(self.config.warmup_epochs, self.config.epochs / 5) * self.per_epoch),
            min_lr=self.config.min_lr,
        )

    def loop(self) -> LoopConfig:
        return LoopConfig(
            seed=self.config.seed, batch_size=self.batch_size, steps_per_epoch=self.per_epoch,
            checkpoint_minutes=self.config.checkpoint_minutes, name="fine-tuning",
        )  # fmt: skip

    def loss(self, step: int) -> Tensor:
        epoch, place = divmod(step, self.per_epoch)
        order = epoch_order(len(self.ids), epoch, self.config.seed)
        ids = self.ids[np.sort(order[place * self.batch_size : (place + 1) * self.batch_size])]
        generator = step_generator(self.config.seed, step, self.device)
        pixels = self.packed.batch(ids, self.device)  # u8 [B, C, H, W]
        images = self.normalize(random_resized_crop(pixels, self.network.image_size, self.crop, generator))
        labels = torch.from_numpy(self.packed.labels[ids]).to(self.device)
        with self.autocast:
            logits = self.model(images)
        return F.cross_entropy(logits.float(), labels, label_smoothing=self.config.label_smoothing)

    def accuracy(self, packed: PackedDataset, ids: Ids, name: str) -> float:
        """In evaluation mode; the model is left in training mode."""
        self.model.eval()
        logits = map_batches(
            packed, ids, self.network.image_size, self.device, lambda pixels: self.model(self.normalize(pixels)), name
        )
        self.model.train()
        return top1(logits, packed.labels[ids])


def main() -> None:
    config = parse(FinetuneConfig, "training.finetune")
    metrics = finetune(config)
    print(f"{config.out}: " + ", ".join(f"{name} {value:.2%}" for name, value in metrics.items()))


if __name__ == "__main__":
    run_command(main)
