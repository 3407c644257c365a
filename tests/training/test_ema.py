"""The average of the weights, by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from training.distributed import World
from training.ema import Ema, decay_at
from training.loop import LoopConfig, Parts, train
from training.optim import Schedule
from training.run import Run


class Counter(nn.Module):
    """One weight, and a buffer that changes as batch statistics do."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(2))
        self.register_buffer("seen", torch.zeros((), dtype=torch.long))


@pytest.mark.parametrize(
    ("step", "decay", "expected"),
    [(1, 0.9999, 2 / 11), (10, 0.9999, 11 / 20), (990, 0.9999, 991 / 1000), (10**6, 0.9999, 0.9999), (1, 0.1, 0.1)],
)
def test_the_decay_rises_to_what_is_asked_for(step: int, decay: float, expected: float) -> None:
    assert decay_at(step, decay) == pytest.approx(expected)


def test_the_average_by_hand() -> None:
    model = Counter()
    ema = Ema(model, 0.5)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([11.0, -22.0]))
    ema.update(1)  # decay 2/11
    torch.testing.assert_close(ema.averaged.weight.data, torch.tensor([9.0, -18.0]))
    ema.update(100)  # decay 0.5
    torch.testing.assert_close(ema.averaged.weight.data, torch.tensor([10.0, -20.0]))


def test_buffers_are_those_of_now() -> None:
    model = Counter()
    ema = Ema(model, 0.9)
    model.seen += 3
    ema.update(1)
    assert int(ema.averaged.seen) == 3
    assert ema.averaged.seen is not model.seen


def test_the_average_neither_learns_nor_drops() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5))
    ema = Ema(model, 0.9)
    assert not ema.averaged.training
    assert model.training
    assert not any(p.requires_grad for p in ema.averaged.parameters())
    assert all(p.requires_grad for p in model.parameters())


def test_a_run_takes_the_average_along(tmp_path: Path) -> None:
    """Told of every step once its weights are new; saved, and found again by a run that goes on."""
    model, told = nn.Linear(1, 1, bias=False), list[tuple[int, float]]()
    ema = Ema(model, 0.5)
    run = Run(tmp_path, "finetune", {}, resume=True)
    run.describe()

    def after_step(done: int) -> None:
        ema.update(done)
        told.append((done, float(model.weight.detach())))

    def go() -> None:
        adamw = torch.optim.AdamW([{"params": model.parameters(), "lr_scale": 1.0}])
        train(
            run, Parts(model=model, optimizer=adamw, extra={"ema": ema.averaged}),
            Schedule(peak_lr=0.1, total_steps=4, warmup_steps=0),
            LoopConfig(seed=0, batch_size=1, steps_per_epoch=4, checkpoint_minutes=60, name="test"),
            world=World(torch.device("cpu")), loss_of=lambda _step, _part: model(torch.ones(1, 1)).sum(),
            after_epoch=lambda _epoch: {}, after_step=after_step,
        )  # fmt: skip

    go()
    assert [done for done, _ in told] == [1, 2, 3, 4]
    assert len({weight for _, weight in told}) == 4
    kept = ema.averaged.weight.clone()
    with torch.no_grad():
        ema.averaged.weight.zero_()
    go()  # nothing is left to do
    assert len(told) == 4
    assert torch.equal(ema.averaged.weight, kept)
