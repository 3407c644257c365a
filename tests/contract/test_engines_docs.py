"""docs/engines.md against the engines that there are."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from runtime import DEVICE_PATTERN, RuntimeName

PAGE = (Path(__file__).parents[2] / "docs" / "engines.md").read_text()


def test_every_engine_is_told_with_a_device_that_exists() -> None:
    rows = re.findall(r"^\| `([\w-]+)` \| `(\w+)` \| (?:fp|bf)", PAGE, re.MULTILINE)
    assert {name for name, _ in rows} == set(get_args(RuntimeName)) - {"auto", "fake"}
    assert all(re.fullmatch(DEVICE_PATTERN, device) for _, device in rows)
