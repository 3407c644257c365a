"""`manifest.json`: what a bundle is, in a schema that refuses what it does not know.

Letters: N images, H x W pixels, C channels, P patch side, L patches, K patches kept, D width.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA_VERSION = 2  # 1 knew neither variants beside fp32 nor parity on real images; it is read as before
MANIFEST_FILE = "manifest.json"
LABELS_FILE = "labels.json"
GOLDEN_FILE = "golden.npz"

GraphName = Literal["encoder", "decoder", "head", "classifier"]
Precision = Literal["fp32", "fp16", "int8"]
Pooling = Literal["cls", "mean"]
Dtype = Literal["uint8", "int64", "float16", "float32"]
PositiveInt = Annotated[int, Field(gt=0)]
Size = tuple[PositiveInt, PositiveInt]
# A plain name inside the bundle's folder: no separator and no leading dot, so that no manifest can point outside of it.
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]*$", max_length=100)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DecoderSpec(_Strict):
    dim: PositiveInt
    depth: PositiveInt
    heads: PositiveInt


class ModelSpec(_Strict):
    """The network's shape. `image_size`: (height, width) in pixels."""

    image_size: Size
    patch_size: PositiveInt
    channels: PositiveInt
    dim: PositiveInt
    depth: PositiveInt
    heads: PositiveInt
    mlp_ratio: Annotated[float, Field(gt=0)]
    decoder: DecoderSpec | None

    @model_validator(mode="after")
    def _divisible(self) -> ModelSpec:
        if any(side % self.patch_size for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        return self

    @property
    def grid(self) -> tuple[int, int]:
        """(rows, columns) of patches."""
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size

    @property
    def num_patches(self) -> int:
        """L."""
        return self.grid[0] * self.grid[1]

    @property
    def patch_dim(self) -> int:
        """P*P*C, the values in one patch; a patch is flattened (row, column, channel)."""
        return self.patch_size**2 * self.channels


class Preprocess(_Strict):
    """How an image becomes the network's input; see `bundle.preprocess`.

    The image is scaled until it covers `resize`, keeping its aspect, then `crop` is cut from the centre; both (height,
    width) in pixels. `mean` and `std`, in 0..1 units per channel, are applied inside the graphs and stand here for the
    reader.
    """

    resize: Size
    crop: Size
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @model_validator(mode="after")
    def _crop_fits(self) -> Preprocess:
        if self.crop[0] > self.resize[0] or self.crop[1] > self.resize[1]:
            raise ValueError(f"crop {self.crop} is larger than resize {self.resize}")
        return self


class TensorSpec(_Strict):
    """`shape` holds sizes, and a name for each axis that varies: N, K, and "1+K" for the cls token and K patches."""

    name: str
    dtype: Dtype
    shape: tuple[int | str, ...]


class GraphSpec(_Strict):
    """`weights`: the file beside a graph's own that holds its weights, where they are too large for one file.

    `quantization`: how int8 came about. "dynamic" measures the scales of activations at every call; "static" took them
    from calibration images and has them in the graph, as QuantizeLinear and DequantizeLinear.
    """

    files: dict[Precision, FileName]
    weights: dict[Precision, FileName] = {}
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    opset: PositiveInt
    quantization: Literal["dynamic", "static"] | None = None

    @model_validator(mode="after")
    def _has_fp32(self) -> GraphSpec:
        if "fp32" not in self.files:
            raise ValueError("files must contain 'fp32'")
        if ("int8" in self.files) != (self.quantization is not None):
            raise ValueError("quantization must be set exactly when there is an int8 file")
        if not set(self.weights) <= set(self.files):
            raise ValueError(f"weights of {sorted(set(self.weights) - set(self.files))} belong to no file")
        return self


class ImageParity(_Strict):
    """How far a graph's outputs lay from torch's on real images. `top1_agreement`: share of equal first classes, for
    graphs that give logits.
    """

    num_images: PositiveInt
    max_abs: Annotated[float, Field(ge=0)]
    cosine_min: float
    cosine_mean: float
    top1_agreement: Annotated[float, Field(ge=0, le=1)] | None = None


class Parity(_Strict):
    """How far a graph's outputs lay from torch's at export, over all outputs and images.

    `max_abs`, `cosine_min`, `cosine_mean`: on the golden inputs and other made-up ones; `images`: on real ones, where
    the export had some. A runtime that serves the graph must stay within `tolerance` (absolute) on the golden inputs
    and, where it is set, at or above `min_cosine`.
    """

    max_abs: Annotated[float, Field(ge=0)]
    cosine_min: float
    cosine_mean: float | None = None
    tolerance: Annotated[float, Field(gt=0)]
    min_cosine: float | None = None
    images: ImageParity | None = None


class Provenance(_Strict):
    """Where the weights came from. `metrics`: name -> value, as the run that measured it named it."""

    dataset: str
    num_images: Annotated[int, Field(ge=0)]
    epochs: Annotated[float, Field(ge=0)]
    metrics: dict[str, float] = {}
    git_commit: str | None = None
    maeve_version: str


NAME_PATTERN = r"^[A-Za-z0-9._-]{1,100}$"


class Manifest(_Strict):
    schema_version: Literal[1, 2] = 2
    name: Annotated[str, Field(pattern=NAME_PATTERN)]
    created_at: datetime
    model: ModelSpec
    pixel_target: Literal["raw", "normalized"]
    preprocess: Preprocess
    pooling: Pooling
    graphs: dict[GraphName, GraphSpec]
    num_classes: PositiveInt | None = None
    parity: dict[str, Parity]  # "<graph>.<precision>" -> Parity
    provenance: Provenance
    files: dict[FileName, Sha256]  # for every file but the manifest
    digest: Sha256  # see bundle.digest.manifest_digest

    @model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if "encoder" not in self.graphs:
            raise ValueError("graphs must contain 'encoder'")
        if {"head", "classifier"} <= set(self.graphs):
            raise ValueError("graphs may contain 'head' or 'classifier', not both")
        if self.can_classify != (self.num_classes is not None):
            raise ValueError("num_classes must be set exactly when there is a 'head' or 'classifier' graph")
        if self.preprocess.crop != self.model.image_size:
            raise ValueError(f"preprocess.crop {self.preprocess.crop} differs from image_size {self.model.image_size}")
        if not len(self.preprocess.mean) == len(self.preprocess.std) == self.model.channels:
            raise ValueError(f"preprocess.mean and .std must have {self.model.channels} values each")
        missing = {f for g in self.graphs.values() for f in (*g.files.values(), *g.weights.values())} - set(self.files)
        if missing:
            raise ValueError(f"graphs name files without a sha256: {sorted(missing)}")
        return self

    @property
    def can_reconstruct(self) -> bool:
        return "decoder" in self.graphs

    @property
    def can_classify(self) -> bool:
        return "head" in self.graphs or "classifier" in self.graphs
