"""What is written is what their readers expect, and comes back bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from mae.classifier import Classifier, ClassifierConfig
from mae.config import MAEConfig
from mae.foreign import Foreigner, Hints, SpellingName, read_foreign, write_foreign
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder, config_of
from tests.mae.foreign.spelled import decoder_shapes, encoder_shapes, head_shapes, randomized

CONFIG = MAEConfig(
    image_size=(12, 12), patch_size=4, channels=1, dim=24, depth=2, heads=3, decoder_dim=16, decoder_depth=1,
    decoder_heads=2, target="raw", mean=(0.4,), std=(0.3,),
)  # fmt: skip
LABELS = ("ant", "bee", "café")
NETWORKS: dict[str, Foreigner] = {
    "mae": randomized(MaskedAutoencoder(CONFIG)),
    "encoder": randomized(PretrainedEncoder(CONFIG)),
    "cls": randomized(Classifier(ClassifierConfig(encoder=CONFIG, num_classes=3, pooling="cls"))),
    "mean": randomized(Classifier(ClassifierConfig(encoder=CONFIG, num_classes=3, pooling="mean"))),
}
ENCODER, DECODER = encoder_shapes(24, 2, 4, 9, channels=1), decoder_shapes(24, 16, 1, 4, 9, channels=1)
HEAD = head_shapes(24, 3)


@pytest.mark.parametrize(
    ("kind", "to", "name"),
    [
        ("mae", "fair", "w.pth"), ("mae", "hf", "w"),
        ("encoder", "fair", "w.pth"), ("encoder", "timm", "w.safetensors"), ("encoder", "hf", "w"),
        ("cls", "fair", "w.pth"), ("cls", "timm", "w.bin"), ("cls", "timm", "w.safetensors"), ("cls", "hf", "w"),
        ("mean", "fair", "w.pth"), ("mean", "timm", "w.pth"), ("mean", "timm", "w.safetensors"),
    ],
)  # fmt: skip
def test_there_and_back_every_bit_is_kept(kind: str, to: SpellingName, name: str, tmp_path: Path) -> None:
    """The tables of positions too, which are random here and so cannot have been made anew; and no flag is needed."""
    network = NETWORKS[kind]
    labels = LABELS if kind in ("cls", "mean") else None
    write_foreign(network, tmp_path / "new" / name, to, labels)
    found = read_foreign(tmp_path / "new" / name)
    assert type(found.network) is type(network)
    assert found.labels == labels
    assert found.notes == ()
    expected = network.state_dict()
    assert found.network.state_dict().keys() == expected.keys()
    assert all(torch.equal(tensor, expected[key]) for key, tensor in found.network.state_dict().items())
    own = config_of(found.network)
    for field in ("image_size", "heads", "mlp_ratio", "mean", "std"):
        assert getattr(own, field) == getattr(CONFIG, field)
    if kind == "mae":
        assert own == CONFIG
    assert [p.name for p in (tmp_path / "new").iterdir()] == [name]  # nothing temporary is left


def test_a_fair_file_is_what_fair_s_code_loads(tmp_path: Path) -> None:
    write_foreign(NETWORKS["mae"], tmp_path / "w.pth", "fair")
    document = torch.load(tmp_path / "w.pth", weights_only=True)
    assert {name: tuple(t.shape) for name, t in document["model"].items()} == ENCODER | DECODER
    write_foreign(NETWORKS["mean"], tmp_path / "c.pth", "fair", LABELS)
    fine_tuned = {n: s for n, s in ENCODER.items() if not n.startswith("norm.")}
    fine_tuned |= {"fc_norm.weight": (24,), "fc_norm.bias": (24,)} | HEAD
    document = torch.load(tmp_path / "c.pth", weights_only=True)
    assert {name: tuple(t.shape) for name, t in document["model"].items()} == fine_tuned


def test_a_timm_file_is_the_encoder_alone(tmp_path: Path) -> None:
    """With a mask_token, timm would take it for DINOv2's."""
    write_foreign(NETWORKS["mae"], tmp_path / "w.safetensors", "timm")
    state = load_file(tmp_path / "w.safetensors")
    assert {name: tuple(t.shape) for name, t in state.items()} == ENCODER
    found = read_foreign(tmp_path / "w.safetensors").network
    expected = NETWORKS["mae"].state_dict()
    assert isinstance(found, PretrainedEncoder)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in found.state_dict().items())
    with safe_open(tmp_path / "w.safetensors", framework="pt") as f:
        assert f.metadata()["format"] == "pt"


