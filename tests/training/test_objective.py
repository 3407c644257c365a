"""The pre-training loss as one module: what it computes, compiled and not, at every size of a progressive run."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mae.config import MAEConfig
from mae.masking import random_masking
from mae.model import MaskedAutoencoder, Normalize
from training import pretraining
from training.augment import crop_and_resize
from training.device import autocast
from training.errors import TrainingError
from training.objective import MaskedObjective, compiled
from training.packed import PackedDataset
from training.pretrain import PretrainConfig, pretrain
from training.recipes import RECIPES, Recipe

CPU = torch.device("cpu")
CONFIG = MAEConfig(
    image_size=(32, 32), patch_size=8, dim=24, depth=2, heads=3, decoder_dim=16, decoder_depth=1, decoder_heads=2
)


@pytest.fixture
def objective() -> MaskedObjective:
    torch.manual_seed(0)
    return MaskedObjective(MaskedAutoencoder(CONFIG), autocast(CPU, "fp32"))


def inputs(side: int) -> tuple[torch.Tensor, ...]:
    """Pixels, boxes, flips and noise of four images."""
    generator = torch.Generator().manual_seed(1)
    pixels = torch.randint(0, 256, (4, 3, 40, 36), dtype=torch.uint8, generator=generator)
    boxes = torch.tensor(
        [[0.0, 0.0, 40.0, 36.0], [3.0, 5.0, 20.0, 20.0], [1.0, 2.0, 30.0, 24.0], [8.0, 0.0, 32.0, 36.0]]
    )
    flip = torch.tensor([True, False, False, True])
    return pixels, boxes, flip, torch.rand(4, (side // 8) ** 2, generator=generator)


@pytest.mark.parametrize("side", [32, 24])
def test_it_is_the_models_loss_on_the_cropped_and_normalised_images(side: int, objective: MaskedObjective) -> None:
    pixels, boxes, flip, noise = inputs(side)
    images = Normalize(CONFIG.mean, CONFIG.std)(crop_and_resize(pixels, boxes, flip, (side, side)))
    expected = objective.model(images, random_masking(noise, 3)).loss
    assert torch.equal(objective(pixels, boxes, flip, noise, (side, side), 3), expected)


def test_it_is_one_graph(objective: MaskedObjective) -> None:
    explained = torch._dynamo.explain(objective)(*inputs(32), (32, 32), 4)
    assert (explained.graph_count, explained.graph_break_count) == (1, 0)


def test_auto_does_not_compile_on_a_cpu(objective: MaskedObjective) -> None:
    assert compiled(objective, "auto", CPU, sharded=False) is objective
    assert compiled(objective, "off", CPU, sharded=False) is objective


def test_many_runs_of_one_process_are_all_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[torch.fx.GraphModule] = []

    def backend(graph: torch.fx.GraphModule, _inputs: list[torch.Tensor]) -> Callable[..., Any]:
        built.append(graph)
        return graph.forward

    monkeypatch.setattr("training.objective.torch.compile", partial(torch.compile, backend=backend))
    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 1)  # of eight
    for number in range(1, 4):
        fresh = MaskedObjective(MaskedAutoencoder(CONFIG), autocast(CPU, "fp32"))
        compiled(fresh, "on", CPU, sharded=False)(*inputs(32), (32, 32), 4)
        assert len(built) == number


def test_a_progressive_run_sees_small_images_first(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[tuple[int, int]] = []

    class Watched(MaskedObjective):
        def forward(self, *arguments: Any) -> torch.Tensor:
            sizes.append(arguments[4])
            return super().forward(*arguments)

    monkeypatch.setattr(pretraining, "MaskedObjective", Watched)
    config = PretrainConfig(
        data=str(packed.folder), out=tmp_path / "run", epochs=4, stages=((0.25, 16), (0.5, 24)), **tiny
    )
    pretrain(config)
    assert sizes == 4 * [(16, 16)] + 4 * [(24, 24)] + 8 * [(32, 32)]
    document = json.loads((tmp_path / "run" / "run.json").read_text())
    assert document["recipe"]["stages"] == [[0.25, 16], [0.5, 24]]
    assert np.isfinite(document["metrics"]["reconstruction_loss"])


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (((0.5, 24), (0.2, 16)), "ascending shares"),
        (((1.0, 16),), "ascending shares"),
        (((0.5, 20),), "20 px must be a multiple of the patch, 8"),
        (((0.5, 72),), "no more than the image, 64"),
    ],
)
def test_stages_that_cannot_be(stages: tuple[tuple[float, int], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Recipe(image_size=(64, 64), pack_size=(64, 64), patch_size=8, stages=stages)


def test_the_size_changes_where_a_stage_ends() -> None:
    recipe = RECIPES["fast-64"]
    assert [recipe.size_at(progress)[0] for progress in (0, 0.49, 0.5, 0.79, 0.8, 0.99)] == [40, 40, 48, 48, 64, 64]


def test_a_loss_that_is_not_finite_keeps_its_images(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(MaskedObjective):
        steps = 0

        def forward(self, *arguments: Any) -> torch.Tensor:
            self.steps += 1
            return super().forward(*arguments) * (float("inf") if self.steps == 6 else 1.0)

    monkeypatch.setattr(pretraining, "MaskedObjective", Broken)
    config = PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=3, **tiny)
    with pytest.raises(
        TrainingError, match=r"the loss of step 6 is inf, its images are in .*non-finite\.npz: start over"
    ):
        pretrain(config)
    with np.load(tmp_path / "run" / "non-finite.npz") as kept:
        assert int(kept["step"]) == 5
        assert np.array_equal(kept["pixels"], packed.pixels(kept["ids"]))
        assert len(kept["ids"]) == 30
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_less_memory_changes_no_weight(packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any]) -> None:
    runs = [
        pretrain(PretrainConfig(data=str(packed.folder), out=tmp_path / str(r), epochs=1, recompute=r, **tiny))
        for r in (False, True)
    ]
    assert (runs[0] / "model.safetensors").read_bytes() == (runs[1] / "model.safetensors").read_bytes()


def test_a_run_that_changes_only_how_it_computes_may_go_on(
    packed: PackedDataset, tmp_path: Path, tiny: dict[str, Any], command: Callable[..., Any]
) -> None:
    config = PretrainConfig(data=str(packed.folder), out=tmp_path / "run", epochs=1, **tiny)
    pretrain(config)
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in tiny.items()]
    outcome = command(
        "training.pretrain", "--data", packed.folder, "--out", tmp_path / "run", "--epochs=1", *flags, "--resume",
        "--feed=resident", "--accumulate=2", "--recompute",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert "feed: resident, 0.0 GB on cpu" in outcome.err
