"""The transformer block of ViT (Dosovitskiy et al. 2020), pre-norm. Letters: N images, T tokens, D width, h heads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(D/h)) v (Vaswani et al. 2017, eq. 1). q, k, v: [N, h, T, D/h] -> the same.

    Where a CPU trains in bf16 the products are spelled out: there the backward pass of torch's fused attention takes
    longer than all the rest of a block.
    """
    if not (q.device.type == "cpu" and q.dtype == torch.bfloat16 and q.requires_grad):
        return F.scaled_dot_product_attention(q, k, v)
    with torch.autocast("cpu", enabled=False):  # it would take the softmax to fp32, at half the speed
        scores = (q * q.shape[-1] ** -0.5) @ k.mT  # [N, h, T, T]
        weights: Tensor = scores.softmax(dim=-1)
        return weights @ v


class Attention(nn.Module):
    """Multi-head self-attention with one fused projection to q, k and v."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        qkv = self.qkv(x).reshape(n, t, 3, self.heads, d // self.heads)  # [N, T, 3, h, D/h]
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)  # each [N, h, T, D/h]
        x = attend(q, k, v)  # [N, h, T, D/h]
        return self.proj(x.transpose(1, 2).reshape(n, t, d))  # type: ignore[no-any-return]


class Mlp(nn.Module):
    def __init__(self, dim: int, hidden_dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))  # type: ignore[no-any-return]


class DropPath(nn.Module):
    """Drop a residual branch for a whole image with probability `rate` while training (Huang et al. 2016)."""

    def __init__(self, rate: float) -> None:
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        if self.rate == 0 or not self.training:
            return x
        keep = 1 - self.rate
        return x * torch.empty(x.shape[0], 1, 1, dtype=x.dtype, device=x.device).bernoulli_(keep).div_(keep)


class Block(nn.Module):
    def __init__(self, dim: int, heads: int, mlp_ratio: float, drop_path: float = 0.0) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = Mlp(dim, int(dim * mlp_ratio))
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))  # type: ignore[no-any-return]


def init_weights(module: nn.Module) -> None:
    """Xavier-uniform matrices and zero biases, as in the paper's code. For `module.apply`."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
