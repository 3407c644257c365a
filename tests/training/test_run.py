"""A run's folder: begun once, gone on with only as the same run, and never left with half a file."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch

from training.errors import TrainingError
from training.packed import PackedDataset
from training.run import (
    CHECKPOINT_FILE,
    METRICS_FILE,
    RUN_FILE,
    Run,
    data_fields,
    load_checkpoint,
    read_run,
    save_checkpoint,
    write_labels,
)

CONFIG: dict[str, Any] = {"epochs": 5, "crop_scale": (0.2, 1.0), "data": Path("photos"), "resume": False, "blr": None}


def begin(out: Path, **changes: Any) -> Run:
    run = Run(out, "pretrain", {**CONFIG, **changes}, resume=False)
    run.describe(epochs=5)
    return run


def test_run_json_says_what_was_asked_and_what_came(tmp_path: Path) -> None:
    run = begin(tmp_path / "run")
    run.describe(metrics={"loss": 0.5})
    document = json.loads((tmp_path / "run" / RUN_FILE).read_text())
    assert document["kind"] == "pretrain"
    assert document["config"] == {**CONFIG, "crop_scale": [0.2, 1.0], "data": "photos"}
    assert document["epochs"] == 5
    assert document["metrics"] == {"loss": 0.5}
    assert "git_commit" in document
    assert read_run(tmp_path / "run", "pretrain", "finetune") == document


def test_nothing_is_written_before_the_run_is_described(tmp_path: Path) -> None:
    Run(tmp_path / "run", "pretrain", CONFIG, resume=False)
    assert not (tmp_path / "run").exists()


def test_a_run_is_not_begun_twice(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(TrainingError, match="holds a run already; add --resume to go on with it"):
        Run(tmp_path, "pretrain", CONFIG, resume=False)


@pytest.mark.parametrize(("name", "value"), [("epochs", 6), ("crop_scale", (0.5, 1.0)), ("blr", 0.1)])
def test_resume_with_a_changed_flag_names_it(name: str, value: Any, tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(TrainingError, match=f"--resume with another --{name.replace('_', '-')}: it was .* now"):
        Run(tmp_path, "pretrain", {**CONFIG, name: value}, resume=True)


def test_what_changes_no_number_may_change(tmp_path: Path) -> None:
    begin(tmp_path)
    Run(tmp_path, "pretrain", {**CONFIG, "data": Path("moved"), "resume": True}, resume=True)


def test_resume_of_another_kind_is_refused(tmp_path: Path) -> None:
    begin(tmp_path)
    with pytest.raises(TrainingError, match="holds a pretrain run, not a finetune run"):
        Run(tmp_path, "finetune", CONFIG, resume=True)


def test_resume_begins_where_there_is_nothing(tmp_path: Path) -> None:
    run = Run(tmp_path / "run", "pretrain", CONFIG, resume=True)
    run.describe(epochs=5)
    assert run.load_state() is None


def test_resume_with_other_images_is_refused(packed: PackedDataset, tmp_path: Path) -> None:
    Run(tmp_path, "pretrain", CONFIG, resume=False).describe(data=data_fields(packed.info))
    again = Run(tmp_path, "pretrain", CONFIG, resume=True)
    again.describe(data=data_fields(packed.info, "another name"))
    with pytest.raises(TrainingError, match="--resume with other data: num_images was 120 and is 119 now"):
        again.describe(data={**data_fields(packed.info), "num_images": 119})


@pytest.mark.parametrize("content", ["{", "", "\xff"])
def test_a_damaged_run_json_is_said_to_be(content: str, tmp_path: Path) -> None:
    (tmp_path / RUN_FILE).write_bytes(content.encode("latin-1"))
    with pytest.raises(TrainingError, match=r"run\.json is not JSON"):
        Run(tmp_path, "pretrain", CONFIG, resume=True)


def test_read_run_wants_a_run_of_the_right_kind(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"is not a run: it has no run\.json"):
        read_run(tmp_path, "pretrain")
    begin(tmp_path)
    with pytest.raises(TrainingError, match="is a pretrain run; a finetune or probe run is needed"):
        read_run(tmp_path, "finetune", "probe")


def test_labels_keep_their_order_and_letters(tmp_path: Path) -> None:
    write_labels(tmp_path, ("zèbre", "猫"))
    assert json.loads((tmp_path / "labels.json").read_text()) == ["zèbre", "猫"]


# The state and the metrics that belong to it


def test_rows_after_the_state_are_dropped(tmp_path: Path) -> None:
    """A killed run has logged steps that it will repeat, and perhaps half a row."""
    run = begin(tmp_path)
    for step in (5, 10, 15):
        run.log({"step": step, "loss": step / 10})
    run.log({"step": 10, "epoch": 1, "val_top1": 0.5})
    with (tmp_path / METRICS_FILE).open("a") as f:
        f.write('{"step": 4, "lo')
    run.save_state({"step": 10, "model": {}})
    assert run.load_state() == {"step": 10, "model": {}}
    rows = [json.loads(line) for line in (tmp_path / METRICS_FILE).read_text().splitlines()]
    assert rows == [{"step": 5, "loss": 0.5}, {"step": 10, "loss": 1.0}, {"step": 10, "epoch": 1, "val_top1": 0.5}]


def test_without_a_state_every_row_is_dropped(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.log({"step": 5})
    assert run.load_state() is None
    assert (tmp_path / METRICS_FILE).read_text() == ""


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
def test_half_a_checkpoint_is_said_to_be(part: float, tmp_path: Path) -> None:
    path = tmp_path / CHECKPOINT_FILE
    save_checkpoint(path, {"step": 3, "model": {"weight": torch.zeros(100, 100)}})
    path.write_bytes(path.read_bytes()[: int(part * path.stat().st_size)])
    with pytest.raises(TrainingError, match=r"checkpoint.pt is damaged or no checkpoint; remove it to start over"):
        load_checkpoint(path)


@pytest.mark.parametrize("state", [{"model": {}}, [1, 2], None, {"step": "many"}])
def test_a_file_without_a_step_is_no_checkpoint(state: Any, tmp_path: Path) -> None:
    torch.save(state, tmp_path / CHECKPOINT_FILE)
    with pytest.raises(TrainingError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path / CHECKPOINT_FILE)


def test_a_checkpoint_runs_no_code(tmp_path: Path) -> None:
    torch.save({"step": 3, "path": tmp_path}, tmp_path / CHECKPOINT_FILE)  # a Path is an object, not data
    with pytest.raises(TrainingError, match="damaged or no checkpoint"):
        load_checkpoint(tmp_path / CHECKPOINT_FILE)


def test_a_full_disk_leaves_the_checkpoint_before(
    tmp_path: Path, full_disk: Callable[[int], AbstractContextManager[None]]
) -> None:
    path = tmp_path / CHECKPOINT_FILE
    first = {"step": 1, "weight": torch.ones(50_000)}
    save_checkpoint(path, first)
    before = path.read_bytes()
    with (
        full_disk(100_000),
        pytest.raises(TrainingError, match=f"the checkpoint could not be written to {tmp_path}"),
    ):
        save_checkpoint(path, {"step": 2, "weight": torch.zeros(50_000)})
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == [CHECKPOINT_FILE]
