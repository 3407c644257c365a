"""A run's folder as a page reads it: whatever is there, and a list of what is damaged."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from training.errors import TrainingError
from training.run import METRICS_FILE, RUN_FILE

FEATURES_FILE = "features.npz"
PICTURES = "reconstructions"
Series = tuple[NDArray[np.float64], NDArray[np.float64]]


@dataclass(frozen=True)
class Record:
    """document: run.json; rows: those of metrics.jsonl that can be read, of which `num_bad_rows` could not."""

    folder: Path
    document: Mapping[str, Any]
    rows: tuple[Mapping[str, Any], ...]
    num_bad_rows: int

    @property
    def kind(self) -> str:
        return str(self.document.get("kind", "training"))

    @property
    def config(self) -> Mapping[str, Any]:
        return _mapping(self.document.get("config"))

    @property
    def data(self) -> Mapping[str, Any]:
        return _mapping(self.document.get("data"))

    @property
    def metrics(self) -> dict[str, float]:
        """What run.json keeps of a finished run; empty before."""
        found = _mapping(self.document.get("metrics"))
        return {k: v for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    @property
    def finished(self) -> bool:
        return "metrics" in self.document

    @property
    def classes(self) -> tuple[str, ...]:
        return tuple(map(str, self.data.get("classes") or ()))

    @property
    def epochs_done(self) -> float:
        return max((float(row["epoch"]) for row in self.rows), default=0.0)

    def series(self, name: str) -> Series | None:
        """(epochs f64 [T], values f64 [T]) of the finite values that metrics.jsonl has under a name; None: none."""
        found = [(row["epoch"], row[name]) for row in self.rows if _is_number(row.get(name))]
        if not found:
            return None
        epochs, values = np.array(found, np.float64).T
        return epochs, values

    def pictures(self) -> list[Path]:
        """Of reconstructions, in the order of their epochs."""
        return sorted((self.folder / PICTURES).glob("*.png"))

    def arrays(self, file: str) -> dict[str, NDArray[Any]] | None:
        """A .npz of the folder, None where there is none. Raises TrainingError for a damaged one."""
        path = self.folder / file
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return dict(arrays)
        except Exception as e:  # zipfile, zlib and numpy have a dozen kinds between them
            raise TrainingError(f"{path} is damaged: {e}") from e

    def command(self) -> str:
        """What repeats the run, with every flag."""
        return command_line(f"python -m training.{self.kind}", self.config)


def read_record(folder: Path) -> Record:
    """Raises TrainingError for a folder that is not a run's."""
    try:
        document = json.loads((folder / RUN_FILE).read_text())
    except OSError as e:
        raise TrainingError(f"{folder} is not a run: it has no {RUN_FILE}") from e
    except ValueError as e:
        raise TrainingError(f"{folder / RUN_FILE} is not JSON: {e}") from e
    if not isinstance(document, dict):
        raise TrainingError(f"{folder / RUN_FILE} does not describe a run")
    rows, num_bad = _read_rows(folder / METRICS_FILE)
    return Record(folder, document, rows, num_bad)


def _read_rows(path: Path) -> tuple[tuple[Mapping[str, Any], ...], int]:
    rows: list[Mapping[str, Any]] = []
    lines = path.read_text(errors="replace").splitlines() if path.is_file() else []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and _is_number(row.get("epoch")):
            rows.append(row)
    return tuple(rows), len(lines) - len(rows)


def command_line(command: str, config: Mapping[str, Any]) -> str:
    """A command with every field of its configuration as a flag, but for those that are not set."""
    return " ".join([command, *(flag for name, value in config.items() for flag in _flags(name, value))])


def _flags(name: str, value: object) -> list[str]:
    flag = f"--{name.replace('_', '-')}"
    if value is None or name == "resume" or value in ([], ()):
        return []
    if isinstance(value, bool):
        return [flag if value else f"--no-{name.replace('_', '-')}"]
    if isinstance(value, list | tuple):
        return [flag, *(shlex.quote(str(v)) for v in _flat(value))]
    return [flag, shlex.quote(str(value))]


def _flat(values: Sequence[Any]) -> Iterator[Any]:
    """Pairs are given one value after another."""
    for value in values:
        yield from _flat(value) if isinstance(value, list | tuple) else (value,)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and bool(np.isfinite(value))


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
