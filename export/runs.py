"""Reading training runs, or public weights in their place: what was trained, on what, and how well."""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from bundle.digest import file_sha256
from bundle.errors import BundleError
from bundle.labels import read_labels
from bundle.manifest import LABELS_FILE, MANIFEST_FILE, Size
from export.errors import ExportError
from mae.classifier import Classifier, LinearHead
from mae.foreign import Foreign, is_foreign, read_foreign
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained, PretrainedEncoder
from mae.weights import WEIGHTS_FILE, Network, load_model, weights_bytes

RUN_FILE = "run.json"


class _Data(BaseModel):
    name: str
    num_images: int
    pack_size: Size


class RunDocument(BaseModel):
    """The part of `run.json` that matters here; the rest is training's own."""

    model_config = ConfigDict(extra="ignore")

    kind: Literal["pretrain", "finetune", "probe"]
    data: _Data
    epochs: float = 0
    metrics: dict[str, float | None] = {}
    num_val: int | None = None  # images that the metrics of validation and test are of
    num_test: int | None = None
    git_commit: str | None = None
    init_sha256: str | None = None  # a probe's: of the encoder's weights that it was fitted to

    @property
    def figures(self) -> dict[str, float]:
        """The metrics that are finite, and of how many images they are."""
        counts = {"num_val": self.num_val, "num_test": self.num_test}
        return {n: value for n, value in (self.metrics | counts).items() if value is not None and math.isfinite(value)}


@dataclass(frozen=True)
class PretrainedRun:
    path: Path
    model: Pretrained
    document: RunDocument

    @property
    def default_name(self) -> str:
        """The folder's name, or the file's, with what a bundle's name may not contain replaced."""
        path = self.path.resolve()
        name = path.stem if path.is_file() else path.name
        return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.")[:100] or "bundle"

    @property
    def weights_sha256(self) -> str:
        """Of the weights as a run's folder holds them: those of public ones once they are converted."""
        if is_foreign(self.path):
            return hashlib.sha256(weights_bytes(self.model)).hexdigest()
        return file_sha256(self.path / WEIGHTS_FILE)


@dataclass(frozen=True)
class ClassifierRun:
    """`network`: a whole fine-tuned one, or a linear head for the pre-trained encoder."""

    path: Path
    network: Classifier | LinearHead
    labels: tuple[str, ...]
    document: RunDocument


def read_pretrained(path: Path) -> PretrainedRun:
    """ExportError if `path` is neither a finished pre-training run nor public weights without a head."""
    network, document, _ = _read(path)
    if not isinstance(network, MaskedAutoencoder | PretrainedEncoder) or document.kind != "pretrain":
        raise ExportError(f"{path} is a {document.kind} run; give the pre-training run first, and this as --classifier")
    return PretrainedRun(path, network, document)


def read_classifier(path: Path, pretrained: PretrainedRun) -> ClassifierRun:
    """ExportError if `path` is neither a finished finetune or probe run nor a public classifier, or does not fit."""
    network, document, labels = _read(path)
    if isinstance(network, MaskedAutoencoder | PretrainedEncoder):
        raise ExportError(f"{path} is a pre-training run, which knows no classes; give a finetune or probe run")
    try:
        labels = labels or read_labels(path / LABELS_FILE)
    except BundleError as e:
        raise ExportError(f"{e}; is it the --out of a finished run?") from e
    if len(labels) != network.config.num_classes:
        raise ExportError(f"{path} has {len(labels)} labels for {network.config.num_classes} classes; train it again")
    classifier = ClassifierRun(path, network, labels, document)
    _check_fit(classifier, pretrained)
    return classifier


def _read(path: Path) -> tuple[Network, RunDocument, tuple[str, ...] | None]:
    """The network, what is known of its training, and the labels where public weights bring them."""
    try:
        if is_foreign(path):
            foreign = read_foreign(path)
            return foreign.network, _document_of(foreign), foreign.labels
        document = RunDocument.model_validate_json((path / RUN_FILE).read_bytes())
        return load_model(path), document, None
    except FileNotFoundError as e:
        if (path / MANIFEST_FILE).is_file():
            raise ExportError(f"{path} is a bundle already; --format triton alone takes one, else give the run") from e
        if (path / RUN_FILE).is_file():
            raise ExportError(
                f"{str(e).partition(';')[0]}: that run is not finished; its own command and --resume go on with it"
            ) from e
        if not path.exists():
            raise ExportError(f"there is no folder {path}; give the --out of a finished run") from e
        raise ExportError(f"{path} is not a finished run: it has no {RUN_FILE}") from e
    except ValidationError as e:
        places = ", ".join(".".join(map(str, error["loc"])) or "JSON" for error in e.errors())
        raise ExportError(f"{path / RUN_FILE} is not a training run's: wrong or missing: {places}") from e
    except (ValueError, OSError) as e:
        raise ExportError(str(e)) from e


def _document_of(foreign: Foreign) -> RunDocument:
    """Public weights say nothing of their training."""
    data = _Data(name=f"unknown, of {foreign.path.name}", num_images=0, pack_size=foreign.resize)
    return RunDocument(kind="finetune" if isinstance(foreign.network, Classifier) else "pretrain", data=data)


def _check_fit(classifier: ClassifierRun, pretrained: PretrainedRun) -> None:
    """A head must belong to the very encoder. A fine-tuned network brings its own; it must take the same images."""
    path, network, encoder = classifier.path, classifier.network, pretrained.model.config
    if isinstance(network, LinearHead):
        fitted_to = classifier.document.init_sha256
        if network.config.dim != encoder.dim or fitted_to not in (None, pretrained.weights_sha256):
            raise ExportError(f"{path} is a head for another encoder; give the probe of {pretrained.path} itself")
        return
    own = network.config.encoder
    for name in ("image_size", "patch_size", "channels", "dim", "depth", "heads", "mlp_ratio"):
        if getattr(own, name) != getattr(encoder, name):
            raise ExportError(
                f"{path} has model.{name} {getattr(own, name)}, the pre-training run {getattr(encoder, name)}; "
                f"give a classifier that was fine-tuned from {pretrained.path} itself"
            )
