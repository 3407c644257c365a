"""python -m export --format: from a run, or a bundle, to a folder that another program opens."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

from bundle.manifest import MANIFEST_FILE
from bundle.store import load_bundle
from export.config import ExportConfig
from export.errors import ExportError
from export.formats.folder import check_folder
from export.formats.huggingface import write_huggingface
from export.formats.options import TritonOptions
from export.formats.source import read_source
from export.formats.timm import write_timm
from export.formats.triton import write_repository
from export.pipeline import Progress, export_run

_WRITERS: dict[str, Callable[..., str]] = {"hf": write_huggingface, "timm": write_timm}

_DEFAULTS = {flag.name: flag.default for flag in fields(ExportConfig)}
_OF_GRAPHS = ("int8", "storage", "images")  # and precision, which Triton has its own flag for


def export_as(config: ExportConfig, progress: Progress = lambda _: None) -> str:
    """Write `config.out` in `config.format`, and say in a few lines what was written.

    Raises as `export_run`; what stood at `out` is then as it was.
    """
    check_folder(config.out, overwrite=config.overwrite)  # now, rather than after the work
    is_bundle = (config.run / MANIFEST_FILE).is_file()
    if config.format == "triton":
        return _triton_of_bundle(config) if is_bundle else _triton_of_run(config, progress)
    if is_bundle:
        raise ExportError(f"{config.run} is a bundle, whose weights are in graphs; give the run that it was made of")
    source = read_source(config.run, config.classifier, config.name)
    return _WRITERS[config.format](source, config.out, overwrite=config.overwrite)


def check_flags(config: ExportConfig) -> None:
    """ExportError for a flag that would be of no effect in this format."""
    if config.format != "bundle" and config.pooling is not None:
        raise ExportError(f"--pooling is what a bundle says of itself; leave it out with --format {config.format}")
    if config.format in ("hf", "timm") and _differ(config, "precision", *_OF_GRAPHS):
        raise ExportError(
            f"--precision, --int8, --storage and --images are for graphs; --format {config.format} writes weights"
        )
    if config.format == "triton" and _differ(config, "precision"):
        raise ExportError("a Triton repository has one variant: say which with --triton.precision")
    if config.format != "triton" and config.triton != TritonOptions():
        raise ExportError(f"the --triton. flags go with --format triton; leave them out with --format {config.format}")


def _differ(config: ExportConfig, *flags: str) -> bool:
    """Whether one of them is not as it is by default."""
    return any(getattr(config, flag) != _DEFAULTS[flag] for flag in flags)


def _triton_of_bundle(config: ExportConfig) -> str:
    if config.classifier is not None:
        raise ExportError(f"{config.run} is a bundle, which has its classifier or none; --classifier goes with a run")
    if _differ(config, *_OF_GRAPHS):
        raise ExportError(
            f"{config.run} is a bundle, whose graphs are made; --int8, --storage and --images go with a run"
        )
    return write_repository(
        load_bundle(config.run), config.out, config.triton, name=config.name, overwrite=config.overwrite
    )


def _triton_of_run(config: ExportConfig, progress: Progress) -> str:
    """By way of a bundle, so that no graph gets there that was not held against torch."""
    with tempfile.TemporaryDirectory(prefix="maeve-export-") as folder:
        only = replace(config, out=Path(folder) / "bundle", overwrite=False, precision=config.triton.precision)
        bundle = export_run(only, progress)
        return write_repository(bundle, config.out, config.triton, overwrite=config.overwrite)
