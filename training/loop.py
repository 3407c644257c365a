"""The one training loop: learning rate, step, log, checkpoint, stop on SIGTERM, resume.

Everything random in a step is a function of (seed, step), so a resumed run repeats the uninterrupted one bit for bit.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from training.errors import Terminated, TrainingError
from training.optim import Schedule, set_lr
from training.progress import Bar, track
from training.run import Run

LOG_EVERY_S = 5.0
_ADVICE = "start over in another --out with a lower --blr or a longer --warmup-epochs"


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """steps_per_epoch and batch_size describe the data; checkpoint_minutes: time between two saved states."""

    seed: int
    batch_size: int
    steps_per_epoch: int
    checkpoint_minutes: float
    name: str


def step_generator(seed: int, step: int, device: torch.device) -> torch.Generator:
    """The source of everything random in one step."""
    (state,) = np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def train(
    run: Run,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    schedule: Schedule,
    config: LoopConfig,
    *,
    loss_of: Callable[[int], Tensor],
    after_epoch: Callable[[int], Mapping[str, float]],
    after_step: Callable[[int], None] | None = None,
    extra: Mapping[str, nn.Module] | None = None,
) -> None:
    """Run every step that is not behind us yet. loss_of: step -> scalar loss; after_epoch: epochs done -> metrics.

    after_step: told how many steps are done, once the weights have changed. extra: modules that the checkpoint holds
    beside the model, by name.

    Raises Terminated after SIGTERM or SIGINT, with the state saved, and TrainingError for a loss that is not finite.
    """
    modules = {"model": model, **(extra or {})}
    first = _restore(run, modules, optimizer)
    meter = _Meter(first)
    saved_at = time.monotonic()
    with track(config.name, schedule.total_steps, done=first) as bar, _stop_signals() as stopped:
        for step in range(first, schedule.total_steps):
            # Drop path and the like draw from the global generator.
            torch.manual_seed(step_generator(config.seed, step, torch.device("cpu")).initial_seed())
            set_lr(optimizer, schedule.lr(step))
            loss = loss_of(step)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            optimizer.zero_grad()
            done = step + 1
            if after_step is not None:
                after_step(done)
            stopping = stopped()
            saving = stopping or time.monotonic() - saved_at > 60 * config.checkpoint_minutes
            meter.losses.append(loss.detach())
            # Before a save always: a row tells of a loss that is not finite, and no state of it is to be kept.
            if saving or done == schedule.total_steps or meter.elapsed() >= LOG_EVERY_S:
                _log(run, bar, meter, schedule, config, done)
            else:
                bar.advance(note="")
            if done % config.steps_per_epoch == 0:
                metrics = after_epoch(done // config.steps_per_epoch)
                run.log({"step": done, "epoch": done // config.steps_per_epoch, **metrics})
            if saving:
                _save(run, modules, optimizer, done)
                saved_at = time.monotonic()
            if stopping:
                raise Terminated(f"stopped at step {done}; the state is saved, go on with --resume")
    _save(run, modules, optimizer, schedule.total_steps)


class _Meter:
    """The losses and the time since the last log row, without waiting for the device at every step."""

    def __init__(self, step: int) -> None:
        self.reset(step)

    def reset(self, step: int) -> None:
        self.since, self.step, self.losses = time.monotonic(), step, list[Tensor]()

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.since

    def mean_loss(self) -> float:
        """Raises TrainingError for a loss that is not finite; its step and the seed say with which images."""
        losses = torch.stack(self.losses).cpu()
        if not losses.isfinite().all():
            first = int(losses.isfinite().int().argmin())
            raise TrainingError(f"the loss of step {self.step + first + 1} is {losses[first]}: {_ADVICE}")
        return float(losses.mean())


def _log(run: Run, bar: Bar, meter: _Meter, schedule: Schedule, config: LoopConfig, done: int) -> None:
    """Write a row for the steps since the last one, and show it."""
    loss, elapsed = meter.mean_loss(), meter.elapsed()
    speed = (done - meter.step) * config.batch_size / max(elapsed, 1e-9)
    epoch = done / config.steps_per_epoch
    run.log({"step": done, "epoch": epoch, "loss": loss, "lr": schedule.lr(done - 1), "images_per_s": speed})
    bar.advance(note=f"epoch {epoch:.2f}  loss {loss:.4f}  {speed:,.0f} img/s")
    meter.reset(done)


def _save(run: Run, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer, step: int) -> None:
    if not all(parameter.isfinite().all() for module in modules.values() for parameter in module.parameters()):
        raise TrainingError(f"the weights are not finite after step {step}: {_ADVICE}")
    states = {name: module.state_dict() for name, module in modules.items()}
    run.save_state({"step": step, **states, "optimizer": optimizer.state_dict()})


def _restore(run: Run, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer) -> int:
    """Load the last state, if there is one; the step to go on with."""
    state: dict[str, Any] | None = run.load_state()
    if state is None:
        return 0
    try:
        for name, module in modules.items():
            module.load_state_dict(state[name])
        optimizer.load_state_dict(state["optimizer"])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise TrainingError(f"{run.out} holds the checkpoint of another network: {e}") from e
    return int(state["step"])


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Whether SIGTERM or SIGINT has arrived; a second one acts as it would have without us."""
    arrived: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: bool(arrived)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
