"""What `python -m export.bench` does, from its flags to bench.json."""

from __future__ import annotations

import os
import secrets
import shlex
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, TypeVar, get_args

import numpy as np

from bundle.cli.flags import Positional
from bundle.masking import keep_ids
from bundle.store import Bundle, load_bundle
from export.bench import circumstances
from export.bench.candidates import PRECISIONS, RUNTIMES, find_candidates
from export.bench.document import BenchDocument, BundleFacts, Setting, Unmeasured
from export.bench.inputs import comparison_inputs, read_images
from export.bench.rounds import Measured, Plan, Progress, measure
from export.errors import ExportError
from export.flops import encoder_flops
from runtime.base import ServedPrecision
from runtime.machine import survey
from runtime.select import RuntimeName

_BATCHES = {"cpu": [1, 2, 4, 8, 16], "cuda": [1, 8, 32, 64, 128, 256]}
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class BenchConfig:
    """Measure latency, throughput, memory and agreement of every engine that runs a bundle here."""

    bundle: Annotated[Path, Positional("BUNDLE")]
    """The bundle's folder."""
    runtimes: str = ",".join(RUNTIMES)
    """Which to measure, separated by commas."""
    precisions: str = ",".join(PRECISIONS)
    """Which to measure, separated by commas."""
    device: str = "auto"
    """cpu, cuda, cuda:1; auto is a GPU for the engines that can use one, and the CPU for the others."""
    images: Path | None = None
    """A folder of images, or an .npz with an array `images`, to compare outputs on. Default: the golden inputs."""
    num_images: int = 64
    """How many of them to use, at most."""
    keep: float = 1.0
    """The share of the patches that the encoder sees."""
    batches: str | None = None
    """Images per call to try, separated by commas. Default: 1 to 16 on a CPU, 1 to 256 on a GPU."""
    rounds: int = 5
    """How many turns each engine takes."""
    seconds: float = 1.0
    """How long one measurement takes; a turn is two of them."""
    out: Path = Path("bench.json")
    """Where the figures go; an older file there is replaced."""


def run_bench(config: BenchConfig, progress: Progress = lambda *_: None) -> BenchDocument:
    """Measure, and write the document to `config.out`.

    `progress`: told what is being done, how many steps are done, and how many there are. ExportError for what cannot be
    measured, BundleError for a damaged bundle; an engine that fails is a part of the document.
    """
    runtimes, precisions, batches = _choices(config)
    bundle = load_bundle(config.bundle)
    _check_out(config.out, bundle)
    candidates, unavailable = find_candidates(
        bundle.manifest, runtimes, precisions, device=config.device, machine=survey()
    )
    if not candidates:
        reasons = "; ".join(f"{each.runtime}: {each.reason}" for each in unavailable)
        raise ExportError(f"nothing of what was asked for runs here: {reasons}")
    try:
        with tempfile.TemporaryDirectory(prefix="maeve-bench-") as folder:
            plan, setting = _plan(config, bundle, batches, Path(folder))
            measured = measure(bundle, candidates, plan, Path(folder), progress)
    except OSError as e:
        raise ExportError(f"cannot measure: {e}; TMPDIR names a folder with more room") from e
    document = _document(config, bundle, setting, measured, unavailable)
    _write(config.out, document)
    return document


def _choices(config: BenchConfig) -> tuple[list[RuntimeName], list[ServedPrecision], dict[str, list[int]]]:
    """(runtimes, precisions, batches by kind of device). ExportError naming the flag that is wrong."""
    known: tuple[RuntimeName, ...] = tuple(name for name in get_args(RuntimeName) if name != "auto")
    runtimes = [_one_of("runtimes", each, known) for each in _split("runtimes", config.runtimes)]
    precisions = [_one_of("precisions", each, PRECISIONS) for each in _split("precisions", config.precisions)]
    batches = _BATCHES
    if config.batches is not None:
        batches = dict.fromkeys(_BATCHES, sorted({_batch(each) for each in _split("batches", config.batches)}))
    if not 0 < config.keep <= 1:
        raise ExportError(f"--keep must lie above 0 and at most at 1, got {config.keep:g}")
    for name, value in (("rounds", config.rounds), ("seconds", config.seconds), ("num-images", config.num_images)):
        if not 0 < value < float("inf"):
            raise ExportError(f"--{name} must be above 0, got {value:g}")
    return runtimes, precisions, batches


