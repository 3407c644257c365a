"""Every command's bad input: one line on stderr that says what to do, exit status 2, nothing left behind."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from bundle.cli.ending import BAD_RESULT, INTERRUPTED, NOT_DONE, TERMINATED
from training.errors import RunFailed, Terminated, TrainingError, run_command
from training.finetune import FinetuneConfig, finetune
from training.packed import PackedDataset
from training.probe import ProbeConfig, probe
from training.report import write_report

Command = Callable[..., Any]


@pytest.fixture(scope="module")
def place(
    photos: Path, other_photos: Path, packed: PackedDataset, pretrained: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Names for what the commands below are given."""
    root = tmp_path_factory.mktemp("places")
    (root / "empty").mkdir()
    (root / "corrupt").mkdir()
    (root / "corrupt" / "a.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut short")
    (root / "animals").mkdir()
    for name, label in (("cat", "red"), ("dog", "blue")):
        (root / "animals" / name).symlink_to(photos / label)
    finetune(FinetuneConfig(data=packed.folder, init=pretrained, out=root / "finetuned", epochs=1, warmup_epochs=0.0))
    probe(ProbeConfig(data=packed.folder, init=pretrained, out=root / "probed"))
    return {
        "root": root, "photos": photos, "more": other_photos, "pack": packed.folder, "run": pretrained,
        "unlabeled": photos / "red", "empty": root / "empty", "corrupt": root / "corrupt", "animals": root / "animals",
        "missing": root / "missing", "finetuned": root / "finetuned", "probed": root / "probed", "none": Path("none"),
    }  # fmt: skip


PRETRAIN = [
    ("--data {missing}", "missing is neither a folder nor a file"),
    ("--data {empty}", "empty holds no images"),
    ("--data {corrupt}", "none of the first 64 images could be read"),
    ("--data {pack} --out {run}", "holds a run already; add --resume to go on with it or choose another --out"),
    ("--data {pack} --out {run} --resume --epochs 9", "--resume with another --"),
    ("--data {pack} --patch-size 7", "model.image_size (32, 32) must be multiples of patch_size 7"),
    ("--data {pack} --patch-size 64", "model.image_size (32, 32) must be multiples of patch_size 64"),
    ("--data {pack} --mask-ratio 1.0", "--mask-ratio must lie between 0 and 1, got 1.0"),
    ("--data {pack} --mask-ratio 0", "--mask-ratio must lie between 0 and 1, got 0.0"),
    ("--data {pack} --patch-size 32 --mask-ratio 0.75", "mask_ratio 0.75 keeps none of 1 patches"),
    ("--data {pack} --image-size 64", "smaller than the network's (64, 64); choose a smaller --image-size, or pack"),
    ("--data {pack} --recipe px64", "(64, 64) are needed; pack with --size 64"),
    ("--data {pack} --decoder-heads 5", "model.decoder_dim 128 must be a multiple of decoder_heads 5"),
    ("--data {pack} --crop-scale 0.5 0.2", "crop.scale must be an increasing range"),
    ("--data {pack} --epochs 0", "--epochs must be at least 1, got 0"),
    ("--data {pack} --epochs 5 --warmup-epochs 6", "does not fit"),
    ("--data {pack} --blr 0", "--blr must be positive, got 0.0"),
    ("--data {pack} --weight-decay=-1", "--weight-decay and --seed must not be negative"),
    ("--data {pack} --device gpu", "--device 'gpu' is not a device; use cpu or cuda"),
]
FINETUNE = [
    ("--data {pack} --init {missing}", "missing has no model.json; is it the --out of a finished training run?"),
    ("--data {pack} --init {finetuned}", "finetuned holds a Classifier, not a pre-trained Masked Autoencoder"),
    ("--data {pack} --init {probed}", "probed holds a LinearHead, not a pre-trained Masked Autoencoder"),
    (
        "--data {unlabeled} --init {run}",
        "red has no labels of two classes: use one sub-folder per class, or",
    ),
    ("--data {unlabeled} --init none", "red has no labels"),
    ("--data {pack} --init {run} --test {animals}", "animals has other classes than the training set"),
    ("--data {pack} --init {run} --test {unlabeled}", "red has no labels"),
    ("--data {missing} --init {run}", "missing is neither a folder nor a file"),
    ("--data {pack} --init {run} --depth 3", "--depth goes with --init none; a run brings its own network"),
    ("--data {pack} --init none --patch-size 5", "model.image_size (32, 32) must be multiples of patch_size 5"),
    ("--data {pack} --init {run} --label-fraction 0", "--label-fraction must lie in (0, 1], got 0.0"),
    ("--data {pack} --init {run} --label-fraction 0.01", "no class has two images"),
    ("--data {pack} --init {run} --val-fraction 1", "--val-fraction must lie between 0 and 1, got 1.0"),
    ("--data {pack} --init {run} --drop-path 1", "drop_path must be at least 0 and below 1, got 1.0"),
    ("--data {pack} --init {run} --layer-decay 0", "--layer-decay must lie in (0, 1], got 0.0"),
    ("--data {pack} --init {run} --label-smoothing 1", "--label-smoothing must be at least 0 and below 1, got 1.0"),
    ("--data {pack} --init {run} --batch-size 0", "--epochs and --batch-size must be at least 1, got 50 and 0"),
    ("--data {pack} --init {run} --min-lr=-1", "--blr must be positive and --min-lr not negative"),
    ("--data {pack} --init {run} --weight-decay=-1", "--weight-decay must not be negative, got -1.0"),
    ("--data {pack} --init {run} --seed=-1", "--seed must not be negative, got -1"),
    ("--data {pack} --init {run} --randaugment 11", "--randaugment must lie in 0..10, got 11.0"),
    ("--data {pack} --init {run} --erasing 2", "--erasing must lie in 0..1, got 2.0"),
    ("--data {pack} --init {run} --mixup=-1", "--mixup and --cutmix must not be negative, got -1.0 and 0.0"),
    ("--data {pack} --init {run} --ema 1", "--ema must be at least 0 and below 1, got 1.0"),
    ("--data {pack} --init {run} --crop-scale 0.5 0.2", "crop.scale must be an increasing range"),
    ("--data {pack} --init {run} --out {run} --resume", "holds a pretrain run, not a finetune run"),
]
PROBE = [
    ("--data {pack} --init {missing}", "missing is not a run: it has no run.json"),
    ("--data {pack} --init {finetuned}", "finetuned is a finetune run; a pretrain run is needed"),
    ("--data {unlabeled} --init {run}", "red has no labels"),
    ("--data {pack} --init {run} --test {animals}", "animals has other classes than the training set"),
    ("--data {pack} --init {run} --out {probed}", "holds a run already"),
    ("--data {pack} --init {run} --features cls cls", "head.inputs must be 'cls', 'mean' or both"),
    ("--data {pack} --init {run} --neighbors 200", "--neighbors 200 asks for more than the 108 images to learn from"),
    ("--data {pack} --init {run} --penalties=-1", "--penalties must be at least one value, none negative"),
]
PACK = [
    ("--data {missing}", "missing is neither a folder nor a file"),
    ("--data {empty}", "empty holds no images"),
    ("--data {corrupt}", "none of the first 64 images could be read"),
    ("--data {corrupt} --size 8", "none of 1 images could be read; see"),
    ("--data {photos} --out {pack}", "exists; remove it or choose another --out"),
    ("--data {photos} --size 0", "--size must be at least 1, got 0"),
    ("--data {photos} --size 8 --width=-2", "--width must be at least 1, got -2"),
    ("--data {photos} --width 8", "--width goes with --size, which is then the height"),
]


