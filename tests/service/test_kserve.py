"""/v2 as Triton's own client sees it."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.http as triton
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from bundle.manifest import Manifest
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import DIM, LABELS, NUM_PATCHES, Served, photo, serving_fake

INFER = "/v2/models/fake/infer"


@pytest.fixture(scope="module", params=[1, 0], ids=["decode-thread", "decode-on-lane"])
def service(fake_bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[tuple[Served, FakeRuntime]]:
    with serving_fake(fake_bundle, max_images=4, decode_threads=request.param) as (served, runtime):
        yield served, runtime


@pytest.fixture(scope="module")
def served(service: tuple[Served, FakeRuntime]) -> Served:
    return service[0]


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[Any]:
    with triton.InferenceServerClient(f"127.0.0.1:{served.port}") as client:
        yield client


def squares(num_images: int = 2) -> NDArray[np.uint8]:
    """Pixels of the network's size: [N, 32, 32, 3]."""
    return np.random.default_rng(num_images).integers(0, 256, (num_images, 32, 32, 3), dtype=np.uint8)


def tensor(name: str, datatype: str, array: NDArray[Any], *, binary: bool = True) -> Any:
    made = triton.InferInput(name, list(array.shape), datatype)
    made.set_data_from_numpy(array, binary_data=binary)
    return made


def encoded(*images: bytes) -> Any:
    return tensor("images", "BYTES", np.array(images, dtype=np.object_))


def wanted(*names: str, binary: bool = True) -> list[Any]:
    return [triton.InferRequestedOutput(name, binary_data=binary) for name in names]


def direct(bundle: Bundle, pixels: NDArray[np.uint8], ids: NDArray[np.int64] | None = None) -> dict[str, NDArray[Any]]:
    """What the runtime itself gives."""
    ids = np.tile(np.arange(NUM_PATCHES), (len(pixels), 1)) if ids is None else ids
    return FakeRuntime(bundle).run("encoder", {"images": pixels, "ids_keep": ids})


def test_encoded_images_get_the_vectors_of_embed(client: Any, served: Served) -> None:
    result = client.infer("fake", [encoded(photo(1), photo(2))], outputs=wanted("mean", "cls"), request_id="7")
    for pooling in ("mean", "cls"):
        parts = [("file", photo(1)), ("file", photo(2))]
        answer = served.http.post("/embed", files=parts, params={"pooling": pooling, "normalize": False})
        np.testing.assert_array_equal(result.as_numpy(pooling), np.float32(answer.json()["embeddings"]))
    response = result.get_response()
    assert (response["id"], response["model_name"]) == ("7", "fake")
    assert [each["name"] for each in response["outputs"]] == ["mean", "cls"]


@pytest.mark.parametrize("binary_in", [True, False])
@pytest.mark.parametrize("binary_out", [True, False])
def test_pixels_and_patches_reach_the_encoder_as_they_are(
    client: Any, fake_bundle: Bundle, binary_in: bool, binary_out: bool
) -> None:
    pixels = squares()
    ids = np.array([[3, 0, 15], [7, 8, 2]], dtype=np.int64)
    inputs = [
        tensor("pixels", "UINT8", pixels, binary=binary_in), tensor("ids_keep", "INT64", ids, binary=binary_in),
    ]  # fmt: skip
    result = client.infer("fake", inputs, outputs=wanted("tokens", "cls", "mean", binary=binary_out))
    truth = direct(fake_bundle, pixels, ids)
    assert result.as_numpy("tokens").shape == (2, 4, DIM)
    for name in ("tokens", "cls", "mean"):
        np.testing.assert_array_equal(result.as_numpy(name), truth[name])


def test_everything_by_default(client: Any, fake_bundle: Bundle) -> None:
    result = client.infer("fake", [tensor("pixels", "UINT8", squares())])
    truth = direct(fake_bundle, squares())
    for name in ("tokens", "cls", "mean"):
        np.testing.assert_array_equal(result.as_numpy(name), truth[name])
    logits = FakeRuntime(fake_bundle).run("head", {"mean": truth["mean"]})["logits"]
    np.testing.assert_array_equal(result.as_numpy("logits"), logits)
    assert logits.shape == (2, len(LABELS))


