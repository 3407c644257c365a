"""What Schemathesis cannot know: images, and that a deadline of nothing is rightly answered with 504.

Loaded by its command line, see test_openapi.py.
"""

from __future__ import annotations

import base64
from typing import Any

import schemathesis
from hypothesis import strategies as st

from tests.service.helpers import photo

IMAGES = st.sampled_from([photo(seed) for seed in range(3)])
schemathesis.openapi.format("image", IMAGES.map(lambda image: base64.b64encode(image).decode()))
schemathesis.openapi.format("binary", IMAGES)
for media_type in ("image/*", "application/octet-stream"):
    schemathesis.openapi.media_type(media_type, IMAGES)

_TIMEOUT = "X-Request-Timeout-Ms"
_ENOUGH_MS = 10_000


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Good deadlines become long ones; bad ones stay."""
    del context, kwargs
    try:
        if 0 < float(case.headers[_TIMEOUT]) < _ENOUGH_MS:
            case.headers[_TIMEOUT] = str(_ENOUGH_MS)
    except (KeyError, TypeError, ValueError):
        pass
