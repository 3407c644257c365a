"""The one training loop: learning rate, step, log, checkpoint, stop on SIGTERM, resume.

Everything random in a step is a function of (seed, step), so a resumed run repeats the uninterrupted one bit for bit.
Of several processes each runs this loop; they meet once per step to agree on when to log, save and stop.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from training.distributed import World, load_whole, own_part, set_gradient_sync, whole
from training.errors import RunFailed, Terminated, TrainingError
from training.feed import Feed
from training.optim import Schedule, set_lr
from training.progress import Bar, track
from training.run import Run

LOG_EVERY_S = 5.0
NON_FINITE_FILE = "non-finite.npz"
_MUCH_WAITING = 0.1  # of the time of a run
_WAITING_ADVICE = (
    "pack it once with training.pack onto a local disk, give the process more cores, or let it live on the GPU "
    "(--feed resident)"
)
_ADVICE = "start over in another --out with a lower --blr or a longer --warmup-epochs"


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """What the loop has to know of a command.

    batch_size: of all processes together; accumulate: parts that a process computes its rows in, one after the other;
    checkpoint_minutes: time between two saved states; flops: step -> FLOPs per image, forward and backward;
    peak_flops: FLOP/s of all devices together.
    """

    seed: int
    batch_size: int
    steps_per_epoch: int
    checkpoint_minutes: float
    name: str
    accumulate: int = 1
    flops: Callable[[int], float] = lambda _step: 0.0
    peak_flops: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What is trained. model: its weights are saved; network: what `loss_of` calls, the model as it is distributed;
    extra: modules that the checkpoint holds beside the model, by name.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    network: nn.Module | None = None
    feed: Feed | None = None
    extra: Mapping[str, nn.Module] = field(default_factory=dict)


def step_generator(seed: int, step: int, device: torch.device, rank: int = 0) -> torch.Generator:
    """The source of everything random in one step of one process."""
    (state,) = np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state >> np.uint64(1)))


def train(
    run: Run,
    parts: Parts,
    schedule: Schedule,
    config: LoopConfig,
    *,
    world: World,
    loss_of: Callable[[int, int], Tensor],
    after_epoch: Callable[[int], Mapping[str, float]],
    after_step: Callable[[int], None] | None = None,
    batch_of: Callable[[int], Mapping[str, Any]] | None = None,
) -> None:
    """Run every step that is not behind us yet.

    loss_of: (step, part) -> scalar loss of one part of the process's rows; after_epoch: epochs done -> metrics;
    after_step: told how many steps are done, once the weights have changed; batch_of: step -> arrays to keep where its
    loss is not finite. Raises Terminated after SIGTERM or SIGINT, with the state saved, and RunFailed for a loss
    that is not finite.
    """
    first = _restore(run, parts)
    if first and world.is_main:
        print(f"going on after step {first} of {schedule.total_steps}", file=sys.stderr)
    meter = _Meter(first, parts.feed)
    saved_at = time.monotonic()
    with track(config.name, schedule.total_steps, done=first, quiet=not world.is_main) as bar, _stop_signals() as stop:
        for step in range(first, schedule.total_steps):
            # Drop path and the like draw from the global generator.
            torch.manual_seed(step_generator(config.seed, step, torch.device("cpu"), world.rank).initial_seed())
            set_lr(parts.optimizer, schedule.lr(step))
            meter.losses.append(_step(parts, config, step, loss_of))
            done = step + 1
            if after_step is not None:
                after_step(done)
            due = world.is_main and time.monotonic() - saved_at > 60 * config.checkpoint_minutes
            log_now = done % config.steps_per_epoch == 0 or (world.is_main and meter.elapsed() >= LOG_EVERY_S)
            stopping, saving, logging = world.agree(bool(stop()), due, log_now)
            # Before a save always: a row tells of a loss that is not finite, and no state of it is to be kept.
            if saving or stopping or logging:
                _log(run, bar, meter, schedule, config, done, world, batch_of)
            bar.advance()
            if stopping:  # first of all: what follows an epoch may take longer than there is time
                _save(run, parts, done, world)
            if done % config.steps_per_epoch == 0:
                metrics = after_epoch(done // config.steps_per_epoch)
                run.log({"step": done, "epoch": done // config.steps_per_epoch, **metrics})
            if saving and not stopping:
                _save(run, parts, done, world)
                saved_at = time.monotonic()
            if stopping:
                said = f"stopped at step {done}; the state is saved, go on with --resume"
                raise Terminated(said, stop() or signal.SIGTERM)  # another process may have been told, and not this one
    _save(run, parts, schedule.total_steps, world)
    if world.is_main and meter.waited_share() > _MUCH_WAITING:
        print(f"{meter.waited_share():.0%} of the time was spent waiting for data: {_WAITING_ADVICE}", file=sys.stderr)


def _step(parts: Parts, config: LoopConfig, step: int, loss_of: Callable[[int, int], Tensor]) -> Tensor:
    """The mean loss of the process's rows, on the device."""
    losses = []
    for part in range(config.accumulate):
        if parts.network is not None:
            set_gradient_sync(parts.network, enabled=part == config.accumulate - 1)
        loss = loss_of(step, part) / config.accumulate
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(loss.detach())
    parts.optimizer.step()
    parts.optimizer.zero_grad()
    return losses[0] if len(losses) == 1 else torch.stack(losses).sum()


