"""A run in TensorBoard: the rows of metrics.jsonl as scalars, and pictures, in event files of its own format.

Records are collected in memory and appended to the file now and then, in the caller's thread: nothing is left open,
and a full disk is an ordinary OSError.
"""

from __future__ import annotations

import socket
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image

from training.errors import TrainingError

TENSORBOARD_DIR = "tensorboard"
FLUSH_EVERY_S = 30.0
_SESSION_START = 1  # SessionLog.START


@dataclass(frozen=True, kw_only=True)
class LogFlags:
    """Logs besides metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard's event files into tensorboard/ of the run."""
    report: bool = True
    """Write report.html in the end."""


class EventLog:
    """The event file of one session in `folder`. TensorBoard reads a folder's files in the order of their names.

    Raises TrainingError where TensorBoard is not installed. Nothing is written before the first row.
    """

    def __init__(self, folder: Path) -> None:
        self._formats = _Formats.load()
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}"
        self._pending = _Pending(folder / name)
        self._records = self._formats.record_writer(self._pending)
        self._first_step: int | None = 0
        weakref.finalize(self, _flush_at_the_end, self._pending)  # however the process ends, short of SIGKILL

    def restart(self, first_step: int) -> None:
        """Before the first row of a resumed run: what earlier sessions have logged from this step on is void."""
        self._first_step = first_step

    def scalars(self, row: Mapping[str, float | int]) -> None:
        """Every value of the row at its `step`; `epoch` is left out, which says no more."""
        values = {name: float(value) for name, value in row.items() if name not in ("step", "epoch")}
        self._add(int(row["step"]), [self._formats.value(tag=tag, simple_value=v) for tag, v in values.items()])

    def picture(self, tag: str, step: int, path: Path) -> None:
        """A PNG file as it is."""
        with Image.open(path) as picture:
            width, height = picture.size
        image = {"width": width, "height": height, "colorspace": 3, "encoded_image_string": path.read_bytes()}
        self._add(step, [self._formats.value(tag=tag, image=image)])

    def flush(self) -> None:
        """Append to the file what has been collected. Raises OSError where the disk does not take it."""
        self._pending.flush()

    def _add(self, step: int, values: list[Any]) -> None:
        if self._first_step is not None:
            self._write(0, file_version="brain.Event:2")
            # The first session's mark too: TensorBoard takes the second for the first restart.
            self._write(self._first_step, session_log={"status": _SESSION_START})
            self._first_step = None
        if values:
            self._write(step, summary={"value": values})
        if time.monotonic() - self._pending.flushed_at > FLUSH_EVERY_S:
            self.flush()

    def _write(self, step: int, **what: Any) -> None:
        event = self._formats.event(wall_time=time.time(), step=step, **what)
        self._records.write(event.SerializeToString())


class _Pending:
    """Bytes on their way to a file. What a failed write has lost is not tried again: half of it may be there."""

    def __init__(self, path: Path) -> None:
        self._path, self._data = path, bytearray()
        self.flushed_at = time.monotonic()

    def write(self, data: bytes) -> None:
        self._data += data

    def flush(self) -> None:
        data, self._data = self._data, bytearray()
        self.flushed_at = time.monotonic()
        if data:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab") as f:
                f.write(data)


class _Formats(NamedTuple):
    """The parts of TensorBoard that describe its files."""

    event: Any
    value: Any
    record_writer: Any

    @staticmethod
    def load() -> _Formats:
        try:
            from tensorboard.compat.proto.event_pb2 import Event  # type: ignore[import-untyped]
            from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]
            from tensorboard.summary.writer.record_writer import RecordWriter  # type: ignore[import-untyped]
        except ImportError as e:
            raise TrainingError(
                f"TensorBoard does not import ({e}); pip install tensorboard, or leave it out by --no-tensorboard"
            ) from e
        return _Formats(Event, Summary.Value, RecordWriter)


def _flush_at_the_end(pending: _Pending) -> None:
    """metrics.jsonl has the rows as well, so a disk that is full at the very end is no error of its own."""
    with suppress(OSError):
        pending.flush()
