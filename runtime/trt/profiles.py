"""The shapes an engine is built for, as pure functions.

TensorRT picks its kernels per optimisation profile: they run any shape from the least to the greatest, and are the best
for the one in between. Letters: N images, L patches, K patches kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bundle.manifest import GraphName, GraphSpec, TensorSpec
from bundle.masking import num_keep
from runtime.specs import output_shape

MAX_BATCH = 64  # as many as a request may bring; a batch of ViT-B is some 2 TFLOP by then, enough to fill a GPU
_RECONSTRUCTION_RATIO = 0.75  # what /reconstruct removes unless told otherwise

Axes = Mapping[str, int]  # the size of every named axis: {"N": 8, "K": 49}
Shapes = tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]  # least, best, greatest


@dataclass(frozen=True)
class Range:
    """Sizes of one axis: `least` and `greatest` are allowed, `best` is what the kernels are tuned for."""

    least: int
    best: int
    greatest: int


@dataclass(frozen=True)
class Profile:
    """The range of every named axis of a graph."""

    axes: Mapping[str, Range]

    def contains(self, axes: Axes) -> bool:
        return all(span.least <= axes[name] <= span.greatest for name, span in self.axes.items())

    def shapes(self, tensor: TensorSpec) -> Shapes:
        """An input's or output's shapes at the least, the best and the greatest sizes."""
        least, best, greatest = (
            output_shape(tensor, {name: getattr(span, end) for name, span in self.axes.items()})
            for end in ("least", "best", "greatest")
        )
        return least, best, greatest


def plan_profiles(graph: GraphName, spec: GraphSpec, num_patches: int, max_batch: int) -> tuple[Profile, ...]:
    """The profiles to build `graph` with, the most specific first.

    One image is a profile of its own, tuned for latency where all others are for throughput. The encoder has one pair
    for all patches, as every plain embedding takes them, and one profile for any part of them, tuned for the quarter
    that a reconstruction sees; the decoder has that one alone.
    """
    if max_batch < 1:
        raise ValueError(f"max_batch must be at least 1, got {max_batch}")
    one, many = Range(1, 1, 1), Range(min(2, max_batch), max_batch, max_batch)
    batches = (one,) if max_batch == 1 else (one, many)
    if "K" not in axes_of(spec):
        return tuple(Profile({"N": n}) for n in batches)
    every = Range(num_patches, num_patches, num_patches)
    some = Profile({"N": Range(1, max_batch, max_batch), "K": _part(num_patches)})
    return (*(Profile({"N": n, "K": every}) for n in batches), some) if graph == "encoder" else (some,)


def read_profile(spec: GraphSpec, shapes: Mapping[str, Sequence[Sequence[int]]]) -> Profile:
    """The profile that has these least, best and greatest `shapes` of the inputs, by name."""
    axes: dict[str, Range] = {}
    for tensor in spec.inputs:
        for axis, sizes in zip(tensor.shape, zip(*shapes[tensor.name], strict=True), strict=True):
            if isinstance(axis, str):
                name = axis.removeprefix("1+")
                axes[name] = Range(*(size - (axis != name) for size in sizes))
    return Profile(axes)


def bucket(num_images: int, max_batch: int) -> int:
    """The batch that `num_images` are padded to: 1, 2, 4, 8, ..., and `max_batch`."""
    return min(1 << (num_images - 1).bit_length(), max_batch)


def buckets(max_batch: int) -> tuple[int, ...]:
    """Every batch that `bucket` gives, the smallest first."""
    return tuple(sorted({bucket(n, max_batch) for n in range(1, max_batch + 1)}))


def axes_of(spec: GraphSpec) -> frozenset[str]:
    """The names of the axes that vary: {"N"} or {"N", "K"}."""
    return frozenset(a.removeprefix("1+") for tensor in spec.inputs for a in tensor.shape if isinstance(a, str))


def _part(num_patches: int) -> Range:
    return Range(1, num_keep(num_patches, _RECONSTRUCTION_RATIO), num_patches)
