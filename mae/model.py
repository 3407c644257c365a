"""The Masked Autoencoder: an encoder that sees some patches, a decoder that paints the others.

Letters: N images, C channels, H x W pixels, P patch side, L patches, K patches kept, D encoder width, E decoder width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mae.config import MAEConfig
from mae.layers import NORM_EPS, Block, init_weights
from mae.masking import Masking, gather_patches
from mae.pos_embed import interpolate, sincos_2d


def patchify(images: Tensor, patch_size: int) -> Tensor:
    """[N, C, H, W] -> [N, L, P*P*C], rows of patches first, a patch flattened (row, column, channel).

    Raises ValueError where H or W is not a multiple of P.
    """
    n, c, height, width = images.shape
    p = patch_size
    if height % p or width % p:
        raise ValueError(f"images of {height}x{width} do not divide into patches of {p}x{p}")
    x = images.reshape(n, c, height // p, p, width // p, p)  # n c h p w q
    return x.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, p * p * c)  # n h w p q c -> [N, L, P*P*C]


def unpatchify(patches: Tensor, grid: tuple[int, int], patch_size: int) -> Tensor:
    """The inverse of `patchify`: [N, L, P*P*C] -> [N, C, H, W] for a grid of (rows, columns)."""
    n, p = patches.shape[0], patch_size
    x = patches.reshape(n, *grid, p, p, -1).permute(0, 5, 1, 3, 2, 4)  # n c h p w q
    return x.reshape(n, -1, grid[0] * p, grid[1] * p)  # [N, C, H, W]


def standardize_patches(patches: Tensor) -> Tensor:
    """Zero mean and unit variance within each patch; unbiased variance + 1e-6, as in the paper's code."""
    var, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (var + 1e-6).sqrt()


def run_blocks(blocks: nn.ModuleList, x: Tensor, *, recompute: bool) -> Tensor:
    """[N, T, D] through every block. `recompute`: keep no activations inside of a block, and compute it again in the
    backward pass: about a third more time for the memory of one block instead of all (Chen et al. 2016).
    """
    for block in blocks:
        x = checkpoint(block, x, use_reentrant=False) if recompute and torch.is_grad_enabled() else block(x)
    return x


def positions_for(table: Tensor, own: tuple[int, int], grid: tuple[int, int] | None) -> Tensor:
    """A position table [1, 1 + L, D] for images of another grid of (rows, columns) than a network's own."""
    return table if grid is None else interpolate(table, own, grid)


class PatchEmbed(nn.Module):
    """A P x P convolution of stride P, computed as a product with patches that are already cut out.

    The weight keeps the convolution's shape [D, C, P, P], which is how published weights store it.
    """

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.proj = nn.Conv2d(config.channels, config.dim, config.patch_size, config.patch_size)

    def forward(self, patches: Tensor) -> Tensor:
        """[N, K, P*P*C] -> [N, K, D]."""
        weight = self.proj.weight.permute(0, 2, 3, 1).flatten(1)  # [D, C, P, P] -> [D, P*P*C]
        return F.linear(patches, weight, self.proj.bias)


class Encoder(nn.Module):
    """ViT over any subset of an image's patches. `drop_path`: greatest rate, growing linearly with depth."""

    pos_embed: Tensor

    def __init__(self, config: MAEConfig, *, drop_path: float = 0.0) -> None:
        super().__init__()
        self.config = config
        self.recompute = False
        self.patch_embed = PatchEmbed(config)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.dim))
        self.register_buffer("pos_embed", sincos_2d(config.dim, config.grid))  # [1, 1 + L, D]
        rates = [drop_path * i / max(config.depth - 1, 1) for i in range(config.depth)]
        self.blocks = nn.ModuleList(Block(config.dim, config.heads, config.mlp_ratio, rate) for rate in rates)
        self.norm: nn.Module = nn.LayerNorm(config.dim, eps=NORM_EPS)
        self.apply(init_weights)
        nn.init.xavier_uniform_(self.patch_embed.proj.weight.view(config.dim, -1))
        nn.init.zeros_(self.patch_embed.proj.bias)  # type: ignore[arg-type]
        nn.init.normal_(self.cls_token, std=0.02)

    def forward(self, patches: Tensor, ids_keep: Tensor | None = None, grid: tuple[int, int] | None = None) -> Tensor:
        """patches: f32 [N, L, P*P*C] of normalised pixels; ids_keep: i64 [N, K], None = all -> latent [N, 1 + K, D].

        The kept pixels and positions are gathered before the patch embedding, so that a hidden patch costs nothing.
        `grid`: (rows, columns) of the patches where they are not the config's; positions are interpolated.
        """
        n = patches.shape[0]
        table = positions_for(self.pos_embed, self.config.grid, grid)  # [1, 1 + L, D]
        pos = table[:, 1:].expand(n, -1, -1)  # [N, L, D]
        if ids_keep is not None:
            patches, pos = gather_patches(patches, ids_keep), gather_patches(pos, ids_keep)
        x = self.patch_embed(patches) + pos  # [N, K, D]
        cls_token = (self.cls_token + self.pos_embed[:, :1]).expand(n, -1, -1)  # [N, 1, D]
        x = torch.cat([cls_token.to(x.dtype), x], dim=1)  # [N, 1 + K, D]
        return self.norm(run_blocks(self.blocks, x, recompute=self.recompute))  # type: ignore[no-any-return]


