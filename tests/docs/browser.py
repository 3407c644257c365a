"""Opens a page of the documentation in Chromium, from an origin of its own."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from playwright.sync_api import sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_FLAGS = ["--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
_TIMEOUT_MS = 30_000


def find_chromium() -> str | None:
    return os.environ.get("CHROMIUM") or next((path for name in _NAMES if (path := shutil.which(name))), None)


def browse(port: int, file: Path) -> str:
    """What the page's <output> shows once its file input was given photo.jpg, which lies beside it.

    `port`: of the origin on 127.0.0.1 that the page comes from. AssertionError for anything on the console.
    """
    said: list[str] = []
    with _served(file.parent, port), sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium(), args=_FLAGS)
        page = browser.new_page()
        page.set_default_timeout(_TIMEOUT_MS)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.goto(f"http://127.0.0.1:{port}/{file.name}")
        page.locator("input[type=file]").set_input_files(file.with_name("photo.jpg"))
        page.wait_for_function("document.querySelector('output').textContent !== ''")
        shown = page.locator("output").inner_text()
        browser.close()
    assert not said, f"the page said on the console: {said}"
    return shown


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Nothing."""


@contextmanager
def _served(folder: Path, port: int) -> Iterator[None]:
    with ThreadingHTTPServer(("127.0.0.1", port), partial(_Quiet, directory=str(folder))) as server:
        thread = threading.Thread(target=server.serve_forever, name="pages")
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join(10)
