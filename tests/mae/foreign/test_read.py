"""Reading files that someone else wrote: what is in them arrives, and what is not weights is refused and never run."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from mae.classifier import Classifier
from mae.foreign import Hints, is_foreign, read_foreign, weights_file
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder, config_of
from mae.weights import save_model
from tests.mae.foreign.spelled import decoder_shapes, encoder_shapes, filled, head_shapes

HEADS = Hints(heads=3, decoder_heads=2)
ENCODER = filled(encoder_shapes(24, 2, 4, 9))
FULL = ENCODER | filled(decoder_shapes(24, 16, 1, 4, 9))


def saved(folder: Path, document: Any, name: str = "weights.pth") -> Path:
    torch.save(document, folder / name)
    return folder / name


def same_encoder(network: Any, state: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, state[name]) for name, tensor in network.encoder.state_dict().items())


@pytest.mark.parametrize("name", ["weights.pth", "model.bin", "model.safetensors", "no-suffix"])
def test_a_bare_state_dict_of_an_encoder(name: str, tmp_path: Path) -> None:
    if name.endswith(".safetensors"):
        save_file(ENCODER, tmp_path / name)
    else:
        saved(tmp_path, ENCODER, name)
    found = read_foreign(tmp_path / name, HEADS)
    assert isinstance(found.network, PretrainedEncoder)
    assert same_encoder(found.network, ENCODER)
    assert not found.network.training
    assert found.labels is None
    config = found.network.config
    assert (config.image_size, config.patch_size, config.channels) == ((12, 12), 4, 3)
    assert (config.dim, config.depth, config.heads, config.mlp_ratio) == (24, 2, 3, 4.0)


def test_a_full_checkpoint_without_its_optimizer(tmp_path: Path) -> None:
    """As FAIR's main_pretrain.py saves it, its command line a Namespace."""
    optimizer = {"state": {0: {"step": torch.tensor(3.0)}}, "param_groups": [{"lr": 1e-3, "params": [0]}]}
    arguments = argparse.Namespace(norm_pix_loss=True, blr=1.5e-4, output_dir="out")
    document = {"model": FULL, "optimizer": optimizer, "epoch": 799, "scaler": {"scale": 1.0}, "args": arguments}
    network = read_foreign(saved(tmp_path, document), HEADS).network
    assert isinstance(network, MaskedAutoencoder)
    assert same_encoder(network, FULL)
    assert torch.equal(network.decoder.pos_embed, FULL["decoder_pos_embed"])
    assert torch.equal(network.state_dict()["decoder.blocks.0.mlp.fc1.weight"], FULL["decoder_blocks.0.mlp.fc1.weight"])
    assert (network.config.decoder_dim, network.config.decoder_depth, network.config.decoder_heads) == (16, 1, 2)
    assert network.config.target == "normalized"


@pytest.mark.parametrize(
    ("name", "flags", "target"),
    [
        ("mae_visualize_vit_base.pth", HEADS, "raw"),
        ("mae_pretrain_vit_base_full.pth", HEADS, "normalized"),
        ("mae_visualize_vit_base.pth", Hints(heads=3, decoder_heads=2, target="normalized"), "normalized"),
        ("weights.pth", Hints(heads=3, decoder_heads=2, target="raw"), "raw"),
    ],
)
def test_the_target_follows_the_name_and_a_flag_wins(name: str, flags: Hints, target: str, tmp_path: Path) -> None:
    network = read_foreign(saved(tmp_path, {"model": FULL}, name), flags).network
    assert config_of(network).target == target


def test_prefixes_of_wrappers_are_taken_off(tmp_path: Path) -> None:
    for prefix in ("module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."):
        state = {prefix + name: tensor for name, tensor in ENCODER.items()}
        assert same_encoder(read_foreign(saved(tmp_path, {"state_dict": state}), HEADS).network, ENCODER)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(dtype: torch.dtype, tmp_path: Path) -> None:
    state = {name: tensor.to(dtype) for name, tensor in ENCODER.items()}
    network = read_foreign(saved(tmp_path, state), HEADS).network
    assert {tensor.dtype for tensor in network.state_dict().values()} == {torch.float32}
    assert same_encoder(network, {name: tensor.float() for name, tensor in state.items()})