class _Meter:
    """The losses and the time since the last log row, without waiting for the device at every step."""

    def __init__(self, step: int, feed: Feed | None) -> None:
        self._feed = feed
        self._began, self._waited_before_s = time.monotonic(), feed.waited_s if feed else 0.0
        self.reset(step)

    def waited_share(self) -> float:
        """Of the time since the run began or went on."""
        waited_s = self._feed.waited_s - self._waited_before_s if self._feed else 0.0
        return waited_s / max(time.monotonic() - self._began, 1e-9)

    def reset(self, step: int) -> None:
        self.since, self.step, self.losses = time.monotonic(), step, list[Tensor]()
        self._waited_s = self._feed.waited_s if self._feed else 0.0

    def elapsed(self) -> float:
        """Seconds."""
        return time.monotonic() - self.since

    def data_wait(self, elapsed: float) -> float:
        """Share of the time in which the feed let the device wait."""
        return 0.0 if self._feed is None else (self._feed.waited_s - self._waited_s) / max(elapsed, 1e-9)


def _log(
    run: Run,
    bar: Bar,
    meter: _Meter,
    schedule: Schedule,
    config: LoopConfig,
    done: int,
    world: World,
    batch_of: Callable[[int], Mapping[str, Any]] | None,
) -> None:
    """Write a row for the steps since the last one, and show it."""
    losses = world.mean(torch.stack(meter.losses)).cpu()  # waits for the device
    if not losses.isfinite().all():
        first = int(losses.isfinite().int().argmin())
        _refuse(run, meter.step + first, float(losses[first]), batch_of)
    elapsed = meter.elapsed()
    speed = (done - meter.step) * config.batch_size / max(elapsed, 1e-9)
    row = {
        "step": done,
        "epoch": done / config.steps_per_epoch,
        "loss": float(losses.mean()),
        "lr": schedule.lr(done - 1),
        "images_per_s": speed,
        "data_wait": meter.data_wait(elapsed),
    }
    note = f"epoch {row['epoch']:.2f}  loss {row['loss']:.4f}  {speed:,.0f} img/s"
    if config.peak_flops:
        row["mfu"] = speed * config.flops(done - 1) / config.peak_flops
        note += f"  MFU {row['mfu']:.0%}"
    run.log(row)
    bar.note(f"{note}  wait {row['data_wait']:.0%}")
    meter.reset(done)


def _refuse(run: Run, step: int, loss: float, batch_of: Callable[[int], Mapping[str, Any]] | None) -> NoReturn:
    """Raise for the first loss that is not finite, with its images kept to be looked at."""
    where = ""
    if batch_of is not None:
        where = f", its images are in {run.save_arrays(NON_FINITE_FILE, step=step, loss=loss, **batch_of(step))}"
    raise RunFailed(f"the loss of step {step + 1} is {loss}{where}: {_ADVICE}")


def _save(run: Run, parts: Parts, step: int, world: World) -> None:
    modules = {"model": parts.model, **parts.extra}
    finite = all(bool(own_part(p).isfinite().all()) for module in modules.values() for p in module.parameters())
    if world.agree(not finite)[0]:  # of shards each process sees its own
        raise RunFailed(f"the weights are not finite after step {step}: {_ADVICE}")
    states = {name: module.state_dict() for name, module in modules.items()}
    state = {"step": step, **states, "optimizer": parts.optimizer.state_dict()}
    run.save_state(whole(state, keep=world.is_main))


def _restore(run: Run, parts: Parts) -> int:
    """Load the last state, if there is one; the step to go on with."""
    state: dict[str, Any] | None = run.load_state()
    if state is None:
        return 0
    try:
        load_whole(parts.model, parts.optimizer, state)
        for name, module in parts.extra.items():
            module.load_state_dict(state[name])
    except (AttributeError, KeyError, TypeError, ValueError, RuntimeError) as e:
        raise TrainingError(f"{run.out} holds the checkpoint of another network: {e}") from e
    return int(state["step"])


@contextmanager
def _stop_signals() -> Iterator[Callable[[], int]]:
    """Which of SIGTERM and SIGINT has arrived, 0 for none; a second one acts as it would have without us. A SIGINT that
    is ignored, as in what a script started with `&`, goes on being so.
    """
    arrived: list[int] = []

    def handle(number: int, _frame: FrameType | None) -> None:
        arrived.append(number)
        signal.signal(number, before[number])

    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGINT] is signal.SIG_IGN:
        del before[signal.SIGINT]
    for number in before:
        signal.signal(number, handle)
    try:
        yield lambda: arrived[0] if arrived else 0
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
