"""A runtime that computes something else than the export saw must not serve."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.errors import BundleError, RuntimeUnavailable
from bundle.manifest import GraphName
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from service.app import create_app
from service.settings import Settings
from tests.service.helpers import make_bundle


class Off(OnnxRuntime):
    """Wrong in one graph, by a little or by everything."""

    wrong: GraphName = "decoder"
    by = 0.01

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        outputs = super().run(graph, inputs, wanted)
        return {name: array + self.by for name, array in outputs.items()} if graph == self.wrong else outputs


def test_a_faithful_runtime_is_proven(tiny_bundle: Bundle) -> None:
    prove(tiny_bundle, OnnxRuntime(tiny_bundle))


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
@pytest.mark.parametrize("by", [0.01, float("nan")])
def test_one_that_is_off_is_refused_and_the_graph_named(tiny_bundle: Bundle, graph: GraphName, by: float) -> None:
    runtime = Off(tiny_bundle)
    runtime.wrong, runtime.by = graph, by
    with pytest.raises(RuntimeUnavailable, match=rf"onnxruntime on cpu in fp32 computes another {graph}\.\w+ than"):
        prove(tiny_bundle, runtime)


@pytest.mark.parametrize(("by", "fits"), [(0.001, True), (3.0, False), (float("nan"), False)])
def test_bf16_is_held_to_a_cosine_as_the_bundle_has_no_figures(tiny_bundle: Bundle, by: float, fits: bool) -> None:
    runtime = Off(tiny_bundle)
    runtime.precision, runtime.by = "bf16", by
    refused = pytest.raises(
        RuntimeUnavailable, match=r"in bf16 computes another decoder\.patches than .*: cosine .*0.999"
    )
    with nullcontext() if fits else refused:
        prove(tiny_bundle, runtime)


def test_int8_is_held_to_the_exports_figures(int8_bundle: Bundle) -> None:
    """The encoder to those of its int8 graph; the decoder, which comes in fp32 alone, to those of fp32."""
    runtime = Off(int8_bundle, "int8")
    runtime.wrong, runtime.by = "encoder", 0.9
    prove(int8_bundle, OnnxRuntime(int8_bundle, "int8"))
    with pytest.raises(RuntimeUnavailable, match=r"in int8 computes another encoder\.\w+ than the export saw"):
        prove(int8_bundle, runtime)
    runtime.wrong, runtime.by = "decoder", 0.01
    with pytest.raises(RuntimeUnavailable, match=r"in int8 computes another decoder\.patches .*: 1\.0e-02 off"):
        prove(int8_bundle, runtime)


async def test_the_service_does_not_start_with_it(tiny_bundle: Bundle) -> None:
    app = create_app(Settings(), bundle=tiny_bundle, runtime=Off(tiny_bundle))
    with pytest.raises(RuntimeUnavailable):
        async with app.router.lifespan_context(app):
            pass


def test_golden_arrays_that_are_not_the_graphs_are_the_bundle_s_fault(tiny_bundle: Bundle, tmp_path: Path) -> None:
    golden = tiny_bundle.golden()
    del golden["decoder.out.patches"]
    copy = replace(tiny_bundle, path=Path(shutil.copytree(tiny_bundle.path, tmp_path / "copy")))
    np.savez(copy.path / "golden.npz", **golden)  # type: ignore[arg-type]
    with pytest.raises(BundleError, match=r"golden\.npz: it lacks decoder\.out\.patches"):
        prove(copy, OnnxRuntime(tiny_bundle))


def test_a_bundle_without_golden_arrays_has_nothing_to_prove(tiny_bundle: Bundle, tmp_path: Path) -> None:
    prove(make_bundle(tmp_path / "b"), Off(tiny_bundle))
