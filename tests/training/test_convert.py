"""python -m training.convert, and the commands that start from public weights."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.labels import read_labels
from mae.classifier import Classifier
from mae.config import MAEConfig
from mae.foreign import write_foreign
from mae.model import MaskedAutoencoder
from mae.pretrained import PretrainedEncoder
from mae.weights import load_mae, load_model, load_pretrained
from training.convert import ConvertConfig, convert
from training.converting import resolve_init
from training.errors import TrainingError
from training.finetune import FinetuneConfig, finetune
from training.packed import PackedDataset
from training.probe import ProbeConfig, probe

Command = Callable[..., Any]
QUICK: dict[str, Any] = {"epochs": 1, "warmup_epochs": 0.0, "batch_size": 30, "blr": 1e-2}


@pytest.fixture(scope="module")
def place(pretrained: Path, packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The pre-training run in every spelling, and a classifier of each pooling."""
    root = tmp_path_factory.mktemp("spellings")
    network = load_mae(pretrained)
    write_foreign(network, root / "full.pth", "fair")
    write_foreign(network, root / "encoder.safetensors", "timm")
    write_foreign(network, root / "hub", "hf")
    torch.save({"model": network.state_dict()}, root / "own.pth")
    state = torch.load(root / "full.pth", weights_only=True)["model"]
    torch.save({"model": state}, root / "unsaid.pth")
    for pooling in ("cls", "mean"):
        finetune(FinetuneConfig(data=packed.folder, init=pretrained, out=root / pooling, pooling=pooling, **QUICK))
    probe(ProbeConfig(data=packed.folder, init=pretrained, out=root / "probed", features=("cls",)))
    (root / "text.pth").write_text("not weights")
    return {
        "root": root, "run": pretrained, "missing": root / "missing", "cls": root / "cls", "mean": root / "mean",
        "probed": root / "probed", **{p.stem: p for p in root.iterdir() if p.suffix}, "hub": root / "hub",
    }  # fmt: skip


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    """Every tensor of `a` is `b`'s, bit for bit."""
    expected = b.state_dict()
    return all(torch.equal(tensor, expected[name]) for name, tensor in a.state_dict().items())


def config_without_decoder(model: PretrainedEncoder | MaskedAutoencoder) -> dict[str, Any]:
    names = ("image_size", "patch_size", "channels", "dim", "depth", "heads", "mlp_ratio", "mean", "std")
    return {name: getattr(model.config, name) for name in names}


@pytest.mark.parametrize(("to", "name"), [("fair", "a.pth"), ("timm", "a.safetensors"), ("hf", "a")])
def test_out_and_in_again(to: Any, name: str, place: dict[str, Path], tmp_path: Path) -> None:
    convert(ConvertConfig(source=place["run"], out=tmp_path / name, to=to))
    convert(ConvertConfig(source=tmp_path / name, out=tmp_path / "run"))
    before, after = load_mae(place["run"]), load_pretrained(tmp_path / "run")
    assert same(after, before)
    assert isinstance(after, PretrainedEncoder if to == "timm" else MaskedAutoencoder)
    assert config_without_decoder(after) == config_without_decoder(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, "run"])


@pytest.mark.parametrize(
    ("kind", "to", "name"), [("cls", "hf", "a"), ("cls", "timm", "a.pth"), ("mean", "fair", "a.pth")]
)
def test_a_classifier_keeps_its_labels(kind: str, to: Any, name: str, place: dict[str, Path], tmp_path: Path) -> None:
    convert(ConvertConfig(source=place[kind], out=tmp_path / name, to=to))
    convert(ConvertConfig(source=tmp_path / name, out=tmp_path / "run"))
    before, after = load_model(place[kind]), load_model(tmp_path / "run")
    assert isinstance(after, Classifier)
    assert after.config.pooling == kind
    assert same(after, before)
    assert read_labels(tmp_path / "run" / "labels.json") == ("blue", "green", "red")
    assert json.loads((tmp_path / "run" / "run.json").read_text())["kind"] == "finetune"


def test_the_run_says_where_it_came_from(place: dict[str, Path], tmp_path: Path) -> None:
    convert(ConvertConfig(source=place["hub"], out=tmp_path / "run"))
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    mean = list(load_mae(place["run"]).config.mean)
    assert document["kind"] == "pretrain"
    assert document["data"] == {
        "name": "unknown, of hub", "num_images": 0, "num_corrupt": 0, "pack_size": [32, 32], "classes": None,
        "mean": mean, "std": list(load_mae(place["run"]).config.std),
    }  # fmt: skip
    assert document["converted"]["file"] == str(place["hub"].resolve())
    assert document["converted"]["spelling"] == "Hugging Face's"
    assert len(document["converted"]["sha256"]) == 64


