"""What training.compare does: two arms of fine-tunings, and the document of what came of them.

Both arms get the same network, epochs, batches and augmentations; every choice is made on the validation split, and the
test set is looked at once by each run that was chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from rich.table import Table

from mae.config import PRESETS, MAEConfig, PresetName
from mae.model import MaskedAutoencoder
from mae.pretrained import Pretrained
from mae.weights import load_pretrained
from training.converting import resolve_init
from training.data import open_data, open_test, require_classes, split_labeled
from training.device import pick_device
from training.errors import TrainingError
from training.experiments import Experiment, Outcome, steps_of, stoppable, write_json
from training.features import labeled_sample, map_features
from training.finetune import FinetuneConfig, finetune
from training.finetune_recipes import choose_finetune_recipe
from training.packed import PackedDataset
from training.pages.comparison import COMPARE_FILE, write_comparison
from training.pages.pieces import NOTHING, mean_std, percent
from training.pages.record import FEATURES_FILE, command_line, read_record
from training.plans import Plan, plan_for
from training.pretrain import PretrainConfig, pretrain
from training.probe import ProbeConfig, probe
from training.recipes import RECIPES, NetworkFlags
from training.run import circumstances, read_run, write_arrays

if TYPE_CHECKING:
    from training.compare import CompareConfig

Arm = Literal["pretrained", "scratch"]
ARMS: tuple[Arm, ...] = ("pretrained", "scratch")
PRETRAINED = "pretrained"
_FREE = {"out", "data", "test", "unlabeled", "init", "fractions", "seeds", "blrs", "device", "checkpoint_minutes"}


def compare(config: CompareConfig) -> dict[str, Any]:
    """As training.compare.compare."""
    with stoppable():
        comparison = _Comparison(config)
        document = comparison.document()
        write_json(config.out / COMPARE_FILE, document)
        write_comparison(config.out)
    return document


class _Comparison:
    def __init__(self, config: CompareConfig) -> None:
        self.config, self.plan = config, plan_for(config.plan, config)
        self.device = pick_device(config.device)
        self.experiment = Experiment(config.out, asdict(config) | asdict(self.plan), _FREE)
        self.circumstances = circumstances()  # of this start
        self.shared: dict[str, Any] = {
            "precision": config.precision, "device": config.device, "checkpoint_minutes": config.checkpoint_minutes,
        }  # fmt: skip
        self._open()

    def _open(self) -> None:
        """Every set is packed once, at the size that the pre-training sees."""
        config, out = self.config, self.config.out
        size, channels = None, None
        if config.init is not None:
            self.init = resolve_init(config.init, out / "init")
            size, network = _pack_size(self.init), load_pretrained(self.init).config
            _preset_of(network, self.init)  # raises before anything is trained
            channels = network.channels
        elif self.plan.recipe is not None:
            size = RECIPES[self.plan.recipe].pack_size
        test, unlabeled = config.test_data, None
        assert test is not None  # a config without it cannot be
        if config.init is None and config.unlabeled_data is not None:
            unlabeled = open_data(config.unlabeled_data, out / "pack-unlabeled", size=size)
            size, channels = unlabeled.info.size, unlabeled.info.channels
        self.labeled = open_data(config.data, out / "pack", size=size, channels=channels)
        self.classes = require_classes(self.labeled)
        self.test: PackedDataset = open_test(test, out, self.labeled, self.classes)
        self.unlabeled = self.labeled if unlabeled is None else unlabeled
        options = config.finetune_options()
        held_out = options.get("val_fraction", FinetuneConfig.val_fraction)
        for fraction in self.plan.fractions:  # one too small to hold anything out is refused before the pre-training
            split_labeled(self.labeled, fraction, held_out, self.plan.seeds[0])

    def document(self) -> dict[str, Any]:
        pretraining = self._pretrain()
        self.network = load_pretrained(self.run).config
        if self.network.image_size[0] != self.network.image_size[1]:
            raise TrainingError(f"{self.run} sees images of {self.network.image_size}; compare needs square ones")
        probes = [self._probe(fraction) for fraction in self.plan.fractions]
        self._map()
        arms = [self._arm(arm, fraction) for fraction in self.plan.fractions for arm in ARMS]
        return {
            "status": "failed" if self.experiment.failed else "finished",
            "command": command_line("python -m training.compare", asdict(self.config)),
            "config": json_ready(self.config),
            "plan": json_ready(self.plan),
            **self.circumstances,
            "data": {"name": self.labeled.info.name, "num_images": len(self.labeled), "num_test": len(self.test)},
            "classes": list(self.classes),
            "pretraining": pretraining,
            "arms": arms,
            "probes": probes,
            "failed": [{"name": o.name, "error": o.error} for o in self.experiment.failed],
            "seconds": sum(o.seconds for o in self.experiment.outcomes.values()),
        }

    def _pretrain(self) -> dict[str, Any]:
        """Without it there is nothing to compare, so its failure is the command's."""
        if self.config.init is not None:
            self.run = self.init
            return {"run": str(self.run), "seconds": None, "steps": steps_of(self.run)}
        self.run = self.experiment.folder(PRETRAINED)
        options = self.config.pretrain_options()
        outcome = self.experiment.run("pretrain", PretrainConfig(
            data=str(self.unlabeled.folder), out=self.run, epochs=self.plan.pretrain_epochs,
            batch_size=self.plan.pretrain_batch_size, seed=self.plan.seeds[0], resume=True, **self.shared,
            **{f.name: getattr(self.plan, f.name) for f in fields(NetworkFlags)}, **options,
        ), pretrain)  # fmt: skip
        if outcome.error is not None:
            raise TrainingError(f"the pre-training failed: {outcome.error}")
        return {"run": str(self.run), "seconds": outcome.seconds, "steps": steps_of(self.run), **outcome.metrics}

    def _probe(self, fraction: float) -> dict[str, Any]:
        outcome = self.experiment.run("probe", ProbeConfig(
            data=self.labeled.folder, test=self.test.folder, init=self.run, label_fraction=fraction,
            out=self.experiment.folder(f"probe-{fraction:g}"), seed=self.plan.seeds[0], device=self.config.device,
        ), probe)  # fmt: skip
        return {"fraction": fraction, "metrics": dict(outcome.metrics), "error": outcome.error}

    def _arm(self, arm: Arm, fraction: float) -> dict[str, Any]:
        """The learning rate is chosen with the first seed, and its run is then one of the final ones."""
        first, *_ = self.plan.seeds
        tried: dict[float, Outcome] = {}
        if len(self.plan.blrs) > 1:
            tried = {blr: self._finetune(arm, fraction, first, blr, test=False) for blr in self.plan.blrs}
        able = [blr for blr, outcome in tried.items() if outcome.error is None]
        chosen = max(able, key=lambda blr: _rank(tried[blr]), default=self.plan.blrs[0])
        finals = []
        if able or not tried:
            finals = [self._finetune(arm, fraction, seed, chosen, test=True) for seed in self.plan.seeds]
        return {
            "arm": arm, "fraction": fraction, "blr": chosen if finals else None,
            "tried": [
                {"blr": b, "val_top1": o.metrics.get("val_top1"), "error": o.error} for b, o in tried.items()
            ],
            "runs": [
                {"seed": seed, "name": o.name, "steps": steps_of(o.folder), "seconds": o.seconds, "error": o.error,
                 "metrics": dict(o.metrics)}
                for seed, o in zip(self.plan.seeds, finals, strict=False)
            ],
            "summary": _summary([o.metrics for o in finals if o.error is None]),
        }  # fmt: skip

    def _finetune(self, arm: Arm, fraction: float, seed: int, blr: float, *, test: bool) -> Outcome:
        """Both arms by the recipe that suits the pre-trained network; from scratch without its layer decay."""
        n = self.network
        flags: dict[str, Any] = {"init": self.run}
        if arm == "scratch":
            flags = {
                "init": Path("none"), "preset": _preset_of(n, self.run), "depth": n.depth,
                "image_size": n.image_size[0], "patch_size": n.patch_size, "decoder_dim": n.decoder_dim,
                "decoder_depth": n.decoder_depth, "decoder_heads": n.decoder_heads,
            }  # fmt: skip
        options = self.config.finetune_options()
        options.setdefault("finetune_recipe", choose_finetune_recipe(n, from_scratch=False))
        return self.experiment.run("finetune", FinetuneConfig(
            data=self.labeled.folder, out=self.experiment.folder(f"{arm}-{fraction:g}-seed{seed}-blr{blr:g}"),
            test=self.test.folder if test else None, label_fraction=fraction, seed=seed, blr=blr,
            epochs=self.plan.epochs, batch_size=self.plan.batch_size, resume=True, **self.shared, **flags, **options,
        ), finetune, needs="test_top1" if test else None)  # fmt: skip

    def _map(self) -> None:
        """The features of both encoders before any fine-tuning, by t-SNE; of labeled images, never of the test set."""
        path = self.config.out / FEATURES_FILE
        ids, seed = labeled_sample(self.labeled, 0), self.plan.seeds[0]
        if path.exists() or len(ids) < 8:
            return
        torch.manual_seed(seed)
        networks: dict[str, Pretrained] = {
            "pretrained": load_pretrained(self.run),
            "scratch": MaskedAutoencoder(self.network).eval(),
        }
        maps = {arm: map_features(model, self.labeled, ids, self.device, seed) for arm, model in networks.items()}
        write_arrays(path, {**maps, "labels": self.labeled.labels[ids]})


