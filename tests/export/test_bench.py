"""python -m export.bench: real engines in real processes, on a bundle of which one variant cannot be loaded."""

from __future__ import annotations

import os
import resource
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

import export.bench.rounds
from bundle.errors import BundleError
from bundle.manifest import Manifest
from bundle.masking import keep_ids
from bundle.store import Bundle, write_bundle
from export.bench.__main__ import Lines, main
from export.bench.candidates import BASELINE, PRECISIONS, RUNTIMES, Candidate, find_candidates
from export.bench.client import EngineFailed, Worker
from export.bench.command import BenchConfig, _write, run_bench
from export.bench.document import BenchDocument
from export.bench.inputs import read_images
from export.bench.peak import matrix_peak
from export.bench.worker import Bench
from export.errors import ExportError
from export.flops import encoder_flops
from export.inspect import InspectConfig
from runtime.fake import FakeRuntime
from runtime.machine import Machine

QUICK: dict[str, Any] = {"runtimes": "onnxruntime", "device": "cpu", "rounds": 2, "seconds": 0.05, "batches": "1,4"}


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The tiny one, with an "fp16" encoder that is the fp32 one, and an "int8" encoder that is no graph."""
    fields = tiny_bundle.manifest.model_dump(mode="json", exclude={"files", "digest", "created_at"})
    names = {"fp32": "encoder.onnx", "fp16": "encoder.fp16.onnx", "int8": "encoder.int8.onnx"}
    fields["graphs"]["encoder"] |= {"files": names, "quantization": "dynamic"}
    files: dict[str, Path | bytes] = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    files |= {"encoder.fp16.onnx": tiny_bundle.path / "encoder.onnx", "encoder.int8.onnx": b"no graph"}
    return write_bundle(tmp_path_factory.mktemp("bench") / "bundle", fields, files)


@dataclass(frozen=True)
class Ran:
    """What the command left behind."""

    status: int
    stdout: str
    stderr: str
    document: BenchDocument
    folder: Path


@pytest.fixture(scope="module")
def ran(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Ran:
    folder = tmp_path_factory.mktemp("ran")
    flags = [f"--{name}={value}" for name, value in {**QUICK, "runtimes": "onnxruntime,fake,tensorrt"}.items()]
    command = [sys.executable, "-m", "export.bench", str(bundle.path), "--keep=0.5", *flags, f"--out={folder}/b.json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    document = BenchDocument.model_validate_json((folder / "b.json").read_text())
    return Ran(done.returncode, done.stdout, done.stderr, document, folder)


def test_a_row_that_fails_hides_no_other(ran: Ran) -> None:
    assert ran.status == 1
    rows = [(row.runtime, row.device, row.precision) for row in ran.document.rows]
    assert rows == [("onnxruntime", "cpu", "fp32"), ("onnxruntime", "cpu", "fp16"), ("fake", "cpu", "fp32")]
    (failed,) = ran.document.failed
    assert (failed.runtime, failed.precision) == ("onnxruntime", "int8")
    assert "ONNX Runtime cannot load" in failed.reason
    assert "encoder.int8.onnx" in failed.reason


def test_without_a_terminal_each_kind_of_work_is_a_line_on_stderr(ran: Ran) -> None:
    told = [line.split(": ") for line in ran.stderr.splitlines() if line.startswith("step ")]
    stages = list(dict.fromkeys(stage for _, stage, _ in told))
    assert stages == ["opening", "trying batches", "round 1 of 2", "round 2 of 2", "memory"]
    assert told[0] == ["step 1 of 24", "opening", "onnxruntime fp32 on cpu"]


def test_lines_come_now_and_then_within_one_kind_of_work(capsys: pytest.CaptureFixture[str]) -> None:
    for every_s, expected in ((1e9, [1, 3]), (0.0, [1, 2, 3])):
        lines = Lines(every_s)
        for done, what in enumerate(("opening: a", "opening: b", "memory: a")):
            lines(what, done, 3)
        assert [int(line.split()[1]) for line in capsys.readouterr().err.splitlines()] == expected


def test_what_cannot_run_here_says_why(ran: Ran) -> None:
    reasons = {(each.runtime, each.precision): each.reason for each in ran.document.unavailable}
    assert "runs on GPUs alone" in reasons["tensorrt", "fp32, bf16, fp16, int8"]
    assert "does not compute in bf16" in reasons["onnxruntime", "bf16"]


def test_the_figures_agree_with_each_other(ran: Ran, bundle: Bundle) -> None:
    setting = ran.document.setting
    assert (setting.num_keep, setting.num_patches) == (8, 16)
    assert setting.flops_per_image == encoder_flops(bundle.manifest.model, 8)
    peaks = {(peak.device, peak.precision): peak.flops_per_s for peak in ran.document.peaks}
    for row in ran.document.rows:
        assert row.flops_per_s == pytest.approx(row.throughput.images_per_s * setting.flops_per_image)
        assert row.peak_precision == "fp32"  # CPUs compute fp16 in it
        assert row.peak_share == pytest.approx(row.flops_per_s / peaks["cpu", "fp32"])
        assert set(row.throughput.swept) == {1, 4}
        assert row.throughput.swept[row.throughput.batch] == max(row.throughput.swept.values())
        assert row.latency.p50_ms <= row.latency.p99_ms
        assert row.latency.calls >= 2 * 3
        assert row.memory is not None
        assert row.memory.before_bytes < row.memory.peak_bytes < 2**30


def test_what_is_held_against_fp32(ran: Ran) -> None:
    fp32, fp16, fake = ran.document.rows
    assert fp32.speedup is not None
    assert (fp32.speedup.latency, fp32.speedup.throughput) == (1, 1)
    assert fp32.cosine is not None
    assert fp16.cosine is not None
    assert fp32.cosine.min == pytest.approx(1)
    assert fp16.cosine.min == pytest.approx(1)  # the very same graph
    assert fake.cosine is not None
    assert fake.cosine.min < fake.cosine.mean < 0.9  # noise
    assert [row.auto for row in ran.document.rows] == [False, False, False]  # auto picks int8, which failed


def test_the_circumstances_are_told(ran: Ran, bundle: Bundle) -> None:
    document = ran.document
    assert document.command.startswith(f"python -m export.bench {bundle.path}")
    assert document.bundle.digest == bundle.manifest.digest
    assert document.machine.cores >= 1
    assert document.software["onnxruntime"]
    assert document.setting.images == "the golden inputs"


def test_what_is_printed(ran: Ran) -> None:
    printed = " ".join(ran.stdout.split())
    assert max(map(len, ran.stdout.splitlines())) <= 100
    for part in ("8 of 16 patches", "onnxruntime fp16", "failed: onnxruntime int8", "not here: tensorrt", "b.json"):
        assert part in printed
    assert all(line.startswith("step ") for line in ran.stderr.splitlines())


def test_nothing_else_is_left(ran: Ran) -> None:
    assert [file.name for file in ran.folder.iterdir()] == ["b.json"]


def test_a_process_that_is_killed_costs_its_row_alone(
    bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Out of memory looks like this: SIGKILL, in the middle of a round."""
    workers: list[Worker] = []

    class Recorded(Worker):
        def __init__(self) -> None:
            super().__init__()
            workers.append(self)

    def progress(what: str, _done: int, _total: int) -> None:
        if what == "round 1 of 2: onnxruntime fp16 on cpu":
            os.kill(workers[2].pid, signal.SIGKILL)  # the first one measures the peak, the second one the baseline

    monkeypatch.setattr(export.bench.rounds, "Worker", Recorded)
    config = BenchConfig(bundle=bundle.path, **QUICK | {"precisions": "fp32,fp16"}, out=tmp_path / "b.json")
    document = run_bench(config, progress)
    assert [row.precision for row in document.rows] == ["fp32"]
    assert [(each.precision, each.reason) for each in document.failed] == [("fp16", "its process ended by SIGKILL")]


