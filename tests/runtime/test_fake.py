from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bundle.errors import InferenceError
from bundle.masking import all_ids, random_masking
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.fake import FakeRuntime


def images(*grey: int) -> Arrays:
    """Plain images, told apart by their grey."""
    pixels = np.stack([np.full((32, 32, 3), value, np.uint8) for value in grey])
    return {"images": pixels, "ids_keep": all_ids(len(grey), 16)}


def test_outputs_have_the_shapes_and_types_of_the_manifest(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle)
    encoded = runtime.run("encoder", {**images(1, 2), "ids_keep": np.zeros((2, 4), np.int64)})
    assert {name: value.shape for name, value in encoded.items()} == {
        "cls": (2, 32),
        "mean": (2, 32),
        "tokens": (2, 5, 32),
    }
    restore = np.stack([random_masking(16, 0.75, seed).ids_restore for seed in range(2)])
    decoded = runtime.run("decoder", {"tokens": encoded["tokens"], "ids_restore": restore})
    assert decoded["patches"].shape == (2, 16, 192)
    assert runtime.run("head", {"mean": encoded["mean"]})["logits"].shape == (2, 5)
    assert all(value.dtype == np.float32 for value in (*encoded.values(), *decoded.values()))


def test_a_row_depends_on_its_own_image_alone(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle.manifest)
    batch = runtime.run("encoder", images(1, 2, 3))["cls"]
    assert np.array_equal(batch[2], runtime.run("encoder", images(3))["cls"][0])
    assert len(np.unique(batch, axis=0)) == 3
    assert np.array_equal(FakeRuntime(tiny_bundle).run("encoder", images(1, 2, 3))["cls"], batch)


def test_outputs_and_subsets_differ(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle)
    whole = runtime.run("encoder", images(1))
    part = runtime.run("encoder", {**images(1), "ids_keep": np.arange(8)[None]})
    assert not np.array_equal(whole["cls"], whole["mean"])
    assert not np.array_equal(whole["cls"], part["cls"])


def test_one_poisoned_image_fails_its_whole_call_and_no_other(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle, fail_on=lambda image: bool((image == 66).all()))
    with pytest.raises(InferenceError, match="encoder: poisoned input"):
        runtime.run("encoder", images(1, 66, 2))
    assert runtime.run("encoder", images(1, 2))["cls"].shape == (2, 32)
    assert runtime.calls == [("encoder", 3), ("encoder", 2)]


def test_latency_and_the_number_of_calls_at_once(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle, latency_ms=50, lanes=3)
    start = time.monotonic()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda grey: runtime.run("encoder", images(grey)), range(3)))
    assert time.monotonic() - start >= 0.05
    assert 2 <= runtime.peak <= 3


def test_inputs_are_checked_as_by_a_real_engine(tiny_bundle: Bundle) -> None:
    with pytest.raises(ValueError, match="inputs must be"):
        FakeRuntime(tiny_bundle).run("encoder", {"images": images(1)["images"]})


def test_a_closed_runtime_refuses(tiny_bundle: Bundle) -> None:
    runtime = FakeRuntime(tiny_bundle)
    runtime.close()
    runtime.close()
    with pytest.raises(InferenceError, match="closed"):
        runtime.run("encoder", images(1))
