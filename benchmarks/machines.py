"""How many machines are so many images a second, and what do they cost?

    python -m benchmarks.machines [--rates 100 10000 1000000] [--hits 0.3] [--core-price 0.05]
    python -m benchmarks.machines --update docs/scaling.md

Arithmetic and nothing else: what an image takes of a core, of the network and of Redis is read from the result of
benchmarks/scaling.py or given here, prices and machines are given here, and no figure is rounded before the last. An
hour of a core and of a machine with a GPU cost what the flags say, which are examples and nobody's offer. A GPU's rate
is given, or else a share of what its arithmetic would allow. `--update` writes the tables into a page, between the
comments that name them.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from benchmarks.report import RESULTS
from bundle.manifest import ModelSpec
from export.flops import encoder_flops

RATES = (100.0, 10_000.0, 1_000_000.0)
VIT_BASE = ModelSpec(
    image_size=(224, 224), patch_size=16, channels=3, dim=768, depth=12, heads=12, mlp_ratio=4, decoder=None
)
_CPU = ("images/s", "cores", "machines", "full first", "Gbit/s in")
_GPU = ("images/s", "machines", "full first", "GPU busy")
_COST = ("cost of an hour", "of a million images")
_REDIS = ("images/s", "vectors/s", "cores of Redis busy", "masters", "Gbit/s")
_FOUND = {  # where the result of scaling.py has it
    "decode_ms": r"^\| decode \| ([\d.]+) ms",
    "network_ms": r"^\| network \| ([\d.]+) ms",
    "http_ms": r"^\| HTTP and JSON \| ([\d.]+) ms",
    "busy_cores": r"^\| (\d+) busy cores do \|",
    "busy_speed": r"^\| \d+ busy cores do \| ([\d.]+) times",
    "request_bytes": r"^\| request \| (\d+) bytes",
    "answer_bytes": r"^\| answer \| (\d+) bytes",
    "read_us": r"^\| Redis \| ([\d.]+) us",
    "write_us": r"^\| Redis \| .*, ([\d.]+) to write",
    "vector_bytes": r"^\| vector in Redis \| (\d+) bytes",
}
_GPU_DECODE = re.compile(r"^\| JPEG 500 x 375 \| 224 \| ours \| ([\d.]+) ", re.MULTILINE)  # in decode.md


@dataclass(frozen=True, kw_only=True)
class Image:
    """What one takes: ms of a core (`http_ms` of a hit of the cache too), bytes on the network, us of Redis' core.

    `hits`: the share that a cache knows. `efficiency`: what each of many busy cores does of what one alone does.
    """

    decode_ms: float
    network_ms: float
    http_ms: float
    request_bytes: float
    answer_bytes: float
    read_us: float
    write_us: float
    vector_bytes: float
    hits: float = 0.0
    efficiency: float = 1.0

    def core_ms(self, *, on_gpu: bool) -> float:
        """Of a core of the service's machine."""
        work = self.decode_ms if on_gpu else self.decode_ms + self.network_ms
        return self.http_ms + (1 - self.hits) * work

    def per_core(self, *, on_gpu: bool) -> float:
        """Images per second of a core that is always busy, among others that are."""
        return 1000 * self.efficiency / self.core_ms(on_gpu=on_gpu)

    def redis_us(self) -> float:
        """Every image is looked up, and what was not known is written."""
        return self.read_us + (1 - self.hits) * self.write_us

    def per_link(self, gbit: float) -> float:
        """Images per second of a network connection, whose directions do not share it."""
        return gbit * 1e9 / 8 / max(self.request_bytes, self.answer_bytes)


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A machine that can be had: its cores, its network, and of its GPU the images per second, if it has one."""

    cores: int
    gbit: float
    gpu_rate: float | None = None

    def limits(self, image: Image) -> dict[str, float]:
        """Images per second that each of its parts does at most."""
        found = {
            "cores": self.cores * image.per_core(on_gpu=self.gpu_rate is not None),
            "network": image.per_link(self.gbit),
        }
        return found if self.gpu_rate is None else found | {"GPU": self.gpu_rate / max(1e-9, 1 - image.hits)}

    def most(self, image: Image) -> float:
        return min(self.limits(image).values())


def per_million(price_per_hour: float, rate: float) -> float:
    return price_per_hour / (rate * 3600) * 1e6


def machines_for(rate: float, most: float, utilisation: float) -> int:
    """Machines that do `most` each, none busier than `utilisation`."""
    return math.ceil(rate / (most * utilisation) - 1e-9)


def cpu_rows(args: argparse.Namespace, image: Image) -> list[list[str]]:
    offer = Offer(cores=args.cores, gbit=args.gbit)
    rows = []
    for rate in args.rates:
        cores = machines_for(rate, image.per_core(on_gpu=False), args.utilisation)
        machines = max(math.ceil(cores / args.cores), machines_for(rate, image.per_link(args.gbit), args.utilisation))
        price = cores * args.core_price
        rows.append([
            f"{rate:,.0f}", f"{cores:,}", f"{machines:,}", min(offer.limits(image).items(), key=lambda it: it[1])[0],
            f"{rate * image.request_bytes * 8 / 1e9:,.2f}", f"{price:,.2f}", f"{per_million(price, rate):.2f}",
        ])  # fmt: skip
    return rows


def gpu_rows(args: argparse.Namespace, image: Image) -> list[list[str]]:
    offer, image = Offer(cores=args.gpu_cores, gbit=args.gbit, gpu_rate=args.gpu_rate), gpu_image(args, image)
    limit, most = min(offer.limits(image).items(), key=lambda it: it[1])
    rows = []
    for rate in args.rates:
        machines = machines_for(rate, most, args.utilisation)
        price = machines * args.gpu_price
        busy = rate / machines / offer.limits(image)["GPU"]
        rows.append([
            f"{rate:,.0f}", f"{machines:,}", limit, f"{busy:.0%}", f"{price:,.2f}", f"{per_million(price, rate):.2f}",
        ])  # fmt: skip
    return rows


def redis_rows(args: argparse.Namespace, image: Image) -> list[list[str]]:
    most = 1e6 / image.redis_us()
    return [
        [f"{rate:,.0f}", f"{rate * (2 - image.hits):,.0f}", f"{rate / most:.3g}",
         f"{machines_for(rate, most, args.utilisation):,}", f"{rate * image.vector_bytes * 8 / 1e9:,.3f}"]
        for rate in args.rates
    ]  # fmt: skip


def input_rows(args: argparse.Namespace, image: Image) -> list[list[str]]:
    loop, core, link = 1000 / image.http_ms, image.per_core(on_gpu=False), image.per_link(args.gbit)
    feeding = args.gpu_rate / gpu_image(args, image).per_core(on_gpu=True)
    return [
        ["decode", f"{image.decode_ms:.2f} ms of a core; {args.gpu_decode_ms:.2f} for the GPU's network"],
        ["network", f"{image.network_ms:.2f} ms of a core"],
        ["HTTP and JSON", f"{image.http_ms:.2f} ms of a core"],
        ["a busy core among others", f"{image.efficiency:.2f} of one alone, measured with {args.busy_cores:.0f}"],
        ["hits of the cache", f"{image.hits:.0%}"],
        ["a core does at most", f"{core:.0f} images/s"],
        ["an event loop does at most", f"{loop:,.0f} images/s: enough for {loop / core:.0f} such cores"],
        [f"{args.gbit:g} Gbit/s carry at most", f"{link:,.0f} images/s of {image.request_bytes / 1000:.0f} kB"],
        ["a Redis does at most", f"{1e6 / image.redis_us():,.0f} images/s, {image.redis_us():.1f} us of its core each"],
        ["a GPU is taken to do", f"{args.gpu_rate:,.0f} images/s: {args.gpu_says}"],
        ["cores that decode and answer for it", f"{feeding:.0f}"],
        ["busy at most", f"{args.utilisation:.0%} of what is full first"],
        ["an hour of a core costs", f"{args.core_price:.2f}"],
        [f"an hour of {args.gpu_cores} cores with a GPU costs", f"{args.gpu_price:.2f}"],
    ]  # fmt: skip


def gpu_image(args: argparse.Namespace, image: Image) -> Image:
    """One for the GPU's network, which is larger."""
    return replace(image, decode_ms=args.gpu_decode_ms)


