"""What the tests of the cards read off the page and ask of the service to compare it with."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import FloatRect, Locator

from tests.browser.conftest import SAMPLES


def reconstructed(service: str, photo: Path = SAMPLES / "cat.jpg", /, **params: Any) -> dict[str, Any]:
    """The service's own answer."""
    answer = httpx.post(f"{service}reconstruct", content=photo.read_bytes(), params=params, trust_env=False)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def figure(value: float) -> str:
    """As the page writes numbers, with three figures."""
    return f"{float(f'{value:.3g}'):g}"


def pixels(canvas: Locator) -> NDArray[np.uint8]:
    """[rows, columns, 4]: what a canvas holds."""
    png = canvas.evaluate("canvas => canvas.toDataURL().split(',')[1]")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(png))).convert("RGBA"))


def box(element: Locator) -> FloatRect:
    """Where an element is in the window, in CSS pixels."""
    found = element.bounding_box()
    assert found is not None
    return found
