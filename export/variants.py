"""The variants of a bundle's graphs: each exported, held against torch, and for int8 the better of two ways chosen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import GraphName, GraphSpec, Parity, Precision
from bundle.store import Bundle
from export.config import Int8
from export.errors import ParityError
from export.onnx import GraphFile, write_onnx
from export.plan import GraphPlan
from export.quantize import Quantization, quantize
from export.speed import Timing, fastest
from export.storage import keep_in_half
from export.verify import (
    LIMITS,
    Case,
    Figures,
    ImageCase,
    Run,
    fault,
    limits_of,
    on_images,
    on_made_up,
    parity_of,
    runner,
)
from runtime.base import Arrays

Draft = Callable[[str, GraphSpec, Iterable[GraphFile]], Bundle]

_KINDS: dict[Int8, tuple[Quantization, ...]] = {
    "auto": ("dynamic", "static"), "dynamic": ("dynamic",), "static": ("static",)
}  # fmt: skip
_DYNAMIC_HANDICAP = 1.1  # it must gain a tenth and more: one engine runs it, and image by image
_TIMED_IMAGES = 4  # a call: what the CPU engines like best


@dataclass(frozen=True, kw_only=True, eq=False)
class Material:
    """What variants are made of and held against. `image_cases` and `calibration` are empty without real images.

    calibration: inputs of `export.verify.ImageCase`s, of other images. draft: writes a bundle of one encoder, for the
    engines to load. folder: where the graphs are written.
    """

    plans: Sequence[GraphPlan]
    cases: Sequence[Case]
    image_cases: Sequence[ImageCase]
    calibration: Sequence[Arrays]
    folder: Path
    draft: Draft
    progress: Callable[[str], None]

    @property
    def by_name(self) -> dict[GraphName, GraphPlan]:
        return {plan.name: plan for plan in self.plans}


@dataclass(eq=False)
class Variant:
    """The graphs that come in one precision. `parity` also has those that run in fp32 behind an int8 encoder.

    kept_in_half: fp32 graphs whose files hold their weights in half precision.
    """

    precision: Precision
    files: dict[GraphName, GraphFile] = field(default_factory=dict)
    runs: dict[GraphName, Run] = field(default_factory=dict)
    parity: dict[GraphName, Parity] = field(default_factory=dict)
    quantization: Quantization | None = None
    kept_in_half: bool = False


def make_float(material: Material, precision: Literal["fp32", "fp16"]) -> Variant:
    """Every graph in fp32 or fp16. ParityError past what `export.verify.LIMITS` allows."""

    def write(plan: GraphPlan) -> GraphFile:
        material.progress(f"{plan.name} {precision}: exporting")
        example = [material.cases[0][tensor.name] for tensor in plan.spec.inputs]
        path = material.folder / file_name(plan.name, precision)
        return write_onnx(plan.module(half=precision == "fp16"), example, plan.spec, path)

    return _checked(material, Variant(precision), write)


def make_kept_in_half(material: Material, fp32: Variant) -> Variant:
    """The graphs of `fp32` with their weights in half precision, under the same names, and what that costs.

    ExportError for a weight beyond half's range, ParityError past what `export.verify.KEPT_IN_HALF` allows.
    """
    folder = material.folder / "kept-in-half"
    folder.mkdir()

    def write(plan: GraphPlan) -> GraphFile:
        if plan.name == "head":  # small, and what a probe fitted to features that hardly differ: it feels each digit
            return fp32.files[plan.name]
        material.progress(f"{plan.name} fp32: rounding its weights to half precision")
        return keep_in_half(fp32.files[plan.name], folder / file_name(plan.name, "fp32"))

    return _checked(material, Variant("fp32", kept_in_half=True), write)


def make_int8(material: Material, fp32: Variant, choice: Int8, *, beside: Variant | None = None) -> Variant | None:
    """The encoder in int8, and the decoder and classifier where they hold the same limit; the head stays in fp32.

    beside: the fp32 graphs of the bundle, which run what is not in int8; None is `fp32`, which int8 is made of.

    None, with a line that says why, where no way holds the limit on real images, or none is faster than fp32. With
    "dynamic" or "static" that way is taken whatever its speed, and ParityError raised where it does not hold.
    """
    candidates: dict[Quantization, tuple[GraphFile, Run]] = {}
    for kind in _KINDS[choice]:
        file, run = _quantized(material, fp32, "encoder", kind)
        problem = _problem(material, {"encoder": run}, "encoder")
        if problem and choice != "auto":
            raise ParityError(f"encoder int8 ({kind}) {problem}; nothing was written; leave out --int8 {choice}")
        material.progress(f"encoder int8 ({kind}): {problem or 'close enough to torch'}")
        if not problem:
            candidates[kind] = file, run
    chosen = next(iter(candidates)) if choice != "auto" else _faster(material, fp32, candidates)
    if chosen is None:
        return None
    return _whole(material, fp32, beside or fp32, chosen, *candidates[chosen])


def file_name(graph: GraphName, precision: Precision) -> str:
    return f"{graph}.onnx" if precision == "fp32" else f"{graph}.{precision}.onnx"


def _checked(material: Material, variant: Variant, write: Callable[[GraphPlan], GraphFile]) -> Variant:
    """`variant` with every graph, as `write` makes it, held against torch."""
    precision, made_up = variant.precision, dict[GraphName, Figures]()
    for plan in material.plans:
        file = write(plan)
        run = runner(plan, file)
        figures = on_made_up(plan, run, material.cases)
        _check(plan.name, variant, figures, None)
        material.progress(
            f"{plan.name} {precision}: {file.num_bytes / 1e6:.1f} MB, within {figures.max_abs:.1e} of torch"
        )
        variant.files[plan.name], variant.runs[plan.name], made_up[plan.name] = file, run, figures
    images = _on_images(material, variant.runs)
    for name, figures in made_up.items():
        _check(name, variant, figures, images.get(name))
        variant.parity[name] = parity_of(precision, figures, images.get(name), kept_in_half=variant.kept_in_half)
    return variant


def _check(graph: GraphName, variant: Variant, figures: Figures, images: Figures | None) -> None:
    precision = variant.precision
    problem = fault(figures, limits_of(precision, kept_in_half=variant.kept_in_half), images)
    if problem:
        advice = "" if precision == "fp32" else f"; leave {precision} out of --precision"
        if variant.kept_in_half:
            advice = "; leave out --storage half"
        raise ParityError(f"{graph} {precision}: ONNX Runtime {problem}; nothing was written{advice}")


def _on_images(material: Material, runs: Mapping[GraphName, Run]) -> dict[GraphName, Figures]:
    return on_images(runs, material.image_cases) if material.image_cases else {}


def _problem(material: Material, runs: Mapping[GraphName, Run], graph: GraphName) -> str:
    """What is wrong with `graph` among graphs in int8; empty where nothing is."""
    made_up = on_made_up(material.by_name[graph], runs[graph], material.cases)
    return fault(made_up, LIMITS["int8"], _on_images(material, runs)[graph])


def _quantized(material: Material, fp32: Variant, graph: GraphName, kind: Quantization) -> tuple[GraphFile, Run]:
    material.progress(f"{graph} int8 ({kind}): quantizing")
    folder = material.folder / kind
    folder.mkdir(exist_ok=True)
    calls = _calibration(material, fp32, graph) if kind == "static" else []
    file = quantize(kind, fp32.files[graph], folder / file_name(graph, "int8"), calls)
    return file, runner(material.by_name[graph], file, one_by_one=kind == "dynamic")


def _calibration(material: Material, fp32: Variant, graph: GraphName) -> list[Arrays]:
    """The graph's inputs for the calibration images; the encoder sees them whole and masked."""
    calls = []
    for inputs in material.calibration:
        masked = {"images": inputs["images"], "ids_keep": inputs["masked_ids"]}
        if graph == "encoder":
            calls += [{name: inputs[name] for name in ("images", "ids_keep")}, masked]
        elif graph == "decoder":
            tokens = fp32.runs["encoder"](masked)["tokens"]
            calls.append({"tokens": tokens, "ids_restore": inputs["ids_restore"]})
        else:
            calls.append({"images": inputs["images"]})
    return calls