def test_the_order_of_ids_and_their_bytes_are_part_of_the_caches_key(client: Any, fake_bundle: Bundle) -> None:
    pixels = squares(1)
    for row in ([1, 2], [2, 1], [1, 3]):
        ids = np.array([row], dtype=np.int64)
        inputs = [tensor("pixels", "UINT8", pixels), tensor("ids_keep", "INT64", ids)]
        got = client.infer("fake", inputs, outputs=wanted("mean")).as_numpy("mean")
        np.testing.assert_array_equal(got, direct(fake_bundle, pixels, ids)["mean"])


def test_encoded_images_with_patches_of_their_own(client: Any, service: tuple[Served, FakeRuntime]) -> None:
    ids = np.array([[0, 1], [0, 1]], dtype=np.int64)
    _, runtime = service
    calls = len(runtime.calls)
    same = client.infer("fake", [encoded(photo(5), photo(5)), tensor("ids_keep", "INT64", ids)], outputs=wanted("cls"))
    cls = same.as_numpy("cls")
    np.testing.assert_array_equal(cls[0], cls[1])
    assert runtime.calls[calls:] == [("encoder", 1)]  # the same image and patches are computed once
    whole = client.infer("fake", [encoded(photo(5))], outputs=wanted("cls")).as_numpy("cls")
    assert not np.array_equal(whole[0], cls[0])


def test_base64_in_json(served: Served) -> None:
    text = base64.b64encode(photo(1)).decode()
    for shape, data in (([1], [text]), ([1, 1], [[text]]), ([1, 1], [f"data:image/png;base64,{text}"])):
        body = {
            "inputs": [{"name": "images", "datatype": "BYTES", "shape": shape, "data": data}],
            "outputs": [{"name": "mean"}],
        }
        answer = served.http.post(INFER, json=body)
        assert answer.status_code == 200, answer.text
        [output] = answer.json()["outputs"]
        assert output["shape"] == [1, DIM]
        embedded = served.http.post("/embed", content=photo(1), params={"normalize": False}).json()
        assert output["data"] == embedded["embeddings"][0]
        assert "id" not in answer.json()


def test_what_the_server_and_the_model_say_of_themselves(client: Any, fake_bundle: Bundle) -> None:
    manifest: Manifest = fake_bundle.manifest
    version = manifest.digest[:12]
    assert client.get_server_metadata()["extensions"] == ["binary_tensor_data"]
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("fake")
    assert client.is_model_ready("fake", version)
    assert not client.is_model_ready("other")
    assert not client.is_model_ready("fake", "1")
    metadata = client.get_model_metadata("fake", version)
    assert metadata == client.get_model_metadata("fake")
    assert metadata["versions"] == [version]
    assert {each["name"]: (each["datatype"], each["shape"]) for each in metadata["inputs"]} == {
        "images": ("BYTES", [-1]), "pixels": ("UINT8", [-1, 32, 32, 3]), "ids_keep": ("INT64", [-1, -1]),
    }  # fmt: skip
    assert {each["name"]: each["shape"] for each in metadata["outputs"]} == {
        "cls": [-1, DIM], "mean": [-1, DIM], "tokens": [-1, -1, DIM], "logits": [-1, len(LABELS)],
    }  # fmt: skip
    pinned = client.infer("fake", [encoded(photo(1))], model_version=version, outputs=wanted("cls"))
    assert pinned.get_response()["model_version"] == version


def test_triton_shows_the_message_of_an_error(client: Any) -> None:
    with pytest.raises(InferenceServerException) as e:
        client.infer("fake", [encoded(photo(1), b"\xff\xd8\xff")])
    assert str(e.value).startswith("[400] image 1 is ")
    with pytest.raises(InferenceServerException, match="there is no model 'other'; this service has 'fake'"):
        client.infer("other", [encoded(photo(1))])
    with pytest.raises(InferenceServerException, match=r"^\[404\] there is no such route; GET /docs lists them$"):
        client.get_model_config("fake")


