"""The bundle's graphs: torch modules around a trained network's own layers, with the inputs and outputs of the bundle.

They compute what the network computes, spelled for a runtime: uint8 in, the normalisation folded into the patch
embedding, the first token and the hidden ones made of rows of zeros, so that no engine has to compute a shape.
`export.verify` holds them against the network.

Letters: N images, H x W pixels, C channels, P patch side, L patches, K patches kept, D encoder width, E decoder width.
An attribute must not be called like a graph's input or output (`cls`, `tokens`, ...): ONNX has one namespace for all.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from export.blocks import SpelledBlock, behind_first, take_rows
from mae.classifier import Classifier, LinearHead
from mae.config import MAEConfig
from mae.model import Decoder, Encoder

HALF_PIXEL = 2.0**-8  # exact in half precision, and so is its product with every pixel


class PixelEmbed(nn.Module):
    """u8 [N, H, W, C] -> the first token and the patches' embeddings, with positions: [N, 1 + K, D].

    Normalising is affine, and so is the embedding: W ((x / 255 - mean) / std) + b = W' x + b'. One product does both.
    A row of zeros in front comes out of it as zeros: the table that is added holds the first token in row 0, and a
    position plus b' in each of the others.

    Pixels become floats at once: engines for GPUs have no kernels that move bytes about, and on a CPU it costs nothing
    that can be measured. In half precision W' would lie among the subnormal numbers, which have few bits; pixels / 256
    and 256 W' do not.
    """

    weight: Tensor
    table: Tensor

    def __init__(self, encoder: Encoder, *, half: bool = False) -> None:
        super().__init__()
        config = encoder.config
        self.patch_size, self.grid, self.num_patches = config.patch_size, config.grid, config.num_patches
        self.half_precision = half
        dtype = torch.float16 if half else torch.float32
        weight, bias = _folded(encoder, config)
        self.register_buffer("weight", (weight / HALF_PIXEL if half else weight).to(dtype).contiguous())  # [D, P*P*C]
        positions = encoder.pos_embed.detach().double()[0]  # [1 + L, D]
        first = encoder.cls_token.detach().double()[0] + positions[:1]  # [1, D]
        self.register_buffer("table", torch.cat([first, positions[1:] + bias]).to(dtype))  # [1 + L, D]

    def forward(self, images: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        n, _, _, c = images.shape
        (rows, columns), p = self.grid, self.patch_size
        x = images.to(self.weight.dtype)  # [N, H, W, C]
        if self.half_precision:
            x = x * HALF_PIXEL
        x = x.reshape(n, rows, p, columns, p, c)  # n h p w q c
        x = x.permute(0, 1, 3, 2, 4, 5).reshape(n, self.num_patches, p * p * c)  # n h w p q c -> [N, L, P*P*C]
        if ids_keep is not None:
            x = take_rows(x, ids_keep)  # [N, K, P*P*C]
        x = F.linear(F.pad(x, (0, 0, 1, 0)), self.weight)  # [N, 1 + K, D]
        return x + (self.table if ids_keep is None else F.embedding(behind_first(ids_keep), self.table))


def _folded(encoder: Encoder, config: MAEConfig) -> tuple[Tensor, Tensor]:
    """W' [D, P*P*C] and b' [D] of `PixelEmbed`, in float64."""
    mean = torch.tensor(config.mean, dtype=torch.float64)
    std = torch.tensor(config.std, dtype=torch.float64)
    weight = encoder.patch_embed.proj.weight.detach().double().permute(0, 2, 3, 1)  # [D, C, P, P] -> [D, P, P, C]
    bias = encoder.patch_embed.proj.bias
    assert bias is not None
    shift = (weight * (mean / std)).sum(dim=(1, 2, 3))  # [D]
    return (weight / (255 * std)).flatten(1), bias.detach().double() - shift


class Trunk(nn.Module):
    """The transformer behind the embedding: [N, T, D] -> [N, T, D]."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(SpelledBlock(block) for block in encoder.blocks))  # type: ignore[arg-type]
        self.norm = encoder.norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.blocks(x))  # type: ignore[no-any-return]


