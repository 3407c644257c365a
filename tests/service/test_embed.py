"""POST /embed in every input and output form."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import (
    DIM,
    GRAPHS,
    NUM_PATCHES,
    Served,
    encoded,
    graph,
    make_bundle,
    photo,
    pixels,
    serving_fake,
    tensor,
)

OCTETS = {"accept": "application/octet-stream"}
NPY = {"accept": "application/x-npy"}


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle) as (served, _):
        yield served


def expected(bundle: Bundle, image: bytes, pooling: str = "mean", keep: float = 1) -> NDArray[Any]:
    """What the runtime gives for this image alone, not normalised."""
    batch = preprocess(image, bundle.manifest.preprocess)[None]
    ids = keep_ids(NUM_PATCHES, keep)[None]
    outputs = FakeRuntime(bundle).run("encoder", {"images": batch, "ids_keep": ids})
    found: NDArray[Any] = outputs["tokens"][0, 1:] if pooling == "patches" else outputs[pooling][0]
    return found


def unit(vector: NDArray[Any]) -> NDArray[Any]:
    scaled: NDArray[Any] = vector / np.linalg.norm(vector, axis=-1, keepdims=True)
    return scaled


def raw(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", content=image, headers={"content-type": "image/png"})


def untyped(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", content=image)


def as_curl_sends_it(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", content=image, headers={"content-type": "application/x-www-form-urlencoded"})


def chunked(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", content=(image[i : i + 1000] for i in range(0, len(image), 1000)))


def multipart(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", files={"file": ("a.png", image, "image/png")})


def base64_json(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", json={"images": [base64.b64encode(image).decode()]})


def data_uri(http: httpx.Client, image: bytes) -> httpx.Response:
    return http.post("/embed", json={"images": ["data:image/png;base64," + base64.b64encode(image).decode()]})


@pytest.mark.parametrize("send", [raw, untyped, as_curl_sends_it, chunked, multipart, base64_json, data_uri])
def test_every_way_to_send_an_image_gives_the_same_vector(
    served: Served, fake_bundle: Bundle, send: Callable[[httpx.Client, bytes], httpx.Response]
) -> None:
    image = photo(1)
    answer = send(served.http, image)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert body.keys() == {"model", "digest", "pooling", "dim", "embeddings", "cached"}
    assert (body["model"], body["digest"]) == ("fake", fake_bundle.manifest.digest)
    assert (body["pooling"], body["dim"], len(body["cached"])) == ("mean", DIM, 1)
    np.testing.assert_allclose(body["embeddings"], [unit(expected(fake_bundle, image))], rtol=1e-6)


def test_several_parts_come_back_in_their_order(served: Served, fake_bundle: Bundle) -> None:
    images = [photo(seed) for seed in (10, 11, 12)]
    parts = [("file", (f"{i}.png", image, "image/png")) for i, image in enumerate(images)]
    body = served.http.post("/embed", files=parts).json()
    np.testing.assert_allclose(body["embeddings"], [unit(expected(fake_bundle, image)) for image in images], rtol=1e-6)


def test_json_takes_several_and_the_same_one_twice(served: Served) -> None:
    texts = [base64.b64encode(photo(seed)).decode() for seed in (20, 21, 20)]
    body = served.http.post("/embed", json={"images": texts}).json()
    assert body["embeddings"][0] == body["embeddings"][2] != body["embeddings"][1]


@pytest.mark.parametrize("pooling", ["cls", "mean", "patches"])
def test_a_single_pooling_is_a_list_with_an_entry_per_image(served: Served, fake_bundle: Bundle, pooling: str) -> None:
    image = photo(2)
    body = served.embed(image, pooling=pooling, normalize=False).json()
    assert body["pooling"] == pooling
    np.testing.assert_allclose(body["embeddings"], [expected(fake_bundle, image, pooling)], rtol=1e-6)


def test_several_poolings_are_an_object_of_such_lists(served: Served, fake_bundle: Bundle) -> None:
    image = photo(3)
    body = served.embed(image, pooling="patches,cls,mean").json()
    assert body["pooling"] == ["cls", "mean", "patches"]
    assert body["embeddings"].keys() == {"cls", "mean", "patches"}
    for pooling, vectors in body["embeddings"].items():
        np.testing.assert_allclose(vectors, [unit(expected(fake_bundle, image, pooling))], rtol=1e-5)


def test_the_default_pooling_is_the_bundles(tmp_path: Any) -> None:
    bundle = make_bundle(tmp_path / "b", "encoder", pooling="cls")
    with serving_fake(bundle) as (served, _):
        body = served.embed(photo(1), normalize=False).json()
    assert body["pooling"] == "cls"
    np.testing.assert_allclose(body["embeddings"], [expected(bundle, photo(1), "cls")], rtol=1e-6)


def test_vectors_have_length_1_unless_asked_otherwise(served: Served) -> None:
    assert np.linalg.norm(served.embed(photo(4)).json()["embeddings"][0]) == pytest.approx(1, abs=1e-6)
    assert np.linalg.norm(served.embed(photo(4), normalize=False).json()["embeddings"][0]) > 2


@pytest.mark.parametrize(("keep", "num_kept"), [(1.0, 16), (0.5, 8), (0.01, 1)])
def test_keep_hands_the_encoder_a_part_of_the_patches(
    served: Served, fake_bundle: Bundle, keep: float, num_kept: int
) -> None:
    image = photo(5)
    body = served.embed(image, keep=keep, pooling="patches", normalize=False).json()
    assert np.shape(body["embeddings"]) == (1, num_kept, DIM)
    np.testing.assert_allclose(body["embeddings"], [expected(fake_bundle, image, "patches", keep)], rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(("pooling", "shape"), [("mean", (2, DIM)), ("patches", (2, NUM_PATCHES, DIM))])
def test_octets_are_little_endian_with_shape_and_type_in_headers(
    served: Served, fake_bundle: Bundle, dtype: str, pooling: str, shape: tuple[int, ...]
) -> None:
    images = [photo(seed) for seed in (6, 7)]
    parts = [("file", image) for image in images]
    params = {"dtype": dtype, "pooling": pooling}
    answer = served.http.post("/embed", files=parts, params=params, headers=OCTETS)
    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["maeve-shape"] == ",".join(map(str, shape))
    assert (answer.headers["maeve-dtype"], answer.headers["maeve-pooling"]) == (dtype, pooling)
    assert (answer.headers["maeve-model"], answer.headers["maeve-digest"]) == ("fake", fake_bundle.manifest.digest)
    values = np.frombuffer(answer.content, np.dtype(dtype).newbyteorder("<")).reshape(shape)
    want = unit(np.stack([expected(fake_bundle, image, pooling) for image in images]))
    np.testing.assert_allclose(values, want, rtol=1e-6 if dtype == "float32" else 1e-3)


def test_npy_is_what_numpy_reads(served: Served, fake_bundle: Bundle) -> None:
    answer = served.http.post("/embed", content=photo(8), params={"dtype": "float16"}, headers=NPY)
    values = np.load(io.BytesIO(answer.content), allow_pickle=False)
    assert answer.headers["content-type"] == "application/x-npy"
    assert values.dtype == np.float16
    np.testing.assert_allclose(values, [unit(expected(fake_bundle, photo(8)))], rtol=1e-3)


@pytest.mark.parametrize(
    ("accept", "media_type"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/x-npy;q=0.5, application/octet-stream", "application/octet-stream"),
        ("text/html, application/json;q=0.1", "application/json"),
        ("application/json;q=0, */*;q=0.1", "application/octet-stream"),
    ],
)
def test_accept_chooses_the_form(served: Served, accept: str, media_type: str) -> None:
    answer = served.http.post("/embed", content=photo(9), headers={"accept": accept})
    assert answer.headers["content-type"] == media_type


def test_float16_in_json_is_rounded(served: Served) -> None:
    values = served.embed(photo(9), dtype="float16").json()["embeddings"]
    rounded = np.asarray(values, np.float32)
    np.testing.assert_array_equal(rounded, rounded.astype(np.float16))
    assert values != served.embed(photo(9)).json()["embeddings"]


def test_a_large_answer_is_whole(served: Served) -> None:
    """Above the size at which answers are made on another thread."""
    parts = [("file", photo(100 + i)) for i in range(64)]
    body = served.http.post("/embed", files=parts, params={"pooling": "patches,mean"}).json()
    assert np.shape(body["embeddings"]["patches"]) == (64, NUM_PATCHES, DIM)


def test_large_bodies_are_read_like_small_ones(served: Served, fake_bundle: Bundle) -> None:
    """Above the size at which bodies are parsed and hashed on another thread."""
    images = [photo(seed, "BMP", 700, 700) for seed in (300, 301)]
    texts = [base64.b64encode(image).decode() for image in images]
    answers = [
        served.http.post("/embed", files=[("file", image) for image in images]),
        served.http.post("/embed", json={"images": texts}),
    ]
    want = [unit(expected(fake_bundle, image)) for image in images]
    for answer in answers:
        np.testing.assert_allclose(answer.json()["embeddings"], want, rtol=1e-5)


def test_times_are_told(served: Served) -> None:
    timing = served.embed(photo(200)).headers["server-timing"]
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    assert stages.keys() == {"read", "cache", "decode", "queue", "infer", "encode", "total"}
    assert float(stages["decode"]) > 0
    again = served.embed(photo(200)).headers["server-timing"]
    assert "decode" not in again


def test_images_of_one_channel_work(tmp_path: Any) -> None:
    encoder = GRAPHS["encoder"]
    images = tensor("images", "uint8", "N", 32, 32, 1)
    coloured = make_bundle(tmp_path / "b", "encoder")
    model = {**coloured.manifest.model.model_dump(), "channels": 1}
    grey = make_bundle(
        tmp_path / "grey",
        "encoder",
        model=model,
        preprocess={"resize": (32, 32), "crop": (32, 32), "mean": [0.5], "std": [0.25]},
        graphs={"encoder": graph("encoder", [images, encoder["inputs"][1]], encoder["outputs"])},
    )
    with serving_fake(grey) as (served, _):
        answer = served.embed(encoded(Image.fromarray(pixels(1)).convert("L")))
    assert answer.status_code == 200