def test_outputs_that_are_no_numbers_are_no_result(bundle: Bundle, tmp_path: Path) -> None:
    """As fp16 that overflows: the "fp16" encoder, its matrices infinite."""
    model = onnx.load(bundle.graph_file("encoder"))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and len(tensor.dims) == 2:
            tensor.CopyFrom(numpy_helper.from_array(np.full(tensor.dims, np.inf, np.float32), tensor.name))
    fields = bundle.manifest.model_dump(mode="json", exclude={"files", "digest", "created_at"})
    files: dict[str, Path | bytes] = {name: bundle.path / name for name in bundle.manifest.files}
    files["encoder.fp16.onnx"] = model.SerializeToString()
    broken = write_bundle(tmp_path / "bundle", fields, files)
    flags = QUICK | {"precisions": "fp32,fp16", "rounds": 1}
    document = run_bench(BenchConfig(bundle=broken.path, **flags, out=tmp_path / "b.json"))
    assert [row.precision for row in document.rows] == ["fp32"]
    assert [(each.precision, each.reason) for each in document.failed] == [
        ("fp16", "its cls are not all finite numbers")
    ]


# One engine's process


@pytest.fixture
def worker() -> Iterator[Worker]:
    with Worker() as worker:
        yield worker


def test_a_process_that_hangs_is_ended(worker: Worker, bundle: Bundle) -> None:
    opened: dict[str, Any] = {
        "opener": "engine",
        "bundle": str(bundle.path),
        "runtime": "fake",
        "device": "cpu",
        "precision": "fp32",
    }
    assert worker.call("open", **opened)["lanes"] == 1
    with pytest.raises(EngineFailed, match=r"no answer within 0\.5 s"):
        worker.call("calls", batch=1, ids=[0], seconds=60, timeout_s=0.5)
    with pytest.raises(EngineFailed):
        worker.call("memory")


