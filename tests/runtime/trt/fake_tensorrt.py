"""TensorRT made of ONNX Runtime, behind the names and signatures of the `tensorrt` module of TensorRT 11.4.0.

Held against the bindings of 11.4.0.106: classes, methods, names of arguments, enumerations, and which failures are a
return value (False, None) with a line to the logger. An engine holds its ONNX graph and computes it on the CPU, so its
outputs are right if, and only if, shapes, addresses, profiles and the order of calls are. It knows what the real one
documents of its limits: uint8 is for casts alone, QuantizeLinear gives int8 around 0, shapes lie within the profile,
the first call at a shape is not captured, contexts that share scratch memory do not run at once.
"""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Iterator, Sequence
from enum import Enum, IntEnum
from functools import partial
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from runtime.onnx import load_session
from tests.runtime.trt.fake_cuda import FakeCuda, FaultError, Stream

VERSION = "11.4.0.106"
SCRATCH_BYTES = 4096
_ALIGNMENT = 256

Shape = tuple[int, ...]


class _Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    WARNING = 2
    INFO = 3
    VERBOSE = 4


class ILogger:
    Severity = _Severity

    def log(self, severity: _Severity, msg: str) -> None:
        raise NotImplementedError


class IProgressMonitor:
    def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
        raise NotImplementedError

    def step_complete(self, phase_name: str, step: int) -> bool:
        raise NotImplementedError

    def phase_finish(self, phase_name: str) -> None:
        raise NotImplementedError


class MemoryPoolType(Enum):
    WORKSPACE = 0


class BuilderFlag(Enum):
    TF32 = 6


class TensorIOMode(Enum):
    NONE = 0
    INPUT = 1
    OUTPUT = 2


class ExecutionContextAllocationStrategy(Enum):
    STATIC = 0
    ON_PROFILE_CHANGE = 1
    USER_MANAGED = 2


class FakeTensorRT:
    """The module. `builds` lists, for every engine built: precision flags, profiles, and how much timing it was given.

    `capturable`: whether calls may be captured, which some networks refuse. `fail_next` makes the next execution fail
    with this text. `refuse` makes the next build fail with it.
    """

    ILogger = ILogger
    IProgressMonitor = IProgressMonitor
    MemoryPoolType = MemoryPoolType
    BuilderFlag = BuilderFlag
    TensorIOMode = TensorIOMode
    ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy

    def __init__(self, cuda: FakeCuda, version: str = VERSION) -> None:
        self.__version__ = version
        self.cuda = cuda
        self.capturable = True
        self.fail_next: str | None = None
        self.refuse: str | None = None
        self.builds: list[dict[str, Any]] = []
        self.contexts = 0
        self.busy_scratch: set[int] = set()
        self.lock = threading.Lock()
        self.Builder = partial(Builder, self)
        self.OnnxParser = OnnxParser
        self.Runtime = partial(Runtime, self)

    @staticmethod
    def nptype(trt_type: str) -> Any:
        return np.dtype(trt_type).type

    @property
    def platform(self) -> str:
        return f"sm{self.cuda.sm} {self.__version__}"


# Building


class INetworkDefinition:
    def __init__(self) -> None:
        self.model: onnx.ModelProto | None = None


class IParserError:
    def __init__(self, node: onnx.NodeProto, text: str) -> None:
        self._node, self._text = node, text

    def desc(self) -> str:
        return self._text

    def node_name(self) -> str:
        return self._node.name

    def node_operator(self) -> str:
        return self._node.op_type


class OnnxParser:
    def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
        self._network, self._logger = network, logger
        self._errors: list[IParserError] = []

    def parse_from_file(self, model: str) -> bool:
        parsed = onnx.load(model)  # with the weights beside it
        self._errors = list(_unsupported(parsed.graph))
        if not self._errors:
            self._network.model = parsed
        return not self._errors

    @property
    def num_errors(self) -> int:
        return len(self._errors)

    def get_error(self, index: int) -> IParserError:
        return self._errors[index]


def _unsupported(graph: onnx.GraphProto) -> Iterator[IParserError]:
    raw = {t.name for t in graph.input if t.type.tensor_type.elem_type == onnx.TensorProto.UINT8}
    for node in graph.node:
        if raw & set(node.input) and node.op_type != "Cast":
            yield IParserError(node, "UINT8 is only supported\n as network input or output tensor types")
        if node.op_type in ("DynamicQuantizeLinear", "MatMulInteger"):
            yield IParserError(node, "is not supported")


