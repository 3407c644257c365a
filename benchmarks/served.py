"""What does a bundle give through the service: accuracy, neighbours and speed, per precision and keep?

    python -m benchmarks.served --bundle models/default --data val.parquet

A service for each engine and precision that this machine has for the bundle, its caches off, and everything asked for
over HTTP. Accuracy is that of /classify on the images whose class is among the bundle's labels, by name; it always sees
all patches. Neighbours: of each image the ones whose vectors of /embed have the largest cosine to its own, and how many
of them are of its class; chance is that of two images drawn from the data. Likeness: the cosine of each image's vector
to the one of the first service, which computes in fp32, at keep 1. Speed is held against the same: every service and
keep in turns, the ratio the median of the paired ones. It is that of the whole path, decoding included, and the client
has its part of the same cores.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray

from benchmarks.labeled import LabeledFiles, classified, read_files, share
from benchmarks.load.requests import read_photos
from benchmarks.load.servers import Server, ServerFailed, ours, running
from benchmarks.report import Report, paired_ratio
from bundle.errors import MaeveError
from bundle.manifest import Pooling
from bundle.store import Bundle, load_bundle
from export.bench.candidates import PRECISIONS, RUNTIMES, Candidate, find_candidates
from export.bench.circumstances import machine
from export.bench.document import Unmeasured
from runtime.agreement import cosines
from runtime.machine import survey
from service.client import Client, ClientError

# Letters: N images, D width of a vector.
KEEPS = (1.0, 0.75, 0.5, 0.25)  # the first is what the others are held against
NUM_NEAREST = 10
TOP_K = 5
_PER_REQUEST, _CONNECTIONS = 16, 4
_BLOCK = 1024  # images whose cosines to all others are held at a time
Floats = NDArray[np.floating[Any]]


@dataclass
class Service:
    """`rates`: images per second of each round. `vectors`: [N, D] of length 1. `hits`: [N, TOP_K] of the images whose
    class the bundle knows, None where there are none.
    """

    label: str
    server: Server
    client: Client
    rates: dict[float, list[float]] = field(default_factory=lambda: {keep: [] for keep in KEEPS})
    vectors: dict[tuple[Pooling, float], Floats] = field(default_factory=dict)
    hits: NDArray[np.bool_] | None = None


def nearest(vectors: Floats, num_nearest: int) -> NDArray[np.int64]:
    """[N, num_nearest]: of each image the others with the largest cosines, best first. vectors: [N, D] of length 1."""
    found = np.empty((len(vectors), num_nearest), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        distances = -(vectors[start : start + _BLOCK] @ vectors.T)  # [block, N]
        rows = np.arange(len(distances))
        distances[rows, start + rows] = np.inf  # an image is not its own neighbour
        best = np.argpartition(distances, num_nearest - 1, axis=1)[:, :num_nearest]
        order = np.argsort(np.take_along_axis(distances, best, axis=1), axis=1)
        found[start : start + _BLOCK] = np.take_along_axis(best, order, axis=1)
    return found


def chance(labels: NDArray[np.int64]) -> float:
    """The probability that an image drawn from the others has the class of a first one. SystemExit if there is none."""
    counts = np.bincount(labels)
    pairs = int((counts * (counts - 1)).sum())
    if not pairs:
        raise SystemExit("error: no two images have the same class, so neighbours say nothing; take more --images")
    return pairs / (len(labels) * (len(labels) - 1))


def read_data(data: str, count: int | None) -> LabeledFiles:
    """All labeled images or `count` of them, evenly spread: a folder has its classes one after the other."""
    images = read_files(data)
    if count is not None and count < len(images):
        images = images.at(np.linspace(0, len(images) - 1, count).astype(np.int64))
    if len(images) <= NUM_NEAREST:
        raise SystemExit(f"error: {len(images)} labeled images have no {NUM_NEAREST} neighbours each; take more")
    return images


def known(images: LabeledFiles, bundle: Bundle) -> LabeledFiles | None:
    """Those whose class is among the bundle's labels; None where there are none, or no labels."""
    mine = np.array([name in (bundle.labels or ()) for name in images.classes])[images.labels]  # [N]
    return images.at(np.flatnonzero(mine)) if mine.any() else None


