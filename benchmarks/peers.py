"""Other implementations of a Masked Autoencoder, for a network of the same shape: images f32 [N, C, H, W] -> loss."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from mae.config import MAEConfig
from mae.pos_embed import sincos_2d

MASK_RATIO = 0.75


class HuggingFace(nn.Module):
    """ViTMAEForPreTraining of transformers."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.net: nn.Module = ViTMAEForPreTraining(
            ViTMAEConfig(
                image_size=config.image_size[0], patch_size=config.patch_size, num_channels=config.channels,
                hidden_size=config.dim, num_hidden_layers=config.depth, num_attention_heads=config.heads,
                intermediate_size=int(config.dim * config.mlp_ratio), decoder_hidden_size=config.decoder_dim,
                decoder_num_hidden_layers=config.decoder_depth, decoder_num_attention_heads=config.decoder_heads,
                decoder_intermediate_size=int(config.decoder_dim * config.mlp_ratio), mask_ratio=MASK_RATIO,
                norm_pix_loss=True,
            )
        )  # fmt: skip

    def forward(self, images: Tensor) -> Tensor:
        loss: Tensor = self.net(pixel_values=images).loss
        return loss


class TimmBlocks(nn.Module):
    """The way of the paper's code: timm's blocks, every patch embedded, order restored by a second argsort."""

    def __init__(self, config: MAEConfig, block: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.config = config
        self.patch_embed = nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, config.decoder_dim))
        self.pos_embed = nn.Parameter(sincos_2d(config.dim, config.grid), requires_grad=False)
        self.decoder_pos_embed = nn.Parameter(sincos_2d(config.decoder_dim, config.grid), requires_grad=False)
        self.blocks = nn.Sequential(*(block(config.dim, config.heads, qkv_bias=True) for _ in range(config.depth)))
        self.norm = nn.LayerNorm(config.dim)
        self.decoder_embed = nn.Linear(config.dim, config.decoder_dim)
        self.decoder_blocks = nn.Sequential(
            *(block(config.decoder_dim, config.decoder_heads, qkv_bias=True) for _ in range(config.decoder_depth))
        )
        self.decoder_norm = nn.LayerNorm(config.decoder_dim)
        self.decoder_pred = nn.Linear(config.decoder_dim, config.patch_dim)

    def forward(self, images: Tensor) -> Tensor:
        x = self.patch_embed(images).flatten(2).transpose(1, 2) + self.pos_embed[:, 1:]  # [N, L, D]
        n, length, dim = x.shape
        keep = int(length * (1 - MASK_RATIO))
        ids_shuffle = torch.rand(n, length, device=x.device).argsort(dim=1)
        ids_restore = ids_shuffle.argsort(dim=1)
        x = x.gather(1, ids_shuffle[:, :keep, None].repeat(1, 1, dim))  # [N, K, D]
        mask = (ids_restore >= keep).float()  # [N, L], 1 = removed
        x = self.norm(self.blocks(torch.cat([(self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1), x], dim=1)))
        x = self.decoder_embed(x)  # [N, 1 + K, E]
        hidden = self.mask_token.repeat(n, length - keep, 1).to(x.dtype)
        patches = torch.cat([x[:, 1:], hidden], dim=1).gather(1, ids_restore[:, :, None].repeat(1, 1, x.shape[2]))
        x = torch.cat([x[:, :1], patches], dim=1) + self.decoder_pos_embed
        pred = self.decoder_pred(self.decoder_norm(self.decoder_blocks(x)))[:, 1:]  # [N, L, P*P*C]
        return self._loss(images, pred, mask)

    def _loss(self, images: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        n, c, height, width = images.shape
        p = self.config.patch_size
        target = torch.einsum("nchpwq->nhwpqc", images.reshape(n, c, height // p, p, width // p, p)).reshape(pred.shape)
        target = (target - target.mean(dim=-1, keepdim=True)) / (target.var(dim=-1, keepdim=True) + 1e-6).sqrt()
        return (((pred - target) ** 2).mean(dim=-1) * mask).sum() / mask.sum()


def peers(config: MAEConfig) -> dict[str, nn.Module]:
    """Those that can be imported here."""
    found: dict[str, nn.Module] = {"Hugging Face ViTMAE": HuggingFace(config)}
    try:
        from timm.models.vision_transformer import Block
    except ImportError:
        return found
    return found | {"timm blocks, as the paper's code": TimmBlocks(config, Block)}
