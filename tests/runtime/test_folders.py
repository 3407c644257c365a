"""Where engines are kept, for users of every kind."""

from __future__ import annotations

import pwd
from pathlib import Path

import pytest

from bundle.errors import RuntimeUnavailable
from bundle.store import Bundle
from runtime.folders import engine_root
from runtime.onnx_cuda import engine_folder
from runtime.trt.engine import open_workshop
from tests.runtime.trt.fake_cuda import FakeCuda
from tests.runtime.trt.fake_tensorrt import FakeTensorRT


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is a number alone."""

    def unknown(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("/elsewhere", "/elsewhere/maeve/engines"),
        ("", "/home/u/.cache/maeve/engines"),
        ("relative", "/home/u/.cache/maeve/engines"),
    ],
)
def test_the_default_place_is_the_users_cache_folder(
    monkeypatch: pytest.MonkeyPatch, variable: str, expected: str
) -> None:
    """A relative path in XDG_CACHE_HOME is to be ignored, says the specification."""
    monkeypatch.setenv("XDG_CACHE_HOME", variable)
    monkeypatch.setenv("HOME", "/home/u")
    assert engine_root() == Path(expected)
    assert engine_root(Path("/mine")) == Path("/mine")


@pytest.mark.usefixtures("homeless")
def test_a_user_without_a_home_is_told_what_to_set(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cuda = FakeCuda()
    monkeypatch.setattr("runtime.trt.engine.load_cuda", lambda: cuda)
    monkeypatch.setattr("runtime.trt.engine.load_tensorrt", lambda: FakeTensorRT(cuda))
    message = "no home folder to keep engines in; set MAEVE_ENGINE_CACHE, or --engine-cache"
    with pytest.raises(RuntimeUnavailable, match=message):
        engine_folder(None, tiny_bundle, "fp32")
    with pytest.raises(RuntimeUnavailable, match=message):
        open_workshop(tiny_bundle, "fp32", gpu=0, engine_cache=None)
    assert engine_folder(tmp_path, tiny_bundle, "fp32").is_relative_to(tmp_path)
