"""python -m export: how it refuses."""

from __future__ import annotations

import json
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import export.pipeline
import export.variants
from bundle.labels import encode_labels
from bundle.store import Bundle, load_bundle, write_bundle
from export.__main__ import main
from export.onnx import GraphFile
from mae import Classifier, ClassifierConfig, LinearHead, LinearHeadConfig, MaskedAutoencoder
from mae.weights import load_model, save_model
from tests.conftest import LABELS, TinyRuns

Run = Callable[..., tuple[int, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Call the command as the shell would; returns the exit status and stderr."""

    def run(*arguments: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["export", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            main()
        assert isinstance(caught.value.code, int)
        return caught.value.code, capsys.readouterr().err

    return run


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[Path], Path]:
    return lambda folder: Path(shutil.copytree(folder, tmp_path / "copies" / folder.name))


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def refused(result: tuple[int, str], *parts: str) -> None:
    """Exit status 2, one line that starts with "error:" and says all of `parts`."""
    code, stderr = result
    assert code == 2
    assert stderr.startswith("error: ")
    assert stderr.count("\n") == 1
    for part in parts:
        assert part in stderr


def test_a_graph_that_differs_leaves_nothing(
    run: Run, tiny_runs: TinyRuns, tiny_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A saboteur between torch and the file: the encoder of other weights."""
    other = GraphFile(tiny_bundle.graph_file("encoder"))
    model = load_model(tiny_runs.pretrained)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    save_model(model, tmp_path / "run")
    shutil.copy(tiny_runs.pretrained / "run.json", tmp_path / "run")
    monkeypatch.setattr(export.variants, "write_onnx", lambda *_: other)
    code, stderr = run(tmp_path / "run", "--out", tmp_path / "out")
    assert code == 1
    assert "error: encoder fp32: ONNX Runtime differs from torch by" in stderr
    assert "Traceback" not in stderr
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


# The pre-training run


def test_a_run_that_is_not_there(run: Run, tmp_path: Path) -> None:
    none, empty = tmp_path / "none", tmp_path / "empty"
    refused(run(none, "--out", tmp_path / "out"), f"there is no folder {none}; give the --out of a finished run")
    empty.mkdir()
    refused(run(empty, "--out", tmp_path / "out"), "empty is not a finished run: it has no run.json")
    assert list(tmp_path.iterdir()) == [empty]


@pytest.mark.parametrize("name", ["model.safetensors", "model.json"])
def test_a_run_without_its_weights(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path, name: str
) -> None:
    folder = copy(tiny_runs.pretrained)
    (folder / name).unlink()
    refused(run(folder, "--out", tmp_path / "out"), f"has no {name}", "finished")


@pytest.mark.parametrize("name", ["model.safetensors", "model.json", "run.json"])
@pytest.mark.parametrize("content", [b"", b"garbage", b"{}"])
def test_a_run_with_a_broken_file(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path, name: str, content: bytes
) -> None:
    folder = copy(tiny_runs.pretrained)
    (folder / name).write_bytes(content)
    refused(run(folder, "--out", tmp_path / "out"), str(folder))
    assert not (tmp_path / "out").exists()


def test_a_run_json_that_lacks_the_data_says_which_field(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    folder = copy(tiny_runs.pretrained)
    edit(folder / "run.json", data={"name": "x", "num_images": 3})
    refused(run(folder, "--out", tmp_path / "out"), "wrong or missing: data.pack_size")


def test_a_classifier_in_the_place_of_the_pretraining(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    refused(run(tiny_runs.finetuned, "--out", tmp_path / "out"), "is a finetune run; give the pre-training run first")


# The classifier


def test_a_pretraining_in_the_place_of_the_classifier(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    result = run(tiny_runs.pretrained, "--classifier", tiny_runs.pretrained, "--out", tmp_path / "out")
    refused(result, "knows no classes; give a finetune or probe run")


def test_labels_that_are_missing_or_of_another_number(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    folder = copy(tiny_runs.probe)
    (folder / "labels.json").write_bytes(encode_labels(["one", "two"]))
    refused(run(tiny_runs.pretrained, "--classifier", folder, "--out", tmp_path / "out"), "2 labels for 5 classes")
    (folder / "labels.json").unlink()
    refused(run(tiny_runs.pretrained, "--classifier", folder, "--out", tmp_path / "out"), "labels.json: cannot read")


def test_a_head_for_an_encoder_of_another_width(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    folder = copy(tiny_runs.probe)
    save_model(LinearHead(LinearHeadConfig(inputs=("cls",), dim=64, num_classes=len(LABELS))), folder)
    result = run(tiny_runs.pretrained, "--classifier", folder, "--out", tmp_path / "out")
    refused(result, "is a head for another encoder; give the probe of")


def test_a_head_for_an_encoder_of_other_weights(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path
) -> None:
    """It would fit, and classify at random."""
    folder = copy(tiny_runs.probe)
    edit(folder / "run.json", init_sha256="0" * 64)
    result = run(tiny_runs.pretrained, "--classifier", folder, "--out", tmp_path / "out")
    refused(result, "is a head for another encoder; give the probe of")


@pytest.mark.parametrize(
    "change",
    [{"image_size": (40, 32)}, {"patch_size": 16}, {"dim": 64}, {"depth": 1}, {"heads": 1}, {"mlp_ratio": 2.0}],
)
def test_a_classifier_of_another_shape(
    run: Run, copy: Callable[[Path], Path], tiny_runs: TinyRuns, tmp_path: Path, change: dict[str, Any]
) -> None:
    model = load_model(tiny_runs.pretrained)
    assert isinstance(model, MaskedAutoencoder)
    folder = copy(tiny_runs.finetuned)
    save_model(Classifier(ClassifierConfig(encoder=replace(model.config, **change), num_classes=5)), folder)
    (name,) = change
    refused(run(tiny_runs.pretrained, "--classifier", folder, "--out", tmp_path / "out"), f"has model.{name} ")


# The place


def test_an_existing_out_is_refused_before_any_work(run: Run, tiny_bundle: Bundle, tiny_runs: TinyRuns) -> None:
    refused(run(tiny_runs.pretrained, "--out", tiny_bundle.path), "exists", "--overwrite")
    assert load_bundle(tiny_bundle.path) == tiny_bundle


def test_overwrite_never_replaces_what_is_no_bundle(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").write_bytes(b"")
    refused(run(tiny_runs.pretrained, "--out", tmp_path, "--overwrite"), "is not a bundle; it is left alone")


def test_a_place_that_cannot_be_written(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    refused(run(tiny_runs.pretrained, "--out", tmp_path / "file" / "b"), "cannot write", "choose another place")


def test_a_name_that_no_bundle_may_have(run: Run, tiny_runs: TinyRuns, tmp_path: Path) -> None:
    refused(run(tiny_runs.pretrained, "--out", tmp_path / "out", "--name", "a/b"), "--name must be", "'a/b'")


@pytest.mark.parametrize(("max_file_bytes", "place"), [(50_000, "temporary"), (150_000, "out")])
def test_a_full_disk_leaves_nothing(
    run: Run, tiny_runs: TinyRuns, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, max_file_bytes: int, place: str
) -> None:
    """No file grows beyond so many bytes: the encoder's, or, once the graphs are there, the copy in the bundle."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    if place == "out":
        monkeypatch.setattr(export.pipeline, "write_bundle", lambda *a, **k: limited(50_000, write_bundle, *a, **k))
    code, stderr = limited(max_file_bytes, run, tiny_runs.pretrained, "--out", tmp_path / "out")
    assert code == 2
    error = stderr.splitlines()[-1]
    assert error.startswith(f"error: cannot write {'to ' if place == 'temporary' else ''}{tmp_path / place}: ")
    assert "File too large" in error
    assert "Traceback" not in stderr
    assert [path.name for path in tmp_path.iterdir()] == ["temporary"]
    assert not list((tmp_path / "temporary").glob("maeve-*"))


def limited(max_file_bytes: int, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (max_file_bytes, before[1]))
    try:
        return call(*arguments, **options)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_ctrl_c_is_one_line_and_leaves_nothing(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    """In the middle of torch's own export, which would make an error of its own of it."""
    line = [sys.executable, "-m", "export", str(tiny_runs.pretrained), "--out", str(tmp_path / "bundle")]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stderr is not None
        for said in process.stderr:
            if "exporting" in said:
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130
    assert rest == "stopped; nothing was written\n"
    assert list(tmp_path.iterdir()) == []