def _split(flag: str, text: str) -> list[str]:
    """Without blanks and repetitions."""
    parts = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    if not parts:
        raise ExportError(f"--{flag} names nothing; leave it away to measure all")
    return parts


def _one_of(flag: str, text: str, known: tuple[_T, ...]) -> _T:
    for each in known:
        if text == each:
            return each
    raise ExportError(f"--{flag}: there is no {text!r}; there are {', '.join(map(str, known))}")


def _batch(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ExportError(f"--batches must be numbers above 0, separated by commas, got {text!r}")
    return int(text)


def _check_out(out: Path, bundle: Bundle) -> None:
    """Now, rather than after minutes of work."""
    folder = out.absolute().parent
    if folder.resolve().is_relative_to(bundle.path.resolve()):
        raise ExportError(f"--out {out} lies in the bundle, which never changes; choose another place")
    if out.is_dir() or not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ExportError(f"--out {out} cannot be written: give a file in a folder that you may write to")


def _plan(config: BenchConfig, bundle: Bundle, batches: dict[str, list[int]], scratch: Path) -> tuple[Plan, Setting]:
    """What to do, and what the document says of it. The inputs are left in `scratch`."""
    model = bundle.manifest.model
    ids = keep_ids(model.num_patches, config.keep)
    images = (
        None if config.images is None else read_images(config.images, bundle.manifest.preprocess, config.num_images)
    )
    inputs = scratch / "inputs.npz"
    np.savez(inputs, allow_pickle=False, **comparison_inputs(bundle, images, ids))
    flops = encoder_flops(model, len(ids))
    plan = Plan(
        ids=ids.tolist(), flops_per_image=flops, inputs=inputs, images=None if images is None else inputs,
        batches=batches, rounds=config.rounds, seconds=config.seconds,
    )  # fmt: skip
    setting = Setting(
        device=config.device, keep=config.keep, num_keep=len(ids), num_patches=model.num_patches,
        flops_per_image=flops, rounds=config.rounds, seconds=config.seconds,
        images="the golden inputs" if images is None else f"{len(images)} images of {config.images}",
    )  # fmt: skip
    return plan, setting


def _document(
    config: BenchConfig, bundle: Bundle, setting: Setting, measured: Measured, unavailable: list[Unmeasured]
) -> BenchDocument:
    return BenchDocument(
        created_at=datetime.now(UTC).replace(microsecond=0),
        command=shlex.join(["python", "-m", "export.bench", *sys.argv[1:]]),
        commit=circumstances.commit(),
        bundle=BundleFacts(path=str(config.bundle), name=bundle.manifest.name, digest=bundle.manifest.digest),
        machine=circumstances.machine(),
        software=circumstances.software(),
        setting=setting,
        peaks=tuple(measured.peaks),
        rows=tuple(measured.rows),
        unavailable=tuple(unavailable),
        failed=tuple(measured.failed),
    )


def _write(out: Path, document: BenchDocument) -> None:
    """Whole or not at all. ExportError if it cannot be written, as on a full disk."""
    staging = out.with_name(f".{out.name}.{secrets.token_hex(4)}.partial")
    try:
        with staging.open("x", encoding="utf-8") as file:
            file.write(document.model_dump_json(indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        staging.replace(out)
    except OSError as e:
        raise ExportError(f"cannot write {out}: {e.strerror or e}; choose another place") from e
    finally:
        staging.unlink(missing_ok=True)
