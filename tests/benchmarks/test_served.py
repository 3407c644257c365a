"""benchmarks.served: what the real service answers is counted as numpy counts it by hand."""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import benchmarks.report
from benchmarks import served
from benchmarks.labeled import LabeledFiles, read_files, share
from benchmarks.load.servers import running
from benchmarks.served import candidates, chance, known, main, nearest, read_data, start
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from export.bench.candidates import Candidate
from runtime.onnx import OnnxRuntime

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "service" / "static" / "samples"
FP32 = "onnxruntime fp32 on cpu"


@dataclass(frozen=True)
class Given:
    """Pieces of photos in the folders of their classes. vectors: [N, D] by pooling and keep, of length 1; names: each
    one's class.
    """

    folder: Path
    vectors: dict[tuple[str, float], NDArray[np.float64]]
    names: Sequence[str]


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    return load_bundle(ROOT / "models" / "default")


@pytest.fixture(scope="module")
def given(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Given:
    """Five images of the class that the bundle calls them, five of the third likeliest, six of none of its classes,
    which are of one photo, so that some are like each other.
    """
    assert bundle.labels is not None
    rng, root = np.random.default_rng(0), tmp_path_factory.mktemp("served") / "photos"
    photos = [Image.open(SAMPLES / f"{name}.jpg").convert("RGB") for name in ("cat", "rocket", "coffee")]
    names, files, pixels = list[str](), list[Path](), list[NDArray[np.uint8]]()
    runtime = OnnxRuntime(bundle)

    def encoded(images: NDArray[np.uint8], keep: float) -> dict[str, NDArray[np.float32]]:
        ids = np.tile(keep_ids(bundle.manifest.model.num_patches, keep), (len(images), 1))
        return runtime.run("encoder", {"images": images, "ids_keep": ids})

    for number in range(16):
        photo = photos[number % 3 if number < 10 else 1]
        left, top = (int(rng.integers(0, side - 128)) for side in photo.size)
        file = root.parent / f"{number:02d}.png"
        photo.crop((left, top, left + 128, top + 128)).save(file)
        pixels.append(preprocess(file.read_bytes(), bundle.manifest.preprocess, channels=3))
        found = encoded(pixels[-1][None], 1.0)
        logits = runtime.run("head", {"cls": found["cls"], "mean": found["mean"]})["logits"][0]
        place = np.argsort(-logits)[0 if number < 5 else 2]
        names.append(bundle.labels[place] if number < 10 else "none of them")
        (root / names[-1]).mkdir(parents=True, exist_ok=True)
        files.append(file.rename(root / names[-1] / file.name))
    vectors = {}
    for keep in (1.0, 0.5):
        outputs = encoded(np.stack(pixels), keep)
        for pooling in ("cls", "mean"):
            values = outputs[pooling].astype(np.float64)
            vectors[pooling, keep] = values / np.linalg.norm(values, axis=1, keepdims=True)
    runtime.close()
    return Given(root, vectors, names)


@pytest.fixture(scope="module")
def tables(given: Given, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """What the command wrote: rows, the header among them, by the header's first cell."""
    results = tmp_path_factory.mktemp("results")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmarks.report, "RESULTS", results)
        flags = ["--runtimes", "onnxruntime", "--device", "cpu", "--timed", "4", "--rounds", "1"]
        patch.setattr(sys, "argv", ["served.py", "--data", str(given.folder), *flags])
        patch.chdir(ROOT)
        main()
    text = (results / "served_maeve-tiny-64.md").read_text()
    assert str(given.folder.parent) not in text
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    cells = [[[cell.strip() for cell in line.split("|")[1:-1]] for line in block] for block in blocks]
    return {block[0][0]: [block[0], *block[2:]] for block in cells}


def counted(vectors: NDArray[np.float64], names: Sequence[str]) -> tuple[float, float]:
    """Of each image by all others in turn: how often the most alike is of its class, and how many of the ten are."""
    first, ten = 0, 0
    for own in range(len(names)):
        others = [(sum(a * b for a, b in zip(vectors[own], vectors[i], strict=True)), i) for i in range(len(names))]
        ranked = [i for _, i in sorted(others, reverse=True) if i != own][:10]
        first += names[ranked[0]] == names[own]
        ten += sum(names[i] == names[own] for i in ranked)
    return first / len(names), ten / len(names) / 10


def by_hand(names: Sequence[str]) -> float:
    pairs = [(a, b) for i, a in enumerate(names) for j, b in enumerate(names) if i != j]
    return sum(a == b for a, b in pairs) / len(pairs)


def check_neighbours(row: Sequence[str], vectors: NDArray[np.float64], names: Sequence[str]) -> None:
    expected, by_chance = counted(vectors, names), by_hand(names)
    assert row[2].startswith(f"{expected[0]:.1%} ± {100 * (expected[0] * (1 - expected[0]) / len(names)) ** 0.5:.1f}")
    assert row[4].startswith(f"{expected[1]:.1%} ± ")
    assert [row[3], row[5]] == [f"{value / by_chance:.1f}x" for value in expected]
    assert 0 < expected[0] < 1  # or nothing would be told apart


def test_neighbours_at_every_keep(given: Given, tables: dict[str, list[list[str]]]) -> None:
    header, *rows = tables["neighbours by mean"]
    assert header[1:] == ["keep", "nearest: same class", "of chance", "10 nearest: same class", "of chance"]
    assert [row[1] for row in rows] == ["1", "0.75", "0.5", "0.25"] * 3
    found = {row[1]: row for row in rows if row[0] == FP32}
    for keep in (1.0, 0.5):
        check_neighbours(found[f"{keep:g}"], given.vectors["mean", keep], given.names)
    assert found["1"] != found["0.5"]


def test_neighbours_by_both_poolings(given: Given, tables: dict[str, list[list[str]]]) -> None:
    rows = [row for row in tables["neighbours at keep 1"] if row[0] == FP32]
    assert [row[1] for row in rows] == ["cls", "mean"]
    for row in rows:
        check_neighbours(row, given.vectors[row[1], 1.0], given.names)


def test_accuracy_is_of_the_classes_that_the_bundle_knows(tables: dict[str, list[list[str]]]) -> None:
    """Ten images, five of which it calls by their class at once and five at the third guess; their error by hand."""
    header, *rows = tables["accuracy of /classify"]
    assert header[1:] == ["top-1", "top-5", "at keep 0.75, 0.5, 0.25"]
    assert rows[0] == [FP32, "50.0% ± 15.8", "100.0% ± 0.0", "-"]
    assert [row[0] for row in rows[1:]] == ["onnxruntime fp16 on cpu", "onnxruntime int8 on cpu"]
    facts = {row[0]: row[1] for row in tables[""]}
    assert facts["of a class that /classify knows"] == "10"


def test_likeness_and_speed_are_held_against_fp32_at_keep_1(given: Given, tables: dict[str, list[list[str]]]) -> None:
    whole, half = given.vectors["mean", 1.0], given.vectors["mean", 0.5]
    dots = [float(a @ b) for a, b in zip(whole, half, strict=True)]
    likeness = {(row[0], row[1]): [float(cell) for cell in row[2:]] for row in tables["likeness of mean"][1:]}
    assert likeness[FP32, "1"] == [1, 1]
    assert likeness[FP32, "0.5"] == pytest.approx([sum(dots) / len(dots), min(dots)], abs=2e-5)
    assert likeness["onnxruntime int8 on cpu", "1"][1] < 1
    speed = tables["speed"]
    assert speed[0][2] == f"to {FP32}, keep 1"
    assert [row[:2] for row in speed[1:]] == [list(key) for key in likeness]
    assert speed[1][2] == "1.00x"
    assert all(float(row[2][:-1]) > 0 and row[3] != "0" for row in speed[1:])


def test_the_facts(given: Given, tables: dict[str, list[list[str]]]) -> None:
    facts = {row[0]: row[1] for row in tables[""]}
    assert facts["images"] == f"16 of {len(set(given.names))} classes"
    assert facts["chance that two images are of one class"] == f"{by_hand(given.names):.2%}"
    assert facts["timed"].startswith("4 images in requests of 16 on 4 connections, 1 rounds")
    reasons = {(row[0], row[1]): row[2] for row in tables["not measured"][1:]}
    assert "does not compute in bf16" in reasons["onnxruntime", "bf16"]


def test_a_service_is_what_was_asked_for_and_remembers_nothing(bundle: Bundle) -> None:
    """One that does not start is named; the first has to."""
    right, wrong = Candidate("onnxruntime", "cpu", "int8"), Candidate("onnxruntime", "cuda:99", "fp32")
    with ExitStack() as stack:
        [service], [failed] = start([right, wrong], bundle, stack)
        with running(service.server):
            told = service.client.info()
    assert (told["runtime"]["device"], told["runtime"]["precision"]) == ("cpu", "int8")
    assert told["cache"] == {"memory": False, "redis": None}
    assert (failed.runtime, failed.precision) == ("onnxruntime", "fp32")
    assert "cuda:99 was asked for" in failed.reason


def test_all_is_held_against_fp32(bundle: Bundle) -> None:
    found, _ = candidates(bundle, Namespace(runtimes=["openvino"], device="cpu"))
    assert found[0] == Candidate("onnxruntime", "cpu", "fp32")
    with pytest.raises(SystemExit, match=r"nothing runs this bundle in fp32 here.*cuda:99 was asked for"):
        candidates(bundle, Namespace(runtimes=["onnxruntime"], device="cuda:99"))


def test_the_nearest_are_the_same_however_many_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    vectors = np.random.default_rng(0).normal(size=(23, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = [[i for i in np.argsort(-(vectors @ vectors[own])) if i != own][:4] for own in range(23)]
    for block in (5, 23, 1024):
        monkeypatch.setattr(served, "_BLOCK", block)
        assert nearest(vectors, 4).tolist() == expected


def test_chance_by_hand() -> None:
    """Of 2, 3 and 1 images: (2 * 1 + 3 * 2) of 6 * 5 ordered pairs."""
    assert chance(np.array([4, 4, 0, 0, 0, 2])) == pytest.approx(8 / 30)
    with pytest.raises(SystemExit, match="no two images have the same class"):
        chance(np.arange(5))


def test_a_part_of_the_data_has_images_of_every_class(given: Given) -> None:
    """A folder has its classes one after the other."""
    every = read_files(str(given.folder))
    assert len(every) == 16
    some = read_data(str(given.folder), 12)
    assert some.files == [every.files[int(place)] for place in np.linspace(0, 15, 12)]
    assert len(read_data(str(given.folder), 99)) == 16
    with pytest.raises(SystemExit, match="10 labeled images have no 10 neighbours each"):
        read_data(str(given.folder), 10)


def test_classes_are_known_by_their_names(bundle: Bundle) -> None:
    images = LabeledFiles([b"a", b"b", b"c"], np.array([1, 0, 1]), ("zebra crossing", "goldfish"))
    found = known(images, bundle)
    assert found is not None
    assert (found.files, found.labels.tolist()) == ([b"a", b"c"], [1, 1])
    assert known(images.at(np.array([1])), bundle) is None


def test_a_share_has_its_standard_error() -> None:
    assert share(np.array([True, False, False, False])) == "25.0% ± 21.7"  # the root of 0.25 * 0.75 / 4
