"""The loop: every step once, in a fixed course, whatever stops it."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from training import loop as loop_module
from training.distributed import World
from training.errors import Terminated, TrainingError
from training.loop import LoopConfig, Parts, step_generator, train
from training.optim import Schedule, make_adamw
from training.run import CHECKPOINT_FILE, METRICS_FILE, Run, load_checkpoint

STEPS, PER_EPOCH = 12, 4


class Job:
    """A network with dropout that learns noise, which is a function of the step as in the real commands."""

    def __init__(self, out: Path, *, checkpoint_minutes: float = 60.0) -> None:
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(6, 16), nn.Dropout(0.5), nn.Linear(16, 6))
        self.optimizer = make_adamw(self.model, weight_decay=0.05, betas=(0.9, 0.95))
        self.run = Run(out, "pretrain", {}, resume=True)
        self.run.describe()
        self.checkpoint_minutes = checkpoint_minutes
        self.steps: list[int] = []
        self.epochs: list[int] = []

    def loss(self, step: int, _part: int = 0) -> Tensor:
        self.steps.append(step)
        x = torch.randn(8, 6, generator=step_generator(0, step, torch.device("cpu")))
        return torch.nn.functional.mse_loss(self.model(x), x)

    def after_epoch(self, epoch: int) -> Mapping[str, float]:
        self.epochs.append(epoch)
        return {"score": epoch / 10}

    def train(self, loss_of: Callable[[int, int], Tensor] | None = None) -> Job:
        train(
            self.run, Parts(model=self.model, optimizer=self.optimizer),
            Schedule(peak_lr=1e-2, total_steps=STEPS, warmup_steps=3),
            LoopConfig(seed=0, batch_size=8, steps_per_epoch=PER_EPOCH, checkpoint_minutes=self.checkpoint_minutes,
                       name="test"),
            world=World(torch.device("cpu")), loss_of=loss_of or self.loss, after_epoch=self.after_epoch,
        )  # fmt: skip
        return self

    def interrupted(self, at: int, act: Callable[[], None]) -> Callable[[int, int], Tensor]:
        """The loss, but for something that happens at one step."""

        def loss_of(step: int, _part: int) -> Tensor:
            if step == at:
                act()
            return self.loss(step)

        return loss_of


def state(out: Path) -> dict[str, Any]:
    found = load_checkpoint(out / CHECKPOINT_FILE)
    assert found is not None
    return found


def rows(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / METRICS_FILE).read_text().splitlines()]


def assert_same(actual: Any, expected: Any) -> None:
    """Bit for bit, whatever the nesting."""
    if isinstance(expected, Tensor):
        assert torch.equal(actual, expected)
    elif isinstance(expected, Mapping):
        assert actual.keys() == expected.keys()
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list):
        assert len(actual) == len(expected)
        for one, other in zip(actual, expected, strict=True):
            assert_same(one, other)
    else:
        assert actual == expected


@pytest.fixture(autouse=True)
def a_row_every_step(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop_module, "LOG_EVERY_S", 0.0)


@pytest.fixture
def uninterrupted(tmp_path: Path) -> dict[str, Any]:
    return state(Job(tmp_path / "straight").train().run.out)


def test_every_step_and_epoch_once(tmp_path: Path) -> None:
    job = Job(tmp_path).train()
    assert job.steps == list(range(STEPS))
    assert job.epochs == [1, 2, 3]
    found = rows(tmp_path)
    assert [row["step"] for row in found if "loss" in row] == list(range(1, STEPS + 1))
    assert [(row["step"], row["epoch"], row["score"]) for row in found if "score" in row] == [
        (4, 1, 0.1), (8, 2, 0.2), (12, 3, 0.3),
    ]  # fmt: skip
    schedule = Schedule(peak_lr=1e-2, total_steps=STEPS, warmup_steps=3)
    assert [row["lr"] for row in found if "lr" in row] == [schedule.lr(step) for step in range(STEPS)]
    assert state(tmp_path)["step"] == STEPS


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_resumes_bit_for_bit(
    number: signal.Signals, tmp_path: Path, uninterrupted: dict[str, Any]
) -> None:
    out = tmp_path / "stopped"
    first = Job(out)
    with pytest.raises(Terminated, match="stopped at step 6; the state is saved, go on with --resume"):
        first.train(first.interrupted(5, lambda: signal.raise_signal(number)))
    assert first.steps == list(range(6))
    assert state(out)["step"] == 6
    second = Job(out).train()
    assert second.steps == list(range(6, STEPS))
    assert_same(state(out), uninterrupted)
    assert [row["step"] for row in rows(out) if "loss" in row] == list(range(1, STEPS + 1))
    assert [row["epoch"] for row in rows(out) if "score" in row] == [1, 2, 3]


def test_a_signal_that_is_ignored_goes_on_being_so(tmp_path: Path) -> None:
    """As Ctrl-C is in what a script started with `&`."""
    job = Job(tmp_path)
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        job.train(job.interrupted(5, lambda: signal.raise_signal(signal.SIGINT)))
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert job.steps == list(range(STEPS))


def test_a_run_killed_between_two_checkpoints_repeats_only_what_was_lost(
    tmp_path: Path, uninterrupted: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock says when to save: here after step 4, and the kill comes at step 9."""
    out = tmp_path / "killed"
    now = [0.0]
    first = Job(out, checkpoint_minutes=1.0)

    def loss_of(step: int, _part: int) -> Tensor:
        now[0] = 0.0 if step < 3 else 61.0
        if step == 9:
            raise MemoryError  # nothing that the loop foresees
        return first.loss(step)

    with monkeypatch.context() as patch:
        patch.setattr("training.loop.time.monotonic", lambda: now[0])
        with pytest.raises(MemoryError):
            first.train(loss_of)
    assert state(out)["step"] == 4
    assert rows(out)[-1]["step"] == 9
    second = Job(out).train()
    assert second.steps == list(range(4, STEPS))
    assert_same(state(out), uninterrupted)
    assert [row["step"] for row in rows(out) if "loss" in row] == list(range(1, STEPS + 1))