class IOptimizationProfile:
    def __init__(self) -> None:
        self.shapes: dict[str, list[Shape]] = {}

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None:  # noqa: A002 - TensorRT's names
        assert len(min) == len(opt) == len(max)
        assert all(0 <= a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
        self.shapes[input] = [tuple(min), tuple(opt), tuple(max)]


class IHostMemory:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def __bytes__(self) -> bytes:
        return self._content


class ITimingCache:
    def __init__(self, platform: str, entries: int) -> None:
        self.platform, self.entries = platform, entries

    def serialize(self) -> IHostMemory:
        return IHostMemory(json.dumps([self.platform, self.entries]).encode())


class IBuilderConfig:
    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger
        self.builder_optimization_level = 3
        self.progress_monitor: IProgressMonitor | None = None
        self.flags = {BuilderFlag.TF32}
        self.profiles: list[IOptimizationProfile] = []
        self.pools: dict[MemoryPoolType, int] = {}
        self._timing: ITimingCache | None = None

    def set_memory_pool_limit(self, pool: MemoryPoolType, pool_size: int) -> None:
        self.pools[pool] = pool_size

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
        self.profiles.append(profile)
        return len(self.profiles) - 1 if profile.shapes else -1

    def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
        if not serialized_timing_cache:
            return ITimingCache(self._trt.platform, 0)
        try:
            return ITimingCache(*json.loads(serialized_timing_cache))
        except ValueError:
            self._logger.log(_Severity.ERROR, "not a timing cache")
            return None

    def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
        if cache.platform != self._trt.platform and not ignore_mismatch:
            return False
        self._timing = cache
        return True

    def get_timing_cache(self) -> ITimingCache | None:
        return self._timing


class Builder:
    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger

    def create_network(self, flags: int = 0) -> INetworkDefinition:
        assert flags == 0, "STRONGLY_TYPED is deprecated, and the rest is gone"
        return INetworkDefinition()

    def create_builder_config(self) -> IBuilderConfig:
        return IBuilderConfig(self._trt, self._logger)

    def create_optimization_profile(self) -> IOptimizationProfile:
        return IOptimizationProfile()

    def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
        assert network.model is not None
        assert config.profiles, "the network has dynamic inputs but no optimization profile"
        timing = config.get_timing_cache()
        assert timing is not None
        if self._trt.refuse is not None:
            self._logger.log(_Severity.ERROR, self._trt.refuse)
            return None
        if config.progress_monitor is not None and not _report(config.progress_monitor):
            self._logger.log(_Severity.ERROR, "the build was cancelled")
            return None
        self._trt.builds.append(
            {"flags": set(config.flags), "profiles": [p.shapes for p in config.profiles], "timing": timing.entries}
        )
        timing.entries += 1
        plan = {
            "platform": self._trt.platform,
            "profiles": [p.shapes for p in config.profiles],
            "onnx": base64.b64encode(network.model.SerializeToString()).decode(),
        }
        return IHostMemory(json.dumps(plan).encode())


def _report(monitor: IProgressMonitor) -> bool:
    """Two phases, one within the other, as TensorRT tells of them."""
    monitor.phase_start("Building Engine", None, 2)
    go_on = monitor.step_complete("Building Engine", 0)
    if go_on:
        monitor.phase_start("Timing", "Building Engine", 4)
        go_on = all(monitor.step_complete("Timing", step) for step in range(4))
        monitor.phase_finish("Timing")
        go_on = go_on and monitor.step_complete("Building Engine", 1)
    monitor.phase_finish("Building Engine")
    return go_on


# Running


class Runtime:
    def __init__(self, trt: FakeTensorRT, logger: ILogger) -> None:
        self._trt, self._logger = trt, logger

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> ICudaEngine | None:
        try:
            plan = json.loads(serialized_engine)
        except ValueError:
            self._logger.log(_Severity.ERROR, "Magic tag does not match")
            return None
        if plan["platform"] != self._trt.platform:
            self._logger.log(_Severity.ERROR, "The engine plan file is not compatible with this version of TensorRT")
            return None
        return ICudaEngine(self._trt, self._logger, plan)


class ICudaEngine:
    device_memory_size_v2 = SCRATCH_BYTES

    def __init__(self, trt: FakeTensorRT, logger: ILogger, plan: dict[str, Any]) -> None:
        self.trt, self.logger = trt, logger
        content = base64.b64decode(plan["onnx"])
        graph = onnx.load_model_from_string(content).graph
        self.session = load_session(content)
        self.inputs: dict[str, tuple[str, Shape]] = {tensor.name: _describe(tensor) for tensor in graph.input}
        self.outputs: dict[str, tuple[str, Shape]] = {tensor.name: _describe(tensor) for tensor in graph.output}
        self.profiles: list[dict[str, list[list[int]]]] = plan["profiles"]
        self.num_io_tensors = len(self.inputs) + len(self.outputs)
        self.num_optimization_profiles = len(self.profiles)

    def get_tensor_name(self, index: int) -> str:
        return [*self.inputs, *self.outputs][index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return TensorIOMode.INPUT if name in self.inputs else TensorIOMode.OUTPUT

    def get_tensor_dtype(self, name: str) -> str:
        return (self.inputs | self.outputs)[name][0]

    def get_tensor_shape(self, name: str) -> Shape:
        return (self.inputs | self.outputs)[name][1]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[list[int]]:
        return self.profiles[profile_index][name]

    def create_execution_context(
        self, strategy: ExecutionContextAllocationStrategy = ExecutionContextAllocationStrategy.STATIC
    ) -> IExecutionContext:
        assert strategy is ExecutionContextAllocationStrategy.USER_MANAGED, "each would take scratch memory of its own"
        with self.trt.lock:
            self.trt.contexts += 1
        return IExecutionContext(self)


def _describe(tensor: onnx.ValueInfoProto) -> tuple[str, Shape]:
    kind = tensor.type.tensor_type
    dtype = str(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name)
    return dtype, tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)


class IExecutionContext:
    def __init__(self, engine: ICudaEngine) -> None:
        self._engine, self._trt = engine, engine.trt
        self._scratch = 0
        self._profile = 0
        self._shapes: dict[str, Shape] = {}
        self._addresses: dict[str, int] = {}
        self._settled = False  # whether a call at these shapes has been made

    def set_device_memory(self, memory: int, size: int) -> None:
        assert memory % _ALIGNMENT == 0
        assert size >= self._engine.device_memory_size_v2
        self._scratch = memory

    def set_optimization_profile_async(self, profile_index: int, stream_handle: int) -> bool:
        assert stream_handle in self._trt.cuda.streams
        self._profile, self._shapes, self._settled = profile_index, {}, False
        return profile_index < self._engine.num_optimization_profiles

    def set_input_shape(self, name: str, shape: Shape) -> bool:
        least, _, greatest = self._engine.profiles[self._profile][name]
        if not all(a <= size <= b for a, size, b in zip(least, shape, greatest, strict=True)):
            return self._fail(f"{name}: {shape} is out of the range of profile {self._profile}")
        self._shapes[name], self._settled = shape, False
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        if memory % _ALIGNMENT or name not in self._engine.inputs | self._engine.outputs:
            return self._fail(f"{name}: no such tensor, or a crooked address")
        self._addresses[name] = memory
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        trt, stream = self._trt, self._trt.cuda.streams[stream_handle]
        if trt.fail_next is not None:
            text, trt.fail_next = trt.fail_next, None
            return self._fail(text)
        if set(self._shapes) != set(self._engine.inputs) or not self._scratch:
            return self._fail("an input shape or the scratch memory is not set")
        if set(self._addresses) != {*self._engine.inputs, *self._engine.outputs}:
            return self._fail("a tensor address is not set")
        if stream.captured is not None and not (self._settled and trt.capturable):
            stream.capture_is_valid = False
            return self._fail("the call waits for the device, which cannot be captured")
        self._settled = True
        return self._enqueue(stream)

    def _enqueue(self, stream: Stream) -> bool:
        if stream.captured is None:
            with self._trt.lock:
                self._trt.cuda.executions += 1
        work = partial(self._compute, dict(self._shapes), dict(self._addresses), self._scratch)
        return self._trt.cuda.enqueue(stream, work) == 0

    def _compute(self, shapes: dict[str, Shape], addresses: dict[str, int], scratch: int) -> None:
        with self._trt.lock:
            if scratch in self._trt.busy_scratch:
                raise FaultError("two calls write to the same scratch memory")
            self._trt.busy_scratch.add(scratch)
        try:
            self._memory(scratch, SCRATCH_BYTES)
            inputs = {
                name: self._memory(addresses[name], _nbytes(shape, dtype)).view(dtype).reshape(shape)
                for name, (dtype, shape) in ((n, (self._engine.inputs[n][0], s)) for n, s in shapes.items())
            }
            names = list(self._engine.outputs)
            for name, value in zip(names, self._engine.session.run(names, inputs), strict=True):
                self._memory(addresses[name], value.nbytes)[:] = np.ascontiguousarray(value).reshape(-1).view(np.uint8)
        finally:
            with self._trt.lock:
                self._trt.busy_scratch.remove(scratch)

    def _memory(self, address: int, nbytes: int) -> NDArray[np.uint8]:
        return self._trt.cuda.resolve(address, nbytes, self._trt.cuda.device)

    def _fail(self, text: str) -> bool:
        self._engine.logger.log(_Severity.ERROR, text)
        return False


def _nbytes(shape: Sequence[int], dtype: str) -> int:
    return int(np.prod(shape)) * np.dtype(dtype).itemsize
