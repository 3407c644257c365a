"""What the service's tests share: bundles without weights, images of every kind, a real server in a thread."""

from __future__ import annotations

import base64
import io
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from numpy.typing import NDArray
from PIL import Image

from bundle.store import Bundle, write_bundle
from runtime.fake import FakeRuntime
from service.app import create_app
from service.protocol import server_options
from service.settings import Settings

DIM, NUM_PATCHES, PATCH_DIM = 32, 16, 192
LABELS = ("ant", "bee", "cat", "dog", "elk")


def tensor(name: str, dtype: str, *shape: int | str) -> dict[str, Any]:
    return {"name": name, "dtype": dtype, "shape": shape}


def graph(name: str, inputs: list[dict[str, Any]], outputs: list[dict[str, Any]]) -> dict[str, Any]:
    return {"files": {"fp32": f"{name}.onnx"}, "opset": 20, "inputs": inputs, "outputs": outputs}


IMAGES = tensor("images", "uint8", "N", 32, 32, 3)
LOGITS = tensor("logits", "float32", "N", len(LABELS))
GRAPHS = {
    "encoder": graph(
        "encoder",
        [IMAGES, tensor("ids_keep", "int64", "N", "K")],
        [
            tensor("cls", "float32", "N", DIM),
            tensor("mean", "float32", "N", DIM),
            tensor("tokens", "float32", "N", "1+K", DIM),
        ],
    ),
    "decoder": graph(
        "decoder",
        [tensor("tokens", "float32", "N", "1+K", DIM), tensor("ids_restore", "int64", "N", NUM_PATCHES)],
        [tensor("patches", "float32", "N", NUM_PATCHES, PATCH_DIM)],
    ),
    "head": graph("head", [tensor("mean", "float32", "N", DIM)], [LOGITS]),
    "classifier": graph("classifier", [IMAGES], [LOGITS]),
}


def make_bundle(folder: Path, *graphs: str, name: str = "fake", **fields: Any) -> Bundle:
    """A bundle of 32-pixel images in patches of 8 whose graphs are empty files: for the fake runtime alone."""
    chosen = graphs or ("encoder", "decoder", "head")
    classifies = bool({"head", "classifier"} & set(chosen))
    manifest: dict[str, Any] = {
        "name": name,
        "model": {
            "image_size": (32, 32),
            "patch_size": 8,
            "channels": 3,
            "dim": DIM,
            "depth": 2,
            "heads": 2,
            "mlp_ratio": 4,
            "decoder": {"dim": 32, "depth": 1, "heads": 2} if "decoder" in chosen else None,
        },
        "pixel_target": "normalized",
        "preprocess": {"resize": (36, 36), "crop": (32, 32), "mean": [0.5] * 3, "std": [0.25] * 3},
        "pooling": "mean",
        "graphs": {each: GRAPHS[each] for each in chosen},
        "num_classes": len(LABELS) if classifies else None,
        "parity": {},
        "provenance": {"dataset": "noise", "num_images": 1, "epochs": 0, "maeve_version": "0.1.0"},
        **fields,
    }
    files: dict[str, Path | bytes] = {f"{each}.onnx": each.encode() for each in chosen}
    if classifies:
        files["labels.json"] = b'["ant", "bee", "cat", "dog", "elk"]'
    return write_bundle(folder, manifest, files)


def pixels(seed: int, height: int = 40, width: int = 50) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def photo(seed: int = 0, kind: str = "PNG", height: int = 40, width: int = 50) -> bytes:
    """An encoded image that no other seed gives."""
    return encoded(Image.fromarray(pixels(seed, height, width)), kind)


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


@dataclass(frozen=True)
class Served:
    """A service that listens."""

    url: str
    port: int
    app: FastAPI
    http: httpx.Client

    def embed(self, image: bytes, **params: str | float | bool) -> httpx.Response:
        return self.http.post("/embed", content=image, params=params, headers={"content-type": "image/png"})


@contextmanager
def serving(app: FastAPI, **options: Any) -> Iterator[Served]:
    """The app behind uvicorn on a loopback port, on a thread of its own. `options`: for uvicorn, over the service's."""
    config = uvicorn.Config(
        app, loop="uvloop", lifespan="on", log_config=None, access_log=False, timeout_graceful_shutdown=5,
        **server_options(getattr(app.state, "settings", None) or Settings()) | {"port": 0} | options,
    )  # fmt: skip
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="uvicorn")
    thread.start()
    try:
        eventually(lambda: server.started or not thread.is_alive())
        port = server.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        with httpx.Client(base_url=url, timeout=20, trust_env=False) as client:
            yield Served(url, port, app, client)
    finally:
        server.should_exit = True
        thread.join(20)
        assert not thread.is_alive(), "the server did not stop"


@contextmanager
def serving_fake(
    bundle: Bundle,
    *,
    latency_ms: float = 0,
    lanes: int = 1,
    max_batch: int = 8,
    fail_on: Callable[[NDArray[Any]], bool] | None = None,
    port: int = 0,
    **settings: Any,
) -> Iterator[tuple[Served, FakeRuntime]]:
    runtime = FakeRuntime(bundle, latency_ms=latency_ms, lanes=lanes, max_batch=max_batch, fail_on=fail_on)
    with serving(create_app(Settings(**settings), bundle=bundle, runtime=runtime), port=port) as served:
        yield served, runtime


class Hold:
    """Handed to a fake runtime as `fail_on`: its calls wait while this is held, and none of them fails."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()

    def __call__(self, _: NDArray[Any]) -> bool:
        assert self._open.wait(30), "held for too long"
        return False

    def __enter__(self) -> Self:
        self._open.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        self._open.set()


def eventually(condition: Callable[[], object], timeout_s: float = 15.0) -> None:
    """Wait until the condition holds; AssertionError if it does not in time."""
    until = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < until, f"not within {timeout_s} s"
        time.sleep(0.005)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


class RedisServer:
    """A real Redis on a loopback port that keeps nothing; can be killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = next(port for port in iter(free_port, None) if port < 50_000)  # a cluster adds 10,000 for another
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._folder = folder
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *more: str) -> None:
        """`more`: options of redis-server beyond what makes it quiet."""
        binary = shutil.which("redis-server") or str(Path(sys.executable).with_name("redis-server"))
        options = ["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(self._folder), *more]
        command = [binary, "--port", str(self.port), *options]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: listens(self.port))

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(10)
            self.process = None


def reconstruct(served: Served, image: bytes, **params: Any) -> dict[str, Any]:
    """POST /reconstruct."""
    answer = served.http.post("/reconstruct", content=image, params=params)
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def picture(body: dict[str, Any], name: str) -> NDArray[np.uint8]:
    """[H, W, C] of a picture in the answer."""
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(body["images"][name]))))
