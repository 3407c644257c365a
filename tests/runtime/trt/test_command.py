"""python -m export.tensorrt: the engines that the service finds, and how it refuses."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import export.tensorrt
from bundle.store import Bundle
from export.tensorrt import Percentage, main, make_monitor, show_progress
from runtime.trt.runtime import TensorRTRuntime
from tests.runtime.trt.fake_cuda import FakeCuda
from tests.runtime.trt.fake_tensorrt import FakeTensorRT, ICudaEngine

ROOT = Path(__file__).parents[3]
Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command as the shell would; returns the exit status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["export.tensorrt", *map(str, arguments)])
        code = 0
        try:
            main()
        except SystemExit as e:
            code = int(str(e.code))
        return code, *capsys.readouterr()

    return run


def refused(result: tuple[int, str, str], message: str) -> None:
    """Exit status 2, nothing on stdout, and one line that starts with "error:"."""
    code, stdout, stderr = result
    assert (code, stdout) == (2, "")
    last = stderr.splitlines()[-1]
    assert last.startswith("error: ")
    assert re.search(message, last)
    assert "Traceback" not in stderr


def test_the_service_finds_the_engines(
    run: Run, trt: FakeTensorRT, cuda: FakeCuda, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    code, stdout, stderr = run(tiny_bundle.path, "--engine-cache", tmp_path, "--max-batch", "4")
    assert code == 0
    lines = stdout.splitlines()
    assert lines[0] == str(tmp_path / tiny_bundle.manifest.digest / "sm_90-11.4.0.106-fp32")
    assert lines[1] == "sm_90, TensorRT 11.4.0.106"
    assert [line.split() for line in lines[3:]] == [
        [graph, "fp32", "1-4", profiles, size, "in", "0", "s"]
        for graph, profiles, size in zip(
            ("encoder", "decoder", "head"), "312", [line.split()[4] for line in lines[3:]], strict=True
        )
    ]
    assert stderr.splitlines() == [
        "building encoder in fp32", "building decoder in fp32", "building head in fp32",
        "proving them on the golden inputs",
    ]  # fmt: skip
    assert cuda.is_empty
    served = TensorRTRuntime(tiny_bundle, "fp32", gpu=0, engine_cache=tmp_path)
    assert (served.max_batch, served.details["engines_built"]) == (4, 0)
    served.close()
    assert len(trt.builds) == 3


def test_what_is_there_is_kept_unless_it_is_to_be_rebuilt(
    run: Run, trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    here = (tiny_bundle.path, "--engine-cache", tmp_path)
    assert run(*here, "--max-batch", "4")[0] == 0
    code, stdout, _ = run(*here)
    assert code == 0
    assert [line.split()[-1] for line in stdout.splitlines()[3:]] == ["before"] * 3
    assert len(trt.builds) == 3
    run(*here, "--max-batch", "2")
    assert len(trt.builds) == 6
    _, stdout, _ = run(*here, "--rebuild")
    assert len(trt.builds) == 9
    assert [line.split()[2] for line in stdout.splitlines()[3:]] == ["1-64"] * 3


def test_another_gpu_is_taken(run: Run, trt: FakeTensorRT, cuda: FakeCuda, tiny_bundle: Bundle, tmp_path: Path) -> None:
    del trt
    here = (tiny_bundle.path, "--engine-cache", tmp_path, "--max-batch", "1", "--device", "cuda:1")
    refused(run(*here), "there is no GPU 1: CUDA finds 1")
    cuda.gpus = 2
    assert run(*here)[0] == 0


def test_an_engine_that_computes_something_else_ends_with_1(
    run: Run, trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del trt
    original = ICudaEngine.__init__

    def sabotage(engine: ICudaEngine, *arguments: Any) -> None:
        original(engine, *arguments)
        session = engine.session

        class Off:
            def run(self, *call: Any) -> list[Any]:
                return [value * 1.01 for value in session.run(*call)]

        engine.session = Off()

    monkeypatch.setattr(ICudaEngine, "__init__", sabotage)
    code, _, stderr = run(tiny_bundle.path, "--engine-cache", tmp_path, "--max-batch", "1")
    assert code == 1
    assert re.search(r"^error: tensorrt on cuda:0 in fp32 computes another encoder\.\w+ than", stderr, re.MULTILINE)


def test_ctrl_c_ends_the_build_and_not_what_is_done(
    run: Run, trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It arrives while TensorRT's own code runs, at the first line of ours, which is the monitor's."""

    def interrupt(line: str) -> None:
        if line == "building decoder: 62 %":
            raise KeyboardInterrupt

    monkeypatch.setattr(export.tensorrt, "show_progress", interrupt)
    code, stdout, stderr = run(tiny_bundle.path, "--engine-cache", tmp_path)
    assert (code, stdout) == (130, "")
    assert stderr.splitlines()[-1] == "interrupted; the engines that are done are kept"
    assert [file.name for file in tmp_path.rglob("*.engine")] == ["encoder.engine"]
    assert len(trt.builds) == 1


