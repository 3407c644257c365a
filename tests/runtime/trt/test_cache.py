"""Engines on disk: found again, rebuilt where damaged, never half written, and never needed."""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import runtime.trt.cache
from bundle.store import Bundle
from runtime.trt.cache import EngineCache
from runtime.trt.engine import open_workshop
from tests.runtime.trt.fake_cuda import FakeCuda
from tests.runtime.trt.fake_tensorrt import FakeTensorRT

ROOT = Path(__file__).parents[3]
FOLDER = "sm_90-11.4.0.106-fp32"


def cache(root: Path, **changes: str) -> EngineCache:
    return EngineCache(root, **{"digest": "d" * 64, "sm": "sm_90", "version": "11.4.0", "precision": "fp16", **changes})


def engines(bundle: Bundle, root: Path, **options: Any) -> list[bool]:
    """Open every engine as a start does; whether each was built."""
    workshop = open_workshop(bundle, "fp32", gpu=0, engine_cache=root)
    return [workshop.engine(graph, **options).built for graph in bundle.manifest.graphs]


def test_the_second_start_builds_nothing(tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path) -> None:
    assert engines(tiny_bundle, tmp_path) == [True] * 3
    assert engines(tiny_bundle, tmp_path) == [False] * 3
    assert len(trt.builds) == 3
    folder = tmp_path / tiny_bundle.manifest.digest / FOLDER
    names = {f"{graph}.{kind}" for graph in ("encoder", "decoder", "head") for kind in ("engine", "lock")}
    assert {file.name for file in folder.iterdir()} == names | {"timing.cache"}
    assert folder.stat().st_mode & 0o077 == 0


def test_every_build_starts_with_the_timings_of_the_ones_before(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path
) -> None:
    engines(tiny_bundle, tmp_path)
    assert [build["timing"] for build in trt.builds] == [0, 1, 2]


def test_another_gpu_version_or_bundle_builds_its_own(
    tiny_bundle: Bundle, trt: FakeTensorRT, cuda: FakeCuda, tmp_path: Path
) -> None:
    engines(tiny_bundle, tmp_path)
    cuda.sm = (12, 0)
    assert engines(tiny_bundle, tmp_path) == [True] * 3
    trt.__version__ = "11.5.0.1"
    assert engines(tiny_bundle, tmp_path) == [True] * 3
    other = replace(tiny_bundle, manifest=tiny_bundle.manifest.model_copy(update={"digest": "0" * 64}))
    assert engines(other, tmp_path) == [True] * 3
    assert engines(other, tmp_path) == [False] * 3
    assert len(list(tmp_path.glob("*/*"))) == 4


def test_precisions_lie_apart(tmp_path: Path) -> None:
    assert cache(tmp_path).write("encoder", b"half")
    assert cache(tmp_path, precision="fp32").read("encoder") is None
    assert cache(tmp_path).read("encoder") == b"half"


