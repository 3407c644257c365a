"""Graphs that are not the manifest's."""

from __future__ import annotations

from typing import Any

import pytest

from bundle.errors import BundleError
from bundle.manifest import GraphSpec, TensorSpec
from runtime.specs import check_graph

SPEC = GraphSpec(
    files={"fp32": "encoder.onnx"},
    inputs=(
        TensorSpec(name="images", dtype="uint8", shape=("N", 32, 32, 3)),
        TensorSpec(name="ids_keep", dtype="int64", shape=("N", "K")),
    ),
    outputs=(TensorSpec(name="tokens", dtype="float32", shape=("N", "1+K", 8)),),
    opset=18,
)
INPUTS: dict[str, Any] = {"images": ("uint8", ("N", 32, 32, 3)), "ids_keep": ("int64", (None, None))}
OUTPUTS: dict[str, Any] = {"tokens": ("float32", ("s0", "s1 + 1", 8))}


@pytest.mark.parametrize("width", [8, None, "Gemmtokens_dim_2"])
def test_a_size_that_the_engine_does_not_know_is_believed(width: int | str | None) -> None:
    check_graph("encoder", SPEC, INPUTS, {"tokens": ("float32", ("N", None, width))})


@pytest.mark.parametrize(
    ("inputs", "outputs", "message"),
    [
        ({"ids_keep": None}, {}, "it lacks the input 'ids_keep', and has 'images'"),
        ({"noise": ("int64", ("N",))}, {}, "it has an unknown input 'noise'"),
        ({"images": ("float32", ("N", 32, 32, 3))}, {}, r"'images' is float32 \[N, 32, 32, 3\], and should be uint8"),
        ({"images": ("uint8", (None, 32, 64, 3))}, {}, r"'images' is uint8 \[\?, 32, 64, 3\], and should be .* 32, 32"),
        ({"images": ("uint8", (1, 32, 32, 3))}, {}, r"'images' is uint8 \[1, 32, 32, 3\], and should be uint8 \[N,"),
        ({"ids_keep": ("int64", ("N",))}, {}, r"input 'ids_keep' is int64 \[N\], and should be int64 \[N, K\]"),
        ({}, {"tokens": None}, "it lacks the output 'tokens', and has none"),
        ({}, {"tokens": ("float16", ("N", None, 8))}, r"'tokens' is float16 .* should be float32 \[N, 1\+K, 8\]"),
        ({}, {"patches": ("float32", ("N",))}, "it has an unknown output 'patches'"),
    ],
)
def test_what_differs_is_named(inputs: dict[str, Any], outputs: dict[str, Any], message: str) -> None:
    def change(tensors: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
        return {name: tensor for name, tensor in {**tensors, **changes}.items() if tensor is not None}

    with pytest.raises(BundleError, match=rf"^encoder \(a\.onnx\) is not the graph .*: .*{message}.*; export the"):
        check_graph("encoder (a.onnx)", SPEC, change(INPUTS, inputs), change(OUTPUTS, outputs))
