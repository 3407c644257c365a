"""The bytes of single image files, or why there are none."""

from __future__ import annotations

import stat
import time
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from bundle.errors import InvalidInput, TooLarge
from sources.stores import MISSING, Reason, open_stored, reason, stored_size
from sources.urls import is_url

WAITS_S = (0.5, 2.0)  # between attempts; pyarrow's file systems make three each time themselves
_PATIENCE_S = 20  # after which none is begun
_THREADS = 16  # files of a store that are under way at once; each takes two trips there
_AHEAD = 32
Data = bytes | InvalidInput


class Unreachable(InvalidInput):
    """A store that lets nobody in or does not answer; of the image it says nothing."""


def not_read(location: str, why: Reason, said: str) -> InvalidInput:
    """said: the message. Unreachable where it is a store, in which all lies behind the same door, that gave `why`; one
    web server of many is none.
    """
    is_store = is_url(location) and not location.startswith(("http://", "https://"))
    return Unreachable(said) if is_store and why != MISSING else InvalidInput(said)


def read_file(path: str, max_bytes: int) -> Data:
    """A path or URL. What cannot be read is asked for a few times, where that may help. A big file stays unread."""
    read = _read_stored if is_url(path) else _read_local
    end = time.monotonic() + _PATIENCE_S
    for wait_s in (*WAITS_S, None):
        try:
            data = read(path, max_bytes)
        except Exception as e:  # noqa: BLE001 - every store raises errors of its own
            why = reason(e)
            if wait_s is None or not why.passing or not is_url(path) or time.monotonic() > end:
                return not_read(path, why, f"the file {why.text}")
            time.sleep(wait_s)
        else:
            return data if data else InvalidInput("the file is empty")
    raise AssertionError


def read_files(paths: Sequence[str], max_bytes: int) -> Iterator[Data]:
    """In order. Those of a store are read ahead, since they take longer to come than to arrive."""
    if not any(map(is_url, paths)):
        yield from (read_file(path, max_bytes) for path in paths)
        return
    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            coming = deque[Future[Data]]()
            for path in paths:
                coming.append(pool.submit(read_file, path, max_bytes))
                if len(coming) > _AHEAD:
                    yield coming.popleft().result()
            while coming:
                yield coming.popleft().result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def too_large(num_bytes: int | None, max_bytes: int) -> TooLarge:
    size = f"more than {max_bytes:,}" if num_bytes is None else f"{num_bytes:,}"
    return TooLarge(f"the image has {size} bytes, {max_bytes:,} are allowed")


def _read_local(path: str, max_bytes: int) -> Data:
    file = Path(path)
    status = file.stat()
    if not stat.S_ISREG(status.st_mode):  # to open a pipe waits for whoever writes into it
        return InvalidInput("the file is no regular file")
    if status.st_size > max_bytes:
        return too_large(status.st_size, max_bytes)
    return file.read_bytes()


def _read_stored(url: str, max_bytes: int) -> Data:
    with open_stored(url) as file:
        size = stored_size(file)
        if size is not None and size > max_bytes:
            return too_large(size, max_bytes)
        data = bytearray()
        while len(data) <= max_bytes and (part := file.read(max_bytes + 1 - len(data))):  # a web server's come in parts
            data += part
    return bytes(data) if len(data) <= max_bytes else too_large(size, max_bytes)
