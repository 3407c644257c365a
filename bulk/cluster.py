"""Ray: one machine without any set-up, or a cluster by its address. Quiet, and gone with the process that began it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import pyarrow as pa

from bulk.errors import BulkError, RunFailed
from bulk.guard import guarded
from bulk.watch import RayTeller, Seen, Watch
from bulk.worker import CALLS_AT_ONCE, Embedder, Job, Report
from bundle.cli.ending import Stopped, one_line
from runtime.cores import usable_cores

_CORES_PER_ACTOR = 16  # more lanes would wait for Python's lock between the calls of a small network
_OBJECT_STORE_BYTES = 128 * 2**20  # reports and numbers of parts are all that goes through it
_POLL_EVERY_S = 1.0
_MOST_TASKS = 4096  # of Ray Data; more parts than that share them
_PACKAGES = ("bulk", "bundle", "runtime", "sources")
_AWS = "AWS_"
_GOOGLE = ("GOOGLE_APPLICATION_CREDENTIALS", "GS_NO_SIGN_REQUEST")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """num_cpus: what an actor asks of Ray, less than it uses: Ray needs a little for itself, or the job stalls."""

    num_actors: int
    lanes: int
    decoders: int
    num_cpus: float
    num_gpus: int

    def __str__(self) -> str:
        each = "on a GPU" if self.num_gpus else f"with {self.lanes} lane{'s' * (self.lanes > 1)}"
        return f"{self.num_actors} actor{'s' * (self.num_actors > 1)} {each}"


@contextmanager
def ray_running(address: str | None) -> Iterator[Any]:
    """Ray, connected. address: of a cluster; None starts one on this machine, which ends with the block.

    BulkError where Ray is not installed, or nothing answers at the address.
    """
    ray = _load()
    _be_quiet()
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "configure_logging": True}
    if address is None:
        options |= {  # local: not a cluster that somebody else has on this machine, which Ray would look for
            "address": "local", "num_cpus": usable_cores(), "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }  # fmt: skip
    else:
        root = Path(__file__).parents[1]
        modules = [str(root / name) for name in _PACKAGES]
        options |= {"address": address, "runtime_env": {"py_modules": modules, "env_vars": access(os.environ)}}
    try:
        with _native_stderr_closed():
            ray.init(**options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as e:
        if "InvalidAuthToken" in f"{e} {e.__cause__}":
            raise BulkError(
                f"the Ray cluster at {address} asks for its token; set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
                f"RAY_AUTH_TOKEN_PATH to what its machines have"
            ) from e
        where = "does not start on this machine" if address is None else f"does not answer at {address}"
        raise BulkError(f"Ray {where}: {one_line(e)}") from e
    try:
        with guarded() if address is None else nullcontext():
            yield ray
    finally:
        ray.shutdown()


def access(environment: Mapping[str, str]) -> dict[str, str]:
    """What in it says how stores are reached: the workers of a cluster are to be let in where this process is."""
    return {name: value for name, value in environment.items() if name.startswith(_AWS) or name in _GOOGLE}


def layout_of(ray: Any, device: Literal["cpu", "cuda"], num_actors: int | None) -> Layout:
    """One actor for each GPU; on CPUs as many as use all cores. num_actors: how many instead, for all machines.

    BulkError where there are fewer GPUs than actors.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    cores = [int(node.get("CPU", 0)) for node in nodes if node.get("CPU", 0) >= 1] or [1]
    if device == "cuda":
        gpus = sum(int(node.get("GPU", 0)) for node in nodes)
        wanted = num_actors or gpus
        if not gpus or wanted > gpus:
            raise BulkError(f"Ray knows {gpus or 'no'} GPUs here, and {wanted or 1} are needed; use --device cpu")
        decoders = max(1, sum(cores) // gpus)
        return Layout(num_actors=wanted, lanes=1, decoders=decoders, num_cpus=0.5, num_gpus=1)
    if num_actors is None:
        lanes = min(_CORES_PER_ACTOR, *cores) if len(cores) > 1 else -(-cores[0] // -(-cores[0] // _CORES_PER_ACTOR))
        num_actors = max(1, sum(count // lanes for count in cores))
    else:
        lanes = max(1, sum(cores) // num_actors)
    share = min(lanes, sum(cores) / num_actors)
    return Layout(num_actors=num_actors, lanes=lanes, decoders=0, num_cpus=round(share / 2, 2), num_gpus=0)


def make_parts(ray: Any, job: Job, parts: Sequence[int], layout: Layout) -> Iterator[Report]:
    """Every part is made by one actor; reports come as parts are finished. An actor that dies is started again, and
    what it worked on is begun anew. RunFailed where the cluster itself goes away.
    """
    data = ray.data
    context = data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_no_progress_timeout_s = -1  # a part of a large network on a CPU may take an hour
    per_task = -(-len(parts) // _MOST_TASKS)
    tasks = [pa.table({"part": parts[i : i + per_task]}) for i in range(0, len(parts), per_task)]
    pool = data.ActorPoolStrategy(
        size=min(layout.num_actors, len(tasks)), max_concurrent_calls_per_actor=CALLS_AT_ONCE,
        max_tasks_in_flight_per_actor=2 * CALLS_AT_ONCE, enable_true_multi_threading=True,
    )  # fmt: skip
    made = data.from_arrow(tasks).map_batches(
        Embedder, fn_constructor_args=(job,), batch_size=1, compute=pool, num_cpus=layout.num_cpus,
        num_gpus=layout.num_gpus,
    )  # fmt: skip
    try:
        for batch in made.iter_batches(batch_size=None, prefetch_batches=0, batch_format="pyarrow"):
            yield from map(Report.decode, batch["report"].to_pylist())
    except ray.exceptions.RayError as e:
        raise RunFailed(f"Ray gave up: {one_line(e)}; the same command goes on with what is finished") from e


@contextmanager
def watching(ray: Any, told: Callable[[Seen], None]) -> Iterator[RayTeller]:
    """A Watch on the cluster, and its teller for the workers. told: now and then, from a thread, what it has seen."""
    handle = ray.remote(Watch).options(num_cpus=0, max_restarts=-1, max_task_retries=-1).remote()
    ended = threading.Event()

    def poll() -> None:
        last = False
        while not last:
            last = ended.wait(_POLL_EVERY_S)
            with suppress(ray.exceptions.RayError):
                told(ray.get(handle.seen.remote(), timeout=_POLL_EVERY_S))

    thread = threading.Thread(target=poll, name="watch", daemon=True)
    thread.start()
    try:
        yield RayTeller(handle)
    finally:
        ended.set()
        thread.join()


@contextmanager
def stoppable(said: str) -> Iterator[None]:
    """SIGTERM raises Stopped, as Ctrl-C raises KeyboardInterrupt. Entered once Ray runs, which has a handler too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        del frame
        raise Stopped(said, number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _load() -> Any:
    # Read when Ray is imported, and by the processes that it starts: it must not phone home, nor speak where we do.
    quiet = {
        "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal",
        "RAY_DEDUP_LOGS_SKIP_REGEX": ".",  # all of what it says of an actor that died: a death has a line of ours
        # Counts that nobody asks for, which take a fiftieth of two cores from the network.
        "RAY_enable_metrics_collection": "0", "RAY_event_stats": "0", "RAY_task_events_report_interval_ms": "0",
    }  # fmt: skip
    for name, value in quiet.items():
        os.environ.setdefault(name, value)
    try:
        import ray
        import ray.data
    except ImportError as e:
        raise BulkError(f"Ray is not installed; pip install -e '.[bulk]' ({e})") from e
    return ray


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """While Ray starts: it says there which level of its log was asked for. What Python raises is not touched."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)


def _be_quiet() -> None:
    for name in ("ray", "ray.data"):
        logger = logging.getLogger(name)
        logger.setLevel(logging.ERROR)