def test_a_classifier_is_numbered_where_nobody_named_its_classes(tmp_path: Path) -> None:
    state = ENCODER | filled(head_shapes(24, 3))
    found = read_foreign(saved(tmp_path, state), HEADS)
    assert isinstance(found.network, Classifier)
    assert torch.equal(found.network.head.weight, state["head.weight"])
    assert found.labels == ("0", "1", "2")


def test_a_rectangle_must_be_said(tmp_path: Path) -> None:
    path = saved(tmp_path, filled(encoder_shapes(24, 1, 4, 8)))
    with pytest.raises(
        ValueError, match="8 positions are no square grid; say what it was with --source-image-size H W"
    ):
        read_foreign(path, HEADS)
    network = read_foreign(path, Hints(heads=3, image_size=(8, 16))).network
    assert config_of(network).grid == (2, 4)
    for size in ((8, 12), (10, 16), (4, 64)):
        with pytest.raises(ValueError, match=f"an image of {size[0]}x{size[1]} has not the 8 patches of 4x4"):
            read_foreign(path, Hints(heads=3, image_size=size))


def test_other_channels_than_three_want_their_scale(tmp_path: Path) -> None:
    path = saved(tmp_path, filled(encoder_shapes(24, 1, 4, 9, channels=1)))
    with pytest.raises(ValueError, match="scale of 1 channels is not known; say --mean and --std"):
        read_foreign(path, HEADS)
    config = config_of(read_foreign(path, Hints(heads=3, mean=(0.5,), std=(0.25,))).network)
    assert (config.channels, config.mean, config.std) == (1, (0.5,), (0.25,))


def test_heads_that_no_table_knows_name_their_flag(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="heads of an encoder 24 wide is not known; say it with --heads"):
        read_foreign(saved(tmp_path, FULL))
    with pytest.raises(ValueError, match="heads of a decoder 16 wide is not known; say it with --decoder-heads"):
        read_foreign(saved(tmp_path, FULL), Hints(heads=3))


def test_timm_s_folder_says_the_pixels_scale(tmp_path: Path) -> None:
    save_file(ENCODER, tmp_path / "model.safetensors")
    pretrained = {"mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "input_size": [3, 12, 12]}
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "vit", "pretrained_cfg": pretrained}))
    config = config_of(read_foreign(tmp_path, HEADS).network)
    assert (config.mean, config.std) == ((0.1, 0.2, 0.3), (0.5, 0.5, 0.5))
    assert read_foreign(tmp_path / "model.safetensors", HEADS).network.state_dict().keys()  # the file alone does too


