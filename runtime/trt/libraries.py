"""TensorRT and CUDA's Python bindings, imported when an engine is asked for, and what to do where one is missing."""

from __future__ import annotations

import importlib
import logging
import threading
from collections import deque
from typing import Any

from bundle.errors import RuntimeUnavailable

INSTALL = "pip install -e '.[tensorrt]'"
DRIVER = "580 or newer"  # what CUDA 13 asks for
_FIRST_MAJOR = 11  # the first whose networks take every precision from the graph, as ours give it
_MAX_KEPT_ERRORS = 8

log = logging.getLogger(__name__)


def load_tensorrt() -> Any:
    """The module `tensorrt`. RuntimeUnavailable, saying what to install, where it is missing, broken or too old."""
    trt = _load("tensorrt", "TensorRT")
    if int(trt.__version__.partition(".")[0]) < _FIRST_MAJOR:
        raise RuntimeUnavailable(f"TensorRT {trt.__version__} is too old, {_FIRST_MAJOR} is needed; {INSTALL}")
    return trt


def load_cuda() -> Any:
    """The module `cuda.bindings.runtime`. RuntimeUnavailable, saying what to install, where it is missing or broken."""
    return _load("cuda.bindings.runtime", "CUDA's Python bindings (cuda-bindings)")


def make_logger(trt: Any) -> Any:
    """A `tensorrt.ILogger` that writes to this module's log, with `take_errors() -> str` for the next exception."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        """TensorRT calls it from threads of its own."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self._errors: deque[str] = deque(maxlen=_MAX_KEPT_ERRORS)
            self._lock = threading.Lock()

        def log(self, severity: Any, msg: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                with self._lock:
                    self._errors.append(msg)
            # Its warnings are about choices it made by itself; nobody can act on them.
            log.log(logging.INFO if severity == trt.ILogger.Severity.WARNING else logging.DEBUG, "TensorRT: %s", msg)

        def take_errors(self) -> str:
            """What it complained of since the last time, in one line."""
            with self._lock:
                text = "; ".join(" ".join(error.split()) for error in self._errors)
                self._errors.clear()
            return text or "TensorRT gave no reason"

    return Logger()


def _load(module: str, name: str) -> Any:
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if e.name is not None and (module == e.name or module.startswith(f"{e.name}.")):
            raise RuntimeUnavailable(f"{name} is not installed; {INSTALL}") from e
        raise RuntimeUnavailable(f"{name} lacks a part, {e.name}; install it anew: {INSTALL}") from e
    except (ImportError, OSError) as e:  # a shared library that is not there, or of another version
        raise RuntimeUnavailable(f"{name} is installed but does not load: {e}; install it anew: {INSTALL}") from e
