"""The whole export: read the runs, make the variants of each graph, write the bundle."""

from __future__ import annotations

import io
import re
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.cli.version import maeve_version
from bundle.labels import encode_labels
from bundle.manifest import GOLDEN_FILE, LABELS_FILE, NAME_PATTERN, GraphSpec, Pooling, Precision, Preprocess
from bundle.store import Bundle, check_destination, write_bundle
from export.config import ExportConfig
from export.errors import ExportError
from export.images import RealImages, find_images
from export.onnx import GraphFile
from export.plan import GraphPlan, plan_graphs
from export.runs import ClassifierRun, PretrainedRun, read_classifier, read_pretrained
from export.variants import Material, Variant, make_float, make_int8, make_kept_in_half
from export.verify import Case, golden_arrays, image_inputs, make_cases, make_image_cases
from mae.classifier import LinearHead
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained

Progress = Callable[[str], None]
_FEW = 32
_COMPARED, _CALIBRATING = 64, 64  # real images, of up to 256: more change no figure by what matters, and take minutes


def export_run(config: ExportConfig, progress: Progress = lambda _: None) -> Bundle:
    """Write the bundle and return it, verified. `progress` is told one line per step.

    ExportError for runs or images that cannot be used and for a temporary folder that is full, BundleError for an `out`
    that cannot be written, ParityError where ONNX Runtime differs from torch; in each case nothing is left at `out`.
    """
    if config.name is not None and not re.fullmatch(NAME_PATTERN, config.name):
        raise ExportError(f"--name must be 1 to 100 of A-Z a-z 0-9 . _ -, got {config.name!r}")
    precisions = config.precisions
    if config.int8 != "auto" and "int8" not in precisions:
        flag = "--triton.precision" if config.format == "triton" else "--precision"
        raise ExportError(f"--int8 {config.int8} goes with int8 in {flag}, which is {config.precision}")
    check_destination(config.out, overwrite=config.overwrite)  # now, rather than after the work
    run = read_pretrained(config.run)
    classifier = None if config.classifier is None else read_classifier(config.classifier, run)
    plans = plan_graphs(run.model, None if classifier is None else classifier.network)
    fields = _manifest_fields(config, run, classifier)
    images = find_images(config.images, config.run, Preprocess.model_validate(fields["preprocess"]))
    say = _timed(progress)
    _say_images(images, precisions, config, say)
    try:
        with tempfile.TemporaryDirectory(prefix="maeve-export-") as folder:
            material = _material(run, plans, images, fields, Path(folder), say)
            variants = _make_variants(material, precisions, config)
            files = _golden(plans, material.cases[0]) | _graph_files(variants)
            if classifier is not None:
                files[LABELS_FILE] = encode_labels(classifier.labels)
            graphs = {plan.name: _spec(plan, variants) for plan in plans}
            parity = {f"{name}.{v.precision}": found for v in variants for name, found in v.parity.items()}
            fields |= {"graphs": graphs, "parity": parity}
            return write_bundle(config.out, fields, files, overwrite=config.overwrite)
    except OSError as e:
        place = tempfile.gettempdir()
        raise ExportError(f"cannot write to {place}: {e.strerror or e}; make room, or set TMPDIR to a place") from e


def _timed(progress: Progress) -> Progress:
    start = time.monotonic()
    return lambda line: progress(f"{time.monotonic() - start:6.1f} s  {line}")


def _say_images(
    images: RealImages | None, precisions: Sequence[Precision], config: ExportConfig, say: Progress
) -> None:
    if images is not None:
        unreadable = f", {images.num_unreadable} more cannot be read" if images.num_unreadable else ""
        say(f"{len(images.pixels)} real images from {images.source}{unreadable}")
        if len(images.pixels) < _FEW and "int8" in precisions:
            say("int8: these are few images to judge it by; give more with --images")
    elif config.int8 != "auto" and "int8" in precisions:
        raise ExportError(f"--int8 {config.int8} needs real images, which {config.run} has not left; give --images")
    elif "int8" in precisions:
        say(f"int8: left out, since {config.run} has left no real images to hold it against; give --images")


def _material(
    run: PretrainedRun,
    plans: Sequence[GraphPlan],
    images: RealImages | None,
    fields: Mapping[str, Any],
    folder: Path,
    say: Progress,
) -> Material:
    """Of the images, every other one is compared on and the rest calibrates; a single one does both."""
    model = run.model.config
    pixels = np.empty((0, *model.image_size, model.channels), np.uint8) if images is None else images.pixels
    compared, calibrating = pixels[::2][:_COMPARED], (pixels[1::2] if len(pixels) > 1 else pixels)[:_CALIBRATING]

    def draft(name: str, spec: GraphSpec, files: Iterable[GraphFile]) -> Bundle:
        own = {"graphs": {"encoder": spec}, "num_classes": None, "parity": {}}
        contents = {name: path for file in files for name, path in file.files.items()}
        return write_bundle(folder / f"draft-{name}", {**fields, **own}, contents)

    if len(compared):
        say(f"torch: what it makes of {len(compared)} of the images")
    return Material(
        plans=plans,
        cases=make_cases(model, plans[0]),
        image_cases=make_image_cases(plans, compared, model.num_patches),
        calibration=list(image_inputs(calibrating, model.num_patches)),
        folder=folder,
        draft=draft,
        progress=say,
    )


def _make_variants(material: Material, precisions: Sequence[Precision], config: ExportConfig) -> list[Variant]:
    """int8 is made of the weights as they were trained, however the fp32 graphs keep them."""
    fp32 = make_float(material, "fp32")
    kept = fp32 if config.storage == "full" else make_kept_in_half(material, fp32)
    variants = [kept]
    if "fp16" in precisions:
        variants.append(make_float(material, "fp16"))
    if "int8" in precisions and material.image_cases:
        quantized = make_int8(material, fp32, config.int8, beside=kept)
        variants += [] if quantized is None else [quantized]
    return variants


def _graph_files(variants: Sequence[Variant]) -> dict[str, Path | bytes]:
    return {name: path for variant in variants for file in variant.files.values() for name, path in file.files.items()}


def _spec(plan: GraphPlan, variants: Sequence[Variant]) -> GraphSpec:
    """The plan's, with the files that came of it."""
    files = {variant.precision: variant.files[plan.name] for variant in variants if plan.name in variant.files}
    kinds = {variant.precision: variant.quantization for variant in variants}
    return GraphSpec(
        files={precision: file.path.name for precision, file in files.items()},
        weights={precision: file.weights.name for precision, file in files.items() if file.weights is not None},
        inputs=plan.spec.inputs,
        outputs=plan.spec.outputs,
        opset=plan.spec.opset,
        quantization=kinds["int8"] if "int8" in files else None,
    )


def _golden(plans: Sequence[GraphPlan], case: Case) -> dict[str, Path | bytes]:
    return {GOLDEN_FILE: _npz(golden_arrays(plans, case))}


def _manifest_fields(config: ExportConfig, run: PretrainedRun, classifier: ClassifierRun | None) -> dict[str, Any]:
    """All but what the graphs decide."""
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
        "num_classes": None if classifier is None else classifier.network.config.num_classes,
        "provenance": {
            "dataset": data.name,
            "num_images": data.num_images,
            "epochs": run.document.epochs,
            "metrics": run.document.figures | ({} if classifier is None else classifier.document.figures),
            "git_commit": run.document.git_commit,
            "maeve_version": maeve_version(),
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


def _npz(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()
