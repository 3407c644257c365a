"""Files of tensors: those that someone else wrote, opened without running anything that they hold, and whole ones."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mae.weights import CONFIG_FILE as OWN_CONFIG_FILE

CONFIG_FILE = "config.json"
PREPROCESSOR_FILE = "preprocessor_config.json"
WEIGHTS_FILES = ("model.safetensors", "pytorch_model.bin")
_CONTAINERS = ("model", "state_dict")  # what FAIR's scripts, and timm's and Lightning's, put the tensors under
_WRAPPERS = ("module.", "_orig_mod.")  # DataParallel's and torch.compile's prefixes
_OWN_KEY = "maeve"


@dataclass(frozen=True)
class Tensors:
    """state: name -> f32; own: what `mae.foreign.write` put beside the weights, for what their shapes do not say."""

    file: Path
    state: dict[str, Tensor]
    own: dict[str, Any] = field(default_factory=dict)


def is_foreign(path: Path) -> bool:
    """Is it a file, or a folder in Hugging Face's layout, rather than a run's folder? Looks at names only."""
    return path.is_file() or ((path / CONFIG_FILE).is_file() and not (path / OWN_CONFIG_FILE).is_file())


def weights_file(path: Path) -> Path:
    """The file of a folder in Hugging Face's layout, or the file itself. Raises ValueError where there is none."""
    if not path.is_dir():
        return path
    for name in WEIGHTS_FILES:
        if (path / name).is_file():
            return path / name
    raise ValueError(f"{path} has neither {' nor '.join(WEIGHTS_FILES)}; weights in several shards are not read")


def read_tensors(path: Path) -> Tensors:
    """A safetensors file or one of `torch.save`, told apart by content. Raises ValueError, or OSError if unreadable.

    Tensors under `model` or `state_dict` are taken from there, the prefixes of DataParallel and torch.compile are taken
    off, and floats of any precision become float32. Whatever lies beside the tensors, an optimizer's state say, is
    left alone.
    """
    file = weights_file(path)
    with file.open("rb") as f:
        head = f.read(9)
    state, own = _read_safetensors(file) if head[8:] == b"{" else _read_pickle(file)
    if not state:
        raise ValueError(f"{file} holds no tensors")
    return Tensors(file, {_unwrapped(name): _float32(file, name, value) for name, value in state.items()}, own)


def write_whole(out: Path, write: Callable[[Path], None]) -> None:
    """Let `write` make a file or a folder under another name beside `out`, then rename it: what has the name is whole.

    Raises OSError, whatever the library below calls it, where the disk does not take it; nothing is then left.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.tmp")
    _remove(temporary)  # what an earlier try left
    try:
        write(temporary)
        for file in temporary.iterdir() if temporary.is_dir() else [temporary]:
            with file.open("rb") as f:
                os.fsync(f.fileno())
        temporary.replace(out)
    except (OSError, RuntimeError, SafetensorError) as e:  # torch.save's and save_file's own
        raise OSError(f"{out} could not be written: {e}") from e
    finally:
        _remove(temporary)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    try:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata() or {}
            return {name: opened.get_tensor(name) for name in opened.keys()}, _own(metadata.get(_OWN_KEY))  # noqa: SIM118
    except SafetensorError as e:
        raise ValueError(f"{file} is a damaged safetensors file: {e}") from e


def _read_pickle(file: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        # FAIR's older files carry their command line as a Namespace, which is a plain object and runs nothing.
        with torch.serialization.safe_globals([argparse.Namespace]):
            document = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # torch.load raises many kinds, and advises to load what it does not trust
        if found := re.search(r"GLOBAL (\S+)", str(e)):
            raise ValueError(
                f"{file} holds code ({found[1]}) beside its tensors, which is not run; ask for a file of tensors alone"
            ) from e
        raise ValueError(f"{file} is neither a safetensors file nor one of torch.save, or it is damaged") from e
    if not isinstance(document, dict):
        raise ValueError(f"{file} holds a {type(document).__name__}, not tensors by name")
    own = _own(document.get(_OWN_KEY))
    for name in _CONTAINERS:
        if isinstance(document.get(name), dict):
            return document[name], own
    return document, own


def _own(document: Any) -> dict[str, Any]:
    """JSON text, or a mapping; nothing where it is neither, since the weights can be read without it."""
    try:
        document = json.loads(document) if isinstance(document, str) else document
    except ValueError:
        return {}
    return document if isinstance(document, dict) else {}


def _unwrapped(name: str) -> str:
    while (shorter := name.removeprefix(_WRAPPERS[0]).removeprefix(_WRAPPERS[1])) != name:
        name = shorter
    return name


def _float32(file: Path, name: object, value: object) -> Tensor:
    if not isinstance(name, str) or not isinstance(value, Tensor) or not value.is_floating_point():
        kind = f"{value.dtype} values" if isinstance(value, Tensor) else f"something of type {type(value).__name__}"
        raise ValueError(f"{file} holds {kind} under {name!r}, where weights are expected")
    return value.float()
