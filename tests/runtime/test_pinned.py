"""Pinned memory, against a driver that keeps count."""

from __future__ import annotations

import gc
from typing import Any

import numpy as np
import pytest

from runtime.pinned import PinnedBuffer


class Driver:
    """CUDA's driver library: which ranges of memory are pinned. `failing`: the call that returns an error."""

    def __init__(self, failing: str = "") -> None:
        self.failing = failing
        self.pinned: dict[int, int] = {}
        self.current: int | None = None

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("cu"):
            raise AttributeError(name)
        return lambda *arguments: 2 if name == self.failing else getattr(self, f"_{name}")(*arguments)

    def _cuInit(self, flags: int) -> int:  # noqa: N802 - as CUDA names it
        return flags

    def _cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802
        device._obj.value = 10 + index
        return 0

    def _cuDevicePrimaryCtxRetain(self, context: Any, device: Any) -> int:  # noqa: N802
        context._obj.value = 100 + device.value
        return 0

    def _cuCtxSetCurrent(self, context: Any) -> int:  # noqa: N802
        self.current = context.value
        return 0

    def _cuMemHostRegister_v2(self, address: Any, size: Any, flags: Any) -> int:  # noqa: N802
        assert flags.value == 1
        self.pinned[address.value] = size.value
        return 0

    def _cuMemHostUnregister(self, address: Any) -> int:  # noqa: N802
        del self.pinned[address.value]
        return 0


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def test_arrays_are_copied_into_memory_that_the_driver_pinned() -> None:
    driver = Driver()
    buffer = PinnedBuffer(1, driver)
    for array in (noise(4, 200, 200, 3), np.arange(6).reshape(2, 3), np.broadcast_to(np.arange(3), (2, 3))):
        held = buffer.hold(array)
        assert buffer.pinned
        assert driver.current == 111  # the context of GPU 1
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


@pytest.mark.parametrize("failing", ["cuInit", "cuDeviceGet", "cuDevicePrimaryCtxRetain", "cuMemHostRegister_v2"])
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
