"""A grid of pre-trainings: every cell once, ranked by what its features are worth, whatever stops it in between."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import training.sweeping as module
from training.errors import TrainingError
from training.packed import PackedDataset
from training.pages.grid import grid_figure, ranked
from training.sweep import SweepConfig, grid, sweep

Read = Callable[[Path], Any]
TIMEOUT_S = 120


def config_of(data: Path, out: Path, **changes: Any) -> SweepConfig:
    return SweepConfig(
        **{
            "data": data, "out": out, "mask_ratio": "0.5,0.75", "decoder_depth": "1,2", "recipe": "px32", "depth": "1",
            "patch_size": "8", "decoder_dim": "32", "decoder_heads": 2, "batch_size": 30, "epochs": 1, **changes,
        }
    )  # fmt: skip


@pytest.fixture(scope="module")
def config(packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory) -> SweepConfig:
    return config_of(packed.folder, tmp_path_factory.mktemp("sweep") / "out")


@pytest.fixture(scope="module")
def document(config: SweepConfig) -> dict[str, Any]:
    return sweep(config)


def weights(out: Path) -> dict[str, bytes]:
    """Of every finished run."""
    return {path.parent.name: path.read_bytes() for path in sorted(out.glob("runs/*/model.safetensors"))}


def test_the_grid_is_every_combination() -> None:
    assert grid({"a": [1, 2], "b": ["x", "y"]}) == [
        {"a": 1, "b": "x"}, {"a": 1, "b": "y"}, {"a": 2, "b": "x"}, {"a": 2, "b": "y"},
    ]  # fmt: skip


def test_every_cell_is_the_run_that_its_values_say(config: SweepConfig, document: dict[str, Any]) -> None:
    expected = [{"mask_ratio": r, "decoder_depth": d} for r in (0.5, 0.75) for d in (1, 2)]
    assert [cell["values"] for cell in document["cells"]] == expected
    for cell in document["cells"]:
        run = json.loads((config.out / "runs" / cell["name"] / "run.json").read_text())
        asked = {k: run["config"][k] for k in ("mask_ratio", "decoder_depth", "depth", "epochs", "batch_size")}
        assert asked == {**cell["values"], "depth": 1, "epochs": 1, "batch_size": 30}
        assert run["recipe"]["decoder_depth"] == cell["values"]["decoder_depth"]
        probed = json.loads((config.out / "runs" / (cell["name"] + "_probe") / "run.json").read_text())
        assert probed["config"]["init"] == str(config.out / "runs" / cell["name"])
        assert cell["metrics"]["probe_val_top1"] == probed["metrics"]["probe_val_top1"]
        assert cell["metrics"]["reconstruction_loss"] == run["metrics"]["reconstruction_loss"]
    assert document["status"] == "finished"


def test_the_page_says_what_sweep_json_says(config: SweepConfig, document: dict[str, Any], read_page: Read) -> None:
    page = read_page(config.out / "sweep.html")
    assert list(page.sections) == ["result", "reconstructions", "environment", "configuration", "repeat"]
    cells = sorted(document["cells"], key=lambda cell: -cell["metrics"]["probe_val_top1"])
    assert [row[2] for row in page.tables[0][1:]] == [f"{100 * c['metrics']['probe_val_top1']:.1f} %" for c in cells]
    for cell in cells:
        values = [str(value) for value in cell["values"].values()]
        (row,) = [row for row in page.tables[0] if row[:2] == values]
        assert row[3] == f"{cell['metrics']['reconstruction_loss']:.4g}"
    assert "compares only with those of the same target, loss, mask ratio" in page.sections["result"]
    assert sum(alt.startswith("Reconstructions with mask ratio") for alt in page.alts) == 4
    assert json.loads((config.out / "sweep.json").read_text())["cells"] == document["cells"]
    with Image.open(config.out / "sweep.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


@pytest.mark.usefixtures("document")
def test_nothing_is_done_twice_and_an_axis_can_grow(config: SweepConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    from training.pretrain import pretrain as real

    def pretrain(asked: Any) -> Path:
        started.append(asked.decoder_depth)
        return real(asked)

    before = weights(config.out)
    monkeypatch.setattr(module, "pretrain", pretrain)
    sweep(config)
    assert started == []
    sweep(replace(config, decoder_depth="1,2,3"))
    assert started == [3, 3]
    after = weights(config.out)
    assert {name: after[name] for name in before} == before
    with pytest.raises(TrainingError, match="begun with another --epochs"):
        sweep(replace(config, epochs=2))


def test_killed_at_any_moment_the_same_command_ends_with_the_same_weights(
    config: SweepConfig, document: dict[str, Any], tmp_path: Path
) -> None:
    killed = replace(config, out=tmp_path / "out")
    named = {k: v for k, v in vars(killed).items() if v is not None and v != ()}
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in named.items()]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        [sys.executable, "-m", "training.sweep", *flags], stderr=subprocess.PIPE, env=environment
    )
    second = killed.out / "runs" / document["cells"][1]["name"] / "run.json"
    deadline = time.monotonic() + TIMEOUT_S
    while not second.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.kill()
    process.communicate(timeout=TIMEOUT_S)
    assert not (killed.out / "sweep.json").exists()
    first = killed.out / "runs" / document["cells"][0]["name"] / "model.safetensors"
    written = first.stat().st_mtime_ns
    again = sweep(killed)
    assert [cell["metrics"] for cell in again["cells"]] == [cell["metrics"] for cell in document["cells"]]
    assert first.stat().st_mtime_ns == written
    ours, theirs = weights(killed.out), weights(config.out)
    assert {name: theirs[name] for name in ours} == ours
    assert len(ours) == 8


def test_a_failed_cell_is_shown_and_the_others_go_on(
    config: SweepConfig, tmp_path: Path, command: Callable[..., Any], read_page: Read
) -> None:
    arguments = {**vars(config), "out": tmp_path / "out", "mask_ratio": "0.99,0.5", "decoder_depth": "1"}
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in arguments.items() if v is not None and v != ()]
    outcome = command("training.sweep", *flags)
    assert outcome.status == 1
    assert "mask_ratio 0.99 keeps none of 16 patches; lower it" in outcome.out
    assert "Traceback" not in outcome.err
    document = json.loads((tmp_path / "out" / "sweep.json").read_text())
    assert [cell["error"] is None for cell in document["cells"]] == [False, True]
    page = read_page(tmp_path / "out" / "sweep.html")
    assert [row[0] for row in page.tables[0][1:]] == ["0.5", "0.99"]  # the one that failed is the last
    assert "keeps none of 16 patches" in page.sections["result"]
    assert "There is no picture of mask ratio 0.99." in page.sections["reconstructions"]


def test_without_labels_nothing_is_ranked(photos: Path, tmp_path: Path, read_page: Read) -> None:
    document = sweep(config_of(photos / "red", tmp_path / "out", decoder_depth=None, loss="mse,l1", mask_ratio=None))
    assert [cell["values"] for cell in document["cells"]] == [{"loss": "mse"}, {"loss": "l1"}]
    assert document["probed"] is False
    page = read_page(tmp_path / "out" / "sweep.html")
    assert page.verdict == "2 pre-trainings; there were no labels to tell the better features by."
    assert "Give labels by --probe-data to rank the runs." in page.sections["result"]
    assert [row[0] for row in page.tables[0][1:]] == ["mse", "l1"]


def test_a_test_set_is_looked_at_by_every_probe(packed: PackedDataset, tmp_path: Path, read_page: Read) -> None:
    asked = config_of(packed.folder, tmp_path / "out", decoder_depth=None, test=packed.folder, label_fraction=0.5)
    document = sweep(asked)
    page = read_page(tmp_path / "out" / "sweep.html")
    assert page.tables[0][0][:4] == ["mask ratio", "probe", "test", "loss"]
    for cell in document["cells"]:
        probed = json.loads((asked.out / "runs" / (cell["name"] + "_probe") / "run.json").read_text())
        assert (probed["num_test"], probed["num_train"] + probed["num_val"]) == (len(packed), len(packed) / 2)
        (row,) = [row for row in page.tables[0] if row[0] == str(cell["values"]["mask_ratio"])]
        assert row[2] == f"{100 * probed['metrics']['probe_test_top1']:.1f} %"
    with pytest.raises(TrainingError, match="begun with another --test"):
        sweep(replace(asked, test=None))


def made_up(axes: dict[str, list[Any]], scores: list[float]) -> dict[str, Any]:
    cells = [
        {"name": str(i), "values": values, "metrics": {"probe_val_top1": score} if score >= 0 else {}, "error": None}
        for i, (values, score) in enumerate(zip(grid(axes), scores, strict=True))
    ]
    return {"axes": axes, "cells": cells, "probed": True}


def test_one_axis_of_numbers_is_a_line_and_one_of_names_bars() -> None:
    line: Any = grid_figure(made_up({"mask_ratio": [0.9, 0.5, 0.75]}, [0.3, 0.1, 0.2]))
    assert line.axes[0].lines[0].get_xydata().tolist() == [[0.5, 0.1], [0.75, 0.2], [0.9, 0.3]]
    bars: Any = grid_figure(made_up({"loss": ["mse", "l1"]}, [0.3, 0.1]))
    assert [patch.get_height() for patch in bars.axes[0].patches] == [0.3, 0.1]


def test_several_axes_are_a_matrix_whose_longest_axis_lies_across() -> None:
    document = made_up({"loss": ["mse", "l1"], "mask_ratio": [0.5, 0.75, 0.9]}, [0.1, 0.2, 0.3, 0.4, -1, 0.6])
    axes = grid_figure(document).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["0.5", "0.75", "0.9"]
    assert [t.get_text() for t in axes.get_yticklabels()] == ["mse", "l1"]
    texts = [t.get_text() for t in axes.texts]
    assert texts == ["10.0 %", "20.0 %", "30.0 %", "40.0 %", "failed", "60.0 %"]
    strengths = [patch.get_alpha() for patch in axes.patches]
    assert strengths == pytest.approx([0.1, 0.28, 0.46, 0.64, 0.0, 1.0])
    assert [cell["name"] for cell in ranked(document)] == ["5", "3", "2", "1", "0", "4"]


def test_three_axes_share_the_rows() -> None:
    axes: dict[str, list[Any]] = {
        "loss": ["mse", "l1"],
        "target": ["raw", "normalized"],
        "mask_ratio": [0.5, 0.75, 0.9],
    }
    figure = grid_figure(made_up(axes, np.linspace(0, 1, 12).tolist()))
    rows = [t.get_text() for t in figure.axes[0].get_yticklabels()]
    assert rows == ["mse, raw", "mse, normalized", "l1, raw", "l1, normalized"]
    assert [t.get_text() for t in figure.axes[0].texts][-1] == "100.0 %"


BAD = [
    ("", "a sweep needs at least one axis, such as --mask-ratio 0.5,0.75,0.9"),
    ("--mask-ratio 0.5,x", "--mask-ratio takes float | None, got 'x'"),
    ("--mask-ratio 0.5,1.5", "--mask-ratio must lie between 0 and 1, got 1.5"),
    ("--mask-ratio 0.5,0.50", "--mask-ratio must not name a value twice, got 0.5,0.50"),
    ("--loss mse,l2", "--loss takes Literal['mse', 'l1'], got 'l2'"),
    ("--decoder-depth 1,2 --pretrain-set epochs=3", "--pretrain-set takes NAME=VALUE"),
    ("--decoder-depth 1,2 --probe-data {red}", "has no labels"),
    ("--decoder-depth 1,2 --test {red}", "has no labels"),
    ("--decoder-depth 1,2 --label-fraction 0", "--label-fraction must lie above 0 and at most at 1, got 0"),
    ("--decoder-depth 1,2 --device gpu", "--device 'gpu' is not a device; use cpu or cuda"),
]


@pytest.mark.parametrize(("line", "message"), BAD)
def test_bad_input_is_one_line(
    line: str, message: str, photos: Path, packed: PackedDataset, tmp_path: Path, command: Callable[..., Any]
) -> None:
    given = line.format(red=photos / "red").split()
    outcome = command("training.sweep", "--data", packed.folder, "--out", tmp_path / "out", *given)
    assert outcome.status == 2
    assert message in outcome.err
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1
    assert not (tmp_path / "out" / "runs").exists()
