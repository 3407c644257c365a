"""What is the default bundle worth, and how is it made again?

    python -m benchmarks.default_bundle --train tiny-imagenet/ --test tiny-imagenet-val.parquet --work /tmp/default \
        [--recipe default-64] [--out models/default]

Runs the commands that a user would: pack, pre-train on all photos without their labels, probe with the labels, export.
A step that is done is skipped and one that was stopped goes on, so the same command may be given again and again, under
`timeout` too. Beside the result lie the log of the pre-training and reconstructions of photos that no training saw. The
report of the pre-training, with its curves, is WORK/pretrained/report.html.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path
from typing import get_args

from PIL import Image

from benchmarks.commands import metric, pretraining_cost, run_module
from benchmarks.load.requests import read_photos
from benchmarks.load.servers import Server, ours
from benchmarks.report import RESULTS, Report
from service.client import Client
from training.recipes import RecipeName

_SAMPLES = Path("service/static/samples")
_NUM_PHOTOS = 10
_SIDE, _GAP = 128, 4  # pixels of a picture, and between two


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True, help="images with labels, which the pre-training ignores")
    parser.add_argument("--test", type=Path, required=True, help="labeled images that the probe looks at once")
    parser.add_argument("--work", type=Path, required=True, help="a folder for the packs and the runs")
    parser.add_argument("--recipe", choices=get_args(RecipeName), default="default-64")
    parser.add_argument("--epochs", type=int, help="of the pre-training; default: the recipe's")
    parser.add_argument("--photos", type=Path, default=_SAMPLES, help="JPEGs, some of which are reconstructed")
    parser.add_argument("--name", default="maeve-tiny-64")
    parser.add_argument("--out", type=Path, default=Path("models/default"))
    args = parser.parse_args()
    report, work = Report("default_bundle", __doc__ or ""), args.work
    train, test, pretrained, probed = (work / name for name in ("train.pack", "test.pack", "pretrained", "probed"))
    for pack, data in ((train, args.train), (test, args.test)):
        if not pack.exists():
            run_module(report, "pack", "training.pack", "--data", data, "--out", pack, "--name", data.stem)
    epochs = [] if args.epochs is None else ["--epochs", args.epochs]
    run_module(
        report, "pre-train", "training.pretrain", "--data", train, "--out", pretrained, "--recipe", args.recipe,
        *epochs, "--resume",
    )  # fmt: skip
    if not (probed / "run.json").exists():
        run_module(
            report, "probe", "training.probe", "--data", train, "--test", test, "--init", pretrained, "--out", probed
        )
    run_module(
        report, "export", "export", pretrained, "--classifier", probed, "--name", args.name, "--out", args.out,
        "--storage", "half", "--int8", "static", "--overwrite",
    )  # fmt: skip
    report.add("pre-training", pretraining_cost(pretrained))
    report.add("reconstruction loss at the end", f"{metric(pretrained, 'reconstruction_loss'):.3f}")
    for split, images in (("val", "photos held out of the training set"), ("test", args.test.stem)):
        report.add(f"linear probe, top-1 on {images}", f"{metric(probed, f'probe_{split}_top1'):.1%}")
    report.add("bundle", f"{sum(file.stat().st_size for file in args.out.iterdir()) / 1e6:.1f} MB")
    RESULTS.mkdir(exist_ok=True)
    shutil.copyfile(pretrained / "metrics.jsonl", RESULTS / f"{report.name}.jsonl")
    report.picture(draw(args.out, args.photos, f"{report.name}.png"))
    report.write()


def draw(bundle: Path, photos: Path, name: str) -> str:
    """Photos, what the network sees of them and what it makes of that, through the service; the file's name."""
    files = read_photos(photos)
    chosen = files[:: max(1, len(files) // _NUM_PHOTOS)][:_NUM_PHOTOS]
    with (
        Server(ours(bundle), chosen[:1]) as server,
        Client(f"http://127.0.0.1:{server.port}") as client,
    ):
        found = [client.reconstruct(photo, mask_ratio=0.75) for photo in chosen]
    sheet = Image.new("RGB", (len(found) * (_SIDE + _GAP) - _GAP, 3 * (_SIDE + _GAP) - _GAP), "white")
    for column, each in enumerate(found):
        for row, png in enumerate((each.original, each.masked, each.reconstruction)):
            with Image.open(io.BytesIO(png)) as picture:
                square = picture.convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.NEAREST)
            sheet.paste(square, (column * (_SIDE + _GAP), row * (_SIDE + _GAP)))
    sheet.save(RESULTS / name, optimize=True)
    return name


if __name__ == "__main__":
    main()
