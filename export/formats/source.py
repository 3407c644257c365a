"""What the weights' formats are written from: one network, what is known of it, and how its images are prepared."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from bundle.manifest import Preprocess, Size
from export.errors import ExportError
from export.runs import ClassifierRun, PretrainedRun, RunDocument, read_classifier, read_pretrained
from mae.classifier import Classifier, ClassifierConfig, LinearHead
from mae.config import MAEConfig
from mae.foreign import Foreigner
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained, config_of


@dataclass(frozen=True)
class Source:
    """`documents`: of the pre-training, and of the classifier's training where there is one. `labels`: with one."""

    name: str
    network: Foreigner
    labels: tuple[str, ...] | None
    documents: tuple[RunDocument, ...]
    weights_sha256: str  # of the pre-training

    @property
    def config(self) -> MAEConfig:
        return config_of(self.network)

    @property
    def preprocess(self) -> Preprocess:
        """As in the bundle of the same run."""
        config = self.config
        resize: Size = tuple(
            max(sides) for sides in zip(self.documents[0].data.pack_size, config.image_size, strict=True)
        )  # type: ignore[assignment]
        return Preprocess(resize=resize, crop=config.image_size, mean=config.mean, std=config.std)

    @property
    def title(self) -> str:
        """What the network is, in words."""
        config = self.config
        (height, width), decoder = config.image_size, ""
        if isinstance(self.network, Classifier):
            kind = f"A ViT classifier of {self.network.config.num_classes} classes, pre-trained as a Masked Autoencoder"
        elif isinstance(self.network, MaskedAutoencoder):
            kind = "A Masked Autoencoder"
            decoder = f"; decoder {config.decoder_depth} blocks, {config.decoder_dim} wide"
        else:
            kind = "The encoder of a Masked Autoencoder"
        return (
            f"{kind}: images of {height} x {width} pixels and {config.channels} channels, patches of "
            f"{config.patch_size}, {config.depth} blocks, {config.dim} wide, {config.heads} heads{decoder}."
        )


def read_source(run: Path, classifier: Path | None, name: str | None = None) -> Source:
    """The pre-trained network, or the classifier where one is given. `name`: the run's by default.

    ExportError as `export.runs`.
    """
    pretrained = read_pretrained(run)
    name, sha256 = name or pretrained.default_name, pretrained.weights_sha256
    if classifier is None:
        return Source(name, pretrained.model, None, (pretrained.document,), sha256)
    found = read_classifier(classifier, pretrained)
    network = found.network
    if isinstance(network, LinearHead):
        network = _with_head(pretrained, found, network)
    return Source(name, network, found.labels, (pretrained.document, found.document), sha256)


def _with_head(pretrained: PretrainedRun, run: ClassifierRun, head: LinearHead) -> Classifier:
    """The encoder with a linear head on its cls token, which is what a ViT classifier is everywhere.

    A head on the mean of the patches is another network than the one that pools the mean and normalises it then.
    """
    if head.config.inputs != ("cls",):
        raise ExportError(
            f"{run.path} is a linear head on {' and '.join(head.config.inputs)}, for which there is no class in "
            "transformers or timm; give a finetune run or a probe with --features cls, or leave --classifier out"
        )
    config = ClassifierConfig(encoder=pretrained.model.config, num_classes=head.config.num_classes, pooling="cls")
    classifier = Classifier(config)
    with torch.no_grad():
        classifier.encoder.load_state_dict(_encoder_state(pretrained.model))
        classifier.head.load_state_dict(head.linear.state_dict())
    return classifier.eval()


def _encoder_state(model: Pretrained) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = model.encoder.state_dict()
    return state


def provenance(source: Source) -> str:
    """Lines of Markdown: what the network was trained on, and how well it did."""
    lines = []
    for document in source.documents:
        what = {"pretrain": "Pre-trained", "finetune": "Fine-tuned", "probe": "Head trained"}[document.kind]
        commit = f", commit {document.git_commit}" if document.git_commit else ""
        lines.append(
            f"- {what} on {document.data.name}, {document.data.num_images:,} images, {_epochs(document)}{commit}"
        )
        lines += [f"- {name}: {value:.4g}" for name, value in document.figures.items()]
    return "\n".join([*lines, f"- sha256 of the pre-trained weights: `{source.weights_sha256}`"])


def _epochs(document: RunDocument) -> str:
    return f"{document.epochs:g} epochs" if document.epochs else "epochs unknown"
