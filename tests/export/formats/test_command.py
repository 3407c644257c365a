"""python -m export --format: every format through the command, and what may be overwritten."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bundle.store import Bundle, load_bundle
from export.__main__ import main
from tests.conftest import TinyRuns

Run = Callable[..., tuple[int, str, str]]
FORMATS = ("triton", "hf", "timm")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command as the shell would; returns the exit status, stdout and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        code: object = 0
        try:
            main()
        except SystemExit as e:
            code = e.code
        assert isinstance(code, int)
        return code, *capsys.readouterr()

    return run


def refused(result: tuple[int, str, str], *parts: str) -> None:
    """Exit status 2, one line that starts with "error:" and says all of `parts`."""
    code, stdout, stderr = result
    assert (code, stdout, stderr.count("\n")) == (2, "", 1)
    assert stderr.startswith("error: ")
    for part in parts:
        assert part in stderr


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_repository_of_a_run_is_that_of_its_bundle(
    run: Run, tiny_runs: TinyRuns, tiny_bundle: Bundle, tmp_path: Path
) -> None:
    """The export is the same to the byte, so a bundle on disk and one on the way make the same repository."""
    assert run(tiny_bundle.path, "--format", "triton", "--out", tmp_path / "a")[0] == 0
    arguments = ("--classifier", tiny_runs.probe, "--format", "triton", "--out", tmp_path / "b")
    code, stdout, stderr = run(tiny_runs.pretrained, *arguments)
    assert (code, stdout.count("tiny-")) == (0, 3)
    assert "encoder fp32: exporting" in stderr
    assert "fp16" not in stderr  # one variant is served, so one is made
    models = [{name: data for name, data in tree(tmp_path / r).items() if name.endswith(".onnx")} for r in "ab"]
    assert models[0] == models[1]
    assert len(models[0]) == 3
    note = json.loads((tmp_path / "a" / "maeve.json").read_text())
    assert note["digest"] == tiny_bundle.manifest.digest
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


def test_the_options_of_triton_reach_its_config(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    options = ("--triton.device", "gpu", "--triton.instances", "2", "--triton.max-batch-size", "16", "--name", "cats")
    assert run(tiny_bundle.path, "--format", "triton", "--out", tmp_path / "r", *options)[0] == 0
    text = (tmp_path / "r" / "cats-encoder" / "config.pbtxt").read_text()
    assert "max_batch_size: 16" in text
    assert "instance_group { count: 2 kind: KIND_GPU }" in text


@pytest.mark.parametrize("format", ["hf", "timm"])
def test_weights_do_not_come_from_a_bundle(run: Run, tiny_bundle: Bundle, tmp_path: Path, format: str) -> None:  # noqa: A002
    result = run(tiny_bundle.path, "--format", format, "--out", tmp_path / "x")
    refused(result, "is a bundle, whose weights are in graphs; give the run that it was made of")


def test_a_bundle_brings_its_own_classifier(run: Run, tiny_bundle: Bundle, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    result = run(tiny_bundle.path, "--classifier", tiny_runs.probe, "--format", "triton", "--out", tmp_path / "x")
    refused(result, "--classifier goes with a run")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ("--format", "hf", "--pooling", "cls"),
            "--pooling is what a bundle says of itself; leave it out with --format hf",
        ),
        (
            ("--format", "hf", "--storage", "half"),
            "--precision, --int8, --storage and --images are for graphs; --format hf writes weights",
        ),
        (("--format", "timm", "--storage", "half"), "are for graphs; --format timm writes weights"),
        (("--format", "timm", "--triton.device", "gpu"), "the --triton. flags go with --format triton; leave them out"),
        (("--triton.instances", "2"), "the --triton. flags go with --format triton"),
    ],
)
def test_a_flag_without_an_effect_is_refused(
    run: Run, tiny_runs: TinyRuns, tmp_path: Path, flags: tuple[str, ...], message: str
) -> None:
    refused(run(tiny_runs.pretrained, "--out", tmp_path / "x", *flags), message)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("flags", [("--int8", "static"), ("--storage", "half"), ("--images", "nowhere")])
def test_a_bundle_s_graphs_are_made_already(
    run: Run, tiny_bundle: Bundle, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    result = run(tiny_bundle.path, "--format", "triton", "--out", tmp_path / "x", *flags)
    refused(
        result, f"{tiny_bundle.path} is a bundle, whose graphs are made; --int8, --storage and --images go with a run"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_the_card_s_title(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    assert run(tiny_runs.pretrained, "--format", "timm", "--out", tmp_path / "x", "--name", "cats")[0] == 0
    assert "\n# cats\n" in (tmp_path / "x" / "README.md").read_text()


def test_a_damaged_bundle_is_not_passed_on(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    shutil.copytree(tiny_bundle.path, tmp_path / "bundle")
    file = tmp_path / "bundle" / "encoder.onnx"
    file.write_bytes(file.read_bytes()[:-1] + b"\xff")
    refused(run(tmp_path / "bundle", "--format", "triton", "--out", tmp_path / "x"), "encoder.onnx was altered")
    assert not (tmp_path / "x").exists()


# What may be overwritten


@pytest.fixture
def source(tiny_bundle: Bundle, tiny_runs: TinyRuns) -> Callable[[str], Path]:
    return lambda format: tiny_bundle.path if format == "triton" else tiny_runs.pretrained  # noqa: A006


@pytest.mark.parametrize("format", FORMATS)
def test_an_export_is_overwritten_only_when_asked(
    run: Run, source: Callable[[str], Path], tmp_path: Path, format: str  # noqa: A002
) -> None:  # fmt: skip
    arguments = (source(format), "--format", format, "--out", tmp_path / "x")
    assert run(*arguments)[0] == 0
    (tmp_path / "x" / "README.md").write_text("old")
    refused(run(*arguments), "exists; choose another place, or overwrite it with --overwrite")
    assert (tmp_path / "x" / "README.md").read_text() == "old"
    assert run(*arguments, "--overwrite")[0] == 0
    assert (tmp_path / "x" / "README.md").read_text() != "old"
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


def test_another_s_file_in_it_is_never_lost(run: Run, tiny_bundle: Bundle, tmp_path: Path) -> None:
    """Someone put a model of her own into the repository."""
    arguments = (tiny_bundle.path, "--format", "triton", "--out", tmp_path / "x", "--overwrite")
    assert run(*arguments)[0] == 0
    (tmp_path / "x" / "ocr" / "1").mkdir(parents=True)
    (tmp_path / "x" / "ocr" / "1" / "model.onnx").write_bytes(b"precious")
    refused(run(*arguments), "exists and holds ocr/1/model.onnx, which no export wrote; it is left alone")
    assert (tmp_path / "x" / "ocr" / "1" / "model.onnx").read_bytes() == b"precious"


@pytest.mark.parametrize("note", [None, "", "[]", "{}", '{"files": 3}', '{"files": null}'])
def test_what_has_no_note_of_an_export_is_left_alone(
    run: Run, tiny_bundle: Bundle, tmp_path: Path, note: str | None
) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "photo.jpg").write_bytes(b"")
    if note is not None:
        (tmp_path / "x" / "maeve.json").write_text(note)
    result = run(tiny_bundle.path, "--format", "triton", "--out", tmp_path / "x", "--overwrite")
    refused(result, "has no maeve.json of an export; it is left alone")


def test_a_bundle_is_not_overwritten_by_another_format(run: Run, tiny_runs: TinyRuns, tiny_bundle: Bundle) -> None:
    result = run(tiny_runs.pretrained, "--format", "hf", "--out", tiny_bundle.path, "--overwrite")
    refused(result, "has no maeve.json of an export")
    assert load_bundle(tiny_bundle.path) == tiny_bundle


# A disk that does not take it


@contextmanager
def no_file_above(num_bytes: int) -> Iterator[None]:
    """The kernel cuts a longer one off, as a full disk does; Python ignores the signal and sees an OSError."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("format", FORMATS)
