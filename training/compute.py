"""How a run computes: what changes its speed and its memory, but not what it learns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from training.errors import TrainingError

PrecisionName = Literal["auto", "bf16", "fp32"]
FeedName = Literal["auto", "resident", "mapped", "stream"]
CompileName = Literal["auto", "off", "on", "graphs"]
Strategy = Literal["ddp", "fsdp"]


@dataclass(frozen=True, kw_only=True)
class ComputeFlags:
    """Where and how to compute, which changes nothing that is learned."""

    precision: PrecisionName = "auto"
    """What is computed in; auto is bf16 where the hardware has it."""
    device: str = "auto"
    """cpu, cuda or one such as cuda:1; auto is the GPU if there is one."""
    feed: FeedName = "auto"
    """Where the pixels wait: resident on the GPU, mapped from disk and read ahead, or decoded ahead from a stream."""
    compile: CompileName = "auto"
    """torch.compile: auto on a GPU; graphs adds CUDA graphs, for networks so small that launching kernels dominates."""
    accumulate: int = 1
    """Parts in which a process computes its share of a batch, where memory does not hold it whole."""
    recompute: bool = False
    """Keep no activations inside of a block: far less memory for about a third more time."""
    checkpoint_minutes: float = 5.0
    """Time between two saved states."""

    def __post_init__(self) -> None:
        if self.accumulate < 1:
            raise ValueError(f"--accumulate must be at least 1, got {self.accumulate}")
        if self.compile == "graphs" and self.accumulate > 1:  # a replay overwrites the gradients of the part before
            raise ValueError("--compile graphs does not go with --accumulate; use --compile on")


def global_batch(batch_size: int, num_images: int, *, world_size: int, accumulate: int) -> int:
    """The batch of all processes together: as asked, or less where there are fewer images.

    Raises TrainingError where the parts of the processes would not all be of one size.
    """
    parts = world_size * accumulate
    size = batch_size if batch_size <= num_images else num_images // parts * parts
    if size == 0 or size % parts:
        raise TrainingError(
            f"--batch-size {batch_size} of {num_images} images does not divide among {world_size} processes and "
            f"--accumulate {accumulate}; make it a multiple of {parts}"
        )
    return size
