"""The Chromium of the tests: where it is, and how it is started.

Where there is none, what needs one is skipped, and says so; where REQUIRE_CHROMIUM is set, as in .ci/run, it fails:
otherwise a machine that could not install it would pass without a word.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, sync_playwright

_NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_MISSING = f"there is no Chromium: install one of {', '.join(_NAMES)}, or name it in CHROMIUM"
_FLAGS = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
]  # fmt: skip


def require_chromium() -> str:
    """Its path; skips the test, or fails it, where there is none."""
    path = os.environ.get("CHROMIUM") or next((path for name in _NAMES if (path := shutil.which(name))), None)
    if path is not None:
        return path
    if os.environ.get("REQUIRE_CHROMIUM"):
        pytest.fail(f"{_MISSING}; REQUIRE_CHROMIUM asks for it", pytrace=False)
    pytest.skip(_MISSING)


@contextmanager
def open_browser() -> Iterator[Browser]:
    """A browser, closed at the end. Skips or fails as `require_chromium`."""
    path = require_chromium()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=_FLAGS)
        yield browser
        browser.close()
