"""python -m bulk.embed: millions of images into Parquet, by the service's own preprocessing and engines."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from bulk.errors import ending_at_once, run_command
from bulk.pieces import named_columns
from bundle.cli.command import Command
from bundle.cli.flags import Positional
from bundle.decode import MAX_PIXELS
from bundle.manifest import Pooling
from bundle.vectors import StoredDtype
from runtime import PrecisionName, RuntimeName

STOPPED = "stopped; parts that are finished are kept, and the same command goes on"


@dataclass(frozen=True, kw_only=True)
class EmbedConfig:
    """Embed images into Parquet: path, sha256, embedding, error, and the source's own columns.

    Interrupted or killed, the same command goes on; later it takes what is new in the source. Images that cannot be
    read are listed in OUT/_maeve/errors.csv and stop nothing.
    """

    sources: Annotated[tuple[str, ...], Positional("SRC")]
    """A folder, a pattern, image files, Parquet or tar shards, by path or URL (s3://, gs://); several may be named."""
    bundle: Path
    """The bundle's folder."""
    out: str | Path
    """Where the parts go: a folder that is empty, not there yet, or an earlier run's, by path or URL."""
    pooling: Pooling | None = None
    """What an embedding is: the cls token or the mean of the patches. Default: the bundle's own."""
    keep: float = 1.0
    """Part of the patches that the encoder sees: fewer are faster, and nearly as good."""
    normalize: bool = True
    """Scale every vector to length 1."""
    dtype: StoredDtype = "float32"
    """What is stored."""
    columns: str | None = None
    """Columns of the source to carry along, separated by commas; `none` for none. Default: all of numbers, texts and
    truth values."""
    image_column: str | None = None
    """Parquet's column of images, or of their paths. Default: `image`, or the only one of its kind."""
    max_pixels: int = MAX_PIXELS
    """Pixels per image, by its header; more are an error of that image."""
    max_file_bytes: int = 2**26
    """Bytes per image; more are an error of that image, which is not read."""
    rows_per_part: int = 1024
    """Images per part, which is what a kill can cost."""
    retry_errors: bool = False
    """Make the parts that have errors once more."""
    runtime: RuntimeName = "auto"
    """Engine, as the service's; auto is the fastest one installed, or what the run began with."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """cuda is every GPU there is; auto is that where an installed engine can use one."""
    precision: PrecisionName = "auto"
    """What is computed in; auto is the fastest in the bundle and on the device, or what the run began with."""
    num_actors: int | None = None
    """Processes that embed. Default: one for each GPU, or for 16 cores."""
    address: str | None = None
    """A Ray cluster, such as `auto` or ray-head:6379. Default: this machine alone."""

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise ValueError(f"--keep must lie above 0 and at most at 1, got {self.keep}")
        for name in ("max_pixels", "max_file_bytes", "rows_per_part", "num_actors"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")
        named_columns(self.columns)
        if self.runtime == "fake" and self.device == "cuda":
            raise ValueError("--runtime fake computes nothing and has no GPU; use --device cpu")

    @property
    def wanted_columns(self) -> tuple[str, ...] | None:
        """None for all."""
        return named_columns(self.columns)


COMMAND = Command(
    config=EmbedConfig,
    module="bulk.embed",
    examples=(
        "python -m bulk.embed photos --bundle models/default --out embedded",
        "python -m bulk.embed 's3://shop/photos/**/*.jpg' --bundle bundles/shop --out s3://shop/embedded",
        "python -m bulk.embed shards --bundle bundles/photos --out embedded --dtype float16 --address auto",
    ),
    page="docs/bulk.md",
    statuses={1: "done, and not one image could be read; or an actor died over and over", 130: f"{STOPPED} (Ctrl-C)",
              143: f"{STOPPED} (SIGTERM)"},
)  # fmt: skip


def main() -> None:
    config = COMMAND.parse()
    from bulk.embedding import embed  # Arrow and Ray, when there is something to do

    embed(config)


if __name__ == "__main__":
    with ending_at_once():
        run_command(main, stopped=STOPPED)
