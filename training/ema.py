"""An exponential moving average of a network's weights (Polyak & Juditsky 1992), to evaluate and keep."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Ema(Generic[Network]):
    """`averaged` starts as a copy of the model, in evaluation mode, and moves towards it after every step."""

    def __init__(self, model: Network, decay: float) -> None:
        self.model, self.decay = model, decay
        self.averaged = copy.deepcopy(model).requires_grad_(requires_grad=False).eval()

    @torch.no_grad()
    def update(self, step: int) -> None:
        """averaged = decay * averaged + (1 - decay) * model. step: how many the model has made."""
        share = 1 - decay_at(step, self.decay)
        torch._foreach_lerp_(list(self.averaged.parameters()), list(self.model.parameters()), share)
        for averaged, current in zip(self.averaged.buffers(), self.model.buffers(), strict=True):
            averaged.copy_(current)


def decay_at(step: int, decay: float) -> float:
    """The decay after so many steps: (1 + step) / (10 + step) until it reaches `decay`.

    So the average forgets where it started even in a run of fewer steps than 1 / (1 - decay).
    """
    return min(decay, (1 + step) / (10 + step))