def test_a_cache_that_cannot_be_written_is_an_error_here(
    run: Run, trt: FakeTensorRT, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """Building ahead has no other purpose; the service goes on without one."""
    (tmp_path / "file").write_bytes(b"")
    refused(run(tiny_bundle.path, "--engine-cache", tmp_path / "file"), "cannot be kept, .* another --engine-cache")
    assert len(trt.builds) == 1


@pytest.mark.parametrize("change", [("--rebuild",), ("--max-batch", "2")])
def test_an_old_engine_does_not_stand_for_one_that_cannot_be_kept(
    run: Run,
    trt: FakeTensorRT,
    tiny_bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, ...],
) -> None:
    here = (tiny_bundle.path, "--engine-cache", tmp_path)
    assert run(*here, "--max-batch", "1")[0] == 0

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    refused(run(*here, *change), r"encoder\.engine cannot be kept")
    assert len(trt.builds) == 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--max-batch", "0"), "--max-batch must be at least 1, got 0"),
        (("--device", "cpu"), "--device must be cuda, cuda:0, cuda:1, ..., got 'cpu'"),
        (("--precision", "fp16"), "no fp16 encoder graph"),
    ],
)
def test_a_wrong_option_is_named(
    run: Run, trt: FakeTensorRT, tiny_bundle: Bundle, arguments: tuple[str, ...], message: str
) -> None:
    refused(run(tiny_bundle.path, *arguments), re.escape(message))
    assert not trt.builds


def test_a_folder_that_is_no_bundle_is_named(run: Run, tmp_path: Path) -> None:
    refused(run(tmp_path), "is not a bundle")


def test_without_tensorrt_it_says_what_to_install(tiny_bundle: Bundle) -> None:
    """In a process of its own, which imports as the command does."""
    program = "import sys\nsys.modules['tensorrt'] = None\nfrom export.tensorrt import main\nmain()"
    command = [sys.executable, "-c", program, str(tiny_bundle.path)]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == "error: TensorRT is not installed; pip install -e '.[tensorrt]'\n"


# Progress


def test_phases_within_phases_add_up() -> None:
    """Of two steps the first is done, then of four within the second one after the other: 50, 62, 75, 87, 100."""
    told: list[int] = []
    percentage = Percentage(told.append)
    percentage.start("build", 2)
    percentage.step("build", 0)
    percentage.start("time", 4)
    for step in range(4):
        percentage.step("time", step)
    percentage.finish("time")
    percentage.step("build", 1)
    percentage.finish("build")
    assert told == [50, 62, 75, 87, 100]


def test_a_percentage_never_goes_back() -> None:
    told: list[int] = []
    percentage = Percentage(told.append)
    for phase in ("first", "second"):
        percentage.start(phase, 2)
        percentage.step(phase, 0)
        percentage.finish(phase)
    assert told == [50]


def test_a_monitor_goes_on_until_it_is_interrupted(trt: FakeTensorRT) -> None:
    def tell(percent: int) -> None:
        if percent == 100:
            raise KeyboardInterrupt

    monitor = make_monitor(trt, tell)
    monitor.phase_start("build", None, 2)
    assert (monitor.step_complete("build", 0), monitor.interrupted) == (True, False)
    assert (monitor.step_complete("build", 1), monitor.interrupted) == (False, True)


def test_a_log_gets_steps_and_a_terminal_one_line_that_changes(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("building encoder in fp16", "building encoder: 7 %", "proving them")
    for line in lines:
        show_progress(line)
    assert capsys.readouterr().err == "building encoder in fp16\nproving them\n"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for line in lines:
        show_progress(line)
    assert "\r\033[Kbuilding encoder: 7 %\r\033[Kproving them\n" in capsys.readouterr().err


def test_every_flag_is_in_the_docs(run: Run) -> None:
    text = (ROOT / "docs" / "tensorrt.md").read_text()
    code, stdout, _ = run("--help")
    assert code == 0
    flags = set(re.findall(r"--[a-z][a-z-]+", stdout)) - {"--help", "--version"}
    assert {"--precision", "--max-batch", "--rebuild"} < flags
    assert {flag for flag in flags if f"| `{flag}" not in text} == set()
