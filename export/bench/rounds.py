"""Measuring: every engine in its own process, all of them in turns, so that what disturbs the machine hits all alike.

Letters: N images, H x W pixels, C channels, K patches kept.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bundle.store import Bundle
from export.bench.candidates import BASELINE, Candidate
from export.bench.client import EngineFailed, Worker
from export.bench.document import Cosine, Latency, Memory, Peak, Row, Speedup, Throughput, Unmeasured
from runtime.agreement import cosines
from runtime.base import Arrays, ServedPrecision
from runtime.cores import usable_cores

Progress = Callable[[str, int, int], None]  # what is being done, steps done, steps in all

_OPEN_TIMEOUT_S = 3600  # TensorRT builds its engines when they are first opened
_PEAK_SHARE_OF_TIME = 0.5


@dataclass(frozen=True)
class Plan:
    """`ids`: the K patches that every image keeps. `seconds`: of one measurement of one engine in one round.

    `inputs`: the encoder's, on which outputs are compared; `images`: u8 [N, H, W, C] to take times on, None for noise.
    `batches`: what is tried for the best throughput, by kind of device.
    """

    ids: list[int]
    flops_per_image: int
    inputs: Path
    images: Path | None
    batches: Mapping[str, Sequence[int]]
    rounds: int
    seconds: float


@dataclass
class Contestant:
    """An engine's process, and what it has shown so far. `error`: what put it out of the race."""

    candidate: Candidate
    worker: Worker
    facts: dict[str, Any] = field(default_factory=dict)
    swept: dict[int, float] = field(default_factory=dict)  # batch -> images/s
    latencies: list[list[float]] = field(default_factory=list)  # seconds of each call, a list per round
    rates: list[float] = field(default_factory=list)  # images/s of each round
    outputs: Arrays = field(default_factory=dict)
    peak_bytes: int | None = None
    error: str | None = None

    @property
    def batch(self) -> int:
        """The best one; of equals the smallest."""
        return max(sorted(self.swept), key=lambda batch: self.swept[batch])


@dataclass(frozen=True)
class Measured:
    rows: list[Row]
    failed: list[Unmeasured]
    peaks: list[Peak]


def measure(bundle: Bundle, candidates: Sequence[Candidate], plan: Plan, scratch: Path, progress: Progress) -> Measured:
    """Open all, compare their outputs, try the batches, then take `plan.rounds` turns. One that fails leaves the rest.

    `scratch`: an empty folder for the outputs.
    """
    contestants: list[Contestant] = []
    peaks: dict[tuple[str, ServedPrecision], Peak] = {}
    steps = _Steps(progress, len(candidates), plan)
    with Worker() as meter:
        try:
            contestants.extend(Contestant(candidate, Worker()) for candidate in candidates)
            steps.each(contestants, "opening", lambda c: _open(c, bundle, plan, scratch))
            for index in range(max(map(len, plan.batches.values()))):
                steps.each(contestants, "trying batches", lambda c, index=index: _try_batch(c, plan, index))  # type: ignore[misc]
            for number in range(plan.rounds):
                order = contestants[::-1] if number % 2 else contestants  # nobody always comes after the same one
                steps.each(order, f"round {number + 1} of {plan.rounds}", lambda c: _take_turn(c, plan))
                _measure_peaks(meter, contestants, plan, peaks)
            steps.each(contestants, "memory", _ask_memory)
        finally:
            for contestant in contestants:
                contestant.worker.close()
    baseline = next((c for c in contestants if c.candidate == BASELINE and c.error is None), None)
    rows = [_row(c, baseline, plan, peaks) for c in contestants if c.error is None]
    failed = [
        Unmeasured(runtime=c.candidate.runtime, precision=c.candidate.precision, reason=c.error)
        for c in contestants
        if c.error is not None
    ]
    return Measured(rows, failed, list(peaks.values()))


class _Steps:
    """Counts for the progress bar, and sees that one engine's failure stays its own."""

    def __init__(self, progress: Progress, num_candidates: int, plan: Plan) -> None:
        self._progress, self._done = progress, 0
        self._total = num_candidates * (2 + plan.rounds + max(map(len, plan.batches.values())))

    def each(self, contestants: Sequence[Contestant], what: str, action: Callable[[Contestant], None]) -> None:
        for contestant in contestants:
            self._progress(f"{what}: {contestant.candidate.label}", self._done, self._total)
            self._done += 1
            if contestant.error is None:
                try:
                    action(contestant)
                except EngineFailed as e:
                    contestant.error = str(e)
                    contestant.worker.close()  # its memory and its threads are free for the others


