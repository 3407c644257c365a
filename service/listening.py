"""The socket that requests come in by, taken before anything slow is begun."""

from __future__ import annotations

import errno
import os
import socket

from service.settings import Settings, SettingsError


def bind(settings: Settings) -> list[socket.socket]:
    """A socket for each address of the host, bound, not listening. SettingsError if the port is not to be had."""
    try:
        found = socket.getaddrinfo(
            settings.host or None, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as e:
        raise SettingsError(f"host: {settings.host} is no address of this machine: {e.strerror}") from e
    sockets: list[socket.socket] = []
    port = settings.port
    for family, address in dict.fromkeys((each[0], each[4]) for each in found):
        bound = socket.socket(family, socket.SOCK_STREAM)
        sockets.append(bound)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        try:
            bound.bind((address[0], port, *address[2:]))
        except OSError as e:
            for each in sockets:
                each.close()
            if e.errno == errno.EADDRNOTAVAIL:
                raise SettingsError(f"host: {settings.host} is no address of this machine") from e
            raise SettingsError(
                f"--port: cannot listen on {settings.host} port {port}: {os.strerror(e.errno or 0)}; take another port"
            ) from e
        port = bound.getsockname()[1]  # where it was 0, the same one for every address
    return sockets


def urls(settings: Settings, sockets: list[socket.socket]) -> str:
    """For the log."""
    host = f"[{settings.host}]" if ":" in settings.host else settings.host
    return f"http://{host}:{sockets[0].getsockname()[1]}"
