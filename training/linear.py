"""Linear classifiers on features that stay as they are: multinomial logistic regression, and ridge on one-hot labels.

Both standardise the features first and fold that into the weights, so that the result is one linear layer for features
as they came. Letters: N images, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

_MIN_STD = 1e-6  # a constant feature is left at zero


class Layer(NamedTuple):
    """weight: f32 [classes, F]; bias: f32 [classes]; logits = x weight^T + bias."""

    weight: Tensor
    bias: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        """f32 [N, F] -> logits f32 [N, classes]."""
        return F.linear(x, self.weight, self.bias)


def fit_logistic(x: Tensor, y: Tensor, num_classes: int, penalty: float, max_iterations: int) -> Layer:
    """Minimise mean cross-entropy + penalty * |weights|^2 by L-BFGS. x: f32 [N, F]; y: i64 [N], on x's device.

    The penalty is on the weights of standardised features; the bias is free.
    """
    return logistic_path(x, y, num_classes, (penalty,), max_iterations)[penalty]


def logistic_path(
    x: Tensor, y: Tensor, num_classes: int, penalties: Sequence[float], max_iterations: int
) -> dict[float, Layer]:
    """`fit_logistic` for each penalty, greatest first, each from where the one before it ended."""
    z, mean, std = _standardize(x)
    weight = torch.zeros(num_classes, x.shape[1], device=x.device, requires_grad=True)
    bias = torch.zeros(num_classes, device=x.device, requires_grad=True)
    fits = {}
    for penalty in sorted(set(penalties), reverse=True):
        _minimize(z, y, weight, bias, penalty, max_iterations)
        fits[penalty] = _unstandardized(weight.detach(), bias.detach(), mean, std)
    return fits


def ridge_path(x: Tensor, y: Tensor, num_classes: int, penalties: Sequence[float]) -> dict[float, Layer]:
    """Minimise mean |x W + b - onehot(y)|^2 + penalty * |W|^2 in closed form, by Cholesky, for each penalty.

    x: f32 [N, F]; y: i64 [N], on x's device. The penalty, which must be positive, is on the weights of standardised
    features; the bias is free. In f64: with few images or features that say the same, the normal equations lose f32.
    """
    z, mean, std = _standardize(x)
    z = z.double()
    shares = F.one_hot(y, num_classes).double()  # [N, classes]
    bias = shares.mean(dim=0)
    gram = z.T @ z / len(z)  # [F, F]
    moment = z.T @ (shares - bias) / len(z)  # [F, classes]
    identity = torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
    fits = {}
    for penalty in penalties:
        weight = torch.cholesky_solve(moment, torch.linalg.cholesky(gram + penalty * identity)).T
        fits[penalty] = _unstandardized(weight.float(), bias.float(), mean, std)
    return fits


def _minimize(z: Tensor, y: Tensor, weight: Tensor, bias: Tensor, penalty: float, max_iterations: int) -> None:
    """Move weight and bias, in place, to the optimum for standardised features z."""
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(z, weight, bias), y) + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]


def _standardize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(z [N, F], mean [F], std [F])."""
    std, mean = torch.std_mean(x, dim=0, correction=min(1, len(x) - 1))
    std = std.clamp(min=_MIN_STD)
    return (x - mean).div_(std), mean, std


def _unstandardized(weight: Tensor, bias: Tensor, mean: Tensor, std: Tensor) -> Layer:
    scaled = weight / std
    return Layer(scaled, bias - scaled @ mean)
