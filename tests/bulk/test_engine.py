"""Rows become vectors: the service's, in order, and an error beside its own row alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bulk.engine import Engine
from bulk.pieces import Row
from bundle.errors import InvalidInput, OutOfMemory
from bundle.manifest import GraphName
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.base import Arrays
from runtime.fake import FakeRuntime
from tests.bulk.working import spec_of
from tests.service.helpers import photo


def embed(runtime: FakeRuntime, bundle: Bundle, rows: Sequence[Row], **spec: Any) -> list[Any]:
    engine = Engine(bundle.manifest, runtime, spec_of(bundle, **spec), max_pixels=3000, decoders=2)
    try:
        return list(engine.embed(iter(rows)))
    finally:
        engine.close()


def expected(bundle: Bundle, data: bytes, keep: float = 1, pooling: str = "mean") -> NDArray[np.float32]:
    """Not scaled."""
    manifest = bundle.manifest
    inputs: dict[str, NDArray[Any]] = {
        "images": preprocess(data, manifest.preprocess)[None],
        "ids_keep": keep_ids(16, keep)[None],
    }
    found: NDArray[np.float32] = FakeRuntime(bundle).run("encoder", inputs)[pooling][0]
    return found


@pytest.mark.parametrize("device", ["cpu", "cuda:0"])
def test_every_row_has_its_own_vector_in_order(fake_bundle: Bundle, device: str) -> None:
    runtime = FakeRuntime(fake_bundle, lanes=2, max_batch=4)
    runtime.device = device
    rows = [Row(f"{i}.png", photo(i), {"label": str(i)}) for i in range(50)]
    for row, made in zip(rows, embed(runtime, fake_bundle, rows), strict=True):
        assert isinstance(row.data, bytes)
        assert (made.path, made.columns, made.error) == (row.path, row.columns, None)
        assert made.sha256 == hashlib.sha256(row.data).hexdigest()
        vector = expected(fake_bundle, row.data)
        np.testing.assert_allclose(made.vector, vector / np.linalg.norm(vector), rtol=1e-6)
    assert max(size for _, size in runtime.calls) == 4
    assert runtime.peak <= 2


def test_pooling_keep_and_length_are_the_spec_s(fake_bundle: Bundle) -> None:
    (made,) = embed(
        FakeRuntime(fake_bundle), fake_bundle, [Row("a", photo(1))], pooling="cls", keep=0.5, normalize=False
    )
    np.testing.assert_array_equal(made.vector, expected(fake_bundle, photo(1), 0.5, "cls"))


def test_bad_rows_have_reasons_and_no_neighbour_suffers(fake_bundle: Bundle) -> None:
    rows = [
        Row("good.png", photo(0)), Row("gone.png", InvalidInput("the file is gone")), Row("cut.png", photo(1)[:900]),
        Row("text.txt", b"no image"), Row("big.png", photo(2, height=80, width=80)), Row("last.png", photo(3)),
    ]  # fmt: skip
    made = embed(FakeRuntime(fake_bundle), fake_bundle, rows)
    assert [row.error is None for row in made] == [row.vector is not None for row in made]
    assert [row.path for row in made if row.error is None] == ["good.png", "last.png"]
    gone, cut, text, big = (row for row in made if row.error is not None)
    assert (gone.error, gone.sha256) == ("the file is gone", None)
    assert cut.error.startswith("the image is truncated or corrupt: ")
    assert cut.sha256 == hashlib.sha256(photo(1)[:900]).hexdigest()
    assert text.error.startswith("the image is none of the types that are read: ")
    assert big.error == "the image has 80 x 80 pixels, more than 3000 in all"


def test_a_call_that_fails_is_halved_until_its_cause_stands_alone(fake_bundle: Bundle) -> None:
    poison = preprocess(photo(5), fake_bundle.manifest.preprocess)
    runtime = FakeRuntime(fake_bundle, max_batch=16, fail_on=lambda image: np.array_equal(image, poison))
    made = embed(runtime, fake_bundle, [Row(str(i), photo(i)) for i in range(16)])
    assert {row.path: row.error for row in made if row.error} == {"5": "encoder: poisoned input"}
    assert [row.path for row in made] == [str(i) for i in range(16)]
    assert [size for _, size in runtime.calls] == [16, 8, 4, 4, 2, 1, 1, 2, 8]
    for row in made:
        if row.error is None:
            vector = expected(fake_bundle, photo(int(row.path)))
            np.testing.assert_allclose(row.vector, vector / np.linalg.norm(vector), rtol=1e-6)


class SmallRuntime(FakeRuntime):
    """Its memory holds three images."""

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], wanted: Sequence[str] | None = None) -> Arrays:
        outputs = super().run(graph, inputs, wanted)
        if len(inputs["images"]) > 3:
            raise OutOfMemory("no room")
        return outputs


def test_what_memory_does_not_hold_is_asked_for_in_smaller_calls_from_then_on(fake_bundle: Bundle) -> None:
    runtime = SmallRuntime(fake_bundle, max_batch=8)
    made = embed(runtime, fake_bundle, [Row(str(i), photo(i)) for i in range(24)])
    assert all(row.error is None for row in made)
    sizes = [size for _, size in runtime.calls]
    assert sizes[:2] == [8, 4]
    assert set(sizes[sizes.index(2) + 2 :]) <= {2, 4, 8}
    assert sizes[-4:] == [2, 2, 2, 2]


@pytest.mark.parametrize(("value", "dtype", "told"), [(np.nan, "float32", "not finite"), (70000, "float16", "float16")])
def test_numbers_that_cannot_be_stored_are_errors(fake_bundle: Bundle, value: float, dtype: str, told: str) -> None:
    class Strange(FakeRuntime):
        def run(self, graph: GraphName, inputs: Mapping[str, Any], wanted: Sequence[str] | None = None) -> Arrays:
            return {name: array * 0 + value for name, array in super().run(graph, inputs, wanted).items()}

    (made,) = embed(Strange(fake_bundle), fake_bundle, [Row("a", photo(0))], dtype=dtype, normalize=False)
    assert told in made.error
    assert made.vector is None


def test_what_the_rows_raise_is_raised_and_little_is_read_ahead(fake_bundle: Bundle) -> None:
    given: list[int] = []

    def rows() -> Iterator[Row]:
        for i in range(1000):
            given.append(i)
            yield Row(str(i), photo(0))
        raise RuntimeError("the end")

    engine = Engine(fake_bundle.manifest, FakeRuntime(fake_bundle), spec_of(fake_bundle), max_pixels=3000)
    made = engine.embed(rows())
    assert next(made).path == "0"
    assert len(given) <= 64
    with pytest.raises(RuntimeError, match="the end"):
        list(made)
    engine.close()
