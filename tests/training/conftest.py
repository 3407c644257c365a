"""Small photographs that can be learned in seconds, and the runs that several tests start from."""

from __future__ import annotations

import io
import resource
import runpy
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from training.pack import pack
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

COLORS = {"blue": (40, 60, 200), "green": (50, 180, 70), "red": (210, 60, 50)}
PER_CLASS = 40
# A network of a few thousand multiplications an image: 16 patches, one block, one block to decode.
TINY: dict[str, Any] = {
    "recipe": "px32", "preset": "tiny", "depth": 1, "patch_size": 8, "decoder_dim": 32, "decoder_depth": 1,
    "decoder_heads": 2, "batch_size": 30,
}  # fmt: skip


DEFAULT_THREADS = torch.get_num_threads()


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    """Networks this small lose more by waking threads than they gain, above all on a busy machine."""
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(DEFAULT_THREADS)


@pytest.fixture(autouse=True, scope="package")
def no_reports() -> Iterator[None]:
    """A report takes longer than a training here. What writes them has tests of its own, and e2e/ looks for them."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("pretraining", "finetuning", "probing"):
            patch.setattr(f"training.{name}.write_report", lambda run: run)
        patch.setattr("training.pretraining.write_features", lambda *_args, **_options: None)
        yield


@pytest.fixture
def all_threads() -> Iterator[None]:
    """As many as a process takes by itself."""
    torch.set_num_threads(DEFAULT_THREADS)
    yield
    torch.set_num_threads(1)


def photo(label: str, index: int, size: tuple[int, int] = (36, 40)) -> Image.Image:
    """Bands of the class's colour and of grey, their width, slope and place drawn at random; size: (height, width)."""
    rng = np.random.default_rng([sorted(COLORS).index(label), index])
    y, x = np.mgrid[: size[0], : size[1]]
    slope, period, phase = rng.uniform(-1, 1), rng.uniform(8, 20), rng.uniform(0, 6)
    wave = 0.5 + 0.5 * np.sin(2 * np.pi * (x + slope * y) / period + phase)[..., None]  # [H, W, 1]
    values = wave * COLORS[label] + (1 - wave) * 128 + rng.normal(0, 6, (*size, 3))
    return Image.fromarray(values.clip(0, 255).astype(np.uint8))


def jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=92)
    return buffer.getvalue()


def write_photos(folder: Path, per_class: int, *, first: int = 0, size: tuple[int, int] = (36, 40)) -> Path:
    """One sub-folder per class."""
    for label in COLORS:
        (folder / label).mkdir(parents=True)
        for i in range(first, first + per_class):
            (folder / label / f"{i:03d}.jpg").write_bytes(jpeg(photo(label, i, size)))
    return folder


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of 40 JPEGs, 36 pixels high and 40 wide."""
    return write_photos(tmp_path_factory.mktemp("data") / "photos", PER_CLASS)


@pytest.fixture(scope="session")
def other_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten more of each class, for a test set."""
    return write_photos(tmp_path_factory.mktemp("data") / "more", 10, first=1000)


@pytest.fixture(scope="session")
def packed(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """The photos at 32 x 32."""
    return pack(photos, tmp_path_factory.mktemp("packs") / "photos")


@pytest.fixture(scope="session")
def tiny() -> dict[str, Any]:
    """What makes a configuration small."""
    return dict(TINY)


@pytest.fixture(scope="session")
def pretrained(packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished pre-training run."""
    out = tmp_path_factory.mktemp("runs") / "pretrained"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("training.loop.LOG_EVERY_S", 0.0)  # a row for every step
        return pretrain(PretrainConfig(data=str(packed.folder), out=out, epochs=10, blr=2e-2, picture_every=4, **TINY))


@contextmanager
def _full_disk(max_file_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.fixture
def full_disk() -> Callable[[int], AbstractContextManager[None]]:
    """While it holds, no file grows beyond so many bytes: a write is answered with an error, as by a full disk."""
    return _full_disk


@contextmanager
def _terminated_once(ready: Callable[[], bool]) -> Iterator[None]:
    def tick(_number: int, _frame: FrameType | None) -> None:
        if ready():
            signal.raise_signal(signal.SIGTERM)

    # Before and after the loop listens, the signal must not end the tests.
    handlers = {signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: None)}
    handlers[signal.SIGALRM] = signal.signal(signal.SIGALRM, tick)
    signal.setitimer(signal.ITIMER_REAL, 0.01, 0.01)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.fixture
def terminated_once() -> Callable[[Callable[[], bool]], AbstractContextManager[None]]:
    """Sends this process SIGTERM as soon as something holds."""
    return _terminated_once


@dataclass(frozen=True)
class Outcome:
    """Of a command: exit status, and what it wrote."""

    status: int
    out: str
    err: str


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a module as `python -m` does, but in this process, which has torch imported already."""

    def run(module: str, *arguments: object) -> Outcome:
        spec = find_spec(module)
        assert spec is not None
        assert spec.origin is not None
        monkeypatch.setattr(sys, "argv", [spec.origin, *map(str, arguments)])
        status: object = 0
        capsys.readouterr()
        try:
            runpy.run_path(spec.origin, run_name="__main__")
        except SystemExit as e:
            status = e.code
        assert isinstance(status, int)
        out, err = capsys.readouterr()
        return Outcome(status, out, err)

    return run


def _flags_of(config: object) -> list[str]:
    given = {name.replace("_", "-"): value for name, value in vars(config).items()}
    switches = {name: value for name, value in given.items() if isinstance(value, bool)}
    valued = {n: v for n, v in given.items() if isinstance(v, str | int | float | Path) and n not in switches}
    return [
        *(f"--{'' if on else 'no-'}{name}" for name, on in switches.items()),
        *(f"--{name}={value}" for name, value in valued.items()),
    ]


@pytest.fixture(scope="session")
def flags_of() -> Callable[[object], list[str]]:
    """The command line that gives a configuration, its tuples left out."""
    return _flags_of
