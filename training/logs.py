"""A run in TensorBoard: the rows of metrics.jsonl as scalars, and pictures, in event files of its own format.

Records are collected in memory and appended to the file now and then, in the caller's thread: nothing is left open,
and a full disk is an ordinary OSError.
"""

from __future__ import annotations

import io
import socket
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from training.errors import TrainingError

TENSORBOARD_DIR = "tensorboard"
FLUSH_EVERY_S = 30.0


@dataclass(frozen=True, kw_only=True)
class LogFlags:
    """The command line's choice of logs besides metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard's event files into tensorboard/ of the run."""


class EventLog:
    """One session's event file in `folder`; TensorBoard reads the files of a run in the order of their names.

    Raises TrainingError where TensorBoard is not installed. Nothing is written before the first row.
    """

    def __init__(self, folder: Path) -> None:
        self._formats = _formats()
        name = f"events.out.tfevents.{time.time_ns():020d}.{socket.gethostname()}"
        self._pending = _Pending(folder / name)
        self._records = self._formats.RecordWriter(self._pending)
        self._first_step: int | None = 0
        # However the process ends, short of SIGKILL.
        self.close = weakref.finalize(self, _flush_quietly, self._pending)

    def restart(self, first_step: int) -> None:
        """Before the first row of a resumed run: what earlier sessions have logged from this step on is void."""
        self._first_step = first_step

    def scalars(self, row: Mapping[str, float | int]) -> None:
        """Every value of the row at its `step`; `epoch` is left out, which says no more."""
        values = [self._value(tag=name, simple_value=float(value)) for name, value in row.items()
                  if name not in ("step", "epoch")]  # fmt: skip
        self._add(int(row["step"]), values)

    def picture(self, tag: str, step: int, path: Path) -> None:
        """A PNG file as it is."""
        with Image.open(path) as picture:
            width, height = picture.size
        image = self._formats.Summary.Image(
            height=height, width=width, colorspace=3, encoded_image_string=path.read_bytes()
        )
        self._add(step, [self._value(tag=tag, image=image)])
