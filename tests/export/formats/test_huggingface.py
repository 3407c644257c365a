"""A folder for transformers: opened by its classes, its card's lines run, and the numbers are ours."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoImageProcessor, ViTForImageClassification, ViTMAEForPreTraining, ViTMAEModel
from transformers.utils import logging

from bundle.preprocess import preprocess_image
from export.errors import ExportError
from export.formats.huggingface import write_huggingface
from export.formats.source import Source, read_source
from mae.classifier import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig
from mae.config import MAEConfig
from mae.foreign import write_foreign
from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder, Normalize, patchify
from mae.weights import load_mae
from tests.conftest import LABELS, TinyRuns, write_run

logging.disable_progress_bar()
TOLERANCE = 1e-5


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    """216 x 144 pixels, of which both sides' processors cut the same square: elsewhere half a pixel may lie between."""
    small = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(small).resize((216, 144), Image.Resampling.BICUBIC).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


def pixels(source: Source, photo: Path) -> Tensor:
    """f32 [1, C, H, W], as the service prepares an image and the graphs normalise it."""
    image = preprocess_image(Image.open(photo), source.preprocess)
    return Normalize(source.config.mean, source.config.std)(torch.from_numpy(image)[None].permute(0, 3, 1, 2))  # type: ignore[no-any-return]


def load(kind: Any, folder: Path) -> Any:
    """Their class, which must find every tensor that it has and no other."""
    network, found = kind.from_pretrained(folder, output_loading_info=True)
    assert not any(found.values()), found
    return network.eval()


