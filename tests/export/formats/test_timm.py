"""A folder for timm, held against tables of what timm's module tree is called and shaped like, and read back by us.

timm itself is not among the tests' dependencies: it needs torchvision. `encoder_shapes` spells its VisionTransformer
out, and ARGUMENTS what its constructor takes (timm/models/vision_transformer.py).
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from bundle.manifest import Preprocess
from export.formats.source import Source, read_source
from export.formats.timm import crop_share, model_args, write_timm
from mae.classifier import Classifier, ClassifierConfig
from mae.config import PRESETS, MAEConfig, PresetName, preset
from mae.foreign import read_foreign
from mae.model import MaskedAutoencoder, patchify
from mae.pretrained import PretrainedEncoder
from mae.weights import load_mae, load_model
from tests.conftest import LABELS, TinyRuns, write_run
from tests.mae.foreign.spelled import encoder_shapes, head_shapes

ARGUMENTS = {"img_size", "patch_size", "in_chans", "global_pool", "embed_dim", "depth", "num_heads", "mlp_ratio"}
FC_NORM = {"fc_norm.weight": (32,), "fc_norm.bias": (32,)}


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in load_file(folder / "model.safetensors").items()}


def read_json(file: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(file.read_text())
    return document


@torch.inference_mode()
def test_a_run_s_encoder(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    said = write_timm(read_source(tiny_runs.pretrained, None), tmp_path / "timm")
    assert said.startswith(f"{tmp_path / 'timm'}: a timm folder, vit_base_patch16_224, for timm.create_model(")
    assert shapes(tmp_path / "timm") == encoder_shapes(32, 2, 8, 16)
    found = read_foreign(tmp_path / "timm").network
    assert isinstance(found, PretrainedEncoder)
    images = torch.randn(2, 3, 32, 32)
    expected = load_mae(tiny_runs.pretrained).encoder(patchify(images, 8))
    torch.testing.assert_close(found(patchify(images, 8)), expected, rtol=0, atol=0)


def test_the_config_says_how_to_build_it_and_what_it_sees(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    write_timm(read_source(tiny_runs.pretrained, None), tmp_path / "timm")
    config = read_json(tmp_path / "timm" / "config.json")
    assert config["architecture"] == "vit_base_patch16_224"
    assert config["model_args"] == {
        "img_size": [32, 32], "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "global_pool": "token",
    }  # fmt: skip
    assert set(config["model_args"]) <= ARGUMENTS
    assert (config["num_classes"], config["num_features"]) == (0, 32)
    cfg = config["pretrained_cfg"]
    assert (cfg["input_size"], cfg["fixed_input_size"], cfg["num_classes"]) == ([3, 32, 32], True, 0)
    assert (cfg["mean"], cfg["std"]) == ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    assert math.floor(32 / cfg["crop_pct"]) == 36  # timm's scale_size, to which the run's images were packed
    assert (cfg["first_conv"], cfg["classifier"]) == ("patch_embed.proj", "head")


@torch.inference_mode()
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_a_classifier(tiny_runs: TinyRuns, tmp_path: Path, pooling: Any) -> None:
    """timm's global_pool `avg` moves the last norm behind the pooling, which is what `mean` is here."""
    run = tiny_runs.finetuned
    if pooling == "cls":
        config = load_mae(tiny_runs.pretrained).config
        network = Classifier(ClassifierConfig(encoder=config, num_classes=len(LABELS), pooling="cls"))
        run = write_run(tmp_path / "tuned", "finetune", network, {})
    write_timm(read_source(tiny_runs.pretrained, run), tmp_path / "timm")
    encoder = encoder_shapes(32, 2, 8, 16)
    if pooling == "mean":
        encoder = {name: shape for name, shape in encoder.items() if not name.startswith("norm.")} | FC_NORM
    assert shapes(tmp_path / "timm") == encoder | head_shapes(32, 5)
    document = read_json(tmp_path / "timm" / "config.json")
    pool = {"mean": "avg", "cls": "token"}[pooling]
    assert (document["global_pool"], document["model_args"]["global_pool"]) == (pool, pool)
    assert (document["num_classes"], document["pretrained_cfg"]["num_classes"]) == (5, 5)
    assert document["label_names"] == list(LABELS)
    found = read_foreign(tmp_path / "timm")
    original = load_model(run)
    images = torch.randn(2, 3, 32, 32)
    torch.testing.assert_close(found.network(images), original(images), rtol=0, atol=0)
    assert found.labels == LABELS


