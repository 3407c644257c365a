"""The worker of `benchmarks.engines`: our engines, and what a user would otherwise run, behind the same requests.

python -m benchmarks.engines_worker    started by benchmarks.engines alone
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from bundle.manifest import GraphName
from bundle.store import Bundle
from export.bench.worker import OPENERS, serve
from mae.config import MAEConfig
from mae.model import MaskedAutoencoder
from runtime.base import Arrays, ServedPrecision

_NAMES = ("cls", "mean", "tokens")


def random_network(config: MAEConfig) -> MaskedAutoencoder:
    """The same weights for the same shape, in every process."""
    import torch

    torch.manual_seed(0)
    return MaskedAutoencoder(config)


class PlainOnnx:
    """ONNX Runtime as its first example shows it: one session, all of its defaults."""

    name = "onnxruntime, plain"
    device = "cpu"
    lanes = 1
    max_batch = 8
    buckets: tuple[int, ...] = ()

    def __init__(self, bundle: Bundle, arguments: Mapping[str, Any]) -> None:
        del arguments
        from runtime.telemetry import silence

        silence()
        import onnxruntime

        self.precision: ServedPrecision = "fp32"
        self.details: Mapping[str, str | int] = {"version": onnxruntime.__version__}
        file = bundle.graph_file("encoder")
        self._session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        del graph
        names = list(wanted or _NAMES)
        return dict(zip(names, self._session.run(names, dict(inputs)), strict=True))

    def close(self) -> None:
        del self._session


class TorchEncoder:
    """The exported module itself, in torch, with the weights of `random_network`; from host to host, as the engines.

    arguments: `device`, `precision` fp32 (without TF32, as the engines have it) or fp16, whose weights are halves as in
    the fp16 graph, `compiled`. Two threads on a GPU, a stream each, so that one copies while the other computes.
    """

    name = "torch"
    max_batch = 8
    buckets: tuple[int, ...] = ()

    def __init__(self, bundle: Bundle, arguments: Mapping[str, Any]) -> None:
        import torch

        from export.plan import plan_graphs

        self._torch = torch
        self.device: str = arguments["device"]
        self.precision: ServedPrecision = arguments["precision"]
        self.lanes = 1 if self.device == "cpu" else 2
        self.details: Mapping[str, str | int] = {"version": torch.__version__}
        torch.backends.cuda.matmul.allow_tf32 = False
        encoder = plan_graphs(random_network(_config(bundle)), None)[0]
        module = encoder.module(half=self.precision == "fp16").eval().to(self.device)
        self._module = torch.compile(module, dynamic=False) if arguments["compiled"] else module
        self._local = threading.local()

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        del graph
        if self.device == "cpu":
            return self._outputs(inputs, wanted)
        if not hasattr(self._local, "stream"):
            self._local.stream = self._torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
        with self._torch.cuda.stream(self._local.stream):
            return self._outputs(inputs, wanted)

    def _outputs(self, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None) -> Arrays:
        torch = self._torch
        with torch.inference_mode():
            tensors = [torch.from_numpy(inputs[name]) for name in ("images", "ids_keep")]
            if self.device != "cpu":
                tensors = [t.pin_memory().to(self.device, non_blocking=True) for t in tensors]
            outputs = dict(zip(_NAMES, self._module(*tensors), strict=True))
            return {name: outputs[name].cpu().numpy() for name in wanted or _NAMES}

    def close(self) -> None:
        del self._module


def _config(bundle: Bundle) -> MAEConfig:
    model, preprocess = bundle.manifest.model, bundle.manifest.preprocess
    return MAEConfig(
        image_size=model.image_size, patch_size=model.patch_size, channels=model.channels, dim=model.dim,
        depth=model.depth, heads=model.heads, mlp_ratio=model.mlp_ratio, mean=preprocess.mean, std=preprocess.std,
    )  # fmt: skip


if __name__ == "__main__":
    serve({**OPENERS, "plain": PlainOnnx, "torch": TorchEncoder})
