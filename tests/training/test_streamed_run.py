"""A pre-training on images that are never packed, and when a run chooses that by itself."""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

from training.compute import ComputeFlags
from training.errors import Terminated, TrainingError
from training.finetune import FinetuneConfig
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain
from training.run import FREE_TO_CHANGE


def config(photos: Path, out: Path, tiny: dict[str, Any], **changes: Any) -> PretrainConfig:
    return PretrainConfig(**{**tiny, "data": photos, "out": out, "epochs": 3, "feed": "stream", **changes})


def test_a_streamed_run_learns_and_leaves_no_pack(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    out = pretrain(config(photos, tmp_path / "run", tiny))
    assert not (out / "pack").exists()
    assert (out / "stream" / "stream.json").exists()
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert rows[-1] == {"step": 12, "epoch": 3}
    document = json.loads((out / "run.json").read_text())
    assert document["data"]["num_images"] == 120
    assert document["metrics"]["reconstruction_loss"] > 0
    assert (out / "reconstructions" / "epoch-0003.png").exists()
    with np.load(out / "samples.npz") as arrays:
        images = arrays["images"]
    assert (images.dtype, images.shape) == (np.uint8, (120, 32, 32, 3))
    assert images.reshape(120, -1).std(axis=1).min() > 5  # photographs all of them


def test_stopped_in_the_middle_of_an_epoch_it_ends_with_the_same_bytes(
    photos: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    terminated_once: Callable[[Callable[[], bool]], AbstractContextManager[None]],
) -> None:
    straight = pretrain(config(photos, tmp_path / "straight", tiny))
    stopped = config(photos, tmp_path / "stopped", tiny, checkpoint_minutes=0.0, resume=True)
    with terminated_once((stopped.out / "checkpoint.pt").exists), pytest.raises(Terminated):
        pretrain(stopped)
    pretrain(stopped)
    assert (stopped.out / "model.safetensors").read_bytes() == (straight / "model.safetensors").read_bytes()


class _Usage(NamedTuple):
    free: int


def test_what_the_disk_cannot_hold_is_streamed(
    photos: Path,
    tmp_path: Path,
    tiny: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(free=120 * 32 * 32 * 3))
    out = pretrain(config(photos, tmp_path / "run", tiny, feed="auto", epochs=1))
    err = capsys.readouterr().err
    assert "the pack would take 0 GB of 0 GB free: the images are streamed" in err
    assert "feed: stream, decoded ahead" in err
    assert not (out / "pack").exists()


def test_with_a_little_more_room_it_is_packed(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(free=int(120 * 32 * 32 * 3 / 0.9) + 1))
    out = pretrain(config(photos, tmp_path / "run", tiny, feed="auto", epochs=1))
    assert (out / "pack" / "pack.json").exists()


def test_a_pack_is_not_streamed(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="is packed already; leave out --feed stream"):
        pretrain(config(packed.folder, tmp_path / "run", tiny))


def test_labels_do_not_come_by_stream(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    with pytest.raises(TrainingError, match="a stream's labels are not read; name labeled images by --probe-data"):
        pretrain(config(photos, tmp_path / "run", tiny, probe_every=1))
    with pytest.raises(ValueError, match="--feed stream has no labels; fine-tune on packed images"):
        FinetuneConfig(data=photos, out=tmp_path / "run", init=Path("none"), feed="stream")


def test_labeled_images_beside_a_stream_are_probed_with(
    photos: Path, other_photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    out = pretrain(config(photos, tmp_path / "run", tiny, probe_data=other_photos, epochs=1))
    last = json.loads((out / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 <= last["probe_ridge_mean"] <= 1


def test_how_a_run_computes_may_change_but_for_its_precision() -> None:
    assert {f.name for f in fields(ComputeFlags)} - FREE_TO_CHANGE == {"precision"}


def test_a_signal_while_a_batch_is_awaited_is_not_lost(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """It arrives while the main thread waits for the feed's."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    run = config(photos, tmp_path / "run", tiny, epochs=1000)
    before = signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGTERM))
    handler = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(Terminated, match="the state is saved"):
            pretrain(run)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.signal(signal.SIGTERM, handler)


def test_what_a_run_goes_on_with_takes_the_same_steps(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    """Parts of a batch and processes may change, unless the batch itself would."""
    run = config(photos, tmp_path / "run", tiny, feed="auto", epochs=1, batch_size=200)  # more than the 120 there are
    pretrain(run)
    with pytest.raises(TrainingError, match="--resume with other course: batch_size was 120 and is 119 now"):
        pretrain(replace(run, accumulate=7, resume=True))
    with pytest.raises(ValueError, match="--compile graphs does not go with --accumulate"):
        replace(run, accumulate=2, compile="graphs")


def test_a_packed_run_does_not_go_on_as_a_stream(photos: Path, tmp_path: Path, tiny: dict[str, Any]) -> None:
    run = config(photos, tmp_path / "run", tiny, feed="auto", epochs=1)
    pretrain(run)
    with pytest.raises(TrainingError, match="--resume with other"):
        pretrain(replace(run, feed="stream", resume=True))


def test_other_images_than_were_packed_are_noticed_until_the_run_has_begun(
    photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    run = config(mine, tmp_path / "run", tiny, feed="auto", epochs=1)
    with pytest.raises(ValueError, match="warm-up"):  # after packing
        pretrain(replace(run, warmup_epochs=50.0))
    shutil.copy(next(photos.rglob("*.jpg")), mine / "red" / "new.jpg")
    with pytest.raises(TrainingError, match=r"has other files now than .* was packed from; remove that to pack again"):
        pretrain(run)
    shutil.rmtree(tmp_path / "run")
    pretrain(run)
    (mine / "red" / "new.jpg").unlink()
    pretrain(replace(run, resume=True))  # goes on with what it has


def test_an_interrupted_pack_is_gone_on_with(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its part of the disk is taken already."""
    (tmp_path / "run" / "pack.partial").mkdir(parents=True)
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: _Usage(free=1))
    out = pretrain(config(photos, tmp_path / "run", tiny, feed="auto", epochs=1))
    assert (out / "pack" / "pack.json").exists()


def test_a_network_that_cannot_be_is_refused_before_hours_of_packing(
    photos: Path, tmp_path: Path, tiny: dict[str, Any]
) -> None:
    run = config(photos, tmp_path / "run", tiny, feed="auto")
    (tmp_path / "icons").mkdir()
    Image.new("RGB", (6, 6)).save(tmp_path / "icons" / "dot.png")
    with pytest.raises(TrainingError, match="holds images of 6 pixels, smaller than a patch of 8; choose a smaller"):
        pretrain(replace(run, data=tmp_path / "icons"))
    for wrong in ({"patch_size": 5}, {"mask_ratio": 0.99}):
        with pytest.raises(ValueError, match=r"patch_size|mask_ratio"):
            pretrain(replace(run, **wrong))
    assert not (tmp_path / "run").exists()


def test_a_stream_says_in_the_end_what_it_could_not_read(
    photos: Path, tmp_path: Path, tiny: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "photos"
    shutil.copytree(photos, mine)
    broken = next(mine.rglob("*.jpg"))
    broken.write_bytes(broken.read_bytes()[:200])
    out = pretrain(config(mine, tmp_path / "run", tiny, epochs=1))
    assert f"1 of the images could not be read, see {out / 'stream' / 'corrupt.jsonl'}" in capsys.readouterr().err
    assert json.loads((out / "run.json").read_text())["data"]["num_corrupt"] == 1
