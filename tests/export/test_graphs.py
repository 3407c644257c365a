"""The graphs as engines see them: their operators, their free axes, and what half precision leaves of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from bundle.manifest import GraphName
from bundle.store import Bundle
from export.blocks import SpelledBlock, take_rows
from export.graphs import PixelEmbed
from export.onnx import GraphFile, write_onnx
from export.plan import GraphPlan, plan_graphs
from export.verify import references, runner, sample_images
from mae import Classifier, ClassifierConfig, MAEConfig, MaskedAutoencoder
from mae.layers import Block
from runtime.base import Arrays

# Two blocks. What is not there: Shape, Range, Expand, Squeeze, ConstantOfShape, Where, Erf, Sqrt, ...
ENCODER_OPS = {
    "MatMul": 1 + 2 * 6, "Add": 2 + 2 * 6, "LayerNormalization": 2 * 2 + 1, "Gelu": 2, "Softmax": 2,
    "Split": 2, "Reshape": 2 + 2 * 4, "Transpose": 1 + 2 * 4,
    "Cast": 1, "Unsqueeze": 1, "GatherND": 1, "Pad": 1,  # pixels
    "Slice": 1 + 1, "Mul": 1, "Concat": 1, "Gather": 1 + 1, "ReduceMean": 1,  # positions; cls, mean
}  # fmt: skip

IN_HALF: tuple[GraphName, ...] = ("encoder", "classifier")


@pytest.fixture(scope="module")
def wide() -> MAEConfig:
    """Every axis has a size of its own, so that none can stand for another."""
    return MAEConfig(
        image_size=(24, 40), patch_size=8, channels=1, dim=16, depth=2, heads=2, mlp_ratio=2.5, decoder_dim=8,
        decoder_depth=1, decoder_heads=1, target="raw", mean=(0.3,), std=(0.1,),
    )  # fmt: skip


@pytest.fixture(scope="module")
def plans(wide: MAEConfig) -> dict[GraphName, GraphPlan]:
    torch.manual_seed(1)
    classifier = Classifier(ClassifierConfig(encoder=wide, num_classes=3))
    torch.nn.init.normal_(classifier.head.weight)
    return {plan.name: plan for plan in plan_graphs(MaskedAutoencoder(wide).eval(), classifier.eval())}


@pytest.fixture(scope="module")
def files(plans: dict[GraphName, GraphPlan], wide: MAEConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every graph, traced on two images and five patches."""
    folder, case = tmp_path_factory.mktemp("graphs"), inputs(wide, 2, 5)
    for plan in plans.values():
        example = [torch.from_numpy(case[tensor.name]) for tensor in plan.spec.inputs]
        write_onnx(plan.module(), example, plan.spec, folder / f"{plan.name}.onnx")
        if plan.name in IN_HALF:
            write_onnx(plan.module(half=True), example, plan.spec, folder / f"{plan.name}.fp16.onnx")
    return folder


def inputs(config: MAEConfig, n: int, k: int) -> Arrays:
    generator = torch.Generator().manual_seed(100 * n + k)
    ids_shuffle = torch.rand(n, config.num_patches, generator=generator).argsort(dim=1)
    tokens = torch.randn(n, 1 + k, config.dim, generator=generator)
    case = {"images": sample_images(config, n, generator), "ids_keep": ids_shuffle[:, :k], "tokens": tokens}
    return {name: value.numpy() for name, value in {**case, "ids_restore": ids_shuffle.argsort(dim=1)}.items()}


def test_an_encoder_has_these_operators_and_no_other(tiny_bundle: Bundle) -> None:
    graph = onnx.load(tiny_bundle.graph_file("encoder")).graph
    assert dict(Counter(node.op_type for node in graph.node)) == ENCODER_OPS


@pytest.mark.parametrize("graph", ["encoder", "decoder", "classifier"])
def test_no_graph_computes_a_shape(files: Path, graph: GraphName) -> None:
    """Every Reshape, Pad, Slice and Split has its sizes in the file."""
    proto = onnx.load(files / f"{graph}.onnx").graph
    constants = {tensor.name for tensor in proto.initializer}
    sized = [node for node in proto.node if node.op_type in ("Reshape", "Pad", "Slice", "Split", "Unsqueeze")]
    assert sized
    assert {name for node in sized for name in node.input[1:] if name} <= constants
    assert not {"Shape", "Size", "Range"} & {node.op_type for node in proto.node}


@pytest.mark.parametrize("file", ["encoder.onnx", "encoder.fp16.onnx", "decoder.onnx", "classifier.onnx"])
def test_bytes_and_ids_meet_only_operators_that_gpus_have_kernels_for(files: Path, file: str) -> None:
    """By the table of ONNX Runtime's CUDA provider: what lacks there is computed on the CPU, with two copies each."""
    graph = onnx.shape_inference.infer_shapes(onnx.load(files / file)).graph
    types = {t.name: t.data_type for t in graph.initializer} | {
        value.name: value.type.tensor_type.elem_type for value in (*graph.input, *graph.value_info, *graph.output)
    }
    met = {dtype: set[str]() for dtype in (TensorProto.UINT8, TensorProto.INT64)}
    for node in graph.node:
        for name in node.input[:1]:  # data; the others are indices and sizes
            met.get(types[name], set()).add(node.op_type)
    assert met[TensorProto.UINT8] <= {"Cast"}
    assert met[TensorProto.INT64] <= {"Add", "Concat", "Mul", "Slice", "Unsqueeze"}


