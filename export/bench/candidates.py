"""What there is to measure on this machine, and why the rest is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from bundle.errors import RuntimeUnavailable
from bundle.manifest import Manifest
from export.bench.document import Unmeasured
from runtime.base import ServedPrecision
from runtime.machine import Machine
from runtime.select import RuntimeName, choose

RUNTIMES: tuple[RuntimeName, ...] = ("onnxruntime", "openvino", "onnxruntime-tensorrt", "tensorrt")
PRECISIONS: tuple[ServedPrecision, ...] = ("fp32", "bf16", "fp16", "int8")


@dataclass(frozen=True)
class Candidate:
    """`device`: "cpu" or "cuda:0". `auto`: what the service picks when nothing is asked for."""

    runtime: RuntimeName
    device: str
    precision: ServedPrecision
    auto: bool = field(default=False, compare=False)

    @property
    def label(self) -> str:
        return f"{self.runtime} {self.precision} on {self.device}"


BASELINE = Candidate("onnxruntime", "cpu", "fp32")  # what everything is held against


def find_candidates(
    manifest: Manifest,
    runtimes: Sequence[RuntimeName],
    precisions: Sequence[ServedPrecision],
    *,
    device: str,
    machine: Machine,
) -> tuple[list[Candidate], list[Unmeasured]]:
    """Those that can run, behind the baseline; and what cannot, each reason once per runtime.

    The baseline is there even where it was not asked for, unless nothing else can run.

    `device`: as for `runtime.open_runtime`. The fake runs where it is asked for by name.
    """
    found: list[Candidate] = []
    reasons: dict[tuple[str, str], list[str]] = {}
    # bf16 is an fp32 graph on a device that rounds, so every bundle has it.
    present = [p for p in precisions if p == "bf16" or p in manifest.graphs["encoder"].files]
    for runtime, precision in product(runtimes, present):
        try:
            candidate = _candidate(manifest, runtime, precision, device, machine)
        except RuntimeUnavailable as e:
            reasons.setdefault((runtime, str(e)), []).append(precision)
            continue
        if candidate not in found:
            found.append(candidate)
    if found:
        found = [BASELINE, *(each for each in found if each != BASELINE)]
    picked = _picked(manifest, device, machine)
    marked = [replace(c, auto=c == picked) for c in found]
    unavailable = [Unmeasured(runtime=r, precision=", ".join(p), reason=why) for (r, why), p in reasons.items()]
    absent = [
        Unmeasured(runtime="any", precision=p, reason=f"the bundle has no {p} encoder; export it with --precision {p}")
        for p in precisions
        if p not in present
    ]
    return marked, absent + unavailable


def _candidate(
    manifest: Manifest, runtime: RuntimeName, precision: ServedPrecision, device: str, machine: Machine
) -> Candidate:
    if runtime == "fake":
        return Candidate("fake", "cpu", "fp32")
    choice = choose(manifest, runtime, device=device, precision=precision, machine=machine)
    return Candidate(runtime, "cpu" if choice.gpu is None else f"cuda:{choice.gpu}", choice.precision)


def _picked(manifest: Manifest, device: str, machine: Machine) -> Candidate | None:
    """None where nothing installed runs the bundle; the rows say why."""
    try:
        choice = choose(manifest, "auto", device=device, precision="auto", machine=machine)
    except RuntimeUnavailable:
        return None
    runtime: RuntimeName = "onnxruntime" if choice.engine == "onnxruntime-cuda" else choice.engine
    return Candidate(runtime, "cpu" if choice.gpu is None else f"cuda:{choice.gpu}", choice.precision)
