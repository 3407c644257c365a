"""The whole export: read the runs, export each graph, hold it against torch, write the bundle."""

from __future__ import annotations

import importlib.metadata
import io
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from numpy.typing import NDArray

from bundle.labels import encode_labels
from bundle.manifest import GOLDEN_FILE, LABELS_FILE, NAME_PATTERN, Parity, Pooling
from bundle.store import Bundle, check_destination, write_bundle
from export.errors import ExportError
from export.formats.options import Format, TritonOptions
from export.onnx import to_onnx
from export.plan import GraphPlan, plan_graphs
from export.runs import ClassifierRun, PretrainedRun, read_classifier, read_pretrained
from export.verify import golden_arrays, make_cases, verify
from mae.classifier import LinearHead
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained

Progress = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class ExportConfig:
    """Export a pre-trained network, and a classifier with it, as a bundle that the service can serve."""

    run: Annotated[Path, tyro.conf.Positional]
    """The --out of training.pretrain, or public weights: FAIR's, timm's or Hugging Face's; for triton also a bundle."""
    out: Path
    """The folder to be made."""
    format: Format = "bundle"
    """A bundle, a Triton model repository, or weights for transformers (hf) or timm."""
    classifier: Path | None = None
    """The --out of training.finetune or training.probe, begun from the same run, or public weights with a head."""
    name: str | None = None
    """The bundle's name. Default: the run folder's."""
    pooling: Pooling | None = None
    """What /embed gives when nothing else is asked for. Default: what the classifier pools, else mean."""
    overwrite: bool = False
    """Replace what an earlier export wrote to --out."""
    triton: TritonOptions = field(default_factory=TritonOptions)
    """For --format triton."""


def export_run(config: ExportConfig, progress: Progress = lambda _: None) -> Bundle:
    """Write the bundle and return it, verified. `progress` is told one line per step.

    ExportError for runs that cannot be exported, BundleError for an `out` that cannot be written, ParityError where
    ONNX Runtime differs from torch; in each case nothing is left at `out`.
    """
    if config.name is not None and not re.fullmatch(NAME_PATTERN, config.name):
        raise ExportError(f"--name must be 1 to 100 of A-Z a-z 0-9 . _ -, got {config.name!r}")
    check_destination(config.out, overwrite=config.overwrite)  # now, rather than after the work
    run = read_pretrained(config.run)
    classifier = None if config.classifier is None else read_classifier(config.classifier, run)
    plans = plan_graphs(run.model, None if classifier is None else classifier.network)
    cases = make_cases(run.model.config, plans[0])
    files: dict[str, Path | bytes] = {}
    parity: dict[str, Parity] = {}
    for plan in plans:
        progress(f"{plan.name}: exporting")
        model = to_onnx(plan.module, [cases[0][tensor.name] for tensor in plan.spec.inputs], plan.spec)
        parity[f"{plan.name}.fp32"] = found = verify(plan, model, cases)
        progress(f"{plan.name}: {len(model) / 1e6:.1f} MB, within {found.max_abs:.1e} of torch")
        files[plan.spec.files["fp32"]] = model
    files[GOLDEN_FILE] = _npz(golden_arrays(plans, cases[0]))
    if classifier is not None:
        files[LABELS_FILE] = encode_labels(classifier.labels)
    fields = _manifest_fields(config, run, classifier, plans)
    return write_bundle(config.out, {**fields, "parity": parity}, files, overwrite=config.overwrite)


def _manifest_fields(
    config: ExportConfig, run: PretrainedRun, classifier: ClassifierRun | None, plans: list[GraphPlan]
) -> dict[str, Any]:
    model = run.model.config
    data = run.document.data
    return {
        "name": config.name or run.default_name,
        "model": _model_fields(run.model),
        "pixel_target": model.target,
        "preprocess": {
            # The set may have been packed smaller than the network's input; to cover the input comes first.
            "resize": tuple(max(sides) for sides in zip(data.pack_size, model.image_size, strict=True)),
            "crop": model.image_size,
            "mean": model.mean,
            "std": model.std,
        },
        "pooling": config.pooling or _pooling(classifier),
        "graphs": {plan.name: plan.spec for plan in plans},
        "num_classes": None if classifier is None else classifier.network.config.num_classes,
        "provenance": {
            "dataset": data.name,
            "num_images": data.num_images,
            "epochs": run.document.epochs,
            "metrics": run.document.finite_metrics | ({} if classifier is None else classifier.document.finite_metrics),
            "git_commit": run.document.git_commit,
            "maeve_version": _version(),
        },
    }


def _model_fields(model: Pretrained) -> dict[str, Any]:
    config = model.config
    names = ("image_size", "patch_size", "channels", "dim", "depth", "heads", "mlp_ratio")
    decoder = {"dim": config.decoder_dim, "depth": config.decoder_depth, "heads": config.decoder_heads}
    has_decoder = isinstance(model, MaskedAutoencoder)
    return {**{name: getattr(config, name) for name in names}, "decoder": decoder if has_decoder else None}


def _pooling(classifier: ClassifierRun | None) -> Pooling:
    if classifier is None:
        return "mean"
    network = classifier.network
    if isinstance(network, LinearHead):
        return network.config.inputs[0] if len(network.config.inputs) == 1 else "mean"
    return network.config.pooling


def _version() -> str:
    try:
        return importlib.metadata.version("maeve")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
