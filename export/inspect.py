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
import tyro
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from bundle.errors import BundleError
from bundle.manifest import GraphName, GraphSpec, Manifest, Parity, Precision
from bundle.store import audit
from export.flops import graph_flops
from export.inspect_page import show
from runtime.specs import Tensors, check_graph

EXIT_FAULTY = 1
EXIT_USAGE = 2
_REPEATED_BYTES = 4096  # smaller than this, equal arrays are biases of zeros and the like, and cost nothing


@dataclass(frozen=True, kw_only=True)
class InspectConfig:
    """Verify every file of a bundle, and print what is in it."""

    bundle: Annotated[Path, tyro.conf.Positional]
    """The bundle's folder."""
    json: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print one JSON document instead of tables."""


@dataclass(frozen=True)
class GraphFacts:
    """One graph in one precision. `size_bytes`: with the file of its weights, where it has one. `parameters`: numbers
    in its weights and tables. `ops`: how many nodes of each operator, the commonest first. `flops`: of one image.
    """

    graph: GraphName
    precision: Precision
    file: str
    size_bytes: int
    opset: int
    parameters: int
    ops: dict[str, int]
    flops: int
    quantization: str | None
    parity: Parity | None


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

    def document(self) -> dict[str, Any]:
        """As JSON values."""
        graphs = [
            {**asdict(facts), "parity": facts.parity.model_dump() if facts.parity else None} for facts in self.graphs
        ]
        return {
            "path": str(self.path),
            "sound": not self.faults,
            "faults": self.faults,
            "manifest": self.manifest.model_dump(mode="json") if self.manifest else None,
            "graphs": graphs,
            "repeated": [asdict(each) for each in self.repeated],
        }


def inspect(path: Path) -> Inspection:
    """Read all of a bundle and judge it. BundleError if `path` is not a folder; any other fault is a result."""
    if not path.is_dir():
        raise BundleError(f"{path} is not a folder; give the folder of a bundle, as python -m export writes it")
    manifest, faults = audit(path)
    if manifest is None:
        return Inspection(path, None, faults)
    graphs: list[GraphFacts] = []
    arrays: dict[str, list[tuple[int, str]]] = defaultdict(list)  # fingerprint -> (bytes, "file: name") of each
    for name, spec in manifest.graphs.items():
        for precision, file in spec.files.items():
            if not (path / file).is_file():
                continue  # the audit says so
            model, found = _read_graph(path / file, name, spec)
            faults += found
            if model is None:
                continue
            graphs.append(_facts(path, manifest, name, precision, model))
            for fingerprint, size, initializer in _fingerprints(model):
                arrays[fingerprint].append((size, f"{file}: {initializer}"))
    repeated = [Repeated(same[0][0], [place for _, place in same]) for same in arrays.values() if len(same) > 1]
    return Inspection(path, manifest, faults, graphs, sorted(repeated, key=lambda each: -each.size_bytes))


def _read_graph(file: Path, name: GraphName, spec: GraphSpec) -> tuple[onnx.ModelProto | None, list[str]]:
    """The graph, unless it cannot be read, and what is wrong with it."""
    try:
        model = onnx.load(file)
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
        ops=dict(Counter(node.op_type for node in nodes).most_common()),
        flops=graph_flops(manifest, name, manifest.model.num_patches),
        quantization=spec.quantization if precision == "int8" else None,
        parity=manifest.parity.get(f"{name}.{precision}"),
    )


def _weights(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Initializers that hold numbers of the network; 64-bit integers are shapes and indices."""
    return (tensor for tensor in model.graph.initializer if tensor.data_type != onnx.TensorProto.INT64)


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


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__


def main() -> None:
    config = tyro.cli(InspectConfig, prog="python -m export.inspect")
    try:
        found = inspect(config.bundle)
    except BundleError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(EXIT_USAGE)
    if config.json:
        print(json.dumps(found.document(), indent=2, ensure_ascii=False))
    else:
        show(found)
    if found.faults:
        sys.exit(EXIT_FAULTY)


if __name__ == "__main__":
    main()
