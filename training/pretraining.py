"""What training.pretrain does: data, network, schedule and the loop around one step."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from bundle.cli.words import counted
from bundle.preprocess import center_crop
from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder
from mae.weights import save_model
from training.augment import random_boxes
from training.augmentations import CropConfig
from training.compute import global_batch
from training.data import center_pixels, examples, open_images
from training.device import autocast, precision_of
from training.distributed import World, distribute, join, whole
from training.errors import TrainingError
from training.features import write_features
from training.feed import Images, Plan, open_feed
from training.flops import peak_flops, pretrain_flops
from training.inrun_probe import InRunProbe, open_probe
from training.loop import LoopConfig, Parts, step_generator, train
from training.objective import MaskedObjective, compiled
from training.optim import Schedule, make_adamw
from training.packed import CORRUPT_FILE, PackedDataset, PackInfo
from training.picture import reconstruction_grid, save_picture
from training.recipes import RECIPES, Recipe, recipe_for
from training.report import write_report
from training.run import Run, data_fields
from training.stream import StreamingDataset

if TYPE_CHECKING:
    from training.pretrain import PretrainConfig

BETAS = (0.9, 0.95)  # He et al. 2021, table 8
# AdamW moves a weight by about the learning rate per step at most: in 100 steps of px64's 6e-4, of which warm-up and
# decay leave half, by 0.03. Weights begin with about as much, so fewer steps hardly leave the random start.
_LEAST_STEPS = 100
_PICTURE_IMAGES = 8
_LOSS_IMAGES, _LOSS_BATCH = 1024, 64
SAMPLES_FILE, _SAMPLES = "samples.npz", 256


def pretrain(config: PretrainConfig) -> Path:
    """As training.pretrain.pretrain."""
    with join(config.device) as world:
        _pretrain(config, world)
    return config.out


def _pretrain(config: PretrainConfig, world: World) -> None:
    run = Run(
        config.out, "pretrain", asdict(config), resume=config.resume, writes=world.is_main,
        tensorboard=config.tensorboard,
    )  # fmt: skip
    size = None if config.recipe is None else RECIPES[config.recipe].pack_size
    with world.main_first():
        images = open_images(
            config.data, config.out, size=size, stream=config.feed == "stream", seed=config.seed, rank=world.rank,
            world_size=world.size, check=partial(_check, config),
        )  # fmt: skip
        probe = open_probe(config, images, config.out / "pack-probe", world.device, config.precision)
    recipe = _resolve(config, images.info)
    torch.manual_seed(config.seed)
    model = MaskedAutoencoder(recipe.network(images.info, loss=config.loss))
    _Pretraining(config, recipe, images, model.to(world.device), world, run, probe).train()


def _resolve(config: PretrainConfig, info: PackInfo) -> Recipe:
    """The recipe with what the command line sets; by default a warm-up takes at most a tenth of the run."""
    recipe = recipe_for(
        config, info, epochs=config.epochs, warmup_epochs=config.warmup_epochs, batch_size=config.batch_size,
        blr=config.blr, mask_ratio=config.mask_ratio, target=config.target, stages=config.stages,
    )  # fmt: skip
    if config.warmup_epochs is None:
        recipe = replace(recipe, warmup_epochs=min(recipe.warmup_epochs, recipe.epochs / 10))
    return recipe


def _check(config: PretrainConfig, info: PackInfo, side: int) -> None:
    """Raises TrainingError or ValueError for images of such a set that the network could not be trained on."""
    recipe = _resolve(config, info)
    network = recipe.network(info)
    if side < recipe.patch_size:
        raise TrainingError(
            f"{info.name} holds images of {side} pixels, smaller than a patch of {recipe.patch_size}; choose a smaller "
            "--patch-size"
        )
    num_keep(network.num_patches, recipe.mask_ratio)


class _Pretraining:
    """One step: a batch, a random crop of each image, a random mask, the loss."""

    def __init__(
        self,
        config: PretrainConfig,
        recipe: Recipe,
        images: Images,
        model: MaskedAutoencoder,
        world: World,
        run: Run,
        probe: InRunProbe | None,
    ) -> None:
        self.config, self.recipe, self.images, self.model = config, recipe, images, model
        self.run, self.probe = run, probe
        self.world, self.device = world, world.device
        self.crop = CropConfig(scale=config.crop_scale)
        order = f"stream of {world.size}" if isinstance(images, StreamingDataset) else "packed"
        self.plan = Plan(
            order=order,
            num_images=len(images), seed=config.seed, rank=world.rank, world_size=world.size,
            batch_size=global_batch(
                recipe.batch_size, len(images), world_size=world.size, accumulate=config.accumulate
            ),
        )  # fmt: skip
        self.schedule = Schedule(
            peak_lr=recipe.blr * self.plan.batch_size / 256,
            total_steps=recipe.epochs * self.plan.per_epoch,
            warmup_steps=int(recipe.warmup_epochs * self.plan.per_epoch),
        )
        for size in {recipe.image_size, *((side, side) for _, side in recipe.stages)}:
            self._num_keep(size)  # raises where nothing would be kept
        if config.recompute:
            model.recompute_activations()
        self.objective = MaskedObjective(model, autocast(self.device, config.precision)).to(self.device)

    def train(self) -> None:
        config, run, recipe = self.config, self.run, self.recipe
        network = compiled(self.objective, config.compile, self.device, sharded=config.strategy == "fsdp")
        self.network = distribute(network, self.world, config.strategy)
        optimizer = make_adamw(self.model, weight_decay=config.weight_decay, betas=BETAS)
        run.describe(
            data=data_fields(self.images.info), course=self.plan.course, recipe=asdict(recipe), epochs=recipe.epochs
        )
        self.feed = open_feed(self.images, self.plan, self.device, config.feed)
        try:
            if self.world.is_main:
                print(self.summary(), file=sys.stderr)
                self._warn_of_few_steps()
            train(
                run, Parts(model=self.model, optimizer=optimizer, network=self.network, feed=self.feed), self.schedule,
                self.loop(), world=self.world, loss_of=self.loss, after_epoch=self.after_epoch, batch_of=self.batch,
            )  # fmt: skip
        finally:
            self.feed.close()
            if isinstance(self.images, StreamingDataset):
                self.images.close()
        model = self.whole_model()
        if self.world.is_main:
            save_model(model, config.out)
            self._save_samples()
            if isinstance(self.images, StreamingDataset):
                self._tell_of_corrupt(self.images)
            run.describe(metrics={"reconstruction_loss": self.fixed_loss(model)})
            if config.report:
                if isinstance(self.images, PackedDataset):
                    write_features(config.out, model.eval(), self.images, self.device)
                write_report(config.out)

    def _save_samples(self) -> None:
        """Some images as the service would see them, `images` u8 [n, H, W, C], for an export to calibrate and compare
        by.
        """
        pixels = examples(self.images, _SAMPLES)
        self.run.save_arrays(SAMPLES_FILE, images=center_crop(pixels, self.model.config.image_size))

    def _tell_of_corrupt(self, stream: StreamingDataset) -> None:
        """What could not be read is known only once it was tried."""
        if stream.corrupt:
            report = self.config.out / "stream" / CORRUPT_FILE
            print(f"{len(stream.corrupt)} of the images could not be read, see {report}", file=sys.stderr)
        self.run.describe(data=data_fields(replace(stream.info, num_corrupt=len(stream.corrupt))))

    def summary(self) -> str:
        m, r, plan = self.model.config, self.recipe, self.plan
        parameters = sum(p.numel() for p in self.model.parameters()) / 1e6
        precision = "bf16" if precision_of(self.objective.autocast) == torch.bfloat16 else "fp32"
        return (
            f"{len(self.images):,} images of {m.image_size[0]}x{m.image_size[1]}, patches of {m.patch_size}; "
            f"{r.preset} {m.dim}x{m.depth}, decoder {m.decoder_dim}x{m.decoder_depth}, {parameters:.1f} M parameters; "
            f"{counted(r.epochs, 'epoch')} of {counted(plan.per_epoch, 'step')} of {plan.batch_size}; "
            f"{precision} on {self.world}; feed: {self.feed.name}"
        )

    def _warn_of_few_steps(self) -> None:
        steps = self.schedule.total_steps
        if steps < _LEAST_STEPS:
            print(
                f"only {counted(steps, 'step')} in all, too few to learn from; for {_LEAST_STEPS} and more raise "
                f"--epochs, now {self.recipe.epochs}, or lower --batch-size, now {self.plan.batch_size}",
                file=sys.stderr,
            )

    def loop(self) -> LoopConfig:
        peak = peak_flops(self.device, precision_of(self.objective.autocast))
        return LoopConfig(
            seed=self.config.seed, batch_size=self.plan.batch_size, steps_per_epoch=self.plan.per_epoch,
            checkpoint_minutes=self.config.checkpoint_minutes, name="pre-training", accumulate=self.config.accumulate,
            flops=self.flops, peak_flops=self.world.size * peak,
        )  # fmt: skip

    def flops(self, step: int) -> float:
        size, p = self._size(step), self.model.config.patch_size
        return pretrain_flops(self.model.config, self._num_keep(size), (size[0] // p) * (size[1] // p))

    def loss(self, step: int, part: int) -> Tensor:
        """Of one part of this process's rows. What is random is drawn for the whole batch, so that neither the number
        of processes nor that of parts changes it.
        """
        if part == 0:
            self._draw(step)
        pixels, boxes, flip, noise = (rows[part] for rows in self._drawn)
        size = self._size(step)
        loss: Tensor = self.network(pixels, boxes, flip, noise, size, self._num_keep(size))
        return loss

    def _draw(self, step: int) -> None:
        total, rows, parts = self.plan.batch_size, self.plan.rows, self.config.accumulate
        p, size = self.model.config.patch_size, self._size(step)
        generator = step_generator(self.config.seed, step, self.device)
        boxes = random_boxes(total, self.images.info.size, self.crop, generator)  # [B, 4]
        flip = torch.rand(total, generator=generator, device=self.device) < self.crop.flip  # [B]
        noise = torch.rand(total, (size[0] // p) * (size[1] // p), generator=generator, device=self.device)  # [B, L]
        local = [self.feed.get(step), *(drawn[rows] for drawn in (boxes, flip, noise))]
        self._drawn = [rows.chunk(parts) for rows in local]

    def _size(self, step: int) -> tuple[int, int]:
        return self.recipe.size_at(step / self.schedule.total_steps)

    def _num_keep(self, size: tuple[int, int]) -> int:
        p = self.model.config.patch_size
        return num_keep((size[0] // p) * (size[1] // p), self.recipe.mask_ratio)

    def batch(self, step: int) -> Mapping[str, Any]:
        """What the step saw, before its crops: they follow from the seed and the step."""
        if isinstance(self.images, StreamingDataset):
            return {"pixels": self.images.batch_at(step, self.plan.batch_size // self.world.size)}
        ids = self.plan.of_all.ids(step)
        return {"ids": ids, "pixels": self.images.pixels(ids)}

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        every = self.config.picture_every or max(1, self.recipe.epochs // 10)
        paint = epoch % every == 0 or epoch == self.recipe.epochs
        judge = self.probe is not None and self.config.probe_due(epoch, self.recipe.epochs)
        if not paint and not judge:
            return {}
        model = self.whole_model()
        if not self.world.is_main:
            return {}
        if paint:
            path = self.config.out / "reconstructions" / f"epoch-{epoch:04d}.png"
            save_picture(self.picture(model), path)
            self.run.log_picture("reconstructions", epoch * self.plan.per_epoch, path)
        return self.probe(model) if self.probe is not None and judge else {}

    def whole_model(self) -> MaskedAutoencoder:
        """The model, gathered for the first process where it is trained in shards: a meeting of all processes."""
        if self.world.size == 1 or self.config.strategy == "ddp":
            return self.model
        state = whole(self.model.state_dict(), keep=self.world.is_main)
        if not self.world.is_main:
            return self.model
        model = MaskedAutoencoder(self.model.config)
        model.load_state_dict(state)
        return model.to(self.device)

    @torch.inference_mode()
    def fixed_loss(self, model: MaskedAutoencoder) -> float:
        """The mean loss of some images, uncropped, under fixed masks: comparable between runs."""
        generator = torch.Generator(self.device).manual_seed(0)
        objective = MaskedObjective(model, self.objective.autocast).to(self.device)
        size, pixels, total = model.config.image_size, examples(self.images, _LOSS_IMAGES), 0.0
        for start in range(0, len(pixels), _LOSS_BATCH):
            batch = center_pixels(pixels[start : start + _LOSS_BATCH], size, self.device)
            noise = torch.rand(len(batch), model.config.num_patches, generator=generator, device=self.device)
            loss = objective.masked_loss(objective.normalize(batch), noise, self._num_keep(size))
            total += float(loss) * len(batch)
        return total / len(pixels)

    def picture(self, model: MaskedAutoencoder) -> Image.Image:
        """The same images under the same masks every time."""
        size = model.config.image_size
        pixels = center_pixels(examples(self.images, _PICTURE_IMAGES), size, self.device)
        generator = torch.Generator(self.device).manual_seed(0)
        noise = torch.rand(len(pixels), model.config.num_patches, generator=generator, device=self.device)
        return reconstruction_grid(model, pixels, random_masking(noise, self._num_keep(size)))