def test_a_run_at_another_size_keeps_its_data_and_margin(place: dict[str, Path], tmp_path: Path) -> None:
    convert(ConvertConfig(source=place["run"], out=tmp_path / "run", image_size=(64, 48), patch_size=16))
    before = json.loads((place["run"] / "run.json").read_text())
    after = json.loads((tmp_path / "run" / "run.json").read_text())
    assert after["data"] == before["data"] | {"pack_size": [64, 48]}
    assert after["epochs"] == before["epochs"]
    config = load_mae(tmp_path / "run").config
    assert (config.image_size, config.patch_size) == ((64, 48), 16)


def test_224_pixels_are_cut_from_256(tmp_path: Path) -> None:
    """As FAIR evaluates; one size of four below, so that the file stays small."""
    network = PretrainedEncoder(MAEConfig(image_size=(224, 448), patch_size=112, dim=24, depth=1, heads=3))
    write_foreign(network, tmp_path / "a.pth", "fair")
    convert(ConvertConfig(source=tmp_path / "a.pth", out=tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "run.json").read_text())["data"]["pack_size"] == [256, 512]


def test_encoder_only_leaves_decoder_and_head(place: dict[str, Path], tmp_path: Path) -> None:
    for source in ("run", "cls", "full"):
        convert(ConvertConfig(source=place[source], out=tmp_path / source, encoder_only=True))
        found = load_model(tmp_path / source)
        assert isinstance(found, PretrainedEncoder)
        assert not (tmp_path / source / "labels.json").exists()
    assert same(load_model(tmp_path / "run"), load_mae(place["run"]))
    assert same(load_model(tmp_path / "cls"), load_model(place["cls"]))
    convert(ConvertConfig(source=place["run"], out=tmp_path / "w.pth", to="fair", encoder_only=True))
    assert "mask_token" not in torch.load(tmp_path / "w.pth", weights_only=True)["model"]


def test_what_the_command_says(place: dict[str, Path], tmp_path: Path, command: Command) -> None:
    before = load_mae(place["run"])
    counts = (sum(p.numel() for p in m.parameters()) for m in (before, before.encoder))
    whole, part = (f"{count:,} parameters" for count in counts)
    network = "192 x 1, 3 heads, images of 32x32, patches of 8"
    outcome = command("training.convert", place["full"], "--out", tmp_path / "run")
    assert (outcome.status, outcome.err) == (0, "")
    assert outcome.out.splitlines() == [
        f"{place['full']}: FAIR's and timm's names",
        f"{tmp_path / 'run'}: maeve, Masked Autoencoder, decoder 32 x 1, normalized pixels; {network}, {whole}",
    ]
    outcome = command("training.convert", place["run"], "--out", tmp_path / "t.bin", "--to", "timm")
    assert outcome.out.splitlines()[0].startswith(f"{place['run']}: a pretrain run")
    assert outcome.out.splitlines()[1:] == [
        f"{tmp_path / 't.bin'}: timm, encoder; {network}, {part}",
        "note: timm has no decoder; the encoder alone was written",
    ]


BAD = [
    ("{missing} --out {new}", "missing has no model.json; is it the --out of a finished training run?"),
    ("{text} --out {new}", "text.pth is neither a safetensors file nor one of torch.save"),
    ("{own} --out {new}", "own.pth: it has the names of a run's own checkpoint; give the run's folder"),
    ("{run}/model.safetensors --out {new}", "it has the names of a run's own checkpoint"),
    ("{unsaid} --out {new}", "the number of heads of a decoder 32 wide is not known; say it with --decoder-heads"),
    ("{probed} --out {new} --to hf", "probed is a linear head, which is nothing without its encoder"),
    ("{mean} --out {new} --to hf", "pools the cls token, this classifier the mean of the patches"),
    ("{mean} --out {new} --encoder-only", "--encoder-only of a classifier that pools the mean"),
    ("{full} --out {run}", "is there already; choose another --out"),
    ("{full} --out {run} --to hf", "is there already; choose another --out"),
    ("{run} --out {new} --to fair", "must end in .pth, to be written as fair"),
    ("{run} --out {new} --heads 3", "--heads is for foreign files"),
    ("{run} --out {new} --source-image-size 32 32", "--source-image-size is for foreign files"),
    ("{full} --out {new} --image-size 36 36", "model.image_size (36, 36) must be multiples of patch_size 8"),
    ("{full} --out {new} --source-image-size 64 64", "an image of 64x64 has not the 16 patches of 8x8"),
    ("{full} --out {new} --mean 0.5 0.5 0.5", "--mean and --std go together"),
    ("{full} --out {new} --mean 0.5 --std 0.5", "model.mean and model.std must have 3 values, one per channel"),
    ("{full} --out {new} --patch-size 0", "--patch-size must be at least 1, got 0"),
]


