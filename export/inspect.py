"""python -m export.inspect BUNDLE [--json]: is every file as it was written, and what is in it?"""

from __future__ import annotations

import hashlib
import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from bundle.arrays import read_npz
from bundle.cli.command import Command
from bundle.cli.ending import BAD_RESULT
from bundle.cli.flags import Positional
from bundle.errors import BundleError
from bundle.golden import golden_faults
from bundle.manifest import GOLDEN_FILE, GraphName, GraphSpec, Manifest, Parity, Precision
from bundle.store import audit
from export.errors import run_command
from export.external import external_files
from export.flops import graph_flops
from export.inspect_page import show
from runtime.specs import Tensors, check_graph

_DTYPES: dict[int, str] = {
    onnx.TensorProto.FLOAT: "float32", onnx.TensorProto.FLOAT16: "float16", onnx.TensorProto.INT8: "int8",
}  # fmt: skip
_REPEATED_BYTES = 4096  # smaller than this, equal arrays are biases of zeros and the like, and cost nothing


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Verify every file of a bundle, and print what is in it."""

    bundle: Annotated[Path, Positional("BUNDLE")]
    """The bundle's folder."""
    json: bool = False
    """Print one JSON document instead of tables."""


COMMAND = Command(
    config=InspectConfig,
    module="export.inspect",
    examples=(
        "python -m export.inspect models/default",
        "python -m export.inspect models/default --json > inspection.json",
    ),
    page="docs/export.md",
    statuses={1: "there are faults; do not serve it"},
)


@dataclass(frozen=True)
class GraphFacts:
    """One graph in one precision. `size_bytes`: with the file of its weights, where it has one. `parameters`: numbers
    in its weights and tables. `kept_in`: what most of them are on disk. `ops`: how many nodes of each operator, the
    commonest first. `flops`: of one image.
    """

    graph: GraphName
    precision: Precision
    file: str
    size_bytes: int
    opset: int
    parameters: int
    kept_in: str
    ops: dict[str, int]
    flops: int
    quantization: str | None


@dataclass(frozen=True)
class Repeated:
    """The same array, `size_bytes` large, under several names: "file: name"."""

    size_bytes: int
    places: list[str]


@dataclass(frozen=True)
class Inspection:
    """`faults`: all that is wrong, in words; empty for a sound bundle. `manifest`: None where it cannot be read."""

    path: Path
    manifest: Manifest | None
    faults: list[str]
    graphs: list[GraphFacts] = field(default_factory=list)
    repeated: list[Repeated] = field(default_factory=list)

    @property
    def parity(self) -> dict[str, Parity | None]:
        """By "<graph>.<precision>": of every graph, None where the manifest has none, then what else it has: a graph
        that comes in fp32 alone has a row for int8 too, of what it makes there of the int8 encoder's outputs.
        """
        known = dict(self.manifest.parity) if self.manifest else {}
        return {key: known.get(key) for key in (f"{g.graph}.{g.precision}" for g in self.graphs)} | known

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "path": str(self.path),
            "sound": not self.faults,
            "faults": self.faults,
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
            "graphs": [asdict(facts) for facts in self.graphs],
            "parity": {key: parity.model_dump() if parity else None for key, parity in self.parity.items()},
            "repeated": [asdict(each) for each in self.repeated],
        }


def inspect(path: Path) -> Inspection:
    """Read all of a bundle and judge it. BundleError if `path` is not a folder; any other fault is a result."""
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder; give the folder of a bundle, as python -m export writes it")
    manifest, faults = audit(path)
    if manifest is None:
        return Inspection(path, None, faults)
    faults += _golden_faults(path, manifest)
    graphs: list[GraphFacts] = []
    arrays: dict[str, list[tuple[int, str]]] = defaultdict(list)  # fingerprint -> (bytes, "file: name") of each
    for name, spec in manifest.graphs.items():
        for precision, file in spec.files.items():
            if not (path / file).is_file():
                continue  # the audit says so
            model, found = _read_graph(path / file, name, spec, precision)
            faults += found
            if model is None:
                continue
            graphs.append(_facts(path, manifest, name, precision, model))
            try:
                for fingerprint, size, initializer in _fingerprints(model):
                    arrays[fingerprint].append((size, f"{file}: {initializer}"))
            except (ValueError, TypeError) as e:
                faults.append(f"{file} has an array that cannot be read: {_one_line(e)}")
    repeated = [Repeated(same[0][0], [place for _, place in same]) for same in arrays.values() if len(same) > 1]
    return Inspection(path, manifest, faults, graphs, sorted(repeated, key=lambda each: -each.size_bytes))


