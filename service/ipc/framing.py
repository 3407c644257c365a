"""Messages that are rare: a length, u32 little-endian, and as many bytes of JSON. What is frequent has `records`."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from contextlib import suppress
from typing import Any

Message = dict[str, Any]

_LENGTH = struct.Struct("<I")
_MOST_BYTES = 2**26  # a manifest with the names of ten thousand classes takes a part of a megabyte


class ProtocolError(Exception):
    """The other side does not speak as agreed; the connection is of no use any more."""


def frame(message: Message) -> bytes:
    body = json.dumps(message).encode()
    return _LENGTH.pack(len(body)) + body


def unframe(received: bytes | bytearray) -> tuple[Message, int] | None:
    """The message at the start of what was received, and the bytes that it took; None while it is incomplete.

    ProtocolError if it is no message.
    """
    if len(received) < _LENGTH.size:
        return None
    end = _LENGTH.size + _length(received[: _LENGTH.size])
    return (_parse(received[_LENGTH.size : end]), end) if len(received) >= end else None


def receive(connection: socket.socket) -> Message:
    """The next message, waited for. ProtocolError if the connection ends before it, or if it is no message."""
    return _parse(_exactly(connection, _length(_exactly(connection, _LENGTH.size))))


class Control:
    """The line between the supervisor and one of its processes. Make it inside the event loop."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    @classmethod
    async def over(cls, connection: socket.socket) -> Control:
        return cls(*await asyncio.open_unix_connection(sock=connection))

    def send(self, message: Message) -> None:
        """Does not wait. Into a line that has ended it goes nowhere: whoever reads it learns of the end."""
        if not self._writer.is_closing():
            self._writer.write(frame(message))

    async def receive(self) -> Message | None:
        """The next message, None when the line has ended. ProtocolError if it is no message."""
        try:
            length = _length(await self._reader.readexactly(_LENGTH.size))
            return _parse(await self._reader.readexactly(length))
        except (asyncio.IncompleteReadError, ConnectionError):
            return None

    async def close(self) -> None:
        """What was sent before leaves this process first, unless the other side is gone."""
        self._writer.close()
        with suppress(ConnectionError):
            await self._writer.wait_closed()


def _length(head: bytes | bytearray) -> int:
    (length,) = _LENGTH.unpack(head)
    if length > _MOST_BYTES:
        raise ProtocolError(f"a message of {length} bytes, {_MOST_BYTES} at most")
    return int(length)


def _parse(body: bytes | bytearray) -> Message:
    try:
        message = json.loads(body)
    except ValueError as e:
        raise ProtocolError(f"not JSON: {e}") from e
    if not isinstance(message, dict):
        raise ProtocolError(f"a message is an object, not {type(message).__name__}")
    return message


def _exactly(connection: socket.socket, num_bytes: int) -> bytes:
    received = bytearray()
    while len(received) < num_bytes:
        part = connection.recv(num_bytes - len(received))
        if not part:
            raise ProtocolError("the connection ended in the middle of a message")
        received += part
    return bytes(received)
