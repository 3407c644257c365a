"""A bundle is believed only when every byte holds, and appears whole or not at all."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bundle.digest import manifest_digest
from bundle.errors import BundleError
from bundle.manifest import SCHEMA_VERSION
from bundle.store import Bundle, load_bundle, write_bundle

ENCODER = {
    "files": {"fp32": "encoder.onnx"},
    "inputs": [
        {"name": "images", "dtype": "uint8", "shape": ["N", 16, 16, 3]},
        {"name": "ids_keep", "dtype": "int64", "shape": ["N", "K"]},
    ],
    "outputs": [{"name": "cls", "dtype": "float32", "shape": ["N", 8]}],
    "opset": 20,
}
HEAD = {
    "files": {"fp32": "head.onnx"},
    "inputs": [{"name": "cls", "dtype": "float32", "shape": ["N", 8]}],
    "outputs": [{"name": "logits", "dtype": "float32", "shape": ["N", 2]}],
    "opset": 20,
}
FIELDS: dict[str, Any] = {
    "name": "toy",
    "model": {
        "image_size": (16, 16),
        "patch_size": 8,
        "channels": 3,
        "dim": 8,
        "depth": 1,
        "heads": 1,
        "mlp_ratio": 4,
        "decoder": None,
    },
    "pixel_target": "raw",
    "preprocess": {"resize": (18, 18), "crop": (16, 16), "mean": (0.5,) * 3, "std": (0.2,) * 3},
    "pooling": "cls",
    "graphs": {"encoder": ENCODER, "head": HEAD},
    "num_classes": 2,
    "parity": {"encoder.fp32": {"max_abs": 1e-6, "cosine_min": 1.0, "tolerance": 1e-4}},
    "provenance": {"dataset": "none", "num_images": 0, "epochs": 0, "maeve_version": "0"},
}
FILES: dict[str, Path | bytes] = {
    "encoder.onnx": b"encoder" * 100,
    "head.onnx": b"head",
    "labels.json": b'["ham", "spam"]',
}


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return write_bundle(tmp_path / "toy", FIELDS, FILES)


def edit(bundle: Bundle, change: Callable[[dict[str, Any]], object], *, sign: bool = True) -> None:
    """Change the manifest; with `sign`, as somebody would who can compute the digest, too."""
    file = bundle.path / "manifest.json"
    raw = json.loads(file.read_text())
    change(raw)
    if sign:
        raw["digest"] = manifest_digest(raw)
    file.write_text(json.dumps(raw))


# Reading what was written


def test_what_is_written_loads_the_same(bundle: Bundle) -> None:
    loaded = load_bundle(bundle.path)
    assert loaded == bundle
    assert loaded.labels == ("ham", "spam")
    assert loaded.manifest.preprocess.resize == (18, 18)
    assert loaded.graph_file("encoder").read_bytes() == FILES["encoder.onnx"]


def test_a_bundle_can_move(bundle: Bundle, tmp_path: Path) -> None:
    moved = Path(shutil.move(bundle.path, tmp_path / "elsewhere"))
    assert load_bundle(moved).manifest == bundle.manifest


def test_a_file_that_the_manifest_does_not_name_is_no_concern(bundle: Bundle) -> None:
    (bundle.path / "README.md").write_text("notes")
    assert load_bundle(bundle.path) == bundle


def test_the_digest_is_of_the_content_not_of_the_time_or_place(bundle: Bundle, tmp_path: Path) -> None:
    again = write_bundle(tmp_path / "again", {**FIELDS, "created_at": "2020-01-01T00:00:00Z"}, FILES)
    other = write_bundle(tmp_path / "other", FIELDS, {**FILES, "head.onnx": b"another"})
    assert again.manifest.digest == bundle.manifest.digest
    assert other.manifest.digest != bundle.manifest.digest


def test_a_missing_graph_or_precision_is_named(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match="no decoder graph; there are encoder, head"):
        bundle.graph_file("decoder")
    with pytest.raises(BundleError, match="no int8 encoder graph; there are fp32"):
        bundle.graph_file("encoder", "int8")


def test_missing_golden_arrays_are_said(bundle: Bundle) -> None:
    with pytest.raises(BundleError, match=r"no golden\.npz"):
        bundle.golden()


@pytest.mark.parametrize("text", ["[" * 100_000, '{"name": ' * 100_000])
def test_a_manifest_of_nothing_but_brackets(bundle: Bundle, text: str) -> None:
    (bundle.path / "manifest.json").write_text(text)
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: "):
        load_bundle(bundle.path)


def test_a_manifest_with_nan_has_no_digest(bundle: Bundle) -> None:
    edit(bundle, lambda raw: raw["provenance"].update(metrics={"loss": float("nan")}), sign=False)
    with pytest.raises(BundleError, match=r"manifest\.json: cannot be read: .*not JSON compliant"):
        load_bundle(bundle.path)


# Refusing what was altered


@pytest.mark.parametrize("name", sorted(FILES))
@pytest.mark.parametrize("place", [0, -1])
def test_one_flipped_bit_anywhere_is_noticed(bundle: Bundle, name: str, place: int) -> None:
    file = bundle.path / name
    content = bytearray(file.read_bytes())
    content[place] ^= 1
    file.write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} was altered or damaged"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("name", sorted(FILES))
def test_a_missing_or_short_file_is_noticed(bundle: Bundle, name: str) -> None:
    file = bundle.path / name
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(BundleError, match=f"{name} was altered or damaged"):
        load_bundle(bundle.path)
    file.unlink()
    with pytest.raises(BundleError, match=f"cannot read {name}: No such file"):
        load_bundle(bundle.path)


def test_an_altered_manifest_is_noticed(bundle: Bundle) -> None:
    edit(bundle, lambda raw: raw["preprocess"].update(mean=[0.4] * 3), sign=False)
    with pytest.raises(BundleError, match="its digest does not hold"):
        load_bundle(bundle.path)


def test_an_altered_digest_is_noticed(bundle: Bundle) -> None:
    edit(bundle, lambda raw: raw.update(digest="0" * 64), sign=False)
    with pytest.raises(BundleError, match="its digest does not hold"):
        load_bundle(bundle.path)


def test_an_altered_time_is_not(bundle: Bundle) -> None:
    edit(bundle, lambda raw: raw.update(created_at="2001-01-01T00:00:00Z"), sign=False)
    assert load_bundle(bundle.path).manifest.digest == bundle.manifest.digest


def test_a_newer_schema_says_update(bundle: Bundle) -> None:
    edit(bundle, lambda raw: raw.update(schema_version=SCHEMA_VERSION + 1, surprise=True))
    with pytest.raises(BundleError, match=r"schema \d is newer than \d, the newest known here; update"):
        load_bundle(bundle.path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw.update(surprise=1), "surprise: Extra inputs"),
        (lambda raw: raw["model"].update(surprise=1), "model.surprise: Extra inputs"),
        (lambda raw: raw.pop("pooling"), "pooling: Field required"),
        (lambda raw: raw.update(schema_version=0), "schema_version: Input should be 1"),
        (lambda raw: raw["model"].update(patch_size=7), "not a multiple of patch_size 7"),
        (lambda raw: raw["preprocess"].update(resize=[8, 8]), "larger than resize"),
        (lambda raw: raw["preprocess"].update(crop=[8, 8]), "differs from image_size"),
        (lambda raw: raw["preprocess"].update(std=[0.5]), "must have 3 values each"),
        (lambda raw: raw["graphs"].pop("encoder"), "must contain 'encoder'"),
        (lambda raw: raw["graphs"].update(classifier=HEAD), "not both"),
        (lambda raw: raw.update(num_classes=None), "num_classes must be set exactly when"),
        (lambda raw: raw["files"].pop("head.onnx"), "without a sha256: \\['head.onnx'\\]"),
        (lambda raw: raw.update(num_classes=3), "3 classes but 2 names in labels.json"),
        (lambda raw: raw["files"].pop("labels.json"), "2 classes but 0 names in labels.json"),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(
    bundle: Bundle, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=message):
        load_bundle(bundle.path)


BAD_NAMES = ["../x", "/etc/passwd", "a/b", "..", ".", "", ".hidden", "a\\b", "a\0b", "x\n", "x" * 200]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_no_manifest_points_outside_of_its_folder(bundle: Bundle, name: str) -> None:
    def point_outside(raw: dict[str, Any]) -> None:
        raw["files"][name] = raw["files"]["encoder.onnx"]
        raw["graphs"]["encoder"]["files"]["fp32"] = name

    edit(bundle, point_outside)
    with pytest.raises(BundleError, match=r"graphs\.encoder\.files\.fp32: String should"):
        load_bundle(bundle.path)


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"3", b"null", b"\xff\xfe", b'{"schema_version": "2"}'])
def test_a_manifest_that_is_none_is_refused_in_one_line(bundle: Bundle, content: bytes) -> None:
    (bundle.path / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError) as caught:
        load_bundle(bundle.path)
    assert "\n" not in str(caught.value)


def test_what_is_no_bundle_says_how_to_get_one(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for name, fault in ((".", "is not a bundle"), ("missing", "is no folder"), ("file", "is no folder")):
        with pytest.raises(BundleError, match=f"{fault}.*python -m export"):
            load_bundle(tmp_path / name)


# Writing


def test_files_may_be_paths(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(b"weights")
    bundle = write_bundle(tmp_path / "b", FIELDS, {**FILES, "encoder.onnx": tmp_path / "weights"})
    assert bundle.graph_file("encoder").read_bytes() == b"weights"


def test_missing_parents_are_made_and_nothing_is_left_beside(tmp_path: Path) -> None:
    write_bundle(tmp_path / "a" / "b", FIELDS, FILES)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["b"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_an_existing_folder_that_is_no_bundle_is_never_touched(tmp_path: Path, overwrite: bool) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_bytes(b"cat")
    with pytest.raises(BundleError, match="exists"):
        write_bundle(tmp_path / "photos", FIELDS, FILES, overwrite=overwrite)
    assert [p.name for p in tmp_path.rglob("*")] == ["photos", "cat.jpg"]


def test_an_existing_bundle_is_replaced_only_when_asked(bundle: Bundle) -> None:
    files = {**FILES, "head.onnx": b"new"}
    with pytest.raises(BundleError, match="exists; choose another place, or overwrite it"):
        write_bundle(bundle.path, FIELDS, files)
    assert load_bundle(bundle.path) == bundle
    new = write_bundle(bundle.path, FIELDS, files, overwrite=True)
    assert load_bundle(bundle.path) == new != bundle
    assert list(bundle.path.parent.iterdir()) == [bundle.path]


def test_a_link_to_a_bundle_is_replaced_not_followed(bundle: Bundle, tmp_path: Path) -> None:
    link = tmp_path / "current"
    link.symlink_to(bundle.path)
    write_bundle(link, FIELDS, {**FILES, "head.onnx": b"new"}, overwrite=True)
    assert not link.is_symlink()
    assert load_bundle(bundle.path) == bundle


@pytest.mark.parametrize(
    ("fields", "files", "message"),
    [
        ({**FIELDS, "name": "a b"}, FILES, "not a bundle: name"),
        (FIELDS, {k: v for k, v in FILES.items() if k != "head.onnx"}, "without a sha256"),
        (FIELDS, {**FILES, "../x": b""}, "files.../x"),
        (FIELDS, {**FILES, "labels.json": b'["one"]'}, "2 classes but 1 names"),
        (FIELDS, {**FILES, "encoder.onnx": Path("/nowhere/encoder.onnx")}, "No such file"),
        ({**FIELDS, "parity": {"encoder.fp32": {"max_abs": 0, "cosine_min": 2, "tolerance": 0}}}, FILES, "parity"),
    ],
)
def test_what_makes_no_bundle_leaves_nothing(
    tmp_path: Path, fields: dict[str, Any], files: dict[str, Path | bytes], message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        write_bundle(tmp_path / "b", fields, files)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(BundleError, match=r"cannot write .*file/b: .*file is not a folder.*; choose another"):
        write_bundle(tmp_path / "file" / "b", FIELDS, FILES)


KILLED_WRITER = """
import os, signal, sys
from pathlib import Path
import bundle.place
import bundle.store
from tests.bundle.test_store import FIELDS, FILES

