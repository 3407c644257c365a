"""GET /thumbnails/{path}: pictures of the folder, and of nothing else on the machine."""

from __future__ import annotations

import contextlib
import io
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from bundle.store import Bundle
from service.settings import Settings, SettingsError
from service.thumbnails import check_folder, link, open_below, shrink
from tests.service.helpers import Served, encoded, make_bundle, photo, serving_fake

SECRET = photo(99)  # lies beside the folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photos/ as it may be found, with all that must not be served in it and around it."""
    root = tmp_path_factory.mktemp("thumbnails")
    photos = root / "photos"
    for name in ("a/b", ".hidden", "empty", "ü ö"):
        (photos / name).mkdir(parents=True)
    for name in ("1.png", "a/b/2.png", "ü ö/50% #?&+.png", "a/..png.png", "back\\slash.png"):
        (photos / name).write_bytes(photo(1))
    (photos / "text.png").write_text("no image")
    (photos / "cut.png").write_bytes(photo(1)[:100])
    (photos / "vector.svg").write_text("<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>")
    (photos / "long.png").write_bytes(b"\x89PNG" + bytes(300_000))
    (photos / "page.html").write_text("<script>alert(1)</script>")
    for name in (".secret.png", ".hidden/3.png"):
        (photos / name).write_bytes(SECRET)
    for name in ("secret.png", "photos-too.png"):
        (root / name).write_bytes(SECRET)
    (root / "photos2").mkdir()
    (root / "photos2" / "secret.png").write_bytes(SECRET)
    for name, target in {
        "inside.png": "a/b/2.png", "out.png": "../secret.png", "up": "..", "absolute.png": str(root / "secret.png"),
        "to-hidden.png": ".secret.png", "nowhere.png": "gone.png", "circle": "circle", "aa": "a",
        "sibling": "../photos2", "passwd": "/etc/passwd", "self.png": "/proc/self/environ",
    }.items():  # fmt: skip
        (photos / name).symlink_to(target)
    os.mkfifo(photos / "pipe.png")
    with socket.socket(socket.AF_UNIX) as listener, contextlib.chdir(photos):  # such names are short
        listener.bind("socket.png")
    return photos


