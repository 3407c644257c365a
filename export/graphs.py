"""The bundle's graphs: torch modules around a trained network's own layers, with the inputs and outputs of the bundle.

They compute what the network computes, spelled for a runtime: uint8 in, the normalisation folded into the patch
embedding, rows gathered by one flat index instead of elementwise. `export.verify` holds them against the network.

Letters: N images, H x W pixels, C channels, P patch side, L patches, K patches kept, D encoder width, E decoder width.
An attribute must not be called like a graph's input or output (`cls`, `tokens`, ...): ONNX has one namespace for all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mae.classifier import Classifier, LinearHead
from mae.config import MAEConfig
from mae.model import Decoder, Encoder, PatchEmbed


class PixelEmbed(nn.Module):
    """u8 [N, H, W, C] -> patch embeddings with their positions, [N, K, D].

    Normalising is affine, and so is the embedding: W ((x / 255 - mean) / std) + b = W' x + b'. One product does both.
    """

    weight: Tensor
    bias: Tensor
    positions: Tensor

    def __init__(self, embed: PatchEmbed, positions: Tensor, config: MAEConfig) -> None:
        super().__init__()
        self.patch_size, self.grid, self.num_patches = config.patch_size, config.grid, config.num_patches
        mean = torch.tensor(config.mean, dtype=torch.float64)
        std = torch.tensor(config.std, dtype=torch.float64)
        weight = embed.proj.weight.detach().double().permute(0, 2, 3, 1)  # [D, C, P, P] -> [D, P, P, C]
        bias = embed.proj.bias
        assert bias is not None
        shift = (weight * (mean / std)).sum(dim=(1, 2, 3))  # [D]
        self.register_buffer("weight", (weight / (255 * std)).flatten(1).float().contiguous())  # [D, P*P*C]
        self.register_buffer("bias", (bias.detach().double() - shift).float())
        self.register_buffer("positions", positions.detach().contiguous())  # [L, D]

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        n, _, _, c = images.shape
        (rows, columns), p = self.grid, self.patch_size
        x = images.reshape(n, rows, p, columns, p, c)  # n h p w q c
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(-1, p * p * c)  # n h w p q c -> [N*L, P*P*C]
        if ids_keep is None:
            return F.linear(x.float(), self.weight, self.bias).reshape(n, self.num_patches, -1) + self.positions
        x = gather_rows(x, ids_keep, self.num_patches)  # u8 [N, K, P*P*C]
        return F.linear(x.float(), self.weight, self.bias) + F.embedding(ids_keep, self.positions)


class Trunk(nn.Module):
    """The transformer behind the embedding: [N, K, D] -> [N, 1 + K, D]."""

    first_token: Tensor

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.register_buffer("first_token", (encoder.cls_token + encoder.pos_embed[:, :1]).detach())  # [1, 1, D]
        self.blocks = encoder.blocks
        self.norm = encoder.norm

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([self.first_token.expand(x.shape[0], -1, -1), x], dim=1)  # [N, 1 + K, D]
        for block in self.blocks:
            x = block(x)
        return self.norm(x)  # type: ignore[no-any-return]


class EncoderGraph(nn.Module):
    """images u8 [N, H, W, C], ids_keep i64 [N, K] -> cls f32 [N, D], mean f32 [N, D], tokens f32 [N, 1 + K, D]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.embed = PixelEmbed(encoder.patch_embed, encoder.pos_embed[0, 1:], encoder.config)
        self.trunk = Trunk(encoder)

    def forward(self, images: Tensor, ids_keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(self.embed(images, ids_keep))  # [N, 1 + K, D]
        return x[:, 0], x[:, 1:].mean(dim=1), x


class DecoderGraph(nn.Module):
    """tokens f32 [N, 1 + K, D], ids_restore i64 [N, L] -> patches f32 [N, L, P*P*C], in units of the training target.

    ids_restore: where a patch stands among [K kept, L - K removed].
    """

    positions: Tensor
    first_position: Tensor

    def __init__(self, decoder: Decoder) -> None:
        super().__init__()
        self.embed, self.blocks, self.norm, self.pred = decoder.embed, decoder.blocks, decoder.norm, decoder.pred
        self.hidden_token = decoder.mask_token
        self.register_buffer("positions", decoder.pos_embed[:, 1:].detach().contiguous())  # [1, L, E]
        self.register_buffer("first_position", decoder.pos_embed[:, :1].detach().contiguous())  # [1, 1, E]

    def forward(self, tokens: Tensor, ids_restore: Tensor) -> Tensor:
        x = self.embed(tokens)  # [N, 1 + K, E]
        n, k = x.shape[0], x.shape[1] - 1
        # All removed patches are the same token: one row of it, and every place at or behind K reads that row.
        table = torch.cat([x[:, 1:], self.hidden_token.expand(n, -1, -1)], dim=1).flatten(0, 1)  # [N*(K+1), E]
        patches = gather_rows(table, ids_restore.clamp(max=k), k + 1) + self.positions  # [N, L, E]
        x = torch.cat([x[:, :1] + self.first_position, patches], dim=1)  # [N, 1 + L, E]
        for block in self.blocks:
            x = block(x)
        return self.pred(self.norm(x)[:, 1:])  # type: ignore[no-any-return]


class HeadGraph(nn.Module):
    """The features that the head was trained on, each f32 [N, D], in its order -> logits f32 [N, classes]."""

    def __init__(self, head: LinearHead) -> None:
        super().__init__()
        self.head = head

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """One or both; not `*features`, whose free axes the exporter wants to be told in another way."""
        return self.head(first) if second is None else self.head(first, second)  # type: ignore[no-any-return]


class ClassifierGraph(nn.Module):
    """images u8 [N, H, W, C] -> logits f32 [N, classes]."""

    def __init__(self, classifier: Classifier) -> None:
        super().__init__()
        encoder = classifier.encoder
        self.pooling = classifier.config.pooling
        self.embed = PixelEmbed(encoder.patch_embed, encoder.pos_embed[0, 1:], encoder.config)
        self.trunk = Trunk(encoder)
        self.fc_norm, self.head = classifier.fc_norm, classifier.head

    def forward(self, images: Tensor) -> Tensor:
        x = self.trunk(self.embed(images))  # [N, 1 + L, D]
        pooled = x[:, 0] if self.pooling == "cls" else x[:, 1:].mean(dim=1)  # [N, D]
        return self.head(self.fc_norm(pooled))  # type: ignore[no-any-return]


def gather_rows(table: Tensor, ids: Tensor, rows_per_image: int) -> Tensor:
    """table: [N * rows_per_image, D], ids: i64 [N, K], within one image's rows -> [N, K, D].

    One flat index copies whole rows, where an index per element would be as large as the result, in 64 bits.
    """
    n, k = ids.shape
    start = torch.arange(n, device=ids.device)[:, None] * rows_per_image  # [N, 1]
    return table.index_select(0, (ids + start).flatten()).reshape(n, k, table.shape[1])
