"""The Masked Autoencoder network (He et al. 2021, https://arxiv.org/abs/2111.06377) and nothing else."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
_HOMES = ("config", "masking", "model", "pretrained", "classifier")


def __getattr__(name: str) -> Any:
    """A name of `__all__`, imported when it is first asked for: torch takes seconds, and mae.config does without."""
    if name in __all__:
        for home in _HOMES:
            module = import_module(f"mae.{home}")
            if name in vars(module):
                return vars(module)[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
