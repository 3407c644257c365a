"""A worker makes whole parts, and says why where it cannot. Without Ray: it is an object that is called."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from bulk.parts import part_name
from bulk.worker import TRIES, Embedder, Report
from bundle.store import Bundle
from tests.bulk.working import Found, Notes, job_of, spec_of, write_photos


def made(embedder: Embedder, *parts: int) -> list[Report]:
    return [Report.decode(text) for text in embedder({"part": np.array(parts)})["report"]]


def test_every_piece_becomes_one_part(fake_bundle: Bundle, tmp_path: Path) -> None:
    photos = write_photos(tmp_path / "photos", 10)
    (tmp_path / "photos" / "even" / "000.png").write_bytes(b"")
    notes = Notes()
    embedder = Embedder(job_of(fake_bundle, tmp_path / "photos", tmp_path / "out", notes))
    reports = made(embedder, 0, 1, 2)
    assert [(report.part, report.num_rows, report.failure) for report in reports] == [
        (0, 4, None),
        (1, 4, None),
        (2, 2, None),
    ]
    assert [report.errors for report in reports] == [(("even/000.png", "the file is empty"),), (), ()]
    assert (dict(notes.begun), notes.ended) == ({0: 1, 1: 1, 2: 1}, [0, 1, 2])
    found = Found.at(tmp_path / "out")
    assert found.paths == sorted(photos)
    assert found.table["label"].to_pylist() == [path.split("/")[0] for path in sorted(photos)]
    before = (tmp_path / "out" / part_name(1)).read_bytes()
    made(embedder, 1)
    assert (tmp_path / "out" / part_name(1)).read_bytes() == before


def test_what_is_stored_as_float16_is_the_float32_rounded(fake_bundle: Bundle, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 4)
    for dtype in ("float32", "float16"):
        spec = spec_of(fake_bundle, dtype=dtype)
        assert (
            made(Embedder(job_of(fake_bundle, tmp_path / "photos", tmp_path / dtype, vectors=spec)), 0)[0].num_rows == 4
        )
    exact, rounded = (Found.at(tmp_path / dtype).vectors for dtype in ("float32", "float16"))
    np.testing.assert_array_equal(rounded.astype(np.float16), exact.astype(np.float16))


def test_a_part_that_killed_its_process_again_and_again_is_given_up(fake_bundle: Bundle, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 8)
    embedder = Embedder(job_of(fake_bundle, tmp_path / "photos", tmp_path / "out", Notes({0: TRIES, 1: TRIES - 1})))
    deadly, saved = made(embedder, 0, 1)
    assert (deadly.deadly, deadly.num_rows) == (True, 0)
    assert (saved.deadly, saved.num_rows) == (False, 4)
    assert sorted(path.name for path in (tmp_path / "out").glob("part*")) == [part_name(1)]


def test_parts_are_made_beside_each_other_and_suspicious_ones_alone(fake_bundle: Bundle, tmp_path: Path) -> None:
    """Two that are new meet within their making; of two that were begun before, none meets another."""

    class Meeting(Notes):
        def __init__(self, barrier: threading.Barrier, begun: dict[int, int]) -> None:
            super().__init__(begun)
            self.barrier, self.inside, self.most = barrier, 0, 0

        def begin(self, part: int) -> None:  # noqa: ARG002
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.barrier.wait(20)

        def end(self, part: int) -> None:  # noqa: ARG002
            self.inside -= 1

    write_photos(tmp_path / "photos", 8)
    for begun, together in (({}, 2), ({0: 1, 1: 1}, 1)):
        notes = Meeting(threading.Barrier(together), dict(begun))
        embedder = Embedder(job_of(fake_bundle, tmp_path / "photos", tmp_path / f"out-{together}", notes))
        threads = [threading.Thread(target=made, args=(embedder, part)) for part in (0, 1)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert notes.most == together
        assert len(list((tmp_path / f"out-{together}").glob("part*"))) == 2


@pytest.mark.parametrize("fault", ["another bundle", "no such bundle", "nowhere to write"])
def test_what_does_not_work_is_told_and_not_raised(fake_bundle: Bundle, tmp_path: Path, fault: str) -> None:
    write_photos(tmp_path / "photos", 4)
    job = job_of(fake_bundle, tmp_path / "photos", tmp_path / "out")
    if fault == "another bundle":
        job = replace(job, record=job.record.model_copy(update={"vectors": spec_of(fake_bundle, digest="f" * 64)}))
        told = "is no longer the bundle that the run began with"
    elif fault == "no such bundle":
        job, told = replace(job, bundle=tmp_path / "gone"), "gone is no folder"
    else:
        (tmp_path / "out" / part_name(0)).mkdir()
        told = f"cannot write {tmp_path / 'out' / part_name(0)}: Is a directory"
    (report,) = made(Embedder(job), 0)
    assert told in (report.failure or "")
