"""The arithmetic of each graph, by hand, by torch's own counter, and by the products that ONNX Runtime is asked for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
import onnxruntime
import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bundle.manifest import ModelSpec
from bundle.store import Bundle
from export.flops import encoder_flops, graph_flops
from mae import Classifier, ClassifierConfig, MAEConfig, MaskedAutoencoder
from mae.model import patchify
from mae.weights import load_model
from tests.conftest import TinyRuns


@contextmanager
def counting() -> Iterator[FlopCounterMode]:
    """torch's counter knows no fused attention for CPUs, so it must see the products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        yield counter


def test_vit_tiny_by_hand() -> None:
    """ViT-Ti/16 at 224: 197 tokens of width 192; each block 12 D^2 products a token, and 2 T^2 D for attention."""
    model = ModelSpec(
        image_size=(224, 224), patch_size=16, channels=3, dim=192, depth=12, heads=3, mlp_ratio=4.0, decoder=None
    )
    products = 196 * 768 * 192 + 12 * (197 * 12 * 192**2 + 2 * 197**2 * 192)
    assert encoder_flops(model, 196) == 2 * products
    assert 2 * products == pytest.approx(2.51e9, rel=0.01)  # the 1.26 G multiply-adds that are told of it
    assert encoder_flops(model, 98) < encoder_flops(model, 196) / 2  # attention grows with the square


@pytest.mark.parametrize("num_keep", [16, 4])
def test_torch_s_counter_agrees(tiny_runs: TinyRuns, tiny_bundle: Bundle, num_keep: int) -> None:
    model = load_model(tiny_runs.pretrained)
    assert isinstance(model, MaskedAutoencoder)
    ids = torch.arange(num_keep)[None]
    with counting() as encoder, torch.no_grad():
        tokens = model.encoder(patchify(torch.zeros(1, 3, 32, 32), 8), ids)
    with counting() as decoder, torch.no_grad():
        model.decoder(tokens, torch.arange(16)[None])
    assert graph_flops(tiny_bundle.manifest, "encoder", num_keep) == encoder.get_total_flops()
    assert graph_flops(tiny_bundle.manifest, "decoder", num_keep) == decoder.get_total_flops()
    assert graph_flops(tiny_bundle.manifest, "head", num_keep) == 2 * 32 * 5


def test_a_classifier_sees_every_patch(tiny_bundle: Bundle) -> None:
    fields = tiny_bundle.manifest.model_dump(mode="json")
    images, logits = fields["graphs"]["encoder"]["inputs"][0], fields["graphs"]["head"]["outputs"][0]
    spec = {"files": {"fp32": "encoder.onnx"}, "inputs": [images], "outputs": [logits], "opset": 20}
    del fields["graphs"]["head"]
    manifest = type(tiny_bundle.manifest).model_validate({**fields, "graphs": {**fields["graphs"], "classifier": spec}})
    network = Classifier(
        ClassifierConfig(encoder=MAEConfig(image_size=(32, 32), patch_size=8, dim=32, depth=2, heads=2), num_classes=5)
    )
    with counting() as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, 32, 32))
    assert graph_flops(manifest, "classifier", 4) == counter.get_total_flops()


def test_the_exported_graph_s_products_are_that_and_one_row_of_zeros(tiny_bundle: Bundle) -> None:
    """Every product's operands, as ONNX Runtime has them for one image of 9 kept patches.

    The graph embeds a row of zeros in the cls token's place, which is arithmetic that gives nothing and does not count.
    """
    model = onnx.load(tiny_bundle.graph_file("encoder"))
    products = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    inner = {name for node in products for name in (node.input[0], node.input[1], node.output[0])} - set(weights)
    known = {value.name for value in (*model.graph.output, *model.graph.input)}
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(inner - known))
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    inputs = {"images": torch.zeros(1, 32, 32, 3, dtype=torch.uint8).numpy(), "ids_keep": torch.arange(9)[None].numpy()}
    names = [output.name for output in session.get_outputs()]
    shapes = weights | {name: out.shape for name, out in zip(names, session.run(names, inputs), strict=True)}
    flops = 0
    for node in products:
        size = 1
        for n in shapes[node.output[0]]:
            size *= n
        flops += 2 * size * shapes[node.input[0]][-1]
    row_of_zeros = 2 * tiny_bundle.manifest.model.patch_dim * 32
    assert flops == graph_flops(tiny_bundle.manifest, "encoder", 9) + row_of_zeros
