"""Does a graph compute what torch computes? Asked of every variant of every graph before a bundle is written.

Twice: on made-up inputs, which reach every branch and go into the bundle as golden arrays, and on real images, which
say what a variant costs. There a graph behind the encoder gets what the encoder of the same precision gives, so that
its figures are those of the whole way.

Letters: N images, H x W pixels, C channels, L patches, K patches kept.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import GraphName, ImageParity, Parity, Precision
from bundle.masking import all_ids, num_keep, random_masking
from export.errors import ParityError
from export.onnx import GraphFile
from export.plan import GraphPlan
from mae.config import MAEConfig
from runtime.agreement import cosines
from runtime.base import Arrays
from runtime.onnx import image_by_image, load_session

MASK_RATIO = 0.75  # of the images that the decoder is shown
_BATCH = 8

Case = dict[str, Tensor]  # every graph takes what it needs by name: images, ids_keep, tokens, cls, ...
Run = Callable[[Mapping[str, Any]], Arrays]


@dataclass(frozen=True)
class Limits:
    """What a variant may differ by. `relative`: of the greatest value that torch gives, on made-up inputs; the cosines
    are the least that one image may have, flattened over an output.
    """

    relative: float
    cosine_made_up: float
    cosine_images: float


LIMITS: dict[Precision, Limits] = {
    # Both sides add up the same float32 products in another order, which moves a network's output by some 1e-6 of its
    # size; a wrong axis, order or weight moves it by 1e-2 and more. The line lies between the two.
    "fp32": Limits(1e-4, 0.999, 0.999),
    # Half rounds to 5e-4 of a value at every layer, and an engine may add up in half, too. A wrong axis or order moves
    # a cosine by 1e-2 and more.
    "fp16": Limits(3e-2, 0.999, 0.999),
    # The rounding is coarse by design and shows most on noise and on plain images, which no calibration has seen: there
    # the line only tells a wrong graph. What is held is the cosine on real images.
    "int8": Limits(3e-1, 0.98, 0.999),
}
# fp32 whose weights are kept in half. They are rounded once, by some 2^-12 of themselves, and nothing else is: outputs
# move by 1e-3 and cosines by 1e-6. That the graph is the network was held to fp32's limits before the rounding.
KEPT_IN_HALF = Limits(5e-3, 0.99999, 0.99999)
# Other engines and processors round int8 in other places, and what surrounds it in bf16.
_INT8_MARGIN, _BF16_RELATIVE, _BF16_COSINE = 3, 2e-2, 1e-3


@dataclass
class Figures:
    """How far outputs lie from torch's; `add` takes them in. `scale`: the greatest value that torch gave."""

    max_abs: float = 0.0
    scale: float = 0.0
    cosines: list[float] = field(default_factory=list)
    same_top1: list[bool] = field(default_factory=list)
    num_images: int = 0

    def add(self, graph: str, outputs: Arrays, expected: Arrays) -> None:
        """ParityError if an output is of another shape or dtype."""
        for name, wanted in expected.items():
            actual = outputs[name]
            if actual.shape != wanted.shape or actual.dtype != wanted.dtype:
                raise ParityError(
                    f"{graph}: ONNX Runtime gives {name} as {actual.dtype} {list(actual.shape)}, "
                    f"torch as {wanted.dtype} {list(wanted.shape)}; nothing was written"
                )
            self.max_abs = float(np.maximum(self.max_abs, np.abs(actual - wanted).max()))  # max() would lose a NaN
            self.scale = max(self.scale, float(np.abs(wanted).max()))
            self.cosines += cosines(actual, wanted).tolist()
            if name == "logits":
                self.same_top1 += (actual.argmax(axis=1) == wanted.argmax(axis=1)).tolist()
        self.num_images += len(next(iter(expected.values())))

    @property
    def cosine_min(self) -> float:
        return float(np.min(self.cosines))

    @property
    def cosine_mean(self) -> float:
        return float(np.mean(self.cosines))

    @property
    def on_images(self) -> ImageParity:
        return ImageParity(
            num_images=self.num_images,
            max_abs=self.max_abs,
            cosine_min=self.cosine_min,
            cosine_mean=self.cosine_mean,
            top1_agreement=float(np.mean(self.same_top1)) if self.same_top1 else None,
        )