@pytest.mark.parametrize(
    ("ids", "message"),
    [
        ([[0, 0]], "names a patch of an image twice"),
        ([[0, 16]], "must name patches from 0 to 15"),
        ([[-1, 2]], "must name patches from 0 to 15"),
        ([[*range(16), 0]], "must be INT64 [1, K] with K from 1 to 16, got [1, 17]"),
        ([[1], [2]], "must be INT64 [1, K] with K from 1 to 16, got [2, 1]"),
        ([[]], "must be INT64 [1, K] with K from 1 to 16, got [1, 0]"),
        ([1], "must be INT64 [1, K] with K from 1 to 16, got [1]"),
    ],
)
def test_bad_patches_never_reach_an_engine(service: tuple[Served, FakeRuntime], ids: list[Any], message: str) -> None:
    served, runtime = service
    calls = len(runtime.calls)
    array = np.array(ids, dtype=np.int64)
    ids_keep = {"name": "ids_keep", "datatype": "INT64", "shape": list(array.shape), "data": ids}
    check(served.http.post(INFER, json={"inputs": [PIXELS, ids_keep]}), 422, "ids_keep", message)
    assert len(runtime.calls) == calls


def check(answer: httpx.Response, status: int, param: str | None, message: str) -> None:
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert body.keys() == {"error", "type", "param", "code"}
    assert (body["code"], body["param"]) == (status, param)
    assert message in body["error"]


PIXELS = {"name": "pixels", "datatype": "UINT8", "shape": [1, 32, 32, 3], "data": [0] * 3072}
IMAGE = {"name": "images", "datatype": "BYTES", "shape": [1], "data": [base64.b64encode(photo(1)).decode()]}


@pytest.mark.parametrize(
    ("body", "status", "param", "message"),
    [
        ({}, 422, "inputs", "inputs: Field required"),
        ({"inputs": []}, 422, "inputs", "at least 1 item"),
        ({"inputs": [IMAGE, PIXELS]}, 422, "inputs", "either images or pixels"),
        ({"inputs": [IMAGE, IMAGE]}, 422, "images", "is there twice"),
        ({"inputs": [{**IMAGE, "name": "x"}]}, 422, "inputs", "no tensor is called 'x'"),
        ({"inputs": [{**IMAGE, "datatype": "FP32"}]}, 422, "images", "must be BYTES, got 'FP32'"),
        ({"inputs": [{**IMAGE, "shape": []}]}, 422, "images", "begins with the number of images"),
        ({"inputs": [{**IMAGE, "shape": [0]}]}, 422, "images", "begins with the number of images"),
        ({"inputs": [{**IMAGE, "shape": [-1]}]}, 422, "inputs.0.shape.0", "greater than or equal to 0"),
        ({"inputs": [{**IMAGE, "shape": [2]}]}, 422, "images", "must have 2 values, got 1"),
        ({"inputs": [{**IMAGE, "shape": [1, 2]}]}, 422, "images", "must be BYTES [N], got [1, 2]"),
        ({"inputs": [{**IMAGE, "shape": [5]}]}, 413, "images", "more than 4 images"),
        ({"inputs": [{**IMAGE, "data": ["***"]}]}, 400, "images[0]", "not valid base64"),
        ({"inputs": [{**IMAGE, "data": [5]}]}, 422, "images[0]", "must be a string"),
        ({"inputs": [{**IMAGE, "parameters": {"binary_data_size": 4}}]}, 422, "images", "either data or binary"),
        ({"inputs": [{"name": "images", "datatype": "BYTES", "shape": [1]}]}, 422, "images", "either data or binary"),
        ({"inputs": [{**PIXELS, "shape": [1, 16, 32, 6]}]}, 422, "pixels", "UINT8 [N, 32, 32, 3]"),
        ({"inputs": [{**PIXELS, "data": [256] * 3072}]}, 422, "pixels", "whole numbers from 0 to 255"),
        ({"inputs": [{**PIXELS, "data": [0.5] * 3072}]}, 422, "pixels", "whole numbers from 0 to 255"),
        ({"inputs": [{**PIXELS, "data": [[0], [0, 1]]}]}, 422, "pixels", "whole numbers from 0 to 255"),
        ({"inputs": [{**PIXELS, "data": ["a"] * 3072}]}, 422, "pixels", "whole numbers from 0 to 255"),
        ({"inputs": [{**PIXELS, "data": [10**30] * 3072}]}, 422, "pixels", "whole numbers from 0 to 255"),
        ({"inputs": [PIXELS], "outputs": [{"name": "x"}]}, 422, "outputs", "no tensor is called 'x'"),
        ({"inputs": [PIXELS], "outputs": [{"name": "cls"}] * 2}, 422, "outputs", "cls is there twice"),
        ({"inputs": [PIXELS], "parameters": {"timeout": 5}}, 422, "parameters.timeout", "unknown parameter"),
        (
            {
                "inputs": [PIXELS, {"name": "ids_keep", "datatype": "INT64", "shape": [1, 1], "data": [3]}],
                "outputs": [{"name": "logits"}],
            },
            422, "logits", "leave out ids_keep",
        ),
    ],
)  # fmt: skip
def test_a_bad_request(served: Served, body: Any, status: int, param: str, message: str) -> None:
    check(served.http.post(INFER, json=body), status, param, message)


