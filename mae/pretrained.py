"""A pre-trained encoder whose decoder is not there, as most published weights are."""

from __future__ import annotations

from torch import Tensor, nn

from mae.classifier import Classifier
from mae.config import MAEConfig
from mae.model import Encoder, MaskedAutoencoder


class PretrainedEncoder(nn.Module):
    """`config` and `encoder` are as a MaskedAutoencoder has them; what `config` says of a decoder means nothing."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)

    def forward(self, patches: Tensor, ids_keep: Tensor | None = None) -> Tensor:
        """As `Encoder`: f32 [N, L, P*P*C], i64 [N, K] or None for all -> latent [N, 1 + K, D]."""
        return self.encoder(patches, ids_keep)  # type: ignore[no-any-return]


Pretrained = MaskedAutoencoder | PretrainedEncoder


def config_of(network: Pretrained | Classifier) -> MAEConfig:
    """A classifier's is its encoder's."""
    return network.config.encoder if isinstance(network, Classifier) else network.config
