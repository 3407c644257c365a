"""The published networks, by the exact names and shapes of their files."""

from __future__ import annotations

import pytest
import torch

from mae.classifier import Classifier
from mae.config import MAEConfig, preset
from mae.foreign.hints import Hints
from mae.foreign.names import FAIR, HUGGING_FACE, Spelling, fuse_qkv, split_qkv, translate
from mae.foreign.shapes import Foreigner, build
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder, config_of
from tests.mae.foreign.spelled import Shapes, decoder_shapes, encoder_shapes, head_shapes

BASE = encoder_shapes(768, 12, 16, 196)
BASE_DECODER = decoder_shapes(768, 512, 8, 16, 196)
LARGE, HUGE = encoder_shapes(1024, 24, 16, 196), encoder_shapes(1280, 32, 14, 256)
FINE_TUNED = {name: shape for name, shape in BASE.items() if not name.startswith("norm.")} | {
    "fc_norm.weight": (768,), "fc_norm.bias": (768,), **head_shapes(768, 1000),
}  # fmt: skip


def network_of(shapes: Shapes) -> Foreigner:
    """Built without memory for its weights."""
    with torch.device("meta"):
        spelling, known, unknown = translate(shapes)
        assert spelling is FAIR
        assert not unknown
        return build({own: torch.empty(shapes[name]) for name, own in known.items()}, Hints())


def spelled(network: Foreigner) -> Shapes:
    return {FAIR.theirs(name): tuple(tensor.shape) for name, tensor in network.state_dict().items()}


@pytest.mark.parametrize(
    ("shapes", "tensors", "config"),
    [
        (BASE, 150, preset("base")),
        (LARGE, 294, preset("large")),
        (HUGE, 390, preset("huge")),
        (encoder_shapes(192, 12, 16, 196), 150, preset("tiny")),
        (encoder_shapes(384, 12, 8, 784), 150, preset("small", patch_size=8)),
    ],
)
def test_the_published_encoders(shapes: Shapes, tensors: int, config: MAEConfig) -> None:
    """FAIR's mae_pretrain_vit_* files, and timm's vit_*_patch*_224 without a head."""
    assert len(shapes) == tensors
    network = network_of(shapes)
    assert isinstance(network, PretrainedEncoder)
    assert network.config == config
    assert spelled(network) == shapes


def test_a_full_file_is_the_paper_s_network() -> None:
    shapes = BASE | BASE_DECODER
    assert len(shapes) == 254
    network = network_of(shapes)
    assert isinstance(network, MaskedAutoencoder)
    assert network.config == MAEConfig()
    assert spelled(network) == shapes


def test_a_fine_tuned_file_pools_the_mean() -> None:
    assert len(FINE_TUNED) == 152
    network = network_of(FINE_TUNED)
    assert isinstance(network, Classifier)
    assert (network.config.pooling, network.config.num_classes) == ("mean", 1000)
    assert spelled(network) == FINE_TUNED


def test_a_classifier_with_a_norm_pools_the_cls_token() -> None:
    """FAIR's without --global_pool, and timm's default."""
    network = network_of(BASE | head_shapes(768, 10))
    assert isinstance(network, Classifier)
    assert (network.config.pooling, network.config.num_classes) == ("cls", 10)


def test_hugging_face_s_three_spellings_are_one() -> None:
    leaves = ("weight", "bias")
    ours = {
        f"encoder.blocks.11.{part}.{leaf}" for part in ("attn.q", "attn.proj", "mlp.fc2", "norm2") for leaf in leaves
    }
    ours |= {f"decoder.blocks.7.{part}.{leaf}" for part in ("attn.v", "mlp.fc1") for leaf in leaves}
    hub = {
        "vit.encoder.layer.11.attention.attention.query", "vit.encoder.layer.11.attention.output.dense",
        "vit.encoder.layer.11.output.dense", "vit.encoder.layer.11.layernorm_after",
        "decoder.decoder_layers.7.attention.attention.value", "decoder.decoder_layers.7.intermediate.dense",
    }  # fmt: skip
    modules = {
        "vit.layers.11.attention.q_proj", "vit.layers.11.attention.o_proj", "vit.layers.11.mlp.fc2",
        "vit.layers.11.layernorm_after", "decoder.decoder_layers.7.attention.v_proj",
        "decoder.decoder_layers.7.mlp.fc1",
    }  # fmt: skip
    saved = {name.replace("decoder_layers", "decoder_encoder.layer") for name in hub}
    bare = {name.removeprefix("vit.") for name in hub}
    for stems in (hub, modules, saved, bare):
        spelling, known, unknown = translate(f"{stem}.{leaf}" for stem in stems for leaf in leaves)
        assert spelling is HUGGING_FACE
        assert not unknown
        assert set(known.values()) == ours
    assert {HUGGING_FACE.theirs(name).rpartition(".")[0] for name in ours} == hub


@pytest.mark.parametrize("spelling", [FAIR, HUGGING_FACE])
def test_every_name_comes_back(spelling: Spelling) -> None:
    with torch.device("meta"):
        full = MaskedAutoencoder(MAEConfig(depth=11, decoder_depth=2)).state_dict()
    names = list(split_qkv(full) if spelling is HUGGING_FACE else full)
    found, known, unknown = translate([spelling.theirs(name) for name in names])
    assert found is spelling
    assert list(known.values()) == names
    assert not unknown


def test_q_k_and_v_are_the_rows_of_one_matrix_in_this_order() -> None:
    rows = {f"encoder.blocks.0.attn.{letter}.weight": torch.full((2, 2), n) for n, letter in ((3.0, "v"), (1.0, "q"))}
    rows["encoder.blocks.0.attn.k.weight"] = torch.full((2, 2), 2.0)
    fused = fuse_qkv(rows)
    assert list(fused) == ["encoder.blocks.0.attn.qkv.weight"]
    assert fused["encoder.blocks.0.attn.qkv.weight"][:, 0].tolist() == [1, 1, 2, 2, 3, 3]
    split = split_qkv(fused)
    assert all(torch.equal(split[name], tensor) for name, tensor in rows.items())


def test_the_mlp_s_width_is_met_exactly() -> None:
    """int(dim * ratio) must not fall one short of it: 57 / 100 does, by a rounding of the last bit."""
    for dim, hidden in ((100, 57), (48, 100), (200, 58), (768, 3072)):
        shapes = encoder_shapes(dim, 1, 4, 4)
        shapes |= {"blocks.0.mlp.fc1.weight": (hidden, dim), "blocks.0.mlp.fc1.bias": (hidden,)}
        with torch.device("meta"):
            network = build({f"encoder.{k}": torch.empty(v) for k, v in shapes.items()}, Hints(heads=4))
        assert config_of(network).mlp_ratio == pytest.approx(hidden / dim)
        assert network.state_dict()["encoder.blocks.0.mlp.fc1.weight"].shape == (hidden, dim)
