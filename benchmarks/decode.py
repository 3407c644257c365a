"""How much faster is our preprocessing than plain Pillow, and how near to it are the pixels and the embeddings?

    python -m benchmarks.decode --images photos/ [--bundle bundles/vit-tiny-224]

Each kind of file, cut to 224 and 64 pixels, by four ways in turns, on one thread: the common recipe with Pillow (open,
convert, resize the shorter side by bicubic, crop), the same with Pillow's draft, OpenCV where it is installed (its
closest: INTER_AREA), and ours. Speed is the median of the paired ratios to plain Pillow. Likeness is to the reference
preprocessing: every pixel decoded by Pillow, and the covering box resampled by its bicubic. The cosine is of `mean`
and `cls`, the lower one, of a bundle with that input size: the default one for 64, an untrained ViT-Ti/16 for 224.
Without --images the photos are made: smooth shapes with noise.
"""

from __future__ import annotations

import argparse
import io
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from benchmarks.engines import random_bundle
from benchmarks.report import Report, paired_ratio
from bundle.manifest import Preprocess
from bundle.masking import all_ids
from bundle.preprocess import preprocess, preprocess_image
from bundle.store import Bundle, load_bundle
from runtime.agreement import cosines
from runtime.base import Runtime
from runtime.select import open_runtime

Pixels = NDArray[np.uint8]
Way = Callable[[bytes], Pixels]

HEADER = ("file", "to px", "way", "ms", "speed", "PSNR dB, mean / least", "cosine, mean / least")
KINDS = {
    "JPEG 500 x 375": ("JPEG", (500, 375), {"quality": 85}),
    "JPEG 2 Mpx": ("JPEG", (1632, 1224), {"quality": 85}),
    "JPEG 12 Mpx": ("JPEG", (4000, 3000), {"quality": 85}),
    "PNG 500 x 375": ("PNG", (500, 375), {"compress_level": 3}),
    "WebP 500 x 375": ("WEBP", (500, 375), {"quality": 85}),
}


def made_photos(count: int) -> list[Image.Image]:
    """Blurred noise of several scales: smooth regions, edges and grain."""
    rng = np.random.default_rng(0)
    photos = []
    for _ in range(count):
        layers = []
        for side in (4, 16, 64, 256):
            noise = Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8))
            layers.append(np.asarray(noise.resize((1024, 768), Image.Resampling.BICUBIC), np.float32))
        mixed = Image.fromarray(np.average(layers, axis=0, weights=[8, 4, 2, 1]).astype(np.uint8))
        photos.append(mixed.filter(ImageFilter.UnsharpMask()))
    return photos


def read_photos(folder: Path, count: int) -> list[Image.Image]:
    """The first images of a folder, RGB. SystemExit if there is none."""
    files = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png"))[:count]
    if not files:
        raise SystemExit(f"{folder} holds no .jpg, .jpeg or .png")
    return [Image.open(file).convert("RGB") for file in files]


def encoded(photos: Sequence[Image.Image], kind: str) -> list[bytes]:
    """Each photo cut to the kind's aspect, scaled to its size and written."""
    name, size, options = KINDS[kind]
    files = []
    for photo in photos:
        spec = Preprocess(resize=size[::-1], crop=size[::-1], mean=(0.0,) * 3, std=(1.0,) * 3)
        buffer = io.BytesIO()
        Image.fromarray(preprocess_image(photo, spec)).save(buffer, name, **options)
        files.append(buffer.getvalue())
    return files


def ways(target: int) -> dict[str, Way]:
    """Label -> bytes to u8 [target, target, 3]. The first is what the others are held against."""
    spec = Preprocess(resize=(target, target), crop=(target, target), mean=(0.0,) * 3, std=(1.0,) * 3)

    def pillow(data: bytes, *, draft: bool = False) -> Pixels:
        image: Image.Image = Image.open(io.BytesIO(data))
        if draft:
            image.draft(None, (target, target))
        image = image.convert("RGB")
        scale = target / min(image.size)
        image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
        left, top = (image.width - target) // 2, (image.height - target) // 2
        return np.asarray(image.crop((left, top, left + target, top + target)))

    found: dict[str, Way] = {"Pillow": pillow, "Pillow, draft": lambda data: pillow(data, draft=True)}
    if find_spec("cv2") is not None:
        cv2 = import_module("cv2")
        found["OpenCV"] = lambda data: _opencv(cv2, data, target)
    return found | {"ours": lambda data: preprocess(data, spec)}


