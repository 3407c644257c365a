"""What an export is told; without torch, which --help does not wait for."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal, get_args

from bundle.cli.flags import Positional
from bundle.manifest import Pooling, Precision
from export.errors import ExportError
from export.formats.options import Format, TritonOptions

PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Int8 = Literal["auto", "dynamic", "static"]
Storage = Literal["full", "half"]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a pre-trained network, and a classifier with it, as a bundle that the service can serve."""

    run: Annotated[Path, Positional("RUN")]
    """The --out of training.pretrain, or public weights: FAIR's, timm's or Hugging Face's; for triton also a bundle."""
    out: Path
    """The folder to be made."""
    format: Format = "bundle"
    """A bundle, a Triton model repository, or weights for transformers (hf) or timm."""
    classifier: Path | None = None
    """The --out of training.finetune or training.probe, begun from the same run, or public weights with a head.
    Default: none."""
    precision: str = "fp32,fp16,int8"
    """The variants, of fp32, fp16 and int8; fp32 is always among them, int8 where it holds what it must."""
    int8: Int8 = "auto"
    """How int8 is made: the faster way that is close enough, or one that is taken whatever its speed."""
    storage: Storage = "full"
    """How the fp32 graphs keep their weights on disk: half takes half the room; they are computed with in fp32 either
    way."""
    images: Path | None = None
    """Real images to compare on and to calibrate by: a folder, or an .npz file. Default: those that the run left."""
    name: str | None = None
    """The bundle's name. Default: the run folder's."""
    pooling: Pooling | None = None
    """What /embed gives when nothing else is asked for. Default: what the classifier pools, else mean."""
    overwrite: bool = False
    """Replace what an earlier export wrote to --out."""
    triton: TritonOptions = field(default_factory=TritonOptions)
    """For --format triton."""

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Without repetition, in the order of the manifest. ExportError for a name that is none."""
        given = {name.strip() for name in self.precision.split(",")}
        unknown = given - set(PRECISIONS)
        if unknown:
            raise ExportError(f"--precision must be of {', '.join(PRECISIONS)}, got {self.precision!r}")
        return tuple(name for name in PRECISIONS if name == "fp32" or name in given)
