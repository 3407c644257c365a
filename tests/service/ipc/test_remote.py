"""A device behind its socket, both ends in this process: results, errors, cancellations, lost connections."""

from __future__ import annotations

import asyncio
import socket
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.errors import InferenceError, Overloaded, Unavailable
from bundle.masking import random_masking
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.device import LocalDevice
from service.ipc.devices import Devices, soonest
from service.ipc.records import Reply
from service.ipc.server import DeviceServer
from service.metrics import Metrics
from service.programs import Item, Program, Programs
from tests.service.helpers import DIM, NUM_PATCHES, Hold, make_bundle

ALL = np.arange(NUM_PATCHES, dtype=np.int64)
EMBED = Program("embed", NUM_PATCHES, ("cls", "mean"))


def image(seed: int) -> Item:
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    return Item(pixels, ALL)


class LongPrograms(Programs):
    """Results have a value too many."""

    def run(self, program: Program, items: Sequence[Item]) -> list[NDArray[np.float32]]:
        return [np.append(value, np.float32(0)) for value in super().run(program, items)]


class Pair:
    """A device's end, restartable, and a worker's."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        self.bundle = bundle
        self.hold = Hold()
        self.poison: NDArray[np.uint8] | None = None
        self.runtime = FakeRuntime(bundle, max_batch=4, fail_on=self._fails)
        self.local = LocalDevice(
            Programs(bundle.manifest, self.runtime), self.runtime, Metrics(), max_batch=4, decoder=None
        )  # fmt: skip
        self.path = folder / "device"
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(self.path))
        self.listener.listen()
        self.server = DeviceServer(self.listener, self.local, bundle.manifest)

    def devices(self, num_slots: int = 8, num_devices: int = 1, **changed: Any) -> Devices:
        info = asdict(self.local.infos[0]) | changed
        told = {"name": "cpu", "path": str(self.path), "info": info}
        return Devices(self.bundle.manifest, [told] * num_devices, num_slots=num_slots)

    def restart(self) -> None:
        self.server.close()
        self.server = DeviceServer(self.listener, self.local, self.bundle.manifest)

    def _fails(self, row: NDArray[Any]) -> bool:
        self.hold(row)
        return self.poison is not None and np.array_equal(row, self.poison)


@asynccontextmanager
async def pair(bundle: Bundle) -> AsyncIterator[Pair]:
    with tempfile.TemporaryDirectory(prefix="m") as folder:
        made = Pair(bundle, Path(folder))
        try:
            yield made
        finally:
            made.hold.release()
            made.server.close()
            await made.local.close()
            made.listener.close()


async def until(condition: Any) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - whatever it is, nobody signals it
            await asyncio.sleep(0.002)


async def test_results_are_those_of_the_device(fake_bundle: Bundle) -> None:
    masking = random_masking(NUM_PATCHES, 0.75, 3)
    programs: list[tuple[Program, Item]] = [
        (EMBED, image(1)),
        (Program("embed", 4, ("patches",)), Item(image(2).pixels, ALL[3:7])),
        (Program("embed", NUM_PATCHES, ("cls", "mean", "tokens")), image(5)),
        (Program("classify", NUM_PATCHES), image(3)),
        (Program("reconstruct", 4), Item(image(4).pixels, masking.ids_keep, masking.ids_restore)),
    ]
    async with pair(fake_bundle) as made:
        devices = made.devices()
        await devices.met()
        for program, item in programs:
            (want,) = Programs(fake_bundle.manifest, FakeRuntime(fake_bundle)).run(program, [item])
            done = await devices.submit(program, item, deadline=float("inf"))
            np.testing.assert_array_equal(done.value.value, want)
            assert not done.value.value.flags.writeable
            assert done.queue_s >= 0 < done.infer_s
        await devices.close()


async def test_a_cancelled_image_keeps_its_place_until_the_device_lets_go(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices(num_slots=2)
        await devices.met()
        with made.hold:
            running = devices.submit(EMBED, image(1), deadline=float("inf"))
            await until(lambda: made.runtime.calls)
            waiting = devices.submit(EMBED, image(2), deadline=float("inf"))
            running.cancel()
            waiting.cancel()
            await until(lambda: devices.held == 2)
            await until(lambda: made.server.lingering == 2)
            with pytest.raises(Overloaded):
                devices.submit(EMBED, image(3), deadline=float("inf"))
        await until(lambda: devices.held == 0)
        await devices.submit(EMBED, image(3), deadline=float("inf"))
        assert made.runtime.calls == [("encoder", 1)] * 2  # what waited and was cancelled was never run
        await devices.close()


async def test_an_error_of_the_device_is_its_senders_alone(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices()
        await devices.met()
        made.poison = image(2).pixels
        with made.hold:
            asked = [devices.submit(EMBED, image(seed), deadline=float("inf")) for seed in range(5)]
            await until(lambda: made.runtime.calls)
        outcomes = await asyncio.gather(*asked, return_exceptions=True)
        errors = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        assert (len(errors), errors[0]) == (1, outcomes[2])
        assert isinstance(errors[0], InferenceError)
        assert str(errors[0]) == "encoder: poisoned input"
        await devices.close()


async def test_what_was_in_flight_fails_and_the_next_connection_serves(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices(num_slots=2)
        await devices.met()
        with made.hold:
            lost = devices.submit(EMBED, image(1), deadline=float("inf"))
            cancelled = devices.submit(EMBED, image(2), deadline=float("inf"))
            await until(lambda: made.runtime.calls)
            cancelled.cancel()
            made.restart()
            with pytest.raises(Unavailable, match="cpu was lost"):
                await lost
        assert devices.held == 0
        await devices.met()
        both = [devices.submit(EMBED, image(seed), deadline=float("inf")) for seed in (3, 4)]
        for seed, done in zip((3, 4), await asyncio.gather(*both), strict=True):
            (want,) = Programs(fake_bundle.manifest, FakeRuntime(fake_bundle)).run(EMBED, [image(seed)])
            np.testing.assert_array_equal(done.value.value, want)
        await devices.close()


async def test_nothing_is_ready_before_a_hello(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        made.server.close()
        devices = made.devices()
        await asyncio.sleep(0.05)
        assert not devices.ready
        with pytest.raises(Unavailable, match="no device is ready"):
            devices.submit(EMBED, image(1), deadline=float("inf"))
        made.restart()  # accepts what had been waiting at the socket
        await devices.met()
        await devices.submit(EMBED, image(1), deadline=float("inf"))
        await devices.close()


async def test_a_device_that_computes_otherwise_is_refused(
    fake_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices(precision="int8")
        await until(lambda: "in fp32, which is not served here" in caplog.text)
        assert not devices.ready
        await devices.close()


async def test_a_reply_that_nobody_asked_for_cuts_the_connection(
    fake_bundle: Bundle, caplog: pytest.LogCaptureFixture
) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices()
        await devices.met()
        (guest,) = made.server._guests
        guest.link.send(Reply("done", 0, 99).pack())
        await until(lambda: "it answered job 99 in slot 0" in caplog.text)
        await until(lambda: made.server._guests != {guest} and devices.ready)
        await devices.submit(EMBED, image(1), deadline=float("inf"))
        await devices.close()


@pytest.mark.parametrize("record", [bytes(64), bytes([2, 0, 1, 0]) + (77).to_bytes(4, "little") + bytes(56)])
async def test_a_worker_that_makes_no_sense_is_cut_off(
    fake_bundle: Bundle, record: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """The second names a slot that there is not."""
    async with pair(fake_bundle) as made:
        devices = made.devices()
        await devices.met()
        link = devices.members[0]._link
        assert link is not None
        link.send(record)
        await until(lambda: "the connection to a worker was cut" in caplog.text)
        await until(lambda: devices.members[0]._link not in (None, link))
        await devices.close()


@pytest.mark.parametrize(
    "program",
    [
        Program("embed", NUM_PATCHES), Program("classify", NUM_PATCHES, ("cls",)),
        Program("embed", 0, ("cls",)), Program("embed", NUM_PATCHES + 1, ("cls",)),
        Program("reconstruct", 4),  # for which the bundle has no decoder
    ],
)  # fmt: skip
async def test_a_program_that_there_is_not_fails_alone(tmp_path: Path, program: Program) -> None:
    bundle = make_bundle(tmp_path / "b", "encoder", "head")
    async with pair(bundle) as made:
        devices = made.devices()
        await devices.met()
        with made.hold:
            other = devices.submit(EMBED, image(1), deadline=float("inf"))
            item = Item(image(2).pixels, np.resize(ALL, program.num_keep))
            with pytest.raises(InferenceError, match=f"no program Program.operation='{program.operation}'"):
                await devices.submit(program, item, deadline=float("inf"))
        assert (await other).value.value.size == 2 * DIM
        await devices.close()


async def test_a_result_of_another_length_is_an_error(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices()
        await devices.met()
        made.local._programs = LongPrograms(fake_bundle.manifest, made.runtime)
        with pytest.raises(InferenceError, match=f"^{2 * DIM + 1} values in the place of {2 * DIM}$"):
            await devices.submit(EMBED, image(1), deadline=float("inf"))
        assert devices.ready
        await devices.close()


async def test_a_stranger_at_the_socket_is_turned_away(fake_bundle: Bundle, caplog: pytest.LogCaptureFixture) -> None:
    async with pair(fake_bundle) as made:
        loop = asyncio.get_running_loop()
        with socket.socket(socket.AF_UNIX) as stranger:
            stranger.settimeout(0)
            await loop.sock_connect(stranger, str(made.path))
            await loop.sock_sendall(stranger, b"GET / HTTP/1.1\r\n\r\n")
            assert await loop.sock_recv(stranger, 100) == b""
        assert "a worker was turned away: not an ATTACH record" in caplog.text


async def test_several_devices_share_by_their_pace(fake_bundle: Bundle) -> None:
    async with pair(fake_bundle) as made:
        devices = made.devices(num_devices=2)
        await until(lambda: all(member.ready for member in devices.members))
        fast, slow = devices.members
        with made.hold:
            asked = [devices.submit(EMBED, image(seed), deadline=float("inf")) for seed in range(8)]
            assert (fast.pending, slow.pending) == (4, 4)  # nothing is known of their pace yet
        await asyncio.gather(*asked)
        fast.pace._gap_s, slow.pace._gap_s = 0.01, 0.03
        with made.hold:
            asked = [devices.submit(EMBED, image(seed), deadline=float("inf")) for seed in range(8)]
            assert (fast.pending, slow.pending) == (6, 2)  # done with them after 60 ms
            assert soonest([slow]) is slow
        await asyncio.gather(*asked)
        await devices.close()