@torch.inference_mode()
def test_a_run_in_their_class(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    source = read_source(tiny_runs.pretrained, None)
    said = write_huggingface(source, tmp_path / "hub")
    assert said.endswith("hub: a Hugging Face folder for transformers.ViTMAEForPreTraining.from_pretrained")
    theirs = load(ViTMAEForPreTraining, tmp_path / "hub")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    noise = torch.rand(2, 16, generator=torch.Generator().manual_seed(1))
    ours = load_mae(tiny_runs.pretrained)(images, random_masking(noise, num_keep(16, 0.75)))
    reference = theirs(images, noise=noise)
    torch.testing.assert_close(ours.pred, reference.logits, rtol=0, atol=TOLERANCE)
    torch.testing.assert_close(ours.loss, reference.loss, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_the_card_s_lines_give_the_service_s_embedding(
    tiny_runs: TinyRuns, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From a photo that is not square, through their image processor and their encoder."""
    source = read_source(tiny_runs.pretrained, None)
    write_huggingface(source, tmp_path / "hub")
    made = run_card(tmp_path / "hub", photo, monkeypatch)
    ours = load_mae(tiny_runs.pretrained)
    tokens = ours.encoder(patchify(pixels(source, photo), 8))
    torch.testing.assert_close(made["pixels"]["pixel_values"], pixels(source, photo), rtol=0, atol=1.01 / 255 / 0.224)
    expected = tokens[:, 1:].mean(dim=1)
    assert torch.nn.functional.cosine_similarity(made["embedding"], expected).item() > 0.9999


@torch.inference_mode()
def test_the_same_pixels_give_the_same_tokens(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """Beyond the processor's rounding: their encoder, seeing all patches in its own order."""
    write_huggingface(read_source(tiny_runs.pretrained, None), tmp_path / "hub")
    theirs = ViTMAEModel.from_pretrained(tmp_path / "hub", mask_ratio=0.0).eval()
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    tokens = load_mae(tiny_runs.pretrained).encoder(patchify(images, 8))
    found = theirs(images)
    torch.testing.assert_close(found.last_hidden_state[:, 0], tokens[:, 0], rtol=0, atol=TOLERANCE)
    restored = found.last_hidden_state[:, 1:].gather(1, found.ids_restore[..., None].expand(-1, -1, 32))
    torch.testing.assert_close(restored, tokens[:, 1:], rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_an_encoder_alone(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    write_foreign(load_mae(tiny_runs.pretrained), tmp_path / "encoder.safetensors", "timm")
    said = write_huggingface(read_source(tmp_path / "encoder.safetensors", None), tmp_path / "hub")
    assert said.endswith("transformers.ViTMAEModel.from_pretrained")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    theirs = load(ViTMAEModel, tmp_path / "hub")
    theirs.config.mask_ratio = 0.0
    expected = load_mae(tiny_runs.pretrained).encoder(patchify(images, 8))[:, 0]
    torch.testing.assert_close(theirs(images).last_hidden_state[:, 0], expected, rtol=0, atol=TOLERANCE)


@torch.inference_mode()
def test_a_classifier_that_pools_the_cls_token(
    tiny_runs: TinyRuns, tmp_path: Path, photo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(3)
    config = load_mae(tiny_runs.pretrained).config
    network = Classifier(ClassifierConfig(encoder=config, num_classes=len(LABELS), pooling="cls")).eval()
    torch.nn.init.normal_(network.head.weight)
    run = write_run(tmp_path / "tuned", "finetune", network, {"val_top1": 0.75})
    source = read_source(tiny_runs.pretrained, run)
    write_huggingface(source, tmp_path / "hub")
    made = run_card(tmp_path / "hub", photo, monkeypatch)
    assert isinstance(made["model"], ViTForImageClassification)
    expected = network(made["pixels"]["pixel_values"])
    torch.testing.assert_close(made["logits"], expected, rtol=0, atol=TOLERANCE)
    assert made["label"] == LABELS[int(network(pixels(source, photo)).argmax())]
    assert "val_top1: 0.75" in (tmp_path / "hub" / "README.md").read_text()


@torch.inference_mode()
def test_a_probe_of_the_cls_token_is_a_classifier(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    torch.manual_seed(4)
    head = LinearHead(LinearHeadConfig(inputs=("cls",), dim=32, num_classes=len(LABELS)))
    run = write_run(tmp_path / "probe", "probe", head, {})
    write_huggingface(read_source(tiny_runs.pretrained, run), tmp_path / "hub")
    images = torch.randn(2, 3, 32, 32)
    cls = load_mae(tiny_runs.pretrained).encoder(patchify(images, 8))[:, 0]
    theirs = load(ViTForImageClassification, tmp_path / "hub")
    torch.testing.assert_close(theirs(images).logits, head(cls), rtol=0, atol=1e-4)


def test_heads_and_networks_that_they_have_no_class_for(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="probe is a linear head on mean, for which there is no class"):
        read_source(tiny_runs.pretrained, tiny_runs.probe)
    with pytest.raises(ExportError, match="pools the cls token, this classifier the mean of the patches; write"):
        write_huggingface(read_source(tiny_runs.pretrained, tiny_runs.finetuned), tmp_path / "hub")
    with pytest.raises(ExportError, match=r"takes square images only, not \(24, 32\); write"):
        write_huggingface(read_source(oblong(tmp_path / "oblong"), None), tmp_path / "hub")
    assert [path.name for path in tmp_path.iterdir()] == ["oblong"]


@torch.inference_mode()
def test_one_channel(tmp_path: Path) -> None:
    network = MaskedAutoencoder(replace(config(), channels=1, mean=(0.4,), std=(0.3,))).eval()
    run = write_run(tmp_path / "grey", "pretrain", network, {})
    write_huggingface(read_source(run, None), tmp_path / "hub")
    theirs = load(ViTMAEForPreTraining, tmp_path / "hub")
    images = torch.randn(2, 1, 32, 32)
    noise = torch.rand(2, 16)
    expected = network(images, random_masking(noise, num_keep(16, 0.75))).pred
    torch.testing.assert_close(theirs(images, noise=noise).logits, expected, rtol=0, atol=TOLERANCE)
    processed = AutoImageProcessor.from_pretrained(tmp_path / "hub")(Image.new("L", (50, 40), 102), return_tensors="pt")
    torch.testing.assert_close(
        processed["pixel_values"], torch.zeros(1, 1, 32, 32), rtol=0, atol=1e-6
    )  # 102 / 255 = .4


def test_the_card_says_where_it_comes_from(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    source = read_source(tiny_runs.pretrained, None)
    write_huggingface(source, tmp_path / "hub")
    card = (tmp_path / "hub" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\npipeline_tag: image-feature-extraction\ntags:\n")
    for part in ("on noise, 7 images, 2 epochs, commit abc123", "reconstruction_loss: 0.5", source.weights_sha256):
        assert part in card


def test_an_oblong_classifier_is_scaled_whole(tmp_path: Path) -> None:
    """transformers has no processor for another margin at the sides than above; the network's size it has."""
    run = oblong(tmp_path / "oblong")
    network = Classifier(ClassifierConfig(encoder=load_mae(run).config, num_classes=5, pooling="cls"))
    tuned = write_run(tmp_path / "tuned", "finetune", network, {})
    write_huggingface(read_source(run, tuned), tmp_path / "hub")
    processor = AutoImageProcessor.from_pretrained(tmp_path / "hub")
    assert processor(Image.new("RGB", (213, 150)), return_tensors="pt")["pixel_values"].shape == (1, 3, 24, 32)


def config() -> MAEConfig:
    return MAEConfig(
        image_size=(32, 32), patch_size=8, dim=32, depth=1, heads=2, decoder_dim=32, decoder_depth=1, decoder_heads=2
    )


def oblong(folder: Path) -> Path:
    return write_run(folder, "pretrain", MaskedAutoencoder(replace(config(), image_size=(24, 32))), {})


def run_card(folder: Path, photo: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What the names in the card's Python block hold after it ran, beside a photo.jpg."""
    (block,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    shutil.copy(photo, folder.parent / "photo.jpg")  # Pillow goes by the content
    monkeypatch.chdir(folder.parent)
    made: dict[str, Any] = {}
    exec(block, made)  # noqa: S102 - our own lines
    return made
