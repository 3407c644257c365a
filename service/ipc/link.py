"""One end of a connection of records."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import cast

from service.ipc.framing import Message, ProtocolError, unframe
from service.ipc.records import SIZE

log = logging.getLogger(__name__)


class Link(asyncio.Protocol):
    """Cuts what arrives into records, and sends the records of one turn of the loop in one write.

    `name`: of the other side, for the log. `on_record` may raise ProtocolError, which ends the connection. `on_end` is
    called once, when it has ended for whatever reason. `on_hello`: takes the message that comes first, where one does.
    """

    def __init__(
        self,
        name: str,
        on_record: Callable[[bytes], None],
        on_end: Callable[[], None],
        *,
        on_hello: Callable[[Message], None] | None = None,
    ) -> None:
        self._name = name
        self._on_record = on_record
        self._on_end = on_end
        self._on_hello = on_hello
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._received = bytearray()
        self._unsent = bytearray()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc  # a process that was killed resets its connections: the end is all there is to know
        self._transport = None
        self._on_end()

    def data_received(self, data: bytes) -> None:
        try:
            self._received += data
            if self._on_hello is None or self._hello(self._on_hello):
                self._records()
        except ProtocolError as e:
            log.error("the connection to %s was cut: %s", self._name, e)
            self.abort()

    def send(self, record: bytes) -> None:
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent += record

    def abort(self) -> None:
        """End the connection; what was not sent yet is lost."""
        if self._transport is not None:
            self._transport.abort()

    def _hello(self, on_hello: Callable[[Message], None]) -> bool:
        """Whether the first message is there."""
        taken = unframe(self._received)
        if taken is None:
            return False
        message, num_bytes = taken
        del self._received[:num_bytes]
        self._on_hello = None
        on_hello(message)
        return True

    def _records(self) -> None:
        whole = len(self._received) // SIZE * SIZE
        records, self._received = bytes(self._received[:whole]), self._received[whole:]
        for start in range(0, whole, SIZE):
            self._on_record(records[start : start + SIZE])

    def _flush(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._unsent))
        self._unsent.clear()
