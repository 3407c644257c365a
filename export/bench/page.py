"""What `python -m export.bench` prints: where and how, a row per engine, and what is missing."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from bundle.cli.paper import paper
from export.bench.document import BenchDocument, Row
from export.tables import fields_table, new_table


def show(document: BenchDocument, written_to: Path) -> None:
    out = paper()
    out.print(fields_table(_circumstances(document)))
    if document.rows:
        out.print(_speed(document), _cost(document))
    if _busy(document):
        out.print("more than 100 % of the peak: the machine was busy while the peak was measured; run this again alone")
    for each in document.failed:
        out.print(
            Text("failed: ", style="bold red").append(f"{each.runtime} {each.precision}: {each.reason}", "default")
        )
    for each in document.unavailable:
        out.print(f"not here: {each.runtime} {each.precision}: {each.reason}")
    out.print(f"written to {written_to}")


def _circumstances(document: BenchDocument) -> dict[str, str | Text]:
    setting, machine = document.setting, document.machine
    flops = setting.flops_per_image / 1e9
    facts: dict[str, str | Text] = {
        "bundle": f"{document.bundle.path}: {document.bundle.name}, digest {document.bundle.digest[:12]}",
        "machine": f"{machine.cpu} ({machine.matrix_unit}), {machine.cores} cores"
        + "".join(f", {gpu}" for gpu in machine.gpus),
        "an image": f"{setting.num_keep} of {setting.num_patches} patches, {flops:.3g} GFLOP in the encoder",
        "measured": f"{setting.rounds} rounds in turns, {setting.seconds:g} s each; cosines on {setting.images}",
    }
    for peak in document.peaks:
        rate = f"{peak.flops_per_s / 1e9:,.0f} GFLOP/s, {peak.side} x {peak.side} by {peak.by}"
        facts[f"peak {peak.precision}"] = f"{rate} on {peak.device}"
    return facts


def _busy(document: BenchDocument) -> bool:
    """An engine faster than the peak: something else took the machine's time while that was measured."""
    return any(row.peak_share is not None and row.peak_share > 1 for row in document.rows)


def _speed(document: BenchDocument) -> Table:
    table = new_table(
        "Speed, and how many times that of ONNX Runtime in fp32 on the CPU",
        "engine", "device", ">lanes", ">p50 ms", ">p99 ms", ">times", ">batch", ">images/s", ">times",
    )  # fmt: skip
    for row in document.rows:
        times = ("", "") if row.speedup is None else (f"{row.speedup.latency:.2f}", f"{row.speedup.throughput:.2f}")
        table.add_row(
            _name(row), row.device, str(row.lanes), f"{row.latency.p50_ms:.2f}", f"{row.latency.p99_ms:.2f}", times[0],
            str(row.throughput.batch), f"{row.throughput.images_per_s:,.1f}", times[1],
        )  # fmt: skip
    return table


def _cost(document: BenchDocument) -> Table:
    table = new_table(
        "Use of the machine, and agreement with ONNX Runtime in fp32 on the CPU",
        "engine", ">GFLOP/s", ">of peak", ">MB before", ">MB at most", ">cosine min", ">mean",
    )  # fmt: skip
    for row in document.rows:
        share = "" if row.peak_share is None else f"{row.peak_share:.0%} {row.peak_precision}"
        memory, cosine = row.memory, row.cosine
        resident = () if memory is None else (memory.before_bytes, memory.peak_bytes)
        megabytes = [f"{n / 1e6:,.0f}" for n in resident] or ["", ""]
        table.add_row(
            _name(row), f"{row.flops_per_s / 1e9:,.1f}", share, *megabytes,
            *(("", "") if cosine is None else (f"{cosine.min:.6f}", f"{cosine.mean:.6f}")),
        )  # fmt: skip
    return table


def _name(row: Row) -> str:
    return f"{row.runtime} {row.precision}" + (" (auto)" if row.auto else "")
