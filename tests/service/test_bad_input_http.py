"""What a stranger may send that is less an image than an attack on the parsers: refused quickly, by name, and the next
good request is served.
"""

from __future__ import annotations

import base64
import socket
import time
from collections.abc import Iterator

import httpx
import pytest

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import Served, photo, serving_fake

QUICK_S = 2  # a hundred times what each takes, on a machine that is busy

ROUTES = ("/embed", "/classify", "/reconstruct", "/v1/embeddings", "/v2/models/fake/infer")
JSON = {"content-type": "application/json"}


@pytest.fixture(scope="module")
def service(fake_bundle: Bundle) -> Iterator[tuple[Served, FakeRuntime]]:
    with serving_fake(fake_bundle, cache_bytes=0) as (served, runtime):
        yield served, runtime


@pytest.fixture
def served(service: tuple[Served, FakeRuntime]) -> Iterator[Served]:
    """Whatever was sent, it cost no call of the model, and the next good request is served."""
    served, runtime = service
    calls, start = len(runtime.calls), time.monotonic()
    yield served
    assert time.monotonic() - start < QUICK_S
    assert len(runtime.calls) == calls
    assert served.embed(photo(1)).status_code == 200


def check(answer: httpx.Response, status: int, kind: str, message: str, param: str | None) -> None:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/json"
    body = answer.json()
    error = {**body, "message": body["error"]} if isinstance(body["error"], str) else body["error"]
    assert (error["type"], error["code"], error["param"]) == (kind, status, param)
    assert message in error["message"]
    assert len(answer.content) < 1000  # however much was sent


NAN = b'{"images": NaN, "model": NaN, "input": NaN, "inputs": NaN}'


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("body", "status", "kind", "message"),
    [
        (b"", 422, "bad_parameter", "malformed JSON"),
        (b"null", 422, "bad_parameter", ""),
        (b"[" * 1000 + b"]" * 1000, None, None, ""),
        (b'{"a":' * 100_000, 413, "too_large", "the JSON has more than"),
        (b"[" * 2_200_000, 413, "too_large", "the JSON has more than"),
        (b"{" + b",".join(b'"k%d":0' % i for i in range(10**6)) + b"}", None, None, ""),
        (b'{"images": [' + b"1" * 1_000_000 + b"]}", 422, "bad_parameter", ""),
        (b'{"images": 1e999}', 422, "bad_parameter", "malformed JSON"),
        (NAN, 422, "bad_parameter", "malformed JSON"),
        (b'{"images": ["\xff\xfe"]}', 422, "bad_parameter", "malformed JSON"),
        (b'{"images": ["\\ud800"]}', 422, "bad_parameter", "malformed JSON"),
        (b"\xef\xbb\xbf{}", 422, "bad_parameter", ""),
        (b'{"inputs": [' + b"1," * 10**6 + b"1]}", None, None, ""),
        (b'{"inputs": [{"shape": [' + b'"",' * 10**6 + b"1]}]}", None, None, ""),
    ],
    ids=[
        "empty", "null", "1000 lists", "100000 objects", "2200000 lists", "10^6 keys", "a number of 10^6 digits",
        "infinity", "NaN", "no UTF-8", "half a surrogate", "a byte order mark", "10^6 inputs",
        "10^6 axes",
    ],
)  # fmt: skip
def test_hostile_json(
    served: Served, route: str, body: bytes, status: int | None, kind: str | None, message: str
) -> None:
    """Where the status is open, a route that takes longer lists parses it and refuses what it finds."""
    answer = served.http.post(route, content=body, headers=JSON)
    if status is None or (status == 413 and route.startswith("/v2") and len(body) < 2_000_000):
        assert answer.status_code in (413, 422)
        status, kind = answer.status_code, {413: "too_large", 422: "bad_parameter"}[answer.status_code]
        message = ""
    error = answer.json()
    param = error["param"] if "param" in error else error["error"]["param"]
    assert kind is not None
    check(answer, status, kind, message, param)


