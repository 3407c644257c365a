"""Images by URL, from a real TLS server on loopback that stands for the internet, and all that must not be reached."""

from __future__ import annotations

import ipaddress
import ssl
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from bundle.errors import InvalidInput, TooLarge
from bundle.store import Bundle
from service.fetch import Fetcher, fetch_images, is_public
from tests.service.helpers import photo, serving_fake

TLS = Path(__file__).parent / "tls"  # an authority whose key is gone, and a server's certificate for *.test names below
PHOTO = photo(1)
LOOPBACK = "127.0.0.1"


class Site(BaseHTTPRequestHandler):
    server: Internet

    def do_GET(self) -> None:
        self.server.asked.append((self.headers["host"], self.path))
        answer = getattr(self, "answer_" + self.path.split("?")[0].strip("/").partition("/")[0], None)
        if answer is None:
            self.reply(404)
        else:
            answer()

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in ({"content_length": str(len(body))} | headers).items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def answer_photo(self) -> None:
        self.reply(200, PHOTO)

    def answer_unsized(self) -> None:
        self.send_response(200)
        self.end_headers()
        for _ in range(20):
            self.wfile.write(bytes(10_000))

    def answer_sized(self) -> None:
        self.reply(200, b"", content_length="1000000")

    def answer_short(self) -> None:
        self.reply(200, b"abc", content_length="10")

    def answer_zipped(self) -> None:
        self.reply(200, b"abc", content_encoding="gzip")

    def answer_slow(self) -> None:
        self.reply(200, b"", content_length="10")
        for _ in range(30):
            self.wfile.write(b"x")
            self.wfile.flush()
            time.sleep(0.1)

    def answer_to(self) -> None:
        self.reply(302, location=self.path.partition("?")[2].format(port=self.server.server_port))

    def answer_hops(self) -> None:
        left = int(self.path.rpartition("/")[2])
        self.reply(307, location=f"/hops/{left - 1}" if left else "/photo")

    def log_message(self, *args: Any) -> None:
        pass


class Internet(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__((LOOPBACK, 0), Site)
        self.asked: list[tuple[str, str]] = []
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(TLS / "server.pem")
        self.socket = tls.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)

    def handle_error(self, *args: Any) -> None:
        pass  # clients that hang up are what is tested

    def url(self, path: str, host: str = "photos.test") -> str:
        return f"https://{host}:{self.server_port}/{path}"


@pytest.fixture
def internet() -> Iterator[Internet]:
    with Internet() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


NAMES = {
    "photos.test": [LOOPBACK],
    "other.test": [LOOPBACK],
    "uncertified.test": [LOOPBACK],
    "inside.test": ["10.0.0.7"],
    "mixed.test": [LOOPBACK, "10.0.0.7"],
    "down.test": ["127.0.0.2"],
    "nowhere.test": [],
}


def fetcher(internet: Internet, **options: Any) -> Fetcher:
    """One to which 127/8 is public, and everything else is what it is."""

    async def resolve(host: str, _: int) -> list[str]:
        if host not in NAMES:
            raise OSError("no such name")
        return NAMES[host]

    defaults: dict[str, Any] = {
        "max_bytes": 100_000,
        "timeout_s": 5,
        "resolve": resolve,
        "allow": lambda address: address in ipaddress.ip_network("127.0.0.0/8") or is_public(address),
        "ports": {internet.server_port},
        "tls": ssl.create_default_context(cafile=str(TLS / "ca.pem")),
    }
    return Fetcher(**defaults | options)


