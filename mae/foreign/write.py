"""Writing a network of ours as FAIR, timm or Hugging Face write theirs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mae.foreign.files import write_whole
from mae.foreign.hints import Hints
from mae.foreign.huggingface import documents
from mae.foreign.names import FAIR, HUGGING_FACE, SpellingName, split_qkv
from mae.foreign.shapes import Foreigner
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder, config_of
from mae.weights import save_tensors

_PICKLES = (".pth", ".pt", ".bin")
_SAFETENSORS = ".safetensors"
_SUFFIXES: dict[SpellingName, tuple[str, ...]] = {"fair": (".pth",), "timm": (_SAFETENSORS, ".pth", ".bin"), "hf": ()}


def write_foreign(network: Foreigner, out: Path, to: SpellingName, labels: tuple[str, ...] | None = None) -> None:
    """`fair`: a .pth file; `timm`: .safetensors, .pth or .bin; `hf`: a folder. All at once under its name, or nothing.

    timm has no decoder, so a MaskedAutoencoder's is left out. Beside FAIR's and timm's tensors lies, under `maeve`,
    what their shapes do not say (heads, target, mean, std, labels); other readers pass it by. Raises ValueError where
    something lies at `out`, for a name that does not fit, and for a network that the spelling has no place for; OSError
    where the disk does not take it.
    """
    check_destination(out, to)
    if to == "hf":
        files = documents(network, labels)
        write_whole(out, lambda folder: _write_folder(folder, network, files))
        return
    state = {FAIR.theirs(name): tensor for name, tensor in _state(network, with_decoder=to == "fair").items()}
    own = Hints.of(config_of(network), labels).document()
    if out.suffix == _SAFETENSORS:
        metadata = {"format": "pt", "maeve": json.dumps(own)}
        write_whole(out, lambda file: save_tensors(state, file, metadata))
    else:
        container = "model" if to == "fair" else "state_dict"
        write_whole(out, lambda file: torch.save({container: state, "maeve": own}, file))


def check_destination(out: Path, to: SpellingName) -> None:
    """Raises ValueError where `out` is taken, or is not a name for what would be written."""
    if out.exists():
        raise ValueError(f"{out} is there already; choose another --out")
    allowed = _SUFFIXES[to]
    if allowed and out.suffix not in allowed:
        raise ValueError(f"{out} must end in {' or '.join(allowed)}, to be written as {to}")
    if not allowed and out.suffix in (*_PICKLES, _SAFETENSORS):
        raise ValueError(f"{out} names a file, and {to} is written as a folder")


def _write_folder(folder: Path, network: Foreigner, files: Mapping[str, Mapping[str, Any]]) -> None:
    folder.mkdir()
    state = split_qkv(_state(network, with_decoder=True))
    # transformers' bare encoder is the one class whose names have no `vit.`
    skip = "vit." if isinstance(network, PretrainedEncoder) else ""
    named = {HUGGING_FACE.theirs(name).removeprefix(skip): tensor.contiguous() for name, tensor in state.items()}
    save_tensors(named, folder / "model.safetensors", {"format": "pt"})
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")


def _state(network: Foreigner, *, with_decoder: bool) -> dict[str, Tensor]:
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    if isinstance(network, MaskedAutoencoder) and not with_decoder:
        return {name: tensor for name, tensor in state.items() if not name.startswith("decoder.")}
    return state
