"""python -m export.inspect: every fault is named, and every figure is the file's."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from bundle.digest import file_sha256, manifest_digest
from bundle.errors import BundleError
from bundle.store import Bundle, load_bundle
from export.inspect import inspect, main
from mae.weights import load_model
from tests.conftest import TinyRuns

ROOT = Path(__file__).parents[2]
FILES = ("encoder.onnx", "decoder.onnx", "head.onnx", "golden.npz", "labels.json")
Change = Callable[[onnx.ModelProto], None]


@pytest.fixture
def copy(tiny_bundle: Bundle, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_bundle.path, tmp_path / "bundle"))


def flip(file: Path) -> None:
    """One bit in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def rewrite(folder: Path, name: str, change: Change) -> None:
    """Change a graph and sign it again, as a careless tool would: the digest holds, and the graph is another."""
    model = onnx.load(folder / name)
    change(model)
    onnx.save(model, folder / name)
    sign(folder)


def sign(folder: Path, **fields: Any) -> None:
    """Make the manifest's hashes and digest those of the files as they are."""
    raw = {**json.loads((folder / "manifest.json").read_text()), **fields}
    raw["files"] = {name: file_sha256(folder / name) for name in raw["files"]}
    raw["digest"] = manifest_digest(raw)
    (folder / "manifest.json").write_text(json.dumps(raw))


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    monkeypatch.setattr(sys, "argv", ["inspect", *map(str, arguments)])
    try:
        main()
    except SystemExit as e:
        return int(e.code or 0)
    return 0


def test_a_sound_bundle(tiny_bundle: Bundle, tiny_runs: TinyRuns) -> None:
    found = inspect(tiny_bundle.path)
    assert found.faults == []
    assert [(g.graph, g.precision) for g in found.graphs] == [
        ("encoder", "fp32"),
        ("decoder", "fp32"),
        ("head", "fp32"),
    ]
    encoder, decoder, head = found.graphs
    weights = load_model(tiny_runs.pretrained).state_dict()
    for graph, prefix in ((encoder, "encoder."), (decoder, "decoder.")):
        own = [w for name, w in weights.items() if name.startswith(prefix)]
        # The graph holds equal vectors, such as biases of zeros, once.
        assert sum(w.numel() for w in own if w.ndim == 2) < graph.parameters <= sum(w.numel() for w in own) + 1
    assert head.parameters == 32 * 5 + 5
    assert encoder.size_bytes == (tiny_bundle.path / "encoder.onnx").stat().st_size
    assert encoder.ops["LayerNormalization"] == 2 * 2 + 1
    assert encoder.ops["Gelu"] == 2
    assert encoder.opset == tiny_bundle.manifest.graphs["encoder"].opset
    assert found.parity == tiny_bundle.manifest.parity


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_in_every_file(copy: Path, name: str) -> None:
    flip(copy / name)
    faults = inspect(copy).faults
    assert f"{name} was altered or damaged (sha256 differs)" in faults
    assert all(name in fault for fault in faults)  # and it is the only one blamed
    with pytest.raises(BundleError, match=name):
        load_bundle(copy)


def test_all_faults_are_listed(copy: Path) -> None:
    flip(copy / "encoder.onnx")
    (copy / "golden.npz").unlink()
    (copy / "notes.txt").write_text("")
    (copy / "engines").mkdir()
    manifest = json.loads((copy / "manifest.json").read_text())
    (copy / "manifest.json").write_text(json.dumps({**manifest, "name": "other"}))
    faults = inspect(copy).faults
    for expected in (
        "manifest.json was altered or damaged (its digest does not hold)",
        "encoder.onnx was altered or damaged (sha256 differs)",
        "cannot read golden.npz: No such file or directory",
        "notes.txt does not belong here: the manifest does not know it",
        "engines does not belong here: the manifest does not know it",
    ):
        assert expected in faults


def test_a_missing_graph_is_one_fault_and_hides_no_other(copy: Path) -> None:
    (copy / "decoder.onnx").unlink()
    found = inspect(copy)
    assert found.faults == ["cannot read decoder.onnx: No such file or directory"]
    assert [g.graph for g in found.graphs] == ["encoder", "head"]


@pytest.mark.parametrize(
    ("fields", "fault"),
    [
        ({"author": "me"}, "author: Extra inputs are not permitted"),
        ({"schema_version": 99}, "schema 99 is newer than"),
        ({"graphs": {}}, "graphs must contain 'encoder'"),
    ],
)
def test_a_manifest_of_another_schema(copy: Path, fields: dict[str, Any], fault: str) -> None:
    sign(copy, **fields)
    found = inspect(copy)
    assert found.manifest is None
    assert len(found.faults) == 1
    assert fault in found.faults[0]