def stop(staging, out):
    print("staged", flush=True)
    signal.pause()

bundle.place._put_in_place = stop
bundle.store.write_bundle(Path(sys.argv[1]), FIELDS, FILES, overwrite=True)
"""


@pytest.mark.parametrize("existing", [False, True])
def test_a_writer_killed_before_the_rename_changes_nothing(tmp_path: Path, existing: bool) -> None:
    """A real process, a real SIGKILL, at the worst moment: all is written, nothing is renamed."""
    out = tmp_path / "out"
    before = write_bundle(out, FIELDS, {**FILES, "head.onnx": b"old"}) if existing else None
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_WRITER, out], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"staged\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    if before is None:
        with pytest.raises(BundleError, match=r"is not a bundle|is no folder"):
            load_bundle(out)
    else:
        assert load_bundle(out) == before
    assert load_bundle(write_bundle(out, FIELDS, FILES, overwrite=True).path)  # the leftovers are in nobody's way


FULL_DISK = """
import resource, sys
from pathlib import Path
from bundle.errors import BundleError
from bundle.store import write_bundle
from tests.bundle.test_store import FIELDS, FILES

limit = int(sys.argv[2])
resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
try:
    write_bundle(Path(sys.argv[1]), FIELDS, FILES, overwrite=True)
