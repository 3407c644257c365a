"""Host memory that a GPU reads directly, by CUDA's driver alone: from pageable memory a copy takes an extra hop."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import weakref
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.machine import load_driver

log = logging.getLogger(__name__)

_PORTABLE = 0x01  # CU_MEMHOSTREGISTER_PORTABLE: pinned for every context, that of CUDA's runtime included
_SUCCESS = 0
_MIN_BYTES = 2**16


class PinnedBuffer:
    """Memory for one call's array, kept from call to call and enlarged on demand. For one thread at a time.

    Without a driver, or where it refuses, the memory is ordinary: slower, and as correct.
    """

    def __init__(self, gpu: int, driver: Any = None) -> None:
        """`driver`: libcuda as ctypes loads it; None loads it."""
        driver = load_driver() if driver is None else driver
        self._context = None if driver is None else _open_context(driver, gpu)
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.pinned = False

    def hold(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of `array` in this memory, good until the next call."""
        if array.nbytes > len(self._bytes):
            self._bytes = np.empty(max(_MIN_BYTES, 2 * len(self._bytes), array.nbytes), np.uint8)
            self.pinned = self._context is not None and self._context.pin(self._bytes)
        held = self._bytes[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(held, array)
        return held


class _Context:
    """A GPU's primary context, which CUDA's runtime uses too: retained once, released when nothing is pinned by it."""

    def __init__(self, driver: Any, device: ctypes.c_int, handle: ctypes.c_void_p) -> None:
        self._driver, self._handle = driver, handle
        # At the end of the process the driver gives everything back by itself.
        weakref.finalize(self, driver.cuDevicePrimaryCtxRelease_v2, device).atexit = False

    def pin(self, memory: NDArray[np.uint8]) -> bool:
        """Whether it could be done; it is undone when `memory` is freed, by whichever thread frees it."""
        address = ctypes.c_void_p(memory.ctypes.data)
        with self._entered() as entered:
            if not entered:
                return False
            status = self._driver.cuMemHostRegister_v2(address, ctypes.c_size_t(len(memory)), ctypes.c_uint(_PORTABLE))
        if status != _SUCCESS:
            log.warning("CUDA cannot pin %d bytes (error %d); copies to the GPU are slower", len(memory), status)
            return False
        weakref.finalize(memory, self._unpin, address).atexit = False
        return True

    def _unpin(self, address: ctypes.c_void_p) -> None:
        with self._entered() as entered:
            if entered:
                self._driver.cuMemHostUnregister(address)

    @contextlib.contextmanager
    def _entered(self) -> Iterator[bool]:
        """Current on this thread for a while, as the driver's calls want it; then the thread's own is again."""
        entered = self._driver.cuCtxPushCurrent_v2(self._handle) == _SUCCESS
        try:
            yield entered
        finally:
            if entered:
                self._driver.cuCtxPopCurrent_v2(ctypes.byref(ctypes.c_void_p()))


def _open_context(driver: Any, gpu: int) -> _Context | None:
    """None where the driver refuses."""
    device, handle = ctypes.c_int(0), ctypes.c_void_p()
    if (
        driver.cuInit(0) != _SUCCESS
        or driver.cuDeviceGet(ctypes.byref(device), gpu) != _SUCCESS
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(handle), device) != _SUCCESS
    ):
        return None
    return _Context(driver, device, handle)
