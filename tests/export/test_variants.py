"""Which variants a bundle gets: fp16 as asked for, int8 by what it is worth on real images."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import export.variants
from bundle.manifest import GraphName
from bundle.store import Bundle
from export.__main__ import summary
from export.config import ExportConfig, Int8
from export.errors import ExportError, ParityError
from export.pipeline import export_run
from export.plan import plan_graphs
from export.speed import Timing, fastest
from export.variants import Material, Variant, make_float, make_int8
from export.verify import LIMITS, image_inputs, make_cases, make_image_cases
from mae import LinearHead, MaskedAutoencoder
from mae.weights import load_model
from runtime.onnx import OnnxRuntime
from runtime.selfcheck import prove
from tests.conftest import TinyRuns

NUM_IMAGES = 64


def pictures(n: int) -> np.ndarray:
    """u8 [n, 32, 32, 3]: waves of a colour, slope and width of their own."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:32, :32]
    color, (slope, width, phase) = rng.uniform(60, 255, (n, 1, 1, 3)), rng.uniform(0.2, 2, (3, n, 1, 1))
    wave = 0.5 + 0.5 * np.sin((x + slope * y) / (4 * width) + 3 * phase)[..., None]  # [n, 32, 32, 1]
    images: np.ndarray = (wave * color).astype(np.uint8)
    return images


