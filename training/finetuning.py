"""What training.finetune does: data, network, recipe and the loop around one step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from bundle.cli.words import counted
from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig
from mae.model import Normalize
from mae.weights import load_pretrained, save_model
from training.compute import global_batch
from training.converting import resolve_init
from training.data import Ids, open_data, open_test, require_classes, split_labeled
from training.device import autocast, precision_of
from training.distributed import World, distribute, join
from training.ema import Ema
from training.evaluate import Predictions, map_batches, write_predictions
from training.feed import Plan, open_feed
from training.finetune_augment import FinetuneAugment
from training.finetune_recipes import FinetuneRecipe, resolve
from training.flops import finetune_flops, peak_flops
from training.loop import LoopConfig, Parts, train
from training.mix import soft_cross_entropy
from training.objective import compiled
from training.optim import Schedule, make_adamw
from training.packed import PackedDataset
from training.recipes import recipe_for
from training.report import write_report
from training.run import Run, data_fields, read_run, write_labels

if TYPE_CHECKING:
    from training.finetune import FinetuneConfig


def finetune(config: FinetuneConfig) -> dict[str, float]:
    """As training.finetune.finetune."""
    with join(config.device) as world:
        return _finetune(config, world)


def _finetune(config: FinetuneConfig, world: World) -> dict[str, float]:
    run = Run(
        config.out, "finetune", asdict(config), resume=config.resume, writes=world.is_main,
        tensorboard=config.tensorboard,
    )  # fmt: skip
    with world.main_first():
        start = None if config.from_scratch else _pretrained(config)
        packed, classes, test = _open(config, start)
    train_ids, val_ids = split_labeled(packed, config.label_fraction, config.val_fraction, config.seed)
    network = recipe_for(config, packed.info).network(packed.info) if start is None else start.network
    name, recipe = resolve(config, network, len(train_ids), from_scratch=config.from_scratch)
    torch.manual_seed(config.seed)
    model = Classifier(
        ClassifierConfig(encoder=network, num_classes=len(classes), pooling=config.pooling, drop_path=recipe.drop_path)
    )
    if start is not None:
        model.load_encoder(start.encoder)
    training = _Finetuning(config, recipe, packed, train_ids, model.to(world.device), world)
    run.describe(
        data=data_fields(packed.info), recipe={"name": name, **asdict(recipe)}, num_train=len(train_ids),
        num_val=len(val_ids), epochs=recipe.epochs, course=training.plan.course,
        **({} if test is None else {"num_test": len(test)}),
    )  # fmt: skip
    training.train(run, val_ids, f"the {name} recipe")
    metrics = run.metrics_with(test=config.test)
    if "val_top1" in metrics and (test is None or "test_top1" in metrics):
        return metrics  # it was finished already, and the test set is looked at once
    predictions = {"val": training.predict(packed, val_ids, "validation")}
    if test is not None:
        predictions["test"] = training.predict(test, np.arange(len(test)), "test")
    metrics = {metric: value for part, p in predictions.items() for metric, value in p.scores(part).items()}
    if world.is_main:
        write_labels(config.out, classes)
        save_model(training.result, config.out)
        write_predictions(config.out, predictions)
        run.describe(metrics=metrics)
        if config.report:
            write_report(config.out)
    return metrics


def _open(config: FinetuneConfig, start: _Start | None) -> tuple[PackedDataset, tuple[str, ...], PackedDataset | None]:
    """The labeled images, their classes, and the test set."""
    size, channels = (None, None) if start is None else (start.pack_size, start.network.channels)
    packed = open_data(config.data, config.out / "pack", size=size, channels=channels)
    classes = require_classes(packed)
    return packed, classes, None if config.test is None else open_test(config.test, config.out, packed, classes)


class _Start(NamedTuple):
    """encoder: a pre-trained encoder's state dict; pack_size: (height, width) of the images that it saw, in pixels."""

    network: MAEConfig
    encoder: Mapping[str, Tensor]
    pack_size: tuple[int, int]


def _pretrained(config: FinetuneConfig) -> _Start:
    """What --init names, converted first where it is a foreign file.

    Raises FileNotFoundError, ValueError or TrainingError where it is no pre-training run.
    """
    folder = resolve_init(config.init, config.out / "init")
    model = load_pretrained(folder)
    height, width = read_run(folder, "pretrain")["data"]["pack_size"]
    return _Start(model.config, model.encoder.state_dict(), (height, width))


