"""What the three probes know: does the process work, does it take requests now, has it ever started."""

from __future__ import annotations

from typing import Any

from service.engine import Engine
from service.gate import Gate
from service.opening import is_asked_for
from service.settings import Settings


def why_not_alive(engine: Engine | None, settings: Settings) -> str | None:
    """None while this process can do work; else why only a new start can help. It answers, so its event loop runs."""
    if engine is None:
        return None
    at_device = engine.device.stalled_s > settings.stall_s
    stalled_s = engine.device.stalled_s if at_device else engine.stalled_s
    if stalled_s <= settings.stall_s:
        return None
    if stalled_s == float("inf"):
        return f"a thread that {f'runs the model on {_devices(engine)}' if at_device else 'decodes images'} has died"
    call = f"a model call on {_devices(engine)}" if at_device else "the decoding of an image"
    return f"{call} has not ended for {stalled_s:.0f} s, more than MAEVE_STALL_S"


def why_not_ready(
    engine: Engine | None, gate: Gate, settings: Settings, processes: dict[str, Any] | None = None
) -> str | None:
    """None while a request sent now would be worked on, by the device that was asked for.

    `processes`: what the supervisor tells of them, where there are several.
    """
    if gate.draining:
        return "the service is stopping"
    if engine is None:
        return "the service is starting" if processes is None else _waiting_for(processes)
    if processes is not None and not processes["started"]:
        return "the service is starting: not every worker has its devices yet"
    dead = why_not_alive(engine, settings)
    if dead is not None:
        return dead
    if not engine.device.ready:
        return _waiting_for(processes) if processes else f"no device is ready; there are {_devices(engine)}"
    asked = settings.devices.split(",") if settings.devices else [settings.device]
    for info in engine.device.infos:
        if not any(is_asked_for(info.device, name) for name in asked):
            return f"the model runs on {info.device}, and {', '.join(asked)} was asked for"
    return None


def state(status: str, engine: Engine | None) -> dict[str, Any]:
    """The body of a probe that succeeds."""
    infos = () if engine is None else engine.device.infos
    return {
        "status": status,
        "name": None if engine is None else engine.manifest.name,
        "digest": None if engine is None else engine.manifest.digest,
        "devices": [{"runtime": info.runtime, "device": info.device, "precision": info.precision} for info in infos],
    }


def _waiting_for(processes: dict[str, Any]) -> str:
    waits = [f"{device['name']} {device['state']}" for device in processes["devices"] if device["state"] != "serving"]
    return "no device is ready: " + ("; ".join(waits) or "this worker is being connected to them")


def _devices(engine: Engine) -> str:
    return ", ".join(f"{info.runtime} on {info.device}" for info in engine.device.infos) or "none"
