"""Host memory that a GPU reads directly, by CUDA's driver alone: from pageable memory a copy takes an extra hop."""

from __future__ import annotations

import ctypes
import logging
import weakref
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
        self._gpu = gpu
        self._driver = load_driver() if driver is None else driver
        self._bytes: NDArray[np.uint8] = np.empty(0, np.uint8)
        self.pinned = False

    def hold(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy of `array` in this memory, good until the next call."""
        if array.nbytes > len(self._bytes):
            self._bytes = np.empty(max(_MIN_BYTES, 2 * len(self._bytes), array.nbytes), np.uint8)
            self.pinned = self._pin(self._bytes)
        held = self._bytes[: array.nbytes].view(array.dtype).reshape(array.shape)
        np.copyto(held, array)
        return held

    def _pin(self, memory: NDArray[np.uint8]) -> bool:
        if self._driver is None or not self._enter_context():
            return False
        address = ctypes.c_void_p(memory.ctypes.data)
        status = self._driver.cuMemHostRegister_v2(address, ctypes.c_size_t(len(memory)), ctypes.c_uint(_PORTABLE))
        if status != _SUCCESS:
            log.warning("CUDA cannot pin %d bytes (error %d); copies to the GPU are slower", len(memory), status)
            return False
        weakref.finalize(memory, self._driver.cuMemHostUnregister, address).atexit = False  # the driver ends with us
        return True

    def _enter_context(self) -> bool:
        """The GPU's primary context, which CUDA's runtime uses too, on this thread."""
        device, context = ctypes.c_int(0), ctypes.c_void_p()
        driver = self._driver
        return bool(
            driver.cuInit(0) == _SUCCESS
            and driver.cuDeviceGet(ctypes.byref(device), self._gpu) == _SUCCESS
            and driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device) == _SUCCESS
            and driver.cuCtxSetCurrent(context) == _SUCCESS
        )