def _preset_of(network: MAEConfig, run: Path) -> PresetName:
    """The name that gives the scratch arm the same encoder. Raises TrainingError where there is none."""
    for name, shape in PRESETS.items():
        if (network.dim, network.heads, network.mlp_ratio) == (shape["dim"], shape["heads"], 4.0):
            return name
    raise TrainingError(
        f"{run} has an encoder of {network.dim} x {network.depth} with {network.heads} heads, which is no preset's; "
        "compare needs one to train from scratch"
    )


def _pack_size(run: Path) -> tuple[int, int]:
    height, width = read_run(run, "pretrain")["data"]["pack_size"]
    return height, width


def _rank(outcome: Outcome) -> tuple[float, float]:
    """Accuracy on the validation split; its loss after the last epoch where that does not tell two runs apart."""
    losses = read_record(outcome.folder).series("val_loss")
    return outcome.metrics["val_top1"], 0.0 if losses is None else -float(losses[1][-1])


def _summary(metrics: list[Mapping[str, float]]) -> dict[str, dict[str, float | None]]:
    """Mean and standard deviation (over n - 1; None for one run) of every metric that all runs have."""
    names = set.intersection(*map(set, metrics)) if metrics else set()
    summary = {}
    for name in sorted(names):
        values = [m[name] for m in metrics]
        std = float(np.std(values, ddof=1)) if len(values) > 1 else None
        summary[name] = {"mean": float(np.mean(values)), "std": std, "num": len(values)}
    return summary


def json_ready(config: Plan | CompareConfig) -> dict[str, Any]:
    return {k: str(v) if isinstance(v, Path) else v for k, v in asdict(config).items()}


def table(document: Mapping[str, Any]) -> Table:
    """What the command prints."""
    shown = Table(
        "labels", "pre-trained", "from scratch", "difference", title="top-1 on the test set, mean ± deviation"
    )
    for fraction in dict.fromkeys(arm["fraction"] for arm in document["arms"]):
        found = {a["arm"]: a["summary"].get("test_top1") for a in document["arms"] if a["fraction"] == fraction}
        ours, theirs = found["pretrained"], found["scratch"]
        difference = (
            NOTHING if ours is None or theirs is None else f"{100 * (ours['mean'] - theirs['mean']):+.1f} points"
        )
        shown.add_row(percent(fraction), mean_std(ours), mean_std(theirs), difference)
    return shown
