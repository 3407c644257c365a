"""Names of hosts, looked up in a way that can be given up.

uvloop goes on with a look-up that was cancelled, in one of the few threads that all look-ups share, and logs its error
as one that nobody waited for.
"""

from __future__ import annotations

import asyncio
import socket
import threading

from service.offload import detach


class LookUps:
    """Each on a thread of its own, so that no name waits for the silent name server of another. `at_most` of them: such
    a thread lasts until the system gives up, however soon its caller did.
    """

    def __init__(self, at_most: int) -> None:
        self._free = threading.Semaphore(at_most)

    async def addresses(self, host: str, port: int) -> list[str]:
        """Numeric, without repetitions, in the system's order. OSError if there are none, or too many names are being
        looked up; ValueError for what cannot be a name.
        """
        if not self._free.acquire(blocking=False):
            raise OSError(f"{host} is not looked up: too many names have no answer yet")
        found = detach(lambda: socket.getaddrinfo(host, port, type=socket.SOCK_STREAM), "names")
        found.add_done_callback(lambda _: self._free.release())
        return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in await asyncio.wrap_future(found)))