def test_an_error_leaves_the_process_alive(worker: Worker, tmp_path: Path) -> None:
    with pytest.raises(EngineFailed, match="is not a bundle: it has no manifest"):
        worker.call("open", opener="engine", bundle=str(tmp_path))
    assert worker.call("memory") > 2**20


def test_a_process_that_cannot_start_leaves_its_last_words() -> None:
    with Worker("export.bench.none") as worker, pytest.raises(EngineFailed, match=r"exit status 1: .*No module named"):
        worker.call("memory")


# The times, on an engine that takes a known one


@pytest.fixture
def slow(bundle: Bundle) -> tuple[Bench, FakeRuntime]:
    """20 ms a call, two at once."""
    fake = FakeRuntime(bundle, latency_ms=20, lanes=2)
    bench = Bench({"slow": lambda _bundle, _arguments: fake})
    bench.open("slow", str(bundle.path))
    return bench, fake


def test_a_call_takes_what_it_takes(slow: tuple[Bench, FakeRuntime]) -> None:
    times = slow[0].calls(1, [0, 1], 0.1)
    assert 3 <= len(times) <= 5
    assert min(times) >= 0.02
    assert statistics.median(times) < 0.2


def test_throughput_is_that_of_all_lanes(slow: tuple[Bench, FakeRuntime]) -> None:
    bench, fake = slow
    assert 3 / 0.02 < bench.rate(3, [0], 0.2) <= 2 * 3 / 0.02  # more than one lane could
    assert fake.peak == 2
    assert {n for _, n in fake.calls} == {3}


def test_a_batch_is_shared_out_over_the_lanes(slow: tuple[Bench, FakeRuntime]) -> None:
    bench, fake = slow
    times = bench.together(5, [0], 0.05)
    assert 0.02 <= min(times) < 0.04  # not one lane after the other
    assert sorted(n for _, n in fake.calls[-2:]) == [2, 3]


