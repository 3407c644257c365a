"""A run's folder: what was asked, what came of it, and the state to go on from.

run.json         the resolved configuration, the data, and at the end the metrics
metrics.jsonl    one row per log interval and per epoch
tensorboard/     the same rows, and the pictures, for TensorBoard
checkpoint.pt    the whole state, replaced atomically
model.safetensors, model.json   the weights, once the run is finished

torch is imported by what needs it alone: packing and reports do without it, and so does --help.
"""

from __future__ import annotations

import io
import json
import os
import platform
import subprocess
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bundle.labels import encode_labels
from training.errors import TrainingError
from training.logs import TENSORBOARD_DIR, EventLog
from training.packed import PackInfo

RUN_FILE = "run.json"
METRICS_FILE = "metrics.jsonl"
CHECKPOINT_FILE = "checkpoint.pt"
LABELS_FILE = "labels.json"
PREDICTIONS_FILE = "predictions.npz"
Kind = Literal["pretrain", "finetune", "probe"]
# What changes where and how fast a run computes, or what it shows, but not what it learns.
FREE_TO_CHANGE = {
    "out", "data", "resume", "test", "device", "feed", "compile", "accumulate", "recompute", "strategy",
    "checkpoint_minutes", "picture_every", "tensorboard", "report", "probe_every", "probe_data", "probe_images",
}  # fmt: skip


_DATA = ("num_images", "pack_size", "mean", "std", "classes")


class Run:
    """A fresh folder, or with `resume` one that has been begun, whose configuration must be the same.

    Nothing is written before `describe`, so a start that fails on its data or configuration leaves no run behind.
    `writes`: False in all processes of a run but one.
    """

    def __init__(
        self,
        out: Path,
        kind: Kind,
        config: Mapping[str, Any],
        *,
        resume: bool,
        writes: bool = True,
        tensorboard: bool = False,
    ) -> None:
        self.out = out
        self._writes = writes
        self._events = EventLog(out / TENSORBOARD_DIR) if tensorboard and writes else None
        self.document: dict[str, Any] = {"kind": kind, "config": _jsonable(config), **circumstances()}
        earlier = _read_json(out / RUN_FILE)
        if earlier is not None and not resume:
            resuming = "" if kind == "probe" else "add --resume to go on with it or "
            raise TrainingError(f"{out} holds a run already; {resuming}choose another --out")
        if earlier is not None:
            _refuse_changes(earlier, self.document)
        self._earlier = earlier or {}
        self.document |= {name: self._earlier[name] for name in ("started_at", "metrics") if name in self._earlier}

    def describe(self, **fields: Any) -> None:
        """Add fields to run.json and write it.

        Raises TrainingError where a resumed run's `data` or `course`, the sizes and the order of its steps, are others
        now.
        """
        self.document |= _jsonable(fields)
        for name, keys in (("data", _DATA), ("course", ("batch_size", "steps_per_epoch", "order"))):
            _refuse_another(name, keys, self._earlier.get(name), self.document.get(name))
        if not self._writes:
            return
        self.out.mkdir(parents=True, exist_ok=True)
        write_atomic(self.out / RUN_FILE, (json.dumps(self.document, indent=2) + "\n").encode())

    def metrics_with(self, **config: Any) -> dict[str, float]:
        """Those that an earlier start ended with, if these fields of its configuration are the same; else none."""
        then, now = self._earlier.get("config", {}), _jsonable(config)
        same = all(then.get(name) == value for name, value in now.items())
        return self._earlier.get("metrics", {}) if same else {}

    def log(self, row: Mapping[str, float | int]) -> None:
        if not self._writes:
            return
        with (self.out / METRICS_FILE).open("a") as f:
            f.write(json.dumps(dict(row)) + "\n")
        if self._events is not None:
            self._events.scalars(row)

    def log_picture(self, tag: str, step: int, path: Path) -> None:
        """Show a PNG file in TensorBoard, where that is on."""
        if self._events is not None:
            self._events.picture(tag, step, path)

    def save_state(self, state: Mapping[str, Any]) -> None:
        """Raises TrainingError where the disk does not take it; the checkpoint before is then still whole."""
        if not self._writes:
            return
        if self._events is not None:
            self._events.flush()  # rows that belong to a state are on the disk before it is
        save_checkpoint(self.out / CHECKPOINT_FILE, state)

    def save_arrays(self, name: str, **arrays: Any) -> Path:
        """Write an .npz file; its path."""
        path = self.out / name
        if self._writes:
            write_arrays(path, arrays)
        return path

    def load_state(self) -> dict[str, Any] | None:
        """The last state, None for a fresh run; rows of metrics.jsonl that lie past it are dropped."""
        state = load_checkpoint(self.out / CHECKPOINT_FILE)
        last = -1 if state is None else state["step"]
        if self._events is not None:
            self._events.restart(last + 1)
        metrics = self.out / METRICS_FILE
        if self._writes and metrics.exists():
            rows = [line for line in metrics.read_text().splitlines() if _step_of(line) <= last]
            write_atomic(metrics, "".join(row + "\n" for row in rows).encode())
        return state


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write beside it, fsync, then rename over it."""
    import torch

    temporary = path.with_suffix(".tmp")
    try:
        with temporary.open("wb") as f:
            torch.save(dict(state), f)
            f.flush()
            os.fsync(f.fileno())
        temporary.replace(path)
    except (OSError, RuntimeError) as e:
        temporary.unlink(missing_ok=True)
        raise TrainingError(f"the checkpoint could not be written to {path.parent}: {e}") from e


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """Tensors and plain values only: a checkpoint is data and never runs code. None where there is no file.

    Raises TrainingError for a file that is damaged or not a state.
    """
    import torch

    if not path.exists():
        return None
    with path.open("rb") as f:
        try:
            state: dict[str, Any] = torch.load(f, map_location="cpu", weights_only=True)
            return {**state, "step": int(state["step"])}
        except Exception as e:  # torch.load raises many kinds, and advises to load what it does not trust
            raise TrainingError(f"{path} is damaged or no checkpoint; remove it to start over") from e


def write_atomic(path: Path, data: bytes) -> None:
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    temporary.replace(path)


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> Path:
    """An .npz that is whole or not there."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
    return path


