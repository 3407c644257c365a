"""Several processes that train one network, as torchrun starts them; a process alone is a world of one.

Every process computes its own rows of each global batch. `ddp` keeps the whole network everywhere and averages the
gradients; `fsdp` (FSDP2, Zhao et al. 2023) keeps a shard of weights, gradients and optimizer state, for networks that
do not fit. A saved state is whole in either case, so a run may go on with another number of processes.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from mae.layers import Block
from training.compute import Strategy
from training.device import pick_device
from training.errors import TrainingError

_SETTLE_S = 0.5
_PATIENCE = timedelta(days=1)  # while the first process packs data or evaluates, the others wait this long


@dataclass(frozen=True)
class World:
    """This process among the others. rank: 0 writes the run's folder."""

    device: torch.device
    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return str(self.device) if self.size == 1 else f"{self.size} x {self.device.type}"

    def agree(self, *raised: bool) -> tuple[bool, ...]:
        """For each flag, whether any process raises it. A meeting of all processes, on their CPUs: no device waits."""
        if self.size == 1:
            return raised
        flags = torch.tensor(raised, dtype=torch.uint8)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return tuple(flags.bool().tolist())

    def mean(self, values: Tensor) -> Tensor:
        """The mean over all processes."""
        if self.size == 1:
            return values
        total = values.clone()
        dist.all_reduce(total)
        return total / self.size

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """The first process goes ahead, the others follow when it is done. What fails there fails everywhere."""
        if not self.is_main:
            self._meet(failed=False)
        try:
            yield
        except BaseException:
            if self.is_main:
                self._meet(failed=True)
            raise
        if self.is_main:
            self._meet(failed=False)

    def _meet(self, *, failed: bool) -> None:
        if self.agree(failed)[0] and not self.is_main:
            raise TrainingError("the first process gave up; its message says why")


@contextmanager
def join(device: str) -> Iterator[World]:
    """Take this process's place in the world that torchrun's variables describe, and leave it in the end.

    Raises TrainingError for a device that is not there.
    """
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    if size == 1:
        yield World(pick_device(device))
        return
    own = pick_device(device, index=int(os.environ.get("LOCAL_RANK", "0")))
    if own.type == "cuda":
        torch.cuda.set_device(own)
    dist.init_process_group("cpu:gloo,cuda:nccl" if own.type == "cuda" else "gloo", timeout=_PATIENCE)
    world = World(own, rank, size)
    try:
        yield world
        world.agree(*(False,))  # nobody leaves while another still needs its connections
    finally:
        # FSDP keeps the group alive, and its threads, which let go of the last tensors a moment after we have them:
        # that must not fall into the interpreter's end, where it would abort the process.
        time.sleep(_SETTLE_S)
        dist.destroy_process_group()


def distribute(network: nn.Module, world: World, strategy: Strategy) -> nn.Module:
    """The same network, trained by all processes together; call it in its place. As it is in a world of one.

    With `fsdp` its parameters are replaced by shards, so make the optimizer afterwards.
    """
    if world.size == 1:
        return network
    if strategy == "ddp":
        devices = [world.device] if world.device.type == "cuda" else None
        return DistributedDataParallel(network, device_ids=devices, gradient_as_bucket_view=True)
    mesh = init_device_mesh(world.device.type, (world.size,))
    for block in [module for module in network.modules() if isinstance(module, Block)]:
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)
    return network


def set_gradient_sync(network: nn.Module, *, enabled: bool) -> None:
    """Whether the next backward pass exchanges gradients; off for all but the last part of an accumulated batch."""
    if isinstance(network, DistributedDataParallel):
        network.require_backward_grad_sync = enabled
    elif isinstance(network, FSDPModule):
        network.set_requires_gradient_sync(enabled)


def own_part(parameter: Tensor) -> Tensor:
    """What this process holds of a parameter."""
    return parameter.to_local() if isinstance(parameter, DTensor) else parameter


def whole(state: Any, *, keep: bool) -> Any:
    """A state dict with every shard gathered to a whole tensor on the CPU, since a device that needs shards does not
    hold all of them. A meeting of all processes where there are shards; `keep`: False in those that want no result.
    """
    if isinstance(state, DTensor):
        full = state.full_tensor()
        return full.cpu() if keep else None
    if isinstance(state, Mapping):
        return {key: whole(value, keep=keep) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value, keep=keep) for value in state]
    return state


def load_whole(model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> None:
    """Load what `whole` made of `model` and `optimizer`, each tensor as its parameter is distributed.

    Raises what `load_state_dict` raises where they do not fit.
    """
    own = model.state_dict()
    model.load_state_dict({name: _like(own.get(name), value) for name, value in state["model"].items()})
    optimizer.load_state_dict(state["optimizer"])
    for parameter, values in optimizer.state.items():
        for name, value in values.items():
            if value.shape == parameter.shape:
                values[name] = _like(parameter, value)


def _like(own: Tensor | None, value: Tensor) -> Tensor:
    if not isinstance(own, DTensor):
        return value
    return distribute_tensor(value.to(own.device), own.device_mesh, own.placements)
