"""Does ONNX Runtime compute what torch computes? Asked of every graph before a bundle is written.

Letters: N images, H x W pixels, C channels, L patches, K patches kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bundle.manifest import Parity
from bundle.masking import num_keep
from export.errors import ParityError
from export.plan import GraphPlan
from mae.config import MAEConfig
from runtime.agreement import cosines
from runtime.base import Arrays
from runtime.onnx import load_session

# The allowance, as a share of the greatest value that torch gives. Both sides add up the same float32 products in
# another order, which moves a network's output by some 1e-6 of its size; a wrong axis, order or weight moves it by 1e-2
# and more. The line lies between the two.
RELATIVE_TOLERANCE = 1e-4

Case = dict[str, Tensor]  # every graph takes what it needs by name: images, ids_keep, tokens, cls, ...


def make_cases(config: MAEConfig, encoder: GraphPlan) -> list[Case]:
    """Several N and K, images of every kind, patches in shuffled order; what follows the encoder comes from torch's."""
    length = config.num_patches
    some = [num_keep(length, 0.5), num_keep(length, 0.75), 1]
    return [_case(config, encoder, n, k, seed=n) for n, k in ((2, some[0]), (1, length), (3, some[1]), (4, some[2]))]


def references(plan: GraphPlan, case: Case) -> Arrays:
    """What torch computes, by output name."""
    with torch.inference_mode():
        outputs = plan.reference(*(case[tensor.name] for tensor in plan.spec.inputs))
    return {tensor.name: out.numpy() for tensor, out in zip(plan.spec.outputs, outputs, strict=True)}


def verify(plan: GraphPlan, model: bytes, cases: Sequence[Case]) -> Parity:
    """Run the graph in ONNX Runtime on every case. ParityError if it lies further from torch than the tolerance."""
    session = load_session(model)
    names = [tensor.name for tensor in plan.spec.outputs]
    max_abs, scale, cosine_min = 0.0, 0.0, 1.0
    for case in cases:
        expected = references(plan, case)
        outputs = session.run(names, {tensor.name: case[tensor.name].numpy() for tensor in plan.spec.inputs})
        for name, actual in zip(names, outputs, strict=True):
            max_abs = _worst(max_abs, _difference(plan.name, name, actual, expected[name]))
            scale = max(scale, float(np.abs(expected[name]).max()))
            cosine_min = min(cosine_min, float(cosines(actual, expected[name]).min()))
    # A head that was never trained answers 0 to everything; the tolerance must still be a number above it.
    tolerance = max(RELATIVE_TOLERANCE * scale, 1e-12)
    if not max_abs <= tolerance:  # so, and not `>`: a NaN is no agreement
        difference = f"{max_abs:.2e}, more than {tolerance:.2e}"
        raise ParityError(f"{plan.name}: ONNX Runtime differs from torch by {difference}; nothing was written")
    return Parity(max_abs=max_abs, cosine_min=cosine_min, tolerance=tolerance)


def golden_arrays(plans: Sequence[GraphPlan], case: Case) -> dict[str, NDArray[Any]]:
    """One case's inputs and torch's outputs: "<graph>.in.<name>", "<graph>.out.<name>"."""
    arrays: dict[str, NDArray[Any]] = {}
    for plan in plans:
        arrays |= {f"{plan.name}.in.{tensor.name}": case[tensor.name].numpy() for tensor in plan.spec.inputs}
        arrays |= {f"{plan.name}.out.{name}": value for name, value in references(plan, case).items()}
    return arrays


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


def _difference(graph: str, name: str, actual: NDArray[Any], expected: NDArray[Any]) -> float:
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ParityError(
            f"{graph}: ONNX Runtime gives {name} as {actual.dtype} {list(actual.shape)}, "
            f"torch as {expected.dtype} {list(expected.shape)}; nothing was written"
        )
    return float(np.abs(actual - expected).max())


def _worst(a: float, b: float) -> float:
    """max() that does not lose a NaN."""
    return float(np.maximum(a, b))
