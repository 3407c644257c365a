"""What do mask ratio, decoder depth, loss, target, pooling and keep change?

    python -m benchmarks.ablations --data TRAIN --test TEST --work DIR --seeds 0 1 2

One thing at a time is another than in the recipe. Of the first four, each value is a pre-training and a linear probe of
its frozen features on the test images, by training.sweep; the recipe's own run is made once for all. Pooling is what
the probe is given of that run, and keep is how many patches its encoder sees, by benchmarks.keep on its export. What is
finished in DIR is kept, so the same command goes on after any stop, and takes more seeds and values.

A reconstruction loss is told where networks predict the same pixels of as many patches, and it is counted alike. The
figure shows the same test photos under the same mask to every network.

On a CPU, at a scale that shows no more than that it works:

    python -m benchmarks.ablations --data TRAIN --test TEST --work DIR --depth 4 --epochs 2 --batch-size 128 --blr 2e-3
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.ablation_picture import Panel, Photos, Point, draw
from benchmarks.ablation_study import TESTED, TRAINED, Cell, Study, measure_keeps, open_study
from benchmarks.report import RESULTS, Report
from bundle.cli.ending import BAD_RESULT
from bundle.cli.words import counted
from mae.masking import num_keep, random_masking
from mae.weights import load_mae
from training.data import center_pixels, examples, require_classes
from training.errors import run_command
from training.pages.reconstructions import BORROWED
from training.picture import reconstruction_rows
from training.recipes import RECIPES
from training.run import read_run

AXES = (*TRAINED, "pooling", "keep")
_COMPARABLE = {"decoder_depth"}  # the others change what is predicted, of how much, or how it is counted
_PHOTOS = 3


class Painter:
    """The same test photos under the same mask, of the recipe's ratio, through any network of the study."""

    def __init__(self, study: Study) -> None:
        self.pixels, self.ratio = examples(study.test, _PHOTOS), study.own["mask_ratio"]

    def rows(self, run: Path) -> tuple[Photos, Photos, Photos]:
        """(photos, what was seen of them, what was made of that), each u8 [N, S, S, 3]."""
        model = load_mae(run)
        length = model.config.num_patches
        noise = torch.rand(len(self.pixels), length, generator=torch.Generator().manual_seed(0))
        pixels = center_pixels(self.pixels, model.config.image_size, torch.device("cpu"))
        rows = reconstruction_rows(model, pixels, random_masking(noise, num_keep(length, self.ratio)))
        photo, seen, made = (_rgb(part) for part in rows.permute(1, 0, 3, 4, 2).numpy())
        return photo, seen, made

    def panel(self, axis: str, cells: Sequence[Cell], spread: Callable[[Sequence[float]], float]) -> Panel:
        """Of the cells that did not fail. The network shown is that of the first seed."""
        done = [cell for cell in cells if cell.top1]
        points = [
            Point(cell.value, cell.top1, spread(cell.top1), cell.is_recipe, photos=self.rows(cell.runs[0])[2])
            if cell.runs else Point(cell.value, cell.top1, spread(cell.top1))
            for cell in done
        ]  # fmt: skip
        runs = [cell.runs[0] for cell in done if cell.runs]
        joined = axis in ("mask_ratio", "decoder_depth")
        return Panel(readable(axis), points, joined, given=self.rows(runs[0])[:2] if runs else None)


def _rgb(images: NDArray[np.uint8]) -> Photos:
    """u8 [N, S, S, C] -> u8 [N, S, S, 3]: the first three channels, or the first."""
    return images[..., :3] if images.shape[-1] >= 3 else np.repeat(images[..., :1], 3, axis=-1)


def readable(axis: str) -> str:
    return axis.replace("_", " ")


def run(args: argparse.Namespace) -> tuple[Path, list[str]]:
    """Measure and write the result: its path, and what failed."""
    study = open_study(args)
    report = Report(args.name, __doc__ or "")
    runs = study.recipe_runs()
    for label, value in _setting(study, runs[0]):
        report.add(label, value)
    painter, panels, failed = Painter(study), list[Panel](), list[str]()
    for axis in (axis for axis in AXES if axis in args.axes and axis != "keep"):
        cells = study.poolings(runs) if axis == "pooling" else study.cells(axis)
        report.table(_header(axis), (_row(study, axis, cell) for cell in cells))
        panels.append(painter.panel(axis, cells, study.spread))
        failed += [f"{readable(axis)} {cell.value}: {error}" for cell in cells for error in cell.errors]
    if "keep" in args.axes:
        panels.append(_add_keeps(study, runs[0], report))
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{args.name}.png").write_bytes(draw(panels, _caption(study)))
    report.picture(f"{args.name}.png")
    return report.write(), failed


