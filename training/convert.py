"""python -m training.convert IN --out OUT: weights between runs of ours and what FAIR, timm and Hugging Face write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from bundle.cli.command import Command
from bundle.cli.flags import Positional
from mae.config import Target
from training.errors import run_command

Format = Literal["maeve", "fair", "timm", "hf"]
FOREIGN_FLAGS = ("heads", "decoder_heads", "target", "mean", "std")


@dataclass(frozen=True, kw_only=True)
class ConvertConfig:
    """Convert weights from or to FAIR's, timm's or Hugging Face's, for images or patches of another size if asked."""

    source: Annotated[Path, Positional("IN")]
    """A run's folder, a .pth, .bin or .safetensors file, or a folder in Hugging Face's layout."""
    out: Path
    """The file or folder to write."""
    to: Format = "maeve"
    """A run's folder (maeve), FAIR's .pth file, timm's .safetensors or .pth file, or Hugging Face's folder (hf)."""
    image_size: tuple[int, int] | None = None
    """Height and width in pixels that the network shall see from now on. Default: as it was."""
    patch_size: int | None = None
    """Side in pixels that a patch shall have from now on. Default: as it was."""
    encoder_only: bool = False
    """Leave the decoder, or the classifier's head, behind."""
    source_image_size: tuple[int, int] | None = None
    """Height and width that a foreign file was trained at. Default: what it says, else a square."""
    heads: int | None = None
    """Of a foreign encoder, where neither its file nor its width tells. Default: what they tell."""
    decoder_heads: int | None = None
    """Of a foreign decoder, where neither its file nor its width tells. Default: what they tell."""
    target: Target | None = None
    """What a foreign decoder predicts. Default: what its file says, else normalized pixels."""
    mean: tuple[float, ...] | None = None
    """Per channel in 0..1 units, of a foreign network's pixels. Default: what its file says, else ImageNet's."""
    std: tuple[float, ...] | None = None
    """The same of their standard deviation. Default: what its file says, else ImageNet's."""

    def __post_init__(self) -> None:
        for name in ("patch_size", "heads", "decoder_heads"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        if (self.mean is None) != (self.std is None):
            raise ValueError("--mean and --std go together")


COMMAND = Command(
    config=ConvertConfig,
    module="training.convert",
    examples=(
        "python -m training.convert mae_visualize_vit_base.pth --out runs/fair-base",
        "python -m training.convert runs/photos --out photos-hf --to hf",
        "python -m training.convert runs/photos --out runs/larger --image-size 448 448",
    ),
    page="docs/weights.md",
    statuses={130: "stopped by Ctrl-C; nothing was written"},
)


def convert(config: ConvertConfig) -> str:
    """Write `config.out`, and say in a few lines what was read and written.

    Raises TrainingError or ValueError for what cannot be read, resized or written so, and OSError where the disk does
    not take it; nothing is then at `out`.
    """
    from training import converting  # not above: --help does not wait for torch

    return converting.convert(config)


def main() -> None:
    print(convert(COMMAND.parse()))


if __name__ == "__main__":
    run_command(main, stopped="stopped; nothing was written")