@pytest.fixture(scope="module")
def run(tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny run, with the samples that a pre-training leaves."""
    folder = Path(shutil.copytree(tiny_runs.pretrained, tmp_path_factory.mktemp("sampled") / "tiny"))
    np.savez_compressed(folder / "samples.npz", images=pictures(NUM_IMAGES))
    return folder


def stopwatch(**ms: float) -> Callable[[Mapping[str, Bundle], np.ndarray], dict[str, Timing]]:
    """Times as they are given, for the drafts that there are."""
    return lambda drafts, _: {name: Timing(ms[name], "onnxruntime") for name in drafts}


@pytest.fixture(scope="module")
def whole(run: Path, tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Bundle, list[str]]:
    """Every precision, static being the fastest; and what was said meanwhile."""
    lines: list[str] = []
    out = tmp_path_factory.mktemp("variants") / "bundle"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export.variants, "fastest", stopwatch(fp32=3, dynamic=2, static=1))
        config = ExportConfig(run=run, classifier=tiny_runs.probe, out=out, precision="fp32,fp16,int8")
        return export_run(config, lines.append), lines


@pytest.fixture(scope="module")
def made(run: Path, tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory) -> tuple[Material, Variant]:
    """What int8 is made of: the networks, the images, and the graphs in fp32."""
    model, head = load_model(run), load_model(tiny_runs.probe)
    assert isinstance(model, MaskedAutoencoder)
    assert isinstance(head, LinearHead)
    plans = plan_graphs(model, head)
    images = pictures(NUM_IMAGES)
    material = Material(
        plans=plans,
        cases=make_cases(model.config, plans[0]),
        image_cases=make_image_cases(plans, images[::2], 16),
        calibration=list(image_inputs(images[1::2], 16)),
        folder=tmp_path_factory.mktemp("fp32"),
        draft=lambda *_: None,  # type: ignore[arg-type]
        progress=lambda _: None,
    )
    return material, make_float(material, "fp32")


@pytest.fixture
def int8(
    made: tuple[Material, Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., tuple[Variant | None, list[str]]]:
    """Make int8 where the encoders take so many ms; what came of it, and what was said."""

    def int8(choice: Int8 = "auto", **ms: float) -> tuple[Variant | None, list[str]]:
        monkeypatch.setattr(export.variants, "fastest", stopwatch(**(ms or {"fp32": 3, "dynamic": 1, "static": 2})))
        lines: list[str] = []
        material, fp32 = made
        return make_int8(replace(material, folder=tmp_path, progress=lines.append), fp32, choice), lines

    return int8


def test_every_graph_has_its_files(whole: tuple[Bundle, list[str]]) -> None:
    graphs = whole[0].manifest.graphs
    assert graphs["encoder"].files == {
        "fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx", "int8": "encoder.int8.onnx",
    }  # fmt: skip
    assert set(graphs["head"].files) == {"fp32", "fp16"}  # as small as it is
    assert (graphs["encoder"].quantization, graphs["head"].quantization) == ("static", None)
    sizes = {name: whole[0].graph_file("encoder", name).stat().st_size for name in ("fp32", "fp16", "int8")}
    assert sizes["int8"] < sizes["fp16"] < 0.6 * sizes["fp32"]


def test_the_manifest_says_how_far_each_variant_lies(whole: tuple[Bundle, list[str]]) -> None:
    parity = whole[0].manifest.parity
    assert {f"{graph}.{precision}" for graph in ("encoder", "decoder", "head") for precision in LIMITS} == set(parity)
    for name, found in parity.items():
        assert found.images is not None, name
        assert found.images.num_images == NUM_IMAGES / 2  # the others calibrated
        assert 0.999 <= found.images.cosine_min <= found.images.cosine_mean <= 1 + 1e-9, name
        assert (found.images.top1_agreement is not None) == name.startswith("head")
    off = [parity[f"encoder.{precision}"].max_abs for precision in ("fp32", "fp16", "int8")]
    assert off[0] < off[1] / 100 < off[2] / 100


def test_the_head_s_figures_are_those_behind_the_encoder_of_its_precision(whole: tuple[Bundle, list[str]]) -> None:
    """Recomputed with the bundle's own runtimes: fp32 stands for torch, which it lies within 1e-5 of."""
    images = pictures(NUM_IMAGES)[::2]
    ids = np.tile(np.arange(16), (len(images), 1))
    logits = {}
    for precision in ("fp32", "int8"):
        runtime = OnnxRuntime(whole[0], precision, lanes=1)
        encoded = runtime.run("encoder", {"images": images, "ids_keep": ids})
        logits[precision] = runtime.run("head", {"mean": encoded["mean"]})["logits"]
    found = whole[0].manifest.parity["head.int8"].images
    assert found is not None
    assert found.max_abs == pytest.approx(np.abs(logits["int8"] - logits["fp32"]).max(), abs=1e-5)
    same = logits["int8"].argmax(axis=1) == logits["fp32"].argmax(axis=1)
    assert found.top1_agreement == pytest.approx(same.mean())


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_variant_passes_the_service_s_own_check(whole: tuple[Bundle, list[str]], precision: Any) -> None:
    prove(whole[0], OnnxRuntime(whole[0], precision, lanes=1))


def test_the_summary_has_a_row_for_each(whole: tuple[Bundle, list[str]]) -> None:
    rows = [line.split() for line in summary(whole[0]).splitlines()[3:]]
    assert [row[:3] for row in rows][:3] == [
        ["encoder", "fp32", "encoder.onnx"], ["decoder", "fp32", "decoder.onnx"], ["head", "fp32", "head.onnx"],
    ]  # fmt: skip
    assert len(rows) == 9
    by_name = {(row[0], row[1]): row for row in rows}
    assert by_name["encoder", "int8"][-1] == "static"
    assert by_name["head", "int8"][2] == "head.onnx"  # which runs behind it
    assert by_name["head", "fp32"][-2:] == ["100.0", "%"]


def test_every_line_says_when(whole: tuple[Bundle, list[str]]) -> None:
    seconds = [float(line.split(" s  ")[0]) for line in whole[1]]
    assert seconds == sorted(seconds)
    assert any("int8: static (fp32 3.0 ms (onnxruntime), dynamic 2.0 ms" in line for line in whole[1])


# What becomes of int8

MakeInt8 = Callable[..., tuple[Variant | None, list[str]]]


def test_the_faster_way_is_taken(int8: MakeInt8) -> None:
    variant, lines = int8(fp32=3, dynamic=1, static=2)
    assert variant is not None
    assert variant.quantization == "dynamic"
    assert set(variant.files) == {"encoder", "decoder"}
    assert "int8: dynamic (fp32 3.0 ms (onnxruntime), dynamic 1.0 ms (onnxruntime), " in lines[4]
    other, _ = int8(fp32=3, dynamic=2, static=1)
    assert other is not None
    assert other.quantization == "static"
    close, _ = int8(fp32=3, dynamic=1, static=1.05)
    assert close is not None
    assert close.quantization == "static"  # which every engine runs


def test_no_int8_that_is_no_faster(int8: MakeInt8) -> None:
    variant, lines = int8(fp32=1, dynamic=1, static=2)
    assert variant is None
    assert lines[-1].startswith("int8: left out, since it is no faster than fp32 on this machine (fp32 1.0 ms")


def strict(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(LIMITS, "int8", replace(LIMITS["int8"], cosine_images=1.0))


def test_no_int8_that_is_not_close(int8: MakeInt8, monkeypatch: pytest.MonkeyPatch) -> None:
    strict(monkeypatch)
    variant, lines = int8()
    assert variant is None
    assert lines[-1] == "int8: left out, since no way of it is close enough to torch on real images"
    assert [line.split(": has a")[0] for line in lines if "to torch on an image" in line] == [
        "encoder int8 (dynamic)", "encoder int8 (static)",
    ]  # fmt: skip


def test_a_way_that_is_asked_for_must_hold(int8: MakeInt8, monkeypatch: pytest.MonkeyPatch) -> None:
    variant, _ = int8("static", fp32=1, dynamic=9, static=9)
    assert variant is not None
    assert variant.quantization == "static"
    strict(monkeypatch)
    with pytest.raises(
        ParityError, match=r"encoder int8 \(static\) has a cosine of .*; nothing was written; leave out --int8 static"
    ):
        int8("static")


def test_a_decoder_that_does_not_hold_stays(int8: MakeInt8, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = export.variants._problem

    def problem(material: Any, runs: Any, graph: GraphName) -> str:
        return "is bad" if graph == "decoder" else judge(material, runs, graph)

    monkeypatch.setattr(export.variants, "_problem", problem)
    variant, lines = int8()
    assert variant is not None
    assert "decoder int8 (dynamic): left in fp32, since it is bad" in lines
    assert set(variant.files) == {"encoder"}
    assert variant.parity["decoder"].images is not None  # in fp32, behind the int8 encoder


def test_int8_needs_real_images(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    config = ExportConfig(run=tiny_runs.pretrained, out=tmp_path / "out", precision="int8", int8="dynamic")
    with pytest.raises(ExportError, match=r"--int8 dynamic needs real images, .*; give --images"):
        export_run(config)
    assert list(tmp_path.iterdir()) == []


def test_a_way_of_int8_without_int8_is_a_contradiction(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    config = ExportConfig(run=tiny_runs.pretrained, out=tmp_path / "out", precision="fp32", int8="dynamic")
    with pytest.raises(ExportError, match="--int8 dynamic goes with int8 in --precision, which is fp32"):
        export_run(config)


def test_an_unknown_precision_is_named(tiny_runs: TinyRuns, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"--precision must be of fp32, fp16, int8, got 'fp32,bf16'"):
        export_run(ExportConfig(run=tiny_runs.pretrained, out=tmp_path / "out", precision="fp32,bf16"))


def test_a_variant_past_its_limit_says_what_to_leave_out(
    made: tuple[Material, Variant], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(LIMITS, "fp16", replace(LIMITS["fp16"], relative=1e-7))
    with pytest.raises(ParityError, match=r"encoder fp16: .*; nothing was written; leave fp16 out of --precision"):
        make_float(replace(made[0], folder=tmp_path), "fp16")


def test_speed_is_asked_of_the_engines_that_serve(whole: tuple[Bundle, list[str]]) -> None:
    bundle = whole[0]
    times = fastest({"static": bundle}, pictures(2))
    assert times["static"].engine in ("onnxruntime", "openvino")