def test_ten_thousand_tiny_images(served: Served) -> None:
    """None of them is decoded, see the fixture."""
    text = base64.b64encode(photo(1, "PNG", 1, 1)).decode()
    texts = ",".join([f'"{text}"'] * 10_000)
    post = served.http.post
    check(post("/embed", content=f'{{"images":[{texts}]}}', headers=JSON), 413, "too_large", "the JSON has", "body")
    embeddings = f'{{"model":"fake","input":[{texts}]}}'
    check(post("/v1/embeddings", content=embeddings, headers=JSON), 413, "too_large", "the JSON has more than", "body")
    tensor = f'{{"inputs":[{{"name":"images","datatype":"BYTES","shape":[10000],"data":[{texts}]}}]}}'
    check(post("/v2/models/fake/infer", content=tensor, headers=JSON), 413, "too_large", "more than 64 im", "images")
    part = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\nx\r\n'
    answer = post(
        "/embed", content=part * 10_000 + b"--b--", headers={"content-type": "multipart/form-data; boundary=b"}
    )
    check(answer, 413, "too_large", "more than 64 images in one request", "images")


def test_a_part_with_endless_headers(served: Served) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="' + b"x" * 1_000_000 + b'"\r\n\r\nx\r\n--b--'
    answer = served.http.post("/embed", content=part, headers={"content-type": "multipart/form-data; boundary=b"})
    assert answer.status_code == 422
    assert len(answer.content) < 1000


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "C:\\\\x", "a\\0b", "%2e%2e%2f", "\u202e.png"])
def test_a_files_name_is_nothing_to_the_service(service: tuple[Served, FakeRuntime], name: str) -> None:
    served, _ = service
    answer = served.http.post("/embed", files={"file": (name, photo(1))})
    assert answer.status_code == 200
    assert answer.json()["embeddings"] == served.embed(photo(1)).json()["embeddings"]


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/../../etc/passwd", "/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd", "/v2/models/..%2f..%2fx/ready",
        "/v2/models/%2Fetc%2Fpasswd", "/v2/models/fake%00", "/v1/models/%ff%fe", "/v1/models/" + "x" * 8_000,
        "/embed/", "//embed", "/embed%2f", "/static/../service/app.py",
    ],
)  # fmt: skip
def test_paths_and_names_like_paths_lead_nowhere(served: Served, path: str) -> None:
    """Sent as they stand: a client's library would tidy them up."""
    head, _, body = raw(served, f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 404 ")
    assert b'"code":404' in body
    assert len(body) < 1000


def test_model_names_that_are_quoted_are_cut_short(served: Served) -> None:
    body = {"model": "../" * 50_000, "input": "aGk="}
    check(served.http.post("/v1/embeddings", json=body), 404, "model_not_found", "there is no model '../../", None)


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        ("x" * 8_000 + "=1", 422, "xxx"), ("x" * 30_000 + "=1", 414, "more than 8192 bytes"),
        ("%ff%fe=1", 422, "unknown parameter"), ("=1", 422, "unknown parameter"),
        ("a=1&a=2", 422, "a: given more than once"), ("%00=1", 422, "unknown parameter"),
        ("%zz", 422, "%zz: unknown parameter"),
        ("&".join(f"k{i}=1" for i in range(1000)), 422, "unknown parameter"),
    ],
    ids=["long", "huge", "no UTF-8", "no name", "twice", "NUL", "no escape", "many"],
)  # fmt: skip
def test_hostile_queries(served: Served, route: str, query: str, status: int, message: str) -> None:
    answer = served.http.post(f"{route}?{query}", content=photo(1), headers={"content-type": "image/png"})
    error = answer.json()
    assert answer.status_code == status
    assert message in (error["error"] if "type" in error else error["error"]["message"])
    assert len(answer.content) < 1000


