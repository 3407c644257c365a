"""How much of a bare decode + run loop is left behind HTTP, and how much of it do other servers leave?

    python -m benchmarks.serve_load [--bundle models/default] [--images DIR]
    python -m benchmarks.serve_load --peers [--bundle B ...] [--images DIR] [--quick]

The limit: as many threads as cores, each decoding an image and running its own one-thread session, nothing else. The
service: `python -m service` as a process of its own, caches off, under keep-alive clients that share its cores. With
`--peers` also other servers of the same ONNX file and the same photos, each installed into an environment of its own
and run in the better of two layouts, one process with as many threads as cores or one process for each core; by
default for a random ViT-Ti/16 at 224 pixels and for the default bundle. All take turns, several times, the others
standing still meanwhile; ratios are medians of those within a round. No two requests carry the same bytes, so that
neither a cache nor the sharing of identical requests in flight can help, but for the row about cache hits.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.load import peers
from benchmarks.load.contest import Contestant, Limit, closed_rounds, enter, hit_ratio, open_rounds
from benchmarks.load.limit import BareLoop, our_decode, overhead, plain_decode
from benchmarks.load.peers import Layout, Peer
from benchmarks.load.requests import raw, read_photos
from benchmarks.load.servers import Launch, Server, ServerFailed, ours, running
from benchmarks.load.tables import WORKERS, add_ratios, add_tables, draw
from benchmarks.load.wrk import client_name, load
from benchmarks.report import Report
from bundle.errors import MaeveError
from bundle.store import Bundle, load_bundle
from runtime.cores import usable_cores

CLIENTS = 32  # where ratios are taken
LEVELS = (1, 8, 32, 128)
DEFAULT_BUNDLE = Path("models/default")
_HIT_PHOTOS = 8
_CLOSED_SHARE, _OPEN_SHARE = 0.65, 0.85  # of a bundle's time by whose end the loops must end


@dataclass
class Contest:
    """One bundle's. `failed`: label -> why it was not measured. Its servers end with the stack."""

    args: argparse.Namespace
    bundle: Bundle
    photos: list[bytes]
    stack: ExitStack
    contestants: list[Contestant] = field(default_factory=list)
    limits: list[Limit] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def add_limits(self) -> None:
        decoders = {"bare loop": our_decode(self.bundle)}
        if self.args.peers:
            decoders["bare loop, plain Pillow"] = plain_decode(self.bundle)
        for label, decoder in decoders.items():
            self.limits.append(Limit(label, BareLoop(self.bundle, decoder, self.photos, self.args.precision)))

    def start(self, launch: Launch, says: str, levels: Sequence[int]) -> Server:
        """Start a server and let it take part. ServerFailed where it does not answer as the bare loop does."""
        server = self.stack.enter_context(Server(launch, self.photos))
        contestant = Contestant(server, says, levels)
        enter(contestant, self.limits[0].loop, self.photos)
        self.contestants.append(contestant)
        return server

    def try_to(self, label: str, start: Callable[[], object]) -> None:
        """A server that fails is a row with the reason."""
        try:
            start()
        except ServerFailed as e:
            self.failed[label] = str(e)
            print(f"{label}: {e}", flush=True)

    def add_ours(self) -> None:
        """SystemExit where ours does not run: there is nothing to hold against anything then."""
        says = f"{self.args.precision}, caches off"
        try:
            self.start(self._ours(), says, self.args.levels)
        except ServerFailed as e:
            raise SystemExit(f"error: {e}") from e
        if not self.args.peers:
            return
        if has_workers():
            flags = ("--workers", "4")
            self.try_to(
                WORKERS, lambda: self.start(self._ours(*flags, label=WORKERS), f"{says}, --workers 4", (CLIENTS,))
            )
        else:
            self.failed[WORKERS] = "not measured: the service has no --workers"

    def _ours(self, *flags: str, label: str = "Maeve", accept: str = "") -> Launch:
        accept = accept or self.args.accept
        return ours(self.bundle.path, *flags, label=label, precision=self.args.precision, accept=accept)

    def add_peer(self, peer: Peer) -> None:
        """In the better layout, where there is time to find it."""
        programs = peers.install(peer, self.args.peers_env)
        choices = peers.layouts(usable_cores())
        layout = choices[0] if self.args.quick else self._best(peer, programs, choices)
        launch = peers.launch(peer, programs, self.bundle, layout, self.args.precision)
        self.start(launch, f"{peer.version}, {layout}, {peer.says}", self.args.levels)

    def _best(self, peer: Peer, programs: Path, choices: Sequence[Layout]) -> Layout:
        rates: dict[Layout, float] = {}
        why: ServerFailed | None = None
        for layout in choices:
            try:
                with Server(
                    peers.launch(peer, programs, self.bundle, layout, self.args.precision), self.photos
                ) as server:
                    rates[layout] = load(server.target, CLIENTS, self.args.seconds).rate
            except ServerFailed as e:
                print(f"{layout}: {e}", flush=True)
                why = e
        if why is not None and not rates:
            raise why
        print(
            f"{peer.label}: " + ", ".join(f"{rate:.1f} img/s as {layout}" for layout, rate in rates.items()), flush=True
        )
        return max(rates, key=lambda layout: rates[layout])

    def measure(self, share_s: float) -> None:
        """`share_s`: the time that the loops have."""
        start = time.monotonic()
        rounds, seconds = self.args.rounds, self.args.seconds
        closed_rounds(self.contestants, self.limits, rounds, seconds, start + _CLOSED_SHARE * share_s)
        if self.args.peers:
            full = [each for each in self.contestants if each.label != WORKERS]
            open_rounds(full, rounds, seconds, start + _OPEN_SHARE * share_s)

    def add_overhead(self, report: Report) -> None:
        server = self.contestants[0].server
        with running(server):
            found = overhead(server.target, self.limits[0].loop, self.photos, self.args.seconds)
            memory = _rss_mib(server.port)
        figures = f"{found.request_ms:.2f} ms a request, {found.bare_ms:.2f} ms in process"
        report.add("unloaded overhead on decode + run", f"{found.difference_ms:.2f} ms ({figures})")
        report.add("memory of the service", memory)

    def add_hits(self, report: Report) -> None:
        """Cache hits against a route that does nothing."""
        accept, num_bytes = "application/octet-stream", 4 * self.bundle.manifest.model.dim
        words = [sys.executable, "-m", "benchmarks.load.noop", "{port}", str(num_bytes)]
        launches = [
            Launch("no-op Starlette", words, raw("/embed", accept)),
            self._ours("--cache-bytes", str(64 * 2**20), label="Maeve, cached", accept=accept),
        ]
        label = f"cache hits / no-op Starlette, {CLIENTS} clients"
        try:
            noop, cached = (self.stack.enter_context(Server(launch, self.photos[:_HIT_PHOTOS])) for launch in launches)
            for server in (noop, cached):
                server.expect(num_bytes, num_bytes)
            noop.hold()
            rate, ratios = hit_ratio(cached, noop, CLIENTS, self.args.rounds, self.args.seconds)
        except (ServerFailed, RuntimeError) as e:
            report.add(label, f"not measured: {e}")
            return
        report.add(label, f"{statistics.median(ratios):.2f} ({rate:,.0f} hits/s)")


