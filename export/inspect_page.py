"""What `python -m export.inspect` prints: a few facts, then a table for each question."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from bundle.cli.paper import paper
from bundle.cli.words import counted
from bundle.manifest import Manifest, Parity
from export.tables import Cell, fields_table, new_table

if TYPE_CHECKING:
    from export.inspect import GraphFacts, Inspection

_PRODUCTS = ("MatMul", "Gemm", "MatMulInteger", "DynamicQuantizeMatMul", "QLinearMatMul")
_SINGLE = ("Attention", "LayerNormalization", "Gelu", "Softmax")  # many nodes each, where an export spells them out
_QUANTIZE = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
_MOST_OTHERS = 5
_MOST_REPEATED = 10


def show(found: Inspection) -> None:
    """Print it all; the verdict comes last, where the eye ends."""
    out = paper()
    manifest = found.manifest
    if manifest is not None:
        out.print(fields_table(_facts(manifest)))
    if found.graphs:
        tables = (_sizes(found.graphs), _ops(found.graphs), _parity(found.parity), _image_parity(found.parity))
        out.print(*(table for table in tables if table is not None))
    for each in found.repeated[:_MOST_REPEATED]:
        out.print(f"stored {len(each.places)} times, {each.size_bytes / 1e6:.2f} MB each: {', '.join(each.places)}")
    if len(found.repeated) > _MOST_REPEATED:
        out.print(f"and {len(found.repeated) - _MOST_REPEATED} smaller arrays that are stored more than once")
    for fault in found.faults:
        out.print(Text("fault: ", style="bold red").append(fault, style="default"))
    if found.faults:
        out.print(f"{found.path}: {counted(len(found.faults), 'fault')}; do not serve it")
    elif manifest is not None:
        out.print(f"{found.path}: all {len(manifest.files) + 1} files are as they were written")


def _facts(manifest: Manifest) -> dict[str, Cell]:
    model, preprocess, origin = manifest.model, manifest.preprocess, manifest.provenance
    decoder = model.decoder
    (height, width), (rows, columns) = model.image_size, model.grid
    facts: dict[str, Cell] = {
        "name": manifest.name,
        "digest": manifest.digest,
        "created": f"{manifest.created_at:%Y-%m-%d %H:%M} UTC, schema {manifest.schema_version}",
        "input": f"{height} x {width} pixels, {model.channels} channels, {rows} x {columns} patches of "
        f"{model.patch_size}; cut from {preprocess.resize[0]} x {preprocess.resize[1]}",
        "encoder": f"{model.depth} blocks of width {model.dim}, {model.heads} heads, {manifest.pooling} pooling",
    }
    if decoder is not None:
        target = f"predicts {manifest.pixel_target} pixels"
        facts["decoder"] = f"{decoder.depth} blocks of width {decoder.dim}, {decoder.heads} heads, {target}"
    if manifest.num_classes is not None:
        facts["classes"] = str(manifest.num_classes)
    facts["trained on"] = f"{origin.dataset}, {origin.num_images:,} images, {origin.epochs:g} epochs"
    facts["by"] = f"Maeve {origin.maeve_version}, commit {origin.git_commit or 'unknown'}"
    if origin.metrics:
        facts["metrics"] = ", ".join(f"{name} {value:.4g}" for name, value in origin.metrics.items())
    return facts


def _sizes(graphs: list[GraphFacts]) -> Table:
    table = new_table(
        "Graphs",
        "graph", "file", ">MB", ">opset", ">parameters", "kept in", ">MFLOP/image", "int8 scales",
    )  # fmt: skip
    for g in graphs:
        size, parameters = f"{g.size_bytes / 1e6:.1f}", f"{g.parameters / 1e6:.2f} M"
        flops = f"{g.flops / 1e6:,.1f}"
        table.add_row(_name(g), g.file, size, str(g.opset), parameters, g.kept_in, flops, g.quantization or "")
    return table


def _ops(graphs: list[GraphFacts]) -> Table:
    table = new_table(
        "Operators",
        "graph",
        ">nodes",
        ">products",
        ">Attention",
        ">LayerNorm",
        ">Gelu",
        ">Softmax",
        ">Q/DQ",
        "most others",
    )
    for g in graphs:
        counted = {*_PRODUCTS, *_SINGLE, *_QUANTIZE}
        others = [f"{op} {count}" for op, count in g.ops.items() if op not in counted]
        table.add_row(
            _name(g), str(sum(g.ops.values())), _count(g, _PRODUCTS), *(_count(g, (op,)) for op in _SINGLE),
            _count(g, _QUANTIZE), ", ".join(others[:_MOST_OTHERS]),
        )  # fmt: skip
    return table


def _parity(figures: Mapping[str, Parity | None]) -> Table:
    table = new_table(
        "Distance from torch at export, on made-up inputs",
        "graph", ">off by", ">allowed", ">cosine min", ">mean", ">least allowed",
    )  # fmt: skip
    for key, p in figures.items():
        if p is None:
            table.add_row(_spaced(key), "unknown")
            continue
        cosine = (_cosine(value) for value in (p.cosine_min, p.cosine_mean, p.min_cosine))
        table.add_row(_spaced(key), f"{p.max_abs:.1e}", f"{p.tolerance:.1e}", *cosine)
    return table


def _image_parity(figures: Mapping[str, Parity | None]) -> Table | None:
    """None where the export had no real images."""
    found = [(_spaced(key), p.images) for key, p in figures.items() if p is not None and p.images is not None]
    if not found:
        return None
    table = new_table(
        "Distance from torch at export, on real images",
        "graph", ">images", ">off by", ">cosine min", ">mean", ">same top-1",
    )  # fmt: skip
    for name, p in found:
        top1 = "" if p.top1_agreement is None else f"{p.top1_agreement:.1%}"
        table.add_row(name, str(p.num_images), f"{p.max_abs:.1e}", _cosine(p.cosine_min), _cosine(p.cosine_mean), top1)
    return table


def _name(g: GraphFacts) -> str:
    return f"{g.graph} {g.precision}"


def _spaced(key: str) -> str:
    return key.replace(".", " ")


def _count(g: GraphFacts, ops: tuple[str, ...]) -> str:
    return str(sum(g.ops.get(op, 0) for op in ops))


def _cosine(value: float | None) -> str:
    return "" if value is None else f"{value:.6f}"
