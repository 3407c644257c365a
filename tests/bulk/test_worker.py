"""A worker makes whole parts, and says why where it cannot. Without Ray: it is an object that is called."""

from __future__ import annotations

import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest

from bulk.parts import part_name
from bulk.watch import Watch
from bulk.worker import TRIES, Embedder, Report
from bundle.store import Bundle
from tests.bulk.working import Found, Notes, bucket, job_of, spec_of, store, write_photos
from tests.service.helpers import photo


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
    assert [(report.num_errors, report.num_made) for report in reports] == [(1, 4), (0, 4), (0, 2)]
    assert notes.begun == notes.ended == [0, 1, 2]
    found = Found.at(tmp_path / "out")
    assert found.paths == sorted(photos)
    assert found.errors == {"even/000.png": "the file is empty"}
    assert found.table["label"].to_pylist() == [path.split("/")[0] for path in sorted(photos)]
    before = (tmp_path / "out" / part_name(1)).read_bytes()
    notes.ended.clear()
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
    """Two that are new meet within their making; of two over which a process died, none meets another."""

    class Meeting(Notes):
        def __init__(self, barrier: threading.Barrier, deaths: dict[int, int]) -> None:
            super().__init__(deaths)
            self.barrier, self.inside, self.most = barrier, 0, 0

        def begin(self, part: int) -> None:  # noqa: ARG002
            self.inside += 1
            self.most = max(self.most, self.inside)
            self.barrier.wait(20)

        def end(self, part: int) -> None:  # noqa: ARG002
            self.inside -= 1

    write_photos(tmp_path / "photos", 8)
    for deaths, together in (({}, 2), ({0: 1, 1: 1}, 1)):
        notes = Meeting(threading.Barrier(together), dict(deaths))
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


def test_errors_that_are_tried_again_cost_no_good_row(fake_bundle: Bundle, tmp_path: Path) -> None:
    """In their order too; what was good is neither made anew nor lost with its file."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    made_of = write_photos(photos, 8)
    names = sorted(made_of)
    for bad in (names[0], names[2]):
        (photos / bad).write_bytes(b"")
    job = job_of(fake_bundle, photos, out)
    made(Embedder(job), 0)
    before = Found.at(out)
    (photos / names[2]).write_bytes(made_of[names[2]])  # mended
    (photos / names[1]).unlink()  # archived
    (photos / names[3]).write_bytes(photo(77))
    again = replace(job, again=frozenset([0]), teller=Notes())
    (report,) = made(Embedder(again), 0)
    assert (report.num_rows, report.num_errors, report.num_made) == (4, 1, 2)
    after = Found.at(out)
    assert after.paths == names[:4]
    assert after.errors == {names[0]: "the file is empty"}
    assert after.table["label"].to_pylist() == before.table["label"].to_pylist()
    for row in (1, 3):
        assert after.sha256[row] == before.sha256[row]
        np.testing.assert_array_equal(after.vectors[row], before.vectors[row])
    assert after.sha256[2] == sha256(made_of[names[2]]).hexdigest()
    assert after.vectors[2].any()


def test_a_part_is_given_up_for_its_own_deaths_and_made_once(fake_bundle: Bundle, tmp_path: Path) -> None:
    """Ray repeats a task as a whole: the part that kills the process, and one that was finished before it."""

    class Died(Exception):
        pass

    class InProcess(Watch):
        def end(self, part: int) -> None:
            if part == 1:
                raise Died
            super().end(part)

    write_photos(tmp_path / "photos", 8)
    watch = InProcess()
    job = job_of(fake_bundle, tmp_path / "photos", tmp_path / "out", watch)
    embedder = Embedder(job)
    for _ in range(TRIES):
        with pytest.raises(Died):
            made(embedder, 0, 1)
    when = (tmp_path / "out" / part_name(0)).stat().st_mtime_ns
    first, second = made(embedder, 0, 1)
    assert (first.deadly, first.num_rows, first.num_made) == (False, 4, 4)
    assert second.deadly
    assert (tmp_path / "out" / part_name(0)).stat().st_mtime_ns == when


def test_a_part_of_which_a_store_gave_nothing_ends_the_run(
    fake_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Written, it would count as finished, with the errors of a machine that has no keys."""
    monkeypatch.setattr("bulk.content.WAITS_S", ())
    with store() as access:
        for name, value in access.items():
            monkeypatch.setenv(name, value)
        files = bucket(access, "vanished")
        for name in ("a.png", "b.png"):
            with files.open_output_stream(f"vanished/{name}") as file:
                file.write(photo(1))
        job = job_of(fake_bundle, "s3://vanished", tmp_path / "out")
        for name in ("a.png", "b.png"):
            files.delete_file(f"vanished/{name}")
        assert made(Embedder(job), 0)[0].num_errors == 2  # they are gone, which is theirs to say
        (tmp_path / "out" / part_name(0)).unlink()
    (report,) = made(Embedder(replace(job, teller=Notes())), 0)
    told = "no image of part-000000.parquet could be reached, so it is not written (a.png: the file cannot be reached: "
    assert (report.failure or "").startswith(told)
    assert not list((tmp_path / "out").glob("part-*"))
