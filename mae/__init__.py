"""The Masked Autoencoder network (He et al. 2021, https://arxiv.org/abs/2111.06377) and nothing else."""

from mae.classifier import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig
from mae.config import MAEConfig, preset
from mae.masking import Masking, random_masking
from mae.model import Encoder, MaskedAutoencoder
from mae.pretrained import Pretrained, PretrainedEncoder

__all__ = [
    "Classifier",
    "ClassifierConfig",
    "Encoder",
    "LinearHead",
    "LinearHeadConfig",
    "MAEConfig",
    "MaskedAutoencoder",
    "Masking",
    "Pretrained",
    "PretrainedEncoder",
    "preset",
    "random_masking",
]
