"""Lines on standard error: of text, or of JSON, one for every record, each with the id of its request."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Any

import orjson

from service.record import REQUEST_ID, Record
from service.settings import Settings


def log_to_stderr(settings: Settings, process: str | None = None) -> None:
    """From now on, log everything of at least the level asked for. `process`: this one's name among several."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines(process or "main") if settings.log_format == "json" else TextLines(process))
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(settings.log_level.upper())
    server = logging.getLogger("uvicorn.error")  # where uvicorn logs all that it does
    server.setLevel(max(logging.WARNING, root.level))
    server.addFilter(_is_worth_a_line)


def _is_worth_a_line(record: logging.LogRecord) -> bool:
    """Not every piece of garbage that a stranger sends: it could fill the disk, and is answered with 400."""
    return record.msg != "Invalid HTTP request received."


class TextLines(logging.Formatter):
    """2026-01-31 12:00:00,123 INFO service: what happened [request id]"""

    def __init__(self, process: str | None) -> None:
        name = "" if process is None else f"{process} "
        super().__init__(f"%(asctime)s {name}%(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        request_id = REQUEST_ID.get()
        line = super().formatMessage(record)
        return line if request_id is None else f"{line} [{request_id}]"


class JsonLines(logging.Formatter):
    """{"time", "level", "logger", "process", "message"}, and what more is known: request_id; exception, as text with
    its line breaks escaped; of a request's own line also method, route, key (its name), status, ms, images, cached and
    bytes.
    """

    def __init__(self, process: str) -> None:
        super().__init__()
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        time = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": time.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "process": self._process,
            "message": record.getMessage(),
        }
        request_id = REQUEST_ID.get()
        if request_id is not None:
            line["request_id"] = request_id
        request = getattr(record, "request", None)
        if isinstance(request, Record):
            line |= _of_request(request)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return orjson.dumps(line, default=str).decode()


def _of_request(request: Record) -> dict[str, Any]:
    return {
        "method": request.method,
        "route": request.route,
        "key": request.key,
        "status": request.status,
        "ms": round(request.seconds * 1e3, 2),
        "images": request.num_images,
        "cached": request.num_cached,
        "bytes": request.num_bytes,
    }
