"""What a bundle of given networks consists of: each graph's inputs and outputs, the module to export, and the truth.

Letters: N images, H x W pixels, C channels, P patch side, L patches, K patches kept, D width.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from bundle.manifest import GraphName, GraphSpec, TensorSpec
from export.graphs import ClassifierGraph, DecoderGraph, EncoderGraph, HeadGraph
from export.onnx import OPSET
from mae.classifier import Classifier, LinearHead
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder, Normalize, patchify
from mae.pretrained import Pretrained

Reference = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class GraphPlan:
    """`module` is what is exported; `reference`, the network as it was trained, says what it should compute."""

    name: GraphName
    spec: GraphSpec
    graph: Callable[..., nn.Module]
    network: nn.Module
    reference: Reference

    def module(self, *, half: bool = False) -> nn.Module:
        """The graph's module around the trained layers themselves, or around copies of them in half precision.

        Only what a graph computes in changes: its inputs and outputs stay those of `spec`.
        """
        if not half:
            return self.graph(self.network)
        return self.graph(copy.deepcopy(self.network), half=True).half()


def plan_graphs(model: Pretrained, classifier: Classifier | LinearHead | None) -> list[GraphPlan]:
    """The encoder first: its outputs are the others' inputs."""
    plans = [_encoder(model)]
    if isinstance(model, MaskedAutoencoder):
        plans.append(_decoder(model))
    if isinstance(classifier, LinearHead):
        plans.append(_head(classifier))
    elif classifier is not None:
        plans.append(_classifier(classifier))
    return plans


def _encoder(model: Pretrained) -> GraphPlan:
    config = model.config
    normalize = Normalize(config.mean, config.std)

    def reference(images: Tensor, ids_keep: Tensor) -> tuple[Tensor, ...]:
        pixels = normalize(images.permute(0, 3, 1, 2))  # [N, C, H, W]
        latent = model.encoder(patchify(pixels, config.patch_size), ids_keep)  # [N, 1 + K, D]
        return latent[:, 0], latent[:, 1:].mean(dim=1), latent

    outputs = (
        TensorSpec(name="cls", dtype="float32", shape=("N", config.dim)),
        TensorSpec(name="mean", dtype="float32", shape=("N", config.dim)),
        TensorSpec(name="tokens", dtype="float32", shape=("N", "1+K", config.dim)),
    )
    inputs = (_images(config), TensorSpec(name="ids_keep", dtype="int64", shape=("N", "K")))
    return GraphPlan("encoder", _spec("encoder", inputs, outputs), EncoderGraph, model.encoder, reference)


def _decoder(model: MaskedAutoencoder) -> GraphPlan:
    config = model.config

    def reference(tokens: Tensor, ids_restore: Tensor) -> tuple[Tensor, ...]:
        return (model.decoder(tokens, ids_restore),)

    inputs = (
        TensorSpec(name="tokens", dtype="float32", shape=("N", "1+K", config.dim)),
        TensorSpec(name="ids_restore", dtype="int64", shape=("N", config.num_patches)),
    )
    outputs = (TensorSpec(name="patches", dtype="float32", shape=("N", config.num_patches, config.patch_dim)),)
    return GraphPlan("decoder", _spec("decoder", inputs, outputs), DecoderGraph, model.decoder, reference)


def _head(head: LinearHead) -> GraphPlan:
    def reference(*features: Tensor) -> tuple[Tensor, ...]:
        return (head(*features),)

    inputs = tuple(TensorSpec(name=n, dtype="float32", shape=("N", head.config.dim)) for n in head.config.inputs)
    return GraphPlan("head", _spec("head", inputs, (_logits(head.config.num_classes),)), HeadGraph, head, reference)


def _classifier(classifier: Classifier) -> GraphPlan:
    config = classifier.config.encoder
    normalize = Normalize(config.mean, config.std)

    def reference(images: Tensor) -> tuple[Tensor, ...]:
        return (classifier(normalize(images.permute(0, 3, 1, 2))),)

    spec = _spec("classifier", (_images(config),), (_logits(classifier.config.num_classes),))
    return GraphPlan("classifier", spec, ClassifierGraph, classifier, reference)


def _images(config: MAEConfig) -> TensorSpec:
    return TensorSpec(name="images", dtype="uint8", shape=("N", *config.image_size, config.channels))


def _logits(num_classes: int) -> TensorSpec:
    return TensorSpec(name="logits", dtype="float32", shape=("N", num_classes))


def _spec(name: GraphName, inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...]) -> GraphSpec:
    return GraphSpec(files={"fp32": f"{name}.onnx"}, inputs=inputs, outputs=outputs, opset=OPSET)