@pytest.fixture(scope="module")
def served(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    bundle = make_bundle(tmp_path_factory.mktemp("bundle") / "b")
    with serving_fake(bundle, thumbnails=folder, max_body_bytes=200_000, max_pixels=10_000) as (served, _):
        yield served


def get(served: Served, target: str) -> httpx.Response:
    """The path as it is: httpx would tidy it."""
    head, _, body = _exchange(served.port, target.encode("latin-1")).partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    return httpx.Response(int(status.split()[1]), headers=dict(line.split(": ", 1) for line in lines), content=body)


def _exchange(port: int, target: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"GET " + target + b" HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        return b"".join(iter(lambda: connection.recv(65536), b""))


@pytest.mark.parametrize(
    "path", ["1.png", "a/b/2.png", "ü ö/50% #?&+.png", "back\\slash.png", "inside.png", "aa/b/2.png"]
)
def test_images_of_the_folder_are_served_links_within_it_followed(served: Served, path: str) -> None:
    named = link(path)
    assert named is not None
    answer = served.http.get(named)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "image/jpeg"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"].startswith("private")
    with Image.open(io.BytesIO(answer.content)) as image:
        assert (image.format, image.size) == ("JPEG", (50, 40))


REFUSED = [
    "", "gone.png", "a", "a/b", "empty", "text.png", "cut.png", "vector.svg", "page.html", "long.png",
    ".secret.png", ".hidden/3.png", ".", "..", "../secret.png", "a/../../secret.png", "a/../1.png", "./1.png",
    "a//b/2.png",
    "/1.png", "//etc/passwd", "1.png/", "1.png/.", "1.png\0", "\0", "1.png\0.jpg", "a/..png.png",
    "out.png", "up/secret.png", "up/photos2/secret.png", "absolute.png", "to-hidden.png", "nowhere.png", "circle",
    "circle/x",
    "sibling/secret.png", "passwd", "self.png", "pipe.png", "socket.png", "../photos2/secret.png", "../photos-too.png",
    "~/1.png", "~root", "x" * 300, "/".join(["a"] * 1000), "C:\\1.png", "..\\secret.png", "file:///etc/passwd",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: repr(path[:20]))
def test_all_else_is_answered_alike(served: Served, path: str) -> None:
    answer = get(served, "/thumbnails/" + quote(path, safe=""))
    assert answer.status_code == 404
    error = answer.json()["error"]
    assert error["type"] == "not_found"
    assert error["message"].startswith(f"there is no thumbnail of {path!r}"[:100])


@pytest.mark.parametrize(
    "target",
    [
        "/thumbnails/../secret.png", "/thumbnails/..%2fsecret.png", "/thumbnails/%2e%2e/secret.png",
        "/thumbnails/%2E%2E%2Fsecret.png", "/thumbnails/a/%2e%2e/%2e%2e/secret.png",
        "/thumbnails/%252e%252e/secret.png",
        "/thumbnails//etc/passwd", "/thumbnails/%2fetc%2fpasswd", "/thumbnails/%c0%ae%c0%ae/secret.png",
        "/thumbnails/%ff%fe", "/thumbnails/1.png%00", "/thumbnails/..;/secret.png", "/thumbnails/%5c..%5csecret.png",
        "/thumbnails/up%2f..%2fsecret.png", "/thumbnails/.%2fsecret.png", "/thumbnails/1%0a.png", "/thumbnails",
    ],
)  # fmt: skip
def test_no_spelling_of_a_path_leads_out(served: Served, target: str) -> None:
    answer = get(served, target)
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found"


PIECES = st.sampled_from([
    "..", ".", "", "a", "b", "up", "aa", "sibling", "photos", "photos2", "secret.png", "2.png", "1.png", ".hidden",
    "3.png",
    ".secret.png", "inside.png", "out.png", "circle", "to-hidden.png", "pipe.png", "etc", "passwd", "self.png", "~",
    "\0",
])  # fmt: skip


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.lists(PIECES, max_size=7).map("/".join), st.text(max_size=30)))
@example("a/b/2.png")
def test_whatever_is_opened_is_an_open_file_below_the_folder(folder: Path, path: str) -> None:
    try:
        file = open_below(folder, path)
    except (OSError, ValueError, RuntimeError):
        return
    try:
        where = Path(f"/proc/self/fd/{file}").readlink()
        parts = where.relative_to(folder.resolve()).parts
        assert not any(part.startswith(".") for part in parts)
        assert os.pread(file, 10**6, 0) != SECRET
        assert ".." not in path.split("/")
    finally:
        os.close(file)