class Decoder(nn.Module):
    """A light ViT over all positions, a shared mask token standing where patches are hidden."""

    pos_embed: Tensor

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        dim = config.decoder_dim
        self.grid = config.grid
        self.recompute = False
        self.embed = nn.Linear(config.dim, dim)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dim))
        self.register_buffer("pos_embed", sincos_2d(dim, config.grid))  # [1, 1 + L, E]
        self.blocks = nn.ModuleList(
            Block(dim, config.decoder_heads, config.mlp_ratio) for _ in range(config.decoder_depth)
        )
        self.norm = nn.LayerNorm(dim, eps=NORM_EPS)
        self.pred = nn.Linear(dim, config.patch_dim)
        self.apply(init_weights)
        nn.init.normal_(self.mask_token, std=0.02)

    def forward(self, tokens: Tensor, ids_restore: Tensor, grid: tuple[int, int] | None = None) -> Tensor:
        """tokens: the latent [N, 1 + K, D]; ids_restore: i64 [N, L] -> pred [N, L, P*P*C], in units of the target.

        `grid`: as for the encoder.
        """
        x = self.embed(tokens)  # [N, 1 + K, E]
        n, length = ids_restore.shape
        hidden = self.mask_token.to(x.dtype).expand(n, length - (x.shape[1] - 1), -1)  # [N, L - K, E]
        patches = gather_patches(torch.cat([x[:, 1:], hidden], dim=1), ids_restore)  # [N, L, E]
        x = torch.cat([x[:, :1], patches], dim=1) + positions_for(self.pos_embed, self.grid, grid)  # [N, 1 + L, E]
        x = run_blocks(self.blocks, x, recompute=self.recompute)
        return self.pred(self.norm(x)[:, 1:])  # type: ignore[no-any-return]


class MAEOutput(NamedTuple):
    """loss: f32 scalar; pred: [N, L, P*P*C] in units of the target; latent: [N, 1 + K, D]."""

    loss: Tensor
    pred: Tensor
    latent: Tensor


class MaskedAutoencoder(nn.Module):
    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)

    def forward(self, images: Tensor, masking: Masking) -> MAEOutput:
        """images: f32 [N, C, H, W] of normalised pixels, of any size that the patch divides."""
        p = self.config.patch_size
        patches = patchify(images, p)  # [N, L, P*P*C]
        grid = (images.shape[2] // p, images.shape[3] // p)
        latent = self.encoder(patches, masking.ids_keep, grid)
        pred = self.decoder(latent, masking.ids_restore, grid)
        return MAEOutput(self.loss(patches, pred, masking.mask), pred, latent)

    def recompute_activations(self) -> None:
        """From now on, keep less for the backward pass; see `run_blocks`."""
        self.encoder.recompute = self.decoder.recompute = True

    def target(self, patches: Tensor) -> Tensor:
        """What `pred` should equal: normalised pixels [N, L, P*P*C], standardised per patch if the config says so."""
        return standardize_patches(patches) if self.config.target == "normalized" else patches

    def loss(self, patches: Tensor, pred: Tensor, mask: Tensor) -> Tensor:
        """The mean squared or absolute error within a patch, averaged over the removed patches; over all if none is."""
        error = pred.float() - self.target(patches.float())  # [N, L, P*P*C]
        per_patch = (error.square() if self.config.loss == "mse" else error.abs()).mean(dim=-1)  # [N, L]
        weights = torch.where(mask.any(), mask, torch.ones_like(mask))
        return (per_patch * weights).sum() / weights.sum()


class Normalize(nn.Module):
    """u8 or f32 pixels in 0..255, [N, C, H, W] -> f32 with the data's mean removed and unit variance per channel."""

    scale: Tensor
    offset: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        shape = (1, -1, 1, 1)
        scale = torch.tensor([1 / (255 * s) for s in std]).view(shape)
        offset = torch.tensor([-m / s for m, s in zip(mean, std, strict=True)]).view(shape)
        self.register_buffer("scale", scale, persistent=False)
        self.register_buffer("offset", offset, persistent=False)

    def forward(self, pixels: Tensor) -> Tensor:
        return pixels * self.scale + self.offset
