"""A model repository for Triton's onnxruntime backend: one model per graph, its version 1, and its config.pbtxt.

    NAME-encoder/config.pbtxt, NAME-encoder/1/model.onnx, NAME-decoder/..., README.md

Names begin with the bundle's, so that several repositories can be given to one server. config.pbtxt is text, written
without protobuf, which the export does not need otherwise.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from bundle.manifest import NAME_PATTERN, GraphName, GraphSpec, TensorSpec
from bundle.store import Bundle
from export.errors import ExportError
from export.formats.folder import fresh_folder
from export.formats.options import TritonOptions
from export.formats.triton_readme import readme
from runtime.cores import usable_cores
from runtime.onnx import OnnxRuntime

MODEL_FILE, CONFIG_FILE, LABELS_FILE, README_FILE = "model.onnx", "config.pbtxt", "labels.txt", "README.md"
VERSION = "1"
_TYPES = {"uint8": "TYPE_UINT8", "int64": "TYPE_INT64", "float16": "TYPE_FP16", "float32": "TYPE_FP32"}


def write_repository(
    bundle: Bundle, out: Path, options: TritonOptions, *, name: str | None = None, overwrite: bool = False
) -> str:
    """Write the repository, and say what is in it. `name`: what model names begin with; None is the bundle's.

    BundleError if the bundle has no such precision, or `out` is taken, or the disk does not take it; ExportError for a
    name that no model may have.
    """
    prefix = name or bundle.manifest.name
    if not re.fullmatch(NAME_PATTERN, prefix):
        raise ExportError(f"--name must be 1 to 100 of A-Z a-z 0-9 . _ -, got {prefix!r}")
    models = {graph: f"{prefix}-{graph}" for graph in bundle.manifest.graphs}
    with fresh_folder(out, "triton", overwrite=overwrite, digest=bundle.manifest.digest) as folder:
        for graph, model in models.items():
            _write_model(bundle, graph, folder / model, options)
        (folder / README_FILE).write_text(readme(bundle, models, options), encoding="utf-8")
    return f"{out}: a Triton model repository of {', '.join(models.values())}, on {options.device.upper()}"


def _write_model(bundle: Bundle, graph: GraphName, folder: Path, options: TritonOptions) -> None:
    precision, spec = bundle.nearest(graph, options.precision), bundle.manifest.graphs[graph]
    (folder / VERSION).mkdir(parents=True)
    shutil.copyfile(bundle.graph_file(graph, precision), folder / VERSION / MODEL_FILE)
    if precision in spec.weights:  # the graph names this file, so it keeps its name
        shutil.copyfile(bundle.path / spec.weights[precision], folder / VERSION / spec.weights[precision])
    if bundle.labels is not None and _gives_logits(spec):
        lines = (" ".join(label.split()) for label in bundle.labels)  # a line each, whatever they hold
        (folder / LABELS_FILE).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    (folder / CONFIG_FILE).write_text(model_config(bundle, graph, folder.name, options), encoding="utf-8")


def model_config(bundle: Bundle, graph: GraphName, name: str, options: TritonOptions) -> str:
    """config.pbtxt: the text form of Triton's ModelConfig. N is left out of shapes, and what varies is -1 there."""
    spec, sizes = bundle.manifest.graphs[graph], {"K": bundle.manifest.model.num_patches}
    labels = bundle.labels is not None and _gives_logits(spec)
    parts = [
        f"name: {_quoted(name)}",
        'backend: "onnxruntime"',
        f'default_model_filename: "{MODEL_FILE}"',
        f"max_batch_size: {options.max_batch_size}",
        *(f"input {{\n{_tensor(tensor)}}}" for tensor in spec.inputs),
        *(f"output {{\n{_tensor(tensor, labels=labels and tensor.name == 'logits')}}}" for tensor in spec.outputs),
        "version_policy { latest { num_versions: 1 } }",
        _batching(options),
        f"instance_group {{ count: {instances(options)} kind: KIND_{options.device.upper()} }}",
        _warmup(spec.inputs, sizes),
        *(
            f"parameters {{ key: {_quoted(k)} value {{ string_value: {_quoted(v)} }} }}"
            for k, v in _parameters(bundle, options)
        ),
    ]
    return "\n".join(parts) + "\n"


def instances(options: TritonOptions) -> int:
    """On a CPU one for each core, each with one thread; on a GPU one, which takes batches."""
    return options.instances or (usable_cores() if options.device == "cpu" else 1)


def _tensor(spec: TensorSpec, *, labels: bool = False) -> str:
    dims = ", ".join(str(size) if isinstance(size, int) else "-1" for size in spec.shape[1:])
    text = f'  name: "{spec.name}"\n  data_type: {_TYPES[spec.dtype]}\n  dims: [ {dims} ]\n'
    return text + (f'  label_filename: "{LABELS_FILE}"\n' if labels else "")


def _batching(options: TritonOptions) -> str:
    """On a CPU batches beyond a few images gain nothing, so that many are preferred; a GPU takes what is waiting."""
    preferred = min(OnnxRuntime.max_batch, options.max_batch_size)
    sizes = f"preferred_batch_size: [ {preferred} ] " if options.device == "cpu" else ""
    return f"dynamic_batching {{ {sizes}max_queue_delay_microseconds: {options.max_queue_delay_us} }}"


def _warmup(inputs: Iterable[TensorSpec], sizes: dict[str, int]) -> str:
    """One call on zeros before the model counts as ready: 0 is a pixel and the id of a patch alike."""
    lines = []
    for spec in inputs:
        dims = [size if isinstance(size, int) else sizes["K"] + size.startswith("1+") for size in spec.shape[1:]]
        value = f"data_type: {_TYPES[spec.dtype]} dims: [ {', '.join(map(str, dims))} ] zero_data: true"
        lines.append(f'  inputs {{ key: "{spec.name}" value {{ {value} }} }}\n')
    return f'model_warmup {{\n  name: "zeros"\n  batch_size: 1\n{"".join(lines)}}}'


def _parameters(bundle: Bundle, options: TritonOptions) -> list[tuple[str, str]]:
    """The backend's, and the digest, which it passes by."""
    digest = ("maeve_digest", bundle.manifest.digest)
    if options.device == "gpu":
        return [digest]
    # As runtime.onnx: lanes of one thread, which share a session where the backend can do that (older ones pass it by).
    threads = [("intra_op_thread_count", "1"), ("inter_op_thread_count", "1"), ("execution_mode", "0")]
    return [*threads, ("share_session_between_instances", "true"), digest]


def _gives_logits(spec: GraphSpec) -> bool:
    return any(tensor.name == "logits" for tensor in spec.outputs)


def _quoted(text: str) -> str:
    return json.dumps(text)
