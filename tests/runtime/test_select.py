"""What `auto` chooses, and what is refused, for machines that are only described."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import pytest

from bundle.errors import RuntimeUnavailable
from bundle.manifest import Manifest
from bundle.store import Bundle
from runtime import open_runtime
from runtime.base import ServedPrecision
from runtime.fake import FakeRuntime
from runtime.machine import EngineName, Machine
from runtime.onnx import OnnxRuntime
from runtime.openvino import OpenVinoRuntime
from runtime.select import Choice, PrecisionName, RuntimeName, choose
from tests.runtime.conftest import Quantization

CPU: frozenset[EngineName] = frozenset({"onnxruntime"})
INTEL: frozenset[EngineName] = CPU | {"openvino"}
CUDA: frozenset[EngineName] = CPU | {"onnxruntime-cuda", "onnxruntime-tensorrt"}
TENSORRT: frozenset[EngineName] = INTEL | {"tensorrt"}
ALL: frozenset[EngineName] = TENSORRT | CUDA


def machine(engines: frozenset[EngineName], gpus: int = 0, *, bf16: bool = True) -> Machine:
    return Machine(gpus, engines, bf16)


def with_variants(manifest: Manifest, *variants: str, quantization: Quantization | None = None) -> Manifest:
    files = {name: f"{name}.onnx" for name in ("fp32", *variants)}
    encoder = manifest.graphs["encoder"].model_copy(update={"files": files, "quantization": quantization})
    return manifest.model_copy(update={"graphs": {**manifest.graphs, "encoder": encoder}})


@pytest.fixture(scope="module")
def plain(tiny_bundle: Bundle) -> Manifest:
    return with_variants(tiny_bundle.manifest)


@pytest.fixture(scope="module")
def dynamic(tiny_bundle: Bundle) -> Manifest:
    return with_variants(tiny_bundle.manifest, "fp16", "int8", quantization="dynamic")


@pytest.fixture(scope="module")
def static(tiny_bundle: Bundle) -> Manifest:
    return with_variants(tiny_bundle.manifest, "fp16", "int8", quantization="static")


@pytest.mark.parametrize(
    ("engines", "bf16", "kind", "expected"),
    [
        (CPU, True, "plain", Choice("onnxruntime", None, "fp32")),
        (CPU, True, "dynamic", Choice("onnxruntime", None, "int8")),
        (CPU, True, "static", Choice("onnxruntime", None, "int8")),
        (INTEL, True, "plain", Choice("openvino", None, "bf16")),
        (INTEL, False, "plain", Choice("onnxruntime", None, "fp32")),
        (INTEL, True, "dynamic", Choice("onnxruntime", None, "int8")),
        (INTEL, False, "static", Choice("openvino", None, "int8")),
        (INTEL, True, "static", Choice("openvino", None, "int8")),
    ],
)
def test_auto_on_a_cpu(
    engines: frozenset[EngineName], bf16: bool, kind: str, expected: Choice, request: pytest.FixtureRequest
) -> None:
    manifest: Manifest = request.getfixturevalue(kind)
    found = choose(manifest, "auto", device="auto", precision="auto", machine=machine(engines, bf16=bf16))
    assert found == expected


@pytest.mark.parametrize(
    ("engines", "kind", "precision", "expected"),
    [
        (ALL, "plain", "auto", Choice("onnxruntime-cuda", 0, "fp32")),
        (TENSORRT, "plain", "auto", Choice("tensorrt", 0, "fp32")),
        (TENSORRT, "dynamic", "auto", Choice("tensorrt", 0, "fp16")),
        (ALL, "dynamic", "int8", Choice("onnxruntime", None, "int8")),
        (ALL, "static", "int8", Choice("openvino", None, "int8")),
        (CUDA, "dynamic", "auto", Choice("onnxruntime-cuda", 0, "fp16")),
        (CUDA, "plain", "auto", Choice("onnxruntime-cuda", 0, "fp32")),
        (CUDA, "dynamic", "fp32", Choice("onnxruntime-cuda", 0, "fp32")),
        (ALL, "plain", "bf16", Choice("openvino", None, "bf16")),
    ],
)
def test_auto_where_there_is_a_gpu(
    engines: frozenset[EngineName],
    kind: str,
    precision: PrecisionName,
    expected: Choice,
    request: pytest.FixtureRequest,
) -> None:
    manifest: Manifest = request.getfixturevalue(kind)
    assert choose(manifest, "auto", device="auto", precision=precision, machine=machine(engines, 1)) == expected


@pytest.mark.parametrize(
    ("name", "device", "precision", "expected"),
    [
        ("onnxruntime", "cpu", "auto", Choice("onnxruntime", None, "int8")),
        ("onnxruntime", "cpu", "fp16", Choice("onnxruntime", None, "fp16")),
        ("openvino", "auto", "auto", Choice("openvino", None, "bf16")),  # its int8 here has scales of the call
        ("openvino", "auto", "fp32", Choice("openvino", None, "fp32")),
        ("auto", "cpu", "fp32", Choice("onnxruntime", None, "fp32")),
        ("auto", "cpu", "bf16", Choice("openvino", None, "bf16")),
        ("onnxruntime", "auto", "auto", Choice("onnxruntime-cuda", 0, "fp16")),
        ("onnxruntime", "cuda:1", "fp32", Choice("onnxruntime-cuda", 1, "fp32")),
        ("onnxruntime-tensorrt", "auto", "auto", Choice("onnxruntime-tensorrt", 0, "fp16")),
        ("tensorrt", "cuda", "fp32", Choice("tensorrt", 0, "fp32")),
        ("auto", "cuda:1", "auto", Choice("onnxruntime-cuda", 1, "fp16")),
    ],
)
def test_what_is_asked_for_is_what_runs(
    dynamic: Manifest, name: RuntimeName, device: str, precision: PrecisionName, expected: Choice
) -> None:
    assert choose(dynamic, name, device=device, precision=precision, machine=machine(ALL, 2)) == expected


@pytest.mark.parametrize(
    ("engines", "gpus", "bf16", "asked", "message"),
    [
        (ALL, 1, True, ("abacus", "auto", "auto"), "no runtime is called 'abacus'; there are auto, onnxruntime"),
        (ALL, 1, True, ("auto", "tpu", "auto"), "no device is called 'tpu'; there are auto, cpu, cuda, cuda:0"),
        (ALL, 1, True, ("auto", "cuda:", "auto"), "no device is called 'cuda:'"),
        (ALL, 0, True, ("auto", "cuda", "auto"), "cuda was asked for, and CUDA finds no NVIDIA GPU; check nvidia-smi"),
        (ALL, 2, True, ("auto", "cuda:2", "auto"), "cuda:2 was asked for, and CUDA finds 2 NVIDIA GPUs, counted from"),
        (ALL, 0, True, ("tensorrt", "auto", "auto"), "tensorrt was asked for, and CUDA finds no NVIDIA GPU"),
        (ALL, 1, True, ("tensorrt", "cpu", "auto"), "tensorrt runs on GPUs alone; use device cuda, or another"),
        (ALL, 1, True, ("onnxruntime-tensorrt", "cpu", "auto"), "onnxruntime-tensorrt runs on GPUs alone"),
        (ALL, 1, True, ("openvino", "cuda", "auto"), "openvino runs on CPUs here; use device cpu, or runtime"),
        (CPU, 1, True, ("auto", "cuda", "auto"), "onnxruntime-cuda is not installed; pip uninstall .*onnxruntime-gpu"),
        (CPU, 1, True, ("onnxruntime-tensorrt", "auto", "auto"), "onnxruntime-tensorrt is not installed; .*TensorRT"),
        (CUDA, 1, True, ("tensorrt", "auto", "auto"), r"tensorrt is not installed; pip install -e '\.\[tensorrt\]'"),
        (CPU, 0, True, ("openvino", "auto", "auto"), r"openvino is not installed; pip install -e '\.\[openvino\]'"),
        (CPU, 0, False, ("auto", "auto", "bf16"), r"openvino is not installed; pip install -e '\.\[openvino\]'"),
        (frozenset(), 0, False, ("auto", "auto", "auto"), "onnxruntime is not installed; pip install onnxruntime"),
        (INTEL, 0, False, ("auto", "auto", "bf16"), "this CPU does not multiply in bf16; use fp32 or int8"),
        (INTEL, 0, True, ("onnxruntime", "auto", "bf16"), "ONNX Runtime does not compute in bf16 on CPUs; use runtime"),
        (INTEL, 0, True, ("openvino", "auto", "fp16"), "openvino gains nothing from fp16 on CPUs; use fp32, bf16"),
        (ALL, 1, True, ("auto", "cuda", "bf16"), "bf16 is computed on CPUs alone, by openvino; use fp16 on a GPU"),
        (
            ALL,
            1,
            True,
            ("tensorrt", "auto", "int8"),
            "tensorrt does not run this bundle's int8, .* use fp16, or export with --int8 static",
        ),
        (
            ALL,
            1,
            True,
            ("onnxruntime-tensorrt", "auto", "int8"),
            "onnxruntime-tensorrt does not run this",
        ),
        (ALL, 1, True, ("onnxruntime", "cuda", "int8"), "onnxruntime multiplies no int8 on GPUs; use fp16, or runtime"),
        (
            ALL,
            0,
            True,
            ("openvino", "cpu", "int8"),
            "openvino is slow at this bundle's int8, .*; use runtime",
        ),
    ],
)
def test_what_cannot_be_had_is_an_error_that_helps(
    dynamic: Manifest,
    engines: frozenset[EngineName],
    gpus: int,
    bf16: bool,
    asked: tuple[Any, str, Any],
    message: str,
) -> None:
    name, device, precision = asked
    with pytest.raises(RuntimeUnavailable, match=f"^{message}"):
        choose(dynamic, name, device=device, precision=precision, machine=machine(engines, gpus, bf16=bf16))


def test_a_gpu_that_nothing_installed_can_use_is_pointed_out(plain: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = choose(plain, "auto", device="auto", precision="auto", machine=machine(CPU, 1))
    assert found == Choice("onnxruntime", None, "fp32")
    assert "there is a GPU, and nothing installed here runs on it, so the CPU computes" in caplog.text
    caplog.clear()
    found = choose(plain, "onnxruntime", device="auto", precision="auto", machine=machine(TENSORRT, 1))
    assert found == Choice("onnxruntime", None, "fp32")
    assert "there is a GPU, and not the onnxruntime that is installed runs on it" in caplog.text
    caplog.clear()
    choose(plain, "auto", device="cpu", precision="auto", machine=machine(CPU, 1))  # said on purpose
    choose(plain, "auto", device="auto", precision="auto", machine=machine(CUDA, 1))
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("broken", "name", "device"),
    [
        ("openvino", "openvino", "cpu"),
        ("onnxruntime", "auto", "cpu"),
        ("onnxruntime", "onnxruntime", "cpu"),
        ("onnxruntime", "onnxruntime", "cuda"),
    ],
)
def test_an_engine_that_cannot_be_imported_says_why(
    plain: Manifest, broken: EngineName, name: RuntimeName, device: str
) -> None:
    there = Machine(1, frozenset(), bf16=False, broken={broken: "libcrypto.so.3: cannot open shared object file"})
    with pytest.raises(RuntimeUnavailable, match=rf"^{broken}(-cuda)? is installed and cannot be imported: libcrypto"):
        choose(plain, name, device=device, precision="auto", machine=there)


def test_the_engine_is_opened(tiny_bundle: Bundle) -> None:
    assert isinstance(open_runtime(tiny_bundle, "onnxruntime", lanes=2, device="cpu"), OnnxRuntime)
    runtime = open_runtime(tiny_bundle, "openvino", lanes=2, precision="fp32")
    assert isinstance(runtime, OpenVinoRuntime)
    assert (runtime.lanes, runtime.precision) == (2, "fp32")


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_precision_reaches_the_engine(int8_bundle: Bundle, precision: ServedPrecision) -> None:
    assert open_runtime(int8_bundle, "onnxruntime", device="cpu", precision=precision).precision == precision


def test_the_fake_is_there_when_asked_for(tiny_bundle: Bundle) -> None:
    runtime = open_runtime(tiny_bundle, "fake", lanes=4)
    assert isinstance(runtime, FakeRuntime)
    assert runtime.lanes == 4


def test_an_unknown_name_lists_the_known(tiny_bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match="no runtime is called 'abacus'; there are auto, onnxruntime"):
        open_runtime(tiny_bundle, cast("Any", "abacus"))


def test_a_library_that_breaks_while_it_is_loaded_says_so(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was there when the machine was looked at, and its own import fails."""
    monkeypatch.setattr("runtime.select.survey", lambda **_: machine(INTEL, bf16=False))
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "runtime.onnx", raising=False)
    with pytest.raises(RuntimeUnavailable, match=r"^onnxruntime is installed and cannot be imported: .*halted"):
        open_runtime(tiny_bundle, device="cpu")


def test_importing_loads_neither_torch_nor_an_engine() -> None:
    code = (
        "import sys, runtime, bundle.store, bundle.preprocess; "
        "print({'torch', 'onnxruntime', 'openvino', 'tensorrt'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"


def test_asking_for_onnx_runtime_leaves_openvino_alone(tiny_bundle: Bundle) -> None:
    code = f"""
import sys
from pathlib import Path
from bundle.store import load_bundle
from runtime import open_runtime
open_runtime(load_bundle(Path({str(tiny_bundle.path)!r})), "onnxruntime", device="cpu")
print({{"torch", "openvino"}} & set(sys.modules))
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
