"""The most arithmetic that this machine was seen to do: products of square matrices, in memory already, nothing else.

A data sheet promises what no program reaches, and knows neither this machine's clock nor its neighbours. torch and ONNX
Runtime call the vendors' own kernels (oneDNN, MLAS, cuBLAS), so what they reach here is what an engine could.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

# The best side is found by trying: small matrices stay in a cache, large ones keep all threads or the whole GPU busy.
_SIDES = {"cpu": (256, 512, 1024), "cuda": (4096, 8192)}


def matrix_peak(device: str, precision: str, *, threads: int, seconds: float) -> dict[str, Any] | None:
    """{"flops_per_s", "by", "side"} of the quickest product of two square matrices; 2 * side^3 FLOPs each.

    `device`: "cpu" or "cuda:0". `precision`: fp32 (on a GPU too: without TF32, as the engines), bf16, fp16 or int8.
    `seconds`: for all sides together. None where nothing here measures it: a GPU without a torch that is built for it.
    """
    kind = device.partition(":")[0]
    best: dict[str, Any] | None = None
    for side in _SIDES[kind]:
        made: tuple[str, Callable[[], object]] | None
        if (kind, precision) == ("cpu", "int8"):
            made = _onnx_int8(side, threads)
        else:
            made = _torch(side, device, precision, threads)
        if made is None:
            return None
        by, product = made
        flops = 2 * side**3 / _quickest(product, seconds / len(_SIDES[kind]))
        if best is None or flops > best["flops_per_s"]:
            best = {"flops_per_s": flops, "by": by, "side": side}
    return best


def _torch(side: int, device: str, precision: str, threads: int) -> tuple[str, Callable[[], object]] | None:
    try:
        import torch
    except ImportError:
        return None
    if device != "cpu" and not torch.cuda.is_available():
        return None
    torch.set_num_threads(threads)
    torch.backends.cuda.matmul.allow_tf32 = False
    generator = torch.Generator().manual_seed(0)
    if precision == "int8":
        a, b = (torch.randint(-128, 128, (side, side), generator=generator, dtype=torch.int8) for _ in range(2))
        multiply: Callable[..., Any] = torch._int_mm
    else:
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        a, b = (torch.randn(side, side, generator=generator).to(dtype) for _ in range(2))
        multiply = torch.mm
    a, b = a.to(device), b.to(device)

    def product() -> None:
        multiply(a, b)
        if device != "cpu":
            torch.cuda.synchronize(device)

    return f"torch {torch.__version__}", product


def _onnx_int8(side: int, threads: int) -> tuple[str, Callable[[], object]]:
    """u8 times i8 into i32: the product of a dynamically quantized graph."""
    from runtime.telemetry import silence

    silence()
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    weights = numpy_helper.from_array(rng.integers(-127, 128, (side, side), np.int8), "b")
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMulInteger", ["a", "b"], ["c"])], "product",
        [value("a", TensorProto.UINT8, [side, side])], [value("c", TensorProto.INT32, [side, side])], [weights],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = {"a": rng.integers(0, 256, (side, side), np.uint8)}
    return f"onnxruntime {onnxruntime.__version__}", lambda: session.run(None, inputs)


def _quickest(call: Callable[[], object], seconds: float) -> float:
    """Seconds of the quickest call, of all in `seconds` and at least two after the first."""
    call()
    begin, best, number = time.perf_counter(), float("inf"), 0
    while number < 2 or time.perf_counter() - begin < seconds:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
        number += 1
    return best
