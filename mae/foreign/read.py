"""Reading public weights: from a file, or a folder of Hugging Face's, to a network of ours."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from mae.classifier import Classifier
from mae.foreign.files import read_tensors
from mae.foreign.hints import Hints
from mae.foreign.huggingface import check_sizes, read_hints
from mae.foreign.names import HUGGING_FACE, Spelling, fuse_qkv, split_qkv, translate
from mae.foreign.shapes import Foreigner, build
from mae.pretrained import config_of

_CROP, _RESIZE = 224, 256  # pixels
_SHOWN = 3  # names in an error
_RAW_IN_NAME = "visualize"  # FAIR's mae_visualize_* files predict raw pixels
_LEFT_OUT = ("pooler.", "vit.pooler.")  # a layer of transformers' ViTModel that no network here has


@dataclass(frozen=True)
class Foreign:
    """file: of `path`, with the weights; spelling: whose names they had; notes: what one should know.

    labels: a classifier's, None for other networks.
    """

    path: Path
    file: Path
    spelling: str
    network: Foreigner
    labels: tuple[str, ...] | None
    notes: tuple[str, ...]

    @property
    def resize(self) -> tuple[int, int]:
        """(height, width) in pixels that an image is scaled to before its centre is cut out for the network.

        256 at 224 pixels, as He et al. and most others evaluate, and no margin at other sizes.
        """
        height, width = config_of(self.network).image_size
        if min(height, width) != _CROP:
            return height, width
        return height * _RESIZE // _CROP, width * _RESIZE // _CROP


def read_foreign(path: Path, flags: Hints | None = None) -> Foreign:
    """The network in evaluation mode, on the CPU, in float32. `flags` win over what the file says of itself.

    Raises ValueError, in one line that begins with the path, for what is no such file, for names that are unknown or
    missing, for shapes that do not fit, and for what only a flag can say; OSError where it cannot be read.
    """
    tensors = read_tensors(path)
    try:
        config_hints, notes, config = read_hints(tensors.file)
        raw = Hints(target="raw" if _RAW_IN_NAME in tensors.file.name else None)
        hints = (flags or Hints()).over(config_hints).over(Hints.read(tensors.own)).over(raw)
        kept = {name: tensor for name, tensor in tensors.state.items() if not name.startswith(_LEFT_OUT)}
        if len(kept) < len(tensors.state):
            notes += ("its pooler is left out",)
        spelling, network = _network(kept, hints)
        check_sizes(config, network)
    except (AttributeError, TypeError, ValueError) as e:  # the first two where JSON holds what it should not
        raise ValueError(f"{path}: {e}") from e
    return Foreign(path, tensors.file, spelling.title, network, _labels(network, hints), notes)


def _network(state: dict[str, Tensor], hints: Hints) -> tuple[Spelling, Foreigner]:
    spelling, known, unknown = translate(state)
    if any(".blocks." in name and name.startswith(("encoder.", "decoder.")) for name in unknown):
        raise ValueError("it has the names of a run's own checkpoint; give the run's folder, which holds its weights")
    if not known:
        raise ValueError(f"none of its names is FAIR's, timm's or Hugging Face's; they are {_few(unknown)}")
    translated = {own: state[name] for name, own in known.items()}
    try:
        network = build(translated, hints)
    except ValueError as e:
        raise ValueError(f"{e}{_unlike(spelling, unknown, [])}") from e
    expected = network.state_dict()
    if spelling is HUGGING_FACE:
        expected = split_qkv(expected)
    missing = [spelling.theirs(name) for name in expected if name not in translated]
    unknown += [name for name, own in known.items() if own not in expected]
    if missing or unknown:
        raise ValueError(f"it does not hold what a ViT holds{_unlike(spelling, unknown, missing)}")
    for name, own in known.items():
        if state[name].shape != expected[own].shape:
            found, needed = (list(t.shape) for t in (state[name], expected[own]))
            raise ValueError(f"{name} has the shape {found}, and {needed} goes with the other weights")
    network.load_state_dict(fuse_qkv(translated))
    return spelling, network.eval()


def _unlike(spelling: Spelling, unknown: Collection[str], missing: Collection[str]) -> str:
    parts = [f"{what}: {_few(names)}" for what, names in (("unknown", unknown), ("missing", missing)) if names]
    return f"; its names are most like {spelling.title}" + "".join(f"; {part}" for part in parts)


def _few(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_SHOWN])
    return shown if len(names) <= _SHOWN else f"{shown} and {len(names) - _SHOWN} more"


def _labels(network: Foreigner, hints: Hints) -> tuple[str, ...] | None:
    """A classifier's names, the numbers 0 to N - 1 where the file has none of its own."""
    if not isinstance(network, Classifier):
        return None
    classes = network.config.num_classes
    if hints.labels is not None and len(hints.labels) == classes:
        return hints.labels
    return tuple(map(str, range(classes)))