def in_onnxruntime(plan: GraphPlan, path: Path) -> Callable[[Arrays], Arrays]:
    return runner(plan, GraphFile(path))


def in_openvino(plan: GraphPlan, path: Path) -> Callable[[Arrays], Arrays]:
    openvino = pytest.importorskip("openvino")
    compiled = openvino.Core().compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    names = [tensor.name for tensor in plan.spec.inputs]
    outputs = [tensor.name for tensor in plan.spec.outputs]

    def run(case: Arrays) -> Arrays:
        results = compiled({name: case[name] for name in names})
        return {name: results[name] for name in outputs}

    return run


@pytest.mark.parametrize("engine", [in_onnxruntime, in_openvino])
@pytest.mark.parametrize("graph", ["encoder", "decoder", "classifier"])
def test_every_number_of_images_and_patches_gives_what_torch_gives(
    plans: dict[GraphName, GraphPlan],
    files: Path,
    wide: MAEConfig,
    graph: GraphName,
    engine: Callable[[GraphPlan, Path], Callable[[Arrays], Arrays]],
) -> None:
    """One traced graph, with the smallest and the greatest of both."""
    plan = plans[graph]
    run = engine(plan, files / f"{graph}.onnx")
    for n in (1, 2, 5):
        for k in (1, 4, wide.num_patches):
            case = inputs(wide, n, k)
            expected = references(plan, {name: torch.from_numpy(value) for name, value in case.items()})
            for name, value in run(case).items():
                assert value.shape == expected[name].shape
                np.testing.assert_allclose(value, expected[name], atol=2e-5, err_msg=f"{name}, N = {n}, K = {k}")


def test_a_spelled_block_is_the_trained_one() -> None:
    """In float64, where nothing hides behind rounding; and the trained one is left as it was."""
    torch.manual_seed(0)
    block = Block(12, heads=3, mlp_ratio=2).double().eval()
    for parameter in block.parameters():
        torch.nn.init.normal_(parameter)
    before = {name: value.clone() for name, value in block.state_dict().items()}
    x = torch.randn(2, 5, 12, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(SpelledBlock(block)(x), block(x), rtol=1e-10, atol=1e-10)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


def test_rows_are_taken_from_each_images_own_table() -> None:
    table = torch.tensor([[[1, 2], [3, 4]], [[5, 6], [7, 8]]], dtype=torch.uint8)
    ids = torch.tensor([[1, 0, 1], [0, 0, 1]])
    assert take_rows(table, ids).tolist() == [[[3, 4], [1, 2], [3, 4]], [[5, 6], [5, 6], [7, 8]]]


# Half precision


@pytest.mark.parametrize("graph", IN_HALF)
def test_half_is_in_the_graph_and_not_at_its_doors(files: Path, graph: str) -> None:
    model = onnx.load(files / f"{graph}.fp16.onnx")
    dtypes = Counter(tensor.data_type for tensor in model.graph.initializer)
    assert dtypes[TensorProto.FLOAT] == 0
    assert dtypes[TensorProto.FLOAT16] > 10
    plain = onnx.load(files / f"{graph}.onnx").graph
    for mine, other in ((model.graph.input, plain.input), (model.graph.output, plain.output)):
        assert [v.type.tensor_type.elem_type for v in mine] == [v.type.tensor_type.elem_type for v in other]
    norms = [node for node in model.graph.node if node.op_type == "LayerNormalization"]
    # Its mean and variance are taken in fp32: 1 is ONNX's default, and means that.
    assert all(a.i == TensorProto.FLOAT for node in norms for a in node.attribute if a.name == "stash_type")


def test_the_patch_embedding_keeps_its_bits_in_half(wide: MAEConfig) -> None:
    """1 / 255 of small weights would be among the numbers below 2^-14, which have fewer bits."""
    torch.manual_seed(0)
    encoder = MaskedAutoencoder(wide).encoder
    with torch.no_grad():
        encoder.patch_embed.proj.weight.mul_(0.001)
    exact = PixelEmbed(encoder).weight.double()
    kept = PixelEmbed(encoder, half=True).half().weight.double() / 256
    assert ((kept - exact).abs() <= 2.0**-10 * exact.abs() + 2.0**-32).all()
    assert ((exact.half().double() - exact).abs() > 2.0**-10 * exact.abs() + 2.0**-32).double().mean() > 0.3


def test_half_stays_close(plans: dict[GraphName, GraphPlan], files: Path, wide: MAEConfig) -> None:
    for graph in IN_HALF:
        plan, case = plans[graph], inputs(wide, 4, 5)
        expected = references(plan, {name: torch.from_numpy(value) for name, value in case.items()})
        for name, value in in_onnxruntime(plan, files / f"{graph}.fp16.onnx")(case).items():
            assert value.dtype == np.float32
            np.testing.assert_allclose(value, expected[name], atol=1e-2)
