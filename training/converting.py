"""What training.convert does: read weights in one layout, resize them if asked, write them in another.

What is converted in is a run's folder like any other: training.finetune, training.probe and export take it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bundle.digest import file_sha256
from bundle.labels import read_labels
from mae.classifier import Classifier, LinearHead
from mae.foreign import (
    Foreigner,
    Hints,
    check_destination,
    is_foreign,
    read_foreign,
    weights_file,
    write_foreign,
    write_whole,
)
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder, config_of
from mae.resize import resized
from mae.weights import WEIGHTS_FILE, load_model, save_model
from training.convert import FOREIGN_FLAGS, ConvertConfig
from training.errors import TrainingError
from training.run import LABELS_FILE, RUN_FILE, Kind, Run, read_run, write_labels


@dataclass(frozen=True)
class _Source:
    """spelling: what the user is told it is; origin, data and epochs: for run.json."""

    network: Foreigner
    labels: tuple[str, ...] | None
    spelling: str
    notes: tuple[str, ...]
    origin: Mapping[str, Any]
    data: Mapping[str, Any]
    epochs: float


def convert(config: ConvertConfig) -> str:
    """As training.convert.convert."""
    if config.to == "maeve":
        _check_free(config.out)
    else:
        check_destination(config.out, config.to)
    source = _read(config)
    network = source.network
    if config.image_size is not None or config.patch_size is not None:
        network = resized(network, image_size=config.image_size, patch_size=config.patch_size)
    if config.encoder_only:
        network = _encoder_of(network)
    notes = list(source.notes)
    if config.to == "maeve":
        write_whole(config.out, lambda folder: _write_run(folder, network, source, asdict(config)))
    else:
        write_foreign(network, config.out, config.to, _labels(network, source))
        if config.to == "timm" and isinstance(network, MaskedAutoencoder):
            notes.append("timm has no decoder; the encoder alone was written")
    return "\n".join([_summary(config, source, network), *(f"note: {note}" for note in notes)])


def resolve_init(init: Path, cache: Path) -> Path:
    """The run to start from: `init` itself where it is one, or the folder `cache`, converted from foreign weights.

    A second call finds the folder. What is neither is returned as it is, for whoever reads it to refuse. Raises
    TrainingError or ValueError where the weights need flags that only training.convert has, or `cache` holds others.
    """
    if not is_foreign(init):
        return init
    if not (cache / RUN_FILE).is_file():
        try:
            convert(ConvertConfig(source=init, out=cache))
        except ValueError as e:
            raise ValueError(f"{e}; flags about {init} go to python -m training.convert {init} --out RUN") from e
        return cache
    earlier = read_run(cache, "pretrain", "finetune").get("converted", {})
    if earlier.get("sha256") != file_sha256(weights_file(init)):
        raise TrainingError(f"{cache} was converted from {earlier.get('file')}, not {init}; remove it to convert again")
    return cache


def _read(config: ConvertConfig) -> _Source:
    path = config.source
    if is_foreign(path):
        foreign = read_foreign(path, _hints(config))
        origin = {"file": str(path.resolve()), "sha256": file_sha256(foreign.file), "spelling": foreign.spelling}
        own = config_of(foreign.network)
        data = {
            "name": f"unknown, of {path.name}", "num_images": 0, "num_corrupt": 0, "pack_size": foreign.resize,
            "mean": own.mean, "std": own.std, "classes": foreign.labels,
        }  # fmt: skip
        return _Source(foreign.network, foreign.labels, f"{foreign.spelling} names", foreign.notes, origin, data, 0)
    network = load_model(path)
    if isinstance(network, LinearHead):
        raise TrainingError(f"{path} is a linear head, which is nothing without its encoder; give the run it probed")
    given = [name for name in ("source_image_size", *FOREIGN_FLAGS) if getattr(config, name) is not None]
    if given:
        raise TrainingError(f"--{given[0].replace('_', '-')} is for foreign files; {path} says itself what it is")
    run = read_run(path, "pretrain", "finetune")
    labels = read_labels(path / LABELS_FILE) if isinstance(network, Classifier) else None
    origin = {"file": str(path.resolve()), "sha256": file_sha256(path / WEIGHTS_FILE), "spelling": "maeve"}
    return _Source(network, labels, f"a {run['kind']} run", (), origin, run["data"], run.get("epochs", 0))


def _hints(config: ConvertConfig) -> Hints:
    return Hints(image_size=config.source_image_size, **{name: getattr(config, name) for name in FOREIGN_FLAGS})


def _encoder_of(network: Foreigner) -> PretrainedEncoder:
    if isinstance(network, Classifier) and network.config.pooling == "mean":
        raise TrainingError("--encoder-only of a classifier that pools the mean: its encoder has no last norm")
    encoder = PretrainedEncoder(config_of(network))
    encoder.encoder.load_state_dict(network.encoder.state_dict())
    return encoder.eval()


def _labels(network: Foreigner, source: _Source) -> tuple[str, ...] | None:
    return source.labels if isinstance(network, Classifier) else None


def _write_run(folder: Path, network: Foreigner, source: _Source, config: Mapping[str, Any]) -> None:
    save_model(network, folder)
    labels = _labels(network, source)
    if labels is not None:
        write_labels(folder, labels)
    # The same margin around another image size.
    sides = zip(
        source.data["pack_size"], config_of(network).image_size, config_of(source.network).image_size, strict=True
    )
    data = {**source.data, "pack_size": [round(pack * new / old) for pack, new, old in sides]}
    kind: Kind = "finetune" if isinstance(network, Classifier) else "pretrain"
    Run(folder, kind, config, resume=False).describe(
        data=data, epochs=source.epochs, metrics={}, converted=source.origin
    )


def _check_free(out: Path) -> None:
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise TrainingError(f"{out} is there already; choose another --out")


def _summary(config: ConvertConfig, source: _Source, network: Foreigner) -> str:
    own = config_of(network)
    is_mae = isinstance(network, MaskedAutoencoder) and config.to != "timm"
    tensors = network.parameters() if is_mae or isinstance(network, Classifier) else network.encoder.parameters()
    (height, width), parameters = own.image_size, sum(p.numel() for p in tensors)
    kind = "encoder"
    if is_mae:
        kind = f"Masked Autoencoder, decoder {own.decoder_dim} x {own.decoder_depth}, {own.target} pixels"
    if isinstance(network, Classifier):
        kind = f"classifier of {network.config.num_classes}, {network.config.pooling} pooling"
    return (
        f"{config.source}: {source.spelling}\n"
        f"{config.out}: {config.to}, {kind}; {own.dim} x {own.depth}, {own.heads} heads, images of {height}x{width}, "
        f"patches of {own.patch_size}, {parameters:,} parameters"
    )
