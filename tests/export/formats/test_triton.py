"""A Triton model repository: config.pbtxt parsed by Triton's own schema, and the models that it names, run."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from google.protobuf import text_format
from numpy.typing import NDArray
from tritonclient.grpc import model_config_pb2 as pb

from bundle.errors import BundleError
from bundle.manifest import GraphName, Precision
from bundle.store import Bundle, write_bundle
from export.errors import ExportError
from export.formats.options import TritonOptions
from export.formats.triton import write_repository
from runtime.cores import usable_cores
from tests.conftest import LABELS

NUMPY = {pb.TYPE_UINT8: "uint8", pb.TYPE_INT64: "int64", pb.TYPE_FP32: "float32", pb.TYPE_FP16: "float16"}
ORT = {"uint8": "tensor(uint8)", "int64": "tensor(int64)", "float32": "tensor(float)", "float16": "tensor(float16)"}
GRAPHS: tuple[GraphName, ...] = ("encoder", "decoder", "head")


@pytest.fixture(scope="module")
def repository(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("triton") / "repository"
    write_repository(tiny_bundle, out, TritonOptions(instances=3))
    return out


def parsed(model: Path) -> Any:
    """By the schema that the server itself has; an unknown field or enum is an error."""
    return text_format.Parse((model / "config.pbtxt").read_text(), pb.ModelConfig())


def session(model: Path) -> ort.InferenceSession:
    return ort.InferenceSession(str(model / "1" / parsed(model).default_model_filename))


def test_a_repository_holds_a_model_for_each_graph(repository: Path) -> None:
    files = sorted(path.relative_to(repository).as_posix() for path in repository.rglob("*") if path.is_file())
    assert files == [
        "README.md", "maeve.json",
        "tiny-decoder/1/model.onnx", "tiny-decoder/config.pbtxt",
        "tiny-encoder/1/model.onnx", "tiny-encoder/config.pbtxt",
        "tiny-head/1/model.onnx", "tiny-head/config.pbtxt", "tiny-head/labels.txt",
    ]  # fmt: skip
    assert (repository / "tiny-head" / "labels.txt").read_text().splitlines() == list(LABELS)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_config_says_what_manifest_and_graph_say(repository: Path, tiny_bundle: Bundle, graph: GraphName) -> None:
    model = repository / f"tiny-{graph}"
    config, spec, loaded = parsed(model), tiny_bundle.manifest.graphs[graph], session(model)
    assert (config.name, config.backend, config.max_batch_size) == (f"tiny-{graph}", "onnxruntime", 64)
    for side, specs, actual in (
        (config.input, spec.inputs, loaded.get_inputs()),
        (config.output, spec.outputs, loaded.get_outputs()),
    ):
        assert [tensor.name for tensor in side] == [tensor.name for tensor in specs] == [node.name for node in actual]
        for tensor, own, node in zip(side, specs, actual, strict=True):
            assert NUMPY[tensor.data_type] == own.dtype
            assert ORT[own.dtype] == node.type
            assert isinstance(node.shape[0], str)  # the batch, which Triton adds itself
            assert list(tensor.dims) == [size if isinstance(size, int) else -1 for size in node.shape[1:]]
            assert getattr(tensor, "label_filename", "") == ("labels.txt" if tensor.name == "logits" else "")


def test_on_a_cpu_there_is_an_instance_of_one_thread_for_each_core(repository: Path, tiny_bundle: Bundle) -> None:
    config = parsed(repository / "tiny-encoder")
    (group,) = config.instance_group
    assert (group.kind, group.count) == (pb.ModelInstanceGroup.KIND_CPU, 3)
    assert config.parameters["intra_op_thread_count"].string_value == "1"
    assert config.parameters["maeve_digest"].string_value == tiny_bundle.manifest.digest
    assert list(config.dynamic_batching.preferred_batch_size) == [4]
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.version_policy.latest.num_versions == 1


def test_on_a_gpu_batches_are_as_large_as_they_come(tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = TritonOptions(device="gpu", max_batch_size=128, max_queue_delay_us=500)
    write_repository(tiny_bundle, tmp_path / "r", options, name="b")
    config = parsed(tmp_path / "r" / "b-encoder")
    (group,) = config.instance_group
    assert (group.kind, group.count, list(group.gpus)) == (pb.ModelInstanceGroup.KIND_GPU, 1, [])
    assert (config.max_batch_size, config.dynamic_batching.max_queue_delay_microseconds) == (128, 500)
    assert list(config.dynamic_batching.preferred_batch_size) == []
    assert "intra_op_thread_count" not in config.parameters


def test_by_default_there_are_as_many_instances_as_cores(tiny_bundle: Bundle, tmp_path: Path) -> None:
    write_repository(tiny_bundle, tmp_path / "r", TritonOptions(max_batch_size=2))
    config = parsed(tmp_path / "r" / "tiny-encoder")
    assert config.instance_group[0].count == usable_cores()
    assert list(config.dynamic_batching.preferred_batch_size) == [2]  # Triton refuses one above max_batch_size


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_models_compute_what_torch_computed(repository: Path, tiny_bundle: Bundle, graph: GraphName) -> None:
    golden, model = tiny_bundle.golden(), session(repository / f"tiny-{graph}")
    inputs = {node.name: golden[f"{graph}.in.{node.name}"] for node in model.get_inputs()}
    names = [node.name for node in model.get_outputs()]
    for name, value in zip(names, model.run(names, inputs), strict=True):
        np.testing.assert_allclose(value, golden[f"{graph}.out.{name}"], atol=1e-4)


@pytest.mark.parametrize("graph", GRAPHS)
def test_the_warm_up_call_is_one_that_the_model_takes(repository: Path, graph: GraphName) -> None:
    """Triton does not call a model ready whose warm-up fails."""
    model = repository / f"tiny-{graph}"
    (sample,) = parsed(model).model_warmup
    inputs = {
        name: np.zeros((sample.batch_size, *tensor.dims), NUMPY[tensor.data_type])
        for name, tensor in sample.inputs.items()
        if tensor.zero_data
    }
    assert all(np.isfinite(output).all() for output in session(model).run(None, inputs))


def test_the_readme_s_lines_make_a_plain_embedding(repository: Path, tiny_bundle: Bundle) -> None:
    text = (repository / "README.md").read_text()
    assert tiny_bundle.manifest.digest in text
    assert "covers 36 x 36 pixels" in text
    assert "cut 32 x 32 from its centre" in text
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    made: dict[str, Any] = {}
    exec(block, made)  # noqa: S102 - our own lines
    (mean,) = session(repository / "tiny-encoder").run(
        ["mean"], {"images": made["images"], "ids_keep": made["ids_keep"]}
    )
    assert mean.shape == (1, 32)
    assert sorted(made["ids_keep"][0]) == list(range(16))


def test_no_more_than_the_models_of_an_encoder_alone(tiny_bundle: Bundle, tmp_path: Path) -> None:
    bundle = smaller(tiny_bundle, tmp_path / "bundle", "encoder", {})
    write_repository(bundle, tmp_path / "r", TritonOptions())
    assert sorted(path.name for path in (tmp_path / "r").iterdir()) == ["README.md", "maeve.json", "tiny-encoder"]
    assert "decoder" not in (tmp_path / "r" / "README.md").read_text()


def test_each_graph_comes_in_the_precision_nearest_to_the_one_asked_for(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """An encoder in fp16 and fp32, whose weights lie in a file of their own that the graph names."""
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    model.producer_name = "half"
    onnx.save(model, tmp_path / "half.onnx", save_as_external_data=True, location="half.weights")
    fields = tiny_bundle.manifest.model_dump(exclude={"files", "digest"})
    fields["graphs"]["encoder"] |= {
        "files": {"fp32": "encoder.onnx", "fp16": "half.onnx"},
        "weights": {"fp16": "half.weights"},
    }
    files: dict[str, Path | bytes] = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    files |= {name: tmp_path / name for name in ("half.onnx", "half.weights")}
    bundle = write_bundle(tmp_path / "bundle", fields, files)
    write_repository(bundle, tmp_path / "r", TritonOptions(precision="fp16"))
    written = tmp_path / "r" / "tiny-encoder" / "1"
    assert sorted(path.name for path in written.iterdir()) == ["half.weights", "model.onnx"]
    assert onnx.load(written / "model.onnx", load_external_data=False).producer_name == "half"
    assert golden_mean(tmp_path / "r" / "tiny-encoder", bundle).shape == (2, 32)  # it finds its weights there
    assert (tmp_path / "r" / "tiny-head" / "1" / "model.onnx").read_bytes() == bundle.graph_file("head").read_bytes()
    assert "| `tiny-encoder` | fp16 |" in (tmp_path / "r" / "README.md").read_text()


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_precision_that_the_bundle_lacks_leaves_nothing(
    tiny_bundle: Bundle, tmp_path: Path, precision: Precision
) -> None:
    with pytest.raises(BundleError, match=f"no {precision} encoder graph; there are fp32"):
        write_repository(tiny_bundle, tmp_path / "r", TritonOptions(precision=precision))
    assert list(tmp_path.iterdir()) == []


def test_a_label_of_several_lines_stays_one_label(tiny_bundle: Bundle, tmp_path: Path) -> None:
    labels = b'["a\\nb", " c ", "d", "e", "f"]'
    bundle = smaller(tiny_bundle, tmp_path / "bundle", "head", {"labels.json": labels})
    write_repository(bundle, tmp_path / "r", TritonOptions())
    assert (tmp_path / "r" / "tiny-head" / "labels.txt").read_text() == "a b\nc\nd\ne\nf\n"


def test_a_name_that_could_leave_the_folder_is_refused(tiny_bundle: Bundle, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--name must be 1 to 100 of A-Z a-z 0-9 . _ -, got '../x'"):
        write_repository(tiny_bundle, tmp_path / "r", TritonOptions(), name="../x")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: TritonOptions(instances=0), "--triton.instances must be at least 1, got 0"),
        (lambda: TritonOptions(max_batch_size=0), "--triton.max-batch-size must be at least 1, got 0"),
        (lambda: TritonOptions(max_queue_delay_us=-1), "--triton.max-queue-delay-us must be at least 0, got -1"),
    ],
)
def test_options_that_triton_would_refuse(make: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def smaller(bundle: Bundle, out: Path, last: GraphName, files: dict[str, bytes]) -> Bundle:
    """The bundle's encoder and the graph `last`, and `files` in place of its own."""
    fields = bundle.manifest.model_dump(exclude={"files", "digest"})
    fields["graphs"] = {name: spec for name, spec in fields["graphs"].items() if name in ("encoder", last)}
    kept = {name: bundle.path / name for name in ("encoder.onnx", "golden.npz", "labels.json", f"{last}.onnx")}
    if last == "encoder":
        fields["num_classes"] = None
        del kept["labels.json"]
    return write_bundle(out, fields, {**kept, **files})


def golden_mean(model: Path, bundle: Bundle) -> NDArray[np.float32]:
    golden = bundle.golden()
    inputs = {name: golden[f"encoder.in.{name}"] for name in ("images", "ids_keep")}
    (mean,) = session(model).run(["mean"], inputs)
    np.testing.assert_allclose(mean, golden["encoder.out.mean"], atol=1e-4)
    return np.asarray(mean)