class Malice:
    """Unpickled by anyone who trusts it, makes a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (f"touch '{self.proof}'",)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_malicious_file_is_refused_and_not_run(legacy: bool, tmp_path: Path) -> None:
    proof, path = tmp_path / "proof", tmp_path / "weights.pth"
    document = {"model": ENCODER, "args": Malice(proof)}
    torch.save(document, path, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(
        ValueError, match=r"weights.pth holds code \(posix.system\) beside its tensors, which is not run"
    ):
        read_foreign(path, HEADS)
    assert not proof.exists()
    torch.load(path, weights_only=False)
    assert proof.exists()  # it would have been, so the refusal is what kept it away


def without(*names: str) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in ENCODER.items() if name not in names}


BAD: dict[str, tuple[Any, str]] = {
    "empty": ({}, "holds no tensors"),
    "a tensor": (torch.zeros(2), "holds a Tensor, not tensors by name"),
    "a list": ([1], "holds a list, not tensors by name"),
    "a number among them": ({**ENCODER, "epoch": 3}, "holds something of type int under 'epoch'"),
    "integers": ({**ENCODER, "norm.bias": torch.zeros(24).long()}, "holds torch.int64 values under 'norm.bias'"),
    "a name too many": (
        {**ENCODER, "blocks.0.ls1.gamma": torch.zeros(24)},
        "most like FAIR's and timm's; unknown: blocks.0.ls1.gamma",
    ),
    "four names too many": (
        {**ENCODER, **{f"x.{i}": torch.zeros(1) for i in range(4)}},
        "unknown: x.0, x.1, x.2 and 1 more",
    ),
    "a name too few": (without("blocks.1.attn.qkv.bias"), "timm's; missing: blocks.1.attn.qkv.bias"),
    "no positions": (without("pos_embed"), "there is no encoder.pos_embed, without which"),
    "no blocks": ({n: t for n, t in ENCODER.items() if "blocks" not in n}, "there are no blocks of the encoder"),
    "another network": ({"conv1.weight": torch.zeros(64, 3, 7, 7)}, "none of its names is FAIR's, timm's or Hugging"),
    "a checkpoint of ours": (
        {"encoder.blocks.0.norm1.weight": torch.zeros(24), "encoder.cls_token": torch.zeros(1, 1, 24)},
        "it has the names of a run's own checkpoint; give the run's folder",
    ),
    "a wrong shape": (
        {**ENCODER, "blocks.1.mlp.fc2.weight": torch.zeros(24, 95)},
        "blocks.1.mlp.fc2.weight has the shape [24, 95], and [24, 96] goes with the other weights",
    ),
    "oblong patches": (
        {**ENCODER, "patch_embed.proj.weight": torch.zeros(24, 3, 4, 2)},
        "has the shape [24, 3, 4, 2], which is not that of a ViT with square patches",
    ),
    "a norm of the mean and no head": (
        {**without("norm.weight", "norm.bias"), "fc_norm.weight": torch.zeros(24), "fc_norm.bias": torch.zeros(24)},
        "there is an fc_norm but no head",
    ),
    "a decoder of another ratio": (
        {**FULL, "decoder_blocks.0.mlp.fc1.weight": torch.zeros(32, 16)},
        "the encoder's and the decoder's MLPs widen by different factors",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(BAD))
def test_what_does_not_fit_is_one_line_that_names_it(case: str, tmp_path: Path) -> None:
    document, message = BAD[case]
    path = saved(tmp_path, document)
    with pytest.raises(ValueError, match=str(path)) as caught:
        read_foreign(path, HEADS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("part", [0.0, 0.3, 0.9, 0.999])
def test_half_a_file(suffix: str, part: float, tmp_path: Path) -> None:
    path = tmp_path / f"weights{suffix}"
    if suffix == ".pth":
        torch.save({"model": ENCODER}, path)
    else:
        save_file(ENCODER, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(part * len(data))])
    with pytest.raises(ValueError, match=r"damaged"):
        read_foreign(path, HEADS)


@pytest.mark.parametrize("content", [b"these are words, not weights\n", b"{}", b"\x89PNG\r\n\x1a\n0000000"])
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "weights.pth").write_bytes(content)
    with pytest.raises(ValueError, match=r"weights.pth is neither a safetensors file nor one of torch.save"):
        read_foreign(tmp_path / "weights.pth", HEADS)


def test_what_is_foreign_is_told_by_names(tmp_path: Path) -> None:
    save_model(MaskedAutoencoder(config_of(read_foreign(saved(tmp_path, FULL), HEADS).network)), tmp_path / "run")
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "config.json").write_text("{}")
    assert is_foreign(tmp_path / "weights.pth")
    assert is_foreign(tmp_path / "hub")
    assert not is_foreign(tmp_path / "run")
    assert not is_foreign(tmp_path)
    assert not is_foreign(tmp_path / "nothing")
    with pytest.raises(ValueError, match=r"hub has neither model.safetensors nor pytorch_model.bin"):
        weights_file(tmp_path / "hub")
