"""The page on anomaly maps shows the figures that the benchmark wrote."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).parents[2]


def rows(page: str) -> list[dict[str, str]]:
    """Of the page's table that begins with mask_ratio, by the names of the columns."""
    lines = (ROOT / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("| mask_ratio |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    end = next((i for i, line in enumerate(lines[start:]) if not line.startswith("|")), len(cells))
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:end]]


def test_the_pages_figures_are_the_results() -> None:
    measured = rows("benchmarks/results/anomaly.md")
    told = rows("docs/anomaly.md")
    assert [list(row.values()) for row in told] == [
        [row["mask_ratio"], row["passes"], row["all"], row["all, standardised"]] for row in measured
    ]
