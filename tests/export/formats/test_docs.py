"""docs/export.md names every format, every flag of Triton's with its default, and no flag that there is not."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import get_args

from export.formats.options import Format, TritonOptions

SECTION = (Path(__file__).parents[3] / "docs" / "export.md").read_text().split("## Other formats")[1].split("\n## ")[0]


def test_every_format_is_named() -> None:
    for name in get_args(Format):
        assert f"`{name}`" in SECTION or f"`--format {name}`" in SECTION


def test_every_flag_of_triton_s_has_its_row_and_default() -> None:
    rows = dict(re.findall(r"^\| `--triton\.([a-z-]+)` \| ([^|]+) \|", SECTION, re.MULTILINE))
    known = {f.name.replace("_", "-"): f.default for f in fields(TritonOptions)}
    assert rows.keys() == known.keys()
    for name, default in known.items():
        assert rows[name] == ("the cores of the exporting machine; 1 on a GPU" if default is None else str(default))