def _opencv(cv2: Any, data: bytes, target: int) -> Pixels:
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    height, width = image.shape[:2]
    scale = target / min(height, width)
    image = cv2.resize(image, (round(width * scale), round(height * scale)), interpolation=cv2.INTER_AREA)
    top, left = (image.shape[0] - target) // 2, (image.shape[1] - target) // 2
    cut: Pixels = image[top : top + target, left : left + target]
    return cut


def reference(data: bytes, target: int) -> Pixels:
    spec = Preprocess(resize=(target, target), crop=(target, target), mean=(0.0,) * 3, std=(1.0,) * 3)
    return preprocess_image(Image.open(io.BytesIO(data)).convert("RGB"), spec)


def in_turns(found: dict[str, Way], files: Sequence[bytes], rounds: int) -> dict[str, list[float]]:
    """Milliseconds per file of each way in each round; the order alternates, and a round before is left out."""
    times: dict[str, list[float]] = {label: [] for label in found}
    for i in range(-1, rounds):
        for label in sorted(found, reverse=bool(i % 2)):
            start = time.perf_counter()
            for data in files:
                found[label](data)
            if i >= 0:
                times[label].append((time.perf_counter() - start) / len(files) * 1e3)
    return times


def psnr(a: Pixels, b: Pixels) -> float:
    """Peak signal to noise in dB, of 8 bits; 99 for equal arrays."""
    error = float(np.mean((a.astype(np.float64) - b) ** 2))
    return 10 * float(np.log10(255**2 / error)) if error else 99.0


def vectors(runtime: Runtime, bundle: Bundle, images: Sequence[Pixels]) -> dict[str, NDArray[np.float32]]:
    """cls and mean, f32 [N, D] each."""
    ids = all_ids(len(images), bundle.manifest.model.num_patches)
    outputs = runtime.run("encoder", {"images": np.stack(images), "ids_keep": np.ascontiguousarray(ids)})
    return {name: outputs[name] for name in ("cls", "mean")}


def rows(
    kind: str, target: int, files: Sequence[bytes], rounds: int, bundle: Bundle, runtime: Runtime
) -> Iterator[tuple[str, ...]]:
    found = ways(target)
    times = in_turns(found, files, rounds)
    exact = [reference(data, target) for data in files]
    expected = vectors(runtime, bundle, exact)
    for label, way in found.items():
        pixels = [way(data) for data in files]
        likeness = [psnr(a, b) for a, b in zip(pixels, exact, strict=True)]
        actual = vectors(runtime, bundle, pixels)
        cosine = np.minimum(*(cosines(actual[name], expected[name]) for name in ("cls", "mean")))
        ratio = paired_ratio(times["Pillow"], times[label])
        yield (
            kind, str(target), label, f"{statistics.median(times[label]):.2f}", f"{ratio:.2f}x",
            f"{statistics.mean(likeness):.1f} / {min(likeness):.1f}", f"{cosine.mean():.5f} / {cosine.min():.5f}",
        )  # fmt: skip


def main() -> None:
    args = _arguments()
    photos = read_photos(args.images, args.count) if args.images else made_photos(args.count)
    with tempfile.TemporaryDirectory() as scratch:
        bundles = {64: load_bundle(Path("models/default"))}
        bundles[224] = load_bundle(args.bundle) if args.bundle else random_bundle("tiny", Path(scratch), "fp32", None)
        opened = {t: open_runtime(b, "onnxruntime", device="cpu", precision="fp32") for t, b in bundles.items()}
        report = Report("decode", __doc__ or "")
        report.add("photos", f"{len(photos)}, {args.images.name if args.images else 'made'}")
        report.add("rounds", f"{args.rounds}, in turns, on one thread")
        report.table(
            HEADER,
            (
                row
                for kind in KINDS
                for files in [encoded(photos[: 6 if "12" in kind else None], kind)]
                for target in (224, 64)
                for row in rows(kind, target, files, args.rounds, bundles[target], opened[target])
            ),
        )
        report.write()
        for runtime in opened.values():
            runtime.close()


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="a folder of photos; made ones otherwise")
    parser.add_argument("--bundle", type=Path, help="of 224 pixels; an untrained ViT-Ti/16 otherwise")
    parser.add_argument("--count", type=int, default=24, help="photos")
    parser.add_argument("--rounds", type=int, default=9)
    return parser.parse_args()


if __name__ == "__main__":
    main()
