"""Where a run computes, and no silent fall-back."""

from __future__ import annotations

import pytest
import torch

from training.compute import PrecisionName
from training.device import autocast, has_bf16, pick_device
from training.errors import TrainingError


def test_auto_takes_what_is_there() -> None:
    assert pick_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("name", "message"), [("gpu", "is not a device; use cpu"), ("meta", "is not supported; use")])
def test_what_is_no_device_is_refused(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=f"--device '{name}' {message}"):
        pick_device(name)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_an_error() -> None:
    with pytest.raises(TrainingError, match="--device cuda: no GPU is visible to this installation of torch"):
        pick_device("cuda")


@pytest.mark.parametrize("precision", ["auto", "bf16", "fp32"])
def test_precision(precision: PrecisionName) -> None:
    cpu = torch.device("cpu")
    expected = precision == "bf16" or (precision == "auto" and has_bf16(cpu))
    with autocast(cpu, precision):
        product = torch.ones(4, 4) @ torch.ones(4, 4)
    assert product.dtype == (torch.bfloat16 if expected else torch.float32)
