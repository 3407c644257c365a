"""`python -m service.ipc.device_main NAME FD`: one device's process, started by the supervisor.

It loads the bundle, proves the runtime and then serves whichever workers connect to its socket, until the supervisor
says otherwise or is gone.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import uvloop

from bundle.errors import BundleError, MaeveError
from bundle.store import load_bundle
from service.decoding import make_decoder
from service.device import LocalDevice
from service.ipc.child import BEAT_S, Start, beat, begin, end_with_parent, next_message
from service.ipc.framing import Control
from service.ipc.server import DeviceServer
from service.metrics import Metrics
from service.opening import Opened, open_bundle
from service.programs import Programs

log = logging.getLogger("service.device")

_CLOSE_S = 2.0  # for a call that runs; nobody waits for its result any more


def main(argv: Sequence[str] | None = None) -> int:
    start = begin(sys.argv[1:] if argv is None else argv)
    end_with_parent()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        status = runner.run(_serve(start))
        os._exit(status)  # not past a thread that may hang in a driver


async def _serve(start: Start) -> int:
    """The exit status: 0 when told to end, 2 if the device cannot be served."""
    control = await Control.over(start.line)
    ended = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    watching = asyncio.create_task(_watch(control, ended))
    opening = asyncio.ensure_future(asyncio.to_thread(_open, start))
    beating = asyncio.create_task(beat(control, lambda: 0.0))  # what opens may take its time, and has to be alive
    stopping = asyncio.ensure_future(ended.wait())
    await asyncio.wait([opening, stopping], return_when=asyncio.FIRST_COMPLETED)
    beating.cancel()
    if not opening.done():
        return 0
    try:
        opened = opening.result()
    except MaeveError as e:
        control.send({"type": "refused", "message": str(e)})
        await control.close()
        return 2
    await _work(start, control, opened, stopping)
    watching.cancel()
    return 0


async def _watch(control: Control, ended: asyncio.Event) -> None:
    """The supervisor has nothing to say to a device: the line's end is the message."""
    while await next_message(control) is not None:
        pass
    ended.set()


def _open(start: Start) -> Opened:
    """On a thread, so that a signal ends it. BundleError, RuntimeUnavailable."""
    settings, digest = start.settings, start.message["digest"]
    bundle = load_bundle(Path(start.message["bundle"]))
    if bundle.manifest.digest != digest:
        raise BundleError(f"{bundle.path}: another bundle than {digest[:12]} stands there now; SIGHUP switches to it")
    make_decoder(bundle.manifest, settings)  # the workers will want one
    return open_bundle(bundle, settings.on_device(start.message["device"]))


async def _work(start: Start, control: Control, opened: Opened, stopping: asyncio.Future[Literal[True]]) -> None:
    bundle, runtime = opened.bundle, opened.runtime
    metrics = Metrics(start.name)
    device = LocalDevice(
        Programs(bundle.manifest, runtime), runtime, metrics,
        max_batch=start.settings.max_batch or runtime.max_batch, decoder=None, stall_s=start.settings.stall_s,
    )  # fmt: skip
    gc.collect()
    gc.freeze()  # what exists by now stays
    server = DeviceServer(socket.socket(fileno=start.message["listener"]), device, bundle.manifest)
    control.send({"type": "serving", "info": asdict(device.infos[0])})
    tasks = [
        asyncio.create_task(beat(control, lambda: device.stalled_s)),
        asyncio.create_task(_tidy(server, metrics)),
    ]
    await stopping
    for task in tasks:
        task.cancel()
    server.close()
    await asyncio.wait([asyncio.create_task(device.close())], timeout=_CLOSE_S)


async def _tidy(server: DeviceServer, metrics: Metrics) -> None:
    """What has to be looked at from time to time: gauges that workers tell, and cancelled items to which the traceback
    of a failed call may hold on, and so to their slots.
    """
    while True:
        await asyncio.sleep(BEAT_S)
        metrics.refresh()
        if server.lingering:
            gc.collect()


if __name__ == "__main__":
    sys.exit(main())
