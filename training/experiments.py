"""Experiments of many runs: each is done once, a failure stops no other, and a stopped command goes on where it was."""

from __future__ import annotations

import json
import signal
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from bundle.errors import MaeveError
from training.errors import Terminated, TrainingError
from training.run import METRICS_FILE, RUN_FILE, Kind, Run, write_atomic

LEDGER_FILE = "ledger.json"
RUNS = "runs"
_ERROR_LENGTH = 300
_FAILURES = (MaeveError, ValueError, OSError, torch.OutOfMemoryError)
_STOPPED = "stopped; what is finished is kept, and the same command goes on"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one run. seconds: spent on it in all, over every start; error: one line where it failed."""

    name: str
    folder: Path
    seconds: float
    metrics: Mapping[str, float]
    error: str | None = None


class Experiment:
    """A folder with `runs/NAME` for every run, and a ledger of the seconds and errors.

    Raises TrainingError where the folder was begun by a command whose `config` differs in more than `free` fields.
    """

    def __init__(self, out: Path, config: Mapping[str, Any], free: set[str]) -> None:
        self.out = out
        self.outcomes: dict[str, Outcome] = {}
        earlier = read_json(out / LEDGER_FILE) or {}
        self._config = json.loads(json.dumps(dict(config), default=str))
        for name, before in earlier.get("config", {}).items():
            if name not in free and name in self._config and before != self._config[name]:
                flag = name.replace("_", "-")
                raise TrainingError(
                    f"{out} was begun with another --{flag}: it was {before!r} and is {self._config[name]!r} now; "
                    f"choose another --out"
                )
        self._seconds: dict[str, float] = dict(earlier.get("seconds", {}))

    def folder(self, name: str) -> Path:
        return self.out / RUNS / name

    def run(self, kind: Kind, config: Any, job: Callable[[Any], object], *, needs: str | None = None) -> Outcome:
        """Do `job(config)` unless the run in config.out is finished. needs: a metric that a finished one must have.

        Every error of the run itself ends up in the outcome. Raises Terminated where the command is told to stop.
        """
        folder: Path = config.out
        name, start, error = folder.name, time.monotonic(), None
        try:
            if not self._is_finished(kind, config, needs):
                print(f"{name}:", file=sys.stderr)
                job(config)
        except Terminated as e:
            raise Terminated(_STOPPED, e.number) from e
        except _FAILURES as e:
            error = textwrap.shorten(str(e), _ERROR_LENGTH, placeholder=" ...")
            print(f"{name} failed: {error}", file=sys.stderr)
        finally:
            self._seconds[name] = self._seconds.get(name, 0.0) + time.monotonic() - start
            self._write_ledger()
        document = read_json(folder / RUN_FILE) or {}
        metrics = document.get("metrics", {}) if error is None else {}
        outcome = Outcome(name=name, folder=folder, seconds=self._seconds[name], metrics=metrics, error=error)
        self.outcomes[name] = outcome
        return outcome

    @property
    def failed(self) -> list[Outcome]:
        return [outcome for outcome in self.outcomes.values() if outcome.error is not None]

    def _is_finished(self, kind: Kind, config: Any, needs: str | None) -> bool:
        """Raises TrainingError where the folder holds another run than the one that is asked for."""
        Run(config.out, kind, asdict(config), resume=True)
        metrics = (read_json(config.out / RUN_FILE) or {}).get("metrics")
        return metrics is not None and (needs is None or needs in metrics)

    def _write_ledger(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        write_json(self.out / LEDGER_FILE, {"config": self._config, "seconds": self._seconds})


@contextmanager
def stoppable() -> Iterator[None]:
    """SIGTERM and SIGINT raise Terminated wherever they arrive, unless they are ignored; inside a run they are its own,
    which saves first.
    """

    def handle(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])  # a second one acts as it would have without us
        raise Terminated(_STOPPED, number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    before = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in before:
        signal.signal(number, handle)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def steps_of(folder: Path) -> int | None:
    """How many steps a run took, by its metrics; None where they cannot be read."""
    try:
        *_, last = (folder / METRICS_FILE).read_text().splitlines()
        return int(json.loads(last)["step"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def read_json(path: Path) -> dict[str, Any] | None:
    """None where there is no file. Raises TrainingError for one that is damaged."""
    try:
        document = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except ValueError as e:
        raise TrainingError(f"{path} is not JSON: {e}; remove it") from e
    if not isinstance(document, dict):
        raise TrainingError(f"{path} is not what this command writes; remove it")
    return document


def write_json(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, (json.dumps(dict(document), indent=2, default=str) + "\n").encode())
