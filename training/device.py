"""Which device and precision a run uses."""

from __future__ import annotations

import torch

from training.compute import PrecisionName
from training.errors import TrainingError


def pick_device(name: str, *, index: int | None = None) -> torch.device:
    """`auto`: the GPU if there is one. `index`: of the GPU, where `name` leaves it open.

    Raises TrainingError for a device that is not there; no silent fall-back.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as e:
        raise TrainingError(f"--device {name!r} is not a device; use cpu or cuda") from e
    if device.type not in ("cpu", "cuda"):
        raise TrainingError(f"--device {name!r} is not supported; use cpu or cuda")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise TrainingError(f"--device {name}: no GPU is visible to this installation of torch {torch.__version__}")
    if device.type == "cpu":
        return device
    if device.index is None and index is not None:
        device = torch.device("cuda", index)
    if device.index is not None and device.index >= torch.cuda.device_count():
        raise TrainingError(f"--device {device}: there are {torch.cuda.device_count()} GPUs")
    return device


def autocast(device: torch.device, precision: PrecisionName) -> torch.autocast:
    """bf16 autocast where asked for or, under `auto`, where the hardware multiplies bf16; elsewhere a no-op."""
    enabled = precision == "bf16" or (precision == "auto" and has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=enabled)


def precision_of(cast: torch.autocast) -> torch.dtype:
    """In which matrix products are computed under `cast`."""
    return cast.fast_dtype if cast._enabled else torch.float32


def has_bf16(device: torch.device) -> bool:
    """Emulated bf16 is many times slower than fp32, so it does not count."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()  # type: ignore[no-any-return,attr-defined,unused-ignore]
