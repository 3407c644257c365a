from __future__ import annotations

import subprocess
import sys
from typing import Any, cast

import pytest

from bundle.errors import RuntimeUnavailable
from bundle.store import Bundle
from runtime import open_runtime
from runtime.fake import FakeRuntime
from runtime.onnx import OnnxRuntime


def test_auto_is_onnx_runtime(tiny_bundle: Bundle) -> None:
    assert isinstance(open_runtime(tiny_bundle), OnnxRuntime)
    assert open_runtime(tiny_bundle, "onnxruntime", lanes=2).lanes == 2


def test_the_fake_is_there_when_asked_for(tiny_bundle: Bundle) -> None:
    runtime = open_runtime(tiny_bundle, "fake", lanes=4)
    assert isinstance(runtime, FakeRuntime)
    assert runtime.lanes == 4


def test_an_unknown_name_lists_the_known(tiny_bundle: Bundle) -> None:
    with pytest.raises(RuntimeUnavailable, match="no runtime is called 'abacus'; there are auto, onnxruntime"):
        open_runtime(tiny_bundle, cast("Any", "abacus"))


def test_a_missing_onnx_runtime_is_said(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.delitem(sys.modules, "runtime.onnx", raising=False)
    with pytest.raises(RuntimeUnavailable, match="ONNX Runtime is not installed"):
        open_runtime(tiny_bundle)


def test_importing_loads_neither_torch_nor_an_engine() -> None:
    code = "import sys, runtime, bundle.store, bundle.preprocess; print({'torch', 'onnxruntime'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
