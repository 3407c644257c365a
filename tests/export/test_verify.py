"""An export that is not the trained network must not pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from bundle.errors import RuntimeUnavailable
from bundle.manifest import Precision
from bundle.store import Bundle
from export.errors import ParityError
from export.onnx import GraphFile, write_onnx
from export.plan import GraphPlan, plan_graphs
from export.verify import LIMITS, Case, Figures, Limits, fault, make_cases, on_made_up, parity_of, runner, sample_images
from mae import Classifier, ClassifierConfig, LinearHead, MAEConfig, MaskedAutoencoder
from mae.weights import load_model
from tests.conftest import TinyRuns

Plans = tuple[dict[str, GraphPlan], list[Case]]


@pytest.fixture(scope="module")
def tiny_plans(tiny_runs: TinyRuns) -> Plans:
    model, head = load_model(tiny_runs.pretrained), load_model(tiny_runs.probe)
    assert isinstance(model, MaskedAutoencoder)
    assert isinstance(head, LinearHead)
    plans = plan_graphs(model, head)
    return {plan.name: plan for plan in plans}, make_cases(model.config, plans[0])


Measure = Callable[[GraphPlan, bytes, list[Case]], Figures]


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """How far the graph with this content lies from torch."""

    def measure(plan: GraphPlan, content: bytes, cases: list[Case]) -> Figures:
        (tmp_path / "graph.onnx").write_bytes(content)
        return on_made_up(plan, runner(plan, GraphFile(tmp_path / "graph.onnx")), cases)

    return measure


def exported(plan: GraphPlan, cases: list[Case], path: Path, *, half: bool = False) -> GraphFile:
    return write_onnx(plan.module(half=half), [cases[0][t.name] for t in plan.spec.inputs], plan.spec, path)


def altered(content: bytes, change: Callable[[NDArray[Any]], NDArray[Any]]) -> bytes:
    """The same graph with its greatest weight changed."""
    model = onnx.load_from_string(content)
    weight = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
    weight.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(weight).copy()), weight.name))
    return model.SerializeToString()  # type: ignore[no-any-return]


def one_value(array: NDArray[Any]) -> NDArray[Any]:
    array.flat[0] += 0.1
    return array


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
def test_the_honest_export_passes(tiny_bundle: Bundle, tiny_plans: Plans, graph: Any, measure: Measure) -> None:
    plans, cases = tiny_plans
    figures = measure(plans[graph], tiny_bundle.graph_file(graph).read_bytes(), cases)
    assert 0 < figures.max_abs < 1e-5
    assert fault(figures, LIMITS["fp32"]) == ""
    assert parity_of("fp32", figures) == tiny_bundle.manifest.parity[f"{graph}.fp32"]


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
@pytest.mark.parametrize("change", [one_value, lambda a: a * 1.01, lambda a: a[::-1].copy(), lambda a: a * np.nan])
def test_altered_weights_are_noticed(
    tiny_bundle: Bundle,
    tiny_plans: Plans,
    graph: Any,
    change: Callable[[NDArray[Any]], NDArray[Any]],
    measure: Measure,
) -> None:
    plans, cases = tiny_plans
    content = altered(tiny_bundle.graph_file(graph).read_bytes(), change)
    assert fault(measure(plans[graph], content, cases), LIMITS["fp32"]).startswith("differs from torch by ")


@pytest.mark.parametrize("precision", ["fp16", "int8"])
@pytest.mark.parametrize("change", [lambda a: a[::-1].copy(), lambda a: a * np.nan, lambda a: a * 0])
def test_coarse_precisions_notice_a_wrong_graph(
    tiny_bundle: Bundle,
    tiny_plans: Plans,
    precision: Precision,
    change: Callable[[NDArray[Any]], NDArray[Any]],
    measure: Measure,
) -> None:
    """Their limits are wide, and not so wide that another network passes."""
    plans, cases = tiny_plans
    content = altered(tiny_bundle.graph_file("encoder").read_bytes(), change)
    assert fault(measure(plans["encoder"], content, cases), LIMITS[precision])


def test_one_output_taken_for_another_is_noticed(tiny_bundle: Bundle, tiny_plans: Plans, measure: Measure) -> None:
    plans, cases = tiny_plans
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    swapped = {"cls": "mean", "mean": "cls"}
    for node in model.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
    assert fault(measure(plans["encoder"], model.SerializeToString(), cases), LIMITS["int8"])


def test_an_output_of_another_shape_is_noticed(tiny_bundle: Bundle, tiny_plans: Plans, measure: Measure) -> None:
    plans, cases = tiny_plans
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    source = next(node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization")
    for node in model.graph.node:
        node.output[:] = ["unused" if name == "cls" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Identity", [source], ["cls"]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("cls", onnx.TensorProto.FLOAT, None))
    with pytest.raises(ParityError, match=r"gives cls as float32 \[2, 9, 32\], torch as float32 \[2, 32\]"):
        measure(plans["encoder"], model.SerializeToString(), cases)


def test_what_onnx_runtime_cannot_load_is_said(tiny_plans: Plans, measure: Measure) -> None:
    plans, cases = tiny_plans
    with pytest.raises(RuntimeUnavailable, match="cannot load"):
        measure(plans["head"], b"garbage", cases)


def test_figures_are_those_of_the_definitions() -> None:
    """Three images' logits, by hand: cosines 1, 0.6 and 0.8, one first class of three another."""
    expected = {"logits": np.array([[3, 4], [1, 0], [0, 2]], np.float32)}
    actual = {"logits": np.array([[3, 4], [0.6, 0.8], [1.2, 1.6]], np.float32)}
    figures = Figures()
    figures.add("head", actual, expected)
    parity = parity_of("int8", figures, figures)
    assert parity.max_abs == pytest.approx(1.2)
    assert parity.cosine_min == pytest.approx(0.6)
    assert parity.cosine_mean == pytest.approx(0.8)
    assert parity.tolerance == pytest.approx(3 * 1.2 + 0.02 * 4)
    assert parity.min_cosine == pytest.approx(1 - 3 * 0.4 - 0.001)
    assert parity.images is not None
    assert parity.images.num_images == 3
    assert parity.images.top1_agreement == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("actual", "says"),
    [
        ([[1, 0.0]], ""),
        ([[1, 0.02]], "has a cosine of 0.999800 to torch on an image, less than 0.9999"),
        ([[1.5, 0]], "differs from torch by 5.00e-01, more than 1.00e-01"),
        ([[1, 0.09]], "has a cosine of 0.995974 to torch, less than 0.999"),
        ([[np.nan, 0]], "differs from torch by nan"),
    ],
)
def test_every_limit_is_held(actual: list[list[float]], says: str) -> None:
    figures = Figures()
    figures.add("x", {"y": np.array(actual, np.float32)}, {"y": np.array([[1, 0]], np.float32)})
    found = fault(figures, Limits(relative=0.1, cosine_made_up=0.999, cosine_images=0.9999), figures)
    assert found.startswith(says) if says else found == ""


