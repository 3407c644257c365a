"""python -m export RUN [--classifier RUN2] --out OUT: write a bundle that the service can serve, or another format."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType

import tyro

from bundle.errors import MaeveError
from bundle.manifest import GraphName, ImageParity, Parity, Precision
from bundle.store import Bundle
from export.errors import ParityError
from export.formats.write import check_flags, export_as
from export.pipeline import ExportConfig, export_run

EXIT_DIFFERS = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def main() -> None:
    config = tyro.cli(ExportConfig, prog="python -m export")
    interrupted = _watch_interrupts()
    try:
        text = _export(config)
    except (Exception, KeyboardInterrupt) as e:
        if interrupted.is_set():  # torch turns one in the middle of its own work into errors of other kinds
            print("stopped; nothing was written", file=sys.stderr)
            sys.exit(EXIT_INTERRUPTED)
        if not isinstance(e, MaeveError):
            raise
        print(f"error: {e}", file=sys.stderr)
        sys.exit(EXIT_DIFFERS if isinstance(e, ParityError) else EXIT_USAGE)
    print(text)


def _watch_interrupts() -> threading.Event:
    """Set once Ctrl-C was pressed, which raises KeyboardInterrupt as ever."""
    seen = threading.Event()

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        seen.set()
        raise KeyboardInterrupt

    signal.signal(signal.SIGINT, interrupt)
    return seen


def _export(config: ExportConfig) -> str:
    """What to print."""

    def progress(line: str) -> None:
        print(line, file=sys.stderr)

    check_flags(config)
    return summary(export_run(config, progress)) if config.format == "bundle" else export_as(config, progress)


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
