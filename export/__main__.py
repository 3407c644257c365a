"""python -m export RUN [--classifier RUN2] --out OUT: write a bundle that the service can serve, or another format."""

from __future__ import annotations

import sys

from bundle.cli.command import Command
from bundle.manifest import GraphName, ImageParity, Parity, Precision
from bundle.store import Bundle
from export.config import ExportConfig
from export.errors import run_command

COMMAND = Command(
    config=ExportConfig,
    module="export",
    examples=(
        "python -m export runs/photos --out bundles/photos",
        "python -m export runs/photos --classifier runs/tuned --out bundles/photos --name photos-1",
        "python -m export runs/photos --out bundles/photos --precision fp32 --overwrite",
        "python -m export runs/photos --out triton-models --format triton --triton.device gpu",
    ),
    page="docs/export.md",
    statuses={1: "a graph does not compute what torch computes; nothing was written",
              130: "stopped by Ctrl-C; nothing was written"},
)  # fmt: skip


def main() -> None:
    run_command(_export, stopped="stopped; nothing was written")


def _export() -> None:
    config = COMMAND.parse()
    from export.formats.write import check_flags, export_as  # not above: --help does not wait for torch
    from export.pipeline import export_run

    def progress(line: str) -> None:
        print(line, file=sys.stderr)

    check_flags(config)
    print(summary(export_run(config, progress)) if config.format == "bundle" else export_as(config, progress))


def summary(bundle: Bundle) -> str:
    """The path, the digest and a row per graph and precision: its file, and how far it lies from torch.

    The difference is that on made-up inputs; cosines and agreement are those on real images, if there were any.
    """
    rows = [("graph", "precision", "file", "MB", "off by", "photos: cosine min", "mean", "same top-1", "quantized")]
    for name, parity in bundle.manifest.parity.items():
        graph, _, precision = name.partition(".")
        rows.append(_row(bundle, graph, precision, parity))  # type: ignore[arg-type]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join((str(bundle.path), f"digest {bundle.manifest.digest}", *table))


def _row(bundle: Bundle, graph: GraphName, precision: Precision, parity: Parity) -> tuple[str, ...]:
    spec, held = bundle.manifest.graphs[graph], bundle.nearest(graph, precision)
    file = bundle.graph_file(graph, held)
    weights = [bundle.path / spec.weights[held]] if held in spec.weights else []
    size = f"{sum(part.stat().st_size for part in (file, *weights)) / 1e6:.1f}"
    kind = (spec.quantization or "") if held == "int8" else ""
    return graph, precision, file.name, size, f"{parity.max_abs:.1e}", *_on_images(parity.images), kind


def _on_images(parity: ImageParity | None) -> tuple[str, str, str]:
    if parity is None:
        return "-", "-", "-"
    top1 = "-" if parity.top1_agreement is None else f"{100 * parity.top1_agreement:.1f} %"
    return f"{parity.cosine_min:.5f}", f"{parity.cosine_mean:.5f}", top1


if __name__ == "__main__":
    main()