def _golden_faults(path: Path, manifest: Manifest) -> list[str]:
    file = path / GOLDEN_FILE
    if GOLDEN_FILE not in manifest.files or not file.is_file():  # the audit says so
        return []
    try:
        return [f"{GOLDEN_FILE}: {fault}" for fault in golden_faults(read_npz(file), manifest)]
    except ValueError as e:
        return [f"{GOLDEN_FILE} cannot be read: {_one_line(e)}"]


def _read_graph(
    file: Path, name: GraphName, spec: GraphSpec, precision: Precision
) -> tuple[onnx.ModelProto | None, list[str]]:
    """The graph, unless it cannot be read, and what is wrong with it."""
    weights = {spec.weights[precision]} if precision in spec.weights else set()
    try:
        model = onnx.load(file, load_external_data=False)
        external = external_files(model)
        if external != weights:  # what they hold was not checked, and may be any file of this machine
            return None, [f"{file.name} has weights in {_files(external)}, the manifest says {_files(weights)}"]
        onnx.load_external_data_for_model(model, str(file.parent))
    except (DecodeError, OSError, ValueError, onnx.checker.ValidationError) as e:
        return None, [f"{file.name} is no ONNX graph that can be read: {_one_line(e)}"]
    faults = []
    try:
        onnx.checker.check_model(str(file), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as e:
        faults.append(f"{file.name} is not valid ONNX: {_one_line(e)}")
    try:
        check_graph(f"{name} ({file.name})", spec, _tensors(model.graph.input), _tensors(model.graph.output))
    except BundleError as e:
        faults.append(str(e))
    if _opset(model) != spec.opset:
        faults.append(f"{file.name} is of opset {_opset(model)}, the manifest says {spec.opset}")
    return model, faults


def _facts(path: Path, manifest: Manifest, name: GraphName, precision: Precision, model: onnx.ModelProto) -> GraphFacts:
    spec = manifest.graphs[name]
    file, weights = spec.files[precision], spec.weights.get(precision)
    files = [path / file] + ([path / weights] if weights else [])
    nodes = (node for nodes in (model.graph.node, *(f.node for f in model.functions)) for node in nodes)
    return GraphFacts(
        graph=name,
        precision=precision,
        file=file,
        size_bytes=sum(each.stat().st_size for each in files),
        opset=_opset(model),
        parameters=sum(int(np.prod(tensor.dims)) for tensor in _weights(model)),
        kept_in=_kept_in(model),
        ops=dict(Counter(node.op_type for node in nodes).most_common()),
        flops=graph_flops(manifest, name, manifest.model.num_patches),
        quantization=spec.quantization if precision == "int8" else None,
    )


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers that hold numbers of the network; 64-bit integers are shapes and indices."""
    return (tensor for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.INT64)


def _kept_in(model: onnx.ModelProto) -> str:
    numbers: Counter[int] = Counter()
    for tensor in _weights(model):
        numbers[tensor.data_type] += int(np.prod(tensor.dims))
    return _DTYPES.get(next((kind for kind, _ in numbers.most_common(1)), 0), "")


def _fingerprints(model: onnx.ModelProto) -> Iterator[tuple[str, int, str]]:
    """(what equal arrays share, bytes, name) of every large initializer."""
    for tensor in model.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if array.nbytes >= _REPEATED_BYTES:
            content = hashlib.sha256(array.tobytes()).hexdigest()
            yield f"{array.dtype} {array.shape} {content}", array.nbytes, tensor.name


def _tensors(values: Iterable[onnx.ValueInfoProto]) -> Tensors:
    found = {}
    for value in values:
        kind = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim)
        known = kind.elem_type != onnx.TensorProto.UNDEFINED
        found[value.name] = (onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name if known else "unknown", shape)
    return found


def _opset(model: onnx.ModelProto) -> int:
    return next((each.version for each in model.opset_import if each.domain in ("", "ai.onnx")), 0)


def _files(names: set[str]) -> str:
    return ", ".join(map(repr, sorted(names))) or "no other file"


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main() -> None:
    run_command(_inspect)


def _inspect() -> None:
    config = COMMAND.parse()
    found = inspect(config.bundle)
    if config.json:
        print(json.dumps(found.document(), indent=2, ensure_ascii=False))
    else:
        show(found)
    if found.faults:
        sys.exit(BAD_RESULT)


if __name__ == "__main__":
    main()