@pytest.mark.parametrize(
    ("route", "name"),
    [("/embed", "keep"), ("/reconstruct", "mask_ratio"), ("/reconstruct", "seed"), ("/classify", "top_k")],
)
@pytest.mark.parametrize(
    "value", ["nan", "NaN", "inf", "-inf", "1e999", "-1e999", "-0.5", "0x10", "", " ", "1;2", "\ud7ff"]
)
def test_numbers_that_are_none(served: Served, route: str, name: str, value: str) -> None:
    answer = served.http.post(route, content=photo(1), params={name: value})
    check(answer, 422, "bad_parameter", f"{name}: ", name)


@pytest.mark.parametrize(
    "accept",
    ["nonsense", "text/html", ";;;", ",", "application/json;q=nan", "application/json;q=-1", "*/*;q=0", "\xff"],
)
def test_an_accept_that_allows_nothing(served: Served, accept: str) -> None:
    headers = {b"accept": accept.encode("latin-1")}
    check(
        served.http.post("/embed", content=photo(1), headers=headers), 406, "not_acceptable", "cannot answer in", None
    )


@pytest.mark.parametrize("media_type", ["text/plain", "\xff\xfe", "application/json/x", "; boundary=x", "a" * 5000])
@pytest.mark.parametrize("route", ROUTES)
def test_a_body_of_no_readable_type(served: Served, route: str, media_type: str) -> None:
    headers = {b"content-type": media_type.encode("latin-1")}
    answer = served.http.post(route, content=b"{}", headers=headers)
    if media_type.startswith(";") and route != "/v1/embeddings":
        assert answer.status_code in (415, 422)  # no type at all: an image, or JSON, by the route
        return
    check(answer, 415, "unsupported_media", "cannot read", "content-type")


def raw(served: Served, request: str | bytes) -> bytes:
    """The whole answer to these very bytes, which must ask for the connection to be closed."""
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(request.encode("latin-1") if isinstance(request, str) else request)
        answer = b""
        while chunk := connection.recv(65536):
            answer += chunk
    return answer


def test_chunked_bodies(service: tuple[Served, FakeRuntime]) -> None:
    """Without a length, in chunks of any size."""
    served, _ = service
    image = photo(1)
    for size in (1, 7, len(image)):
        parts = (image[i : i + size] for i in range(0, len(image), size))
        answer = served.http.post("/embed", content=parts, headers={"content-type": "image/png"})
        assert answer.status_code == 200
    assert served.http.post("/embed", content=iter(())).status_code == 400


def test_a_body_on_get_is_not_looked_at(served: Served) -> None:
    for path in ("/livez", "/info", "/v1/models", "/v2"):
        answer = served.http.request("GET", path, content=b"x" * 100_000)
        assert answer.status_code == 200


def test_head_is_get_without_the_body(served: Served) -> None:
    for path in ("/livez", "/info", "/", "/v1/models", "/v2/health/ready"):
        answer = raw(served, f"HEAD {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 200 ")
        assert answer.endswith(b"\r\n\r\n")
        length = int(served.http.head(path).headers["content-length"])
        assert abs(length - len(served.http.get(path).content)) < 50
    assert served.http.head("/embed").status_code == 405


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_other_methods(served: Served, method: str) -> None:
    try:
        answer = served.http.request(method, "/embed")
    except httpx.RemoteProtocolError:
        pytest.fail("no answer")
    if method == "BREW":
        assert answer.status_code in (400, 405)  # the HTTP parser knows no such word
        return
    check(answer, 405, "method_not_allowed", "the route does not know this method; use POST", None)
    assert answer.headers["allow"] == "POST"


def test_expect_100_continue(service: tuple[Served, FakeRuntime]) -> None:
    served, _ = service
    image = photo(1)
    head = f"POST /embed HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {len(image)}\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(f"{head}Connection: close\r\n\r\n".encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 100 Continue\r\n")
        connection.sendall(image)
        assert connection.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n")


def test_a_body_that_is_too_long_is_refused_before_it_is_sent(served: Served) -> None:
    head = "POST /embed HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 999999999\r\n\r\n"
    with socket.create_connection(("127.0.0.1", served.port), timeout=10) as connection:
        connection.sendall(head.encode())
        assert connection.recv(1000).startswith(b"HTTP/1.1 413 ")
