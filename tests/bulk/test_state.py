"""The list of errors: all of them, and few at a time."""

from __future__ import annotations

import csv
import tracemalloc
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bulk.parts import Embedded, encode_part, part_name, part_schema
from bulk.pieces import Piece
from bulk.place import open_place
from bulk.plan import Plans
from bulk.state import ERRORS, State, write_errors
from bulk.worker import Report
from bundle.store import Bundle
from tests.bulk.working import spec_of


def test_errors_of_this_run_and_of_earlier_ones_are_read_from_the_parts(fake_bundle: Bundle, tmp_path: Path) -> None:
    spec = spec_of(fake_bundle)
    place = open_place(tmp_path)
    plans = Plans(place, ()).extended(Piece("files", "photos", (f"{i}.jpg",), count=1) for i in range(3))

    def write(number: int, error: str | None) -> None:
        vector = np.ones(spec.dim, np.float32) if error is None else None
        place.write(
            part_name(number), encode_part([Embedded(f"{number}.jpg", None, vector, error)], part_schema(spec, {}))
        )

    write(0, 'not, "an" image')
    state = State.of(place, plans)
    assert state.todo(retry_errors=False) == [1, 2]
    for number, error in ((1, None), (2, "empty")):
        write(number, error)
        state.take(Report(number, 1, num_errors=int(error is not None), num_made=1))
    assert list(state.errors()) == [("0.jpg", 'not, "an" image'), ("2.jpg", "empty")]
    assert (state.num_images, state.num_errors, state.num_made) == (3, 2, 2)
    write_errors(place, state.errors())
    found = list(csv.reader((tmp_path / ERRORS).read_text().splitlines()))
    assert found == [["path", "error"], *map(list, state.errors())]


def test_the_list_takes_little_more_memory_than_its_text(tmp_path: Path) -> None:
    count = 50_000

    def errors() -> Iterator[tuple[str, str]]:
        return ((f"photos/{i:08}.jpg", "the file does not exist") for i in range(count))

    tracemalloc.start()
    write_errors(open_place(tmp_path), errors())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    size = (tmp_path / ERRORS).stat().st_size
    assert len((tmp_path / ERRORS).read_bytes().splitlines()) == count + 1
    assert peak < 3 * size