def _faster(
    material: Material, fp32: Variant, candidates: Mapping[Quantization, tuple[GraphFile, Run]]
) -> Quantization | None:
    """The faster way that beats fp32, each on the engine that likes it best."""
    if not candidates:
        material.progress("int8: left out, since no way of it is close enough to torch on real images")
        return None
    spec = material.by_name["encoder"].spec
    drafts = {"fp32": material.draft("fp32", spec, [fp32.files["encoder"]])}
    for kind, (file, _) in candidates.items():
        drafts[kind] = material.draft(kind, with_int8(spec, kind), [fp32.files["encoder"], file])
    times = fastest(drafts, _timed_images(material))
    said = ", ".join(f"{name} {_say(timing)}" for name, timing in times.items())
    chosen = min(candidates, key=lambda kind: times[kind].ms * (_DYNAMIC_HANDICAP if kind == "dynamic" else 1))
    if times[chosen].ms >= times["fp32"].ms:
        material.progress(f"int8: left out, since it is no faster than fp32 on this machine ({said})")
        return None
    material.progress(f"int8: {chosen} ({said})")
    return chosen


def with_int8(spec: GraphSpec, kind: Quantization) -> GraphSpec:
    """`spec` of an fp32 encoder with an int8 file beside it."""
    fields = spec.model_dump() | {"quantization": kind}
    return GraphSpec.model_validate(fields | {"files": {**spec.files, "int8": file_name("encoder", "int8")}})


def _timed_images(material: Material) -> NDArray[np.uint8]:
    images: NDArray[np.uint8] = material.image_cases[0].inputs["images"][:_TIMED_IMAGES]
    return images


def _say(timing: Timing) -> str:
    return f"{timing.ms:.1f} ms ({timing.engine})"


def _whole(
    material: Material, fp32: Variant, beside: Variant, kind: Quantization, file: GraphFile, run: Run
) -> Variant:
    """The variant of which the encoder is chosen."""
    variant = Variant("int8", {"encoder": file}, {**beside.runs, "encoder": run}, quantization=kind)
    for graph in fp32.files:
        if graph in ("encoder", "head"):
            continue
        quantized, run = _quantized(material, fp32, graph, kind)
        problem = _problem(material, {"encoder": variant.runs["encoder"], graph: run}, graph)
        if problem:
            material.progress(f"{graph} int8 ({kind}): left in fp32, since it {problem}")
            continue
        material.progress(f"{graph} int8 ({kind}): close enough to torch")
        variant.files[graph], variant.runs[graph] = quantized, run
    images = _on_images(material, variant.runs)
    for name, graph_run in variant.runs.items():
        made_up = on_made_up(material.by_name[name], graph_run, material.cases)
        source = variant if name in variant.files else beside
        variant.parity[name] = parity_of(source.precision, made_up, images[name], kept_in_half=source.kept_in_half)
    return variant