@pytest.mark.parametrize("damage", ["truncated", "flipped", "empty", "foreign"])
def test_a_damaged_engine_is_built_again_and_tensorrt_never_sees_it(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    engines(tiny_bundle, tmp_path)
    file = tmp_path / tiny_bundle.manifest.digest / FOLDER / "encoder.engine"
    content = file.read_bytes()
    flipped = bytearray(content)
    flipped[-9] ^= 1
    damaged = {"truncated": content[:-100], "flipped": bytes(flipped), "empty": b"", "foreign": b"{}"}
    file.write_bytes(damaged[damage])
    assert engines(tiny_bundle, tmp_path) == [True, False, False]
    assert f"{file} is damaged; it is built again" in caplog.text
    assert engines(tiny_bundle, tmp_path) == [False] * 3
    assert len(trt.builds) == 4


def test_an_engine_that_tensorrt_refuses_is_built_again(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, and of another TensorRT: somebody renamed the folder."""
    engines(tiny_bundle, tmp_path)
    folder = tmp_path / tiny_bundle.manifest.digest / FOLDER
    trt.__version__ = "11.5.0.1"
    folder.rename(folder.with_name("sm_90-11.5.0.1-fp32"))
    assert engines(tiny_bundle, tmp_path) == [True] * 3
    assert "TensorRT refuses the cached encoder engine: The engine plan file is not compatible" in caplog.text


def test_engines_of_another_batch_are_built_again_only_where_it_is_asked_for(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path
) -> None:
    engines(tiny_bundle, tmp_path, max_batch=16)
    assert engines(tiny_bundle, tmp_path) == [False] * 3
    assert engines(tiny_bundle, tmp_path, max_batch=16) == [False] * 3
    assert engines(tiny_bundle, tmp_path, max_batch=32) == [True] * 3
    assert engines(tiny_bundle, tmp_path, rebuild=True, max_batch=32) == [True] * 3
    assert len(trt.builds) == 9


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS])
def test_a_full_disk_costs_the_cache_and_not_the_start(
    tiny_bundle: Bundle,
    trt: FakeTensorRT,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    code: int,
) -> None:
    del trt

    def fsync(_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    assert engines(tiny_bundle, tmp_path) == [True] * 3
    assert f"cannot be kept: {os.strerror(code)}; the next start builds it again" in caplog.text
    assert not list(tmp_path.rglob("*.engine"))
    assert not list(tmp_path.rglob("*.partial"))


def test_a_root_that_is_no_folder_costs_the_cache_and_not_the_start(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    del trt
    (tmp_path / "file").write_bytes(b"")
    assert engines(tiny_bundle, tmp_path / "file") == [True] * 3
    assert "cannot be kept: Not a directory" in caplog.text


def test_an_engine_is_old_or_new_and_never_half(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = cache(tmp_path)
    assert here.write("encoder", b"old")

    def die(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", die)
    with pytest.raises(KeyboardInterrupt):
        here.write("encoder", b"new")
    assert here.read("encoder") == b"old"
    assert [file.name for file in here.folder.iterdir()] == ["encoder.engine"]


_BUILDER = """
import sys, time
from pathlib import Path
from runtime.trt.cache import EngineCache
cache = EngineCache(Path(sys.argv[1]), digest="d" * 64, sm="sm_90", version="11.4.0", precision="fp16")
with cache.lock("encoder"):
    if cache.read("encoder") is None:
        print("building", flush=True)
        time.sleep(float(sys.argv[2]))
        cache.write("encoder", sys.argv[3].encode())
print("done", flush=True)
"""


def builder(root: Path, seconds: float, content: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _BUILDER, str(root), str(seconds), content]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds_and_the_other_finds(tmp_path: Path) -> None:
    processes = [builder(tmp_path, 0.3, name) for name in ("one", "two")]
    outputs = sorted(process.communicate(timeout=60)[0].split() for process in processes)
    assert outputs == [["building", "done"], ["done"]]
    assert cache(tmp_path).read("encoder") in (b"one", b"two")


def test_who_waited_looks_again(
    tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this process waits, another one puts its engines into place."""
    engines(tiny_bundle, tmp_path / "other")

    @contextlib.contextmanager
    def lock(here: EngineCache, graph: str) -> Iterator[None]:
        there = tmp_path / "other" / here.folder.relative_to(tmp_path / "mine") / f"{graph}.engine"
        here.folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(there, here.file(graph))
        yield

    monkeypatch.setattr(EngineCache, "lock", lock)
    assert engines(tiny_bundle, tmp_path / "mine") == [False] * 3
    assert len(trt.builds) == 3
    assert engines(tiny_bundle, tmp_path / "mine", rebuild=True) == [True] * 3


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = builder(tmp_path, 600, "never")
    assert process.stdout is not None
    assert process.stdout.readline() == "building\n"
    process.kill()
    process.communicate()
    started = time.monotonic()
    with cache(tmp_path).lock("encoder"):
        assert time.monotonic() - started < 5


def test_who_waits_too_long_goes_on_without_the_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    monkeypatch.setattr(runtime.trt.cache, "LOCK_TIMEOUT_S", 0.05)
    monkeypatch.setattr(runtime.trt.cache, "_LOCK_POLL_S", 0.01)
    with cache(tmp_path).lock("encoder"), cache(tmp_path).lock("decoder"), cache(tmp_path).lock("encoder"):
        assert "another process builds the encoder engine; waiting for it" in caplog.text
        assert "decoder" not in caplog.text
        assert cache(tmp_path).write("encoder", b"mine")
    assert cache(tmp_path).read("encoder") == b"mine"


def test_a_damaged_timing_cache_is_begun_anew(tiny_bundle: Bundle, trt: FakeTensorRT, tmp_path: Path) -> None:
    here = EngineCache(tmp_path, digest=tiny_bundle.manifest.digest, sm="sm_90", version="11.4.0.106", precision="fp32")
    assert here.write_timing(b"whole, and nothing that TensorRT knows")
    engines(tiny_bundle, tmp_path)
    assert [build["timing"] for build in trt.builds] == [0, 1, 2]