def test_the_peak_is_measured_not_known() -> None:
    start = time.perf_counter()
    fp32 = matrix_peak("cpu", "fp32", threads=1, seconds=0.05)
    int8 = matrix_peak("cpu", "int8", threads=1, seconds=0.05)
    took = time.perf_counter() - start
    assert fp32 is not None
    assert int8 is not None
    assert (fp32["by"].split()[0], int8["by"].split()[0]) == ("torch", "onnxruntime")
    for peak in (fp32, int8):  # at least two products of this side were done within that time
        assert peak["flops_per_s"] > 2 * 2 * peak["side"] ** 3 / took
        assert peak["flops_per_s"] < 1e14  # no core does 100 TFLOP/s


def test_the_peak_in_fp32_is_without_tf32() -> None:
    """As the engines are: factors of 10 bits are not what fp32 was asked for."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = True  # as somebody may have left it
    assert matrix_peak("cpu", "fp32", threads=1, seconds=0.01) is not None
    assert torch.backends.cuda.matmul.allow_tf32 is False


# What there is to measure


def candidates(manifest: Manifest, *, device: str = "auto", gpus: int = 0, engines: str = "") -> list[Candidate]:
    machine = Machine(gpus=gpus, engines=frozenset(engines.split()), bf16=True)  # type: ignore[arg-type]
    return find_candidates(manifest, RUNTIMES, PRECISIONS, device=device, machine=machine)[0]


def test_candidates_on_a_cpu(bundle: Bundle) -> None:
    found = candidates(bundle.manifest, engines="onnxruntime openvino")
    assert found == [
        BASELINE,
        *(Candidate("onnxruntime", "cpu", precision) for precision in ("fp16", "int8")),
        *(Candidate("openvino", "cpu", precision) for precision in ("fp32", "bf16")),
    ]
    assert [c for c in found if c.auto] == [Candidate("onnxruntime", "cpu", "int8")]


def test_candidates_on_a_gpu_are_held_against_the_cpu(bundle: Bundle) -> None:
    found = candidates(bundle.manifest, gpus=1, engines="onnxruntime onnxruntime-cuda")
    assert found == [
        BASELINE,
        *(Candidate("onnxruntime", "cuda:0", precision) for precision in ("fp32", "fp16")),
    ]
    assert [c for c in found if c.auto] == [Candidate("onnxruntime", "cuda:0", "fp16")]


def test_a_gpu_that_is_not_there_is_never_the_cpu_instead(bundle: Bundle) -> None:
    assert candidates(bundle.manifest, device="cuda", engines="onnxruntime openvino") == []


# Images


def test_images_of_a_folder_are_cut_as_the_service_cuts_them(bundle: Bundle, tmp_path: Path) -> None:
    for number in range(5):
        Image.new("RGB", (50, 40), (number, 0, 0)).save(tmp_path / f"{number}.png")
    images = read_images(tmp_path, bundle.manifest.preprocess, 3)
    assert images.shape == (3, 32, 32, 3)
    assert images[:, 0, 0, 0].tolist() == [0, 2, 4]


def test_images_are_what_cosines_are_taken_on(bundle: Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), np.uint8))
    config = BenchConfig(
        bundle=bundle.path,
        **QUICK | {"precisions": "fp32"},
        images=tmp_path / "x.npz",
        num_images=3,
        out=tmp_path / "o",
    )
    document = run_bench(config)
    assert document.setting.images == f"3 images of {tmp_path / 'x.npz'}"
    assert document.setting.num_keep == len(keep_ids(16, 1.0)) == 16


def test_arrays_that_are_no_images_are_refused_before_any_work(bundle: Bundle, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", images=np.zeros((2, 31, 32, 3), np.uint8))
    config = BenchConfig(bundle=bundle.path, **QUICK, images=tmp_path / "x.npz", out=tmp_path / "b.json")
    with pytest.raises(ExportError, match=r"x\.npz holds uint8 \[2, 31, 32, 3\]"):
        run_bench(config)
    assert not (tmp_path / "b.json").exists()


# How it refuses


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"runtimes": "onnx"}, "--runtimes: there is no 'onnx'; there are onnxruntime, "),
        ({"precisions": "fp8"}, "--precisions: there is no 'fp8'; there are fp32, bf16, fp16, int8"),
        ({"precisions": " , "}, "--precisions names nothing"),
        ({"batches": "1,0"}, "--batches must be numbers above 0, separated by commas, got '0'"),
        ({"batches": "four"}, "got 'four'"),
        ({"keep": 1.5}, "--keep must lie above 0 and at most at 1, got 1.5"),
        ({"keep": float("nan")}, "--keep must lie above 0"),
        ({"rounds": 0}, "--rounds must be above 0, got 0"),
        ({"seconds": float("inf")}, "--seconds must be above 0, got inf"),
        ({"num_images": -1}, "--num-images must be above 0"),
        ({"device": "tpu"}, "no device is called 'tpu'"),
        ({"runtimes": "tensorrt"}, "nothing of what was asked for runs here: tensorrt: tensorrt runs on GPUs alone"),
    ],
)
def test_flags_that_cannot_be(bundle: Bundle, tmp_path: Path, flags: dict[str, Any], message: str) -> None:
    with pytest.raises(ExportError) as caught:
        run_bench(BenchConfig(bundle=bundle.path, **{**QUICK, "out": tmp_path / "b.json", **flags}))
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_command_refuses_in_one_line(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["bench", str(bundle.path), "--keep", "0"])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 2
    assert capsys.readouterr() == ("", "error: --keep must lie above 0 and at most at 1, got 0\n")


def test_places_that_cannot_be_written(bundle: Bundle, tmp_path: Path) -> None:
    for out, message in (
        (bundle.path / "b.json", "lies in the bundle, which never changes"),
        (tmp_path, "cannot be written"),
        (tmp_path / "none" / "b.json", "cannot be written"),
    ):
        with pytest.raises(ExportError, match=message):
            run_bench(BenchConfig(bundle=bundle.path, **QUICK, out=out))


def test_a_damaged_bundle_is_not_measured(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"has no manifest\.json"):
        run_bench(BenchConfig(bundle=tmp_path, **QUICK, out=tmp_path / "b.json"))


def test_a_full_disk_leaves_the_older_figures(ran: Ran, tmp_path: Path) -> None:
    (tmp_path / "b.json").write_text("older")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write .*b\.json: File too large; choose another place"):
            _write(tmp_path / "b.json", ran.document)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("b.json", "older")]


# The page


@pytest.mark.parametrize(("command", "config"), [("inspect", InspectConfig), ("bench", BenchConfig)])
def test_every_flag_is_told_with_its_default(command: str, config: Any) -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text()
    table = page.split(f"| flag of {command} |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
    told = {row[0].strip("`"): row[1] for row in rows}
    real = {"BUNDLE" if f.name == "bundle" else f"--{f.name.replace('_', '-')}": f.default for f in fields(config)}
    assert list(told) == list(real)
    shown = {name: str(default) for name, default in real.items() if default and default is not MISSING}
    assert {name: told[name] for name in shown} == shown


def test_every_column_of_the_bench_is_told(ran: Ran) -> None:
    section = (Path(__file__).parents[2] / "docs" / "export.md").read_text().split("\n## Measuring")[1]
    told = {
        name.strip() for line in section.splitlines() if line.startswith("| ") for name in line.split("|")[1].split(",")
    }
    columns = {"engine", "lanes", "p50 ms", "p99 ms", "times", "batch", "images/s", "GFLOP/s", "of peak", "cosine min"}
    assert columns <= told
    assert all(column in ran.stdout for column in columns)
