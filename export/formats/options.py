"""The flags of the other formats."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bundle.manifest import Precision

Format = Literal["bundle", "triton", "hf", "timm"]


@dataclass(frozen=True, kw_only=True)
class TritonOptions:
    """How Triton serves the models, with --format triton; all of it stands in their config.pbtxt."""

    precision: Precision = "fp32"
    """Which of the bundle's variants is served; a graph without it is served in fp32."""
    device: Literal["cpu", "gpu"] = "cpu"
    """Where the models run; gpu is every GPU that Triton sees."""
    instances: int | None = None
    """Calls of one model at once, on a GPU for each GPU. Default: the cores of this machine, and 1 on a GPU."""
    max_batch_size: int = 64
    """Most images in one call."""
    max_queue_delay_us: int = 0
    """Microseconds that a request may wait for others. Default: none, it waits only while every instance is busy."""

    def __post_init__(self) -> None:
        for name, least in (("instances", 1), ("max_batch_size", 1), ("max_queue_delay_us", 0)):
            value = getattr(self, name)
            if value is not None and value < least:
                raise ValueError(f"--triton.{name.replace('_', '-')} must be at least {least}, got {value}")