def _setting(study: Study, run: Path) -> list[tuple[str, str]]:
    """The scale, from what the recipe's own run says of itself."""
    document, n, args = read_run(run, "pretrain"), load_mae(run).config, study.args
    recipe, course = document["recipe"], document["course"]
    epochs, steps = counted(recipe["epochs"], "epoch"), counted(course["steps_per_epoch"], "step")
    few = "all their" if args.label_fraction == 1 else f"{args.label_fraction:.1%} of their"
    size = f"{n.image_size[0]} x {n.image_size[1]} px, patch {n.patch_size}"
    return [
        (
            "images",
            f"{study.train.info.name}: {len(study.train):,} to pre-train on; probes learn from {few} labels",
        ),
        ("test images", f"{len(study.test):,} of {len(require_classes(study.test))} classes"),
        ("network", f"{size}, encoder {n.depth} x {n.dim}, decoder {n.decoder_depth} x {n.decoder_dim}"),
        ("pre-training", f"{epochs} of {steps} of {course['batch_size']}, learning rate {recipe['blr']:g} per 256"),
        ("the recipe's own", _own(study)),
        ("seeds", ", ".join(map(str, args.seeds))),
        ("top-1", f"of a linear probe on the test images, chosen on held-out training images; ± {_meaning(study)}"),
        ("minutes", "of one pre-training, its start and its compiling included; mean of the seeds"),
        ("figure", f"what the network of the first seed makes of test photos. {BORROWED}"),
    ]


def _own(study: Study) -> str:
    return ", ".join(f"{readable(axis)} {value}" for axis, value in study.own.items())


def _meaning(study: Study) -> str:
    """Of the ± and of the bars."""
    if len(study.args.seeds) > 1:
        return f"the standard deviation over {len(study.args.seeds)} seeds"
    return "the standard error that so many test images leave, of one seed"


def _caption(study: Study) -> str:
    return (
        f"Top-1 of a linear probe, one scale for all but keep; bars: {_meaning(study)}.\n"
        f"Blue: the recipe's own ({_own(study)}). Every network is given the same patches.\n"
        "Where the target is normalized, hidden patches have the brightness and contrast of the photo."
    )


def _header(axis: str) -> list[str]:
    loss = ["reconstruction loss"] if axis in _COMPARABLE else []
    return [readable(axis), "probe top-1", *loss, *(["minutes"] if axis in TRAINED else [])]


def _row(study: Study, axis: str, cell: Cell) -> list[str]:
    name = f"{cell.value}, the recipe's" if cell.is_recipe else cell.value
    if not cell.top1:
        return [name, "failed", *[""] * (len(_header(axis)) - 2)]
    few = f" ({len(cell.errors)} failed)" if cell.errors else ""
    row = [name, f"{statistics.mean(cell.top1):.1%} ± {100 * study.spread(cell.top1):.1f}{few}"]
    row += [f"{statistics.mean(cell.losses):.4f}"] if axis in _COMPARABLE else []
    return row + ([f"{statistics.mean(cell.minutes):.1f}"] if axis in TRAINED else [])


def _add_keeps(study: Study, run: Path, report: Report) -> Panel:
    kept = list(measure_keeps(study, run, report))
    tested = min(TESTED, len(study.test))
    errors = [(k.top1 * (1 - k.top1) / tested) ** 0.5 for k in kept]
    report.table(
        ("keep", "patches", "speed", "cosine mean", "fitted at this keep"),
        (
            (f"{k.keep:g}", str(k.patches), f"{k.speed:.2f}x", f"{k.likeness:.3f}", f"{k.top1:.1%} ± {100 * e:.1f}")
            for k, e in zip(kept, errors, strict=True)
        ),
    )
    points = [Point(f"{k.keep:g}", [k.top1], e, note=f"{k.speed:.1f}x") for k, e in zip(kept, errors, strict=True)]
    return Panel("keep, a classifier fitted at each, and its speed", points, joined=True, shared=False)


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="labeled images to pre-train on and to probe with")
    parser.add_argument("--test", required=True, help="labeled images of the same classes to test on")
    parser.add_argument("--work", type=Path, required=True, help="the folder of the runs")
    parser.add_argument("--axes", nargs="+", choices=AXES, default=list(AXES))
    parser.add_argument("--mask-ratios", type=float, nargs="+", default=[0.5, 0.75, 0.9])
    parser.add_argument("--decoder-depths", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--keeps", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="of the pre-trainings and the probes")
    parser.add_argument("--recipe", choices=list(RECIPES), help="by default as the images' size")
    parser.add_argument("--depth", type=int, help="encoder blocks, where not the recipe's")
    parser.add_argument("--epochs", type=int, help="of every pre-training, where not the recipe's")
    parser.add_argument("--batch-size", type=int, help="where not the recipe's")
    parser.add_argument("--blr", type=float, help="learning rate per 256 images, where not the recipe's")
    parser.add_argument("--label-fraction", type=float, default=1.0, help="of the labels, for the probes")
    parser.add_argument("--device", default="auto", help="cpu, cuda or one such as cuda:1")
    parser.add_argument("--name", default="ablations", help="of the files in results/")
    args = parser.parse_args(argv)
    if not all(0 < keep <= 1 for keep in args.keeps):
        parser.error("--keeps must lie above 0 and at most at 1")
    if len(set(args.seeds)) < len(args.seeds) or min(args.seeds) < 0:
        parser.error("--seeds must not name one twice, and none may be negative")
    return args


def main() -> None:
    _, failed = run(parse())
    for error in failed:
        print(f"failed: {error}", file=sys.stderr)
    if failed:
        sys.exit(BAD_RESULT)


if __name__ == "__main__":
    run_command(main, stopped="stopped; the same command goes on")