@pytest.mark.parametrize(("arguments", "message"), BAD)
def test_bad_input_is_one_line(
    arguments: str, message: str, place: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    words = [word.format(**place, new=tmp_path / "new") for word in arguments.split()]
    outcome = command("training.convert", *words)
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert message in outcome.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "name"), [("maeve", "a"), ("fair", "a.pth"), ("timm", "a.safetensors"), ("hf", "a")])
def test_a_full_disk_leaves_nothing(
    to: Any,
    name: str,
    place: dict[str, Path],
    tmp_path: Path,
    full_disk: Callable[[int], AbstractContextManager[None]],
) -> None:
    with full_disk(100_000), pytest.raises(OSError, match=f"{name} could not be written"):
        convert(ConvertConfig(source=place["full"], out=tmp_path / name, to=to))
    assert list(tmp_path.iterdir()) == []


# What starts from public weights


@pytest.mark.parametrize("spelling", ["full", "encoder", "hub"])
def test_a_fine_tune_from_a_file_is_the_one_from_the_run(
    spelling: str, place: dict[str, Path], packed: PackedDataset, tmp_path: Path
) -> None:
    finetune(FinetuneConfig(data=packed.folder, init=place[spelling], out=tmp_path / "run", pooling="cls", **QUICK))
    assert same(load_model(tmp_path / "run"), load_model(place["cls"]))
    assert load_pretrained(tmp_path / "run" / "init").config.dim == 192


def test_a_probe_of_a_file_is_the_one_of_the_run(place: dict[str, Path], packed: PackedDataset, tmp_path: Path) -> None:
    probe(ProbeConfig(data=packed.folder, init=place["encoder"], out=tmp_path / "run", features=("cls",)))
    assert same(load_model(tmp_path / "run"), load_model(place["probed"]))


def test_a_resumed_fine_tune_finds_what_it_converted(
    place: dict[str, Path], packed: PackedDataset, tmp_path: Path
) -> None:
    again = {"data": packed.folder, "out": tmp_path / "run", "pooling": "cls", "resume": True, **QUICK}
    first = finetune(FinetuneConfig(init=place["full"], **again))
    written = (tmp_path / "run" / "init" / "model.safetensors").stat().st_mtime_ns
    assert finetune(FinetuneConfig(init=place["full"], **again)) == first
    assert (tmp_path / "run" / "init" / "model.safetensors").stat().st_mtime_ns == written
    assert json.loads((tmp_path / "run" / "run.json").read_text())["config"]["init"] == str(place["full"])
    with pytest.raises(TrainingError, match=r"--resume with another --init: it was .*full.pth"):
        finetune(FinetuneConfig(init=place["hub"], **again))


def test_a_folder_converted_from_another_file_is_not_taken_for_this_one(place: dict[str, Path], tmp_path: Path) -> None:
    assert resolve_init(place["full"], tmp_path / "init") == tmp_path / "init"
    assert resolve_init(place["full"], tmp_path / "init") == tmp_path / "init"
    with pytest.raises(TrainingError, match=r"converted from .*full.pth, not .*hub; remove it to convert again"):
        resolve_init(place["hub"], tmp_path / "init")


def test_a_folder_that_is_taken_is_refused_before_anything_is_converted(
    place: dict[str, Path], packed: PackedDataset
) -> None:
    before = sorted(place["cls"].iterdir())
    with pytest.raises(TrainingError, match="holds a run already"):
        finetune(FinetuneConfig(data=packed.folder, init=place["full"], out=place["cls"], **QUICK))
    with pytest.raises(TrainingError, match="holds a run already"):
        probe(ProbeConfig(data=packed.folder, init=place["full"], out=place["cls"]))
    assert sorted(place["cls"].iterdir()) == before


def test_a_file_that_needs_a_flag_says_so(place: dict[str, Path], packed: PackedDataset, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="say it with --decoder-heads"):
        probe(ProbeConfig(data=packed.folder, init=place["unsaid"], out=tmp_path / "run"))
    assert list(tmp_path.iterdir()) == []
    convert(ConvertConfig(source=place["unsaid"], out=tmp_path / "run", decoder_heads=2))
    assert same(load_mae(tmp_path / "run"), load_mae(place["run"]))


def test_a_classifier_is_nothing_to_start_from(place: dict[str, Path], packed: PackedDataset, tmp_path: Path) -> None:
    convert(ConvertConfig(source=place["mean"], out=tmp_path / "c.pth", to="fair"))
    with pytest.raises(ValueError, match="holds a Classifier, not a pre-trained"):
        finetune(FinetuneConfig(data=packed.folder, init=tmp_path / "c.pth", out=tmp_path / "run", **QUICK))


def test_a_run_is_where_it_is(place: dict[str, Path], tmp_path: Path) -> None:
    for path in (place["run"], place["missing"], Path("none")):
        assert resolve_init(path, tmp_path / "init") == path
    assert list(tmp_path.iterdir()) == []
