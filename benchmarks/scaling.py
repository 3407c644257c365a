"""Does a model of the queue know what the service will do, and what does an image cost?

    python -m benchmarks.scaling [--bundle models/default] [--images photos/] [--quick]

The model (benchmarks/queueing.py) is told what the steps of a request take of a core, which is measured one by one
(benchmarks/load/calibration.py), and nothing of how requests meet. It says how much the service will do at most, at
which share of that how long callers will wait, and how many will be turned away; then the service is loaded just so,
with requests at the very moments that the model was told, and with clients that wait for their answers. Clients and
service share the machine's cores, so the model has the clients too. Linux alone says what a thread costs.

What an image costs of a core, of the network and of Redis is what benchmarks/machines.py reckons with.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import queueing
from benchmarks.load.calibration import Bench, Calibration, merged, others_cpu_s, told
from benchmarks.load.client import answer, arrivals, closed_loop, open_loop
from benchmarks.load.outcome import Outcome
from benchmarks.load.redis_cost import redis_cost
from benchmarks.load.requests import first_number, raw, read_photos, target
from benchmarks.load.servers import Server, ServerFailed, ours, running
from benchmarks.report import RESULTS, Report
from bundle.errors import MaeveError
from bundle.store import Bundle, load_bundle
from runtime.cores import usable_cores

SHARES = (0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 1.5)  # of what the model says that the service does at most
PLACES = 64
CLIENTS = 32
_QUIET = 0.05  # of the cores, that other programs may take
_PEAK_S = 20.0  # of made-up time, to learn the most
HEADER = ("load", "images/s", "p50, ms", "p99, ms", "turned away", "lanes busy")


@dataclass(frozen=True)
class Seen:
    """What a load came to, or will."""

    rate: float
    p50_ms: float
    p99_ms: float
    turned_away: float
    busy: float

    @classmethod
    def measured(cls, found: Outcome, busy: float) -> Seen:
        asked = found.answers + found.errors
        return cls(found.rate, found.p50_ms, found.p99_ms, found.errors / max(1, asked), busy)

    @classmethod
    def predicted(cls, found: queueing.Prediction) -> Seen:
        return cls(found.rate, found.within_ms(50), found.within_ms(99), found.rejected_share, found.busy)


@dataclass
class Load:
    """`offered`: requests per second of an open loop; None: a closed one of CLIENTS clients."""

    label: str
    offered: float | None
    measured: list[Seen] = field(default_factory=list)
    predicted: list[Seen] = field(default_factory=list)
    others: list[float] = field(default_factory=list)  # cores that other programs took meanwhile

    def moments(self, seconds: float, number: int) -> list[float]:
        assert self.offered is not None
        return list(arrivals(self.offered, seconds, number))

    def run(self, server: Server, seconds: float, number: int) -> None:
        """`number`: of the round, whose moments are its own."""
        with running(server):
            before, others_s, started = told(server.port), others_cpu_s(server), time.perf_counter()
            if self.offered is None:
                found = closed_loop(server.target, CLIENTS, seconds)
            else:
                found = open_loop(server.target, self.offered, seconds, seed=number)
            server.settle()
            elapsed_s, others_s = time.perf_counter() - started, others_cpu_s(server) - others_s
            after = told(server.port)
            self.others.append(max(0.0, others_s / elapsed_s))
        busy_s = after["maeve_device_busy_seconds_total"] - before["maeve_device_busy_seconds_total"]
        self.measured.append(Seen.measured(found, busy_s / after["maeve_device_lanes"] / elapsed_s))

    def predict(self, calibration: Calibration, seconds: float, number: int) -> None:
        machine = calibration.machine(PLACES)
        if self.offered is None:
            found = queueing.closed_loop(machine, CLIENTS, seconds, seed=number)
        else:
            found = queueing.open_loop(machine, self.moments(seconds, number), seconds, seed=number)
        self.predicted.append(Seen.predicted(found))

    def cells(self) -> list[str]:
        """Measured, predicted and, where the figure is not near 0, the error."""
        return [
            self._cell(lambda s: s.rate, "{:.0f}"),
            self._cell(lambda s: s.p50_ms, "{:.1f}"),
            self._cell(lambda s: s.p99_ms, "{:.0f}"),
            self._cell(lambda s: s.turned_away, "{:.1%}", relative=False),
            self._cell(lambda s: s.busy, "{:.0%}", relative=False),
        ]

    def median(self, seen: Sequence[Seen], value: Callable[[Seen], float]) -> float:
        return statistics.median(value(each) for each in seen)

    def error(self, value: Callable[[Seen], float]) -> float:
        """Of the prediction, as a share of what was measured, the median of the rounds."""
        pairs = zip(self.predicted, self.measured, strict=True)
        return statistics.median(value(predicted) / value(measured) - 1 for predicted, measured in pairs)

    def _cell(self, value: Callable[[Seen], float], form: str, *, relative: bool = True) -> str:
        measured, predicted = self.median(self.measured, value), self.median(self.predicted, value)
        text = f"{form.format(measured)} / {form.format(predicted)}"
        return f"{text} ({self.error(value):+.0%})" if relative else text


def loads(capacity: float) -> list[Load]:
    """`capacity`: images per second that the service will do at most."""
    found = [Load(f"{share:.0%}", share * capacity) for share in SHARES]
    return [*found, Load(f"{CLIENTS} clients", None)]


def measure(args: argparse.Namespace, bench: Bench, server: Server) -> tuple[list[Load], list[Calibration]]:
    """Rounds of all loads, each between two calibrations, by whose mean it is predicted."""
    calibrations = [bench.calibrate(server, args.calibration_s)]
    peak = queueing.closed_loop(calibrations[0].machine(PLACES), CLIENTS, _PEAK_S)
    found = loads(peak.rate)
    print(f"the model says {peak.rate:.0f} images/s at most", flush=True)
    for number in range(args.rounds):
        for load in found[:: -1 if number % 2 else 1]:
            load.run(server, args.seconds, number)
        calibrations.append(bench.calibrate(server, args.calibration_s))
        for load in found:
            load.predict(merged(*calibrations[-2:]), args.seconds, number)
        print(f"round {number + 1} of {args.rounds}", flush=True)
    return found, calibrations


def add_costs(report: Report, calibrations: Sequence[Calibration], found: Sequence[Load], cores: int) -> None:
    """What machines.py reads: an image's price in core time."""

    def median(value: Callable[[Calibration], float]) -> float:
        return statistics.median(value(each) for each in calibrations)

    most = found[-1].median(found[-1].measured, lambda s: s.rate)
    report.add("images/s at most", f"{most:.0f}, {most / cores:.0f} for each core, clients included")
    report.add("decode", f"{median(lambda c: c.decode_ms):.2f} ms of a core")
    report.add("network", f"{median(lambda c: c.infer_ms):.2f} ms of a core, in calls of {len(calibrations[0].call_s)}")
    steady, rare = median(lambda c: c.steady.loop_s), median(lambda c: c.rare.loop_s)
    report.add("HTTP and JSON", f"{steady * 1000:.2f} ms of a core, {rare * 1000:.2f} ms where requests are rare")
    report.add("client", f"{median(lambda c: c.steady.client_s) * 1000:.2f} ms of a core")
    report.add(f"{cores} busy cores do", f"{median(lambda c: c.speeds[-1]):.2f} times as much as one")


