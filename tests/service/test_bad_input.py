"""What a stranger may send: each answer has the one shape, and the next good request is served."""

from __future__ import annotations

import base64
import io
import struct
import zlib
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from bundle.store import Bundle
from tests.service.helpers import Served, encoded, photo, pixels, serving_fake


@pytest.fixture(scope="module", params=[1, 0], ids=["decode-thread", "decode-on-lane"])
def served(fake_bundle: Bundle, request: pytest.FixtureRequest) -> Iterator[Served]:
    """One lane, at most one decode thread and no cache: whatever kills a thread is noticed by the next request."""
    limits: dict[str, Any] = {"max_body_bytes": 200_000, "max_images": 4, "max_queue": 8}
    with serving_fake(fake_bundle, decode_threads=request.param, cache_bytes=0, **limits) as (served, _):
        yield served


@pytest.fixture(autouse=True)
def the_next_good_request_is_served(served: Served) -> Iterator[None]:
    yield
    answer = served.embed(photo(1))
    assert answer.status_code == 200
    assert served.http.get("/livez").status_code == 200


def check_error(answer: httpx.Response, status: int, kind: str, message: str, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    assert body.keys() == {"error"}
    assert body["error"].keys() == {"type", "message", "param", "code"}
    assert (body["error"]["type"], body["error"]["code"], body["error"]["param"]) == (kind, status, param)
    assert message in body["error"]["message"]


def jpeg(seed: int = 0) -> bytes:
    return photo(seed, "JPEG", 100, 120)


def huge_png() -> bytes:
    """A header that promises 100 megapixels, and a few bytes."""
    header = struct.pack(">IIBBBBB", 10_000, 10_000, 8, 2, 0, 0, 0)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


BAD_IMAGES = {
    "truncated JPEG": (jpeg()[: len(jpeg()) // 2], 400, "invalid_input", "truncated or corrupt"),
    "a JPEG's first bytes": (jpeg()[:20], 400, "invalid_input", "cut short"),
    "0 bytes": (b"", 400, "invalid_input", "is empty"),
    "text": (b"Dear service, please embed this. Yours", 415, "unsupported_media", "none of the types"),
    "100 megapixels": (huge_png(), 413, "too_large", "10000 x 10000 pixels"),
    "PDF": (b"%PDF-1.7 ...", 415, "unsupported_media", "none of the types"),
}


@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_alone(served: Served, name: str) -> None:
    image, status, kind, message = BAD_IMAGES[name]
    answer = served.http.post("/embed", content=image, headers={"content-type": "image/jpeg"})
    check_error(answer, status, kind, f"image 0 {message}" if message.startswith("is") else message, "images[0]")


@pytest.mark.parametrize("route", ["/embed", "/classify"])
@pytest.mark.parametrize("name", BAD_IMAGES)
def test_a_bad_image_among_good_ones_is_told_by_its_index(served: Served, name: str, route: str) -> None:
    image, status, kind, message = BAD_IMAGES[name]
    parts = [("file", ("a", photo(1))), ("file", ("b", photo(2))), ("file", ("c", image))]
    check_error(served.http.post(route, files=parts), status, kind, message, "images[2]")


def test_one_bad_image_in_two_places_and_requests_is_told_by_each_ones_index(served: Served) -> None:
    """The work for identical bytes is shared; the blame is not."""
    bad = BAD_IMAGES["truncated JPEG"][0]
    for parts, index in (([photo(1), bad, bad], 1), ([bad, photo(1)], 0), ([photo(1), photo(2), photo(3), bad], 3)):
        answer = served.http.post("/embed", files=[("file", part) for part in parts])
        check_error(answer, 400, "invalid_input", f"image {index} is truncated", f"images[{index}]")


def rotated(orientation: int) -> bytes:
    """Of a size that is cut and not scaled: scaled, a JPEG's pixels are only near to those of another format."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(Image.fromarray(pixels(1, 32, 48)), "JPEG", exif=exif.tobytes())


def animation() -> bytes:
    frames = [Image.fromarray(pixels(seed)) for seed in range(3)]
    out = io.BytesIO()
    frames[0].save(out, "GIF", save_all=True, append_images=frames[1:])
    return out.getvalue()


UNUSUAL_IMAGES = {
    "CMYK": encoded(Image.fromarray(pixels(1)).convert("CMYK"), "JPEG"),
    "16-bit grey": encoded(Image.fromarray(np.arange(0, 65536, 32, dtype=np.uint16).reshape(32, 64)), "PNG"),
    "EXIF-rotated": rotated(6),
    "animated GIF": animation(),
    "RGBA": encoded(Image.fromarray(np.dstack([pixels(1), pixels(2)[..., :1]])), "PNG"),
    "palette": encoded(Image.fromarray(pixels(1)).convert("P"), "PNG"),
    "1 bit": encoded(Image.fromarray(pixels(1)).convert("1"), "PNG"),
    "WebP": photo(1, "WEBP"),
    "BMP": photo(1, "BMP"),
    "TIFF": photo(1, "TIFF"),
    "one pixel": photo(1, "PNG", 1, 1),
    "a strip": photo(1, "PNG", 1, 3000),
}


@pytest.mark.parametrize("name", UNUSUAL_IMAGES)
def test_an_unusual_image_is_embedded(served: Served, name: str) -> None:
    answer = served.http.post("/embed", content=UNUSUAL_IMAGES[name], headers={"content-type": "image/*"})
    assert answer.status_code == 200, answer.text


def test_an_image_turned_by_exif_is_the_upright_one(served: Served) -> None:
    turned = Image.open(io.BytesIO(rotated(6)))
    upright = encoded(turned.transpose(Image.Transpose.ROTATE_270), "PNG")
    parts = [("file", rotated(6)), ("file", upright), ("file", rotated(1))]
    vectors = served.http.post("/embed", files=parts).json()["embeddings"]
    assert vectors[0] == vectors[1] != vectors[2]


BAD_JSON: dict[str, tuple[Any, int, str, str, str]] = {
    "not JSON": (b"{", 422, "bad_parameter", "malformed JSON", "body"),
    "a list": (b"[]", 422, "bad_parameter", '{"images": [...]}', "images"),
    "no images": (b"{}", 422, "bad_parameter", '{"images": [...]}', "images"),
    "more": (b'{"images": ["aGk="], "x": 1}', 422, "bad_parameter", '{"images": [...]}', "images"),
    "empty": (b'{"images": []}', 422, "bad_parameter", "at least one", "images"),
    "a number": (b'{"images": ["aGk=", 5]}', 422, "bad_parameter", "image 1 must be a string", "images[1]"),
    "bad base64": (b'{"images": ["***"]}', 400, "invalid_input", "image 0 is not valid base64", "images[0]"),
    "beyond ASCII": ('{"images": ["ä"]}'.encode(), 400, "invalid_input", "image 0 is not valid base64", "images[0]"),
    "plain data URI": (b'{"images": ["data:text/plain,hi"]}', 400, "invalid_input", "not in base64", "images[0]"),
    "too many": (b'{"images": ["", "", "", "", ""]}', 413, "too_large", "more than 4 images in one request", "images"),
}


@pytest.mark.parametrize("name", BAD_JSON)
def test_bad_json(served: Served, name: str) -> None:
    body, status, kind, message, param = BAD_JSON[name]
    answer = served.http.post("/embed", content=body, headers={"content-type": "application/json"})
    check_error(answer, status, kind, message, param)


MULTIPART = "multipart/form-data; boundary=b"
PART = b'--b\r\nContent-Disposition: form-data; name="file"\r\n\r\n'
BAD_MULTIPART: dict[str, tuple[str, bytes, str, str]] = {
    "no boundary": ("multipart/form-data", PART, "without a boundary", "content-type"),
    "not multipart": (MULTIPART, b"hello", "malformed", "body"),
    "cut short": (MULTIPART, PART + b"abc", "cut short", "body"),
    "other name": (MULTIPART, PART.replace(b'"file"', b'"image"') + b"x\r\n--b--\r\n", "unknown part 'image'", "image"),
    "no name": (MULTIPART, b"--b\r\nContent-Type: image/png\r\n\r\nx\r\n--b--\r\n", "has no name", "body"),
    "no parts": (MULTIPART, b"--b--\r\n", "no part is called 'file'", "file"),
}


@pytest.mark.parametrize("name", BAD_MULTIPART)
def test_bad_multipart(served: Served, name: str) -> None:
    media_type, body, message, param = BAD_MULTIPART[name]
    answer = served.http.post("/embed", content=body, headers={"content-type": media_type})
    check_error(answer, 422, "bad_parameter", message, param)


def test_too_many_parts(served: Served) -> None:
    answer = served.http.post("/embed", files=[("file", photo(1))] * 5)
    check_error(answer, 413, "too_large", "more than 4 images in one request", "images")


def test_too_many_bytes_are_refused_by_their_declared_length_and_by_count(served: Served) -> None:
    body = b"\xff\xd8\xff" + bytes(300_000)
    check_error(served.http.post("/embed", content=body), 413, "too_large", "more than 200000 bytes", "body")
    chunks = (body[i : i + 10_000] for i in range(0, len(body), 10_000))
    check_error(served.http.post("/embed", content=chunks), 413, "too_large", "more than 200000 bytes", "body")


@pytest.mark.parametrize("media_type", ["text/plain", "application/pdf", "video/mp4", "nonsense"])
def test_a_body_of_another_type(served: Served, media_type: str) -> None:
    answer = served.http.post("/embed", content=photo(1), headers={"content-type": media_type})
    check_error(answer, 415, "unsupported_media", f"cannot read {media_type}", "content-type")


def test_a_compressed_body(served: Served) -> None:
    answer = served.http.post("/embed", content=photo(1), headers={"content-encoding": "gzip"})
    check_error(answer, 415, "unsupported_media", "compressed bodies", "content-encoding")


@pytest.mark.parametrize(
    ("params", "message", "param"),
    [
        ({"pooling": "max"}, "pooling: must be some of cls, mean, patches", "pooling"),
        ({"pooling": "cls,cls"}, "pooling: must be some of cls, mean, patches, each once", "pooling"),
        ({"pooling": ""}, "pooling: must be some of", "pooling"),
        ({"keep": "0"}, "keep: Input should be greater than 0", "keep"),
        ({"keep": "1.5"}, "keep: Input should be less than or equal to 1", "keep"),
        ({"keep": "nan"}, "keep: ", "keep"),
        ({"dtype": "int8"}, "dtype: Input should be 'float32' or 'float16'", "dtype"),
        ({"normalize": "maybe"}, "normalize: Input should be a valid boolean", "normalize"),
        ({"polling": "cls"}, "polling: unknown parameter", "polling"),
    ],
)
def test_a_bad_query(served: Served, params: dict[str, str], message: str, param: str) -> None:
    check_error(served.embed(photo(1), **params), 422, "bad_parameter", message, param)


def test_a_parameter_given_twice(served: Served) -> None:
    answer = served.http.post("/embed?pooling=cls&pooling=mean", content=photo(1))
    check_error(answer, 422, "bad_parameter", "pooling: given more than once", "pooling")


def test_several_poolings_do_not_fit_one_tensor(served: Served) -> None:
    for accept in ("application/octet-stream", "application/x-npy"):
        answer = served.http.post(
            "/embed", content=photo(1), params={"pooling": "cls,mean"}, headers={"accept": accept}
        )
        check_error(answer, 422, "bad_parameter", f"{accept} holds one pooling", "pooling")


def test_top_k_must_be_positive(served: Served) -> None:
    answer = served.http.post("/classify", content=photo(1), params={"top_k": 0})
    check_error(answer, 422, "bad_parameter", "top_k: ", "top_k")


@pytest.mark.parametrize(("route", "accept"), [("/embed", "text/html"), ("/reconstruct", "image/jpeg")])
def test_an_answer_in_no_acceptable_form(served: Served, route: str, accept: str) -> None:
    answer = served.http.post(route, content=photo(1), headers={"accept": accept})
    check_error(answer, 406, "not_acceptable", f"cannot answer in {accept}", None)


def test_routes_and_methods_that_are_not_there(served: Served) -> None:
    check_error(served.http.get("/nowhere"), 404, "not_found", "there is no such route", None)
    answer = served.http.get("/embed")
    check_error(answer, 405, "method_not_allowed", "the route does not know this method; use POST", None)
    assert answer.headers["allow"] == "POST"


@pytest.mark.parametrize("value", ["soon", "-5", "0", "nan", ""])
def test_a_bad_time_limit(served: Served, value: str) -> None:
    answer = served.http.post("/embed", content=photo(1), headers={"x-request-timeout-ms": value})
    check_error(answer, 422, "bad_parameter", "must be a positive number of milliseconds", "x-request-timeout-ms")


def test_base64_of_a_broken_image(served: Served) -> None:
    texts = [base64.b64encode(image).decode() for image in (photo(1), BAD_IMAGES["truncated JPEG"][0])]
    answer = served.http.post("/embed", json={"images": texts})
    check_error(answer, 400, "invalid_input", "image 1 is truncated", "images[1]")


def test_json_that_is_not_called_so_is_recognised(served: Served) -> None:
    """As `curl -d` sends it."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    answer = served.http.post("/embed", content=b'{"images": []}', headers=headers)
    check_error(
        answer, 415, "unsupported_media", "looks like JSON; send it as Content-Type: application/json", "content-type"
    )
