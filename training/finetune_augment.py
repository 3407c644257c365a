"""What fine-tuning makes of a batch: crop, RandAugment, erasing, mixing, and targets to go with them."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mae.config import MAEConfig
from mae.model import Normalize
from training.augment import random_erasing, random_resized_crop
from training.augmentations import CropConfig, MixConfig, RandAugmentConfig
from training.finetune_recipes import FinetuneRecipe
from training.loop import step_generator
from training.mix import draw_mixing, mix_images, soft_targets
from training.randaugment import rand_augment


class FinetuneAugment:
    """A recipe's augmentations for a network's images, on the device, in the order of the paper's code.

    The crop and all noise come from a generator on the device. What the host must know, such as which images share an
    operation, comes from one on the host, so that no step waits for the device.
    """

    def __init__(self, recipe: FinetuneRecipe, network: MAEConfig, num_classes: int, device: torch.device) -> None:
        self.size, self.num_classes, self.device = network.image_size, num_classes, device
        self.normalize = Normalize(network.mean, network.std).to(device)
        self.crop = CropConfig(scale=recipe.crop_scale)
        self.rand_augment = RandAugmentConfig(magnitude=recipe.randaugment) if recipe.randaugment > 0 else None
        self.fill = [255 * mean for mean in network.mean]
        self.erasing, self.smoothing = recipe.erasing, recipe.label_smoothing
        self.mix = MixConfig(mixup=recipe.mixup, cutmix=recipe.cutmix)

    def __call__(self, pixels: Tensor, labels: Tensor, seed: int, step: int, rank: int = 0) -> tuple[Tensor, Tensor]:
        """pixels: u8 [B, C, H, W]; labels: i64 [B] -> images f32 [B, C, h, w], targets f32 [B, classes].

        Everything random is a function of (seed, step), and of the process among several.
        """
        generator = step_generator(seed, step, self.device, rank)
        rng = np.random.default_rng([seed, step, 1, rank])  # 1: apart from the order of epoch number `step`
        images = random_resized_crop(pixels, self.size, self.crop, generator)
        if self.rand_augment is not None:
            images = rand_augment(images, self.rand_augment, self.fill, rng)
        images = random_erasing(self.normalize(images), self.erasing, rng, generator)
        mixing = draw_mixing(len(images), self.size, self.mix, rng)
        if mixing is not None:
            images = mix_images(images, mixing)
        return images, soft_targets(labels, self.num_classes, self.smoothing, mixing)