def test_cases_vary_in_images_kept_patches_and_content(tiny_plans: Plans) -> None:
    _, cases = tiny_plans
    assert sorted((len(case["images"]), case["ids_keep"].shape[1]) for case in cases) == [
        (1, 16),
        (2, 8),
        (3, 4),
        (4, 1),
    ]
    contents = sample_images(MAEConfig(image_size=(32, 32)), 4, torch.Generator().manual_seed(0))
    assert len(torch.unique(contents[0])) > 200
    assert 1 < len(torch.unique(contents[1])) <= 256
    assert (contents[2] == 0).all()
    assert (contents[3] == 255).all()


def test_rectangular_grey_networks_with_raw_targets_and_cls_pooling(tmp_path: Path) -> None:
    """Every axis has a size of its own, so that none can stand for another."""
    torch.manual_seed(1)
    config = MAEConfig(
        image_size=(24, 40), patch_size=8, channels=1, dim=16, depth=1, heads=2, mlp_ratio=2.5, decoder_dim=8,
        decoder_depth=1, decoder_heads=1, target="raw", mean=(0.3,), std=(0.1,),
    )  # fmt: skip
    classifier = Classifier(ClassifierConfig(encoder=config, num_classes=3, pooling="cls"))
    plans = plan_graphs(MaskedAutoencoder(config).eval(), classifier.eval())
    cases = make_cases(config, plans[0])
    for plan in plans:
        figures = on_made_up(plan, runner(plan, exported(plan, cases, tmp_path / plan.name)), cases)
        assert fault(figures, LIMITS["fp32"]) == ""
        assert figures.cosine_min > 0.99999


def test_a_head_on_both_features_takes_them_in_its_order(tmp_path: Path) -> None:
    from mae import LinearHeadConfig

    torch.manual_seed(2)
    config = MAEConfig(image_size=(16, 16), patch_size=8, dim=8, depth=1, heads=1, decoder_dim=8, decoder_heads=1)
    head = LinearHead(LinearHeadConfig(inputs=("mean", "cls"), dim=8, num_classes=3)).eval()
    plans = plan_graphs(MaskedAutoencoder(config).eval(), head)
    cases = make_cases(config, plans[0])
    assert [tensor.name for tensor in plans[-1].spec.inputs] == ["mean", "cls"]
    file = exported(plans[-1], cases, tmp_path / "head.onnx")
    assert fault(on_made_up(plans[-1], runner(plans[-1], file), cases), LIMITS["fp32"]) == ""
    assert [tensor.name for tensor in onnx.load(file.path).graph.input] == ["mean", "cls"]
