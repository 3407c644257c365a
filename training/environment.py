"""Where a run took place, as run.json keeps it and pages show it."""

from __future__ import annotations

import os
import platform
from datetime import UTC, datetime

import torch

from training.device import pick_device


def environment(device: str = "auto") -> dict[str, str | int]:
    """Python, torch, device, cores that this process may use, and the time in UTC.

    device: as the commands take it. Raises TrainingError for one that is not there.
    """
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": _device_name(pick_device(device)),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _device_name(device: torch.device) -> str:
    if device.type == "cpu":
        return "cpu"
    return f"{device}: {torch.cuda.get_device_name(device)}"