def tables(args: argparse.Namespace) -> dict[str, str]:
    """Markdown, by the name that a page has for it."""
    image = image_of(args)
    return {
        "inputs": table(("", "taken here"), input_rows(args, image)),
        "cpu": table((*_CPU, *_COST), cpu_rows(args, image)),
        "gpu": table((*_GPU, *_COST), gpu_rows(args, image)),
        "redis": table(_REDIS, redis_rows(args, image)),
    }


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def updated(page: str, found: dict[str, str]) -> str:
    """The page with each table between `<!-- table: NAME -->` and the next `<!-- end -->`. ValueError for a name that
    is none, and for a table that the page has no place for.
    """
    places = re.compile(r"(<!-- table: (\w+) -->\n).*?(\n<!-- end -->)", re.DOTALL)
    named = {match[2] for match in places.finditer(page)}
    if named != set(found):
        raise ValueError(f"the page has places for {sorted(named)}, and the tables are {sorted(found)}")
    return places.sub(lambda match: f"{match[1]}\n{found[match[2]]}\n{match[3]}", page)


def image_of(args: argparse.Namespace) -> Image:
    return Image(
        decode_ms=args.decode_ms, network_ms=args.network_ms, http_ms=args.http_ms, request_bytes=args.request_bytes,
        answer_bytes=args.answer_bytes, read_us=args.read_us, write_us=args.write_us, vector_bytes=args.vector_bytes,
        hits=args.hits, efficiency=args.busy_speed / args.busy_cores,
    )  # fmt: skip


