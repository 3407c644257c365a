"""Opens a page of the documentation in Chromium, from an origin of its own."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.chromium import open_browser

_TIMEOUT_MS = 30_000


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


class Origin(ThreadingHTTPServer):
    """Where pages come from that call the service from elsewhere. `folder`: what lies there now."""

    folder: Path | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Quiet)
        self.url = f"http://127.0.0.1:{self.server_port}"

    def finish_request(self, request: socket.socket | tuple[bytes, socket.socket], client_address: Any) -> None:
        assert self.folder is not None
        _Quiet(request, client_address, self, directory=str(self.folder))

    def browse(self, file: Path) -> str:
        """What the page's <output> shows once its file input was given photo.jpg, which lies beside it.

        AssertionError for anything on the console; skips or fails where there is no Chromium.
        """
        self.folder = file.parent
        said: list[str] = []
        with open_browser() as browser:
            page = browser.new_page()
            page.set_default_timeout(_TIMEOUT_MS)
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(f"{self.url}/{file.name}")
            page.locator("input[type=file]").set_input_files(file.with_name("photo.jpg"))
            page.wait_for_function("document.querySelector('output').textContent !== ''")
            shown = page.locator("output").inner_text()
        assert not said, f"the page said on the console: {said}"
        return shown


@contextmanager
def serving_pages() -> Iterator[Origin]:
    """An origin that answers until the end, on a port that nobody else can take meanwhile."""
    with Origin() as origin:
        thread = threading.Thread(target=origin.serve_forever, name="pages")
        thread.start()
        try:
            yield origin
        finally:
            origin.shutdown()
            thread.join(10)
