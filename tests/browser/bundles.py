"""Bundles that offer less than the default one."""

from __future__ import annotations

from pathlib import Path

from bundle.store import load_bundle, write_bundle
from tests.servers import ROOT


def without_decoder(out: Path) -> Path:
    """The default bundle, less what reconstructs."""
    return _without(out, "decoder")


def without_classifier(out: Path) -> Path:
    """The default bundle, less what classifies."""
    return _without(out, "head")


def _without(out: Path, graph: str) -> Path:
    bundle = load_bundle(ROOT / "models" / "default")
    fields = bundle.manifest.model_dump(exclude={"files", "digest"})
    del fields["graphs"][graph]
    if graph == "decoder":
        fields["model"]["decoder"] = None
    else:
        fields["num_classes"] = None
    dropped = (graph, "labels") if graph == "head" else (graph,)
    files: dict[str, Path | bytes] = {
        name: bundle.path / name for name in bundle.manifest.files if not name.startswith(dropped)
    }
    return write_bundle(out, fields, files).path