def add_wire(report: Report, server: Server, bundle: Bundle) -> None:
    """Bytes of an image on the network: its request, and its answer in both forms."""
    requests = [len(server.target.request(number)) for number in range(len(server.target.bodies))]
    binary = target(server.port, raw("/embed", "application/octet-stream"), [b.head for b in server.target.bodies])
    with running(server):
        as_json, as_bytes = (len(answer(each, first_number()) or b"") for each in (server.target, binary))
    report.add("request", f"{statistics.mean(requests):.0f} bytes")
    report.add("answer", f"{as_json} bytes of JSON, {as_bytes} as floats ({bundle.manifest.model.dim} of them)")


def add_redis(report: Report, bundle: Bundle, seconds: float) -> None:
    cost = redis_cost(bundle.manifest.model.dim, seconds)
    if cost is None:
        report.add("Redis", "not measured: no redis-server")
        return
    report.add("Redis", f"{cost.read_s * 1e6:.1f} us of a core to read a vector, {cost.write_s * 1e6:.1f} to write one")
    report.add("vector in Redis", f"{cost.value_bytes} bytes on the wire with its key")


def draw(name: str, found: Sequence[Load]) -> str:
    """Latency and answers over what was offered, predicted as lines and measured as points; the file's name."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib.figure import Figure

    opened = [load for load in found if load.offered is not None]
    offered = [load.offered for load in opened]
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    series: list[tuple[str, str, Callable[[Seen], float]]] = [
        ("p99", "C1", lambda s: s.p99_ms), ("p50", "C0", lambda s: s.p50_ms),
    ]  # fmt: skip
    for label, color, value in series:
        lines = [load.median(load.predicted, value) for load in opened]
        left.plot(offered, lines, color=color, label=f"{label}, model")
        for number in range(len(opened[0].measured)):
            points = [value(load.measured[number]) for load in opened]
            left.plot(offered, points, "o", color=color, alpha=0.6, label=None if number else f"{label}, measured")
    rates = [load.median(load.predicted, lambda s: s.rate) for load in opened]
    right.plot(offered, rates, color="C2", label="answered, model")
    for number in range(len(opened[0].measured)):
        points = [load.measured[number].rate for load in opened]
        right.plot(offered, points, "o", color="C2", alpha=0.6, label=None if number else "answered, measured")
    right.plot(offered, offered, ":", color="grey", label="offered")
    left.set(xlabel="images/s offered", title="ms", yscale="log")
    right.set(xlabel="images/s offered", title="images/s", ylim=(0, None))
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=100, metadata={"Software": None})
    return f"{name}.png"


def rows(found: Sequence[Load]) -> Iterator[list[str]]:
    for load in found:
        offered = f" = {load.offered:.0f}/s" if load.offered is not None else ""
        yield [load.label + offered, *load.cells()]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=Path("models/default"))
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; made ones by default")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each load")
    parser.add_argument("--calibration-s", type=float, default=10.0, help="of each calibration")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument("--name", default="scaling", help="of the result")
    args = parser.parse_args(argv)
    if args.quick:
        args.rounds, args.seconds, args.calibration_s = 1, 0.5, 1.5
    return args


def run(args: argparse.Namespace) -> Path:
    """Measure and write the result; its path."""
    bundle, photos, cores = load_bundle(args.bundle), read_photos(args.images), usable_cores()
    bench = Bench(bundle, photos, args.precision, cores)
    report = Report(args.name, __doc__ or "")
    manifest = bundle.manifest
    report.add("bundle", f"{manifest.name}: {manifest.model.image_size[0]} px, {args.precision}")
    report.add("images", f"{len(photos)} JPEGs, {statistics.mean(map(len, photos)) / 1000:.0f} kB on average")
    with Server(ours(bundle.path, "--max-queue", str(PLACES), precision=args.precision), photos) as server:
        server.hold()
        found, calibrations = measure(args, bench, server)
        add_costs(report, calibrations, found, cores)
        add_wire(report, server, bundle)
    add_redis(report, bundle, args.calibration_s / 2)
    report.add("other programs meanwhile", taken_by_others(found, cores))
    errors = [abs(load.error(lambda s: s.rate)) for load in found]
    report.add(
        "error of the model",
        f"{statistics.median(errors):.0%} of the throughput, {max(errors):.0%} at worst; "
        + ", ".join(f"{each:.0%} of {name}" for name, each in latency_errors(found))
        + ", medians of the loads",
    )
    report.add("places in the queue", str(PLACES))
    report.add("rounds", f"{args.rounds} of {args.seconds:g} s for each load")
    report.table([HEADER[0], *(f"{name}: measured / model" for name in HEADER[1:])], rows(found))
    report.picture(draw(args.name, found))
    return report.write()


def taken_by_others(found: Sequence[Load], cores: int) -> str:
    """Of the cores, while the service was loaded. The model knows of no other programs."""
    share = statistics.mean(each for load in found for each in load.others) / cores
    verdict = "" if share < _QUIET else ": too much, so that the latencies say nothing of the model"
    return f"{share:.0%} of the cores{verdict}"


def latency_errors(found: Sequence[Load]) -> Iterator[tuple[str, float]]:
    """The median over the loads of how far the model is off."""
    values: dict[str, Callable[[Seen], float]] = {"p50": lambda s: s.p50_ms, "p99": lambda s: s.p99_ms}
    for name, value in values.items():
        errors = [abs(load.error(value)) for load in found]
        yield name, statistics.median(each for each in errors if math.isfinite(each))


def main() -> None:
    try:
        run(parse())
    except (MaeveError, ServerFailed) as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
