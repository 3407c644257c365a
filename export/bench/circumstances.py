"""Under which circumstances figures were taken: without them they mean nothing."""

from __future__ import annotations

import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from export.bench.document import Machine
from runtime.cores import usable_cores

_PACKAGES = ("maeve", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt", "torch", "numpy")
_CPUINFO = Path("/proc/cpuinfo")
# From the best: what multiplies matrices on a CPU, by the flags that Linux shows.
_MATRIX_UNITS = ("amx_tile", "avx512_bf16", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "asimd")


def machine() -> Machine:
    text = _CPUINFO.read_text() if _CPUINFO.exists() else ""
    found = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    facts = {name.strip(): value.strip() for name, value in found.items()}
    flags = (facts.get("flags") or facts.get("Features") or "").split()
    return Machine(
        cpu=facts.get("model name") or platform.processor() or platform.machine(),
        matrix_unit=next((unit for unit in _MATRIX_UNITS if unit in flags), "unknown"),
        cores=usable_cores(),
        gpus=_gpus(),
        system=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
    )


def software() -> dict[str, str]:
    """Package -> version, of those installed."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """Of the checkout that this code runs from; None where it is an installed package."""
    here = Path(__file__).parent
    if shutil.which("git") is None or not (here.parents[1] / ".git").exists():
        return None
    command = ["git", "-C", str(here), "rev-parse", "--short=12", "HEAD"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - nothing of a caller's
    return answer.stdout.strip() or None


def _gpus() -> tuple[str, ...]:
    if shutil.which("nvidia-smi") is None:
        return ()
    command = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603 - as above
    return tuple(line.strip() for line in answer.stdout.splitlines() if line.strip()) if not answer.returncode else ()