def test_a_link_that_is_put_there_after_the_look_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two looks a folder turns into a link that leads out."""
    photos = tmp_path / "photos"
    (photos / "a").mkdir(parents=True)
    (photos / "a" / "secret.png").write_bytes(photo(1))
    (tmp_path / "secret.png").write_bytes(SECRET)
    real = Path.resolve

    def resolve_and_swap(self: Path, strict: bool = False) -> Path:
        settled = real(self, strict=strict)
        if self.name == "secret.png":
            (photos / "a").rename(photos / "b")
            (photos / "a").symlink_to("..")
        return settled

    monkeypatch.setattr(Path, "resolve", resolve_and_swap)
    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        open_below(photos, "a/secret.png")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_upright_and_fits(orientation: int) -> None:
    """As Pillow turns it."""
    ramp = np.zeros((300, 900, 3), np.uint8)
    ramp[..., 0] = np.linspace(0, 255, 900)
    ramp[..., 1] = np.linspace(0, 255, 300)[:, None]
    exif = Image.Exif()
    exif[274] = orientation
    data = encoded(Image.fromarray(ramp), "JPEG", exif=exif, quality=95)
    with Image.open(io.BytesIO(shrink(data, 90, max_pixels=10**6, formats=("JPEG",)))) as small:
        with Image.open(io.BytesIO(data)) as image:
            want = ImageOps.exif_transpose(image).resize(small.size, Image.Resampling.BICUBIC)
        assert small.size == ((90, 30) if orientation < 5 else (30, 90))
        difference = np.asarray(small, np.int16) - np.asarray(want, np.int16)
    assert np.abs(difference).mean() < 3


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9000), (9000, 1), (33, 31), (32, 32), (100, 99)])
def test_pictures_of_every_shape_become_smaller_and_never_larger(height: int, width: int) -> None:
    for kind in ("PNG", "JPEG"):
        data = photo(3, kind, height, width)
        with Image.open(io.BytesIO(shrink(data, 32, max_pixels=10**6, formats=("PNG", "JPEG")))) as small:
            assert max(small.size) == min(32, max(height, width))
            assert min(small.size) >= 1


def test_transparency_grey_and_palettes_become_a_jpeg(fake_bundle: Bundle, tmp_path: Path) -> None:
    for mode in ("RGBA", "L", "LA", "P", "1", "I;16"):
        image = Image.new(mode, (20, 10))
        (tmp_path / f"{mode}.png").write_bytes(encoded(image))
    with serving_fake(fake_bundle, thumbnails=tmp_path) as (served, _):
        for mode in ("RGBA", "L", "LA", "P", "1", "I;16"):
            assert served.http.get(f"/thumbnails/{mode}.png").status_code == 200, mode


def test_the_size_is_asked_for_within_limits(served: Served, folder: Path) -> None:
    (folder / "wide.png").write_bytes(photo(5, height=20, width=400))
    for size in (32, 160, 300, 512):
        answer = served.http.get(f"/thumbnails/wide.png?size={size}")
        with Image.open(io.BytesIO(answer.content)) as image:
            assert image.width == min(size, 400)
    for wrong in ("31", "513", "1.5", "x", ""):
        assert served.http.get(f"/thumbnails/wide.png?size={wrong}").json()["error"]["param"] == "size"
    assert served.http.get("/thumbnails/wide.png?width=3").status_code == 422


def test_limits_of_bytes_and_pixels_hold(served: Served, folder: Path) -> None:
    (folder / "large.png").write_bytes(encoded(Image.new("RGB", (101, 100))))
    (folder / "fits.png").write_bytes(encoded(Image.new("RGB", (100, 100))))
    assert served.http.get("/thumbnails/large.png").status_code == 404
    assert served.http.get("/thumbnails/fits.png").status_code == 200


def test_a_client_that_has_it_is_told_so_until_the_file_changes(served: Served, folder: Path) -> None:
    file = folder / "changing.png"
    file.write_bytes(photo(1))
    first = served.http.get("/thumbnails/changing.png")
    known = {"if-none-match": f'"other", W/{first.headers["etag"]}'}
    again = served.http.get("/thumbnails/changing.png", headers=known)
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])
    assert served.http.get("/thumbnails/changing.png?size=100", headers=known).status_code == 200
    file.write_bytes(photo(2, height=41))
    changed = served.http.get("/thumbnails/changing.png", headers=known)
    assert changed.status_code == 200
    assert changed.content != first.content


def test_without_a_folder_there_are_none(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        answer = served.http.get("/thumbnails/1.png")
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_offered"


def test_they_are_behind_the_key_and_not_counted_against_its_rate(fake_bundle: Bundle, folder: Path) -> None:
    with serving_fake(fake_bundle, thumbnails=folder, api_key="k", rate_limit=0.5) as (served, _):
        assert served.http.get("/thumbnails/1.png").status_code == 401
        assert served.http.get("/thumbnails/gone.png").status_code == 401
        key = {"x-api-key": "k"}
        answers = [served.http.get("/thumbnails/1.png", headers=key).status_code for _ in range(20)]
        assert answers == [200] * 20
        works = [served.http.post("/embed", content=photo(1), headers=key).status_code for _ in range(2)]
        assert works == [200, 429]


def test_a_folder_that_is_none_is_found_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "gone", tmp_path / "file"):
        with pytest.raises(SettingsError, match="MAEVE_THUMBNAILS: there is no folder"):
            check_folder(Settings(thumbnails=path))
    check_folder(Settings(thumbnails=tmp_path))
    check_folder(Settings())


def test_a_row_links_to_what_may_be_there() -> None:
    assert link("a/ü 50%?#.png") == "thumbnails/a/%C3%BC%2050%25%3F%23.png"
    for path in ("", "/a.png", "../a.png", "a/../b.png", ".a.png", "a/.b/c.png", "a\0", "s3://bucket/a.png"):
        assert link(path) is None
