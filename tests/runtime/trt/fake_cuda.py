"""A GPU made of NumPy, behind the names and signatures of `cuda.bindings.runtime` as of cuda-bindings 13.5.0.

It is as strict as a GPU, and stricter where a GPU would let a mistake pass unseen. What is queued on a stream runs no
sooner than somebody waits for it, so a missing wait gives stale numbers every time. Every address is looked up, so a
copy beyond a block or after its `cudaFree` fails. A stream refuses to be waited for while it is captured, and a thread
must have chosen the stream's GPU.
"""

# ruff: noqa: N801, N802, N815 - CUDA's names

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

Work = Callable[[], None]
_FIRST_ADDRESS = 0x7F00_0000_0000
_PAGE = 2**21


class FaultError(Exception):
    """What a kernel or copy does wrong while it runs; whoever waits for it is told."""


class cudaError_t(IntEnum):
    cudaSuccess = 0
    cudaErrorInvalidValue = 1
    cudaErrorMemoryAllocation = 2
    cudaErrorInsufficientDriver = 35
    cudaErrorNoDevice = 100
    cudaErrorInvalidDevice = 101
    cudaErrorInvalidResourceHandle = 400
    cudaErrorIllegalAddress = 700
    cudaErrorStreamCaptureUnsupported = 900
    cudaErrorStreamCaptureInvalidated = 901


class cudaDeviceAttr(IntEnum):
    cudaDevAttrComputeCapabilityMajor = 75
    cudaDevAttrComputeCapabilityMinor = 76


class cudaMemcpyKind(IntEnum):
    cudaMemcpyHostToHost = 0
    cudaMemcpyHostToDevice = 1
    cudaMemcpyDeviceToHost = 2


class cudaStreamCaptureMode(IntEnum):
    cudaStreamCaptureModeGlobal = 0
    cudaStreamCaptureModeThreadLocal = 1
    cudaStreamCaptureModeRelaxed = 2


_TEXTS = {
    cudaError_t.cudaErrorMemoryAllocation: b"out of memory",
    cudaError_t.cudaErrorIllegalAddress: b"an illegal memory access was encountered",
    cudaError_t.cudaErrorStreamCaptureInvalidated: b"operation failed due to a previous error during capture",
}


@dataclass(eq=False)
class Stream:
    gpu: int
    handle: int
    queued: list[Work] = field(default_factory=list)
    captured: list[Work] | None = None  # while a capture goes on
    capture_is_valid: bool = True

    def __int__(self) -> int:
        return self.handle


@dataclass(eq=False)
class Event:
    stream: Stream | None = None


@dataclass(eq=False)
class Graph:
    work: list[Work]
    alive: bool = True


