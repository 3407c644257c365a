"""The real command on a real bundle: its numbers, its memory, its imports, its end."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import onnxruntime
import openvino
import pytest

from bundle.masking import keep_ids, random_masking
from bundle.preprocess import preprocess
from bundle.store import Bundle, write_bundle
from runtime.agreement import cosines
from runtime.cores import usable_cores
from runtime.machine import count_gpus, multiplies_in_bf16
from runtime.onnx import OnnxRuntime
from tests.servers import ROOT, clean_environment, serving_bundle
from tests.service.helpers import eventually, photo

OCTETS = {"accept": "application/octet-stream"}


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[bytes]
    port: int
    http: httpx.Client

    def resident_mib(self) -> float:
        line = next(
            line for line in self.http.get("/metrics").text.splitlines()
            if line.startswith("process_resident_memory_bytes")
        )  # fmt: skip
        return float(line.split()[1]) / 2**20


@contextmanager
def running(bundle: Bundle, *flags: str) -> Iterator[Running]:
    with (
        serving_bundle(*flags, bundle=bundle.path) as served,
        httpx.Client(base_url=served.url, timeout=20, trust_env=False) as http,
    ):
        yield Running(served.process, served.port, http)


def ended(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, check=False, timeout=60
    )


@pytest.fixture(scope="module")
def service(tiny_bundle: Bundle) -> Iterator[Running]:
    with running(tiny_bundle, "--cache-bytes", "0", "--runtime", "onnxruntime", "--device", "cpu") as service:
        yield service


def test_embeddings_are_those_of_the_graph(service: Running, tiny_bundle: Bundle) -> None:
    image = photo(1, "JPEG", 120, 90)
    batch = preprocess(image, tiny_bundle.manifest.preprocess)[None]
    runtime = OnnxRuntime(tiny_bundle)
    for keep in (1.0, 0.5):
        ids = keep_ids(tiny_bundle.manifest.model.num_patches, keep)[None]
        want = runtime.run("encoder", {"images": batch, "ids_keep": ids})
        for pooling in ("cls", "mean"):
            params = {"keep": keep, "pooling": pooling, "normalize": "false"}
            answer = service.http.post("/embed", content=image, params=params, headers=OCTETS)
            np.testing.assert_allclose(np.frombuffer(answer.content, "<f4"), want[pooling][0], atol=1e-6)
        tokens = service.http.post("/embed", content=image, params={"keep": keep, "pooling": "patches"}, headers=OCTETS)
        vectors = np.frombuffer(tokens.content, "<f4").reshape(ids.shape[1], -1)
        patches = want["tokens"][0, 1:]
        np.testing.assert_allclose(vectors, patches / np.linalg.norm(patches, axis=1, keepdims=True), atol=1e-6)


def test_labels_are_those_of_the_head(service: Running, tiny_bundle: Bundle) -> None:
    image = photo(2)
    runtime = OnnxRuntime(tiny_bundle)
    batch = preprocess(image, tiny_bundle.manifest.preprocess)[None]
    ids = keep_ids(tiny_bundle.manifest.model.num_patches, 1)[None]
    mean = runtime.run("encoder", {"images": batch, "ids_keep": ids})["mean"]
    logits = runtime.run("head", {"mean": mean})["logits"][0].astype(np.float64)
    found = service.http.post("/classify", content=image).json()["predictions"][0]
    probabilities = np.exp(logits) / np.exp(logits).sum()
    assert tiny_bundle.labels is not None
    for entry in found:
        assert entry["label"] == tiny_bundle.labels[entry["index"]]
        assert entry["probability"] == pytest.approx(probabilities[entry["index"]], abs=1e-6)


def test_errors_of_patches_are_those_of_the_decoder(service: Running, tiny_bundle: Bundle) -> None:
    image, model = photo(3), tiny_bundle.manifest.model
    masking = random_masking(model.num_patches, 0.5, 4)
    runtime = OnnxRuntime(tiny_bundle)
    pixels = preprocess(image, tiny_bundle.manifest.preprocess)
    encoded = runtime.run("encoder", {"images": pixels[None], "ids_keep": masking.ids_keep[None]})
    pred = runtime.run("decoder", {"tokens": encoded["tokens"], "ids_restore": masking.ids_restore[None]})["patches"][0]
    spec = tiny_bundle.manifest.preprocess
    seen = (pixels / 255 - np.asarray(spec.mean)) / np.asarray(spec.std)
    rows, columns = model.grid
    cut = seen.reshape(rows, model.patch_size, columns, model.patch_size, 3)  # [h, P, w, P, C]
    target = cut.transpose(0, 2, 1, 3, 4).reshape(model.num_patches, -1)  # [L, P*P*C]
    target = (target - target.mean(1, keepdims=True)) / np.sqrt(target.var(1, ddof=1, keepdims=True) + 1e-6)
    body = service.http.post("/reconstruct", content=image, params={"mask_ratio": 0.5, "seed": 4}).json()
    np.testing.assert_allclose(body["error"], ((pred - target) ** 2).mean(1), rtol=1e-3)


def test_info_says_what_runs(service: Running) -> None:
    runtime = service.http.get("/info").json()["runtime"]
    assert runtime == {
        "name": "onnxruntime", "device": "cpu", "precision": "fp32", "lanes": usable_cores(), "max_batch": 4,
        "version": onnxruntime.__version__, "provider": "CPUExecutionProvider", "threads_per_lane": 1,
    }  # fmt: skip


def test_openvino_serves_in_the_best_that_this_cpu_has(tiny_bundle: Bundle) -> None:
    precision = "bf16" if multiplies_in_bf16(openvino.Core()) else "fp32"
    image = photo(1, "JPEG", 120, 90)
    with running(tiny_bundle, "--runtime", "openvino", "--lanes", "2") as service:
        runtime = service.http.get("/info").json()["runtime"]
        assert (runtime["name"], runtime["precision"], runtime["lanes"]) == ("openvino", precision, 2)
        assert runtime["inference_precision"] == precision.replace("fp", "f")
        answer = service.http.post("/embed", content=image, params={"pooling": "cls"}, headers=OCTETS)
        probabilities = service.http.post("/classify", content=image).json()["predictions"][0]
    pixels = preprocess(image, tiny_bundle.manifest.preprocess)[None]
    ids = keep_ids(tiny_bundle.manifest.model.num_patches, 1)[None]
    want = OnnxRuntime(tiny_bundle).run("encoder", {"images": pixels, "ids_keep": ids})["cls"]
    assert cosines(np.frombuffer(answer.content, "<f4")[None], want)[0] > 0.999
    assert sum(entry["probability"] for entry in probabilities) == pytest.approx(1, abs=1e-5)


@pytest.mark.skipif(count_gpus() > 0, reason="there is a GPU")
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--device", "cuda"], "cuda was asked for, and CUDA finds no NVIDIA GPU; check nvidia-smi and "),
        (["--runtime", "tensorrt"], "tensorrt was asked for, and CUDA finds no NVIDIA GPU; check nvidia-smi and "),
        (["--runtime", "openvino", "--device", "cuda"], "openvino runs on CPUs here; use device cpu, or runtime "),
        (["--runtime", "onnxruntime", "--precision", "int8"], "BUNDLE: no int8 encoder graph; there are fp32"),
    ],
)
def test_what_cannot_be_had_ends_it_with_one_line(tiny_bundle: Bundle, flags: list[str], message: str) -> None:
    command = [sys.executable, "-m", "service", "--bundle", str(tiny_bundle.path), "--port", "0", *flags]
    done = ended(command)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: " + message.replace("BUNDLE", str(tiny_bundle.path)))


def test_golden_arrays_that_are_none_end_it_with_one_line(tiny_bundle: Bundle, tmp_path: Path) -> None:
    """A bundle whose digest holds, and whose content is bad."""
    files: dict[str, Path | bytes] = {name: tiny_bundle.path / name for name in tiny_bundle.manifest.files}
    fields = tiny_bundle.manifest.model_dump(exclude={"files", "digest"})
    bad = write_bundle(tmp_path / "bad", fields, {**files, "golden.npz": b"no arrays"})
    command = [sys.executable, "-m", "service", "--bundle", str(bad.path), "--port", "0", "--log-level", "error"]
    done = ended(command)
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith(f"error: {bad.path / 'golden.npz'}: cannot be read: ")


def test_memory_stays_small_and_flat_while_tensors_are_sent(service: Running) -> None:
    image = photo(4, "JPEG", 200, 200)

    def ask(count: int) -> None:
        for _ in range(count):
            params = {"pooling": "patches"}
            assert service.http.post("/embed", content=image, params=params, headers=OCTETS).status_code == 200

    ask(200)
    before = service.resident_mib()
    ask(400)
    after = service.resident_mib()
    assert after < 500
    assert after - before < 8


def test_neither_torch_nor_what_trains_is_imported(tiny_bundle: Bundle) -> None:
    program = f"""
