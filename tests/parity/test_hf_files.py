"""Files that Hugging Face's classes load, and files that they write: the same numbers on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import ViTConfig, ViTForImageClassification, ViTMAEConfig, ViTMAEForPreTraining, ViTMAEModel, ViTModel
from transformers.utils import logging

from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig, Target
from mae.foreign import read_foreign, write_foreign
from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder, patchify
from mae.pretrained import PretrainedEncoder
from mae.resize import resized
from tests.mae.foreign.spelled import randomized

logging.disable_progress_bar()
TOLERANCE = 1e-5
LABELS = ("ant", "bee", "cat")


def config(target: Target = "normalized", image_size: tuple[int, int] = (32, 32)) -> MAEConfig:
    return MAEConfig(
        image_size=image_size, patch_size=8, dim=48, depth=3, heads=4, mlp_ratio=3.0, decoder_dim=32, decoder_depth=2,
        decoder_heads=2, target=target,
    )  # fmt: skip


def images(size: tuple[int, int] = (32, 32)) -> Tensor:
    return torch.randn(3, 3, *size, generator=torch.Generator().manual_seed(2))


def load(kind: Any, folder: Path) -> Any:
    """Their class, which must find every tensor that it has and no other."""
    network, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return network.eval()


def assert_close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def assert_same_mae(ours: MaskedAutoencoder, theirs: Any) -> None:
    noise = torch.rand(3, ours.config.num_patches, generator=torch.Generator().manual_seed(3))
    mine = ours(images(), random_masking(noise, num_keep(ours.config.num_patches, 0.75)))
    reference = theirs(images(), noise=noise)
    assert_close(mine.latent, theirs.vit(images(), noise=noise).last_hidden_state)
    assert_close(mine.pred, reference.logits)
    assert_close(mine.loss, reference.loss)


@pytest.mark.parametrize("target", ["normalized", "raw"])
def test_a_masked_autoencoder_of_ours_in_their_class(target: Target, tmp_path: Path) -> None:
    ours = randomized(MaskedAutoencoder(config(target)))
    write_foreign(ours, tmp_path / "hub", "hf")
    theirs = load(ViTMAEForPreTraining, tmp_path / "hub")
    assert theirs.config.norm_pix_loss == (target == "normalized")
    assert_same_mae(ours, theirs)


@pytest.mark.parametrize("norm_pix_loss", [True, False])
def test_what_their_save_pretrained_writes_in_ours(norm_pix_loss: bool, tmp_path: Path) -> None:
    """And what it writes of weights of ours is, read again, ours bit for bit."""
    theirs = ViTMAEForPreTraining(
        ViTMAEConfig(
            hidden_size=48, num_hidden_layers=3, num_attention_heads=4, intermediate_size=144, image_size=32,
            patch_size=8, decoder_hidden_size=32, decoder_num_hidden_layers=2, decoder_num_attention_heads=2,
            decoder_intermediate_size=96, norm_pix_loss=norm_pix_loss, layer_norm_eps=1e-6,
        )
    )  # fmt: skip
    randomized(theirs)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = read_foreign(tmp_path / "theirs").network
    assert isinstance(ours, MaskedAutoencoder)
    assert ours.config == config("normalized" if norm_pix_loss else "raw")
    assert_same_mae(ours, theirs)
    write_foreign(ours, tmp_path / "ours", "hf")
    load(ViTMAEForPreTraining, tmp_path / "ours").save_pretrained(tmp_path / "again")
    again = read_foreign(tmp_path / "again").network.state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in ours.state_dict().items())


def test_their_modules_own_names_are_read(tmp_path: Path) -> None:
    """As torch.save(model.state_dict()) leaves them, beside the config that says the heads."""
    ours = randomized(MaskedAutoencoder(config()))
    write_foreign(ours, tmp_path / "hub", "hf")
    state = load(ViTMAEForPreTraining, tmp_path / "hub").state_dict()
    assert "vit.layers.2.attention.o_proj.weight" in state
    save_file(state, tmp_path / "hub" / "model.safetensors")
    found = read_foreign(tmp_path / "hub").network.state_dict()
    assert all(torch.equal(tensor, found[name]) for name, tensor in ours.state_dict().items())


@torch.inference_mode()
def test_an_encoder_of_ours_in_their_class_and_back(tmp_path: Path) -> None:
    ours = randomized(PretrainedEncoder(config()))
    write_foreign(ours, tmp_path / "hub", "hf")
    theirs = load(ViTMAEModel, tmp_path / "hub")
    noise = torch.rand(3, 16, generator=torch.Generator().manual_seed(3))
    masking = random_masking(noise, num_keep(16, 0.75))
    latent = ours(patchify(images(), 8), masking.ids_keep)
    assert_close(latent, theirs(images(), noise=noise).last_hidden_state)
    theirs.save_pretrained(tmp_path / "again")
    again = read_foreign(tmp_path / "again").network
    assert isinstance(again, PretrainedEncoder)
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in ours.state_dict().items())


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
@torch.inference_mode()
def test_a_classifier_of_ours_in_their_class_and_back(size: tuple[int, int], tmp_path: Path) -> None:
    ours = randomized(Classifier(ClassifierConfig(encoder=config(image_size=size), num_classes=3, pooling="cls")))
    write_foreign(ours, tmp_path / "hub", "hf", LABELS)
    theirs = load(ViTForImageClassification, tmp_path / "hub")
    assert_close(ours(images(size)), theirs(images(size)).logits)
    assert theirs.config.id2label == dict(enumerate(LABELS))
    theirs.save_pretrained(tmp_path / "again")
    again = read_foreign(tmp_path / "again")
    assert again.labels == LABELS
    assert all(torch.equal(tensor, again.network.state_dict()[name]) for name, tensor in ours.state_dict().items())


def test_a_vit_without_a_head_leaves_its_pooler_behind(tmp_path: Path) -> None:
    theirs = ViTModel(
        ViTConfig(
            hidden_size=48,
            num_hidden_layers=1,
            num_attention_heads=4,
            intermediate_size=96,
            image_size=32,
            patch_size=8,
        )
    )
    randomized(theirs)
    theirs.save_pretrained(tmp_path / "hub")
    found = read_foreign(tmp_path / "hub")
    assert isinstance(found.network, PretrainedEncoder)
    assert "its pooler is left out" in found.notes
    with torch.inference_mode():
        expected = theirs(images()).last_hidden_state
        torch.testing.assert_close(found.network(patchify(images(), 8)), expected, rtol=0, atol=1e-4)  # another eps


@torch.inference_mode()
def test_positions_at_another_size_are_theirs(tmp_path: Path) -> None:
    """Their encoder interpolates its table in 2-D when asked to; ours holds what that gives."""
    ours = randomized(PretrainedEncoder(config()))
    write_foreign(ours, tmp_path / "hub", "hf")
    theirs = load(ViTMAEModel, tmp_path / "hub")
    larger = resized(ours, image_size=(48, 64))
    expected = theirs.embeddings.interpolate_pos_encoding(torch.zeros(1, 1 + 48, 48), 48, 64)
    assert_close(larger.encoder.pos_embed, expected)


def test_a_config_of_theirs_without_our_defaults_is_theirs(tmp_path: Path) -> None:
    """norm_pix_loss is off where config.json does not name it, as in the published vit-mae-base."""
    write_foreign(randomized(MaskedAutoencoder(config())), tmp_path / "hub", "hf")
    file = tmp_path / "hub" / "config.json"
    fields = json.loads(file.read_text())
    del fields["norm_pix_loss"]
    file.write_text(json.dumps(fields))
    network = read_foreign(tmp_path / "hub").network
    assert isinstance(network, MaskedAutoencoder)
    assert network.config.target == "raw"
    assert load(ViTMAEForPreTraining, tmp_path / "hub").config.norm_pix_loss is False
