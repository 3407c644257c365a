"""python -m training.probe --data DIR --init RUN --out RUN2: how good are the frozen encoder's features?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bundle.cli.command import Command
from bundle.cli.paper import paper
from mae.config import Feature
from training.errors import run_command

Names = tuple[Feature, ...]
_CANDIDATES: tuple[Names, ...] = (("cls",), ("mean",), ("cls", "mean"))


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Classify with a pre-trained encoder's features, which stay as they are: by neighbours and by a linear layer."""

    data: str | Path
    """Labeled images: a folder with one sub-folder per class, Parquet with a column `label`, or a packed set."""
    out: Path
    """The run's folder."""
    init: Path
    """The run of training.pretrain, or the foreign weights, whose encoder is probed."""
    test: str | Path | None = None
    """Labeled images that are looked at once, at the end. Default: none."""
    features: tuple[Feature, ...] | None = None
    """Which features are seen, concatenated. Default: the best of cls, mean and both on the validation split."""
    label_fraction: float = 1.0
    """Share of each class whose labels are used, the validation split included."""
    val_fraction: float = 0.1
    """Share of those that is held out for validation."""
    neighbors: tuple[int, ...] = (1, 5, 10, 20, 50, 200)
    """Numbers of neighbours to choose from, as far as there are so many images."""
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    """L2 penalties to choose from, on standardised features and the mean loss."""
    max_iterations: int = 100
    """Of L-BFGS, for each penalty."""
    refit: bool = True
    """Use the validation images too, once everything is chosen."""
    seed: int = 0
    """Of the split."""
    device: str = "auto"
    """cpu, cuda or one such as cuda:1; auto is the GPU if there is one."""
    report: bool = True
    """Write report.html in the end."""

    def __post_init__(self) -> None:
        if not self.neighbors or min(self.neighbors) < 1:
            raise ValueError(f"--neighbors must be at least one number, each at least 1, got {self.neighbors}")
        if not self.penalties or min(self.penalties) < 0:
            raise ValueError(f"--penalties must be at least one value, none negative, got {self.penalties}")
        if self.max_iterations < 1:
            raise ValueError(f"--max-iterations must be at least 1, got {self.max_iterations}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")

    @property
    def candidates(self) -> tuple[Names, ...]:
        return _CANDIDATES if self.features is None else (self.features,)


COMMAND = Command(
    config=ProbeConfig,
    module="training.probe",
    examples=(
        "python -m training.probe --data labeled --init runs/photos --out runs/probed",
        "python -m training.probe --data labeled --test held-out --init runs/photos --out runs/probed",
        "python -m training.probe --data labeled --init runs/photos --out runs/few --label-fraction 0.1",
    ),
    page="docs/training.md",
    statuses={130: "stopped by Ctrl-C; the packed images are kept"},
)


def probe(config: ProbeConfig) -> dict[str, float]:
    """Choose on the validation split, evaluate once on the test set; returns the metrics that run.json keeps.

    Raises TrainingError or ValueError for data, runs or settings that do not fit, before run.json is written.
    """
    from training import probing  # not above: --help does not wait for torch

    return probing.probe(config)


def main() -> None:
    config = COMMAND.parse()
    metrics = probe(config)
    from training.probing import trials_table
    from training.run import read_run

    paper().print(trials_table(read_run(config.out, "probe")))
    print(f"{config.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on with what is packed")
