"""Pinned memory, against a driver that keeps count."""

from __future__ import annotations

import gc
import threading
from collections import Counter
from typing import Any

import numpy as np
import pytest

from runtime.pinned import PinnedBuffer


class Driver:
    """CUDA's driver library: which ranges of memory are pinned, how often contexts are retained, and each thread's own.

    As the real one it pins and unpins where a context is current alone. `failing`: the call that returns an error.
    """

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.pinned: dict[int, int] = {}
        self.retained: Counter[int] = Counter()
        self.refused: list[str] = []
        self.used: set[int] = set()
        self._thread = threading.local()

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: 2 if name == self.failing else getattr(self, f"_{name}")(*arguments)

    @property
    def contexts(self) -> list[int]:
        """The calling thread's, the current one last."""
        if not hasattr(self._thread, "contexts"):
            self._thread.contexts = []
        stack: list[int] = self._thread.contexts
        return stack

    def _cuInit(self, flags: int) -> int:  # noqa: N802 - as CUDA names it
        return flags

    def _cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = 10 + index
        return 0

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 100 + device.value
        self.retained[device.value] += 1
        return 0

    def _cuDevicePrimaryCtxRelease_v2(self, device: Any) -> int:  # noqa: N802
        self.retained[device.value] -= 1
        return 0

    def _cuCtxPushCurrent_v2(self, context: Any) -> int:  # noqa: N802
        if not self.retained[context.value - 100]:
            return self._refuse("cuCtxPushCurrent")
        self.contexts.append(context.value)
        return 0

    def _cuCtxPopCurrent_v2(self, context: Any) -> int:  # noqa: N802
        context._obj.value = self.contexts.pop()
        return 0

    def _cuMemHostRegister_v2(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 1
        if not self.contexts:
            return self._refuse("cuMemHostRegister")
        self.used.add(self.contexts[-1])
        self.pinned[address.value] = size.value
        return 0

    def _cuMemHostUnregister(self, address: Any) -> int:  # noqa: N802
        if not self.contexts:
            return self._refuse("cuMemHostUnregister")
        del self.pinned[address.value]
        return 0

    def _refuse(self, call: str) -> int:
        self.refused.append(call)
        return 201  # CUDA_ERROR_INVALID_CONTEXT


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_arrays_are_copied_into_memory_that_the_driver_pinned() -> None:
    driver = Driver()
    buffer = PinnedBuffer(1, driver)
    for array in (noise(4, 200, 200, 3), np.arange(6).reshape(2, 3), np.broadcast_to(np.arange(3), (2, 3))):
        held = buffer.hold(array)
        assert buffer.pinned
        assert driver.used == {111}  # the context of GPU 1
        assert not driver.contexts  # the thread's own, none, is current again
        assert held.dtype == array.dtype
        assert np.array_equal(held, array)
        assert held.flags.c_contiguous
        [(start, size)] = driver.pinned.items()
        assert start <= held.ctypes.data
        assert held.ctypes.data + held.nbytes <= start + size


def test_a_larger_array_gets_larger_memory_and_the_old_is_given_back() -> None:
    driver = Driver()
    buffer = PinnedBuffer(0, driver)
    buffer.hold(noise(10))
    [small] = driver.pinned.values()
    buffer.hold(noise(small + 1))
    gc.collect()
    [large] = driver.pinned.values()
    assert large >= small + 1
    buffer.hold(noise(large))
    assert list(driver.pinned.values()) == [large]
    del buffer
    gc.collect()
    assert not driver.pinned
    assert not driver.refused


def test_threads_that_never_saw_the_gpu_enlarge_it_and_free_it() -> None:
    """The lanes' threads come and go; every one starts without a context, and every call to the driver wants one."""
    driver = Driver()
    kept = [PinnedBuffer(0, driver)]

    def enlarge(size: int) -> None:
        kept[0].hold(noise(size))

    for job in (lambda: enlarge(100_000), lambda: enlarge(300_000), kept.clear):
        thread = threading.Thread(target=job)
        thread.start()
        thread.join()
        gc.collect()
        assert not driver.refused
        assert len(driver.pinned) == len(kept)


def test_the_context_is_retained_once_and_as_long_as_memory_is_pinned_by_it() -> None:
    driver = Driver()
    buffer = PinnedBuffer(0, driver)
    for size in (1, 100_000, 300_000):
        held = buffer.hold(noise(size))
    assert driver.retained == {10: 1}
    del buffer
    gc.collect()
    assert driver.retained == {10: 1}
    assert len(driver.pinned) == 1
    del held
    gc.collect()
    assert driver.retained == {10: 0}
    assert not driver.pinned
    assert not driver.refused


@pytest.mark.parametrize(
    "failing", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuCtxPushCurrent_v2", "cuMemHostRegister_v2"]
)
def test_where_the_driver_refuses_the_memory_is_ordinary(failing: str) -> None:
    driver = Driver(failing)
    buffer = PinnedBuffer(0, driver)
    array = noise(3, 5)
    assert np.array_equal(buffer.hold(array), array)
    assert not buffer.pinned
    assert not driver.pinned


def test_without_a_driver_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.pinned.load_driver", lambda: None)
    assert np.array_equal(PinnedBuffer(0).hold(noise(7)), noise(7))