except BundleError as e:
    print(e)
"""


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("max_file_bytes", [100, 1000])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, existing: bool, max_file_bytes: int) -> None:
    """A real limit, met by a graph of 700 bytes or by the manifest alone, which is the greatest file here."""
    out = tmp_path / "out"
    before = write_bundle(out, FIELDS, {**FILES, "head.onnx": b"old"}) if existing else None
    command = [sys.executable, "-c", FULL_DISK, str(out), str(max_file_bytes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    assert done.stdout == f"cannot write {out}: File too large; choose another place\n"
    assert [p.name for p in tmp_path.iterdir()] == (["out"] if existing else [])
    if before is not None:
        assert load_bundle(out) == before


KILLED_COPY = """
import shutil, signal, sys
from pathlib import Path
import bundle.store
from tests.bundle.test_store import FIELDS

def half(source, target):
    target.write_bytes(source.read_bytes()[:350])
    print("half", flush=True)
    signal.pause()

bundle.store.shutil.copyfile = half
source = Path(sys.argv[1]) / "source"
files = {"encoder.onnx": source, "head.onnx": b"head", "labels.json": b'["ham", "spam"]'}
bundle.store.write_bundle(Path(sys.argv[1]) / "out", FIELDS, files)
"""


def test_a_writer_killed_in_the_middle_of_a_file_leaves_nothing_that_loads(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"encoder" * 100)
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_COPY, tmp_path], stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = [p for p in tmp_path.iterdir() if p.name != "source"]
    assert [p.name.startswith(".out.") for p in left] == [True]  # hidden, and no bundle either
    for folder in (tmp_path / "out", left[0]):
        with pytest.raises(BundleError, match=r"is not a bundle|is no folder"):
            load_bundle(folder)