async def failure(fetcher: Fetcher, url: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        await fetcher.fetch([b"bytes", url])
    assert caught.value.index == 1
    return str(caught.value)


async def test_urls_take_the_place_of_images(internet: Internet) -> None:
    urls = [internet.url("photo?a=1"), internet.url("photo", "other.test")]
    assert await fetcher(internet).fetch([b"x", urls[0], b"y", urls[1]]) == [b"x", PHOTO, b"y", PHOTO]
    port = internet.server_port
    assert sorted(internet.asked) == [(f"other.test:{port}", "/photo"), (f"photos.test:{port}", "/photo?a=1")]


@pytest.mark.parametrize("host", ["inside.test", "mixed.test", "nowhere.test", "unknown.test", "down.test", "a..b"])
async def test_what_is_inside_or_is_not_there_gets_the_same_answer(internet: Internet, host: str) -> None:
    assert await failure(fetcher(internet), internet.url("photo", host)) == "image 1 could not be fetched from its URL"
    assert internet.asked == []


async def test_the_certificate_must_be_for_the_name_and_of_a_known_authority(internet: Internet) -> None:
    same = "image 1 could not be fetched from its URL"
    assert await failure(fetcher(internet), internet.url("photo", "uncertified.test")) == same
    assert await failure(fetcher(internet, tls=ssl.create_default_context()), internet.url("photo")) == same
    assert internet.asked == []


async def test_a_name_that_changes_its_address_is_asked_for_it_once(internet: Internet) -> None:
    answers = iter([[LOOPBACK]])  # a second question would find nothing

    async def resolve(_: str, __: int) -> list[str]:
        return next(answers)

    assert await fetcher(internet, resolve=resolve).fetch([internet.url("photo")]) == [PHOTO]


async def test_redirects_are_followed_by_the_same_rules(internet: Internet) -> None:
    fetch = fetcher(internet)
    assert await fetch.fetch([internet.url("hops/2")]) == [PHOTO]
    assert await failure(fetch, internet.url("hops/3")) == "image 1: its URL redirects more than 3 times"
    assert await fetch.fetch([internet.url("to?https://other.test:{port}/photo")]) == [PHOTO]
    inside = internet.url("to?https://inside.test:{port}/photo")
    assert await failure(fetch, inside) == "image 1 could not be fetched from its URL"
    for location in ("http://photos.test/", "https://photos.test:22/", "https://me@photos.test:{port}/", "file:///etc"):
        assert "a URL must be" in await failure(fetch, internet.url(f"to?{location}"))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("missing", "image 1: its URL answered with status 404"),
        ("zipped", "image 1: its URL answered with a compressed body"),
        ("short", "image 1 could not be fetched from its URL"),
        ("slow", "image 1 did not come from its URL within 500 ms"),
    ],
)
async def test_an_answer_that_is_no_image(internet: Internet, path: str, message: str) -> None:
    assert await failure(fetcher(internet, timeout_s=0.5), internet.url(path)) == message


@pytest.mark.parametrize("path", ["sized", "unsized"])
async def test_too_many_bytes_are_not_read(internet: Internet, path: str) -> None:
    with pytest.raises(TooLarge, match="image 0: with it the images have more than 100000 bytes"):
        await fetcher(internet).fetch([internet.url(path)])


async def test_the_images_of_a_request_share_the_bytes_it_may_have(internet: Internet) -> None:
    most = len(PHOTO) * 5 // 2
    url = internet.url("photo")
    assert len(await fetcher(internet, max_bytes=most).fetch([url] * 2)) == 2
    with pytest.raises(TooLarge):
        await fetcher(internet, max_bytes=most).fetch([url] * 3)


@pytest.mark.parametrize(
    "url",
    [
        "http://photos.test/", "https://photos.test:80/", "https://me:pw@photos.test/", "https://@photos.test/",
        "https:///photo", "https://photos.test/ö", "https://photos.test/a b", "https://photos.test/a\r\nx: y",
        "https://photos.test:99999/", "https://[::1/", "https://photos.test\\@inside.test/",
        "https://a.test/" + "x" * 3000,
    ],
)  # fmt: skip
async def test_urls_that_are_never_fetched(internet: Internet, url: str) -> None:
    message = await failure(fetcher(internet, ports={443}), url)
    assert "URL must be" in message or "URL is malformed" in message


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.9", "224.0.0.1",
        "255.255.255.255", "240.0.0.1", "192.88.99.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%1", "fc00::1",
        "fec0::1", "ff0e::1", "::ffff:10.0.0.1", "::ffff:8.8.8.8", "::10.0.0.1", "64:ff9b::a00:1", "64:ff9b:1::a00:1",
        "2002:a00:1::", "2001:0:a00:1::", "2001:db8::1",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public(address: str) -> None:
    assert not is_public(ipaddress.ip_address(address))


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "2a00:1450::1"])
def test_addresses_that_are_public(address: str) -> None:
    assert is_public(ipaddress.ip_address(address))


async def test_bytes_pass_without_a_fetcher() -> None:
    assert await fetch_images([b"a", b"b"], None) == [b"a", b"b"]


def test_through_the_service_where_it_is_on(fake_bundle: Bundle, internet: Internet) -> None:
    with serving_fake(fake_bundle) as (served, _):
        served.app.state.fetcher = fetcher(internet)
        answer = served.http.post("/embed", json={"images": [internet.url("photo"), internet.url("unsized")]})
        assert (answer.status_code, answer.json()["error"]["param"]) == (413, "images[1]")
        answer = served.http.post("/embed", json={"images": [internet.url("photo")]})
        assert answer.json()["embeddings"] == served.embed(PHOTO).json()["embeddings"]


def test_through_the_service_by_its_settings(fake_bundle: Bundle) -> None:
    """Addresses that are written out need no resolver, so nothing leaves this machine."""
    body = {"images": ["aGk=", "https://127.0.0.1/cat.jpg"]}
    with serving_fake(fake_bundle, image_urls=True) as (served, _):
        error = served.http.post("/embed", json=body).json()["error"]
        assert (error["code"], error["message"]) == (400, "image 1 could not be fetched from its URL")
    with serving_fake(fake_bundle) as (served, _):
        error = served.http.post("/embed", json=body).json()["error"]
        assert (error["code"], error["param"]) == (400, "images[1]")
        assert error["message"] == "image 1 is a URL, which this service does not fetch (MAEVE_IMAGE_URLS)"