@dataclass(frozen=True, eq=False)
class ImageCase:
    """Some real images: the inputs, and what torch makes of them by graph. The masked ids are the decoder's."""

    inputs: Arrays  # images u8 [N, H, W, C], ids_keep i64 [N, L], masked_ids i64 [N, K], ids_restore i64 [N, L]
    expected: dict[GraphName, Arrays]


def make_cases(config: MAEConfig, encoder: GraphPlan) -> list[Case]:
    """Several N and K, images of every kind, patches in shuffled order; what follows the encoder comes from torch's."""
    length = config.num_patches
    some = [num_keep(length, 0.5), num_keep(length, 0.75), 1]
    return [_case(config, encoder, n, k, seed=n) for n, k in ((2, some[0]), (1, length), (3, some[1]), (4, some[2]))]


def image_inputs(pixels: NDArray[np.uint8], num_patches: int) -> Iterator[Arrays]:
    """An ImageCase's inputs. pixels: u8 [n, H, W, C]; a few a case, so that large networks fit into memory."""
    for start in range(0, len(pixels), _BATCH):
        images = pixels[start : start + _BATCH]
        masks = [random_masking(num_patches, MASK_RATIO, seed=start + i) for i in range(len(images))]
        yield {
            "images": images,
            "ids_keep": np.ascontiguousarray(all_ids(len(images), num_patches)),
            "masked_ids": np.stack([mask.ids_keep for mask in masks]),
            "ids_restore": np.stack([mask.ids_restore for mask in masks]),
        }


def make_image_cases(plans: Sequence[GraphPlan], pixels: NDArray[np.uint8], num_patches: int) -> list[ImageCase]:
    """pixels: u8 [n, H, W, C]."""
    graphs: dict[GraphName, Run] = {plan.name: _reference_of(plan) for plan in plans}
    return [ImageCase(inputs, run_chain(graphs, inputs)) for inputs in image_inputs(pixels, num_patches)]


def run_chain(graphs: Mapping[GraphName, Run], inputs: Arrays) -> dict[GraphName, Arrays]:
    """Every graph's outputs, those behind the encoder fed by it. inputs: an ImageCase's."""
    found: dict[GraphName, Arrays] = {}
    for name, run in graphs.items():
        if name == "decoder":
            masked = graphs["encoder"]({"images": inputs["images"], "ids_keep": inputs["masked_ids"]})
            found[name] = run({"tokens": masked["tokens"], "ids_restore": inputs["ids_restore"]})
        else:
            found[name] = run({**inputs, **found.get("encoder", {})})
    return found


def references(plan: GraphPlan, case: Case) -> Arrays:
    """What torch computes, by output name."""
    with torch.inference_mode():
        outputs = plan.reference(*(case[tensor.name] for tensor in plan.spec.inputs))
    return {tensor.name: out.numpy() for tensor, out in zip(plan.spec.outputs, outputs, strict=True)}


def runner(plan: GraphPlan, file: GraphFile, *, one_by_one: bool = False) -> Run:
    """The graph in ONNX Runtime; it takes what it needs of the inputs. RuntimeUnavailable if it does not load.

    `one_by_one`: an image a call, as dynamic int8 is served.
    """
    session = load_session(file.path)
    inputs, outputs = ([tensor.name for tensor in side] for side in (plan.spec.inputs, plan.spec.outputs))

    def run(given: Mapping[str, Any]) -> Arrays:
        arrays = {name: np.asarray(given[name]) for name in inputs}
        results = image_by_image(session, outputs, arrays) if one_by_one else session.run(outputs, arrays)
        return dict(zip(outputs, results, strict=True))

    return run


def on_made_up(plan: GraphPlan, run: Run, cases: Sequence[Case]) -> Figures:
    figures = Figures()
    for case in cases:
        figures.add(plan.name, run(case), references(plan, case))
    return figures


def on_images(graphs: Mapping[GraphName, Run], cases: Sequence[ImageCase]) -> dict[GraphName, Figures]:
    """By graph, over all cases."""
    found: dict[GraphName, Figures] = {name: Figures() for name in graphs}
    for case in cases:
        for name, outputs in run_chain(graphs, case.inputs).items():
            found[name].add(name, outputs, case.expected[name])
    return found


