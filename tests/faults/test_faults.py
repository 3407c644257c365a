"""What may go wrong goes wrong, under load. Every request is answered, refused with a reason, or cut by a process that
was killed under it; and no answer is ever another image's.

`make faults` does the same for longer: FAULT_SECONDS of load per test.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from bundle.store import Bundle
from tests.faults.ledger import Ledger
from tests.faults.system import System, running
from tests.faults.traffic import Subject, Traffic
from tests.service.helpers import RedisServer, eventually

UNAVAILABLE = (503, "unavailable")
OVERLOADED = (429, "overloaded")
DEVICE, WORKER = "service.ipc", "service.worker"

Chaos = Callable[[], Awaitable[None]]


def under_load(traffic: Traffic, clients: list[Callable[[], Awaitable[None]]], chaos: Chaos) -> Ledger:
    """The ledger of the load that ran while `chaos` did, and until it was over."""

    async def both() -> Ledger:
        load = asyncio.create_task(traffic.run(clients))
        try:
            await chaos()
        finally:
            traffic.stop()
        return await load

    return asyncio.run(both())


def mixed(traffic: Traffic) -> list[Callable[[], Awaitable[None]]]:
    good = [traffic.embed] * 6 + [traffic.embed_again, traffic.embed_many, traffic.reconstruct, traffic.slow_reader]
    return [*good, traffic.truncated, traffic.vanishing]


@pytest.fixture
def one(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[System]:
    with running(tiny_bundle, tmp_path / "faults") as system:
        yield system


@pytest.fixture
def many(tiny_bundle: Bundle, tmp_path: Path) -> Iterator[System]:
    with running(tiny_bundle, tmp_path / "faults", "--workers", "2", "--stall-s", "2") as system:
        yield system


def replaced(system: System, before: list[int]) -> None:
    """Wait until there are as many workers as before, and others."""
    eventually(lambda: len(system.pids(WORKER)) == len(before) and system.pids(WORKER) != before, 20)


def recovered(system: System) -> None:
    eventually(lambda: system.status("/readyz") == 200, 30)


def test_bad_images_and_bad_clients_hurt_nobody_else(one: System, photos: list[Subject], seconds: float) -> None:
    traffic = Traffic(one.port, photos)
    ledger = under_load(traffic, [*mixed(traffic), traffic.poisoned, traffic.poisoned], lambda: asyncio.sleep(seconds))
    ledger.check()
    assert ledger.rejected
    assert ledger.left
    assert one.status("/readyz") == 200


def test_a_killed_device_costs_503s_and_comes_back(many: System, photos: list[Subject], seconds: float) -> None:
    async def chaos() -> None:
        for _ in range(max(2, int(seconds / 4))):
            await asyncio.sleep(1)
            many.kill(DEVICE)
            await asyncio.to_thread(eventually, lambda: many.status("/readyz") == 503, 10)
            await asyncio.to_thread(recovered, many)
        await asyncio.sleep(1)

    traffic = Traffic(many.port, photos)
    ledger = under_load(traffic, mixed(traffic), chaos)
    ledger.check(allowed={UNAVAILABLE})
    assert ledger.refused[UNAVAILABLE]


def test_a_hung_device_is_killed_and_comes_back(many: System, photos: list[Subject]) -> None:
    async def chaos() -> None:
        await asyncio.sleep(1)
        many.kill(DEVICE, signal.SIGSTOP)
        await asyncio.to_thread(eventually, lambda: many.status("/readyz") == 503, 15)
        await asyncio.to_thread(recovered, many)
        await asyncio.sleep(1)

    traffic = Traffic(many.port, photos)
    under_load(traffic, mixed(traffic), chaos).check(allowed={UNAVAILABLE, OVERLOADED})


def test_a_stalled_runtime_is_killed_and_comes_back(many: System, photos: list[Subject]) -> None:
    async def chaos() -> None:
        await asyncio.sleep(1)
        before = many.pids(DEVICE)
        many.order("stall")
        await asyncio.to_thread(eventually, lambda: many.pids(DEVICE) and many.pids(DEVICE) != before, 15)
        many.lift("stall")
        await asyncio.to_thread(recovered, many)
        await asyncio.sleep(1)

    traffic = Traffic(many.port, photos)
    ledger = under_load(traffic, mixed(traffic), chaos)
    ledger.check(allowed={UNAVAILABLE, OVERLOADED})
    assert ledger.refused[UNAVAILABLE]


def test_a_killed_worker_cuts_its_own_connections_alone(many: System, photos: list[Subject], seconds: float) -> None:
    async def chaos() -> None:
        for _ in range(max(2, int(seconds / 4))):
            await asyncio.sleep(1)
            before = many.pids(WORKER)
            many.kill(WORKER)
            await asyncio.to_thread(replaced, many, before)
            await asyncio.to_thread(recovered, many)

    traffic = Traffic(many.port, photos)
    clients = mixed(traffic)
    ledger = under_load(traffic, clients, chaos)
    ledger.check(allowed={UNAVAILABLE}, cuts=True)
    assert ledger.answered > ledger.cut


def test_redis_may_die_freeze_and_come_back(
    tiny_bundle: Bundle, tmp_path: Path, redis: RedisServer, photos: list[Subject], seconds: float
) -> None:
    redis.start()
    with running(tiny_bundle, tmp_path / "faults", "--workers", "2", "--redis-url", redis.url) as system:

        async def chaos() -> None:
            for _ in range(max(1, int(seconds / 4))):
                await asyncio.sleep(0.7)
                redis.kill()
                await asyncio.sleep(0.7)
                await asyncio.to_thread(redis.start)
                await asyncio.sleep(0.7)
                assert redis.process is not None
                redis.process.send_signal(signal.SIGSTOP)
                await asyncio.sleep(0.7)
                redis.process.send_signal(signal.SIGCONT)

        traffic = Traffic(system.port, photos)
        ledger = under_load(traffic, mixed(traffic), chaos)
    ledger.check()


def test_out_of_memory_makes_smaller_batches_and_no_failures(
    one: System, photos: list[Subject], seconds: float
) -> None:
    one.order("oom")
    traffic = Traffic(one.port, photos)
    ledger = under_load(traffic, mixed(traffic), lambda: asyncio.sleep(seconds))
    ledger.check()


def test_jumps_of_the_clock_matter_to_nobody(many: System, photos: list[Subject], seconds: float) -> None:
    many.order("clock")
    traffic = Traffic(many.port, photos)
    ledger = under_load(traffic, mixed(traffic), lambda: asyncio.sleep(seconds))
    ledger.check()
    assert many.status("/readyz") == 200


def test_a_full_shared_memory_folder_matters_to_nobody(
    tiny_bundle: Bundle, tmp_path: Path, photos: list[Subject]
) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare, for a /dev/shm of its own")
    full = 'mount -t tmpfs -o size=16k none /dev/shm && head -c 16384 /dev/zero > /dev/shm/full; exec "$@"'
    prefix = (unshare, "--mount", "sh", "-c", full, "sh")
    with running(tiny_bundle, tmp_path / "faults", "--workers", "2", prefix=prefix) as system:
        traffic = Traffic(system.port, photos)
        ledger = under_load(traffic, mixed(traffic), lambda: asyncio.sleep(2))
    ledger.check()


def test_memory_stays_flat_under_mixed_load(many: System, photos: list[Subject], seconds: float) -> None:
    """After the caches have filled, which they do in the first third."""
    resident: list[float] = []

    async def chaos() -> None:
        for _ in range(30):
            await asyncio.sleep(seconds / 10)
            resident.append(many.resident_mib())

    traffic = Traffic(many.port, photos)
    ledger = under_load(traffic, mixed(traffic), chaos)
    ledger.check()
    early, late = max(resident[10:15]), max(resident[25:])
    growth = late - early
    assert growth < max(30.0, 0.05 * early), f"{early:.0f} MiB became {late:.0f} MiB; {ledger}"
