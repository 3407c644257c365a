"""The clients against real services: order, limits, retries, errors."""

from __future__ import annotations

import asyncio
import base64
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bundle.store import Bundle
from service.client import AsyncClient, Busy, Client, ClientError, Failed, Neighbour, Rejected, Unreachable
from service.client_wire import Attempts, encode_image
from tests.service.helpers import (
    DIM,
    LABELS,
    NUM_PATCHES,
    Hold,
    Served,
    encoded,
    eventually,
    free_port,
    photo,
    pixels,
    serving_fake,
)
from tests.service.indexes import embed, rows, spec_of, write_index


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle) as (served, _):
        yield served


@pytest.fixture
def client(served: Served) -> Iterator[Client]:
    with Client(served.url, timeout_s=20) as client:
        yield client


def over_http(served: Served, images: list[bytes], **params: Any) -> NDArray[Any]:
    rows = [served.embed(image, **params).json()["embeddings"][0] for image in images]
    return np.array(rows, np.float32)


def close(found: NDArray[Any], wanted: NDArray[Any]) -> None:
    assert found.shape == wanted.shape
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# What goes in and comes out


def test_many_images_come_back_in_their_order(served: Served) -> None:
    images = [photo(seed) for seed in range(50)]
    with Client(served.url, images_per_request=7, requests_at_once=3) as client:
        found = client.embed(images)
    assert found.dtype == np.float32
    close(found, over_http(served, images))


async def test_the_async_client_gives_the_same(served: Served, client: Client) -> None:
    images = [photo(seed) for seed in range(20)]
    async with AsyncClient(served.url, images_per_request=3) as other:
        found, labels, info, ready = await asyncio.gather(
            other.embed(images), other.classify(images[:4], top_k=2), other.info(), other.ready()
        )
        pictures = await other.reconstruct(images[0], seed=3)
    close(found, client.embed(images))
    assert labels == client.classify(images[:4], top_k=2)
    assert info["name"] == "fake"
    assert ready
    assert pictures.original == client.reconstruct(images[0], seed=3).original


def test_every_kind_of_image_is_the_same_image(served: Served, client: Client, tmp_path: Path) -> None:
    array = pixels(5)
    path = tmp_path / "five.png"
    path.write_bytes(photo(5))
    found = client.embed([path, photo(5), array, Image.fromarray(array)])
    close(found, np.repeat(over_http(served, [photo(5)]), 4, axis=0))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_pixels_are_sent_without_loss(shape: tuple[int, ...]) -> None:
    array = np.random.default_rng(1).integers(0, 256, shape, dtype=np.uint8)
    for image in (array, array[::-1, ::2]):
        opened = np.asarray(Image.open(io.BytesIO(encode_image(image))))
        np.testing.assert_array_equal(opened, image.squeeze(-1) if image.shape[-1] == 1 else image)


def test_modes_that_png_lacks_are_sent_in_rgb(served: Served, client: Client) -> None:
    cmyk = Image.new("CMYK", (40, 40), (0, 255, 255, 0))
    close(client.embed([cmyk]), over_http(served, [encoded(cmyk.convert("RGB"))]))


def test_parameters_reach_the_service(served: Served, client: Client) -> None:
    image = photo(1)
    close(
        client.embed([image], pooling="cls", normalize=False),
        over_http(served, [image], pooling="cls", normalize=False),
    )
    close(client.embed([image], keep=0.5), over_http(served, [image], keep=0.5))
    assert client.embed([image, photo(2)], pooling="patches").shape == (2, NUM_PATCHES, DIM)
    assert client.embed([image], dtype="float16").dtype == np.float16


def test_labels_come_most_probable_first(client: Client) -> None:
    [predictions] = client.classify([photo(1)])
    assert {each.label for each in predictions} == set(LABELS)
    assert sum(each.probability for each in predictions) == pytest.approx(1)
    assert predictions == sorted(predictions, key=lambda each: -each.probability)


