"""Linear classifiers at their optimum, held against scikit-learn's."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression, Ridge
from torch import Tensor

from training.linear import fit_logistic, logistic_path, ridge_path


def clusters(num: int, features: int, classes: int) -> tuple[Tensor, Tensor]:
    """Overlapping ones, each feature on a scale and at an offset of its own: (x [N, F], y [N])."""
    generator = torch.Generator().manual_seed(0)
    y = torch.arange(num) % classes
    centers = torch.randn(classes, features, generator=generator)
    x = centers[y] + torch.randn(num, features, generator=generator)
    return x * torch.logspace(-2, 2, features) + torch.linspace(-50, 50, features), y


def standardized(x: Tensor) -> Tensor:
    """In f64, so that only the fit's own error shows."""
    std, mean = torch.std_mean(x.double(), dim=0)
    return (x.double() - mean) / std


# Logistic regression


@pytest.mark.parametrize("penalty", [1e-4, 1e-1])
def test_the_fit_is_where_the_gradient_vanishes(penalty: float) -> None:
    """In the standardised features, where the penalty applies."""
    x, y = clusters(300, 6, 3)
    weight, bias = fit_logistic(x, y, 3, penalty, 200)
    std, mean = torch.std_mean(x.double(), dim=0)
    scaled = (weight.double() * std).requires_grad_()
    shifted = (bias.double() + weight.double() @ mean).requires_grad_()
    loss = F.cross_entropy(F.linear(standardized(x), scaled, shifted), y) + penalty * scaled.square().sum()
    gradients = torch.autograd.grad(loss, [scaled, shifted])
    assert all(gradient.abs().max() < 1e-3 for gradient in gradients)
    assert scaled.abs().max() > 0.1  # not the start, which is zero


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
def test_the_probabilities_are_scikit_learns(penalty: float) -> None:
    """Its loss is the sum over images + |w|^2 / 2C, ours the mean + penalty |w|^2: C = 1 / (2 N penalty)."""
    x, y = clusters(400, 8, 4)
    theirs = LogisticRegression(C=1 / (2 * len(x) * penalty), tol=1e-8, max_iter=1000).fit(standardized(x), y)
    expected = torch.from_numpy(theirs.predict_proba(standardized(x)))
    ours = fit_logistic(x, y, 4, penalty, 200)(x).softmax(dim=1)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=2e-3)


def test_features_that_say_nothing_leave_the_frequencies() -> None:
    """With a constant feature the optimum is known: the bias is the logarithm of the classes' shares."""
    y = torch.tensor([0] * 60 + [1] * 30 + [2] * 10)
    x = torch.full((100, 2), 7.0)
    probabilities = fit_logistic(x, y, 3, 1e-3, 100)(x).softmax(dim=1)[0]
    torch.testing.assert_close(probabilities, torch.tensor([0.6, 0.3, 0.1]), rtol=0, atol=1e-3)


def test_a_larger_penalty_means_smaller_weights() -> None:
    x, y = clusters(200, 4, 2)
    path = logistic_path(x, y, 2, (1e-4, 1.0, 1e-2), 200)
    norms = [float((path[penalty].weight * x.std(dim=0)).norm()) for penalty in (1e-4, 1e-2, 1.0)]
    assert norms == sorted(norms, reverse=True)
    assert norms[0] > 2 * norms[2]


def test_a_path_ends_where_single_fits_end() -> None:
    x, y = clusters(300, 6, 3)
    path = logistic_path(x, y, 3, (1e-3, 1e-1), 200)
    for penalty, layer in path.items():
        alone = fit_logistic(x, y, 3, penalty, 200)
        torch.testing.assert_close(layer(x).softmax(dim=1), alone(x).softmax(dim=1), rtol=0, atol=2e-3)


# Ridge


@pytest.mark.parametrize("penalty", [1e-4, 1e-1, 1.0])
def test_ridge_is_scikit_learns(penalty: float) -> None:
    """Its penalty is on the sum over images, ours on the mean."""
    x, y = clusters(200, 12, 5)
    theirs = Ridge(alpha=penalty * len(x)).fit(standardized(x), F.one_hot(y, 5).double())
    expected = torch.from_numpy(theirs.predict(standardized(x)))
    ours = ridge_path(x, y, 5, (penalty,))[penalty](x)
    torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-3)


def test_ridge_by_hand() -> None:
    """One feature, -1 and 1, is its own standard score but for sqrt(2): w = 0.5 s / (s^2 + p), with s^2 = 1/2."""
    x, y = torch.tensor([[-1.0], [1.0]]), torch.tensor([0, 1])
    layer = ridge_path(x, y, 2, (0.5,))[0.5]
    slope = 0.5 * 0.5**0.5 / (0.5 + 0.5) * 0.5**0.5  # per unit of x
    torch.testing.assert_close(layer.weight, torch.tensor([[-slope], [slope]]))
    torch.testing.assert_close(layer.bias, torch.tensor([0.5, 0.5]))


def test_ridge_takes_fewer_images_than_features_and_features_that_repeat() -> None:
    x, y = clusters(30, 10, 3)
    wide = torch.cat([x, x, x, torch.full((30, 20), 3.0)], dim=1)  # [30, 50], of rank 10
    for layer in ridge_path(wide, y, 3, (1e-4, 1e-2)).values():
        assert (layer(wide).argmax(dim=1) == y).float().mean() > 0.8