def _open(c: Contestant, bundle: Bundle, plan: Plan, scratch: Path) -> None:
    name, device, precision = c.candidate.runtime, c.candidate.device, c.candidate.precision
    images = None if plan.images is None else str(plan.images)
    c.facts = c.worker.call(
        "open", opener="engine", bundle=str(bundle.path), images=images, runtime=name, device=device,
        precision=precision, timeout_s=_OPEN_TIMEOUT_S,
    )  # fmt: skip
    out = scratch / f"{name}-{precision}-{device.replace(':', '')}.npz"
    c.worker.call("outputs", inputs=str(plan.inputs), out=str(out))
    with np.load(out) as arrays:
        c.outputs = dict(arrays)
    for output, array in c.outputs.items():
        if not np.isfinite(array).all():  # as where fp16 overflows: how fast it is does not matter then
            raise EngineFailed(f"its {output} are not all finite numbers")


def _try_batch(c: Contestant, plan: Plan, index: int) -> None:
    batches = plan.batches[c.candidate.device.partition(":")[0]]
    if index < len(batches):
        c.swept[batches[index]] = c.worker.call("rate", batch=batches[index], ids=plan.ids, seconds=plan.seconds / 2)


def _take_turn(c: Contestant, plan: Plan) -> None:
    c.latencies.append(c.worker.call("calls", batch=1, ids=plan.ids, seconds=plan.seconds))
    c.rates.append(c.worker.call("rate", batch=c.batch, ids=plan.ids, seconds=plan.seconds))


def _ask_memory(c: Contestant) -> None:
    c.peak_bytes = c.worker.call("memory")


def _measure_peaks(
    meter: Worker, contestants: Sequence[Contestant], plan: Plan, peaks: dict[tuple[str, ServedPrecision], Peak]
) -> None:
    """The best over all rounds. Where it cannot be measured there is none, and no row is the worse for it."""
    for device, precision in dict.fromkeys(_peak_key(c) for c in contestants if c.error is None):
        try:
            found = meter.call(
                "peak", device=device, precision=precision, threads=usable_cores(),
                seconds=plan.seconds * _PEAK_SHARE_OF_TIME,
            )  # fmt: skip
        except EngineFailed:
            continue
        known = peaks.get((device, precision))
        if found is not None and (known is None or found["flops_per_s"] > known.flops_per_s):
            peaks[device, precision] = Peak(device=device, precision=precision, **found)


def peak_precision(device: str, precision: ServedPrecision) -> ServedPrecision:
    """The one whose peak is the limit: CPUs compute an fp16 graph in fp32."""
    return "fp32" if device == "cpu" and precision == "fp16" else precision


def _peak_key(c: Contestant) -> tuple[str, ServedPrecision]:
    return c.facts["device"], peak_precision(c.facts["device"], c.facts["precision"])


def _row(
    c: Contestant, baseline: Contestant | None, plan: Plan, peaks: Mapping[tuple[str, ServedPrecision], Peak]
) -> Row:
    calls_ms = [seconds * 1000 for latencies in c.latencies for seconds in latencies]
    images_per_s = statistics.median(c.rates)
    flops_per_s = images_per_s * plan.flops_per_image
    peak = peaks.get(_peak_key(c))
    before = c.facts["before_bytes"]
    return Row(
        runtime=c.facts["runtime"],
        device=c.facts["device"],
        precision=c.facts["precision"],
        auto=c.candidate.auto,
        lanes=c.facts["lanes"],
        details=c.facts["details"],
        latency=Latency(
            p50_ms=float(np.percentile(calls_ms, 50)), p99_ms=float(np.percentile(calls_ms, 99)), calls=len(calls_ms)
        ),
        throughput=Throughput(images_per_s=images_per_s, batch=c.batch, swept=c.swept),
        speedup=None if baseline is None else _speedup(c, baseline),
        flops_per_s=flops_per_s,
        peak_precision=None if peak is None else peak.precision,
        peak_share=None if peak is None else flops_per_s / peak.flops_per_s,
        memory=None if before is None else Memory(before_bytes=before, peak_bytes=c.peak_bytes),
        cosine=None if baseline is None else _cosine(c.outputs, baseline.outputs),
    )


def _speedup(c: Contestant, baseline: Contestant) -> Speedup:
    """The median over rounds: what slows one round down slows both of its sides down."""
    pairs = zip(c.latencies, baseline.latencies, strict=True)
    latency = statistics.median(statistics.median(theirs) / statistics.median(own) for own, theirs in pairs)
    throughput = statistics.median(own / theirs for own, theirs in zip(c.rates, baseline.rates, strict=True))
    return Speedup(latency=latency, throughput=throughput)


def _cosine(outputs: Arrays, expected: Arrays) -> Cosine:
    per_output = [cosines(outputs[name], expected[name]) for name in expected]  # each [N]
    found = np.concatenate(per_output)
    return Cosine(min=float(found.min()), mean=float(found.mean()))
