"""Does an anomaly map find defects, and what do more passes and other mask ratios give?

    python -m benchmarks.anomaly --bundle models/default

Made pictures of one part under changing light, good ones and ones with a defect: a scratch, a spot, or a piece of
another material. Every patch of a part with a defect is scored by its error, as the service's /reconstruct?passes=n
gives it, and by that error less the mean of the good parts' at the same place, over their standard deviation. AUROC is
the probability that a patch of the defect scores higher than one without (0.5: chance); patches that the defect barely
touches count as neither. Given are the mean over several seeds of the masks and the standard deviation over them. The
first passes of a map are a map of fewer, so one run gives every number of passes.

--picture FILE.png draws one part of each kind with both maps, at the first ratio and the most passes.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from sklearn.metrics import roc_auc_score

from benchmarks.report import Report
from bundle.masking import complementary_maskings, least_passes
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from runtime.base import Runtime
from runtime.select import PrecisionName, RuntimeName, open_runtime
from service.anomaly import AnomalyMap, make_map
from service.programs import Item, Program, Programs

KINDS = ("scratch", "spot", "other material")
_SIDE = 256  # pixels of a made picture
_PLATE = 150  # its grey
_TOUCHED = 0.1  # part of a patch's pixels that a defect must change for the patch to be one of it

Errors = NDArray[np.float32]


@dataclass(frozen=True)
class Parts:
    """pixels: u8 [N, H, W, C]; touched: [N, L], which part of every patch the defect changed; kinds: one per picture,
    "" for good ones.
    """

    pixels: NDArray[np.uint8]
    touched: NDArray[np.float64]
    kinds: tuple[str, ...]


def draw_part(rng: np.random.Generator, kind: str) -> tuple[Image.Image, Image.Image]:
    """A plate with two holes and a slot, lit from one side, with a defect unless `kind` is ""; and where that is."""
    slope = rng.uniform(-0.25, 0.25, 2)
    y, x = np.mgrid[-1 : 1 : _SIDE * 1j, -1 : 1 : _SIDE * 1j]
    light = rng.uniform(0.9, 1.1) * (1 + slope[0] * x + slope[1] * y)
    plate = Image.new("L", (_SIDE, _SIDE), _PLATE)
    draw, jitter = ImageDraw.Draw(plate), rng.integers(-3, 4, 2)
    for left, top, right, bottom in ((30, 30, 80, 80), (176, 176, 226, 226)):
        draw.ellipse((left + jitter[0], top + jitter[1], right + jitter[0], bottom + jitter[1]), fill=50)
    draw.rounded_rectangle((150 + jitter[0], 40 + jitter[1], 230 + jitter[0], 70 + jitter[1]), 12, fill=80)
    where = _add_defect(plate, rng, kind) if kind else Image.new("L", plate.size)
    grain = rng.normal(0, 6, (_SIDE, 1)) + rng.normal(0, 3, (_SIDE, _SIDE))  # brushed from side to side
    grey = np.clip(np.asarray(plate) * light + grain, 0, 255).astype(np.uint8)
    return Image.merge("RGB", [Image.fromarray(grey)] * 3), where


def _add_defect(plate: Image.Image, rng: np.random.Generator, kind: str) -> Image.Image:
    """Put one at a random place; in white, mode L, where it is."""
    x, y = rng.uniform(40, _SIDE - 40, 2)
    shade = int(_PLATE + rng.choice([-1, 1]) * rng.uniform(40, 80))
    where, material = Image.new("L", plate.size), Image.new("L", plate.size, shade)
    draw = ImageDraw.Draw(where)
    if kind == "scratch":
        angle = rng.uniform(0, np.pi)
        dx, dy = 45 * np.cos(angle), 45 * np.sin(angle)
        draw.line((x - dx, y - dy, x + dx, y + dy), fill=255, width=6)
    elif kind == "spot":
        draw.ellipse((x - 20, y - 14, x + 20, y + 14), fill=255)
    else:
        draw.rectangle((x - 30, y - 30, x + 30, y + 30), fill=255)
        for at in range(0, _SIDE, 12):
            ImageDraw.Draw(material).line((at, 0, at, _SIDE), fill=2 * _PLATE - shade, width=5)
    plate.paste(material, mask=where)
    return where


def make_parts(bundle: Bundle, kinds: Sequence[str], seed: int) -> Parts:
    """One per kind, prepared as the service does."""
    rng = np.random.default_rng(seed)
    manifest, pixels, touched = bundle.manifest, [], []
    rows, columns = manifest.model.grid
    for kind in kinds:
        picture, where = draw_part(rng, kind)
        pixels.append(preprocess(_encoded(picture), manifest.preprocess, channels=manifest.model.channels))
        changed = preprocess(_encoded(where), manifest.preprocess, channels=1)[..., 0] > 127  # [H, W]
        patch = manifest.model.patch_size
        touched.append(changed.reshape(rows, patch, columns, patch).mean(axis=(1, 3)).ravel())  # [L]
    return Parts(np.stack(pixels), np.stack(touched), tuple(kinds))


def _encoded(picture: Image.Image) -> bytes:
    out = io.BytesIO()
    picture.save(out, "PNG", compress_level=1)
    return out.getvalue()


def error_maps(
    runtime: Runtime, bundle: Bundle, parts: Parts, ratio: float, passes: Sequence[int], seed: int
) -> dict[int, Errors]:
    """[N, L] for each number of passes."""
    programs, manifest = Programs(bundle.manifest, runtime), bundle.manifest
    maskings = complementary_maskings(manifest.model.num_patches, ratio, seed, max(passes))
    program = Program("reconstruct", len(maskings[0].ids_keep))

    def run(image: NDArray[np.uint8]) -> list[Errors]:
        items = [Item(image, masking.ids_keep, masking.ids_restore) for masking in maskings]
        values = programs.run(program, items)
        return [make_map(values[:n], maskings[:n], manifest).error for n in passes]

    with ThreadPoolExecutor(runtime.lanes) as lanes:
        maps = list(lanes.map(run, parts.pixels))
    return {n: np.stack([each[i] for each in maps]) for i, n in enumerate(passes)}


def auroc(scores: Errors, touched: NDArray[np.float64]) -> float:
    """[N, L] twice: of the patches of defects against the untouched ones."""
    counted = (touched == 0) | (touched > _TOUCHED)
    return float(roc_auc_score(touched[counted] > 0, scores[counted]))


def standardised(errors: Errors, good: Errors) -> Errors:
    """errors: [N, L]; good: [M, L], of good parts, M at least 2."""
    scores: Errors = (errors - good.mean(axis=0)) / good.std(axis=0, ddof=1)
    return scores


def main() -> None:
    args = _arguments()
    bundle = load_bundle(args.bundle)
    good = make_parts(bundle, [""] * args.good, seed=1)
    bad = make_parts(bundle, KINDS * args.each, seed=2)
    runtime = open_runtime(bundle, args.runtime, device=args.device, precision=args.precision)
    try:
        report = Report(args.name, __doc__ or "")
        report.add("bundle", f"{bundle.manifest.name}, pixel target {bundle.manifest.pixel_target}")
        report.add("runtime", f"{runtime.name} on {runtime.device}, {runtime.precision}")
        report.add("parts", f"{args.good} good, {args.each} with each of: {', '.join(KINDS)}; {args.seeds} seeds")
        header = ("mask_ratio", "passes", "all", *KINDS, "all, standardised", *(f"{k}, standardised" for k in KINDS))
        report.table(header, _rows(runtime, bundle, good, bad, args))
        report.write()
        if args.picture is not None:
            draw_maps(runtime, bundle, good, args.ratios[0], max(args.passes)).save(args.picture)
    finally:
        runtime.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--ratios", type=float, nargs="+", default=[0.25, 0.5, 0.75, 0.9])
    parser.add_argument("--passes", type=int, nargs="+", default=[2, 4, 8, 16])
    parser.add_argument("--good", type=int, default=40, help="parts without a defect")
    parser.add_argument("--each", type=int, default=20, help="parts with each kind of defect")
    parser.add_argument("--seeds", type=int, default=3, help="of the masks, from 0")
    parser.add_argument("--runtime", choices=get_args(RuntimeName), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(PrecisionName), default="auto")
    parser.add_argument("--picture", type=Path, help="where to draw examples, as PNG")
    parser.add_argument("--name", default="anomaly", help="of the file in results/")
    args = parser.parse_args()
    if args.good < 2 or args.each < 1 or args.seeds < 1:
        parser.error("--good must be at least 2, --each and --seeds at least 1")
    return args


def _rows(
    runtime: Runtime, bundle: Bundle, good: Parts, bad: Parts, args: argparse.Namespace
) -> Iterator[tuple[str, ...]]:
    """One per ratio and number of passes that hides every patch."""
    kinds = np.array(bad.kinds)
    chosen = [np.ones(len(kinds), bool), *(kinds == kind for kind in KINDS)]
    for ratio in args.ratios:
        least = least_passes(bundle.manifest.model.num_patches, ratio)
        passes = [n for n in sorted(args.passes) if n >= least]
        seeds = range(args.seeds if passes else 0)
        of_bad = [error_maps(runtime, bundle, bad, ratio, passes, seed) for seed in seeds]
        of_good = [error_maps(runtime, bundle, good, ratio, passes, seed) for seed in seeds]
        for n in passes:
            raw = [errors[n] for errors in of_bad]
            compared = [standardised(errors[n], known[n]) for errors, known in zip(of_bad, of_good, strict=True)]
            cells = [
                _over_seeds([auroc(scores[which], bad.touched[which]) for scores in each])
                for each in (raw, compared)
                for which in chosen
            ]
            yield (f"{ratio:g}", str(n), *cells)


def draw_maps(runtime: Runtime, bundle: Bundle, good: Parts, ratio: float, passes: int) -> Image.Image:
    """Rows: a good part, and one with each defect. Columns: it, its error, and that against the good parts'.

    The maps of a column share their scale.
    """
    kinds = ("", *KINDS)
    parts = make_parts(bundle, kinds, seed=22)  # which puts the defects clear of the holes
    errors = error_maps(runtime, bundle, parts, ratio, [passes], 0)[passes]
    compared = standardised(errors, error_maps(runtime, bundle, good, ratio, [passes], 0)[passes]).clip(0)
    height, width = bundle.manifest.model.image_size
    zoom = max(1, 192 // height)
    cell, gap, margin, head = (width * zoom, height * zoom), 8, 120, 28
    sheet = Image.new("RGB", (margin + 3 * (cell[0] + gap), head + len(kinds) * (cell[1] + gap)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    for column, title in enumerate(("part", "error", "against good parts")):
        draw.text((margin + column * (cell[0] + gap), 4), title, "black", font)
    for row, kind in enumerate(kinds):
        top = head + row * (cell[1] + gap)
        draw.text((4, top + cell[1] // 2 - 8), kind or "good", "black", font)
        tiles = [parts.pixels[row]]
        for scores in (errors, compared):
            hidden = np.ones(scores.shape[1], np.int64)
            found = AnomalyMap(parts.pixels[row], scores[row], hidden, bundle.manifest.model.grid)
            tiles.append(found.heatmap(float(scores.max())))
        for column, tile in enumerate(tiles):
            image = Image.fromarray(tile).resize(cell, Image.Resampling.NEAREST)
            sheet.paste(image, (margin + column * (cell[0] + gap), top))
    return sheet


def _over_seeds(values: Sequence[float]) -> str:
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


if __name__ == "__main__":
    main()
