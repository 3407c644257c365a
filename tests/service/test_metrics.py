"""Metrics in one process, and in several that share a folder."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from service.metrics import Metrics

ROOT = Path(__file__).parents[2]

# Counts what its arguments say, tells that it did, and waits for a line before it tells the metrics and ends.
PROCESS = """
import sys
from service.metrics import Metrics
name, requests, in_flight, digest = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
metrics = Metrics(name)
for _ in range(requests):
    metrics.request("/embed", 200, 0.003)
metrics.watch("maeve_requests_in_flight", "In flight.", lambda: in_flight)
metrics.watch("maeve_batch_cap", "Cap.", lambda: in_flight, across="min")
metrics.watch("maeve_drain_seconds", "Drain.", lambda: in_flight, across="max")
metrics.watch("maeve_queued_images", "Queued.", lambda: 2 * in_flight, operation="embed")
metrics.describe("bundle", "before", [("fake", "cpu", "fp32", 1)])
metrics.describe("bundle", digest, [("fake", "cpu", "fp32", 2), ("fake", "cpu", "fp32", 2)])
metrics.refresh()
print("counted", flush=True)
sys.stdin.readline()
sys.stdout.write(metrics.render().decode())
"""


class Process:
    def __init__(self, folder: Path, name: str, requests: int, in_flight: float, digest: str = "d") -> None:
        environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder), "PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROCESS, name, str(requests), str(in_flight), digest],
            env=environment, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "counted\n"

    def tell(self) -> dict[str, float]:
        """Its metrics, and its end."""
        return samples(self.process.communicate("\n", timeout=20)[0])

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate(timeout=20)


def samples(text: str) -> dict[str, float]:
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def mark_dead(folder: Path, process: Process) -> None:
    """As a supervisor does."""
    program = f"from prometheus_client.multiprocess import mark_process_dead as m; m({process.process.pid})"
    environment = {**os.environ, "PROMETHEUS_MULTIPROC_DIR": str(folder)}
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)


def test_any_of_several_processes_tells_of_all(tmp_path: Path) -> None:
    first, second = Process(tmp_path, "http-0", 3, 5), Process(tmp_path, "http-1", 4, 7)
    told = first.tell()
    assert told['maeve_requests_total{route="/embed",status="200"}'] == 7
    assert told['maeve_request_seconds_count{route="/embed"}'] == 7
    assert told['maeve_request_seconds_bucket{le="0.0025",route="/embed"}'] == 0
    assert told['maeve_request_seconds_bucket{le="0.005",route="/embed"}'] == 7
    assert told["maeve_requests_in_flight"] == 12
    assert told["maeve_batch_cap"] == 5
    assert told["maeve_drain_seconds"] == 7
    assert told['maeve_queued_images{operation="embed"}'] == 24
    assert told['maeve_device_lanes{device="cpu"}'] == 4
    for process, name in ((first, "http-0"), (second, "http-1")):
        labels = f'{{pid="{process.process.pid}",process="{name}"}}'
        assert told[f"maeve_process{labels}"] == 1
        assert 5e6 < told[f"process_resident_memory_bytes{labels}"] < 1e9
    second.kill()


def test_a_process_that_died_leaves_its_counts_and_nothing_else(tmp_path: Path) -> None:
    dies = Process(tmp_path, "http-0", 3, 5)
    dies.kill()
    mark_dead(tmp_path, dies)
    told = Process(tmp_path, "http-0", 4, 7).tell()  # the one started in its place
    assert told['maeve_requests_total{route="/embed",status="200"}'] == 7
    assert told["maeve_requests_in_flight"] == 7
    assert told["maeve_batch_cap"] == 7
    assert len([name for name in told if name.startswith("maeve_process{")]) == 1


def test_what_is_no_longer_served_is_not_told(tmp_path: Path) -> None:
    """Files cannot forget: each process had described the bundle `before` first."""
    other = Process(tmp_path, "http-1", 0, 0, digest="new")
    told = Process(tmp_path, "http-0", 0, 0, digest="old").tell()
    other.kill()
    digests = [re.findall(r'digest="(\w+)"', name) for name in told if name.startswith("maeve_bundle{")]
    assert sorted(digests) == [["new"], ["old"]]


def test_a_lane_s_time_is_counted_also_when_its_call_fails() -> None:
    metrics = Metrics()

    def fails(seconds: float) -> None:
        until = os.times().elapsed + seconds
        while os.times().elapsed < until:
            pass
        raise ValueError("poison")

    counted = metrics.counting_busy("cpu", fails)
    with pytest.raises(ValueError, match="poison"):
        counted(0.05)
    busy = samples(metrics.render().decode())['maeve_device_busy_seconds_total{device="cpu"}']
    assert 0.02 < busy < 5


def test_a_gauge_reads_the_newest_that_was_given() -> None:
    metrics = Metrics()
    metrics.watch("maeve_pending_images", "Pending.", lambda: 1)
    metrics.watch("maeve_pending_images", "Pending.", lambda: 2)
    assert samples(metrics.render().decode())["maeve_pending_images"] == 2
