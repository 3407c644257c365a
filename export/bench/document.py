"""`bench.json`: what was measured, on what, with what. FLOPs are counted 2 per multiply-accumulate."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Sha256
from runtime.base import ServedPrecision

_Count = Annotated[int, Field(ge=1)]
_Positive = Annotated[float, Field(gt=0)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Latency(_Strict):
    """Calls of one image, one after another, over all rounds."""

    p50_ms: _Positive
    p99_ms: _Positive
    calls: _Count


class Throughput(_Strict):
    """All lanes busy. `images_per_s`: the median of the rounds, at `batch`, the best of `swept`: batch -> images/s."""

    images_per_s: _Positive
    batch: _Count
    swept: dict[int, _Positive]


class Speedup(_Strict):
    """Times as fast as ONNX Runtime in fp32 on the CPU: the median of the ratios of each round."""

    latency: _Positive
    throughput: _Positive


class Memory(_Strict):
    """Of the process that runs this engine alone: resident before it was loaded, and the most ever resident."""

    before_bytes: _Count
    peak_bytes: _Count


class Cosine(_Strict):
    """To ONNX Runtime in fp32 on the CPU, over all outputs and images."""

    min: float
    mean: float


class Row(_Strict):
    """One engine in one precision. `auto`: what the service picks when nothing is asked for.

    `peak_share`: `flops_per_s` as a part of the device's peak in `peak_precision`.
    """

    runtime: str
    device: str
    precision: ServedPrecision
    auto: bool
    lanes: _Count
    details: dict[str, str | int]
    latency: Latency
    throughput: Throughput
    speedup: Speedup | None
    flops_per_s: _Positive
    peak_precision: ServedPrecision | None
    peak_share: _Positive | None
    memory: Memory | None
    cosine: Cosine | None


class Unmeasured(_Strict):
    """`reason`: in one line."""

    runtime: str
    precision: str
    reason: str


class Peak(_Strict):
    """The quickest product of two square matrices; `by`: the library that did it, `side` x `side` numbers each."""

    device: str
    precision: ServedPrecision
    flops_per_s: _Positive
    by: str
    side: _Count


class BundleFacts(_Strict):
    path: str
    name: str
    digest: Sha256


class Machine(_Strict):
    """`cores`: those that this process may use. `matrix_unit`: the CPU's best instructions for products."""

    cpu: str
    matrix_unit: str
    cores: _Count
    gpus: tuple[str, ...]
    system: str


class Setting(_Strict):
    """`images`: what cosines are taken on, in words. `num_keep`: how many of the `num_patches` the encoder saw."""

    device: str
    keep: Annotated[float, Field(gt=0, le=1)]
    num_keep: _Count
    num_patches: _Count
    flops_per_image: _Count
    rounds: _Count
    seconds: _Positive
    images: str


class BenchDocument(_Strict):
    """`unavailable`: what cannot run here; `failed`: what should have run and did not."""

    schema_version: Literal[1] = 1
    created_at: datetime
    command: str
    commit: str | None
    bundle: BundleFacts
    machine: Machine
    software: dict[str, str]
    setting: Setting
    peaks: tuple[Peak, ...]
    rows: tuple[Row, ...]
    unavailable: tuple[Unmeasured, ...]
    failed: tuple[Unmeasured, ...]