class _Finetuning:
    """One step: a batch, augmented and mixed, and its cross-entropy."""

    def __init__(
        self,
        config: FinetuneConfig,
        recipe: FinetuneRecipe,
        packed: PackedDataset,
        ids: Ids,
        model: Classifier,
        world: World,
    ) -> None:
        self.config, self.recipe, self.packed, self.model = config, recipe, packed, model
        self.world, self.device = world, world.device
        self.ema = Ema(model, recipe.ema) if recipe.ema > 0 else None
        self.network: MAEConfig = model.config.encoder
        self.plan = Plan(
            num_images=len(ids), seed=config.seed, rank=world.rank, world_size=world.size, subset=ids,
            batch_size=global_batch(recipe.batch_size, len(ids), world_size=world.size, accumulate=config.accumulate),
        )  # fmt: skip
        model.encoder.recompute = config.recompute
        self.normalize = Normalize(self.network.mean, self.network.std).to(self.device)
        self.augment = FinetuneAugment(recipe, self.network, model.config.num_classes, self.device)
        self.autocast = autocast(self.device, config.precision)
        self.schedule = Schedule(
            peak_lr=recipe.blr * self.plan.batch_size / 256,
            total_steps=recipe.epochs * self.plan.per_epoch,
            warmup_steps=int(recipe.warmup_epochs * self.plan.per_epoch),
            min_lr=recipe.min_lr,
        )

    @property
    def result(self) -> Classifier:
        """What is evaluated and kept."""
        return self.model if self.ema is None else self.ema.averaged

    def summary(self, num_val: int) -> str:
        c, plan = self.config, self.plan
        return (
            f"{plan.num_images:,} images to train on, {num_val:,} held out, {self.model.config.num_classes} classes; "
            f"from {'scratch' if c.from_scratch else c.init}; {counted(self.recipe.epochs, 'epoch')} of "
            f"{counted(plan.per_epoch, 'step')} of {plan.batch_size} on {self.world}; feed: {self.feed.name}"
        )

    def train(self, run: Run, val_ids: Ids, name: str) -> None:
        """Every epoch that is not behind us, each followed by a look at the validation split."""
        network = compiled(self.model, self.config.compile, self.device, sharded=False)
        self.classifier = distribute(network, self.world, "ddp")
        optimizer = make_adamw(
            self.model, weight_decay=self.recipe.weight_decay, betas=self.recipe.betas,
            layer_decay=self.recipe.layer_decay, depth=self.network.depth,
        )  # fmt: skip

        def after_epoch(_epoch: int) -> Mapping[str, float]:
            predictions = self.predict(self.packed, val_ids, None)
            return {"val_loss": predictions.loss(), **predictions.scores("val")}

        self.feed = open_feed(self.packed, self.plan, self.device, self.config.feed)
        try:
            if self.world.is_main:
                print(f"{self.summary(len(val_ids))}; {name}", file=sys.stderr)
            extra = {} if self.ema is None else {"ema": self.ema.averaged}
            train(
                run,
                Parts(model=self.model, optimizer=optimizer, network=self.classifier, feed=self.feed, extra=extra),
                self.schedule, self.loop(), world=self.world, loss_of=self.loss, after_epoch=after_epoch,
                after_step=None if self.ema is None else self.ema.update, batch_of=self.batch,
            )  # fmt: skip
        finally:
            self.feed.close()

    def loop(self) -> LoopConfig:
        flops, peak = finetune_flops(self.network), peak_flops(self.device, precision_of(self.autocast))
        return LoopConfig(
            seed=self.config.seed, batch_size=self.plan.batch_size, steps_per_epoch=self.plan.per_epoch,
            checkpoint_minutes=self.config.checkpoint_minutes, name="fine-tuning", accumulate=self.config.accumulate,
            flops=lambda _step: flops, peak_flops=self.world.size * peak,
        )  # fmt: skip

    def loss(self, step: int, part: int) -> Tensor:
        """Of one part of this process's rows, which are augmented and mixed together."""
        if part == 0:
            labels = torch.from_numpy(self.packed.labels[self.plan.ids(step)])
            drawn = self.augment(
                self.feed.get(step), labels.to(self.device, non_blocking=True), self.config.seed, step, self.world.rank
            )
            self._drawn = [rows.chunk(self.config.accumulate) for rows in drawn]
        images, targets = (rows[part] for rows in self._drawn)
        with self.autocast:
            logits = self.classifier(images)
        return soft_cross_entropy(logits, targets)

    def batch(self, step: int) -> Mapping[str, Any]:
        """What the step saw, before its augmentations: they follow from the seed and the step."""
        ids = self.plan.of_all.ids(step)
        return {"ids": ids, "pixels": self.packed.pixels(ids), "labels": self.packed.labels[ids]}

    def predict(self, packed: PackedDataset, ids: Ids, name: str | None) -> Predictions:
        """In evaluation mode; the model is left in training mode. name: of a bar, None where there is one already."""
        model = self.result.eval()
        logits = map_batches(
            packed, ids, self.network.image_size, self.device, lambda pixels: model(self.normalize(pixels)), name
        )
        self.model.train()
        return Predictions(logits, packed.labels[ids])