async def test_neighbours_come_as_the_service_finds_them(fake_bundle: Bundle, tmp_path: Path) -> None:
    images = [photo(seed) for seed in range(6)]
    table = rows(embed(fake_bundle, images), spec_of(fake_bundle), {"label": ["cat", "dog, large"] * 3})
    index = write_index(tmp_path / "index", table)
    with serving_fake(fake_bundle, search_index=str(index), thumbnails=tmp_path) as (served, _):
        told = served.http.post("/search?k=2&filter=path!=000.png", content=images[0]).json()["results"][0]
        with Client(served.url, images_per_request=2) as client:
            found = client.search(images, k=2)
            filtered = client.search([images[1]], filters=["label=cat", "path!=000.png"])
            [one] = client.search([images[0]], k=2, filters=("path!=000.png",))
            with pytest.raises(Rejected, match="the index has no column 'color'") as refused:
                client.search(images, filters=["color=red"])
            with pytest.raises(TypeError, match="give a list of filters"):
                client.search(images, filters="label=cat")
        async with AsyncClient(served.url, images_per_request=2) as other:
            assert await other.search(images, k=2) == found
    assert [each[0].path for each in found] == [f"{seed:03}.png" for seed in range(6)]
    assert found[1][0] == Neighbour("001.png", f"{1:064x}", 1.0, {"label": "dog, large"}, "thumbnails/001.png")
    assert {row.path for row in filtered[0]} == {"002.png", "004.png"}
    assert [vars(row) for row in one] == told
    assert (refused.value.status, refused.value.param) == (422, "filter")


def test_a_reconstruction_has_its_pictures_and_errors(client: Client) -> None:
    made = client.reconstruct(photo(1), mask=[0, 5])
    assert Image.open(io.BytesIO(made.masked)).size == (32, 32)
    assert (made.grid, np.flatnonzero(made.mask).tolist()) == ((4, 4), [0, 5])
    assert made.mean_error == pytest.approx(made.error[[0, 5]].mean(), rel=1e-5)


async def test_an_anomaly_map_is_what_the_service_says(served: Served, client: Client) -> None:
    params = {"passes": 6, "mask_ratio": 0.5, "seed": 4, "scale_max": 3.5}
    told = served.http.post("/reconstruct", content=photo(2), params=params).json()
    found = client.anomaly(photo(2), passes=6, mask_ratio=0.5, seed=4, scale_max=3.5)
    async with AsyncClient(served.url) as other:
        again = await other.anomaly(photo(2), passes=6, mask_ratio=0.5, seed=4, scale_max=3.5)
    for each in (found, again):
        close(each.error, np.array(told["error"], np.float32))
        assert each.hidden.tolist() == told["hidden"] == [3] * NUM_PATCHES
        assert (each.grid, each.scale_max) == ((4, 4), 3.5)
        assert (each.mean_error, each.max_error) == (told["mean_error"], told["max_error"])
        assert each.original == base64.b64decode(told["images"]["original"])
        assert each.heatmap == base64.b64decode(told["images"]["heatmap"])
    assert client.anomaly(photo(2), passes=4).scale_max == client.anomaly(photo(2), passes=4).max_error


def test_too_few_passes_are_refused_with_the_services_words(client: Client) -> None:
    with pytest.raises(Rejected, match="at least 4 to hide every patch, got 3") as caught:
        client.anomaly(photo(1), passes=3, mask_ratio=0.25)
    assert (caught.value.status, caught.value.param) == (422, "passes")


def test_requests_stay_within_the_services_limits(fake_bundle: Bundle) -> None:
    images = [photo(seed, "BMP", 60, 60) for seed in range(9)]  # 10,854 bytes each
    with serving_fake(fake_bundle, max_images=4, max_body_bytes=25_000) as (served, _), Client(served.url) as client:
        close(client.embed(images), over_http(served, images))
        with pytest.raises(Rejected, match="25000 bytes") as caught:
            client.embed([*images, photo(1, "BMP", 200, 200)])
    assert caught.value.status == 413


# Errors


def test_a_bad_image_in_the_middle_of_many_is_named_by_its_own_place(client: Client) -> None:
    images = [photo(seed) for seed in range(200)]
    images[117] = images[117][:100]
    with pytest.raises(Rejected, match="image 117 ") as caught:
        client.embed(images)
    error = caught.value
    assert (error.status, error.type, error.param, error.index) == (400, "invalid_input", "images[117]", 117)


async def test_the_async_client_names_it_too(served: Served) -> None:
    images = [photo(seed) for seed in range(40)]
    images[33] = b"no image"
    async with AsyncClient(served.url) as client:
        with pytest.raises(Rejected, match="image 33 ") as caught:
            await client.embed(images)
    assert (caught.value.status, caught.value.index) == (415, 33)


def test_a_wrong_key_is_refused_and_a_right_one_is_not(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, _):
        with Client(served.url, api_key="hush") as client:
            assert client.embed([photo(1)]).shape == (1, DIM)
        with Client(served.url, api_key="push") as client, pytest.raises(Rejected) as caught:
            client.embed([photo(1)])
    assert (caught.value.status, caught.value.type, caught.value.index) == (401, "unauthorized", None)


