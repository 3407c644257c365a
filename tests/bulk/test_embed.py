"""python -m bulk.embed as it is used: processes that are killed, inputs that are bad, and the service's own vectors."""

from __future__ import annotations

import csv
import io
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from bulk.embed import EmbedConfig
from bulk.embedding import embed
from bulk.errors import BulkError
from bulk.parts import part_name
from bulk.place import open_place, read
from bulk.state import ERRORS
from bundle.errors import BundleError, RuntimeUnavailable, SourceError
from bundle.store import Bundle
from runtime.agreement import cosines
from service.app import create_app
from service.settings import Settings
from tests.bulk.working import TIMEOUT_S, Found, bucket, command, environment, run, store, write_photos
from tests.servers import ROOT
from tests.service.helpers import eventually, free_port, make_bundle, photo, serving

DEFAULT = ROOT / "models" / "default"
NUM_PHOTOS, ROWS = 60, "2"


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough that making them takes a moment; and two that cannot be read."""
    folder = tmp_path_factory.mktemp("embedded") / "photos"
    folder.mkdir()
    for i in range(NUM_PHOTOS):
        (folder / f"{i:03}.png").write_bytes(photo(i, height=300, width=300))
    (folder / "cut.png").write_bytes(photo(0)[:900])
    (folder / "empty.png").touch()
    return folder


def num_parts(out: Path) -> int:
    return len(list(out.glob("part-*.parquet")))


@contextmanager
def running(line: list[str], folder: Path = ROOT, env: dict[str, str] | None = None) -> Iterator[subprocess.Popen[str]]:
    """In a session of its own, all of which has ended with the block."""
    process = subprocess.Popen(
        line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder, env=env or environment(),
        start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=TIMEOUT_S)
        eventually(lambda: not session_of(process.pid), 30)


def session_of(pid: int) -> dict[int, str]:
    """What runs in it, by pid: the command lines. Not what has ended and nobody has asked after."""
    found = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            after_name = stat.read_text().rpartition(")")[2].split()
            if after_name[0] != "Z" and int(after_name[3]) == pid:
                found[int(stat.parent.name)] = (stat.parent / "cmdline").read_text().replace("\0", " ")
        except (OSError, IndexError):  # it has ended meanwhile
            continue
    return found


def test_killed_three_ways_and_resumed_it_has_every_row_once_and_the_service_s_vectors(
    photos: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    line = command(photos, DEFAULT, out, "--rows-per-part", ROWS)
    with running(line) as process:
        eventually(lambda: num_parts(out) >= 2, TIMEOUT_S)
        process.kill()  # what Ray started ends as well, which `running` waits for
    before = num_parts(out)
    with running(line) as process:
        eventually(lambda: num_parts(out) > before or process.poll() is not None, TIMEOUT_S)
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 143
    assert told.splitlines()[-1] == "stopped; parts that are finished are kept, and the same command goes on"
    before = num_parts(out)
    with running(line) as process:
        eventually(lambda: num_parts(out) > before or process.poll() is not None, TIMEOUT_S)
        for pid in [pid for pid, name in session_of(process.pid).items() if "ray::" in name and "Embedder" in name]:
            os.kill(pid, signal.SIGKILL)
        summary, told = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, told
    assert "the process died over part-" in told
    assert "raylet" not in summary + told
    assert "\x1b" not in summary + told
    assert f"{NUM_PHOTOS + 2} images in {NUM_PHOTOS // 2 + 1} parts" in summary
    found = Found.at(out)
    assert found.paths == sorted(path.name for path in photos.iterdir())
    assert set(found.errors) == {"cut.png", "empty.png"}
    assert sorted(path.name for path in (out / "_maeve").iterdir()) == ["errors.csv", "plan-0000.parquet", "run.json"]
    assert list(csv.reader((out / ERRORS).read_text().splitlines())) == [
        ["path", "error"],
        *map(list, found.errors.items()),
    ]
    with serving(create_app(Settings(bundle=DEFAULT))) as served:
        for path, vector in zip(found.paths, found.vectors, strict=True):
            if path not in found.errors:
                answer = served.http.post("/embed", content=(photos / path).read_bytes())
                service = np.array(answer.json()["embeddings"], dtype=np.float32)
                assert cosines(vector[None], service)[0] > 0.9999, path


def test_again_it_takes_what_is_new_and_then_nothing(fake_bundle: Bundle, tmp_path: Path) -> None:
    """What was read badly is made anew where that is asked for."""
    photos, out = tmp_path / "photos", tmp_path / "out"
    made = write_photos(photos, 6)
    (photos / "odd" / "001.png").write_bytes(b"")
    line = command(photos, fake_bundle.path, out, "--runtime", "fake", "--rows-per-part", "4")
    first = run(line)
    assert first.returncode == 0, first.stderr
    assert "6 images in 2 parts; 6 of them now" in first.stdout
    assert "1 error, all listed in" in first.stdout
    assert first.stdout.splitlines()[-1] == f"next: python -m bulk.index {out}"
    times = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*")}
    again = run(line)
    assert "nothing new; 6 images in 2 parts" in again.stdout
    (photos / "odd" / "001.png").write_bytes(photo(1))
    made |= write_photos(photos, 3, first=6)
    grown = run([*line, "--retry-errors"])
    assert "9 images in 3 parts; 4 of them now" in grown.stdout, grown.stderr
    assert "error" not in grown.stdout
    found = Found.at(out)
    assert sorted(found.paths) == sorted(made)
    assert not found.errors
    unchanged = [name for name, when in times.items() if (out / name).stat().st_mtime_ns == when]
    assert unchanged == [part_name(1)]
    assert (out / ERRORS).read_text().split() == ["path,error"]


def test_a_store_takes_the_output_and_nothing_but_errors_is_a_bad_result(
    fake_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "photos").mkdir()
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / "photos" / name).write_bytes(b"no image")
    with store() as access:
        for name, value in access.items():
            monkeypatch.setenv(name, value)
        bucket(access, "made")
        flags = ("--runtime", "fake")
        done = run(command(tmp_path / "photos", fake_bundle.path, "s3://made/out", *flags))
        assert done.returncode == 1, done.stderr
        assert "not one image could be read" in done.stderr
        place = open_place("s3://made/out")
        assert place.names() == {"_maeve", part_name(0)}
        assert [path for path, _ in csv.reader(io.StringIO(read(place, ERRORS).decode()))] == ["path", "a.jpg", "b.jpg"]
        wrong = run(command(tmp_path / "photos", fake_bundle.path, "s3://nowhere/out", *flags))
        assert wrong.returncode == 2
        assert wrong.stderr.splitlines()[-1].startswith("error: cannot ")
        assert "there is no such bucket" in wrong.stderr


def test_a_cluster_by_its_address(fake_bundle: Bundle, tmp_path: Path) -> None:
    """One whose workers know nothing of this project's folder, nor of a store's keys."""
    port, short = free_port(), tempfile.mkdtemp(prefix="ray-")  # sockets lie there, whose paths must be short
    head = [
        str(Path(sys.executable).with_name("ray")), "start", "--head", f"--port={port}", "--node-ip-address=127.0.0.1",
        "--num-cpus=2", "--block",
        "--include-dashboard=false", "--disable-usage-stats", "--min-worker-port=0", "--max-worker-port=0",
        f"--temp-dir={short}", "--object-store-memory=100000000",
    ]  # fmt: skip
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": "0123456789abcdef" * 4}
    without = {
        name: value for name, value in os.environ.items() if name != "PYTHONPATH" and not name.startswith("AWS_")
    }
    with store() as access, running(head, tmp_path, without | token | {"PYTHONUNBUFFERED": "1"}) as process:
        files = bucket(access, "photos")
        for i in range(6):
            with files.open_output_stream(f"photos/{i}.png") as file:
                file.write(photo(i))
        assert process.stdout is not None
        assert any("Ray runtime started" in said for said in process.stdout)
        line = command(
            "s3://photos", fake_bundle.path, tmp_path / "out", "--runtime", "fake", "--num-actors", "2",
            "--rows-per-part", "1", "--address", f"127.0.0.1:{port}",
        )  # fmt: skip
        done = run(line, **access, **token)
    shutil.rmtree(short)
    assert done.returncode == 0, done.stderr
    assert "2 actors with 1 lane" in done.stderr
    found = Found.at(tmp_path / "out")
    assert (len(found.paths), found.errors) == (6, {})


def config(source: Path | str, bundle: Path, out: Path | str, **changed: object) -> EmbedConfig:
    fields: dict[str, object] = {"sources": (str(source),), "bundle": bundle, "out": out, "runtime": "fake"}
    return EmbedConfig(**fields | changed)  # type: ignore[arg-type]


def test_what_cannot_be_done_is_refused_before_anything_is_begun(fake_bundle: Bundle, tmp_path: Path) -> None:
    write_photos(tmp_path / "photos", 2)
    (tmp_path / "empty").mkdir()
    photos, bundle, out = tmp_path / "photos", fake_bundle.path, tmp_path / "out"
    with pytest.raises(BundleError, match="is no folder"):
        embed(config(photos, tmp_path / "gone", out))
    with pytest.raises(SourceError, match="empty"):
        embed(config(tmp_path / "empty", bundle, out))
    with pytest.raises(SourceError, match="gone"):
        embed(config(tmp_path / "gone", bundle, out))
    with pytest.raises(BulkError, match="holds other things"):
        embed(config(photos, bundle, photos))
    with pytest.raises(RuntimeUnavailable, match="CUDA finds no NVIDIA GPU"):
        embed(config(photos, DEFAULT, out, runtime="onnxruntime", device="cuda"))
    assert not out.exists()
    assert sorted(path.name for path in photos.iterdir()) == ["even", "odd"]


def test_another_bundle_or_another_pooling_is_refused_on_resume(
    fake_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_photos(tmp_path / "photos", 2)
    out = tmp_path / "out"
    with monkeypatch.context() as patched:  # planned, and stopped before Ray
        patched.setattr("bulk.embedding._make", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            embed(config(tmp_path / "photos", fake_bundle.path, out))
    other = make_bundle(tmp_path / "other", name="other")
    with pytest.raises(BulkError, match=r"was begun otherwise: --bundle was fake \(.*\), and is now other"):
        embed(config(tmp_path / "photos", other.path, out))
    with pytest.raises(BulkError, match=r"--pooling was mean, and is now cls; --dtype was float32, and is now float16"):
        embed(config(tmp_path / "photos", fake_bundle.path, out, pooling="cls", dtype="float16"))
    shutil.rmtree(tmp_path / "photos")
    with pytest.raises(SourceError):
        embed(config(tmp_path / "photos", fake_bundle.path, out))