def has_workers() -> bool:
    """Whether the service takes --workers."""
    told = subprocess.run([sys.executable, "-m", "service", "--help"], capture_output=True, text=True, check=True)
    return "--workers" in told.stdout


def _rss_mib(port: int) -> str:
    """The service's memory by its own account."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        lines = answer.read().decode().splitlines()
    values = [float(line.split()[1]) for line in lines if line.startswith("process_resident_memory_bytes")]
    return f"{values[0] / 2**20:.0f} MiB" if values else "unknown"


def run(args: argparse.Namespace, bundle: Bundle, photos: list[bytes], share_s: float) -> None:
    """Measure and report one bundle."""
    started = time.monotonic()
    with ExitStack() as stack:
        contest = Contest(args, bundle, photos, stack)
        contest.add_limits()
        contest.add_ours()
        if args.peers:
            for peer in peers.PEERS:
                contest.try_to(peer.label, lambda peer=peer: contest.add_peer(peer))  # type: ignore[misc]
            contest.failed |= peers.ABSENT
        contest.measure(share_s - (time.monotonic() - started))
        report = _report(args, bundle, photos)
        add_ratios(report, contest.contestants, contest.limits, args.at)
        contest.add_overhead(report)
        if args.peers:
            contest.add_hits(report)
        add_tables(report, contest.contestants, contest.limits, contest.failed)
        if args.peers:
            report.picture(draw(report.name, contest.contestants, contest.limits[0]))
    report.write()


def _report(args: argparse.Namespace, bundle: Bundle, photos: list[bytes]) -> Report:
    report = Report(f"serve_peers_{bundle.manifest.name}" if args.peers else "serve_load", __doc__ or "")
    model = bundle.manifest.model
    size = f"{model.image_size[0]} x {model.image_size[1]} px, patch {model.patch_size}, {model.depth} x {model.dim}"
    report.add("bundle", f"{bundle.manifest.name}: {size}, {args.precision}")
    report.add("images", f"{len(photos)} JPEGs, {statistics.mean(map(len, photos)) / 1000:.0f} kB on average")
    report.add("client", client_name())
    report.add("ratios", f"at {args.at} clients, up to {args.rounds} rounds of {args.seconds:g} s and more")
    return report


def bundles(args: argparse.Namespace, folder: Path) -> list[Bundle]:
    """Those that were named; else the default one and, beside peers, a random ViT-Ti/16 at 224 pixels."""
    if args.bundle or not args.peers:
        return [load_bundle(path) for path in args.bundle or [DEFAULT_BUNDLE]]
    from benchmarks.engines import random_bundle  # needs torch, which a named bundle does not

    return [random_bundle("tiny", folder, args.precision, args.images), load_bundle(DEFAULT_BUNDLE)]


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="may be repeated")
    parser.add_argument("--images", type=Path, help="a folder of JPEGs; made ones by default")
    parser.add_argument("--precision", choices=["fp32", "int8"], default="fp32", help="of the graph that all run")
    parser.add_argument("--clients", type=int, default=CLIENTS, help="without --peers")
    parser.add_argument("--rounds", type=int, help="3 with --peers, 5 without, 1 with --quick")
    parser.add_argument("--seconds", type=float, help="of each measurement: 4 with --peers, 8 without, 1 with --quick")
    parser.add_argument(
        "--minutes", type=float, default=18.0, help="after which no round begins; installing not counted"
    )
    parser.add_argument("--accept", default="application/json", help="the form of our answers")
    parser.add_argument("--peers", action="store_true", help="measure other servers too")
    parser.add_argument("--quick", action="store_true", help="one short round, to see that everything runs")
    parser.add_argument(
        "--peers-env", type=Path, default=Path("~/.cache/maeve-benchmarks"), help="where peers are installed"
    )
    args = parser.parse_args(argv)
    args.peers_env = args.peers_env.expanduser().resolve()
    args.rounds = args.rounds or (1 if args.quick else 3 if args.peers else 5)
    args.seconds = args.seconds or (1.0 if args.quick else 4.0 if args.peers else 8.0)
    args.at = CLIENTS if args.peers else args.clients
    args.levels = (args.clients,) if not args.peers else (1, CLIENTS) if args.quick else LEVELS
    return args


def main() -> None:
    args = parse()
    if args.peers:
        _install_all(args.peers_env)
    until = time.monotonic() + args.minutes * 60
    try:
        with tempfile.TemporaryDirectory(prefix="maeve-load-") as folder:
            photos, chosen = read_photos(args.images), bundles(args, Path(folder))
            for number, bundle in enumerate(chosen):
                run(args, bundle, photos, (until - time.monotonic()) / (len(chosen) - number))
    except MaeveError as e:
        raise SystemExit(f"error: {e}") from e


def _install_all(environments: Path) -> None:
    """Before the clock runs. What cannot be installed is told again, with its reason, where it is missing."""
    for peer in peers.PEERS:
        try:
            peers.install(peer, environments)
        except ServerFailed as e:
            print(e, flush=True)


if __name__ == "__main__":
    main()
