"""Class scores: both poolings by their formula, and the linear head."""

from __future__ import annotations

import pytest
import torch

from mae.classifier import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig
from mae.config import MAEConfig, Pooling
from mae.layers import Block
from mae.model import Encoder, patchify

ENCODER = MAEConfig(
    image_size=(8, 16), patch_size=4, dim=24, depth=2, heads=3, decoder_dim=8, decoder_depth=1, decoder_heads=2
)


def classifier(pooling: Pooling, drop_path: float = 0.0) -> Classifier:
    """With norms and a head away from their initial values, so that each of them shows."""
    torch.manual_seed(0)
    model = Classifier(ClassifierConfig(encoder=ENCODER, num_classes=5, pooling=pooling, drop_path=drop_path)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("pooling", ["cls", "mean"])
@torch.inference_mode()
def test_pooling_by_its_formula(pooling: Pooling) -> None:
    """cls: head(norm(x)[cls]). mean: head(fc_norm(mean of the patches)), and no norm before the mean."""
    model = classifier(pooling)
    images = torch.randn(3, 3, 8, 16)
    encoder = model.encoder
    x = encoder.patch_embed(patchify(images, 4)) + encoder.pos_embed[:, 1:]
    x = torch.cat([(encoder.cls_token + encoder.pos_embed[:, :1]).expand(3, -1, -1), x], dim=1)
    for block in encoder.blocks:
        x = block(x)
    pooled = encoder.norm(x)[:, 0] if pooling == "cls" else model.fc_norm(x[:, 1:].mean(dim=1))
    expected = pooled @ model.head.weight.T + model.head.bias
    torch.testing.assert_close(model(images), expected, rtol=0, atol=1e-5)
    norms = {name for name in model.state_dict() if "norm.weight" in name}
    assert norms == {"encoder.norm.weight" if pooling == "cls" else "fc_norm.weight"}


def test_a_fresh_head_says_nearly_nothing() -> None:
    model = Classifier(ClassifierConfig(encoder=ENCODER, num_classes=5)).eval()
    assert model(torch.randn(3, 3, 8, 16)).abs().max() < 1e-2


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_load_encoder_takes_all_but_the_norm_that_mean_pooling_replaces(pooling: Pooling) -> None:
    pretrained = Encoder(ENCODER).state_dict()
    pretrained["norm.weight"] = torch.full_like(pretrained["norm.weight"], 3.0)
    model = classifier(pooling)
    fc_norm = {name: value.clone() for name, value in model.fc_norm.state_dict().items()}
    model.load_encoder(pretrained)
    loaded = model.encoder.state_dict()
    assert set(pretrained) - set(loaded) == (set() if pooling == "cls" else {"norm.weight", "norm.bias"})
    assert all(torch.equal(value, pretrained[name]) for name, value in loaded.items())
    assert all(torch.equal(value, fc_norm[name]) for name, value in model.fc_norm.state_dict().items())


def test_load_encoder_refuses_what_is_missing() -> None:
    weights = Encoder(ENCODER).state_dict()
    del weights["blocks.0.attn.qkv.weight"]
    with pytest.raises(RuntimeError, match="Missing key"):
        classifier("mean").load_encoder(weights)


def test_drop_path_reaches_the_blocks_and_rests_in_evaluation() -> None:
    model = classifier("mean", drop_path=0.5)
    last = model.encoder.blocks[-1]
    assert isinstance(last, Block)
    assert last.drop_path.rate == 0.5
    images = torch.randn(2, 3, 8, 16)
    assert torch.equal(model(images), classifier("mean")(images))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"pooling": "max"}, "pooling must be 'cls' or 'mean', got 'max'"),
        ({"drop_path": 1.0}, r"drop_path must be at least 0 and below 1, got 1\.0"),
        ({"drop_path": -0.1}, "drop_path must be at least 0 and below 1, got -0.1"),
    ],
)
def test_what_cannot_be_is_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ClassifierConfig(**{"encoder": ENCODER, "num_classes": 5, **fields})  # type: ignore[arg-type]


def test_the_linear_head_concatenates_in_its_configs_order() -> None:
    head = LinearHead(LinearHeadConfig(inputs=("mean", "cls"), dim=4, num_classes=3))
    mean, cls = torch.randn(2, 4), torch.randn(2, 4)
    expected = torch.cat([mean, cls], dim=1) @ head.linear.weight.T + head.linear.bias
    torch.testing.assert_close(head(mean, cls), expected)


@pytest.mark.parametrize("inputs", [(), ("cls", "cls"), ("patches",)])
def test_a_head_knows_two_features(inputs: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match=r"head\.inputs must be 'cls', 'mean' or both"):
        LinearHeadConfig(inputs=inputs, dim=4, num_classes=3)  # type: ignore[arg-type]