def framed(inputs: list[dict[str, Any]], rest: bytes, length: int | str | None = None) -> dict[str, Any]:
    head = json.dumps({"inputs": inputs, "outputs": [{"name": "cls"}]}).encode()
    headers = {"inference-header-content-length": str(len(head) if length is None else length)}
    return {"content": head + rest, "headers": headers}


def binary(size: int, shape: tuple[int, ...] = (1,)) -> dict[str, Any]:
    return {"name": "images", "datatype": "BYTES", "shape": shape, "parameters": {"binary_data_size": size}}


GOOD = struct.pack("<I", len(photo(1))) + photo(1)


def test_bad_framing(served: Served) -> None:
    post = served.http.post
    assert post(INFER, **framed([binary(len(GOOD))], GOOD)).status_code == 200
    header = "inference-header-content-length"
    for length in ("-1", "0", "99999999", "x", "1" * 5000, ""):
        check(post(INFER, **framed([binary(len(GOOD))], GOOD, length)), 422, header, "must be the length of the JSON")
    check(post(INFER, **framed([binary(len(GOOD))], GOOD, 5)), 422, "body", "malformed JSON")
    check(post(INFER, **framed([binary(len(GOOD))], GOOD + b"x")), 422, "body", "has 1 bytes behind the tensors")
    check(post(INFER, **framed([binary(len(GOOD) + 1)], GOOD)), 422, "images", "bytes are left behind the JSON")
    check(post(INFER, **framed([binary(len(GOOD), (2,))], GOOD)), 422, "images", "must hold 2 images")
    check(post(INFER, **framed([binary(3)], b"abc")), 422, "images", "must hold 1 images")
    lying = struct.pack("<I", 2**32 - 1) + b"abc"
    check(post(INFER, **framed([binary(len(lying))], lying)), 422, "images", "must hold 1 images")
    body = json.dumps({"inputs": [binary(len(GOOD))]}).encode()
    check(post(INFER, content=body), 422, "images", "0 bytes are left behind the JSON")
    pixels = {**PIXELS, "data": None, "parameters": {"binary_data_size": 10}}
    check(post(INFER, **framed([pixels], b"0123456789")), 422, "pixels", "has 3072 bytes, got 10")


def test_too_many_numbers_in_json_are_not_parsed(served: Served) -> None:
    answer = served.http.post(INFER, content=b'{"inputs":[' + b"[]," * 2**21 + b"[]]}")
    check(answer, 413, "body", "the JSON has more than 2097152 values")


def test_a_body_of_another_type(served: Served) -> None:
    answer = served.http.post(INFER, content=photo(1), headers={"content-type": "image/png"})
    check(answer, 415, "content-type", "cannot read image/png; send application/json or application/octet-stream")