@pytest.mark.parametrize(
    ("name", "architecture", "rest"),
    [
        ("tiny", "vit_tiny_patch16_224", {}),
        ("small", "vit_small_patch16_224", {}),
        ("base", "vit_base_patch16_224", {}),
        ("large", "vit_large_patch16_224", {}),
        ("huge", "vit_huge_patch14_224", {}),
    ],
)
def test_a_size_that_timm_has_needs_no_arguments(name: PresetName, architecture: str, rest: dict[str, Any]) -> None:
    assert model_args(of(preset(name))) == (architecture, rest)
    assert set(PRESETS) == {"tiny", "small", "base", "large", "huge"}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"image_size": (224, 160)}, ("vit_base_patch16_224", {"img_size": [224, 160]})),
        ({"channels": 4, "mean": (0.5,) * 4, "std": (0.5,) * 4}, ("vit_base_patch16_224", {"in_chans": 4})),
        ({"mlp_ratio": 3.0, "patch_size": 32}, ("vit_base_patch16_224", {"patch_size": 32, "mlp_ratio": 3.0})),
        ({"dim": 192, "depth": 6, "heads": 3}, ("vit_tiny_patch16_224", {"depth": 6})),
        ({"dim": 48, "depth": 12, "heads": 12}, ("vit_base_patch16_224", {"embed_dim": 48})),
    ],
)
def test_another_size_is_the_nearest_with_what_differs(change: dict[str, Any], expected: tuple[str, Any]) -> None:
    assert model_args(of(replace(MAEConfig(), **change))) == expected


@pytest.mark.parametrize(("crop", "resize"), [(64, 72), (224, 256), (224, 224), (96, 110), (32, 36), (30, 49)])
def test_timm_scales_to_the_size_before_the_crop(crop: int, resize: int) -> None:
    spec = Preprocess(resize=(resize, resize), crop=(crop, crop), mean=(0.5,), std=(0.5,))
    assert math.floor(crop / crop_share(spec)) == resize


def test_the_card_s_lines_are_python(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    write_timm(read_source(tiny_runs.pretrained, tiny_runs.finetuned), tmp_path / "timm")
    card = (tmp_path / "timm" / "README.md").read_text()
    block = card.split("```python\n")[1].split("```")[0]
    compile(block, "README.md", "exec")
    assert 'timm.create_model("local-dir:timm", pretrained=True)' in block
    assert "logits = model(pixels)" in block
    assert card.startswith("---\nlibrary_name: timm\npipeline_tag: image-classification\n")


def of(config: MAEConfig) -> Source:
    """Only the shapes are looked at, and a meta tensor has no other content."""
    with torch.device("meta"):
        network = PretrainedEncoder.__new__(PretrainedEncoder)
        torch.nn.Module.__init__(network)
        network.config = config
    return Source("x", network, None, (), "")


def test_one_channel_and_an_oblong(tmp_path: Path) -> None:
    config = MAEConfig(
        image_size=(24, 32), patch_size=8, channels=1, mean=(0.4,), std=(0.3,), dim=32, depth=1, heads=2,
        decoder_dim=32, decoder_depth=1, decoder_heads=2,
    )  # fmt: skip
    run = write_run(tmp_path / "run", "pretrain", MaskedAutoencoder(config), {})
    write_timm(read_source(run, None), tmp_path / "timm")
    assert shapes(tmp_path / "timm") == encoder_shapes(32, 1, 8, 12, channels=1)
    arguments = read_json(tmp_path / "timm" / "config.json")["model_args"]
    assert (arguments["img_size"], arguments["in_chans"]) == ([24, 32], 1)
    found = read_foreign(tmp_path / "timm").network
    assert isinstance(found, PretrainedEncoder)
    assert (found.config.image_size, found.config.heads, found.config.mean) == ((24, 32), 2, (0.4,))
