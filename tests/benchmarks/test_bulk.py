"""benchmarks.bulk: what it compares is what it says, without Ray."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import benchmarks.bulk as bulk
from benchmarks.bulk import Timed, bare_loop, encoded_images, vectors_of
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.onnx import OnnxRuntime
from tests.service.helpers import photo


def test_the_loop_gives_every_image_s_vector_in_order(tiny_bundle: Bundle) -> None:
    images = [photo(i) for i in range(11)]
    runtime = OnnxRuntime(tiny_bundle, lanes=2)
    found = bare_loop(tiny_bundle, runtime, images)
    for image, vector in zip(images, found, strict=True):
        pixels = preprocess(image, tiny_bundle.manifest.preprocess)[None]
        alone = runtime.run("encoder", {"images": pixels, "ids_keep": keep_ids(16, 1.0)[None]}, ["mean"])["mean"][0]
        np.testing.assert_allclose(vector, alone, atol=1e-5)
    runtime.close()


def test_images_are_those_that_can_be_read_or_made(tmp_path: Path) -> None:
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(photo(i))
    (tmp_path / "empty.png").touch()
    assert encoded_images([str(tmp_path)], None) == [photo(i) for i in range(3)]
    assert encoded_images([str(tmp_path)], 2) == [photo(0), photo(1)]
    made = encoded_images([], 100)
    assert (len(made), len(set(made))) == (100, bulk._DISTINCT)


def test_ratios_are_of_times() -> None:
    timed = Timed(bare_s=90, bulk_s=100, start_s=4)
    assert timed.ratio == pytest.approx(0.9)
    assert timed.ratio_without_start == pytest.approx(90 / 96)


def test_vectors_come_in_the_order_of_the_parts(tmp_path: Path) -> None:
    for part, name in enumerate("ab"):
        kind = pa.list_(pa.float32(), 2)
        table = pa.table({"path": [name], "embedding": pa.array([[part, part + 1]], kind)})
        pq.write_table(table, tmp_path / f"part-{part:06d}.parquet")
    paths, vectors = vectors_of(tmp_path)
    assert paths == ["a", "b"]
    np.testing.assert_array_equal(vectors, [[0, 1], [1, 2]])