def fault(figures: Figures, limits: Limits, images: Figures | None = None) -> str:
    """What is past its limit, in words; empty where nothing is. A NaN is no agreement, hence `not <=`."""
    # A head that was never trained answers 0 to everything; the allowance must still be a number above it.
    allowed = max(limits.relative * figures.scale, 1e-12)
    if not figures.max_abs <= allowed:
        return f"differs from torch by {figures.max_abs:.2e}, more than {allowed:.2e}"
    for found, least, where in ((figures, limits.cosine_made_up, ""), (images, limits.cosine_images, " on an image")):
        if found is not None and not found.cosine_min >= least:
            return f"has a cosine of {found.cosine_min:.6f} to torch{where}, less than {least:g}"
    return ""


def limits_of(precision: Precision, *, kept_in_half: bool = False) -> Limits:
    return KEPT_IN_HALF if kept_in_half else LIMITS[precision]


def parity_of(
    precision: Precision, figures: Figures, images: Figures | None = None, *, kept_in_half: bool = False
) -> Parity:
    """For the manifest, with what a service must keep to on the golden inputs."""
    limits = limits_of(precision, kept_in_half=kept_in_half)
    tolerance, min_cosine = limits.relative * figures.scale, None if precision == "fp32" else limits.cosine_made_up
    if kept_in_half:  # as far off as here, and what engines differ by in fp32
        tolerance, min_cosine = figures.max_abs + LIMITS["fp32"].relative * figures.scale, limits.cosine_made_up
    if precision == "int8":
        tolerance = _INT8_MARGIN * figures.max_abs + _BF16_RELATIVE * figures.scale
        min_cosine = 1 - _INT8_MARGIN * (1 - figures.cosine_min) - _BF16_COSINE
    return Parity(
        max_abs=figures.max_abs,
        cosine_min=figures.cosine_min,
        cosine_mean=figures.cosine_mean,
        tolerance=max(tolerance, 1e-12),
        min_cosine=min_cosine,
        images=None if images is None else images.on_images,
    )


def golden_arrays(plans: Sequence[GraphPlan], case: Case) -> dict[str, NDArray[Any]]:
    """One case's inputs and torch's outputs: "<graph>.in.<name>", "<graph>.out.<name>"."""
    arrays: dict[str, NDArray[Any]] = {}
    for plan in plans:
        arrays |= {f"{plan.name}.in.{tensor.name}": case[tensor.name].numpy() for tensor in plan.spec.inputs}
        arrays |= {f"{plan.name}.out.{name}": value for name, value in references(plan, case).items()}
    return arrays


def _reference_of(plan: GraphPlan) -> Run:
    names = [tensor.name for tensor in plan.spec.inputs]
    return lambda inputs: references(plan, {name: torch.from_numpy(np.array(inputs[name])) for name in names})


def _case(config: MAEConfig, encoder: GraphPlan, n: int, k: int, *, seed: int) -> Case:
    generator = torch.Generator().manual_seed(seed)
    ids_shuffle = torch.rand(n, config.num_patches, generator=generator).argsort(dim=1)  # [N, L]
    case = {"images": sample_images(config, n, generator), "ids_keep": ids_shuffle[:, :k].contiguous()}
    encoded = references(encoder, case)
    return {**case, "ids_restore": ids_shuffle.argsort(dim=1), **{k: torch.from_numpy(v) for k, v in encoded.items()}}


def sample_images(config: MAEConfig, n: int, generator: torch.Generator) -> Tensor:
    """u8 [N, H, W, C]: noise, a colour gradient, black, white, and again."""
    (height, width), channels = config.image_size, config.channels
    noise = torch.randint(0, 256, (n, height, width, channels), generator=generator, dtype=torch.uint8)
    y, x = torch.linspace(0, 1, height)[:, None, None], torch.linspace(0, 1, width)[None, :, None]
    share = torch.arange(1, channels + 1) / channels  # [C]
    gradient = ((x * share + y * (1 - share)) * 255).to(torch.uint8)  # [H, W, C]
    kinds = (None, gradient, torch.zeros_like(gradient), torch.full_like(gradient, 255))
    for i in range(n):
        kind = kinds[i % len(kinds)]
        if kind is not None:
            noise[i] = kind
    return noise
