"""Metrics of several processes: values in files of one folder, which whoever is asked adds up.

The folder is made by whoever starts the processes, named in PROMETHEUS_MULTIPROC_DIR, and removed at the end; its
starter tells `prometheus_client.multiprocess.mark_process_dead` of every one that ended. Counts of a process that ended
stay, so that no counter goes backward.
"""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, values
from prometheus_client.metrics_core import Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_PROCESSES = "maeve_process"  # the gauge that says which there are
_GONE_AT_ZERO = {"maeve_bundle", "maeve_device_lanes"}  # 0 where a process has gone on to serve something else


def use_shared_values() -> None:
    """Let metrics made from now on keep their values in the folder. The client library decides so when it is imported,
    which is too early for the process that makes the folder.
    """
    if not values.ValueClass._multiprocess:
        values.ValueClass = values.MultiProcessValue()  # type: ignore[no-untyped-call]


def shared_registry() -> CollectorRegistry:
    """Everything that the processes of the folder have to tell, as of now."""
    registry = CollectorRegistry()
    registry.register(_Shared())
    return registry


class _Shared(Collector):
    def collect(self) -> Iterator[Metric]:
        processes: list[tuple[str, str]] = []  # (name, pid)
        for metric in MultiProcessCollector(None).collect():  # type: ignore[no-untyped-call]
            if metric.name == _PROCESSES:
                processes = [(sample.labels["process"], sample.labels["pid"]) for sample in metric.samples]
            if metric.name in _GONE_AT_ZERO:
                metric.samples = [sample for sample in metric.samples if sample.value != 0]
            yield metric
        yield from _of_processes(processes)


def _of_processes(processes: list[tuple[str, str]]) -> Iterator[Metric]:
    """The operating system's figures of each process, labelled with its name and pid."""
    merged: dict[str, Metric] = {}
    for name, pid in processes:
        for metric in ProcessCollector(pid=lambda pid=pid: pid, registry=None).collect():  # type: ignore[misc]
            into = merged.setdefault(metric.name, Metric(metric.name, metric.documentation, metric.type))
            for sample in metric.samples:
                into.add_sample(sample.name, {**sample.labels, "process": name, "pid": pid}, sample.value)
    yield from merged.values()
