"""Work on many bytes must not hold up the event loop; work on few is quicker than a change of thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")

_INLINE_BYTES = 2**20  # about a millisecond of hashing or parsing


async def by_size(num_bytes: int, work: Callable[[], T]) -> T:
    """The result of `work`, done here or on another thread."""
    return work() if num_bytes <= _INLINE_BYTES else await asyncio.to_thread(work)


def detach(work: Callable[[], T], name: str) -> Future[T]:
    """Begin `work` on a thread of its own. Nobody who gave up waiting has to wait for it, nor has the process's end."""
    outcome: Future[T] = Future()
    outcome.set_running_or_notify_cancel()  # from here on nobody can take it back

    def run() -> None:
        try:
            outcome.set_result(work())
        except Exception as e:  # noqa: BLE001 - whoever waits gets it
            outcome.set_exception(e)

    threading.Thread(target=run, name=name, daemon=True).start()
    return outcome