def candidates(bundle: Bundle, args: argparse.Namespace) -> tuple[list[Candidate], list[Unmeasured]]:
    """What runs here, fp32 first, and what does not. SystemExit where fp32 does not, which all is held against."""
    found, others = find_candidates(bundle.manifest, args.runtimes, PRECISIONS, device=args.device, machine=survey())
    found = [each for each in found if args.device == "auto" or each.device.startswith(args.device)]
    first = next((each for each in found if each.precision == "fp32"), None)
    if first is None:
        reasons = "; ".join(f"{each.runtime} {each.precision}: {each.reason}" for each in others)
        raise SystemExit(f"error: nothing runs this bundle in fp32 here, which all else is held against: {reasons}")
    return [first, *(each for each in found if each != first)], others


def start(found: Sequence[Candidate], bundle: Bundle, stack: ExitStack) -> tuple[list[Service], list[Unmeasured]]:
    """Services that stand still, and those that did not start. ServerFailed where the first one did not."""
    services, failed, photos = list[Service](), list[Unmeasured](), read_photos(None)[:1]
    for each in found:
        asked: dict[str, str] = {"runtime": each.runtime, "device": each.device, "precision": each.precision}
        try:
            server = stack.enter_context(Server(ours(bundle.path, label=each.label, **asked), photos))
        except ServerFailed as e:
            if not services:
                raise
            failed.append(Unmeasured(runtime=each.runtime, precision=each.precision, reason=str(e)))
            continue
        server.hold()
        url = f"http://127.0.0.1:{server.port}"
        client = Client(url, images_per_request=_PER_REQUEST, requests_at_once=_CONNECTIONS)
        services.append(Service(each.label, server, stack.enter_context(client)))
    return services, failed


def take_turns(services: Sequence[Service], files: Sequence[bytes], rounds: int) -> None:
    """Fill in the rates; the order alternates, and a round before the first is left out."""
    for number in range(-1, rounds):
        step = -1 if number % 2 else 1
        for service in services[::step]:
            with running(service.server):
                for keep in KEEPS[::step]:
                    began = time.perf_counter()
                    service.client.embed(files, keep=keep)
                    rate = len(files) / (time.perf_counter() - began)
                    if number >= 0:
                        service.rates[keep].append(rate)
        print(f"round {number + 1} of {rounds}", flush=True)


def ask(service: Service, images: LabeledFiles, pooling: Pooling, classes: LabeledFiles | None) -> None:
    """Fill in the vectors, of `pooling` at every keep and of both at keep 1, and the hits on `classes`."""
    wanted = dict.fromkeys([*((pooling, keep) for keep in KEEPS), *((each, 1.0) for each in get_args(Pooling))])
    with running(service.server):
        for each, keep in wanted:
            service.vectors[each, keep] = service.client.embed(images.files, pooling=each, keep=keep)
        if classes is not None:
            service.hits = classified(service.client, classes, TOP_K)


def tell(report: Report, services: Sequence[Service], labels: NDArray[np.int64], pooling: Pooling) -> None:
    """A table for each question. labels: i64 [N]."""
    others = ", ".join(f"{keep:g}" for keep in KEEPS[1:])
    if services[0].hits is not None:
        report.table(("accuracy of /classify", "top-1", f"top-{TOP_K}", f"at keep {others}"), _accuracies(services))
    found = ("nearest: same class", "of chance", f"{NUM_NEAREST} nearest: same class", "of chance")
    by_keep = [(s, f"{keep:g}", s.vectors[pooling, keep]) for s in services for keep in KEEPS]
    report.table((f"neighbours by {pooling}", "keep", *found), _neighbours(by_keep, labels))
    by_pooling = [(s, each, s.vectors[each, 1.0]) for s in services for each in get_args(Pooling)]
    report.table(("neighbours at keep 1", "pooling", *found), _neighbours(by_pooling, labels))
    first = services[0]
    held = f"to {first.label}, keep 1"
    report.table(
        (f"likeness of {pooling}", "keep", f"mean cosine {held}", "least"),
        (
            (s.label, f"{keep:g}", *_likeness(s.vectors[pooling, keep], first.vectors[pooling, 1.0]))
            for s in services
            for keep in KEEPS
        ),
    )
    report.table(
        ("speed", "keep", held, "images/s"),
        (
            (s.label, f"{keep:g}", f"{paired_ratio(rates, first.rates[1.0]):.2f}x", f"{statistics.median(rates):,.0f}")
            for s in services
            for keep, rates in s.rates.items()
        ),
    )


