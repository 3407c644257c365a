"""python -m training.pretrain --data DIR --out RUN: pre-train a Masked Autoencoder on unlabeled images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundle.cli.command import Command
from mae.config import Loss, Target
from training.augmentations import CropConfig
from training.compute import ComputeFlags, Strategy
from training.errors import is_main_process, run_command
from training.logs import LogFlags
from training.recipes import NetworkFlags, Stages

MIN_PROBE_IMAGES = 10


@dataclass(frozen=True, kw_only=True)
class ProbeFlags:
    """Probes of the features while the training goes on."""

    probe_every: int | None = None
    """Epochs between two probes, 0 for none. Default: a tenth of the epochs where there are labels."""
    probe_data: str | Path | None = None
    """Labeled images to probe with. Default: those of --data that have labels."""
    probe_images: int | None = None
    """About so many of them are used at most, the same ones every time. Default: 5000 on a GPU, 2000 on a CPU."""

    def check_probe(self) -> None:
        """Raises ValueError for values that cannot be."""
        if self.probe_every is not None and self.probe_every < 0:
            raise ValueError(f"--probe-every must not be negative, got {self.probe_every}")
        if self.probe_images is not None and self.probe_images < MIN_PROBE_IMAGES:
            raise ValueError(f"--probe-images must be at least {MIN_PROBE_IMAGES}, got {self.probe_images}")
        if self.probe_every == 0 and self.probe_data is not None:
            raise ValueError("--probe-data goes with a probe; leave out --probe-every 0")

    def probe_due(self, epoch: int, epochs: int) -> bool:
        """Whether to probe once `epoch` of `epochs` epochs are done; after the last one always, unless never."""
        if self.probe_every == 0:
            return False
        return epoch == epochs or epoch % (self.probe_every or max(1, epochs // 10)) == 0


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(NetworkFlags, ComputeFlags, ProbeFlags, LogFlags):
    """Pre-train a Masked Autoencoder on unlabeled images.

    Whatever is not set comes from the recipe that fits the images' size.
    """

    data: str | Path
    """A folder of images, Parquet, tar shards, CIFAR or STL-10 binaries, or what training.pack wrote."""
    out: Path
    """The run's folder."""
    mask_ratio: float | None = None
    """Share of the patches that is hidden. Default: the recipe's."""
    target: Target | None = None
    """What is predicted: raw makes better pictures, normalized better features. Default: the recipe's."""
    loss: Loss = "mse"
    """Squared or absolute differences."""
    crop_scale: tuple[float, float] = (0.2, 1.0)
    """Range of the random crop's share of the image's area."""
    stages: Stages | None = None
    """Pairs of a share of the epochs and a side in pixels: smaller images at first, such as 0.5 128 0.8 176. Default:
    the recipe's."""
    epochs: int | None = None
    """Passes over the images. Default: the recipe's."""
    warmup_epochs: float | None = None
    """Epochs in which the learning rate rises. Default: the recipe's, at most a tenth of the epochs."""
    batch_size: int | None = None
    """Images per step, of all processes together. Default: the recipe's."""
    blr: float | None = None
    """Learning rate per 256 images of batch. Default: the recipe's."""
    weight_decay: float = 0.05
    """AdamW's."""
    seed: int = 0
    """Of everything random."""
    strategy: Strategy = "ddp"
    """Of several processes: ddp keeps the whole network in each, fsdp a shard."""
    picture_every: int | None = None
    """Epochs between two pictures of reconstructions. Default: a tenth of the epochs."""
    resume: bool = False
    """Go on with the run in --out, or begin it where there is none."""

    def __post_init__(self) -> None:
        ComputeFlags.__post_init__(self)
        self.check_probe()
        for name in ("epochs", "batch_size", "picture_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if self.mask_ratio is not None and not 0 < self.mask_ratio < 1:
            raise ValueError(f"--mask-ratio must lie between 0 and 1, got {self.mask_ratio}")
        if self.blr is not None and self.blr <= 0:
            raise ValueError(f"--blr must be positive, got {self.blr}")
        if self.weight_decay < 0 or self.seed < 0:
            raise ValueError(f"--weight-decay and --seed must not be negative, got {self.weight_decay} and {self.seed}")
        CropConfig(scale=self.crop_scale)  # raises for a range that it does not take


COMMAND = Command(
    config=PretrainConfig,
    module="training.pretrain",
    examples=(
        "python -m training.pretrain --data photos --out runs/photos",
        "python -m training.pretrain --data photos --out runs/photos --resume",
        "python -m training.pretrain --data data/cifar10 --out runs/fast --recipe fast-32 --epochs 50",
        "torchrun --nproc-per-node 8 -m training.pretrain --data data/big --out runs/big --strategy fsdp",
    ),
    page="docs/training.md",
    statuses={1: "the training went wrong, as by a loss that is not finite",
              130: "stopped by Ctrl-C, with the state saved: --resume goes on",
              143: "stopped by SIGTERM, with the state saved: --resume goes on"},
)  # fmt: skip


def pretrain(config: PretrainConfig) -> Path:
    """Run the whole pre-training and return the run's folder; under torchrun, as one of its processes.

    Raises TrainingError, or Terminated on SIGTERM.
    """
    from training import pretraining  # not above: --help does not wait for torch

    return pretraining.pretrain(config)


def main() -> None:
    config = COMMAND.parse()
    run = pretrain(config)
    if is_main_process():
        written = "the weights, report.html" if config.report else "the weights"
        print(f"{run}: {written} and reconstructions/; next: python -m export {run} --out BUNDLE")


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on with what is packed")
