"""python -m export RUN [--classifier RUN2] --out OUT: write a bundle that the service can serve, or another format."""

from __future__ import annotations

import sys

import tyro

from bundle.errors import MaeveError
from bundle.store import Bundle
from export.errors import ParityError
from export.formats.write import check_flags, export_as
from export.pipeline import ExportConfig, export_run

EXIT_DIFFERS = 1
EXIT_USAGE = 2


def main() -> None:
    config = tyro.cli(ExportConfig, prog="python -m export")
    try:
        text = _export(config)
    except MaeveError as e:
        print(f"error: {e}", file=sys.stderr)
        sys.exit(EXIT_DIFFERS if isinstance(e, ParityError) else EXIT_USAGE)
    print(text)


def _export(config: ExportConfig) -> str:
    """What to print."""

    def progress(line: str) -> None:
        print(line, file=sys.stderr)

    check_flags(config)
    return summary(export_run(config, progress)) if config.format == "bundle" else export_as(config, progress)


def summary(bundle: Bundle) -> str:
    """The path, the digest and one row per graph."""
    rows = [("graph", "file", "MB", "inputs", "outputs", "off by", "allowed")]
    for name, graph in bundle.manifest.graphs.items():
        parity = bundle.manifest.parity[f"{name}.fp32"]
        file = bundle.graph_file(name)
        inputs, outputs = (", ".join(tensor.name for tensor in side) for side in (graph.inputs, graph.outputs))
        size = f"{file.stat().st_size / 1e6:.1f}"
        rows.append((name, file.name, size, inputs, outputs, f"{parity.max_abs:.1e}", f"{parity.tolerance:.1e}"))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join((str(bundle.path), f"digest {bundle.manifest.digest}", *table))


if __name__ == "__main__":
    main()
