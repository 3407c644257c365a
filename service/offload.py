"""Work on many bytes must not hold up the event loop; work on few is quicker than a change of thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

_INLINE_BYTES = 2**20  # about a millisecond of hashing or parsing


async def by_size(num_bytes: int, work: Callable[[], T]) -> T:
    """The result of `work`, done here or on another thread."""
    return work() if num_bytes <= _INLINE_BYTES else await asyncio.to_thread(work)