def measured(result: Path) -> dict[str, float]:
    """What scaling.py found. SystemExit where a figure is missing."""
    text = result.read_text() if result.is_file() else ""
    found = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in _FOUND.items()}
    missing = [name for name, match in found.items() if match is None]
    if missing:
        raise SystemExit(f"error: {result} has no {', '.join(missing)}; python -m benchmarks.scaling measures it")
    return {name: float(match[1]) for name, match in found.items() if match is not None}


def _share(text: str) -> float:
    """Of images that a cache knows: with all of them there is nothing to buy."""
    value = float(text)
    if not 0 <= value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 0 and below 1, got {text}")
    return value


def _part(text: str) -> float:
    value = float(text)
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"must be above 0 and at most 1, got {text}")
    return value


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _count(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {text}")
    return value


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m benchmarks.machines", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--result", type=Path, default=RESULTS / "scaling.md", help="of benchmarks.scaling")
    for name in _FOUND:
        parser.add_argument(f"--{name.replace('_', '-')}", type=_positive, help="in place of the result's")
    parser.add_argument("--rates", type=_positive, nargs="+", default=RATES, help="images per second")
    parser.add_argument("--hits", type=_share, default=0.0, help="share that a cache knows; %(default)s")
    parser.add_argument("--utilisation", type=_part, default=0.7, help="of what is full first; %(default)s")
    parser.add_argument("--cores", type=_count, default=64, help="of a machine without a GPU; %(default)s")
    parser.add_argument("--gbit", type=_positive, default=25.0, help="of a machine's network; %(default)s")
    parser.add_argument("--core-price", type=_positive, default=0.05, help="of an hour of one; %(default)s")
    parser.add_argument("--gpu-decode-ms", type=_positive, help="for the GPU's network; of decode.md by default")
    parser.add_argument("--gpu-cores", type=_count, default=26, help="of a machine with one GPU; %(default)s")
    parser.add_argument("--gpu-price", type=_positive, default=3.0, help="of an hour of such a machine; %(default)s")
    parser.add_argument("--gpu-rate", type=_positive, help="images per second, measured; else by the two below")
    parser.add_argument(
        "--gpu-tflops", type=_positive, default=989.0, help="peak of dense 16-bit products; %(default)s, an H100's"
    )
    parser.add_argument("--gpu-share", type=_part, default=0.3, help="of the peak that is reached; %(default)s")
    parser.add_argument("--update", type=Path, help="a page with places for the tables")
    args = parser.parse_args(argv)
    given = {name: value for name in _FOUND if (value := getattr(args, name)) is not None}
    known = given if len(given) == len(_FOUND) else measured(args.result) | given
    vars(args).update(known)
    _fill_in_gpu(args)
    return args


def _fill_in_gpu(args: argparse.Namespace) -> None:
    if args.gpu_decode_ms is None:
        [args.gpu_decode_ms] = map(float, _GPU_DECODE.findall((RESULTS / "decode.md").read_text()))
    args.gpu_says = "as given"
    if args.gpu_rate is None:
        flops = encoder_flops(VIT_BASE, VIT_BASE.num_patches)
        args.gpu_rate = args.gpu_share * args.gpu_tflops * 1e12 / flops
        share = f"{args.gpu_share:.0%} of {args.gpu_tflops:g} TFLOP/s"
        args.gpu_says = f"{share} at {flops / 1e9:.1f} GFLOP, those of a ViT-B/16 at 224 pixels; not measured"


def main() -> None:
    args = parse()
    found = tables(args)
    if args.update is not None:
        try:
            args.update.write_text(updated(args.update.read_text(), found))
        except ValueError as e:
            raise SystemExit(f"error: {e}") from e
        print(f"written to {args.update}")
        return
    print("\n\n".join(found.values()))


if __name__ == "__main__":
    main()
