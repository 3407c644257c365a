"""The seam that every engine fits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, Protocol

from numpy.typing import NDArray

from bundle.manifest import GraphName

# What is computed in. A bundle brings fp32, fp16 and int8 graphs; bf16 is an fp32 graph on a device that rounds.
ServedPrecision = Literal["fp32", "bf16", "fp16", "int8"]
Arrays = dict[str, NDArray[Any]]


class Runtime(Protocol):
    """Runs the graphs of one bundle. `run` may be called from `lanes` threads at once."""

    name: str  # "onnxruntime", "fake", ...
    device: str  # "cpu", "cuda:0"
    precision: ServedPrecision
    lanes: int  # how many calls may run at once: CPU cores in use, or 1 for a GPU
    max_batch: int  # images per call that the device likes best; a few on a CPU, where more gain nothing
    buckets: tuple[int, ...]  # sizes of a call that the device likes, ascending: it pads to the next; empty is any
    details: Mapping[str, str | int]  # for /info and the log: the engine's version, its threads, its provider, ...

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        """Run one graph. Inputs and outputs are those that the manifest lists, by name; N is the first axis of each.

        `wanted`: the outputs to give, None for all; what is not wanted need not leave the device.
        InferenceError if the graph fails, OutOfMemory where fewer images may still fit; ValueError if the inputs are
        not the manifest's, or if an output that is wanted is none of its.
        """
        ...

    def close(self) -> None:
        """Release the device. Idempotent; no `run` may follow."""
        ...