def _accuracies(services: Sequence[Service]) -> Iterator[tuple[str, ...]]:
    for service in services:
        assert service.hits is not None
        yield service.label, share(service.hits[:, 0]), share(service.hits.max(axis=1)), "-"


def _neighbours(found: Sequence[tuple[Service, str, Floats]], labels: NDArray[np.int64]) -> Iterator[tuple[str, ...]]:
    by_chance = chance(labels)
    for service, what, vectors in found:
        same = labels[nearest(vectors, NUM_NEAREST)] == labels[:, None]  # [N, NUM_NEAREST]
        cells = [(share(each), f"{each.mean() / by_chance:.1f}x") for each in (same[:, 0], same.mean(axis=1))]
        yield service.label, what, *cells[0], *cells[1]


def _likeness(vectors: Floats, whole: Floats) -> tuple[str, str]:
    found = cosines(vectors, whole)
    return f"{found.mean():.5f}", f"{found.min():.5f}"


def measure(args: argparse.Namespace) -> Path:
    """Measure and write the result; its path."""
    bundle, images = load_bundle(args.bundle), read_data(args.data, args.images)
    by_chance = chance(images.labels)
    manifest, classes, timed = bundle.manifest, known(images, bundle), images.files[: args.timed]
    found, unmeasured = candidates(bundle, args)
    with ExitStack() as stack:
        services, failed = start(found, bundle, stack)
        take_turns(services, timed, args.rounds)
        for service in services:
            ask(service, images, manifest.pooling, classes)
    report = Report(f"served_{manifest.name}", __doc__ or "")
    size = " x ".join(map(str, manifest.model.image_size))
    report.add("bundle", f"{manifest.name}: {size} px, patch {manifest.model.patch_size}, pooling {manifest.pooling}")
    if any(each.device.startswith("cuda") for each in found):
        report.add("GPU", ", ".join(machine().gpus))
    report.add("images", f"{len(images):,} of {len(np.unique(images.labels)):,} classes")
    report.add("of a class that /classify knows", "none" if classes is None else f"{len(classes):,}")
    report.add("chance that two images are of one class", f"{by_chance:.2%}")
    whole = services[0].vectors[manifest.pooling, 1.0]
    report.add("cosine of two different images", f"{cosines(whole, np.roll(whole, 1, axis=0)).mean():.4f}")
    load = f"{len(timed):,} images in requests of {_PER_REQUEST} on {_CONNECTIONS} connections"
    report.add("timed", f"{load}, {args.rounds} rounds; no cache")
    tell(report, services, images.labels, manifest.pooling)
    if missing := [*unmeasured, *failed]:
        report.table(("not measured", "precision", "why"), ((m.runtime, m.precision, m.reason) for m in missing))
    return report.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--data", required=True, help="labeled images: any source of them that training.pack takes")
    parser.add_argument("--images", type=int, help="so many of them, evenly spread; all by default")
    parser.add_argument("--runtimes", choices=RUNTIMES, nargs="+", default=RUNTIMES)
    parser.add_argument("--device", default="auto", help="cpu, cuda, cuda:1; auto is a GPU's engines and the CPU's")
    parser.add_argument("--timed", type=int, default=512, help="images of one turn of the timing")
    parser.add_argument("--rounds", type=int, default=9)
    args = parser.parse_args()
    if min(args.timed, args.rounds, args.images or 1) < 1:
        parser.error("--images, --timed and --rounds must be at least 1")
    try:
        measure(args)
    except (MaeveError, ServerFailed, ClientError) as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
