"""How much arithmetic a step is, and how much the device could do: their ratio is the MFU.

MFU, model FLOPs utilization (Chowdhery et al. 2022, appendix B), counts the network's own multiplications and
additions, 2 per multiply-accumulate, forward once and backward twice; what is computed again to save memory does not
count.
"""

from __future__ import annotations

import time
from functools import lru_cache

import torch

from mae.config import MAEConfig

# Dense bf16 FLOP/s of the data sheets, by what torch calls the device. The first that the name contains counts.
_PEAKS = {
    "B200": 2.25e15, "H200": 989e12, "H100 PCIe": 756e12, "H100": 989e12, "A100": 312e12, "L40S": 362e12,
    "L40": 181e12, "L4": 121e12, "A10G": 70e12, "RTX 4090": 165e12, "RTX 3090": 71e12,
}  # fmt: skip
_SIDE = {"cuda": 8192, "cpu": 768}


def block_flops(tokens: int, dim: int, mlp_ratio: float) -> float:
    """Forward FLOPs of one transformer block for one image: T tokens of width D."""
    linear = 2 * tokens * dim * dim * (4 + 2 * mlp_ratio)  # q, k, v, the projection, and both layers of the MLP
    return linear + 4 * tokens * tokens * dim  # q k^T, and the weights times v


def encoder_flops(config: MAEConfig, num_keep: int) -> float:
    """Forward FLOPs of the encoder for one image of which it sees `num_keep` patches."""
    embed = 2 * num_keep * config.patch_dim * config.dim
    return embed + config.depth * block_flops(1 + num_keep, config.dim, config.mlp_ratio)


def decoder_flops(config: MAEConfig, num_keep: int, num_patches: int) -> float:
    """Forward FLOPs of the decoder for one image."""
    embed = 2 * (1 + num_keep) * config.dim * config.decoder_dim
    blocks = config.decoder_depth * block_flops(1 + num_patches, config.decoder_dim, config.mlp_ratio)
    return embed + blocks + 2 * num_patches * config.decoder_dim * config.patch_dim


def pretrain_flops(config: MAEConfig, num_keep: int, num_patches: int) -> float:
    """FLOPs of a pre-training step for one image, forward and backward."""
    return 3 * (encoder_flops(config, num_keep) + decoder_flops(config, num_keep, num_patches))


def finetune_flops(config: MAEConfig) -> float:
    """FLOPs of a fine-tuning step for one image, forward and backward; a classifier's head is nothing beside it."""
    return 3 * encoder_flops(config, config.num_patches)


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The most FLOP/s that one device could do in `dtype`: the data sheet's for a known GPU in bf16, else measured."""
    if device.type == "cuda" and dtype == torch.bfloat16:
        name = torch.cuda.get_device_name(device)
        known = next((peak for part, peak in _PEAKS.items() if part in name), None)
        if known is not None:
            return known
    return measured_peak(device, dtype)


@lru_cache
def measured_peak(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of the quickest of a few products of large square matrices; takes less than a tenth of a second."""
    side = _SIDE[device.type]
    a = torch.ones(side, side, device=device, dtype=dtype)
    seconds = []
    for _ in range(4):
        _wait(device)
        start = time.perf_counter()
        a @ a
        _wait(device)
        seconds.append(time.perf_counter() - start)
    return float(2 * side**3 / min(seconds[1:]))


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
