"""Let our own commands read their arguments, and stop each before its work begins.

`python -m tests.docs.arguments` does it in a process of its own, because commands set signal handlers and import torch:
a JSON list of (module, arguments, environment) on stdin, on stdout a list of what each said against it, or null.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from tests.docs.commands import Command
from tests.docs.markdown import ROOT

# Functions that give a command all that its arguments say, checked; the outermost one that returns is the end.
_READERS = (
    ("argparse", "ArgumentParser", "parse_args"),
    ("bundle.cli.command", "Command", "parse"),
    ("service.settings", None, "read_command"),
)


class _Read(BaseException):
    """The arguments have been read. No Exception, so that no command takes it for a failure of its own."""


def refusals(commands: Sequence[Command]) -> list[str | None]:
    """What each command says against its arguments; None where it takes them."""
    requests = [(*command.module, command.environment) for command in commands if command.module is not None]
    assert len(requests) == len(commands), "only commands of ours have a parser to ask"
    done = subprocess.run(
        [sys.executable, "-m", "tests.docs.arguments"], cwd=ROOT, input=json.dumps(requests), text=True,
        stdout=subprocess.PIPE, timeout=600, check=True,
    )  # fmt: skip
    answers: list[str | None] = json.loads(done.stdout.splitlines()[-1])
    return answers


def _refusal(module: str, arguments: Sequence[str], environment: dict[str, str]) -> str | None:
    said = io.StringIO()
    before = sys.argv, dict(os.environ)
    sys.argv = [module, *arguments]
    os.environ.update(environment)
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(said):
            _main_of(module)()
    except _Read:
        return None
    except SystemExit as e:
        return f"ended with status {e.code}: {said.getvalue()}"
    except Exception as e:  # noqa: BLE001 - whatever it is, these arguments are not taken
        return f"{type(e).__name__}: {e}"
    finally:
        sys.argv = before[0]
        os.environ.clear()
        os.environ.update(before[1])
    return f"ended without reading its arguments by any of {_READERS}: {said.getvalue()}"


def _main_of(module: str) -> Callable[[], object]:
    """Raises ImportError where there is no such command."""
    package = importlib.import_module(module)
    if hasattr(package, "__path__"):
        package = importlib.import_module(f"{module}.__main__")
    main: Callable[[], object] | None = getattr(package, "main", None)
    if main is None:
        raise ImportError(f"{module} is no command")
    return main


def _stop_after_reading() -> None:
    """From now on a command ends with _Read once its arguments are read."""
    depth = 0

    def stop_after(read: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(read)
        def reads(*args: Any, **kwargs: Any) -> Any:
            nonlocal depth
            depth += 1
            try:
                result = read(*args, **kwargs)
            finally:
                depth -= 1
            if depth == 0:
                raise _Read
            return result

        return reads

    for module, owner, name in _READERS:
        if _exists(module):
            holder = importlib.import_module(module)
            holder = holder if owner is None else getattr(holder, owner)
            setattr(holder, name, stop_after(getattr(holder, name)))


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of its package
        return False


if __name__ == "__main__":
    _stop_after_reading()
    print(json.dumps([_refusal(*request) for request in json.load(sys.stdin)]))
