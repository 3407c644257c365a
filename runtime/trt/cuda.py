"""The few calls of CUDA that running an engine takes, their error codes turned into exceptions.

Only the memory that an engine reads and writes is handled here; TensorRT allocates its weights by itself.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory, RuntimeUnavailable
from runtime.trt.libraries import DRIVER


class Cuda:
    """One GPU. `api`: the module cuda.bindings.runtime. `sm`: the architecture that engines are built for, "sm_90".

    Addresses are ints; streams, events and graphs are the bindings' own objects. Who makes something gives it back.
    RuntimeUnavailable, saying what to install or to check, if there is no such GPU. After that every method raises
    OutOfMemory where memory is what lacks, else InferenceError with CUDA's text.
    """

    def __init__(self, gpu: int, api: Any) -> None:
        self.gpu = gpu
        self._api = api
        self._check_device()
        attribute = api.cudaDeviceAttr
        major, minor = (
            self._value(api.cudaDeviceGetAttribute(which, gpu))
            for which in (attribute.cudaDevAttrComputeCapabilityMajor, attribute.cudaDevAttrComputeCapabilityMinor)
        )
        self.sm = f"sm_{major}{minor}"
        self.use()

    def use(self) -> None:
        """Make this GPU the calling thread's. Every thread starts on GPU 0."""
        self._check(self._api.cudaSetDevice(self.gpu))

    def malloc(self, nbytes: int) -> int:
        """Device memory, aligned to 256 bytes at least."""
        return int(self._value(self._api.cudaMalloc(nbytes)))

    def free(self, address: int) -> None:
        self._check(self._api.cudaFree(address))

    def malloc_pinned(self, nbytes: int) -> NDArray[np.uint8]:
        """[nbytes]: host memory that the GPU copies from and to by itself. To be given to `free_pinned`."""
        address = int(self._value(self._api.cudaHostAlloc(nbytes, self._api.cudaHostAllocDefault)))
        return np.ctypeslib.as_array((ctypes.c_uint8 * nbytes).from_address(address))

    def free_pinned(self, memory: NDArray[np.uint8]) -> None:
        """No view of `memory` may be used again."""
        self._check(self._api.cudaFreeHost(memory.ctypes.data))

    def make_stream(self) -> Any:
        """A stream that does not wait for the default one, which other libraries in the process may use."""
        return self._value(self._api.cudaStreamCreateWithFlags(self._api.cudaStreamNonBlocking))

    def destroy_stream(self, stream: Any) -> None:
        self._check(self._api.cudaStreamDestroy(stream))

    def synchronize(self, stream: Any) -> None:
        self._check(self._api.cudaStreamSynchronize(stream))

    def make_event(self) -> Any:
        """An event whose waiting thread sleeps: the default would keep a core busy that could decode images."""
        flags = self._api.cudaEventBlockingSync | self._api.cudaEventDisableTiming
        return self._value(self._api.cudaEventCreateWithFlags(flags))

    def destroy_event(self, event: Any) -> None:
        self._check(self._api.cudaEventDestroy(event))

    def wait(self, event: Any, stream: Any) -> None:
        """Until all that `stream` was given is done."""
        self._check(self._api.cudaEventRecord(event, stream))
        self._check(self._api.cudaEventSynchronize(event))

    def copy_to_device(self, address: int, memory: NDArray[np.uint8], stream: Any) -> None:
        """Queue a copy of pinned `memory`, which must stay as it is until the copy is done."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._check(self._api.cudaMemcpyAsync(address, memory.ctypes.data, memory.nbytes, kind, stream))

    def copy_to_host(self, memory: NDArray[np.uint8], address: int, stream: Any) -> None:
        """Queue a copy into pinned `memory`."""
        kind = self._api.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._check(self._api.cudaMemcpyAsync(memory.ctypes.data, address, memory.nbytes, kind, stream))

    def capture(self, stream: Any, queue: Callable[[], None]) -> Any:
        """What `queue` puts on `stream`, as a graph to launch: it does not run now. To be given to `destroy_graph`.

        InferenceError where something that `queue` does cannot be captured; the stream is usable again.
        """
        # Thread-local: what other lanes do meanwhile, such as allocating, neither joins this capture nor spoils it.
        mode = self._api.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._check(self._api.cudaStreamBeginCapture(stream, mode))
        try:
            queue()
        except BaseException:
            self._api.cudaStreamEndCapture(stream)  # its complaint is but a consequence
            raise
        graph = self._value(self._api.cudaStreamEndCapture(stream))
        try:
            return self._value(self._api.cudaGraphInstantiate(graph, 0))
        finally:
            self._check(self._api.cudaGraphDestroy(graph))

    def launch(self, graph: Any, stream: Any) -> None:
        self._check(self._api.cudaGraphLaunch(graph, stream))

    def destroy_graph(self, graph: Any) -> None:
        self._check(self._api.cudaGraphExecDestroy(graph))

    def _check_device(self) -> None:
        error, count = self._api.cudaGetDeviceCount()
        codes = self._api.cudaError_t
        if error == codes.cudaErrorInsufficientDriver:
            _, version = self._api.cudaDriverGetVersion()  # 13000 is CUDA 13.0; 0 is no driver at all
            if not version:
                raise RuntimeUnavailable(f"there is no NVIDIA driver; install version {DRIVER}")
            known = f"CUDA {version // 1000}.{version % 1000 // 10}"
            raise RuntimeUnavailable(f"the NVIDIA driver is too old, it knows {known}; install version {DRIVER}")
        if error == codes.cudaErrorNoDevice or (error == codes.cudaSuccess and self.gpu >= count):
            raise RuntimeUnavailable(
                f"there is no GPU {self.gpu}: CUDA finds {count or 0}; check nvidia-smi and CUDA_VISIBLE_DEVICES"
            )
        if error != codes.cudaSuccess:
            raise RuntimeUnavailable(f"CUDA does not start: {self._text(error)}; check nvidia-smi")

    def _check(self, result: tuple[Any, ...]) -> None:
        error = result[0]
        if error == self._api.cudaError_t.cudaSuccess:
            return
        kind = OutOfMemory if error == self._api.cudaError_t.cudaErrorMemoryAllocation else InferenceError
        raise kind(f"CUDA: {self._text(error)}")

    def _value(self, result: tuple[Any, ...]) -> Any:
        self._check(result)
        return result[1]

    def _text(self, error: Any) -> str:
        _, text = self._api.cudaGetErrorString(error)
        return f"{text.decode()} ({error.name})"
