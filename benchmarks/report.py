"""What every benchmark says of itself: the figures, the command, the machine, the date and the commit."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

RESULTS = Path(__file__).parent / "results"
_PACKAGES = (
    "torch",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "transformers",
    "numpy",
    "pillow",
    "simplejpeg",
)


class Report:
    """A table of figures, printed and written to `benchmarks/results/<name>.md`."""

    def __init__(self, name: str, question: str) -> None:
        self.name = name
        self.question = question.strip().splitlines()[0]
        self.rows: list[tuple[str, str]] = []
        self.tables: list[str] = []

    def add(self, label: str, value: str) -> None:
        self.rows.append((label, value))
        print(f"{label}: {value}", flush=True)

    def table(self, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
        """Another table, below; its rows are printed as they come."""
        lines = [f"| {' | '.join(header)} |", f"| {' | '.join('---' for _ in header)} |"]
        print(lines[0], flush=True)
        for row in rows:
            lines.append(f"| {' | '.join(row)} |")
            print(lines[-1], flush=True)
        self.tables.append("\n".join(lines))

    def picture(self, file: str) -> None:
        """Below what came before; `file` lies beside the results."""
        self.tables.append(f"![{Path(file).stem}]({file})")

    def write(self) -> Path:
        RESULTS.mkdir(exist_ok=True)
        path = RESULTS / f"{self.name}.md"
        lines = [f"# {self.question}", "", "| | |", "| --- | --- |"]
        lines += [f"| {label} | {value} |" for label, value in self.rows]
        for table in self.tables:
            lines += ["", table]
        lines += ["", *(f"- {fact}" for fact in _circumstances())]
        path.write_text("\n".join(lines) + "\n")
        print(f"written to {path}")
        return path


def paired_ratio(numerators: Sequence[float], denominators: Sequence[float]) -> float:
    """The median over rounds, so that what slows a round down slows both."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))


def command_line(module: str, arguments: Iterable[str]) -> str:
    """`python -m module arguments`. Where a file lay is this machine's affair; what it was called may say something."""
    words = (Path(argument).name if Path(argument).is_absolute() else argument for argument in arguments)
    return " ".join(["python -m", module, *words])


def _circumstances() -> list[str]:
    module = Path(sys.argv[0]).stem
    return [
        f"command: `{command_line(f'benchmarks.{module}', sys.argv[1:])}`",
        f"hardware: {_cpu()}, {_cores()} cores{_gpu()}",
        f"software: Python {platform.python_version()}, " + ", ".join(_versions()),
        f"date: {datetime.now(UTC):%Y-%m-%d}, commit {_commit()}",
    ]


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    flags = next((line for line in lines if line.startswith("flags")), "")
    best = next((f for f in ("amx_tile", "avx512_bf16", "avx512f", "avx2") if f" {f}" in flags), "")
    return f"{names[0] if names else platform.processor() or platform.machine()} {best}".strip()


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _gpu() -> str:
    torch = sys.modules.get("torch")
    return f", {torch.cuda.get_device_name()}" if torch is not None and torch.cuda.is_available() else ""


def _versions() -> list[str]:
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return found


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
