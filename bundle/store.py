"""Bundles on disk: a folder appears whole or not at all, and is believed only after every byte has been checked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from pydantic import ValidationError

from bundle.digest import file_sha256, manifest_digest
from bundle.errors import BundleError
from bundle.golden import read_golden
from bundle.labels import read_labels
from bundle.manifest import GOLDEN_FILE, LABELS_FILE, MANIFEST_FILE, SCHEMA_VERSION, GraphName, Manifest, Precision
from bundle.place import check_place, staged

_EXPORT_AGAIN = "export it again, or fetch another copy"
_DIGEST_FAULT = "was altered or damaged (its digest does not hold)"


@dataclass(frozen=True)
class Bundle:
    """A verified bundle. `labels`: class names in the order of the logits, None where nothing classifies."""

    path: Path
    manifest: Manifest
    labels: tuple[str, ...] | None

    def graph_file(self, graph: GraphName, precision: Precision = "fp32") -> Path:
        """BundleError if the bundle has no such graph or not in this precision."""
        spec = self.manifest.graphs.get(graph)
        if spec is None:
            raise BundleError(f"{self.path}: no {graph} graph; there are {', '.join(self.manifest.graphs)}")
        if precision not in spec.files:
            raise BundleError(f"{self.path}: no {precision} {graph} graph; there are {', '.join(spec.files)}")
        return self.path / spec.files[precision]

    def nearest(self, graph: GraphName, precision: Precision) -> Precision:
        """What `graph` runs in where the bundle is served in `precision`: that, or fp32 where the export left it so.

        BundleError if the encoder does not come in `precision`: then no graph is served in it.
        """
        self.graph_file("encoder", precision)
        return precision if precision in self.manifest.graphs[graph].files else "fp32"

    def golden(self) -> dict[str, NDArray[Any]]:
        """Inputs and fp32 outputs of every graph, under "<graph>.in.<name>" and "<graph>.out.<name>".

        BundleError if the bundle carries none, or not those that its graphs take and give.
        """
        if GOLDEN_FILE not in self.manifest.files:
            raise BundleError(f"{self.path}: no {GOLDEN_FILE}; {_EXPORT_AGAIN}")
        return read_golden(self.path / GOLDEN_FILE, self.manifest)


def load_bundle(path: Path) -> Bundle:
    """Read and verify a bundle: the schema, every file's sha256, the digest, the labels.

    BundleError, saying what is wrong and what to do, for anything but a bundle exactly as it was written.
    """
    manifest, digest_holds = _read_manifest(path)
    if not digest_holds:
        raise BundleError(f"{path / MANIFEST_FILE}: {_DIGEST_FAULT}; {_EXPORT_AGAIN}")
    fault = next(_file_faults(path, manifest), None)
    if fault is not None:
        raise BundleError(f"{path}: {fault}; {_EXPORT_AGAIN}")
    return Bundle(path, manifest, _labels(path, manifest))


def audit(path: Path) -> tuple[Manifest | None, list[str]]:
    """The manifest, unless it cannot be read, and all that is wrong with the bundle, in words: nothing, if it is sound.

    What `load_bundle` refuses, every fault of it where that stops at the first, and files that the manifest does not
    know.
    """
    try:
        manifest, digest_holds = _read_manifest(path)
    except BundleError as e:
        return None, [str(e)]
    faults = [] if digest_holds else [f"{MANIFEST_FILE} {_DIGEST_FAULT}"]
    faults += _file_faults(path, manifest)
    if LABELS_FILE not in manifest.files or (path / LABELS_FILE).is_file():  # a missing file is one fault, not two
        try:
            _labels(path, manifest)
        except BundleError as e:
            faults.append(str(e))
    known = {MANIFEST_FILE, *manifest.files}
    strangers = sorted(entry.name for entry in path.iterdir() if entry.name not in known)
    return manifest, faults + [f"{name} does not belong here: the manifest does not know it" for name in strangers]


def write_bundle(
    out: Path, fields: Mapping[str, Any], files: Mapping[str, Path | bytes], *, overwrite: bool = False
) -> Bundle:
    """Write a bundle to `out` and return it, verified.

    `fields`: the Manifest's, save `files` and `digest`, which are computed; `created_at` defaults to now. `files`: name
    in the bundle -> a file to copy, or its content. All is staged in a hidden folder beside `out`, flushed to disk and
    renamed, so a crash leaves no half bundle. An existing `out` is refused; with `overwrite` it is replaced if it is a
    bundle.

    BundleError if `out` exists or cannot be written, or if fields and files do not make a bundle.
    """
    check_destination(out, overwrite=overwrite)
    with staged(out) as staging:
        staging.mkdir()
        _fill(staging, fields, files)
        bundle = load_bundle(staging)
    return replace(bundle, path=Path(os.path.abspath(out)))  # noqa: PTH100 - resolve() would follow a link


def _read_manifest(path: Path) -> tuple[Manifest, bool]:
    """The manifest, and whether its digest holds. BundleError where there is none that fits the schema."""
    file = path / MANIFEST_FILE
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError) as e:
        if not path.is_dir():
            raise BundleError(f"{path} is no folder; name the one that python -m export wrote") from e
        raise BundleError(f"{path} is not a bundle: it has no {MANIFEST_FILE}; python -m export writes one") from e
    except (OSError, ValueError, RecursionError) as e:  # the last where brackets nest by the thousand
        raise BundleError(f"{file}: cannot be read: {e}; {_EXPORT_AGAIN}") from e
    version = raw.get("schema_version") if isinstance(raw, dict) else None
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise BundleError(
            f"{file}: schema {version} is newer than {SCHEMA_VERSION}, the newest known here; update Maeve"
        )
    try:
        manifest = Manifest.model_validate(raw)
    except ValidationError as e:
        raise BundleError(f"{file}: {_describe(e)}; {_EXPORT_AGAIN}") from e
    try:
        return manifest, manifest_digest(raw) == manifest.digest
    except ValueError as e:  # NaN or an infinity, which Python's JSON reads and the digest has no spelling for
        raise BundleError(f"{file}: cannot be read: {e}; {_EXPORT_AGAIN}") from e


def _file_faults(path: Path, manifest: Manifest) -> Iterator[str]:
    """Of the files that the manifest names: those that cannot be read, and those with another sha256."""
    for name, sha256 in manifest.files.items():
        try:
            actual = file_sha256(path / name)
        except OSError as e:
            yield f"cannot read {name}: {e.strerror}"
            continue
        if actual != sha256:
            yield f"{name} was altered or damaged (sha256 differs)"


def _labels(path: Path, manifest: Manifest) -> tuple[str, ...] | None:
    if manifest.num_classes is None:
        return None
    labels = read_labels(path / LABELS_FILE) if LABELS_FILE in manifest.files else ()
    if len(labels) != manifest.num_classes:
        raise BundleError(
            f"{path}: {manifest.num_classes} classes but {len(labels)} names in {LABELS_FILE}; {_EXPORT_AGAIN}"
        )
    return labels


def _describe(error: ValidationError) -> str:
    """One line: where, and what. Pydantic's own text takes a line per error and a link."""
    parts = (f"{'.'.join(map(str, e['loc'])) or 'manifest'}: {e['msg']}" for e in error.errors(include_url=False))
    return "; ".join(parts)


