"""docs/export.md names every flag of python -m export, with the code's defaults and limits, and no other flag."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from export.config import ExportConfig
from export.images import MAX_IMAGES, SAMPLES_FILE
from export.onnx import OPSET
from export.verify import KEPT_IN_HALF, LIMITS, Limits

PAGE = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
SECTION = PAGE.split("\n## ")[0]


def test_every_flag_is_in_the_table_and_no_other() -> None:
    table = SECTION.split("| flag |")[1].split("\n\n")[0]
    rows = re.findall(r"^\| `(?:--)?([A-Za-z0-9-]+)` \|", table, re.MULTILINE)
    assert rows[0] == "RUN"
    flags = {field.name.replace("_", "-") for field in fields(ExportConfig)}
    assert {"run", *rows[1:]} == flags - {"triton"}  # whose flags have a table of their own


@pytest.mark.parametrize("name", ["precision", "int8", "storage"])
def test_the_defaults_are_the_code_s(name: str) -> None:
    default = next(field.default for field in fields(ExportConfig) if field.name == name)
    assert f"| `--{name}` | `{default}` |" in SECTION


def test_the_limits_are_the_code_s() -> None:
    rows: list[tuple[str, Limits]] = [
        *LIMITS.items(),
        ("fp32, weights [in half](#weights-in-half-precision)", KEPT_IN_HALF),
    ]
    for name, limits in rows:
        row = next(line for line in PAGE.split("## Parity")[1].splitlines() if line.startswith(f"| {name} |"))
        cells = [float(cell) for cell in row.split("|")[2:-1]]
        assert cells == [limits.relative, limits.cosine_made_up, limits.cosine_images]
    assert f"at least {LIMITS['int8'].cosine_images:g}" in PAGE


def test_the_other_figures_are_the_code_s() -> None:
    assert f"opset {OPSET}," in PAGE
    assert f"leaves `{SAMPLES_FILE}`: up to {MAX_IMAGES} of its images" in PAGE