class EncoderGraph(nn.Module):
    """images u8 [N, H, W, C], ids_keep i64 [N, K] -> cls f32 [N, D], mean f32 [N, D], tokens f32 [N, 1 + K, D]."""

    def __init__(self, encoder: Encoder, *, half: bool = False) -> None:
        super().__init__()
        self.embed = PixelEmbed(encoder, half=half)
        self.trunk = Trunk(encoder)

    def forward(self, images: Tensor, ids_keep: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.trunk(self.embed(images, ids_keep)).float()  # [N, 1 + K, D]
        return x[:, 0], x[:, 1:].mean(dim=1), x


class DecoderGraph(nn.Module):
    """tokens f32 [N, 1 + K, D], ids_restore i64 [N, L] -> patches f32 [N, L, P*P*C], in units of the training target.

    ids_restore: where a patch stands among [K kept, L - K removed]. Every removed patch is the same token: it is taken
    from the kept ones and added to all positions, so that a row of zeros behind the kept ones stands for it.
    """

    embed_bias: Tensor
    table: Tensor

    def __init__(self, decoder: Decoder, *, half: bool = False) -> None:
        super().__init__()
        self.dtype = torch.float16 if half else torch.float32
        hidden = decoder.mask_token.detach()[0]  # [1, E]
        self.embed_weight = decoder.embed.weight
        self.register_buffer("embed_bias", decoder.embed.bias.detach() - hidden[0])  # [E]
        self.register_buffer("table", decoder.pos_embed.detach()[0] + hidden)  # [1 + L, E]
        self.num_patches = decoder.pos_embed.shape[1] - 1
        self.blocks = nn.Sequential(*(SpelledBlock(block) for block in decoder.blocks))  # type: ignore[arg-type]
        self.norm, self.pred = decoder.norm, decoder.pred

    def forward(self, tokens: Tensor, ids_restore: Tensor) -> Tensor:
        x = F.linear(tokens.to(self.dtype), self.embed_weight, self.embed_bias)  # [N, 1 + K, E]
        x = F.pad(x, (0, 0, 0, self.num_patches))  # [N, 1 + K + L, E]
        x = take_rows(x, behind_first(ids_restore)) + self.table  # [N, 1 + L, E]
        return self.pred(self.norm(self.blocks(x))[:, 1:]).float()  # type: ignore[no-any-return]


class HeadGraph(nn.Module):
    """The features that the head was trained on, each f32 [N, D], in its order -> logits f32 [N, classes]."""

    def __init__(self, head: LinearHead, *, half: bool = False) -> None:
        super().__init__()
        self.head = head
        self.dtype = torch.float16 if half else torch.float32

    def forward(self, first: Tensor, second: Tensor | None = None) -> Tensor:
        """One or both; not `*features`, whose free axes the exporter wants to be told in another way."""
        features = (first,) if second is None else (first, second)
        return self.head(*(feature.to(self.dtype) for feature in features)).float()  # type: ignore[no-any-return]


class ClassifierGraph(nn.Module):
    """images u8 [N, H, W, C] -> logits f32 [N, classes]."""

    def __init__(self, classifier: Classifier, *, half: bool = False) -> None:
        super().__init__()
        self.pooling = classifier.config.pooling
        self.embed = PixelEmbed(classifier.encoder, half=half)
        self.trunk = Trunk(classifier.encoder)
        self.fc_norm, self.head = classifier.fc_norm, classifier.head

    def forward(self, images: Tensor) -> Tensor:
        x = self.trunk(self.embed(images))  # [N, 1 + L, D]
        # The mean of many halves is summed in fp32, and goes on in what the layers behind it compute in.
        pooled = x[:, 0] if self.pooling == "cls" else x[:, 1:].float().mean(dim=1).to(x.dtype)  # [N, D]
        return self.head(self.fc_norm(pooled)).float()  # type: ignore[no-any-return]