def cases() -> list[Any]:
    groups = {"pretrain": PRETRAIN, "finetune": FINETUNE, "probe": PROBE, "pack": PACK}
    return [
        pytest.param(f"training.{module}", line, message, id=f"{module} {line}")
        for module, group in groups.items()
        for line, message in group
    ]


@pytest.mark.parametrize(("module", "line", "message"), cases())
def test_bad_input_is_one_line_and_leaves_no_run(
    module: str, line: str, message: str, place: dict[str, Path], tmp_path: Path, command: Command
) -> None:
    if "--out" not in line:
        line += f" --out {tmp_path / 'out'}"
    outcome = command(module, *line.format(**place).split())
    assert outcome.status == NOT_DONE
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert message in outcome.err
    assert len(outcome.err.splitlines()) == 1
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize("module", ["pretrain", "finetune", "probe", "pack"])
def test_a_flag_that_is_missing_or_unknown_is_a_usage_error(module: str, command: Command) -> None:
    for arguments in ((), ("--data", "a", "--out", "b", "--init", "c", "--colour", "red")):
        outcome = command(f"training.{module}", *arguments)
        assert (outcome.status, outcome.out) == (NOT_DONE, "")
        assert outcome.err.startswith("error: ")
        assert len(outcome.err.splitlines()) <= 3


def test_weights_cut_short_are_one_line(place: dict[str, Path], tmp_path: Path, command: Command) -> None:
    """Of a network's worth of missing keys, a line's worth is shown."""
    run = tmp_path / "run"
    run.mkdir()
    for name in ("run.json", "model.json"):
        (run / name).write_bytes((place["run"] / name).read_bytes())
    (run / "model.safetensors").write_bytes((place["probed"] / "model.safetensors").read_bytes())
    outcome = command("training.probe", "--data", place["pack"], "--init", run, "--out", tmp_path / "out")
    assert outcome.status == NOT_DONE
    assert len(outcome.err.splitlines()) == 1
    assert "does not hold weights that this version reads: Error(s) in loading state_dict" in outcome.err
    assert outcome.err.endswith(" ...\n")