def check_destination(out: Path, *, overwrite: bool) -> None:
    """BundleError if `write_bundle` would refuse `out`: something stands there, or nothing can be written there."""
    check_place(out, overwrite=overwrite, fault="" if (out / MANIFEST_FILE).is_file() else "is not a bundle")


def _fill(staging: Path, fields: Mapping[str, Any], files: Mapping[str, Path | bytes]) -> None:
    """Copy the files, then write the manifest that describes them."""
    draft = {
        "created_at": datetime.now(UTC).replace(microsecond=0),
        **fields,
        "files": dict.fromkeys(files, "0" * 64),
        "digest": "0" * 64,
    }
    try:
        manifest = Manifest.model_validate(draft)  # before any file is written: this checks their names
    except ValidationError as e:
        raise BundleError(f"not a bundle: {_describe(e)}") from e
    for name, content in files.items():
        if isinstance(content, Path):
            shutil.copyfile(content, staging / name)
        else:
            (staging / name).write_bytes(content)
    raw = manifest.model_dump(mode="json")
    raw["files"] = {name: file_sha256(staging / name) for name in sorted(files)}
    raw["digest"] = manifest_digest(raw)
    text = json.dumps(raw, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    (staging / MANIFEST_FILE).write_text(text, encoding="utf-8")
