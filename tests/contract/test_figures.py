"""Figures that the docs repeat are those of the results that they link to."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
SMALL, LARGER = "serve_peers_maeve-tiny-64.md", "serve_peers_random-tiny.md"
OURS_AT_70_PERCENT = r"^\| Maeve \| .* \| (\d+ / \d+) at \d+/s \|$"

# A result, where its figure stands there, and how which pages write it.
FIGURES = [
    ("cifar10.md", r"pre-trained then 10 % of the labels \| ([\d.]+)%", "{:.1f} %", ("README.md", "docs/index.md")),
    ("cifar10.md", r"from scratch on the same 10 % \| ([\d.]+)%", "{:.1f} %", ("README.md", "docs/index.md")),
    ("cifar10.md", r"through POST /classify \| ([\d.]+)%", "the same {:.1f} %", ("README.md", "docs/index.md")),
    (SMALL, r"Maeve / bare loop \| ([\d.]+)", "{:.2f} to 0.96", ("docs/index.md",)),
    (LARGER, r"Maeve / bare loop \| ([\d.]+)", "0.88 to {:.2f}", ("docs/index.md",)),
    (SMALL, r"the best peer \| ([\d.]+)", "1.26 to {:.2f}", ("README.md", "docs/index.md")),
    (LARGER, r"the best peer \| ([\d.]+)", "{:.2f} to 1.38", ("README.md", "docs/index.md")),
    ("pretrain_step.md", r"Maeve / Hugging Face ViTMAE \| ([\d.]+)x", "{:.2f} times", ("docs/index.md",)),
    (SMALL, r"Maeve / bare loop \| ([\d.]+)", "[{:.2f}]", ("docs/operations.md",)),
    (LARGER, r"Maeve / bare loop \| ([\d.]+)", "[{:.2f}]", ("docs/operations.md",)),
    (SMALL, r"Maeve, 4 workers / Maeve \| ([\d.]+)", "[{:.2f}]", ("docs/operations.md",)),
    (SMALL, r"\(([\d,]+) hits/s\)", "{:,.0f} a second", ("docs/operations.md",)),
    (SMALL, r"memory of the service \| (\d+) MiB", "{:.0f} MiB for the default bundle", ("docs/operations.md",)),
    (LARGER, r"memory of the service \| (\d+) MiB", "{:.0f} MiB for a ViT-Ti/16", ("docs/operations.md",)),
    ("decode.md", r"JPEG 500 x 375 \| 224 \| ours \| ([\d.]+)", "({:.1f} ms", ("docs/operations.md",)),
    ("decode.md", r"JPEG 12 Mpx \| 224 \| ours \| ([\d.]+)", "({:.0f} ms)", ("docs/operations.md",)),
]  # fmt: skip


@pytest.mark.parametrize(("result", "pattern", "form", "pages"), FIGURES)
def test_the_figure_is_the_result_s(result: str, pattern: str, form: str, pages: tuple[str, ...]) -> None:
    found = re.search(pattern, (RESULTS / result).read_text())
    assert found
    figure = form.format(float(found[1].replace(",", "")))
    for page in pages:
        assert figure in (ROOT / page).read_text(), page


def test_the_times_at_70_percent_are_the_result_s() -> None:
    found = re.search(OURS_AT_70_PERCENT, (RESULTS / SMALL).read_text(), re.MULTILINE)
    assert found
    half, most = found[1].split(" / ")
    assert f"half of the requests within {half} ms and 99 % within {most} ms" in flat("docs/operations.md")


def test_what_keep_costs_is_the_result_s() -> None:
    ours = rows("docs/choosing.md", "keep")
    assert len(ours) == 4
    measured = rows("benchmarks/results/keep.md", "keep")
    assert ours == [row[:2] + row[3:] for row in measured]  # without images/s
    cosines = re.search(r"different images, cls and mean \| ([\d.]+), ([\d.]+)", flat("benchmarks/results/keep.md"))
    assert cosines
    assert f"{cosines[2]} (`mean`) or {cosines[1]} (`cls`)" in flat("docs/choosing.md")


def test_what_the_engines_do_is_the_result_s() -> None:
    row = r"^\| (onnxruntime|openvino) (\w+) \| .*, ([\d.]+x), .*, cosine ([\d.]+) \|$"
    measured = set(re.findall(row, (RESULTS / "engines_tiny.md").read_text(), re.MULTILINE))
    row = r"^\| (ONNX Runtime|OpenVINO) (fp32|bf16|int8) \| ([\d.]+x) \| ([\d.]+) \|"
    told = re.findall(row, (ROOT / "docs/choosing.md").read_text(), re.MULTILINE)
    assert len(told) >= 4
    assert {(name.lower().replace(" ", ""), *figures) for name, *figures in told} <= measured


def flat(page: str) -> str:
    return " ".join((ROOT / page).read_text().split())


def rows(page: str, first_column: str) -> list[list[str]]:
    """The cells of the rows of all tables whose header begins so."""
    found, inside = [], False
    for line in (ROOT / page).read_text().splitlines():
        cells = [cell.strip() for cell in line.removeprefix("|").removesuffix("|").split("|")]
        if not line.startswith("|"):
            inside = False
        elif inside:
            found.append(cells)
        elif cells[0] == first_column:
            inside = True
    return [row for row in found if not row[0].startswith("---")]
