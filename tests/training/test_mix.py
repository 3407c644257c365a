"""Mixup and CutMix: pixels and labels in the same shares."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from training.augmentations import MixConfig
from training.mix import Mixing, cutmix_box, draw_mixing, mix_images, soft_cross_entropy, soft_targets


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def constant(*values: float, size: tuple[int, int] = (4, 6)) -> torch.Tensor:
    """One image of one value each, f32 [B, 2, H, W]."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 2, *size).contiguous()


CIRCLE = np.array([1, 2, 0])


def test_mixup_is_a_weighted_mean_with_the_partner() -> None:
    mixed = mix_images(constant(0.0, 10.0, 100.0), Mixing(CIRCLE, 0.75, None))
    torch.testing.assert_close(mixed, constant(2.5, 32.5, 75.0))


def test_cutmix_replaces_a_box() -> None:
    images = constant(0.0, 10.0, 100.0)
    mixed = mix_images(images, Mixing(CIRCLE, 18 / 24, (1, 2, 3, 5)))
    expected = torch.zeros(4, 6)
    expected[1:3, 2:5] = 10
    assert torch.equal(mixed[0, 0], expected)
    assert torch.equal(mixed[0, 1], expected)
    assert float(mixed[2].mean()) == pytest.approx(100 * 18 / 24)  # its partner is black
    assert torch.equal(images, constant(0.0, 10.0, 100.0))


def test_targets_by_hand() -> None:
    """Four classes, smoothing 0.2: 0.05 everywhere and 0.85 on the label."""
    targets = soft_targets(torch.tensor([0, 1, 1]), 4, 0.2)
    torch.testing.assert_close(targets[0], torch.tensor([0.85, 0.05, 0.05, 0.05]))
    mixed = soft_targets(torch.tensor([0, 1, 1]), 4, 0.2, Mixing(CIRCLE, 0.75, None))
    torch.testing.assert_close(mixed[0], torch.tensor([0.65, 0.25, 0.05, 0.05]))
    torch.testing.assert_close(mixed[1], torch.tensor([0.05, 0.85, 0.05, 0.05]))
    torch.testing.assert_close(mixed.sum(dim=1), torch.ones(3))


def test_the_loss_is_the_cross_entropy_of_the_targets() -> None:
    logits = torch.tensor([[0.0, np.log(3.0)], [0.0, 0.0]])  # a quarter and three quarters; a half each
    targets = torch.tensor([[0.5, 0.5], [1.0, 0.0]])
    expected = (-(0.5 * np.log(0.25) + 0.5 * np.log(0.75)) - np.log(0.5)) / 2
    assert float(soft_cross_entropy(logits, targets)) == pytest.approx(expected, rel=1e-6)


def test_the_loss_without_mixing_is_torchs_with_label_smoothing() -> None:
    logits = torch.randn(5, 7, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 3, 6, 1, 1])
    expected = torch.nn.functional.cross_entropy(logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(soft_cross_entropy(logits, soft_targets(labels, 7, 0.1)), expected)


@pytest.mark.parametrize("num", [2, 3, 8, 31])
def test_partners_form_one_circle(num: int) -> None:
    """Nobody is its own partner, and everybody is somebody's, an odd batch included."""
    for seed in range(20):
        mixing = draw_mixing(num, (4, 4), MixConfig(), rng(seed))
        assert mixing is not None
        place, visited = 0, []
        for _ in range(num):
            visited.append(place)
            place = int(mixing.partner[place])
        assert place == 0
        assert sorted(visited) == list(range(num))


def test_an_image_alone_stays_what_it_is() -> None:
    image = torch.rand(1, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    for seed in range(5):
        mixing = draw_mixing(1, (8, 8), MixConfig(), rng(seed))
        assert mixing is not None
        torch.testing.assert_close(mix_images(image, mixing), image)
        torch.testing.assert_close(soft_targets(torch.tensor([1]), 2, 0.0, mixing), torch.tensor([[0.0, 1.0]]))


def test_a_box_has_the_share_that_the_labels_lose() -> None:
    """However the image's edge cuts it."""
    cut_short = 0
    for seed in range(200):
        mixing = draw_mixing(4, (20, 32), MixConfig(mixup=0.0), rng(seed))
        assert mixing is not None
        assert mixing.box is not None
        top, left, bottom, right = mixing.box
        assert 0 <= top <= bottom <= 20
        assert 0 <= left <= right <= 32
        mixed = mix_images(constant(1.0, 1.0, 1.0, 0.0, size=(20, 32)), mixing)
        last = int(np.flatnonzero(mixing.partner == 3)[0])  # whose partner is the black one
        assert float(mixed[last].mean()) == pytest.approx(mixing.share, abs=1e-6)
        cut_short += top == 0 or left == 0 or bottom == 20 or right == 32
    assert 50 < cut_short < 190


def test_a_box_that_fits_has_its_share_of_the_area() -> None:
    """A quarter of 100 x 200: half of each side."""
    boxes = [cutmix_box(0.75, (100, 200), rng(seed)) for seed in range(200)]
    whole = [(b - t, r - left) for t, left, b, r in boxes if t > 0 and left > 0 and b < 100 and r < 200]
    assert len(whole) > 20
    assert set(whole) == {(50, 100)}
    centers = np.array([((t + b) / 2, (left + r) / 2) for t, left, b, r in boxes])
    assert centers.mean(axis=0) == pytest.approx([50, 100], rel=0.15)


@pytest.mark.parametrize(
    ("config", "cut_share"),
    [(MixConfig(), 0.5), (MixConfig(cutmix=0.0), 0.0), (MixConfig(mixup=0.0), 1.0)],
)
def test_each_batch_takes_one_of_those_that_are_on(config: MixConfig, cut_share: float) -> None:
    mixings = [draw_mixing(4, (16, 16), config, rng(seed)) for seed in range(1000)]
    cut = sum(m is not None and m.box is not None for m in mixings)
    assert cut == pytest.approx(1000 * cut_share, abs=65 if cut_share == 0.5 else 0)


def test_shares_follow_the_beta_distribution() -> None:
    """Var Beta(a, a) = 1 / (4 (2a + 1))."""
    for alpha in (0.2, 0.8, 4.0):
        drawn = [draw_mixing(2, (8, 8), MixConfig(mixup=alpha, cutmix=0.0), rng(seed)) for seed in range(3000)]
        shares = np.array([m.share for m in drawn if m is not None])
        assert len(shares) == 3000
        assert shares.mean() == pytest.approx(0.5, abs=0.03)
        assert shares.var() == pytest.approx(1 / (4 * (2 * alpha + 1)), rel=0.1)


def test_off_is_off() -> None:
    assert draw_mixing(4, (8, 8), MixConfig(mixup=0.0, cutmix=0.0), rng()) is None


@pytest.mark.parametrize("fields", [{"mixup": -0.1}, {"cutmix": -1.0}])
def test_a_negative_parameter_is_refused(fields: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="--mixup and --cutmix must not be negative"):
        MixConfig(**fields)
