"""The folder in which a page's examples run: it looks like a clone of the project with a reader's photos in it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from tests.docs.markdown import ROOT

_SAMPLES = ROOT / "service" / "static" / "samples"
_CLONED = (
    "Makefile", "README.md", "benchmarks", "bundle", "bulk", "constraints.txt", "deploy", "docker-compose.yml", "docs",
    "export", "mae", "models", "pyproject.toml", "runtime", "service", "sources", "training",
)  # fmt: skip
_SINGLE = {"photo.jpg": "cat", "cat.jpg": "cat", "other.jpg": "cat-closer", "a.jpg": "cat", "b.jpg": "cat-closer"}
_NUM_UNLABELED, _NUM_PER_CLASS, _SIDE = 24, 12, 128
_CLASSES = ("cat", "rocket")
_CURL = "silent\nshow-error\nfail-with-body\nmax-time = 60\n"  # a status of 400 and above is a failure


def make_workshop(folder: Path) -> None:
    """Links to the project's files, and photos under the names that the documentation uses.

    No other folder's photos have the same bytes, so that a cache knows none of them.
    """
    folder.mkdir(parents=True)
    for name in _CLONED:
        if (ROOT / name).exists():
            _link(ROOT / name, folder / name)
    pictures = {}
    for path in sorted(_SAMPLES.glob("*.jpg")):
        (folder / _SAMPLES.relative_to(ROOT) / path.name).write_bytes(_with_comment(path.read_bytes(), str(folder)))
        with Image.open(path) as image:
            pictures[path.stem] = image.convert("RGB")
    for name, sample in _SINGLE.items():
        (folder / name).write_bytes(_with_comment((_SAMPLES / f"{sample}.jpg").read_bytes(), str(folder)))
    _save(folder / "photos", _crops(list(pictures.values()), _NUM_UNLABELED, seed=0))
    for labeled, seed in (("labeled", 1), ("held-out", 2)):
        for name in _CLASSES:
            _save(folder / labeled / name, _crops([pictures[name]], _NUM_PER_CLASS, seed=seed))
    (folder / ".curlrc").write_text(_CURL)
    _make_venv(folder / ".venv")


def _link(source: Path, target: Path) -> None:
    """A symbolic link, or folders of links down to one for the samples, which stays empty."""
    if not _SAMPLES.is_relative_to(source):
        target.symlink_to(source)
        return
    target.mkdir()
    for entry in source.iterdir() if source != _SAMPLES else ():
        _link(entry, target / entry.name)


def _with_comment(jpeg: bytes, text: str) -> bytes:
    """The same picture with a comment behind its first marker (ITU T.81, B.2.4.5)."""
    return jpeg[:2] + b"\xff\xfe" + (len(text.encode()) + 2).to_bytes(2, "big") + text.encode() + jpeg[2:]


def _crops(samples: list[Image.Image], count: int, *, seed: int) -> Iterator[Image.Image]:
    """Squares cut from photos, each of another place and size."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        sample = samples[number % len(samples)]
        side = int(rng.integers(min(sample.size) // 2, min(sample.size)))
        left, top = (int(rng.integers(0, length - side + 1)) for length in sample.size)
        yield sample.crop((left, top, left + side, top + side)).resize((_SIDE, _SIDE))


def _save(folder: Path, images: Iterator[Image.Image]) -> None:
    folder.mkdir(parents=True)
    for number, image in enumerate(images):
        image.save(folder / f"{number:03}.jpg", quality=90)


def _make_venv(folder: Path) -> None:
    """This interpreter's installation as the one that `make` has made, stamps and all, so that it installs nothing."""
    folder.mkdir()
    for entry in Path(sys.prefix).iterdir():
        if entry.name not in (".base", ".dev"):
            (folder / entry.name).symlink_to(entry)
    for stamp in (".base", ".dev"):
        (folder / stamp).touch()
