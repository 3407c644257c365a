"""Several processes, started by torchrun as a user would, train what one process trains."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mae.weights import load_mae
from training import pretraining
from training.compute import Strategy, global_batch
from training.distributed import World
from training.errors import Terminated, TrainingError
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain

TIMEOUT_S = 180

FlagsOf = Callable[[object], list[str]]


def torchrun(processes: int, *arguments: object, module: str = "training.pretrain") -> subprocess.CompletedProcess[str]:
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}", "-m", module,
        *map(str, arguments),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment, check=False)


def losses(run: Path) -> list[float]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [row["loss"] for row in rows if "loss" in row]


@pytest.fixture(scope="module")
def config(packed: PackedDataset, tmp_path_factory: pytest.TempPathFactory, tiny: dict[str, Any]) -> PretrainConfig:
    """A finished run of one process."""
    out = tmp_path_factory.mktemp("one") / "run"
    small = {**tiny, "epochs": 2, "batch_size": 24, "precision": "fp32"}
    config = PretrainConfig(**small, data=str(packed.folder), out=out)
    pretrain(config)
    return config


def assert_same_training(run: Path, other: Path, *, steps: float) -> None:
    """To the last bits: sums of gradients are taken in another order."""
    for name, value in load_mae(other).state_dict().items():
        torch.testing.assert_close(load_mae(run).state_dict()[name], value, rtol=0, atol=1e-4, msg=name)
    document = json.loads((run / "run.json").read_text())
    assert document["metrics"]["reconstruction_loss"] == pytest.approx(
        json.loads((other / "run.json").read_text())["metrics"]["reconstruction_loss"], rel=1e-4
    )
    state = torch.load(run / "checkpoint.pt", weights_only=True)
    assert state["step"] == steps


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_processes_train_what_one_trains(
    strategy: Strategy, config: PretrainConfig, tmp_path: Path, flags_of: FlagsOf
) -> None:
    """Half of each batch each, and each half in two parts."""
    out = tmp_path / strategy
    done = torchrun(2, *flags_of(replace(config, out=out, strategy=strategy, accumulate=2)))
    assert done.returncode == 0, done.stderr
    assert_same_training(out, config.out, steps=10)
    assert losses(out) == pytest.approx(losses(config.out), rel=1e-5)
    assert done.stdout.count(f"{out}: the weights") == 1
    assert "fp32 on 2 x cpu" in done.stderr
    assert (out / "reconstructions" / "epoch-0002.png").read_bytes() != b""


def test_a_state_goes_on_with_another_number_of_processes(
    config: PretrainConfig, tmp_path: Path, flags_of: FlagsOf
) -> None:
    """Begun in one process and stopped, continued in two shards, finished as if nothing had happened."""
    halfway = _stopped_halfway(replace(config, out=tmp_path / "halfway"))
    done = torchrun(2, *flags_of(replace(config, out=halfway, strategy="fsdp", resume=True)))
    assert done.returncode == 0, done.stderr
    assert_same_training(halfway, config.out, steps=10)


def _stopped_halfway(config: PretrainConfig) -> Path:
    """A run that was told to stop after its first epoch."""

    class Stopped(pretraining._Pretraining):
        def after_epoch(self, epoch: int) -> Mapping[str, float]:
            if epoch == 1:
                signal.raise_signal(signal.SIGTERM)
            return super().after_epoch(epoch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretraining, "_Pretraining", Stopped)
        with pytest.raises(Terminated):
            pretrain(config)
    return config.out


@pytest.mark.parametrize("accumulate", [2, 3])
def test_parts_of_a_batch_sum_to_the_batch(accumulate: int, config: PretrainConfig, tmp_path: Path) -> None:
    pretrain(replace(config, out=tmp_path / "parts", accumulate=accumulate))
    assert_same_training(tmp_path / "parts", config.out, steps=10)


@pytest.mark.parametrize(("batch_size", "num_images", "expected"), [(24, 120, 24), (256, 13, 12), (256, 4, 4)])
def test_every_part_of_every_process_has_as_many_images(batch_size: int, num_images: int, expected: int) -> None:
    assert global_batch(batch_size, num_images, world_size=2, accumulate=2) == expected


@pytest.mark.parametrize(("batch_size", "num_images"), [(25, 120), (256, 3), (26, 120)])
def test_a_batch_that_does_not_divide_is_refused(batch_size: int, num_images: int) -> None:
    message = f"--batch-size {batch_size} of {num_images} images does not divide among 2 processes and --accumulate 2"
    with pytest.raises(TrainingError, match=message):
        global_batch(batch_size, num_images, world_size=2, accumulate=2)


def test_two_processes_fine_tune_together(config: PretrainConfig, other_photos: Path, tmp_path: Path) -> None:
    """They draw their augmentations apart, so not the same numbers as one, but a classifier as good."""
    out = tmp_path / "classifier"
    done = torchrun(
        2, f"--data={config.data}", f"--init={config.out}", f"--out={out}", f"--test={other_photos}", "--epochs=12",
        "--batch-size=24", "--blr=2e-2", "--finetune-recipe=plain", "--ema=0.9", "--accumulate=2",
        module="training.finetune",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("test_top1") == 1
    document = json.loads((out / "run.json").read_text())
    assert document["metrics"]["test_top1"] > 0.8  # of three classes
    assert document["environment"]["world_size"] == 2


def test_what_fails_in_the_first_process_ends_the_others(
    config: PretrainConfig, tmp_path: Path, flags_of: FlagsOf
) -> None:
    (tmp_path / "empty").mkdir()
    done = torchrun(2, *flags_of(replace(config, data=str(tmp_path / "empty"), out=tmp_path / "run")))
    assert done.returncode != 0
    assert "holds no images" in done.stderr


def test_a_process_alone_agrees_with_itself() -> None:
    world = World(torch.device("cpu"))
    assert world.agree(*(True, False)) == (True, False)
    assert torch.equal(world.mean(torch.tensor([1.0, 3.0])), torch.tensor([1.0, 3.0]))
    with pytest.raises(ZeroDivisionError), world.main_first():
        raise ZeroDivisionError
