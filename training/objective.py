"""From uint8 pixels to the loss: crop, flip, normalise, mask, encode, decode, in one module that compiles to one graph.

Letters: B images, C channels, S_h x S_w pixels as packed, L patches of what the network sees.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mae.layers import Block
from mae.masking import random_masking
from mae.model import MaskedAutoencoder, Normalize
from training.augment import crop_and_resize
from training.compute import CompileName


class MaskedObjective(nn.Module):
    """The pre-training loss. What is random comes in from outside, so that a step is a function of its inputs."""

    def __init__(self, model: MaskedAutoencoder, autocast: torch.autocast) -> None:
        super().__init__()
        self.model = model
        self.normalize = Normalize(model.config.mean, model.config.std)
        self.autocast = autocast

    def forward(
        self, pixels: Tensor, boxes: Tensor, flip: Tensor, noise: Tensor, size: tuple[int, int], num_keep: int
    ) -> Tensor:
        """pixels: u8 [B, C, S_h, S_w]; boxes: f32 [B, 4] and flip: bool [B] as in `crop_and_resize`; noise: f32 [B, L];
        size: (height, width) that the network sees -> the loss, f32 scalar.
        """
        images = self.normalize(crop_and_resize(pixels, boxes, flip, size))  # [B, C, h, w]
        return self.masked_loss(images, noise, num_keep)

    def masked_loss(self, images: Tensor, noise: Tensor, num_keep: int) -> Tensor:
        """images: f32 [B, C, h, w], normalised."""
        with self.autocast:
            loss: Tensor = self.model(images, random_masking(noise, num_keep)).loss
        return loss


def compiled(module: nn.Module, choice: CompileName, device: torch.device, *, sharded: bool) -> nn.Module:
    """The module through torch.compile. `auto`: on a GPU; on a CPU a minute of compiling gains a few per cent.

    `graphs` adds CUDA graphs. `sharded`: block by block, since shards are gathered between them.
    """
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return module
    # torch compiles a function eight times and from then on runs it as it is, without an error: if the runs before it
    # still counted, a sweep's ninth would not be compiled.
    torch.compiler.reset()
    mode = "reduce-overhead" if choice == "graphs" else None
    if not sharded:
        return torch.compile(module, mode=mode, dynamic=False)  # type: ignore[return-value]
    for block in module.modules():
        if isinstance(block, Block):
            block.compile(mode=mode, dynamic=False)
    return module
