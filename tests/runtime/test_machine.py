"""What is installed, missing or broken."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import pytest

from runtime import machine
from runtime.machine import count_gpus, survey


class Driver:
    """CUDA's driver library, as far as it is asked. `status`: what every call returns; 0 is success."""

    def __init__(self, gpus: int, status: int = 0) -> None:
        self.gpus, self.status = gpus, status

    def cuInit(self, flags: int) -> int:  # noqa: N802 - as CUDA names it
        assert flags == 0
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802
        count._obj.value = self.gpus
        return self.status


@pytest.mark.parametrize(("driver", "expected"), [(None, 0), (Driver(2), 2), (Driver(3, status=100), 0)])
def test_gpus_are_counted_by_cudas_driver(
    driver: Driver | None, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "load_driver", lambda: driver)
    assert count_gpus() == expected


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert count_gpus() == 0


def test_what_is_installed_is_found() -> None:
    found = survey()
    assert {"onnxruntime", "openvino"} <= found.engines
    assert not found.broken
    if sys.platform == "linux" and sys.maxsize > 2**32:
        flags = Path("/proc/cpuinfo").read_text().split()
        if "avx512_bf16" in flags or "amx_bf16" in flags:
            assert found.bf16


def test_openvino_is_left_out_where_it_cannot_be_chosen() -> None:
    found = survey(openvino=False)
    assert "openvino" not in found.engines
    assert not found.bf16


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that stands before all others in the search for modules, with none of the engines loaded."""
    for name in list(sys.modules):
        if name.split(".")[0] in ("onnxruntime", "openvino"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_a_package_that_cannot_be_imported_is_broken_and_says_why(packages: Path) -> None:
    (packages / "onnxruntime.py").write_text("raise ImportError('libcrypto.so.3: cannot open shared object file')")
    (packages / "openvino.py").write_text("def Core(): raise RuntimeError('no plugin for CPU')")
    found = survey()
    assert not found.engines
    assert found.broken == {
        "onnxruntime": "libcrypto.so.3: cannot open shared object file", "openvino": "no plugin for CPU"
    }  # fmt: skip


def test_the_providers_of_onnx_runtime_are_engines(packages: Path) -> None:
    providers = ["TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider"]
    (packages / "onnxruntime.py").write_text(f"def get_available_providers(): return {providers}")
    assert survey(openvino=False).engines == {"onnxruntime", "onnxruntime-cuda", "onnxruntime-tensorrt"}