def test_hugging_face_s_config_says_what_their_defaults_do_not(tmp_path: Path) -> None:
    write_foreign(NETWORKS["mae"], tmp_path / "w", "hf")
    config = json.loads((tmp_path / "w" / "config.json").read_text())
    expected = {
        "model_type": "vit_mae", "architectures": ["ViTMAEForPreTraining"], "layer_norm_eps": 1e-6, "mask_ratio": 0.75,
        "norm_pix_loss": False, "image_size": 12, "patch_size": 4, "num_channels": 1, "hidden_size": 24,
        "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 96, "decoder_hidden_size": 16,
        "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2, "decoder_intermediate_size": 64,
    }  # fmt: skip
    assert {name: config[name] for name in expected} == expected
    preprocessor = json.loads((tmp_path / "w" / "preprocessor_config.json").read_text())
    assert (preprocessor["image_mean"], preprocessor["image_std"]) == ([0.4], [0.3])


def test_what_has_no_place_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="pools the cls token, this classifier the mean of the patches; write fair or"):
        write_foreign(NETWORKS["mean"], tmp_path / "w", "hf", LABELS)
    oblong = MaskedAutoencoder(MAEConfig(image_size=(8, 16), patch_size=4, dim=24, depth=1, heads=3, decoder_depth=1))
    with pytest.raises(ValueError, match=r"ViTMAE takes square images only, not \(8, 16\); write fair or timm"):
        write_foreign(oblong, tmp_path / "w", "hf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("to", "name", "message"),
    [
        ("fair", "taken.pth", "taken.pth is there already; choose another --out"),
        ("fair", "w.safetensors", "w.safetensors must end in .pth, to be written as fair"),
        ("timm", "w", "w must end in .safetensors or .pth or .bin, to be written as timm"),
        ("hf", "w.safetensors", "w.safetensors names a file, and hf is written as a folder"),
        ("hf", "taken.pth", "taken.pth is there already"),
    ],
)
def test_a_destination_that_does_not_fit(to: SpellingName, name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "taken.pth").write_bytes(b"precious")
    with pytest.raises(ValueError, match=message):
        write_foreign(NETWORKS["encoder"], tmp_path / name, to)
    assert [p.name for p in tmp_path.iterdir()] == ["taken.pth"]
    assert (tmp_path / "taken.pth").read_bytes() == b"precious"


def test_a_flag_wins_over_what_the_file_says_of_itself(tmp_path: Path) -> None:
    write_foreign(NETWORKS["mae"], tmp_path / "w.pth", "fair")
    flags = Hints(heads=6, mean=(0.1,), target="normalized")
    config = config_of(read_foreign(tmp_path / "w.pth", flags).network)
    assert (config.heads, config.decoder_heads, config.mean, config.target) == (6, 2, (0.1,), "normalized")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"model_type": "dinov2"}, "config.json is of a 'dinov2'; vit_mae or vit is needed"),
        ({"hidden_act": "relu"}, "has hidden_act 'relu'; only 'gelu' is supported"),
        ({"qkv_bias": False}, "has qkv_bias False; only True is supported"),
        ({"num_hidden_layers": 3}, "config.json has num_hidden_layers 3, the weights 2: they do not belong together"),
        ({"num_attention_heads": 5}, "model.dim 24 must be a multiple of heads 5"),
        ({"image_size": 16}, "an image of 16x16 has not the 9 patches of 4x4"),
        ({"id2label": ["ant"]}, "w: "),
    ],
)
def test_a_config_that_contradicts_the_weights(fields: dict[str, object], message: str, tmp_path: Path) -> None:
    write_foreign(NETWORKS["mae"], tmp_path / "w", "hf")
    file = tmp_path / "w" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    with pytest.raises(ValueError, match=str(tmp_path / "w")) as caught:
        read_foreign(tmp_path / "w")
    assert message in str(caught.value)


def test_their_eps_is_noted(tmp_path: Path) -> None:
    write_foreign(NETWORKS["mae"], tmp_path / "w", "hf")
    file = tmp_path / "w" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"layer_norm_eps": 1e-12}))
    assert read_foreign(tmp_path / "w").notes == ("its layer_norm_eps is 1e-12, and 1e-06 here",)
