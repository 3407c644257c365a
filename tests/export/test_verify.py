"""An export that is not the trained network must not pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper

from bundle.errors import RuntimeUnavailable
from bundle.store import Bundle
from export.errors import ParityError
from export.onnx import to_onnx
from export.plan import GraphPlan, plan_graphs
from export.verify import Case, make_cases, sample_images, verify
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
def test_the_honest_export_passes(tiny_bundle: Bundle, tiny_plans: Plans, graph: Any) -> None:
    plans, cases = tiny_plans
    parity = verify(plans[graph], tiny_bundle.graph_file(graph).read_bytes(), cases)
    assert 0 < parity.max_abs < 1e-5
    assert parity == tiny_bundle.manifest.parity[f"{graph}.fp32"]


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
@pytest.mark.parametrize("change", [one_value, lambda a: a * 1.01, lambda a: a[::-1].copy(), lambda a: a * np.nan])
def test_altered_weights_are_noticed(
    tiny_bundle: Bundle, tiny_plans: Plans, graph: Any, change: Callable[[NDArray[Any]], NDArray[Any]]
) -> None:
    plans, cases = tiny_plans
    content = altered(tiny_bundle.graph_file(graph).read_bytes(), change)
    with pytest.raises(ParityError, match=f"{graph}: ONNX Runtime differs from torch by .*; nothing was written"):
        verify(plans[graph], content, cases)


def test_one_output_taken_for_another_is_noticed(tiny_bundle: Bundle, tiny_plans: Plans) -> None:
    plans, cases = tiny_plans
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    swapped = {"cls": "mean", "mean": "cls"}
    for node in model.graph.node:
        node.output[:] = [swapped.get(name, name) for name in node.output]
    with pytest.raises(ParityError, match="encoder: ONNX Runtime differs"):
        verify(plans["encoder"], model.SerializeToString(), cases)


def test_an_output_of_another_shape_is_noticed(tiny_bundle: Bundle, tiny_plans: Plans) -> None:
    plans, cases = tiny_plans
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    source = next(node.output[0] for node in model.graph.node if node.op_type == "LayerNormalization")
    for node in model.graph.node:
        node.output[:] = ["unused" if name == "cls" else name for name in node.output]
    model.graph.node.append(onnx.helper.make_node("Identity", [source], ["cls"]))
    model.graph.output[0].CopyFrom(onnx.helper.make_tensor_value_info("cls", onnx.TensorProto.FLOAT, None))
    with pytest.raises(ParityError, match=r"gives cls as float32 \[2, 9, 32\], torch as float32 \[2, 32\]"):
        verify(plans["encoder"], model.SerializeToString(), cases)


def test_what_onnx_runtime_cannot_load_is_said(tiny_plans: Plans) -> None:
    plans, cases = tiny_plans
    with pytest.raises(RuntimeUnavailable, match="cannot load"):
        verify(plans["head"], b"garbage", cases)


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


def test_rectangular_grey_networks_with_raw_targets_and_cls_pooling() -> None:
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
        content = to_onnx(plan.module, [cases[0][tensor.name] for tensor in plan.spec.inputs], plan.spec)
        parity = verify(plan, content, cases)
        assert parity.max_abs <= parity.tolerance
        assert parity.cosine_min > 0.99999


def test_a_head_on_both_features_takes_them_in_its_order() -> None:
    from mae import LinearHeadConfig

    torch.manual_seed(2)
    config = MAEConfig(image_size=(16, 16), patch_size=8, dim=8, depth=1, heads=1, decoder_dim=8, decoder_heads=1)
    head = LinearHead(LinearHeadConfig(inputs=("mean", "cls"), dim=8, num_classes=3)).eval()
    plans = plan_graphs(MaskedAutoencoder(config).eval(), head)
    cases = make_cases(config, plans[0])
    assert [tensor.name for tensor in plans[-1].spec.inputs] == ["mean", "cls"]
    content = to_onnx(plans[-1].module, [cases[0][name] for name in ("mean", "cls")], plans[-1].spec)
    verify(plans[-1], content, cases)
    assert [tensor.name for tensor in onnx.load_from_string(content).graph.input] == ["mean", "cls"]
