"""What does a recipe's network weigh: parameters, arithmetic, and memory for the backward pass?

    python -m benchmarks.recipe_costs

Counted, not timed: the step runs on tensors that have shapes but no content. Activations are what autograd keeps of an
image in bf16 with fused attention, uncompiled; torch.compile keeps less. Weights, their gradients and AdamW's two
averages take 16 bytes a parameter on top.
"""

from __future__ import annotations

from unittest.mock import patch

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.weak import WeakIdKeyDictionary

from benchmarks.report import Report
from mae.masking import num_keep
from mae.model import MaskedAutoencoder
from training.device import autocast
from training.flops import pretrain_flops
from training.objective import MaskedObjective
from training.packed import PackInfo
from training.recipes import RECIPES, Recipe

_IMAGES = 4


def kept_bytes(recipe: Recipe, model: MaskedAutoencoder) -> float:
    """What the forward pass of one image keeps for the backward pass, parameters left out."""
    objective = MaskedObjective(model, autocast(torch.device("cpu"), "bf16"))
    parameters = {p.untyped_storage()._cdata for p in model.parameters()}
    seen = WeakIdKeyDictionary()
    total = 0

    def count(x: Tensor) -> Tensor:
        nonlocal total
        storage = x.untyped_storage()
        if storage._cdata not in parameters and storage not in seen:
            seen[storage] = True
            total += storage.nbytes()
        return x

    length = model.config.num_patches
    pixels = torch.empty(_IMAGES, model.config.channels, *recipe.pack_size, dtype=torch.uint8)
    flip, noise = torch.empty(_IMAGES, dtype=torch.bool), torch.empty(_IMAGES, length)
    keep = num_keep(length, recipe.mask_ratio)
    with (
        patch("mae.layers.attend", F.scaled_dot_product_attention),  # as on a GPU
        torch.autograd.graph.saved_tensors_hooks(count, lambda x: x),
    ):
        loss = objective(pixels, torch.empty(_IMAGES, 4), flip, noise, recipe.image_size, keep)
    del loss
    return total / _IMAGES


def block_inputs(recipe: Recipe, model: MaskedAutoencoder) -> float:
    """Bytes of what goes into the blocks of one image, f32, which recomputing keeps where autograd does not see it."""
    m, length = model.config, model.config.num_patches
    encoder = m.depth * (1 + num_keep(length, recipe.mask_ratio)) * m.dim
    return 4 * (encoder + m.decoder_depth * (1 + length) * m.decoder_dim)


def main() -> None:
    report = Report("recipe_costs", __doc__ or "")
    for name, recipe in RECIPES.items():
        info = PackInfo(
            name=name, source=name, size=recipe.pack_size, channels=3, num_images=1, num_corrupt=0, shards={},
            classes=None, mean=(0.5,) * 3, std=(0.5,) * 3,
        )  # fmt: skip
        with FakeTensorMode():
            model = MaskedAutoencoder(recipe.network(info))
            whole = kept_bytes(recipe, model)
            model.recompute_activations()
            recomputed = kept_bytes(recipe, model) + block_inputs(recipe, model)
        length = model.config.num_patches
        flops = pretrain_flops(model.config, num_keep(length, recipe.mask_ratio), length)
        parameters = sum(p.numel() for p in model.parameters())
        report.add(
            name,
            f"{parameters / 1e6:.1f} M parameters, {flops / 1e9:.3g} GFLOP an image, "
            f"{whole / 1e6:.3g} MB of activations an image, {recomputed / 1e6:.3g} MB with --recompute",
        )
    report.write()


if __name__ == "__main__":
    main()