class FakeCuda:
    """`driver`: 13000 is CUDA 13.0, 0 none. `memory`: bytes of the GPU, and of the host for pinned memory.

    `launches` counts CUDA graphs launched, `captures` those captured, `executions` what reached a stream by itself.
    """

    cudaStreamNonBlocking = 1
    cudaEventBlockingSync = 1
    cudaEventDisableTiming = 2
    cudaHostAllocDefault = 0

    def __init__(
        self, gpus: int = 1, sm: tuple[int, int] = (9, 0), *, driver: int = 13000, memory: int = 2**28
    ) -> None:
        self.gpus, self.sm, self.driver, self.memory = gpus, sm, driver, memory
        self.cudaError_t, self.cudaDeviceAttr = cudaError_t, cudaDeviceAttr
        self.cudaMemcpyKind, self.cudaStreamCaptureMode = cudaMemcpyKind, cudaStreamCaptureMode
        self.device: dict[int, NDArray[np.uint8]] = {}
        self.host: dict[int, NDArray[np.uint8]] = {}
        self.streams: dict[int, Stream] = {}
        self.events: set[Event] = set()
        self.graphs: set[Graph] = set()
        self.launches = self.captures = self.executions = 0
        self.recordings = 0  # cudaGraph_t that live
        self._next, self._next_handle = _FIRST_ADDRESS, 1000
        self._lock = threading.Lock()
        self._thread = threading.local()

    # The device

    def cudaGetDeviceCount(self) -> tuple[Any, ...]:
        if not self.driver:
            return cudaError_t.cudaErrorInsufficientDriver, None
        return (cudaError_t.cudaSuccess, self.gpus) if self.gpus else (cudaError_t.cudaErrorNoDevice, None)

    def cudaDriverGetVersion(self) -> tuple[Any, ...]:
        return cudaError_t.cudaSuccess, self.driver

    def cudaDeviceGetAttribute(self, attr: cudaDeviceAttr, device: int) -> tuple[Any, ...]:
        del device
        return cudaError_t.cudaSuccess, self.sm[attr - cudaDeviceAttr.cudaDevAttrComputeCapabilityMajor]

    def cudaSetDevice(self, device: int) -> tuple[Any, ...]:
        self._thread.gpu = device
        return (cudaError_t.cudaSuccess if device < self.gpus else cudaError_t.cudaErrorInvalidDevice,)

    def cudaGetErrorString(self, error: cudaError_t) -> tuple[Any, bytes]:
        return cudaError_t.cudaSuccess, _TEXTS.get(error, error.name.encode())

    # Memory

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        with self._lock:
            if sum(block.nbytes for block in self.device.values()) + size > self.memory:
                return cudaError_t.cudaErrorMemoryAllocation, None
            address = self._next
            self._next += -(-size // _PAGE) * _PAGE + _PAGE  # blocks do not touch: one byte too far is an error
            self.device[address] = np.full(size, 0xA5, np.uint8)
        return cudaError_t.cudaSuccess, address

    def cudaFree(self, devPtr: int) -> tuple[Any, ...]:  # noqa: N803
        with self._lock:
            known = self.device.pop(devPtr, None) is not None
        return (cudaError_t.cudaSuccess if known else cudaError_t.cudaErrorInvalidValue,)

    def cudaHostAlloc(self, size: int, flags: int) -> tuple[Any, ...]:
        del flags
        if size > self.memory:
            return cudaError_t.cudaErrorMemoryAllocation, None
        block = np.full(size, 0x5A, np.uint8)
        self.host[block.ctypes.data] = block
        return cudaError_t.cudaSuccess, block.ctypes.data

    def cudaFreeHost(self, ptr: int) -> tuple[Any, ...]:
        known = self.host.pop(ptr, None) is not None
        return (cudaError_t.cudaSuccess if known else cudaError_t.cudaErrorInvalidValue,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: cudaMemcpyKind, stream: Stream) -> tuple[Any, ...]:
        to_device = kind == cudaMemcpyKind.cudaMemcpyHostToDevice

        def copy() -> None:
            target = self.resolve(dst, count, self.device if to_device else self.host)
            target[:] = self.resolve(src, count, self.host if to_device else self.device)

        return (self.enqueue(stream, copy),)

    def resolve(self, address: int, nbytes: int, blocks: dict[int, NDArray[np.uint8]]) -> NDArray[np.uint8]:
        """The bytes at `address`. FaultError unless one living block holds them all."""
        for start, block in list(blocks.items()):
            if start <= address and address + nbytes <= start + block.nbytes:
                return block[address - start : address - start + nbytes]
        raise FaultError(f"{nbytes} bytes at {address:#x} are nobody's")

    # Streams and events

    def cudaStreamCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaStreamNonBlocking
        with self._lock:
            self._next_handle += 1
            stream = Stream(self._gpu, self._next_handle)
            self.streams[stream.handle] = stream
        return cudaError_t.cudaSuccess, stream

    def cudaStreamDestroy(self, stream: Stream) -> tuple[Any, ...]:
        del self.streams[stream.handle]
        return (cudaError_t.cudaSuccess,)

    def cudaStreamSynchronize(self, stream: Stream) -> tuple[Any, ...]:
        if stream.captured is not None:
            stream.capture_is_valid = False
            return (cudaError_t.cudaErrorStreamCaptureUnsupported,)
        return (self._finish(stream),)

    def cudaEventCreateWithFlags(self, flags: int) -> tuple[Any, ...]:
        assert flags == self.cudaEventBlockingSync | self.cudaEventDisableTiming
        event = Event()
        self.events.add(event)
        return cudaError_t.cudaSuccess, event

    def cudaEventRecord(self, event: Event, stream: Stream) -> tuple[Any, ...]:
        event.stream = stream
        return (cudaError_t.cudaSuccess,)

    def cudaEventSynchronize(self, event: Event) -> tuple[Any, ...]:
        assert event.stream is not None
        return (self._finish(event.stream),)

    def cudaEventDestroy(self, event: Event) -> tuple[Any, ...]:
        self.events.remove(event)
        return (cudaError_t.cudaSuccess,)

    # Graphs

    def cudaStreamBeginCapture(self, stream: Stream, mode: cudaStreamCaptureMode) -> tuple[Any, ...]:
        assert mode == cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal, "other threads would disturb it"
        stream.captured, stream.capture_is_valid = [], True
        return (cudaError_t.cudaSuccess,)

    def cudaStreamEndCapture(self, stream: Stream) -> tuple[Any, ...]:
        work, stream.captured = stream.captured, None
        if not stream.capture_is_valid:
            return cudaError_t.cudaErrorStreamCaptureInvalidated, None
        assert work is not None
        with self._lock:
            self.captures += 1
            self.recordings += 1
        return cudaError_t.cudaSuccess, work

    def cudaGraphInstantiate(self, graph: list[Work], flags: int) -> tuple[Any, ...]:
        assert flags == 0
        instance = Graph(list(graph))
        self.graphs.add(instance)
        return cudaError_t.cudaSuccess, instance

    def cudaGraphDestroy(self, graph: list[Work]) -> tuple[Any, ...]:
        graph.clear()
        with self._lock:
            self.recordings -= 1
        return (cudaError_t.cudaSuccess,)

    def cudaGraphLaunch(self, graphExec: Graph, stream: Stream) -> tuple[Any, ...]:  # noqa: N803
        if not graphExec.alive:
            return (cudaError_t.cudaErrorInvalidResourceHandle,)
        with self._lock:
            self.launches += 1

        def replay() -> None:
            for work in graphExec.work:
                work()

        return (self.enqueue(stream, replay),)

    def cudaGraphExecDestroy(self, graphExec: Graph) -> tuple[Any, ...]:  # noqa: N803
        graphExec.alive = False
        self.graphs.remove(graphExec)
        return (cudaError_t.cudaSuccess,)

    # For the tests and for TensorRT

    @property
    def is_empty(self) -> bool:
        """Whether everything that was made has been given back."""
        return not any((self.device, self.host, self.streams, self.events, self.graphs, self.recordings))

    def enqueue(self, stream: Stream, work: Work) -> cudaError_t:
        if stream.handle not in self.streams or stream.gpu != self._gpu:
            return cudaError_t.cudaErrorInvalidResourceHandle
        (stream.queued if stream.captured is None else stream.captured).append(work)
        return cudaError_t.cudaSuccess

    @property
    def _gpu(self) -> int:
        return getattr(self._thread, "gpu", 0)

    def _finish(self, stream: Stream) -> cudaError_t:
        queued, stream.queued = stream.queued, []
        try:
            for work in queued:
                work()
        except FaultError:
            return cudaError_t.cudaErrorIllegalAddress
        return cudaError_t.cudaSuccess
