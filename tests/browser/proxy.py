"""What may stand between a page and its services: a proxy, through which answers are changed or spoilt on the way."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding", "content-length", "content-encoding"}


@dataclass
class Proxy:
    """`target(request)`: the address of the service that a request goes to. `cuts`: whether the answers to POST break
    off halfway; may be changed while it serves.
    """

    target: Callable[[BaseHTTPRequestHandler], str]
    cuts: bool = False
    url: str = ""


@contextmanager
def between(target: Callable[[BaseHTTPRequestHandler], str]) -> Iterator[Proxy]:
    """A proxy on a loopback port."""
    proxy = Proxy(target)
    with httpx.Client(trust_env=False, timeout=20) as http:
        server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(proxy, http))
        proxy.url = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join(10)
            server.server_close()


def _handler(proxy: Proxy, http: httpx.Client) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._pass_on(cut=False)

        def do_POST(self) -> None:
            self._pass_on(cut=proxy.cuts)

        def _pass_on(self, *, cut: bool) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {
                name: value for name, value in self.headers.items() if name.lower() not in {"host", "connection"}
            }
            url = proxy.target(self) + self.path.lstrip("/")
            answer = http.request(self.command, url, content=body, headers=headers)
            self.send_response(answer.status_code)
            for name, value in answer.headers.items():
                if name not in _OF_THE_CONNECTION:
                    self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content[: len(answer.content) // 2] if cut else answer.content)
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            """Nothing: the tests tell what went wrong."""

    return Handler
