"""export.speed: the time it gives is that of the fastest engine's best call."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import export.speed
from bundle.errors import RuntimeUnavailable
from bundle.store import Bundle
from export.speed import fastest
from runtime.fake import FakeRuntime
from runtime.machine import Machine, survey

LATENCY_MS = {
    ("slow", "onnxruntime"): 40,
    ("slow", "openvino"): 60,
    ("quick", "onnxruntime"): 30,
    ("quick", "openvino"): 5,
}


@pytest.fixture
def drafts(tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> dict[str, Bundle]:
    """Two, by where they lie; both engines are installed, and as fast as LATENCY_MS says."""

    def open_fake(bundle: Bundle, engine: str, **_: Any) -> FakeRuntime:
        return FakeRuntime(bundle, latency_ms=LATENCY_MS[bundle.path.name, engine])

    machine: Machine = replace(survey(), engines=frozenset({"onnxruntime", "openvino"}))
    monkeypatch.setattr(export.speed, "survey", lambda: machine)
    monkeypatch.setattr(export.speed, "open_runtime", open_fake)
    monkeypatch.setattr(export.speed, "_MAX_ROUNDS", 5)
    return {name: replace(tiny_bundle, path=tiny_bundle.path.parent / name) for name in ("slow", "quick")}


IMAGES = np.zeros((1, 32, 32, 3), np.uint8)


def test_each_draft_s_time_is_that_of_its_faster_engine(drafts: dict[str, Bundle]) -> None:
    times = fastest(drafts, IMAGES)
    assert {name: timing.engine for name, timing in times.items()} == {"slow": "onnxruntime", "quick": "openvino"}
    assert 40 <= times["slow"].ms < 60
    assert 5 <= times["quick"].ms < 30


def test_the_best_of_several_calls_counts(drafts: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine stumbles at every call but one."""
    run, count = FakeRuntime.run, [0]

    def stumbling(self: FakeRuntime, *arguments: Any) -> Any:
        count[0] += 1
        time.sleep(0 if count[0] == 3 else 0.08)
        return run(self, *arguments)

    monkeypatch.setattr(FakeRuntime, "run", stumbling)
    monkeypatch.setattr(export.speed, "_CPU_ENGINES", ("onnxruntime",))
    assert 30 <= fastest({"quick": drafts["quick"]}, IMAGES)["quick"].ms < 80
    assert count[0] == 1 + 5  # one that is not timed


def test_an_engine_that_does_not_open_is_passed_over(
    drafts: dict[str, Bundle], monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_fake(bundle: Bundle, engine: str, **_: Any) -> FakeRuntime:
        if engine == missing:
            raise RuntimeUnavailable(f"no {engine} here")
        return FakeRuntime(bundle, latency_ms=1)

    monkeypatch.setattr(export.speed, "open_runtime", open_fake)
    missing = "openvino"
    assert {timing.engine for timing in fastest(drafts, IMAGES).values()} == {"onnxruntime"}
    missing = "onnxruntime"
    with pytest.raises(RuntimeUnavailable, match="no onnxruntime here"):
        fastest(drafts, IMAGES)