def test_what_is_no_image_is_refused_before_anything_is_sent() -> None:
    wrong: list[tuple[Any, type[Exception], str]] = [
        ("photos", TypeError, "a list of images"),
        (b"bytes", TypeError, "a list of images"),
        (["cat.jpg"], TypeError, r"pathlib.Path\('cat.jpg'\)"),
        ([], ValueError, "at least one"),
        ([photo(1), 3], TypeError, "image 1 is int"),
        ([np.zeros((4, 4), np.float32)], ValueError, "image 0 must be uint8"),
        ([np.zeros((4, 4, 2), np.uint8)], ValueError, "image 0 must be uint8"),
    ]
    with Client(f"http://127.0.0.1:{free_port()}") as client:
        for images, kind, message in wrong:
            with pytest.raises(kind, match=message):
                client.embed(images)


def test_a_missing_file_is_an_os_error(client: Client, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        client.embed([photo(1), tmp_path / "gone.png"])


# Waiting and asking again


def test_a_full_queue_is_waited_for(fake_bundle: Bundle) -> None:
    hold = Hold()
    with (
        serving_fake(fake_bundle, fail_on=hold, max_queue=4, max_images=4) as (served, runtime),
        Client(served.url) as client,
        ThreadPoolExecutor() as pool,
        hold,
    ):
        blocking = pool.submit(served.http.post, "/embed", files=[("file", photo(seed)) for seed in range(4)])
        eventually(lambda: runtime.calls)
        waiting = pool.submit(client.embed, [photo(9)])
        eventually(lambda: 'status="429"' in served.http.get("/metrics").text)
        assert not waiting.done()
        hold.release()
        assert blocking.result().status_code == 200
        assert waiting.result().shape == (1, DIM)


def test_a_queue_that_stays_full_is_given_up_in_time(fake_bundle: Bundle) -> None:
    hold = Hold()
    with (
        serving_fake(fake_bundle, fail_on=hold, max_queue=1, max_images=1) as (served, runtime),
        Client(served.url, timeout_s=1.5) as client,
        ThreadPoolExecutor() as pool,
        hold,
    ):
        blocking = pool.submit(served.embed, photo(1))
        eventually(lambda: runtime.calls)
        start = time.monotonic()
        with pytest.raises(Busy) as caught:
            client.embed([photo(2)])
        assert time.monotonic() - start < 5
        assert (caught.value.status, caught.value.type) == (429, "overloaded")
        hold.release()
        blocking.result()


def test_a_model_that_takes_too_long_is_an_error_of_the_service(fake_bundle: Bundle) -> None:
    with (
        serving_fake(fake_bundle, latency_ms=800) as (served, _),
        Client(served.url, timeout_s=0.3) as client,
        pytest.raises((Failed, Unreachable)),
    ):
        client.embed([photo(1)])


def test_a_service_that_restarts_is_waited_for(fake_bundle: Bundle) -> None:
    """Nobody listens at first; then a server that closes its connections; then the service."""
    port, images = free_port(), [photo(seed) for seed in range(30)]
    with Client(f"http://127.0.0.1:{port}", timeout_s=20) as client, ThreadPoolExecutor() as pool:
        assert not client.ready()
        asking = pool.submit(client.embed, images)
        time.sleep(0.3)
        with scripted([None, None], port=port) as server:
            eventually(lambda: server.asked, 15)
        with serving_fake(fake_bundle, port=port) as (served, _):
            close(asking.result(), over_http(served, images))


def test_nobody_there_is_unreachable() -> None:
    with (
        Client(f"http://127.0.0.1:{free_port()}", timeout_s=0.3) as client,
        pytest.raises(Unreachable, match="Connect") as caught,
    ):
        client.embed([photo(1)])
    assert isinstance(caught.value, ClientError)


@pytest.mark.parametrize("url", ["localhost:8000", "127.0.0.1:8000", "ftp://localhost", "/embed", "http://", ""])
@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_what_is_no_url_is_refused_at_once(kind: type[Client | AsyncClient], url: str) -> None:
    with pytest.raises(ValueError, match=rf"must begin with http:// or https:// and a host, got '{url}'"):
        kind(url)


def test_what_cannot_be_sent_is_not_tried_again(served: Served) -> None:
    start = time.monotonic()
    with Client(served.url, api_key="two\nlines") as client, pytest.raises(Unreachable, match="LocalProtocolError"):
        client.info()
    assert time.monotonic() - start < 5


async def test_the_async_client_does_not_try_it_again_either(served: Served) -> None:
    start = time.monotonic()
    async with AsyncClient(served.url, api_key="two\nlines") as client:
        with pytest.raises(Unreachable, match="LocalProtocolError"):
            await client.info()
    assert time.monotonic() - start < 5


INFO: Any = (200, {}, b'{"limits": {"max_images": 64, "max_body_bytes": 1000000}}')
VECTOR = (200, {"maeve-shape": "1,2", "maeve-dtype": "float32"}, np.array([1, 2], "<f4").tobytes())


def test_retry_after_is_kept_to() -> None:
    with scripted([INFO, (429, {"retry-after": "1"}, b""), VECTOR]) as server, Client(server.url) as client:
        assert client.embed([photo(1)]).tolist() == [[1, 2]]
    assert 1 <= server.times[2] - server.times[1] < 3


def test_a_request_that_would_be_too_late_is_not_waited_for() -> None:
    with scripted([INFO, (503, {"retry-after": "60"}, b"")]) as server, Client(server.url, timeout_s=5) as client:
        start = time.monotonic()
        with pytest.raises(Busy, match="HTTP 503"):
            client.embed([photo(1)])
    assert time.monotonic() - start < 2


@pytest.mark.parametrize("status", [400, 404, 422, 500, 504])
def test_other_errors_are_not_tried_again(status: int) -> None:
    with (
        scripted([INFO, (status, {}, b"<html>no"), VECTOR]) as server,
        Client(server.url) as client,
        pytest.raises(Rejected if status < 500 else Failed, match="<html>no") as caught,
    ):
        client.embed([photo(1)])
    assert (caught.value.type, caught.value.status, len(server.asked)) == ("http_error", status, 2)


def test_the_time_left_is_told_to_the_service() -> None:
    with scripted([INFO, (503, {}, b""), VECTOR]) as server, Client(server.url, timeout_s=10) as client:
        client.embed([photo(1)])
    first, second = (float(headers["x-request-timeout-ms"]) for headers in server.asked[1:])
    assert 9_000 < second < first <= 10_000


def test_pauses_grow_and_differ() -> None:
    def pauses() -> list[float]:
        attempts = Attempts(1000, clock=lambda: 0.0)
        return [attempts.pause_s(httpx.ConnectError("gone"), 0) for _ in range(8)]

    for found in (pauses(), pauses()):
        for pause, base in zip(found, [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5, 5], strict=True):
            assert base <= pause <= 1.5 * base
    assert pauses() != pauses()


async def test_cancelling_ends_the_requests(fake_bundle: Bundle) -> None:
    hold = Hold()
    with serving_fake(fake_bundle, fail_on=hold) as (served, runtime), hold:
        async with AsyncClient(served.url) as client:
            asking = asyncio.create_task(client.embed([photo(1)]))
            await asyncio.to_thread(eventually, lambda: runtime.calls)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        gate = served.app.state.gate
        await asyncio.to_thread(eventually, lambda: gate.in_flight == 0)
        hold.release()


def test_numbers_out_of_range_are_refused() -> None:
    wrong: Any
    for wrong in ({"timeout_s": 0}, {"images_per_request": 0}, {"requests_at_once": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            Client("http://127.0.0.1", **wrong)


def test_importing_it_needs_httpx_and_numpy_alone() -> None:
    code = "import sys, service.client; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"httpx", "numpy"} <= set(loaded)
    assert not {"fastapi", "starlette", "pydantic", "onnxruntime", "PIL", "redis", "bundle", "runtime"} & set(loaded)


class Scripted:
    """A server that gives the answers of a list, one per request; None closes the connection instead."""

    def __init__(self, answers: list[Any], port: int) -> None:
        self.asked: list[dict[str, str]] = []
        self.times: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.rfile.read(int(self.headers.get("content-length", 0)))
                outer.times.append(time.monotonic())
                outer.asked.append({key.lower(): value for key, value in self.headers.items()})
                answer = answers.pop(0) if answers else None
                if answer is None:
                    self.close_connection = True
                    return
                status, headers, body = answer
                self.send_response(status)
                for name, value in {**headers, "content-length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815 - the library's name

            def log_message(self, *_: Any) -> None: ...

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def scripted(answers: list[Any], port: int = 0) -> Iterator[Scripted]:
    made = Scripted(list(answers), port)
    thread = threading.Thread(target=made.server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made
    finally:
        made.server.shutdown()
        made.server.server_close()
        thread.join()