def test_a_full_disk_keeps_what_was_there(
    run: Run, source: Callable[[str], Path], tmp_path: Path, format: str  # noqa: A002
) -> None:  # fmt: skip
    arguments = (source(format), "--format", format, "--overwrite", "--out")
    assert run(*arguments, tmp_path / "old")[0] == 0
    before = tree(tmp_path)
    assert max(map(len, before.values())) > 50_000
    for name in ("old", "new"):
        with no_file_above(50_000):
            result = run(*arguments, tmp_path / name)
        refused(result, f"error: cannot write {tmp_path / name}: ", "File too large", "choose another place")
        assert tree(tmp_path) == before
        assert [path.name for path in tmp_path.iterdir()] == ["old"]


KILLED_WRITER = """
import signal, sys
from pathlib import Path
import bundle.place
from bundle.store import load_bundle
from export.formats.options import TritonOptions
from export.formats.triton import write_repository

def stop(staging, out):
    print("staged", flush=True)
    signal.pause()

bundle.place._put_in_place = stop
write_repository(load_bundle(Path(sys.argv[1])), Path(sys.argv[2]), TritonOptions())
"""


def test_a_writer_killed_before_the_rename_leaves_no_repository(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A real process, a real SIGKILL, when all is written and nothing renamed."""
    command = [sys.executable, "-c", KILLED_WRITER, str(tiny_bundle.path), str(tmp_path / "x")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"staged\n"
        process.send_signal(signal.SIGKILL)
    assert not (tmp_path / "x").exists()
