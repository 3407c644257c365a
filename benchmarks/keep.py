"""What does an embedding of a part of the patches cost and gain: speed, likeness to the whole, accuracy?

    python -m benchmarks.keep --bundle models/default --data test.parquet --fit-data train.parquet

The encoder on the same images at each keep, with the very patches that the service takes, by `keep_ids`. Speed: every
keep in turns, all lanes busy, the ratio the median of the paired ones. Likeness: the cosine of each image's vector to
the one of all patches. Accuracy on the test images: of the bundle's own head, which was trained on all patches, and of
a linear classifier (scikit-learn's logistic regression on standardised cls and mean) that was fitted at that very keep.
Labels are matched by name. Without --fit-data it is fitted on the first images of --data, and tested on the next.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.labeled import read_files, share
from benchmarks.report import Report, paired_ratio
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from runtime.agreement import cosines
from runtime.base import Arrays, Runtime
from runtime.select import PrecisionName, RuntimeName, open_runtime

HEADER = ("keep", "patches", "img/s", "speed", "cosine cls", "cosine mean", "the bundle's head", "fitted at this keep")
_POOLED = ("cls", "mean")


@dataclass(frozen=True)
class Labeled:
    """pixels: u8 [N, H, W, C]; labels: i64 [N], places in `classes`."""

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    classes: tuple[str, ...]


def read_labeled(bundle: Bundle, data: str, count: int, skip: int = 0) -> Labeled:
    """`count` labeled images behind the first `skip`, prepared as the service does. SystemExit if there are fewer."""
    found, manifest = read_files(data, count, skip), bundle.manifest
    pixels = [preprocess(file, manifest.preprocess, channels=manifest.model.channels) for file in found.files]
    return Labeled(np.stack(pixels), found.labels, found.classes)


def encode(runtime: Runtime, bundle: Bundle, pixels: NDArray[np.uint8], keep: float, batch: int) -> Arrays:
    """cls and mean, f32 [N, D] each, of all images, on every lane of the runtime."""
    ids = keep_ids(bundle.manifest.model.num_patches, keep)  # [K]

    def run(start: int) -> Arrays:
        images = pixels[start : start + batch]
        ids_keep = np.ascontiguousarray(np.broadcast_to(ids, (len(images), len(ids))))  # [N, K]
        outputs = runtime.run("encoder", {"images": images, "ids_keep": ids_keep})
        return {name: outputs[name] for name in _POOLED}

    with ThreadPoolExecutor(runtime.lanes) as lanes:
        parts = list(lanes.map(run, range(0, len(pixels), batch)))
    return {name: np.concatenate([part[name] for part in parts]) for name in _POOLED}


def in_turns(
    runtime: Runtime, bundle: Bundle, pixels: NDArray[np.uint8], keeps: Sequence[float], batch: int, rounds: int
) -> dict[float, list[float]]:
    """Images per second of each keep in each round; the order alternates, and a round before the first is left out."""
    rates: dict[float, list[float]] = {keep: [] for keep in keeps}
    for i in range(-1, rounds):
        for keep in sorted(keeps, reverse=bool(i % 2)):
            start = time.perf_counter()
            encode(runtime, bundle, pixels, keep, batch)
            if i >= 0:
                rates[keep].append(len(pixels) / (time.perf_counter() - start))
    return rates


def head_hits(runtime: Runtime, bundle: Bundle, features: Arrays, test: Labeled) -> NDArray[np.bool_] | None:
    """Of each image whose class the bundle's linear head knows, whether it is right; None where there is no such head.

    A whole fine-tuned classifier sees all patches, so keep is nothing to it.
    """
    spec = bundle.manifest.graphs.get("head")
    if spec is None or bundle.labels is None:
        return None
    own = np.array([bundle.labels.index(name) if name in bundle.labels else -1 for name in test.classes])[test.labels]
    if not (known := own >= 0).any():
        return None
    logits = runtime.run("head", {tensor.name: features[tensor.name] for tensor in spec.inputs})["logits"]
    right: NDArray[np.bool_] = (logits.argmax(axis=1) == own)[known]
    return right


def fitted_hits(
    fit: Arrays, fit_labels: NDArray[np.int64], test: Arrays, test_labels: NDArray[np.int64], penalty: float
) -> NDArray[np.bool_]:
    """Whether a logistic regression that minimises mean cross-entropy + penalty * |weights|^2 on the features at this
    keep is right, of each image of `test`.

    In scikit-learn's terms: C * sum of cross-entropies + |weights|^2 / 2.
    """
    x, y = (np.concatenate([part[name] for name in _POOLED], axis=1) for part in (fit, test))
    strength = 1 / (2 * penalty * len(x))
    model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=300))
    right: NDArray[np.bool_] = model.fit(x, fit_labels).predict(y) == test_labels
    return right


def main() -> None:
    args = _arguments()
    bundle = load_bundle(args.bundle)
    skip = 0 if args.fit_data else args.train
    fit = read_labeled(bundle, args.fit_data or args.data, args.train)
    test = read_labeled(bundle, args.data, args.test, skip)
    if fit.classes != test.classes:
        raise SystemExit(f"{args.fit_data} and {args.data} have other classes, or in another order")
    runtime = open_runtime(bundle, args.runtime, device=args.device, precision=args.precision)
    keeps = sorted({1.0, *args.keeps}, reverse=True)
    try:
        report = Report(args.name, __doc__ or "")
        for label, value in _setting(bundle, runtime, args):
            report.add(label, value)
        report.add("cosine of two different images, cls and mean", _unlike(runtime, bundle, test, args.batch))
        rates = in_turns(runtime, bundle, test.pixels[: args.images], keeps, args.batch, args.rounds)
        report.table(HEADER, _rows(runtime, bundle, fit, test, rates, args))
        report.write()
    finally:
        runtime.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--data", required=True, help="labeled images to test on: any source that training.pack takes")
    parser.add_argument("--fit-data", help="labeled images of the same classes to fit on")
    parser.add_argument("--train", type=int, default=10_000, help="images to fit on")
    parser.add_argument("--test", type=int, default=5_000, help="images to test on")
    parser.add_argument("--keeps", type=float, nargs="+", default=[1.0, 0.75, 0.5, 0.25])
    parser.add_argument("--penalty", type=float, default=1e-4, help="of the fitted classifier's weights")
    parser.add_argument("--runtime", choices=get_args(RuntimeName), default="auto")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=get_args(PrecisionName), default="auto")
    parser.add_argument("--batch", type=int, default=8, help="images in one call")
    parser.add_argument("--images", type=int, default=512, help="images of one turn of the timing")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--name", default="keep", help="of the file in results/")
    args = parser.parse_args()
    if not all(0 < keep <= 1 for keep in args.keeps):
        parser.error("--keeps must lie above 0 and at most at 1")
    return args


def _setting(bundle: Bundle, runtime: Runtime, args: argparse.Namespace) -> list[tuple[str, str]]:
    model = bundle.manifest.model
    size = f"{model.image_size[0]} x {model.image_size[1]} px, patch {model.patch_size}, {model.depth} x {model.dim}"
    return [
        ("bundle", f"{bundle.manifest.name}: {size}"),
        (
            "runtime",
            f"{runtime.name} on {runtime.device}, {runtime.precision}, {runtime.lanes} lanes, batch {args.batch}",
        ),
        (
            "images",
            f"fitted on {args.train:,}, tested on {args.test:,}, timed on {args.images:,}, {args.rounds} rounds",
        ),
    ]


def _rows(
    runtime: Runtime,
    bundle: Bundle,
    fit: Labeled,
    test: Labeled,
    rates: dict[float, list[float]],
    args: argparse.Namespace,
) -> Iterator[tuple[str, ...]]:
    """One per keep, 1 first, which the others are held against."""
    whole: Arrays | None = None
    for keep, speeds in rates.items():
        features = encode(runtime, bundle, test.pixels, keep, args.batch)
        whole = whole or features
        fitted = encode(runtime, bundle, fit.pixels, keep, args.batch)
        head = head_hits(runtime, bundle, features, test)
        yield (
            f"{keep:g}",
            str(len(keep_ids(bundle.manifest.model.num_patches, keep))),
            f"{statistics.median(speeds):,.0f}",
            f"{paired_ratio(speeds, rates[1.0]):.2f}x",
            *(_likeness(features[name], whole[name]) for name in _POOLED),
            "none" if head is None else share(head),
            share(fitted_hits(fitted, fit.labels, features, test.labels, args.penalty)),
        )


def _unlike(runtime: Runtime, bundle: Bundle, test: Labeled, batch: int) -> str:
    """What the likenesses are to be compared with: a Masked Autoencoder's vectors all point about the same way."""
    features = encode(runtime, bundle, test.pixels, 1.0, batch)
    return ", ".join(f"{cosines(features[name], np.roll(features[name], 1, axis=0)).mean():.3f}" for name in _POOLED)


def _likeness(features: NDArray[np.float32], whole: NDArray[np.float32]) -> str:
    found = cosines(features, whole)
    return f"{found.mean():.3f}, least {found.min():.3f}"


if __name__ == "__main__":
    main()