def read_run(folder: Path, *kinds: Kind) -> dict[str, Any]:
    """`run.json` of a finished run of one of `kinds`. Raises TrainingError where it is not one."""
    document = _read_json(folder / RUN_FILE)
    if document is None:
        raise TrainingError(f"{folder} is not a run: it has no {RUN_FILE}")
    if document["kind"] not in kinds:
        raise TrainingError(f"{folder} is a {document['kind']} run; a {' or '.join(kinds)} run is needed")
    return document


def write_labels(folder: Path, classes: tuple[str, ...]) -> None:
    """`labels.json`: the class names, in the order of the logits."""
    write_atomic(folder / LABELS_FILE, encode_labels(classes))


def data_fields(info: PackInfo, name: str | None = None) -> dict[str, Any]:
    """What run.json keeps of the data."""
    return {
        "name": name or info.name,
        "num_images": info.num_images,
        "num_corrupt": info.num_corrupt,
        "pack_size": info.size,
        "mean": info.mean,
        "std": info.std,
        "classes": info.classes,
    }


def _refuse_changes(earlier: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    if earlier["kind"] != now["kind"]:
        raise TrainingError(f"this folder holds a {earlier['kind']} run, not a {now['kind']} run")
    for name, value in now["config"].items():
        before = earlier["config"].get(name)
        if name not in FREE_TO_CHANGE and before != value:
            raise TrainingError(
                f"--resume with another --{name.replace('_', '-')}: it was {before!r} and is {value!r} now"
            )


def _refuse_another(
    what: str, names: tuple[str, ...], earlier: Mapping[str, Any] | None, now: Mapping[str, Any] | None
) -> None:
    """The path of the data may change, its images may not: the order of an epoch and the pixels' scale follow them."""
    for name in names:
        if earlier and now and earlier[name] != now[name]:
            raise TrainingError(f"--resume with other {what}: {name} was {earlier[name]} and is {now[name]} now")


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())  # type: ignore[no-any-return]
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise TrainingError(f"{path} is not JSON: {e}") from e


def _jsonable(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Paths become strings and tuples lists, so that what is read back compares equal."""
    return json.loads(json.dumps(dict(fields), default=str))  # type: ignore[no-any-return]


def _step_of(line: str) -> int:
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return 2**62  # a row cut short by a kill


def circumstances() -> dict[str, Any]:
    """What it takes to repeat a run beside its configuration: the code, the versions, the machine."""
    import torch

    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "git_commit": _git_commit(),
        "environment": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "platform": platform.platform(),
            "cores": os.cpu_count(),
            "gpu": gpu,
            "world_size": int(os.environ.get("WORLD_SIZE", "1")),
        },
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _git_commit() -> str | None:
    """Of the working copy this code runs from; None for an installed one."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short=12", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()  # noqa: S603
    except (OSError, subprocess.CalledProcessError):
        return None
