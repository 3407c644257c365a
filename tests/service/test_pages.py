"""The pages and their files, as a browser or a proxy asks for them."""

from __future__ import annotations

import http.client
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import service
from bundle.store import Bundle
from tests.service.helpers import Served, serving_fake

STATIC = Path(service.__file__).parent / "static"
PAGES = {"/": "index.html", "/docs": "docs.html"}
TYPES = {".js": "text/javascript", ".css": "text/css", ".jpg": "image/jpeg"}
FILES = sorted(path.relative_to(STATIC).as_posix() for path in STATIC.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle) as (served, _):
        yield served


@pytest.mark.parametrize(("path", "name"), PAGES.items())
def test_a_page_is_its_file(served: Served, path: str, name: str) -> None:
    answer = served.http.get(path)
    assert answer.content == (STATIC / name).read_bytes()
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert answer.headers["cache-control"] == "no-cache"


@pytest.mark.parametrize("path", PAGES)
def test_a_page_may_load_its_own_files_alone(served: Served, path: str) -> None:
    policy = served.http.get(path).headers["content-security-policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["script-src"] == rules["style-src"] == rules["connect-src"] == "'self'"
    assert rules["img-src"] == "'self' data:"
    assert "unsafe" not in policy


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_needs_nothing_that_the_policy_forbids(name: str) -> None:
    html = (STATIC / name).read_text(encoding="utf-8")
    assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|<script(?![^>]*\ssrc=)", html)


@pytest.mark.parametrize("name", PAGES.values())
def test_a_page_names_its_files_so_that_a_prefix_of_a_proxy_does_not_matter(name: str) -> None:
    html = (STATIC / name).read_text(encoding="utf-8")
    named = [each for each in re.findall(r'\s(?:src|href)="([^"#]+)"', html) if not each.startswith("data:")]
    assert not [each for each in named if each.startswith(("/", "http"))]
    assert [each for each in named if each.startswith("static/") and each.removeprefix("static/") not in FILES] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith(".js")])
def test_a_module_imports_what_there_is(name: str) -> None:
    text = (STATIC / name).read_text(encoding="utf-8")
    for imported in re.findall(r'(?:from|import) "(.+?)"', text):
        assert imported.startswith((".", "..")), imported
        assert (STATIC / name).parent.joinpath(imported).is_file(), imported


@pytest.mark.parametrize("path", [*PAGES, "/static/app.js"])
def test_a_browser_that_has_it_is_told_so(served: Served, path: str) -> None:
    first = served.http.get(path)
    for known in (first.headers["etag"], f'"other", W/{first.headers["etag"]}'):
        again = served.http.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
        assert again.headers["cache-control"] == "no-cache"
    assert served.http.get(path, headers={"if-none-match": '"other"'}).status_code == 200


@pytest.mark.parametrize("path", [*PAGES, "/static/style.css"])
def test_head_tells_the_same_without_the_body(served: Served, path: str) -> None:
    got, head = served.http.get(path), served.http.head(path)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-length", "content-type", "etag"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_cannot_be_framed(served: Served, path: str) -> None:
    answer = served.http.get(path)
    assert "frame-ancestors 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-frame-options"] == "DENY"


@pytest.mark.parametrize(
    "path", [f"/static/{name}{end}" for name in PAGES.values() for end in ("", "/", "%2f", "?x", "/.")]
)
def test_a_page_has_no_second_address_without_its_headers(served: Served, path: str) -> None:
    for method in ("GET", "HEAD"):
        assert served.http.request(method, path).status_code == 404


@pytest.mark.parametrize("name", [name for name in FILES if name not in PAGES.values()])
def test_every_file_is_served_with_its_type(served: Served, name: str) -> None:
    answer = served.http.get(f"/static/{name}")
    assert answer.headers["content-type"].split(";")[0] == TYPES[Path(name).suffix]
    assert answer.headers["cache-control"] == "no-cache"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("path", ["/static/nothing.js", "/static/", "/static/panels", "/static/%00", "/docs/"])
def test_what_there_is_not(served: Served, path: str) -> None:
    answer = served.http.get(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (404, "not_found")


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py", "/static/%2e%2e/app.py", "/static/..%2fapp.py", "/static/panels/../../app.py",
        "/static//etc/passwd", "/static/%2fetc%2fpasswd", "/static/..%5capp.py", "/static/....//app.py",
    ],
)  # fmt: skip
def test_no_path_leads_out(served: Served, path: str) -> None:
    """Sent as written: httpx would tidy the path up."""
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=10)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        assert answer.status == 404
        assert b"import" not in answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("path", [*PAGES, "/static/app.js"])
def test_pages_are_only_read(served: Served, path: str) -> None:
    answer = served.http.post(path)
    assert (answer.status_code, answer.json()["error"]["type"]) == (405, "method_not_allowed")


def test_a_key_does_not_close_the_pages(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="secret") as (served, _):
        for path in (*PAGES, "/static/app.js"):
            assert served.http.get(path).status_code == 200
