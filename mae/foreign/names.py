"""How public weights spell the tensors of a ViT and of a Masked Autoencoder, and what they are called here.

FAIR's files and timm's agree. Hugging Face has three spellings: its hub's files, the modules of transformers 5, and
what `save_pretrained` of transformers 5 writes; each may lack the leading `vit.`. Its q, k and v are apart: `attn.q`,
`attn.k` and `attn.v` name them until `fuse_qkv` makes them the rows of one matrix.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

SpellingName = Literal["fair", "timm", "hf"]
State = Mapping[str, Tensor]

# Theirs -> ours, how names begin. Where several of theirs are one of ours, the first is the one that is written.
_FAIR_STEMS = (
    ("cls_token", "encoder.cls_token"),
    ("pos_embed", "encoder.pos_embed"),
    ("patch_embed.proj", "encoder.patch_embed.proj"),
    ("blocks", "encoder.blocks"),
    ("norm", "encoder.norm"),
    ("mask_token", "decoder.mask_token"),
    ("decoder_pos_embed", "decoder.pos_embed"),
    ("decoder_embed", "decoder.embed"),
    ("decoder_blocks", "decoder.blocks"),
    ("decoder_norm", "decoder.norm"),
    ("decoder_pred", "decoder.pred"),
    ("fc_norm", "fc_norm"),
    ("head", "head"),
)
_FAIR_LEAVES = tuple((leaf, leaf) for leaf in ("norm1", "norm2", "attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2"))
_HF_STEMS = (
    ("vit.embeddings.cls_token", "encoder.cls_token"),
    ("vit.embeddings.position_embeddings", "encoder.pos_embed"),
    ("vit.embeddings.patch_embeddings.projection", "encoder.patch_embed.proj"),
    ("vit.encoder.layer", "encoder.blocks"),
    ("vit.layers", "encoder.blocks"),
    ("vit.layernorm", "encoder.norm"),
    ("decoder.mask_token", "decoder.mask_token"),
    ("decoder.decoder_pos_embed", "decoder.pos_embed"),
    ("decoder.decoder_embed", "decoder.embed"),
    ("decoder.decoder_layers", "decoder.blocks"),
    ("decoder.decoder_encoder.layer", "decoder.blocks"),
    ("decoder.decoder_norm", "decoder.norm"),
    ("decoder.decoder_pred", "decoder.pred"),
    ("classifier", "head"),
)
_HF_LEAVES = (
    ("layernorm_before", "norm1"),
    ("layernorm_after", "norm2"),
    ("attention.attention.query", "attn.q"),
    ("attention.attention.key", "attn.k"),
    ("attention.attention.value", "attn.v"),
    ("attention.q_proj", "attn.q"),
    ("attention.k_proj", "attn.k"),
    ("attention.v_proj", "attn.v"),
    ("attention.output.dense", "attn.proj"),
    ("attention.o_proj", "attn.proj"),
    ("intermediate.dense", "mlp.fc1"),
    ("output.dense", "mlp.fc2"),
    ("mlp.fc1", "mlp.fc1"),
    ("mlp.fc2", "mlp.fc2"),
)
_TOKENS = ("encoder.cls_token", "encoder.pos_embed", "decoder.mask_token", "decoder.pos_embed")
_OURS = re.compile(r"(?P<stem>.+\.blocks)\.(?P<block>\d+)\.(?P<leaf>.+)\.(?P<kind>weight|bias)")
_QKV = re.compile(r"(.+\.attn)\.(q|k|v)\.(weight|bias)")


@dataclass(frozen=True)
class Spelling:
    """title: how an error names it; stems, leaves: (theirs, ours) of a tensor and of a block's part."""

    title: str
    stems: tuple[tuple[str, str], ...]
    leaves: tuple[tuple[str, str], ...]

    def ours(self) -> dict[str, str]:
        """Every name of theirs -> ours, a block's number written `#`."""
        table: dict[str, str] = {}
        for stem, own in self.stems:
            for name in {stem, stem.removeprefix("vit.")}:
                table |= {name + ending: own + own_ending for ending, own_ending in self._endings(own)}
        return table

    def theirs(self, name: str) -> str:
        """What is written for one of our names."""
        if match := _OURS.fullmatch(name):
            stem, leaf = _first(self.stems, match["stem"]), _first(self.leaves, match["leaf"])
            return f"{stem}.{match['block']}.{leaf}.{match['kind']}"
        stem, _, kind = name.rpartition(".")
        return _first(self.stems, name) if name in _TOKENS else f"{_first(self.stems, stem)}.{kind}"

    def _endings(self, own: str) -> Iterable[tuple[str, str]]:
        if own in _TOKENS:
            return [("", "")]
        kinds = (".weight", ".bias")
        if not own.endswith(".blocks"):
            return [(kind, kind) for kind in kinds]
        return [(f".#.{leaf}{kind}", f".#.{own_leaf}{kind}") for leaf, own_leaf in self.leaves for kind in kinds]


FAIR = Spelling("FAIR's and timm's", _FAIR_STEMS, _FAIR_LEAVES)
HUGGING_FACE = Spelling("Hugging Face's", _HF_STEMS, _HF_LEAVES)
SPELLINGS: dict[SpellingName, Spelling] = {"fair": FAIR, "timm": FAIR, "hf": HUGGING_FACE}


def translate(names: Iterable[str]) -> tuple[Spelling, dict[str, str], list[str]]:
    """(the spelling that knows most of the names, theirs -> ours, the names that it does not know)."""
    names = list(names)
    found = {spelling: _known(spelling, names) for spelling in (FAIR, HUGGING_FACE)}
    spelling = max(found, key=lambda s: len(found[s]))
    return spelling, found[spelling], [name for name in names if name not in found[spelling]]


def _known(spelling: Spelling, names: Iterable[str]) -> dict[str, str]:
    table, known = spelling.ours(), {}
    for name in names:
        number = re.search(r"\.(\d+)\.", name)
        own = table.get(name if number is None else name.replace(number[0], ".#.", 1))
        if own is not None:
            known[name] = own if number is None else own.replace(".#.", number[0])
    return known


def _first(pairs: Iterable[tuple[str, str]], own: str) -> str:
    return next(theirs for theirs, ours in pairs if ours == own)


def fuse_qkv(state: State) -> dict[str, Tensor]:
    """q, k and v, each [D, D] or [D], become the rows of one [3 * D, D] or [3 * D]; one that lacks another stays."""
    fused = dict(state)
    for name in state:
        match = _QKV.fullmatch(name)
        if match and match[2] == "q":
            parts = [f"{match[1]}.{letter}.{match[3]}" for letter in "qkv"]
            if all(part in fused for part in parts):
                fused[f"{match[1]}.qkv.{match[3]}"] = torch.cat([fused.pop(part) for part in parts])
    return fused


def split_qkv(state: State) -> dict[str, Tensor]:
    """The inverse of `fuse_qkv`."""
    split: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if ".attn.qkv." in name:
            before, _, kind = name.rpartition(".qkv.")
            split |= {f"{before}.{letter}.{kind}": part for letter, part in zip("qkv", tensor.chunk(3), strict=True)}
        else:
            split[name] = tensor
    return split
