"""What a contest came to, as rows and tables of a report and as a picture."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.load.contest import Contestant, Limit
from benchmarks.load.outcome import Outcome
from benchmarks.report import RESULTS, Report

mpl.use("Agg")

WORKERS = "Maeve, 4 workers"


def add_ratios(report: Report, contestants: Sequence[Contestant], limits: Sequence[Limit], clients: int) -> None:
    """Ours, the first, to the limit, to the best peer and to four workers, at `clients`."""
    ours, *others = contestants
    for limit in limits:
        pairs = [outcome.rate / rate for outcome, rate in zip(ours.closed[clients], limit.rates, strict=True)]
        report.add(f"{ours.label} / {limit.label}", _spread(pairs))
    rate, p99_s = ours.rate(clients), _median(ours.closed[clients], lambda o: o.p99_ms) / 1000
    report.add(
        f"p99 of {ours.label} / (clients / throughput)", f"{p99_s * rate / clients:.2f}; fair queueing is near 1"
    )
    report.add("the client's share of a core", f"{_median(ours.closed[clients], _client_share):.1%}")
    for other in others:
        if other.label == WORKERS:
            pairs = _pairs(other, ours, clients, lambda o: o.rate)
            report.add(f"{other.label} / {ours.label}", f"{_spread(pairs)} of the throughput")
    if peers := [other for other in others if other.label != WORKERS]:
        best = max(peers, key=lambda peer: peer.rate(clients))
        pairs = _pairs(ours, best, clients, lambda o: o.rate)
        report.add(f"throughput, {ours.label} / {best.label}, the best peer", f"{_spread(pairs)}")
        quick = min(peers, key=lambda peer: _median(peer.closed[clients], lambda o: o.p99_ms))
        pairs = _pairs(ours, quick, clients, lambda o: o.p99_ms)
        report.add(f"p99, {ours.label} / {quick.label}, the best peer's", f"{_spread(pairs)}")


def add_tables(
    report: Report, contestants: Sequence[Contestant], limits: Sequence[Limit], failed: dict[str, str]
) -> None:
    """Throughput, latencies and settings of all, those that were not measured with the reason."""
    levels = contestants[0].levels
    heads = [f"{clients} clients" if clients > 1 else "1 client" for clients in levels]
    rows = [[each.label, *(_rate(each, clients) for clients in levels), str(each.errors())] for each in contestants]
    rows += [[limit.label, *[""] * len(levels), ""] for limit in limits]
    for limit, row in zip(limits, rows[len(contestants) :], strict=True):
        row[1] = f"{statistics.median(limit.rates):.1f}"
    report.table(["images/s", *heads, "errors"], rows)
    rows = [
        [each.label, *(_latency(each.closed.get(clients, [])) for clients in levels), _opened(each)]
        for each in contestants
    ]
    report.table(["p50 / p99, ms", *heads, "open loop at 70 % of its most"], rows)
    rows = [[each.label, each.says, f"{each.cosine:.4f}"] for each in contestants]
    report.table(["", "settings", "least cosine to the bare loop"], [*rows, *([k, v, ""] for k, v in failed.items())])


def draw(name: str, contestants: Sequence[Contestant], limit: Limit) -> str:
    """A picture of throughput and p99 over clients beside the results; its file's name."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for each in contestants:
        clients = [level for level in each.levels if each.closed.get(level)]
        left.plot(clients, [each.rate(level) for level in clients], "o-", label=each.label)
        right.plot(clients, [_median(each.closed[level], lambda o: o.p99_ms) for level in clients], "o-")
    left.axhline(statistics.median(limit.rates), color="black", linestyle=":", label=limit.label)
    for axes, title in ((left, "images/s"), (right, "p99, ms")):
        axes.set(xscale="log", xlabel="clients", title=title, xticks=contestants[0].levels)
        axes.set_xticklabels([str(level) for level in contestants[0].levels])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    left.set_ylim(bottom=0)
    right.set_yscale("log")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / f"{name}.png", dpi=100, metadata={"Software": None})
    return f"{name}.png"


def _spread(ratios: Sequence[float]) -> str:
    return f"{statistics.median(ratios):.2f} (rounds {min(ratios):.2f} to {max(ratios):.2f})"


def _pairs(a: Contestant, b: Contestant, clients: int, value: Callable[[Outcome], float]) -> list[float]:
    """Of the rounds in which both were answered."""
    rounds = zip(a.closed[clients], b.closed[clients], strict=True)
    return [value(x) / value(y) for x, y in rounds if x.answers and y.answers] or [float("nan")]


def _median(outcomes: Sequence[Outcome], value: Callable[[Outcome], float]) -> float:
    return statistics.median(value(outcome) for outcome in outcomes)


def _client_share(outcome: Outcome) -> float:
    return outcome.client_cpu_s / outcome.seconds


def _rate(contestant: Contestant, clients: int) -> str:
    return f"{contestant.rate(clients):.1f}" if contestant.closed.get(clients) else ""


def _latency(outcomes: Sequence[Outcome]) -> str:
    if not outcomes:
        return ""
    return f"{_median(outcomes, lambda o: o.p50_ms):.0f} / {_median(outcomes, lambda o: o.p99_ms):.0f}"


def _opened(contestant: Contestant) -> str:
    latency = _latency(contestant.opened)
    return f"{latency} at {_median(contestant.opened, lambda o: o.rate):.0f}/s" if latency else ""
