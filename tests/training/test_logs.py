"""What a run writes for TensorBoard, read back by TensorBoard: once each, however often the run was stopped."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from training.errors import TrainingError
from training.logs import EventLog
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain
from training.run import Run

FullDisk = Callable[[int], AbstractContextManager[None]]


def read(folder: Path) -> Any:
    """Everything in the folder's event files, as TensorBoard puts it together."""
    return EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0}).Reload()


def scalars(folder: Path, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in read(folder).Scalars(tag)]


def begin(out: Path, *, resume: bool = False) -> Run:
    run = Run(out, "pretrain", {}, resume=resume, tensorboard=True)
    run.describe()
    return run


def test_every_value_of_a_row_is_a_scalar(tmp_path: Path) -> None:
    log = EventLog(tmp_path)
    log.scalars({"step": 4, "epoch": 0.5, "loss": 2.0, "lr": 0.125})
    log.scalars({"step": 8, "epoch": 1, "val_top1": 0.75})
    log.scalars({"step": 8, "epoch": 1, "loss": 1.5})
    log.flush()
    assert read(tmp_path).Tags()["scalars"] == ["loss", "lr", "val_top1"]
    assert scalars(tmp_path, "loss") == [(4, 2.0), (8, 1.5)]
    assert scalars(tmp_path, "val_top1") == [(8, 0.75)]


def test_a_picture_is_the_file(tmp_path: Path) -> None:
    picture = Image.fromarray(np.arange(60, dtype=np.uint8).reshape(4, 5, 3))
    picture.save(tmp_path / "picture.png")
    log = EventLog(tmp_path / "log")
    log.picture("reconstructions", 7, tmp_path / "picture.png")
    log.flush()
    (event,) = read(tmp_path / "log").Images("reconstructions")
    assert (event.step, event.width, event.height) == (7, 5, 4)
    np.testing.assert_array_equal(np.asarray(Image.open(io.BytesIO(event.encoded_image_string))), np.asarray(picture))


def test_nothing_is_written_until_there_is_something(tmp_path: Path) -> None:
    EventLog(tmp_path / "log").flush()
    assert not (tmp_path / "log").exists()


def test_rows_are_collected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = EventLog(tmp_path)
    log.scalars({"step": 1, "loss": 2.0})
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr("training.logs.FLUSH_EVERY_S", 0.0)
    log.scalars({"step": 2, "loss": 1.0})
    assert scalars(tmp_path, "loss") == [(1, 2.0), (2, 1.0)]


def test_what_was_collected_is_there_after_an_error(tmp_path: Path) -> None:
    """Whoever lets go of the log, by returning or by raising, has it written."""

    def fail() -> None:
        EventLog(tmp_path).scalars({"step": 1, "loss": 2.0})
        raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert scalars(tmp_path, "loss") == [(1, 2.0)]


def test_what_was_collected_is_there_after_an_exit(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from training.logs import EventLog\n"
        f"log = EventLog(Path({str(tmp_path)!r})); log.scalars({{'step': 1, 'loss': 2.0}}); sys.exit(3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 3
    assert scalars(tmp_path, "loss") == [(1, 2.0)]


def test_a_full_disk_is_an_ordinary_error(tmp_path: Path, full_disk: FullDisk) -> None:
    log = EventLog(tmp_path)
    for step in range(200):
        log.scalars({"step": step, "loss": 0.5})
    with full_disk(4000), pytest.raises(OSError, match="File too large"):
        log.flush()
    log.scalars({"step": 200, "loss": 0.5})
    with full_disk(4000):
        del log  # at the very end a full disk is no error of its own


def test_without_the_package_the_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard.summary.writer.record_writer", None)
    with pytest.raises(TrainingError, match=r"TensorBoard does not import .*, or leave it out by --no-tensorboard"):
        Run(tmp_path, "pretrain", {}, resume=False, tensorboard=True)
    Run(tmp_path, "pretrain", {}, resume=False)


# Stopped and gone on with


def test_rows_past_the_state_are_not_doubled(tmp_path: Path) -> None:
    """Steps 30 and 40 were logged, then undone by a return to the state of step 20, twice."""
    run = begin(tmp_path)
    for step in (10, 20):
        run.log({"step": step, "loss": 1.0})
    run.save_state({"step": 20})
    for session in (2.0, 3.0):
        for step in (30, 40):
            run.log({"step": step, "loss": session})
        del run  # which flushes them
        run = begin(tmp_path, resume=True)
        assert run.load_state() == {"step": 20}
    for step in (30, 40, 50):
        run.log({"step": step, "loss": 4.0})
    del run
    assert len(list((tmp_path / "tensorboard").iterdir())) == 3
    expected = [(10, 1.0), (20, 1.0), (30, 4.0), (40, 4.0), (50, 4.0)]
    assert scalars(tmp_path / "tensorboard", "loss") == expected
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row["loss"]) for row in rows] == expected


def test_without_a_state_all_rows_are_void(tmp_path: Path) -> None:
    run = begin(tmp_path)
    run.log({"step": 0, "loss": 1.0})
    run.log({"step": 10, "loss": 1.0})
    del run
    run = begin(tmp_path, resume=True)
    assert run.load_state() is None
    run.log({"step": 10, "loss": 2.0})
    del run
    assert scalars(tmp_path / "tensorboard", "loss") == [(10, 2.0)]


def test_a_killed_run_keeps_the_rows_of_its_state(tmp_path: Path) -> None:
    """SIGKILL: what came after the state is lost, what came before it is not."""
    code = (
        "import time; from pathlib import Path; from training.run import Run\n"
        f"run = Run(Path({str(tmp_path)!r}), 'pretrain', {{}}, resume=False, tensorboard=True); run.describe()\n"
        "run.log({'step': 10, 'loss': 1.0}); run.save_state({'step': 10}); run.log({'step': 20, 'loss': 1.0})\n"
        "print('ready', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        os.kill(process.pid, signal.SIGKILL)
    run = begin(tmp_path, resume=True)
    run.load_state()
    run.log({"step": 20, "loss": 2.0})
    del run
    assert scalars(tmp_path / "tensorboard", "loss") == [(10, 1.0), (20, 2.0)]


def test_a_pre_training_shows_its_rows_and_pictures(pretrained: Path) -> None:
    rows = [json.loads(line) for line in (pretrained / "metrics.jsonl").read_text().splitlines()]
    expected = [(row["step"], float(np.float32(row["loss"]))) for row in rows if "loss" in row]
    assert scalars(pretrained / "tensorboard", "loss") == expected
    pictures = read(pretrained / "tensorboard").Images("reconstructions")
    assert [event.step for event in pictures] == [16, 32, 40]  # epochs 4, 8 and 10 of four steps
    last = (pretrained / "reconstructions" / "epoch-0010.png").read_bytes()
    assert pictures[-1].encoded_image_string == last


def test_tensorboard_can_be_left_out(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    out = pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, tensorboard=False, **tiny))
    assert not (out / "tensorboard").exists()
