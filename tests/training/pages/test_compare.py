"""Pre-trained against from scratch: equal budgets, choices by validation, the test set once, after any stop."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import training.comparing as module
from tests.binary_files import random_images, write_stl
from training.compare import CompareConfig, compare
from training.errors import Terminated, TrainingError
from training.finetune import FinetuneConfig
from training.pages.comparison import epochs_to_reach, write_comparison
from training.plans import PLANS, Plan, PlanFlags, plan_for

Read = Callable[[Path], Any]


@pytest.fixture(scope="module")
def config(
    photos: Path, other_photos: Path, tiny: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> CompareConfig:
    network = {k: v for k, v in tiny.items() if k != "batch_size"}
    return CompareConfig(
        data=photos, test=other_photos, out=tmp_path_factory.mktemp("comparison") / "out", fractions=(0.1, 0.5),
        seeds=(0, 1), blrs=(1e-6, 2e-3), pretrain_epochs=2, pretrain_batch_size=30, epochs=3, batch_size=8,
        pretrain_set=("mask-ratio=0.5",), finetune_set=("finetune_recipe=plain", "crop-scale=0.5,1"), **network,
    )  # fmt: skip


@pytest.fixture(scope="module")
def seen() -> list[FinetuneConfig]:
    """What was fine-tuned, in order."""
    return []


@pytest.fixture(scope="module")
def document(config: CompareConfig, seen: list[FinetuneConfig]) -> dict[str, Any]:
    from training.finetune import finetune as real

    def finetune(asked: FinetuneConfig) -> dict[str, float]:
        seen.append(asked)
        return real(asked)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "finetune", finetune)
        return compare(config)


def last_val_loss(run: Path) -> float:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    last: float = [row["val_loss"] for row in rows if "val_loss" in row][-1]
    return last


def test_both_arms_have_the_same_budget_network_and_labels(
    config: CompareConfig, document: dict[str, Any], seen: list[FinetuneConfig]
) -> None:
    ours = [c for c in seen if not c.from_scratch]
    theirs = [c for c in seen if c.from_scratch]
    for a, b in zip(ours, theirs, strict=True):
        same = ("data", "epochs", "batch_size", "seed", "label_fraction", "crop_scale", "finetune_recipe")
        assert [getattr(a, name) for name in same] == [getattr(b, name) for name in same]
    assert {c.crop_scale for c in seen} == {(0.5, 1.0)}
    for fraction in config.fractions or ():
        pair = [arm for arm in document["arms"] if arm["fraction"] == fraction]
        steps = {run["steps"] for arm in pair for run in arm["runs"]}
        assert len(steps) == 1
    networks = [json.loads((config.out / "runs" / arm["runs"][0]["name"] / "model.json").read_text())
                for arm in document["arms"]]  # fmt: skip
    shapes = [{k: v for k, v in n["config"]["encoder"].items() if k not in ("mean", "std")} for n in networks]
    assert all(shape == shapes[0] for shape in shapes)
    assert json.loads((config.out / "runs" / "pretrained" / "run.json").read_text())["config"]["mask_ratio"] == 0.5


def test_choices_are_made_on_the_validation_split_and_the_test_set_is_seen_by_the_chosen_alone(
    document: dict[str, Any], seen: list[FinetuneConfig]
) -> None:
    assert len(seen) == 2 * 2 * (2 + 2)  # arms, fractions; rates to try, seeds
    for arm in document["arms"]:
        own = [c for c in seen if c.from_scratch == (arm["arm"] == "scratch") and c.label_fraction == arm["fraction"]]
        assert [(c.seed, c.blr, c.test is None) for c in own[:2]] == [(0, 1e-6, True), (0, 2e-3, True)]
        assert [(c.seed, c.blr, c.test is None) for c in own[2:]] == [(s, arm["blr"], False) for s in (0, 1)]
        tried = {c.blr: c.out for c in own[:2]}
        metrics = {blr: json.loads((out / "run.json").read_text())["metrics"] for blr, out in tried.items()}
        losses = {blr: last_val_loss(out) for blr, out in tried.items()}
        assert arm["blr"] == max(tried, key=lambda blr: (metrics[blr]["val_top1"], -losses[blr]))
        assert [blr for blr in tried if "test_top1" in metrics[blr]] == [arm["blr"]]


def test_means_and_deviations_are_those_of_the_runs(config: CompareConfig, document: dict[str, Any]) -> None:
    assert json.loads((config.out / "compare.json").read_text())["arms"] == document["arms"]
    for arm in document["arms"]:
        files = [config.out / "runs" / run["name"] / "run.json" for run in arm["runs"]]
        values = [json.loads(file.read_text())["metrics"]["test_top1"] for file in files]
        a, b = values
        assert arm["summary"]["test_top1"]["mean"] == pytest.approx((a + b) / 2)
        assert arm["summary"]["test_top1"]["std"] == pytest.approx(abs(a - b) / 2**0.5)


def test_the_page_says_what_compare_json_says(config: CompareConfig, document: dict[str, Any], read_page: Read) -> None:
    page = read_page(config.out / "compare.html")
    assert list(page.sections) == [
        "result", "probes", "curves", "classes", "features", "reconstructions", "choices", "budgets", "environment",
        "configuration", "repeat",
    ]  # fmt: skip
    for arm in document["arms"]:
        summary = arm["summary"]["test_top1"]
        (row,) = [row for row in page.tables[0] if row[0] == f"{100 * arm['fraction']:g} %"]
        said = f"{100 * summary['mean']:.1f} % ± {100 * summary['std']:.1f}"
        assert row[1 if arm["arm"] == "pretrained" else 2] == said
    assert "damaged" not in config.out.joinpath("compare.html").read_text()
    assert sum("Confusion matrix of" in alt for alt in page.alts) == 2
    assert sum("t-SNE map of 120 images" in alt for alt in page.alts) == 2
    assert any("Reconstructions after epoch 2" in alt for alt in page.alts)
    assert "0.5, 1" not in page.verdict
    probed = document["probes"][0]["metrics"]["probe_test_top1"]
    assert f"{100 * probed:.1f} %" in page.sections["probes"]


def test_the_maps_are_of_two_encoders(config: CompareConfig, document: dict[str, Any]) -> None:
    assert document["status"] == "finished"
    with np.load(config.out / "features.npz") as arrays:
        assert arrays["pretrained"].shape == arrays["scratch"].shape == (120, 2)
        assert not np.allclose(arrays["pretrained"], arrays["scratch"])
        assert sorted(np.unique(arrays["labels"])) == [0, 1, 2]


@pytest.mark.usefixtures("document")
def test_nothing_is_done_twice(config: CompareConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("pretrain", "probe", "finetune"):
        monkeypatch.setattr(module, name, lambda asked: pytest.fail(f"{asked.out} was run again"))
    before = json.loads((config.out / "compare.json").read_text())
    again = compare(config)
    assert [arm["summary"] for arm in again["arms"]] == [arm["summary"] for arm in before["arms"]]


@pytest.mark.usefixtures("document")
def test_another_setting_in_the_same_folder_is_refused(config: CompareConfig) -> None:
    with pytest.raises(TrainingError, match="begun with another --epochs: it was 3 and is 4 now; choose another --out"):
        compare(replace(config, epochs=4))


@pytest.mark.usefixtures("document")
def test_a_failed_run_is_shown_and_the_others_go_on(
    config: CompareConfig, tmp_path: Path, read_page: Read, command: Callable[..., Any]
) -> None:
    """One whose folder is damaged, among others that are not."""
    run, out = config.out / "runs" / "pretrained", tmp_path / "out"
    damaged = out / "runs" / "scratch-0.2-seed0-blr0.001"
    damaged.mkdir(parents=True)
    (damaged / "checkpoint.pt").write_text("no checkpoint")
    arguments = [
        "--data", config.out / "pack", "--test", config.out / "pack-test", "--init", run, "--out", out,
        "--fractions", 0.2, 0.3, "--seeds", 0, "--blrs", 1e-3, "--epochs", 1, "--batch-size", 8,
        "--finetune-set", "finetune-recipe=plain",
    ]  # fmt: skip
    outcome = command("training.compare", *arguments)
    assert outcome.status == 1
    assert f"failed: scratch-0.2-seed0-blr0.001: {damaged / 'checkpoint.pt'} is damaged" in outcome.out
    assert "Traceback" not in outcome.err
    assert outcome.out.splitlines()[-1] == str(out / "compare.html")
    page = read_page(out / "compare.html")
    assert page.tables[0][1][0] == "20 %"
    assert page.tables[0][1][1].endswith(" %")
    assert page.tables[0][1][2] == "\N{EN DASH}"
    assert all(cell.endswith(" %") for cell in page.tables[0][2][1:3])
    assert "Failed: scratch-0.2-seed0-blr0.001: " in page.sections["result"]
    assert page.verdict.endswith("Failed runs: 1.")
    assert json.loads((out / "compare.json").read_text())["status"] == "failed"


def test_a_fraction_that_leaves_nothing_to_hold_out_is_refused_before_the_pretraining(
    config: CompareConfig, tmp_path: Path
) -> None:
    few = replace(config, out=tmp_path / "out", fractions=(1.0, 0.01))
    with pytest.raises(TrainingError, match="no class has two images, so none can be held out"):
        compare(few)
    assert not (tmp_path / "out" / "runs").exists()


def test_a_stop_keeps_what_is_done_and_the_same_call_ends_with_the_same_weights(
    config: CompareConfig,
    document: dict[str, Any],
    tmp_path: Path,
    terminated_once: Callable[[Callable[[], bool]], AbstractContextManager[None]],
) -> None:
    """Stopped once in the pre-training, and once somewhere in the fine-tunings."""
    stopped = replace(
        config,
        out=tmp_path / "out",
        data=config.out / "pack",
        test=config.out / "pack-test",
        fractions=(0.5,),
        seeds=(0,),
    )
    expected = [(arm, arm["runs"][0]) for arm in document["arms"] if arm["fraction"] == 0.5]
    runs = stopped.out / "runs"
    with terminated_once((runs / "pretrained" / "run.json").exists), pytest.raises(Terminated, match="goes on"):
        compare(stopped)
    assert not (stopped.out / "compare.json").exists()
    with terminated_once((runs / expected[1][1]["name"]).exists), pytest.raises(Terminated, match="goes on"):
        compare(stopped)
    again = compare(stopped)
    for ours, (arm, run) in zip(again["arms"], expected, strict=True):
        assert ours["tried"] == arm["tried"]
        assert ours["runs"][0]["metrics"] == run["metrics"]
        weights = [(out / "runs" / run["name"] / "model.safetensors").read_bytes() for out in (config.out, stopped.out)]
        assert weights[0] == weights[1]


@pytest.mark.usefixtures("document")
def test_a_damaged_piece_does_not_break_the_page(config: CompareConfig, tmp_path: Path, read_page: Read) -> None:
    out = tmp_path / "out"
    shutil.copytree(config.out, out)
    (out / "features.npz").write_bytes(b"no")
    for run in (out / "runs").glob("scratch-*"):
        (run / "run.json").write_text("{")
    page = read_page(write_comparison(out))
    assert "features.npz is damaged" in page.sections["features"]
    assert page.tables[0][1][2].startswith(("1", "2", "3", "4", "5", "6", "7", "8", "9", "0"))
    assert sum("Confusion matrix of" in alt for alt in page.alts) == 1


def test_epochs_until_one_is_as_good_as_the_other_s_best() -> None:
    best_in_the_middle = np.array([0.2, 0.6, 0.5])
    assert epochs_to_reach(np.array([0.5, 0.6, 0.9]), best_in_the_middle) == 2
    assert epochs_to_reach(np.array([0.7, 0.1, 0.1]), best_in_the_middle) == 1
    assert epochs_to_reach(np.array([0.1, 0.2, 0.3]), best_in_the_middle) is None


def test_a_plan_holds_where_no_flag_sets_it() -> None:
    assert plan_for("cifar10", PlanFlags()) == PLANS["cifar10"]
    assert plan_for("cifar10", PlanFlags(seeds=(7,), depth=2)) == replace(PLANS["cifar10"], seeds=(7,), depth=2)
    assert plan_for(None, PlanFlags()) == Plan()


BAD = [
    ("--fractions 0", "--fractions must be at least one value, all in (0, 1], got (0.0,)"),
    ("--seeds 1 1", "--seeds must not name a value twice, got (1, 1)"),
    ("--blrs=-1", "--blrs must be at least one value, all positive"),
    ("--epochs 0", "--epochs must be at least 1, got 0"),
    ("--finetune-set mixup", "--finetune-set takes NAME=VALUE"),
    ("--finetune-set seed=3", "--finetune-set takes NAME=VALUE, a flag of the run that is not set elsewhere"),
    ("--finetune-set mixup=much", "--mixup takes float | None, got 'much'"),
    ("--init {out} --depth 2", "--depth does not go with --init, which is pre-trained already"),
    ("--init {out}", "is not a run: it has no run.json"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_input_is_one_line(
    line: str, message: str, photos: Path, other_photos: Path, tmp_path: Path, command: Callable[..., Any]
) -> None:
    out = tmp_path / "out"
    given = line.format(out=tmp_path).split()
    outcome = command("training.compare", "--data", photos, "--test", other_photos, "--out", out, *given)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert not (out / "runs").exists()


def test_stl10_is_one_command(tmp_path: Path) -> None:
    """Files of a few images in the published format: its splits are pre-trained, fine-tuned and tested on as meant."""
    files = tmp_path / "files" / "stl10_binary"
    for split, count in (("train", 12), ("test", 4), ("unlabeled", 8)):
        write_stl(files / f"{split}_X.bin", random_images(count, 96))
    (files / "train_y.bin").write_bytes(bytes([1, 2] * 6))
    (files / "test_y.bin").write_bytes(bytes([1, 2, 2, 1]))
    (files / "class_names.txt").write_text("airplane\nbird\n")
    command = [
        "--data", f"stl10:{files.parent}", "--plan", "stl10", "--out", str(tmp_path / "out"), "--depth", "1",
        "--decoder-depth", "1", "--pretrain-epochs", "1", "--epochs", "1", "--seeds", "0", "--blrs", "1e-3",
        "--fractions", "1", "--device", "cpu",
    ]  # fmt: skip
    done = subprocess.run([sys.executable, "-m", "training.compare", *command], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out" / "compare.json").read_text())
    assert (document["data"]["num_images"], document["data"]["num_test"]) == (12, 4)
    assert document["classes"] == ["airplane", "bird"]
    run = json.loads((tmp_path / "out" / "runs" / "pretrained" / "run.json").read_text())
    assert (run["data"]["num_images"], run["data"]["pack_size"]) == (20, [96, 96])
    assert {arm["arm"]: len(arm["runs"]) for arm in document["arms"]} == {"pretrained": 1, "scratch": 1}
    assert all("test_top1" in arm["summary"] for arm in document["arms"])
    assert "compare.html" in done.stdout


def test_what_has_no_test_split_needs_one(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"photos has no test split of its own; give --test"):
        CompareConfig(data="photos", out=tmp_path)
