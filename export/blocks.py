"""The layers of the graphs, spelled for the engines: few operators, no shape arithmetic, nothing computed twice.

Letters: N images, T tokens, D width, h heads, R rows of a table, M rows taken.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from onnxscript import FLOAT, INT64, opset20
from torch import Tensor, nn

from mae.layers import Attention, Block


class SpelledBlock(nn.Module):
    """A trained block's weights: [N, T, D] -> [N, T, D].

    Attention is softmax(q k^T / sqrt(D/h)) v (Vaswani et al. 2017, eq. 1). The factor stands in the rows of q, weight
    and bias, and k goes straight to the layout that the product wants.
    """

    qkv_weight: Tensor
    qkv_bias: Tensor

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.heads = block.attn.heads
        weight, bias = _scaled_qkv(block.attn)
        self.register_buffer("qkv_weight", weight)  # [3D, D]
        self.register_buffer("qkv_bias", bias)  # [3D]
        self.proj, self.norm1, self.norm2 = block.attn.proj, block.norm1, block.norm2
        self.fc1, self.fc2 = block.mlp.fc1, block.mlp.fc2

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.proj(self._attend(self.norm1(x)))
        return x + self.fc2(F.gelu(self.fc1(self.norm2(x))))  # type: ignore[no-any-return]

    def _attend(self, x: Tensor) -> Tensor:
        n, t, d = x.shape
        parts = torch.split(F.linear(x, self.qkv_weight, self.qkv_bias), d, dim=-1)  # three of [N, T, D]
        q, k, v = (part.reshape(n, t, self.heads, d // self.heads) for part in parts)  # [N, T, h, D/h]
        scores = q.transpose(1, 2) @ k.permute(0, 2, 3, 1)  # [N, h, T, D/h] @ [N, h, D/h, T] -> [N, h, T, T]
        mixed: Tensor = scores.softmax(dim=-1) @ v.transpose(1, 2)  # [N, h, T, D/h]
        return mixed.transpose(1, 2).reshape(n, t, d)


def _scaled_qkv(attention: Attention) -> tuple[Tensor, Tensor]:
    weight, bias = attention.qkv.weight.detach().clone(), attention.qkv.bias.detach().clone()
    dim = weight.shape[1]
    scale = (dim // attention.heads) ** -0.5
    weight[:dim] *= scale
    bias[:dim] *= scale
    return weight, bias


def behind_first(ids: Tensor) -> Tensor:
    """i64 [N, M] -> [N, 1 + M]: 0, the row of the first token, and behind it the same ids counted from 1.

    By arithmetic: Pad has no kernel for integers in ONNX Runtime's CUDA provider, and a new column would ask for N.
    """
    return torch.cat([ids[:, :1] * 0, ids + 1], dim=1)


@torch.library.custom_op("maeve::take_rows", mutates_args=())
def take_rows(table: Tensor, ids: Tensor) -> Tensor:
    """Rows of each image's own table. table: [N, R, D], ids: i64 [N, M], within 0..R-1 -> [N, M, D].

    torch's own spellings reach ONNX as an index per element, as large as the result and in 64 bits, or as an index that
    is computed from the batch's size. ONNX has one operator for it.
    """
    return table.gather(1, ids[:, :, None].expand(-1, -1, table.shape[2]))


@take_rows.register_fake
def _(table: Tensor, ids: Tensor) -> Tensor:
    return table.new_empty(table.shape[0], ids.shape[1], table.shape[2])


def take_rows_onnx(table: FLOAT, ids: INT64) -> FLOAT:
    """`take_rows` in ONNX, for the exporter."""
    axis = opset20.Constant(value_ints=[-1])
    return opset20.GatherND(table, opset20.Unsqueeze(ids, axis), batch_dims=1)