def test_a_finished_run_resumes_to_itself(tmp_path: Path, uninterrupted: dict[str, Any]) -> None:
    again = Job(tmp_path / "straight").train()
    assert again.steps == []
    assert_same(state(tmp_path / "straight"), uninterrupted)


def test_a_second_signal_acts_as_it_would_have_without_the_loop(tmp_path: Path) -> None:
    arrived: list[int] = []

    def earlier(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)

    before = signal.signal(signal.SIGTERM, earlier)
    try:
        job = Job(tmp_path)

        def twice() -> None:
            os.kill(os.getpid(), signal.SIGTERM)
            assert arrived == []
            os.kill(os.getpid(), signal.SIGTERM)

        with pytest.raises(Terminated):
            job.train(job.interrupted(2, twice))
        assert arrived == [signal.SIGTERM]
        assert signal.getsignal(signal.SIGTERM) is earlier
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite_stops_the_run_and_spoils_no_state(
    bad: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between two rows it goes unseen, but a state is never saved without looking."""
    job = Job(tmp_path)
    with pytest.raises(Terminated):
        job.train(job.interrupted(3, lambda: signal.raise_signal(signal.SIGTERM)))
    before = (tmp_path / CHECKPOINT_FILE).read_bytes()
    monkeypatch.setattr(loop_module, "LOG_EVERY_S", 1e9)
    job = Job(tmp_path)

    def loss_of(step: int, _part: int) -> Tensor:
        if step == 9:
            signal.raise_signal(signal.SIGTERM)  # asks for a save
        return job.loss(step) * (bad if step == 6 else 1.0)

    with pytest.raises(TrainingError, match=rf"the loss of step 7 is {bad}: start over .* with a lower --blr"):
        job.train(loss_of)
    assert (tmp_path / CHECKPOINT_FILE).read_bytes() == before


def test_weights_that_are_not_finite_are_not_saved(tmp_path: Path) -> None:
    """The loss of the last step was still finite, its gradient was not."""
    job = Job(tmp_path)

    def loss_of(step: int, _part: int) -> Tensor:
        zero = 0 * next(job.model.parameters()).sum()
        return job.loss(step) + (zero.sqrt() if step == STEPS - 1 else zero)  # the root's slope at 0 is infinite

    with pytest.raises(TrainingError, match=f"the weights are not finite after step {STEPS}: start over"):
        job.train(loss_of)
    assert not (tmp_path / CHECKPOINT_FILE).exists()


@pytest.mark.parametrize(
    "spoilt",
    [{"model": {"weight": torch.zeros(2)}}, {"model": None}, {"optimizer": {}}, {"optimizer": None}],
)
def test_the_checkpoint_of_another_network_is_refused(spoilt: dict[str, Any], tmp_path: Path) -> None:
    job = Job(tmp_path).train()
    job.run.save_state({**state(tmp_path), **spoilt})
    with pytest.raises(TrainingError, match="holds the checkpoint of another network"):
        Job(tmp_path).train()


def test_a_steps_randomness_follows_from_seed_and_step() -> None:
    cpu = torch.device("cpu")
    draws = {
        (seed, step): torch.rand(4, generator=step_generator(seed, step, cpu)).tolist()
        for seed in (0, 1)
        for step in (0, 1, 2**40)
    }
    assert len({tuple(draw) for draw in draws.values()}) == len(draws)
    assert torch.rand(4, generator=step_generator(1, 2**40, cpu)).tolist() == draws[1, 2**40]
