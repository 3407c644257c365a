"""/v1 as OpenAI's own package sees it."""

from __future__ import annotations

import base64
from collections.abc import Iterator

import numpy as np
import openai
import pytest

from bundle.store import Bundle
from tests.service.helpers import DIM, NUM_PATCHES, Served, photo, serving_fake


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle, max_images=4) as (served, _):
        yield served


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def base64_of(image: bytes) -> str:
    return base64.b64encode(image).decode()


def data_uri(image: bytes) -> str:
    return f"data:image/png;base64,{base64_of(image)}"


def expected(served: Served, *images: bytes) -> list[list[float]]:
    vectors: list[list[float]] = served.http.post("/embed", files=[("file", each) for each in images]).json()[
        "embeddings"
    ]
    return vectors


def test_the_package_gets_the_vectors_of_embed_in_order(client: openai.OpenAI, served: Served) -> None:
    """The package asks for base64 by itself, and reads it."""
    answer = client.embeddings.create(model="fake", input=[data_uri(photo(1)), base64_of(photo(2))], user="me")
    assert [each.index for each in answer.data] == [0, 1]
    np.testing.assert_array_equal(
        np.array([each.embedding for each in answer.data], np.float32),
        np.array(expected(served, photo(1), photo(2)), np.float32),
    )
    assert np.linalg.norm(answer.data[0].embedding) == pytest.approx(1, abs=1e-6)
    assert (answer.model, answer.object) == ("fake", "list")
    assert answer.usage.prompt_tokens == answer.usage.total_tokens == 2 * NUM_PATCHES


def test_one_image_alone_as_numbers(client: openai.OpenAI, served: Served) -> None:
    answer = client.embeddings.create(model="fake", input=data_uri(photo(3)), encoding_format="float", dimensions=DIM)
    assert [each.embedding for each in answer.data] == expected(served, photo(3))


def test_content_parts_and_null_options(served: Served) -> None:
    part = {"type": "image_url", "image_url": {"url": data_uri(photo(1))}}
    for given in (part, [part]):
        body = {"model": "fake", "input": given, "dimensions": None, "user": None, "encoding_format": None}
        answer = served.http.post("/v1/embeddings", json=body)
        assert answer.status_code == 200, answer.text
        assert answer.json()["data"][0]["embedding"] == expected(served, photo(1))[0]
        assert "encode;dur=" in answer.headers["server-timing"]


def test_the_models(client: openai.OpenAI) -> None:
    [model] = client.models.list().data
    assert (model.id, model.object, model.owned_by) == ("fake", "model", "maeve")
    assert client.models.retrieve("fake") == model
    with pytest.raises(openai.NotFoundError, match="there is no model 'other'"):
        client.models.retrieve("other")


def test_another_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(
        openai.NotFoundError, match="there is no model 'text-embedding-3'; this service has 'fake'"
    ) as e:
        client.embeddings.create(model="text-embedding-3", input=data_uri(photo(1)))
    assert (e.value.type, e.value.code) == ("model_not_found", "404")


def test_text_gets_an_error_that_the_package_shows(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="image 1 is not valid base64") as e:
        client.embeddings.create(model="fake", input=[data_uri(photo(1)), "a photo of a cat"])
    assert (e.value.type, e.value.param) == ("invalid_input", "images[1]")
    assert "images are sent as base64 or data URIs" in e.value.message


@pytest.mark.parametrize(
    ("body", "status", "message", "param"),
    [
        ({"input": "aGk="}, 422, "model: Field required", "model"),
        ({"model": "fake"}, 422, "input: Field required", "input"),
        ({"model": 5, "input": "aGk="}, 422, "model: Input should be a valid string", "model"),
        ({"model": "fake", "input": []}, 422, "input must be a list of at least one", "input"),
        ({"model": "fake", "input": None}, 422, "image 0 must be a string", "images[0]"),
        ({"model": "fake", "input": [[1, 2]]}, 422, "image 0 must be a string", "images[0]"),
        ({"model": "fake", "input": [{"type": "text", "text": "x"}]}, 422, "image 0 must be a string", "images[0]"),
        ({"model": "fake", "input": [""]}, 400, "image 0 is empty", "images[0]"),
        ({"model": "fake", "input": "text"}, 415, "image 0 is none of the types", "images[0]"),
        ({"model": "fake", "input": "aGk=", "dimensions": 16}, 422, f"vectors have {DIM}", "dimensions"),
        ({"model": "fake", "input": "aGk=", "dimensions": 32.5}, 422, "dimensions: ", "dimensions"),
        ({"model": "fake", "input": "aGk=", "encoding_format": "hex"}, 422, "encoding_format: ", "encoding_format"),
        ({"model": "fake", "input": "aGk=", "truncate": True}, 422, "truncate: unknown parameter", "truncate"),
        ({"model": "fake", "input": ["aGk="] * 5}, 413, "more than 4 images", "images"),
        ([], 422, "Input should be", None),
    ],
)
def test_a_bad_request(served: Served, body: object, status: int, message: str, param: str | None) -> None:
    answer = served.http.post("/v1/embeddings", json=body)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (status, status, param)
    assert message in error["message"]


def test_only_json_without_query_parameters(served: Served) -> None:
    answer = served.http.post("/v1/embeddings", content=photo(1), headers={"content-type": "image/png"})
    assert answer.status_code == 415
    assert answer.json()["error"]["message"] == "cannot read image/png; send application/json"
    answer = served.http.post("/v1/embeddings?keep=0.5", json={})
    assert answer.json()["error"]["message"] == "keep: unknown parameter"