import asyncio, json, sys
from pathlib import Path
import service.__main__
from service.app import create_app
from service.settings import Settings

async def main():
    app = create_app(Settings(bundle=Path({str(tiny_bundle.path)!r})))
    async with app.router.lifespan_context(app):
        print(json.dumps(sorted({{name.split(".")[0] for name in sys.modules}})))

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    modules = set(json.loads(done.stdout))
    assert "onnxruntime" in modules
    assert not modules & {"torch", "onnx", "onnxscript", "transformers", "mae", "training", "export", "matplotlib"}


def test_importing_reads_no_environment_and_starts_nothing() -> None:
    program = """
import os, threading
os.environ["MAEVE_NONSENSE"] = "1"  # an error as soon as the environment is read
import fastapi, numpy, redis, uvicorn  # what others start is not ours to judge
before = threading.active_count()
import service.app, service.engine, service.__main__
assert threading.active_count() == before
"""
    subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True)


def half_a_request(service: Running, image: bytes) -> socket.socket:
    """A request whose body has begun and not ended."""
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nContent-Length: {len(image)}\r\n\r\n"
    connection.sendall(head.encode() + image[:100])
    eventually(lambda: "maeve_requests_in_flight 1.0" in service.http.get("/metrics").text)
    return connection


def test_sigterm_finishes_what_is_in_flight_and_refuses_what_is_new(tiny_bundle: Bundle) -> None:
    image = photo(1)
    with running(tiny_bundle) as service:
        assert service.http.get("/readyz").status_code == 200
        connection = half_a_request(service, image)
        service.process.send_signal(signal.SIGTERM)
        eventually(lambda: service.http.get("/readyz").status_code == 503)
        fresh = httpx.post(f"http://127.0.0.1:{service.port}/embed", content=image)  # a new connection is answered too
        assert (fresh.status_code, fresh.json()["error"]["type"]) == (503, "unavailable")
        connection.sendall(image[100:])
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.close()
        assert service.process.wait(10) == 0


def test_what_outlasts_the_drain_is_answered_503(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle, "--drain-s", "0.5") as service:
        connection = half_a_request(service, photo(1))
        start = time.monotonic()
        service.process.send_signal(signal.SIGTERM)
        assert connection.recv(65536).startswith(b"HTTP/1.1 503")
        assert 0.4 < time.monotonic() - start < 5
        connection.close()
        assert service.process.wait(10) == 0


def test_an_idle_service_stops_at_once(tiny_bundle: Bundle) -> None:
    with running(tiny_bundle) as service:
        assert service.http.get("/livez").status_code == 200
        start = time.monotonic()
        service.process.send_signal(signal.SIGINT)
        assert service.process.wait(10) == 0
        assert time.monotonic() - start < 5