def test_labels_of_another_number(copy: Path) -> None:
    (copy / "labels.json").write_text('["one"]')
    sign(copy)
    (fault,) = inspect(copy).faults
    assert "5 classes but 1 names in labels.json" in fault


# Graphs that are signed, and are not what the manifest says


def test_a_graph_that_the_checker_refuses(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.graph.node[0].input[0] = "nowhere"

    rewrite(copy, "head.onnx", change)
    (fault,) = inspect(copy).faults
    assert fault.startswith("head.onnx is not valid ONNX: ")
    assert "nowhere" in fault


def test_a_graph_that_is_none(copy: Path) -> None:
    (copy / "head.onnx").write_bytes(b"\xff" * 64)
    sign(copy)
    found = inspect(copy)
    (fault,) = found.faults
    assert fault.startswith("head.onnx is no ONNX graph that can be read: ")
    assert [g.graph for g in found.graphs] == ["encoder", "decoder"]


def test_a_graph_with_another_output(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (node,) = (node for node in model.graph.node if node.output[0] == "logits")
        node.output[0] = model.graph.output[0].name = "scores"

    rewrite(copy, "head.onnx", change)
    (fault,) = inspect(copy).faults
    assert "head (head.onnx) is not the graph that the manifest describes: it lacks the output 'logits'" in fault


def test_a_graph_for_one_image_alone(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        for value in (*model.graph.input, *model.graph.output):
            value.type.tensor_type.shape.dim[0].dim_value = 1

    rewrite(copy, "head.onnx", change)
    (fault,) = inspect(copy).faults
    assert "its input 'mean' is float32 [1, 32], and should be float32 [N, 32]" in fault


def test_a_graph_of_another_opset(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        model.opset_import[0].version = 18

    rewrite(copy, "head.onnx", change)
    assert inspect(copy).faults == ["head.onnx is of opset 18, the manifest says 20"]


def test_weights_that_are_stored_twice(copy: Path) -> None:
    """Once within a file and once in another: three places of one array."""
    array = np.random.default_rng(0).random((64, 64), dtype=np.float32)  # 16 kB

    def store(*names: str) -> Change:
        return lambda model: model.graph.initializer.extend(numpy_helper.from_array(array, name) for name in names)

    assert inspect(copy).repeated == []
    rewrite(copy, "head.onnx", store("a", "b"))
    rewrite(copy, "decoder.onnx", store("c"))
    (repeated,) = inspect(copy).repeated
    assert repeated.size_bytes == array.nbytes
    assert sorted(repeated.places) == ["decoder.onnx: c", "head.onnx: a", "head.onnx: b"]


def test_an_array_that_is_cut_short(copy: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        tensor.raw_data = tensor.raw_data[:-4]

    rewrite(copy, "head.onnx", change)
    faults = inspect(copy).faults
    assert faults
    assert all(fault.startswith("head.onnx ") for fault in faults)
    assert any("an array that cannot be read" in fault for fault in faults)


# Weights beside a graph


def external(location: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        tensor = max(model.graph.initializer, key=lambda tensor: len(tensor.raw_data))
        onnx.external_data_helper.set_external_data(tensor, location)
        tensor.ClearField("raw_data")

    return change


@pytest.mark.parametrize("location", ["stranger.weights", "../outside.weights", "labels.json"])
def test_weights_in_a_file_that_the_manifest_does_not_name(copy: Path, location: str) -> None:
    """Whether it exists or not: nothing has checked what it holds."""
    rewrite(copy, "head.onnx", external(location))
    expected = f"head.onnx has weights in '{location}', the manifest says no other file"
    assert inspect(copy).faults == [expected]
    (copy.parent / "outside.weights").write_bytes(bytes(100_000))
    assert inspect(copy).faults == [expected]


def named_weights(copy: Path) -> None:
    """The manifest says that the head's weights are in head.weights."""
    raw = json.loads((copy / "manifest.json").read_text())
    raw["graphs"]["head"]["weights"] = {"fp32": "head.weights"}
    sign(copy, graphs=raw["graphs"], files={**raw["files"], "head.weights": ""})


def test_named_weights_that_a_graph_does_not_use(copy: Path) -> None:
    (copy / "head.weights").write_bytes(b"")
    named_weights(copy)
    assert inspect(copy).faults == ["head.onnx has weights in no other file, the manifest says 'head.weights'"]


def test_a_missing_file_of_weights(copy: Path) -> None:
    model = onnx.load(copy / "head.onnx")
    onnx.save(model, copy / "head.onnx", save_as_external_data=True, location="head.weights", size_threshold=64)
    named_weights(copy)
    found = inspect(copy)
    assert found.faults == []
    assert found.graphs[-1].size_bytes == sum((copy / f"head.{kind}").stat().st_size for kind in ("onnx", "weights"))
    (copy / "head.weights").unlink()
    faults = inspect(copy).faults
    assert faults[0] == "cannot read head.weights: No such file or directory"
    assert all("head.weights" in fault for fault in faults)


# Golden arrays


def test_golden_arrays_are_the_graphs(copy: Path) -> None:
    with np.load(copy / "golden.npz") as file:
        golden = dict(file)
    del golden["head.out.logits"]
    golden["encoder.out.cls"] = np.full_like(golden["encoder.out.cls"], np.inf)
    golden["decoder.in.tokens"] = golden["decoder.in.tokens"][:, :-1]
    np.savez(copy / "golden.npz", **golden)
    sign(copy)
    faults = inspect(copy).faults
    assert "golden.npz: it lacks head.out.logits" in faults
    assert "golden.npz: encoder.out.cls has values that are not finite" in faults
    assert all(fault.startswith("golden.npz: ") for fault in faults)
    (copy / "golden.npz").write_bytes(b"no arrays")
    sign(copy)
    (fault,) = inspect(copy).faults
    assert fault.startswith("golden.npz cannot be read: ")


# The command


def test_what_is_printed(
    tiny_bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, tiny_bundle.path) == 0
    printed = capsys.readouterr().out
    assert max(map(len, printed.splitlines())) <= 100
    for part in (tiny_bundle.manifest.digest, "encoder fp32", "decoder.onnx", "LayerNorm", "classes", "abc123"):
        assert part in printed
    assert f"all {len(FILES) + 1} files are as they were written" in " ".join(printed.split())


def test_a_graph_with_every_figure_fits_100_columns(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parity = json.loads((copy / "manifest.json").read_text())["parity"]
    images = {"num_images": 64, "max_abs": 0.02, "cosine_min": 0.9991, "cosine_mean": 0.9995, "top1_agreement": 0.984}
    parity["head.fp32"] |= {"cosine_mean": 0.9997, "min_cosine": 0.999, "images": images}
    sign(copy, parity=parity)
    assert run(monkeypatch, copy) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 100
    made_up, real = (line.split() for line in lines if line.startswith(" head fp32") and "0.999" in line)
    assert made_up[-2:] == ["0.999700", "0.999000"]
    assert real == ["head", "fp32", "64", "2.0e-02", "0.999100", "0.999500", "98.4%"]


def test_a_graph_that_runs_in_fp32_behind_int8_has_a_row(
    copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    parity = json.loads((copy / "manifest.json").read_text())["parity"]
    parity["head.int8"] = {**parity["head.fp32"], "max_abs": 0.125}
    sign(copy, parity=parity)
    assert run(monkeypatch, copy) == 0
    (row,) = (line.split() for line in capsys.readouterr().out.splitlines() if "head int8" in line)
    assert row[:3] == ["head", "int8", "1.2e-01"]
    assert run(monkeypatch, copy, "--json") == 0
    document = json.loads(capsys.readouterr().out)
    assert list(document["parity"]) == ["encoder.fp32", "decoder.fp32", "head.fp32", "head.int8"]
    assert document["parity"]["head.int8"]["max_abs"] == 0.125


def test_the_document_is_json(copy: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    flip(copy / "labels.json")
    assert run(monkeypatch, copy, "--json") == 1
    document = json.load(io.StringIO(capsys.readouterr().out))
    assert document["sound"] is False
    assert "labels.json was altered or damaged (sha256 differs)" in document["faults"]
    assert document["manifest"]["name"] == "tiny"
    assert {g["file"]: g["size_bytes"] for g in document["graphs"]} == {
        name: (copy / name).stat().st_size for name in FILES if name.endswith(".onnx")
    }


def test_exit_statuses(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    flip(copy / "encoder.onnx")
    assert run(monkeypatch, copy) == 1
    assert "fault: encoder.onnx was altered" in capsys.readouterr().out
    assert run(monkeypatch, tmp_path / "none") == 2
    error = capsys.readouterr().err
    assert (
        error
        == f"error: {tmp_path / 'none'} is not a folder; give the folder of a bundle, as python -m export writes it\n"
    )
    (tmp_path / "empty").mkdir()
    assert run(monkeypatch, tmp_path / "empty") == 1
    assert "is not a bundle: it has no manifest.json" in " ".join(capsys.readouterr().out.split())


def test_a_full_disk_under_the_output_is_one_line(tiny_bundle: Bundle) -> None:
    with Path("/dev/full").open("w") as full:
        line = [sys.executable, "-m", "export.inspect", str(tiny_bundle.path)]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT, timeout=60)
    assert (done.returncode, done.stderr) == (2, "error: [Errno 28] No space left on device\n")