def test_a_damaged_checkpoint_is_one_line(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], command: Command
) -> None:
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    arguments = ["--data", packed.folder, "--out", tmp_path / "run", "--epochs", 1, *flags]
    assert command("training.pretrain", *arguments).status == 0
    checkpoint = tmp_path / "run" / "checkpoint.pt"
    checkpoint.write_bytes(checkpoint.read_bytes()[:1000])
    outcome = command("training.pretrain", *arguments, "--resume")
    assert outcome.status == NOT_DONE
    assert outcome.err.splitlines()[-1] == f"error: {checkpoint} is damaged or no checkpoint; remove it to start over"
    checkpoint.unlink()
    assert command("training.pretrain", *arguments, "--resume").status == 0


# What good input says


def test_pack_says_what_it_packed(photos: Path, tmp_path: Path, command: Command) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "good.jpg").write_bytes(next(photos.rglob("*.jpg")).read_bytes())
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"bad")
    out = tmp_path / "out"
    outcome = command(
        "training.pack", "--data", tmp_path / "photos", "--out", out, "--size", 20, "--width", 30, "--name", "holiday"
    )
    assert outcome.status == 0
    assert outcome.out.splitlines() == [
        f"{out}: 1 images of 20x30, 1 unreadable",
        f"the unreadable ones are listed in {out / 'corrupt.jsonl'}",
    ]
    assert PackedDataset(out).info.name == "holiday"


def test_each_command_ends_with_its_result_on_stdout(
    packed: PackedDataset,
    other_photos: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The three commands of the documentation, one after the other; the first with its report."""
    monkeypatch.setattr("training.pretraining.write_report", write_report)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    run, labeled = tmp_path / "run", ["--data", packed.folder, "--test", other_photos, "--init", tmp_path / "run"]
    pretrained = command("training.pretrain", "--data", packed.folder, "--out", run, "--epochs", 2, *flags)
    assert pretrained.status == 0
    assert pretrained.out == (
        f"{run}: the weights, report.html and reconstructions/; next: python -m export {run} --out BUNDLE\n"
    )
    assert (run / "report.html").read_text().startswith("<!doctype html>")
    assert "120 images of 32x32, patches of 8; tiny 192x1, decoder 32x1" in pretrained.err
    finetuned = command("training.finetune", *labeled, "--out", tmp_path / "tuned", "--epochs", 1)
    assert finetuned.status == 0
    assert finetuned.out.startswith(f"{tmp_path / 'tuned'}: val_top1 ")
    assert "test_top1" in finetuned.out
    assert "108 images to train on, 12 held out, 3 classes; from " in finetuned.err
    probed = command("training.probe", *labeled, "--out", tmp_path / "probed")
    assert probed.status == 0
    assert probed.out.splitlines()[-1].startswith(f"{tmp_path / 'probed'}: probe_val_top1 ")
    assert "cls mean" in probed.out  # a row of the table


# What the commands share


@pytest.mark.parametrize("error", [TrainingError, ValueError, OSError])
def test_a_paragraph_becomes_a_line(error: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise error("first line\n\tsecond line\n" + "more " * 500)

    with pytest.raises(SystemExit) as caught:
        run_command(command)
    assert caught.value.code == NOT_DONE
    err = capsys.readouterr().err
    assert err.startswith("error: first line second line more")
    assert err.count("\n") == 1
    assert len(err) < 700


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, TERMINATED), (signal.SIGINT, INTERRUPTED)])
def test_a_stopped_command_says_so_with_the_signal_s_status(
    number: int, status: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise Terminated("stopped at step 3", number)

    with pytest.raises(SystemExit) as caught:
        run_command(command)
    assert caught.value.code == status
    assert capsys.readouterr().err == "stopped at step 3\n"


def test_of_several_processes_one_says_that_they_were_stopped(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command() -> None:
        raise Terminated("stopped at step 3", signal.SIGTERM)

    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as caught:
        run_command(command)
    assert caught.value.code == TERMINATED
    assert capsys.readouterr().err == ""


def test_a_run_that_went_wrong_has_another_status_than_one_that_cannot_be(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise RunFailed("the loss is nan")

    with pytest.raises(SystemExit) as caught:
        run_command(command)
    assert caught.value.code == BAD_RESULT
    assert capsys.readouterr().err == "error: the loss is nan\n"


def test_memory_that_is_too_small_is_told_by_the_flags_that_help(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> None:
        raise torch.OutOfMemoryError("tried to allocate 2 TB")

    with pytest.raises(SystemExit) as caught:
        run_command(command)
    assert caught.value.code == NOT_DONE
    err = capsys.readouterr().err
    assert "raise --accumulate, add --recompute or lower --batch-size (tried to allocate 2 TB)" in err


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    def command() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        run_command(command)
