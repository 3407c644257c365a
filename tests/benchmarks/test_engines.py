"""benchmarks.engines: what is held against what, and on which images."""

from __future__ import annotations

from argparse import Namespace
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest
import torch

import benchmarks.engines
from benchmarks.engines import Engine, compare_outputs, opened, pixels_to_compare_on, take_turns
from benchmarks.engines_worker import TorchEncoder
from bundle.errors import MaeveError
from bundle.masking import all_ids
from bundle.store import Bundle
from export.bench.client import EngineFailed
from runtime.agreement import cosines


class StubWorker:
    """`failing`: operations that the engine does not survive. `gain`: what its outputs are multiplied by."""

    def __init__(self, *failing: str, gain: float = 1.0) -> None:
        self._failing = failing
        self._gain = gain

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing runs."""

    def call(self, op: str, **arguments: Any) -> Any:
        if op in self._failing or arguments.get("opener") in self._failing:
            raise EngineFailed(f"{op} failed")
        if op == "outputs":
            with np.load(arguments["inputs"]) as given:
                flat = given["images"].reshape(len(given["images"]), -1).astype(np.float32)
                assert given["ids_keep"].shape == (len(flat), 16)
            np.savez(arguments["out"], cls=flat + self._gain)
        return {"open": {"device": "cpu", "precision": "fp32"}, "together": [0.5], "peak": None}.get(op)


LABELS: dict[str, dict[str, Any]] = {"the first": {"opener": "plain"}, "ours": {"opener": "engine"}}


def engine(label: str, worker: StubWorker) -> Engine:
    return Engine(label, {"opener": "engine"}, worker, "fp32")  # type: ignore[arg-type]


def settings() -> Namespace:
    return Namespace(device="cpu", keep=0.5, rounds=1, batch=4, seconds=0.0)


def test_another_engine_never_takes_the_place_of_the_first(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    message = "the first, which all others are held against, does not run: open failed"
    monkeypatch.setattr(benchmarks.engines, "Worker", lambda _: StubWorker("plain"))
    with ExitStack() as stack, pytest.raises(MaeveError, match=message):
        opened(LABELS, tiny_bundle, stack)
    monkeypatch.setattr(benchmarks.engines, "Worker", lambda _: StubWorker("engine"))
    with ExitStack() as stack:
        assert [each.label for each in opened(LABELS, tiny_bundle, stack)] == ["the first"]
    assert capsys.readouterr().out == "ours: open failed\n"


def test_nor_does_it_while_they_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmarks.engines, "Worker", lambda _: StubWorker())
    engines = [engine("the first", StubWorker()), engine("ours", StubWorker("together"))]
    take_turns(settings(), 16, engines)
    assert [each.label for each in engines] == ["the first"]
    assert engines[0].rates == {1.0: [8.0], 0.5: [8.0]}
    with pytest.raises(EngineFailed, match="the first, which all others are held against"):
        take_turns(settings(), 16, [engine("the first", StubWorker("together")), engine("ours", StubWorker())])


def test_outputs_are_compared_on_real_images_where_there_are_some(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Nearly black ones, on which outputs that differ by a constant point elsewhere; on noise they would not."""
    dark = np.zeros((3, 32, 32, 3), np.uint8)
    dark[:, 0, 0] = 9
    np.savez(tmp_path / "images.npz", images=dark)
    pixels = pixels_to_compare_on(tiny_bundle, 8, tmp_path / "images.npz")
    np.testing.assert_array_equal(pixels, dark)
    assert pixels_to_compare_on(tiny_bundle, 8, None).std() > 70  # of 0 to 255 evenly: 73.9
    engines = [engine("the first", StubWorker(gain=0.0)), engine("ours", StubWorker(gain=1.0))]
    compare_outputs(engines, tiny_bundle, pixels, tmp_path, is_random=True)
    assert engines[0].cosine == pytest.approx(1)
    # (3 * 9 * 10) / (9 sqrt(3) * sqrt(3 * 10^2 + 3069 * 1^2))
    assert engines[1].cosine == pytest.approx(270 / (9 * 3**0.5 * 3369**0.5))


def test_the_half_torch_encoder_has_weights_of_halves_as_the_graph_has(tiny_bundle: Bundle) -> None:
    inputs = {
        "images": np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8),
        "ids_keep": np.ascontiguousarray(all_ids(2, 16)),
    }
    torch.backends.cuda.matmul.allow_tf32 = True  # as somebody may have left it
    outputs = {}
    for precision in ("fp32", "fp16"):
        encoder = TorchEncoder(tiny_bundle, {"device": "cpu", "precision": precision, "compiled": False})
        outputs[precision] = encoder.run("encoder", inputs)
        module: Any = encoder._module
        dtypes = {value.dtype for value in (*module.parameters(), *module.buffers())}
        assert dtypes == {torch.float16 if precision == "fp16" else torch.float32}
        encoder.close()
    assert not torch.backends.cuda.matmul.allow_tf32
    for name, value in outputs["fp16"].items():
        assert value.dtype == np.float32
        assert cosines(value, outputs["fp32"][name]).min() > 0.999
        assert not np.array_equal(value, outputs["fp32"][name])
