"""What is known of one request: for its Server-Timing, its line in the log, the metrics and its trace."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from contextvars import ContextVar
from itertools import count

# Of the request whose code runs; the log reads it.
REQUEST_ID: ContextVar[str | None] = ContextVar("request_id", default=None)

UNROUTED = "unmatched"  # the route of a path that no route has
_SANE_ID = re.compile(rb"[!-~]{1,128}")  # printable, and no room for a second line or header
STAGES = ("read", "cache", "decode", "queue", "infer", "search", "encode")
_STAGE_NAMES = tuple((stage, stage.encode()) for stage in STAGES)


class Record:
    """One request, filled in on its way. Seconds by `time.perf_counter`.

    `stages`: name -> seconds, of several images the slowest one's. `num_bytes`: of the answer's body. `route`: as the
    router knows it, with its parameters' names in the place of their values.
    """

    __slots__ = (
        "ended", "key", "method", "num_bytes", "num_cached", "num_images", "request_id", "route", "stages", "started",
        "status",
    )  # fmt: skip

    def __init__(self, method: str, request_id: str, status: int) -> None:
        self.method = method
        self.request_id = request_id
        self.status = status
        self.route = UNROUTED
        self.key: str | None = None  # the API key's name
        self.started = time.perf_counter()
        self.ended = self.started
        self.stages: dict[str, float] = {}
        self.num_images = self.num_cached = self.num_bytes = 0

    def __str__(self) -> str:
        images = f", {self.num_images} images" if self.num_images else ""
        return f"{self.method} {self.route} {self.status} {self.seconds * 1e3:.1f} ms{images}, {self.num_bytes} bytes"

    def take(self, stages: Mapping[str, float], *, num_images: int, num_cached: int) -> None:
        """What the engine says of the images."""
        self.stages.update(stages)
        self.num_images, self.num_cached = num_images, num_cached

    def end(self, route: str) -> None:
        self.route = route
        self.ended = time.perf_counter()

    @property
    def seconds(self) -> float:
        return self.ended - self.started

    def server_timing(self) -> bytes:
        """The header's value, in milliseconds up to now, of the stages that there were
        (https://www.w3.org/TR/server-timing/).
        """
        stages = self.stages
        parts = [b"%s;dur=%.2f" % (name, stages[stage] * 1e3) for stage, name in _STAGE_NAMES if stage in stages]
        parts.append(b"total;dur=%.2f" % ((time.perf_counter() - self.started) * 1e3))
        return b", ".join(parts)


class RequestIds:
    """Numbers requests, after a start that no other process has: random, so that no two logs share an id."""

    def __init__(self) -> None:
        self._prefix = os.urandom(6).hex()
        self._numbers = count(1)

    def choose(self, sent: bytes | None) -> str:
        """The caller's own id if it is one that a log can bear, up to 128 printable characters; else a new one."""
        if sent is not None and _SANE_ID.fullmatch(sent):
            return sent.decode("ascii")
        return f"{self._prefix}-{next(self._numbers)}"
