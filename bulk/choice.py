"""Which engine makes the vectors: settled once, before any of them, so that all are made by the same."""

from __future__ import annotations

from typing import Any

from bulk.embed import EmbedConfig
from bulk.record import Engine, RunRecord
from bundle.manifest import Manifest
from runtime import PrecisionName, RuntimeName
from runtime.machine import EngineName, survey
from runtime.select import choose

_NAMES: dict[EngineName, RuntimeName] = {
    "onnxruntime": "onnxruntime", "onnxruntime-cuda": "onnxruntime", "onnxruntime-tensorrt": "onnxruntime-tensorrt",
    "openvino": "openvino", "tensorrt": "tensorrt",
}  # fmt: skip


def chosen(manifest: Manifest, config: EmbedConfig, before: RunRecord | None, ray: Any) -> Engine:
    """What is asked for; where that is auto, what the run began with; where it begins, the best of what is there.

    ray: connected, where the machines that compute are others than this one; one of them is asked then. Raises as
    runtime.open_runtime.
    """
    runtime, device, precision = config.runtime, config.device, config.precision
    if before is not None:
        runtime = before.engine.runtime if runtime == "auto" else runtime
        device = before.engine.device if device == "auto" else device
        precision = before.engine.precision if precision == "auto" else precision
    if ray is None or runtime == "fake":
        return _best(manifest, runtime, device, precision)
    num_gpus = 1 if device != "cpu" and ray.cluster_resources().get("GPU") else 0
    ask = ray.remote(_best).options(num_cpus=0.5, num_gpus=num_gpus)
    try:
        found: Engine = ray.get(ask.remote(manifest, runtime, device, precision))
    except ray.exceptions.RayTaskError as e:
        raise e.cause from e
    return found


def _best(manifest: Manifest, runtime: RuntimeName, device: str, precision: PrecisionName) -> Engine:
    if runtime == "fake":
        return Engine(runtime="fake", device="cpu", precision="fp32")
    choice = choose(manifest, runtime, device=device, precision=precision, machine=survey())
    return Engine(
        runtime=_NAMES[choice.engine], device="cpu" if choice.gpu is None else "cuda", precision=choice.precision
    )
