"""How photos come into the page and leave it: what is taken, what is refused in words, and what the tray shows."""

from __future__ import annotations

import io
import math
import os
from base64 import b64encode
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import JSHandle, Locator, Page, expect

from tests.browser.conftest import (
    SAMPLES,
    Complaints,
    OpenPage,
    damaged_photo,
    give_photos,
    overflows,
    running_service,
    screenshot,
    take_sample,
    violations,
)  # fmt: skip
from tests.service.helpers import pixels

ORIENTATION = 0x0112  # the EXIF tag
ROTATED = 6  # to be turned a quarter to the right


def thumbnails(page: Page) -> Locator:
    return page.locator("#tray .thumbnail")


def chosen(page: Page) -> Locator:
    return page.locator("#tray .thumbnail[aria-pressed=true]")


def told(page: Page) -> Locator:
    return page.locator("#intake .error")


@pytest.fixture
def sent(page: Page) -> list[str]:
    """What the page asks of the service from now on, other than for its own files."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if request.method == "POST" else None)
    return asked


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three that differ: zero.png, one.png, two.png."""
    folder = tmp_path_factory.mktemp("photos")
    paths = [folder / f"{name}.png" for name in ("zero", "one", "two")]
    for seed, path in enumerate(paths):
        Image.fromarray(pixels(seed)).save(path)
    return paths


def dragged(page: Page, *paths: Path) -> JSHandle:
    """Files as a drag carries them."""
    files = [[path.name, b64encode(path.read_bytes()).decode()] for path in paths]
    return page.evaluate_handle(
        """files => {
          const carried = new DataTransfer();
          for (const [name, text] of files) {
            const bytes = Uint8Array.from(atob(text), each => each.charCodeAt(0));
            carried.items.add(new File([bytes], name, {type: "image/png"}));
          }
          return carried;
        }""",
        files,
    )


def test_before_a_photo_the_page_says_what_this_is(page: Page, sent: list[str]) -> None:
    expect(page.locator("#hero")).to_contain_text("Most of a photo is hidden")
    expect(page.locator("#samples button")).to_have_count(6)
    expect(page.locator("#tray-bar:visible, section.card:visible, #cards:visible")).to_have_count(0)
    assert sent == []


def test_a_sample_by_click_and_another_by_key(page: Page) -> None:
    take_sample(page)
    expect(thumbnails(page)).to_have_count(1)
    expect(page.locator("#hero")).to_be_hidden()
    page.get_by_role("button", name="A rocket", exact=True).focus()
    page.keyboard.press("Enter")
    expect(thumbnails(page)).to_have_count(2)
    expect(page.locator("#chosen")).to_have_text("rocket.jpg, 2 of 2")


def test_several_are_chosen_and_the_first_is_looked_at(page: Page, photos: list[Path]) -> None:
    give_photos(page, *photos)
    expect(thumbnails(page)).to_have_count(3)
    expect(chosen(page)).to_have_accessible_name("zero.png")
    expect(thumbnails(page).locator("img")).to_have_count(3)
    thumbnails(page).nth(2).click()
    expect(page.locator("#chosen")).to_have_text("two.png, 3 of 3")


def test_the_arrow_keys_choose_and_delete_removes(page: Page, photos: list[Path]) -> None:
    give_photos(page, *photos)
    chosen(page).focus()
    steps = [("ArrowRight", "one"), ("End", "two"), ("ArrowRight", "two"), ("ArrowLeft", "one"), ("Home", "zero")]
    for key, name in steps:
        page.keyboard.press(key)
        expect(page.locator("#tray .thumbnail:focus")).to_have_accessible_name(f"{name}.png")
        expect(chosen(page)).to_have_accessible_name(f"{name}.png")
    page.keyboard.press("Delete")
    expect(page.locator("#tray .thumbnail:focus")).to_have_accessible_name("one.png")
    expect(page.locator("#announcements")).to_have_text("zero.png removed")


def test_removing_one_and_removing_all(page: Page, photos: list[Path]) -> None:
    give_photos(page, *photos)
    page.get_by_role("button", name="Remove zero.png").click()
    expect(thumbnails(page)).to_have_count(2)
    expect(chosen(page)).to_have_accessible_name("one.png")
    page.get_by_role("button", name="Remove all").click()
    expect(page.locator("#hero")).to_be_visible()
    expect(page.locator("#reconstruct")).to_be_hidden()
    give_photos(page, photos[0])  # the same file can come back
    expect(thumbnails(page)).to_have_count(1)


def test_photos_are_dropped_anywhere(page: Page, photos: list[Path]) -> None:
    files = dragged(page, *photos)
    page.dispatch_event("footer", "dragover", {"dataTransfer": files})
    expect(page.locator("body")).to_have_class("dropping")
    page.dispatch_event("footer", "drop", {"dataTransfer": files})
    expect(page.locator("body")).not_to_have_class("dropping")
    expect(thumbnails(page)).to_have_count(3)


def test_a_drag_that_leaves_and_one_of_text_do_nothing(page: Page, photos: list[Path]) -> None:
    page.dispatch_event("body", "dragover", {"dataTransfer": dragged(page, photos[0])})
    page.dispatch_event("body", "dragleave", {"dataTransfer": dragged(page, photos[0])})
    expect(page.locator("body")).not_to_have_class("dropping")
    text = page.evaluate_handle("() => { const d = new DataTransfer(); d.setData('text/plain', 'hello'); return d; }")
    page.dispatch_event("body", "dragover", {"dataTransfer": text})
    page.dispatch_event("body", "drop", {"dataTransfer": text})
    expect(page.locator("body")).not_to_have_class("dropping")
    expect(told(page)).to_be_hidden()


def test_a_picture_is_pasted(page: Page) -> None:
    page.evaluate(
        """async () => {
          const canvas = new OffscreenCanvas(40, 30);
          canvas.getContext("2d").fillRect(0, 0, 20, 30);
          await navigator.clipboard.write([new ClipboardItem({"image/png": await canvas.convertToBlob()})]);
        }"""
    )
    page.keyboard.press("Control+V")
    expect(thumbnails(page)).to_have_count(1)
    expect(chosen(page)).to_have_accessible_name("image.png")


def test_the_same_picture_twice_is_told(page: Page, photos: list[Path], tmp_path: Path) -> None:
    give_photos(page, photos[0], photos[1])
    expect(thumbnails(page)).to_have_count(2)
    give_photos(page, photos[1])
    expect(told(page)).to_have_text("one.png is here already.")
    expect(chosen(page)).to_have_accessible_name("one.png")
    copy = tmp_path / "copy.png"
    copy.write_bytes(photos[0].read_bytes())
    give_photos(page, copy)
    expect(told(page)).to_have_text("copy.png is the same picture as zero.png.")
    expect(thumbnails(page)).to_have_count(2)
    page.get_by_role("button", name="Remove all").click()
    give_photos(page, photos[0], copy)
    expect(told(page)).to_have_text("copy.png is the same picture as zero.png.")
    expect(thumbnails(page)).to_have_count(1)


def test_what_is_known_already_is_no_error_and_forgotten_when_it_is_stale(page: Page, photos: list[Path]) -> None:
    give_photos(page, photos[0])
    give_photos(page, photos[0])
    expect(told(page).locator("span")).to_have_class("soft")
    page.get_by_role("button", name="Remove all").click()
    expect(told(page)).to_be_hidden()


def change(photo: Path) -> None:
    """Browsers tell by a file's time, to the second, that it is not the one that was chosen."""
    photo.write_bytes(photo.read_bytes()[::-1])
    os.utime(photo, (0, photo.stat().st_mtime + 60))


def held_file(page: Page, photo: Path) -> JSHandle:
    """What a drag carries that began with a file on the disk."""
    page.evaluate("document.body.append(Object.assign(document.createElement('input'), { type: 'file', id: 'held' }))")
    page.locator("#held").set_input_files(photo)
    return page.evaluate_handle(
        """() => {
          const carried = new DataTransfer();
          carried.items.add(document.querySelector("#held").files[0]);
          return carried;
        }"""
    )


@pytest.mark.parametrize("spoil", [change, Path.unlink], ids=["changed", "gone"])
def test_a_file_that_cannot_be_read_is_refused(
    page: Page, photos: list[Path], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    photo = tmp_path / "photo.png"
    photo.write_bytes(photos[0].read_bytes())
    carried = held_file(page, photo)
    spoil(photo)
    page.dispatch_event("body", "drop", {"dataTransfer": carried})
    expect(told(page)).to_have_text("photo.png cannot be read: it has changed or is gone. Choose it again.")
    expect(thumbnails(page)).to_have_count(0)
    give_photos(page, photos[1])
    expect(chosen(page)).to_have_accessible_name("one.png")


@pytest.mark.parametrize("spoil", [change, Path.unlink], ids=["changed", "gone"])
def test_a_photo_that_changed_on_the_disk_is_told_and_can_be_chosen_again(
    page: Page, complaints: Complaints, photos: list[Path], tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    complaints.expected += ["ERR_UPLOAD_FILE_CHANGED", "ERR_FILE_NOT_FOUND"]
    photo = tmp_path / "photo.png"
    photo.write_bytes(photos[0].read_bytes())
    give_photos(page, photo)
    expect(page.locator("#reconstruct [data-part=reconstruction]")).to_be_visible()
    spoil(photo)
    page.locator("#reconstruct [data-part=seed]").fill("5")
    error = page.locator("#reconstruct .error")
    expect(error).to_have_text("photo.png: The file has changed or is gone: choose it again.")
    expect(page.locator("#reconstruct").get_by_role("button", name="Try again")).to_be_hidden()
    expect(chosen(page)).to_have_accessible_name("photo.png, cannot be used")
    photo.write_bytes(photos[0].read_bytes())  # of the size of the one that cannot be read any more
    give_photos(page, photo)
    expect(chosen(page)).to_have_accessible_name("photo-2.png")
    expect(error).to_be_hidden()


def test_a_sample_that_is_clicked_twice_comes_once(page: Page) -> None:
    page.get_by_role("button", name="A cat", exact=True).dblclick()
    expect(told(page)).to_have_text("cat.jpg is here already.")
    expect(thumbnails(page)).to_have_count(1)


def test_two_pictures_of_one_name_get_names_of_their_own(page: Page, photos: list[Path], tmp_path: Path) -> None:
    other = tmp_path / "zero.png"
    other.write_bytes(photos[1].read_bytes())
    give_photos(page, photos[0])
    give_photos(page, other)
    expect(chosen(page)).to_have_accessible_name("zero-2.png")


def test_what_is_no_photo_is_refused_before_anything_is_sent(page: Page, sent: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "empty.png").touch()
    give_photos(page, tmp_path / "notes.txt", tmp_path / "empty.png")
    expect(told(page).locator("span")).to_have_text(["notes.txt is not a photo.", "empty.png is empty."])
    expect(thumbnails(page)).to_have_count(0)
    assert sent == []
    take_sample(page)
    expect(told(page)).to_be_hidden()


def test_more_than_can_be_compared_are_left_out(page: Page, tmp_path: Path) -> None:
    for i in range(66):
        Image.new("RGB", (8, 8), (i, 0, 0)).save(tmp_path / f"{i:02}.png")
    give_photos(page, *sorted(tmp_path.iterdir()))
    expect(thumbnails(page)).to_have_count(64)
    expect(told(page)).to_have_text("This page compares at most 64 photos: 2 were left out.")
    assert not overflows(page)
    chosen(page).focus()
    page.keyboard.press("End")
    expect(page.get_by_role("button", name="63.png", exact=True)).to_be_in_viewport(ratio=0.95)
    assert page.evaluate("scrollY") == 0


@pytest.fixture(scope="module")
def small_service() -> Iterator[str]:
    """One that takes 20 kB at once and 5,000 pixels."""
    with running_service(MAEVE_MAX_BODY_BYTES="20480", MAEVE_MAX_PIXELS="5000") as url:
        yield url


def test_a_file_that_is_too_large_is_refused_before_it_is_sent(open_page: OpenPage, small_service: str) -> None:
    page = open_page(small_service)
    expect(page.locator("#details")).to_be_visible()  # the limits are known
    give_photos(page, SAMPLES / "cat.jpg")
    size = math.ceil((SAMPLES / "cat.jpg").stat().st_size / 1024)
    expect(told(page)).to_have_text(f"cat.jpg has {size} KiB, and this service takes at most 20 KiB at once.")
    expect(thumbnails(page)).to_have_count(0)


def test_what_only_the_service_can_tell_is_said_in_the_card_and_the_tray(
    open_page: OpenPage, small_service: str, complaints: Complaints, photos: list[Path], tmp_path: Path
) -> None:
    complaints.expected.append("413")
    large = tmp_path / "large.png"
    Image.new("RGB", (100, 100)).save(large)
    page = open_page(small_service)
    give_photos(page, large)
    error = page.locator("#reconstruct .error")
    expect(error).to_contain_text("large.png: That is more than this service takes. The service says:")
    expect(chosen(page)).to_have_accessible_name("large.png, cannot be used")
    give_photos(page, photos[0])
    expect(page.locator("#reconstruct [data-part=reconstruction]")).to_be_visible()
    expect(error).to_be_hidden()
    expect(chosen(page)).to_have_accessible_name("zero.png")


def test_a_damaged_photo_shows_no_picture_of_another(page: Page, complaints: Complaints, photos: list[Path]) -> None:
    complaints.expected.append("400")
    give_photos(page, photos[0])
    reconstruction = page.locator("#reconstruct [data-part=reconstruction]")
    expect(reconstruction).to_be_visible()
    give_photos(page, damaged_photo())
    expect(page.locator("#reconstruct .error")).to_contain_text("damaged.jpg: The file is damaged and cannot be read.")
    expect(reconstruction).to_be_hidden()
    expect(thumbnails(page).nth(1)).to_have_class("thumbnail faulty")
    screenshot(page, "intake-damaged")
    assert violations(page) == []
    page.get_by_role("button", name="Remove damaged.jpg").click()
    expect(reconstruction).to_be_visible()


def test_a_format_that_the_browser_cannot_show_still_works(page: Page, tmp_path: Path) -> None:
    path = tmp_path / "scan.tiff"
    Image.fromarray(pixels(0)).save(path)
    give_photos(page, path)
    expect(thumbnails(page)).to_have_text("TIFF")
    expect(page.locator("#reconstruct [data-part=original]")).to_be_visible()


def test_thumbnails_stand_upright(page: Page, tmp_path: Path) -> None:
    """Stored with red on the left, and turned a quarter to the right: red is above."""
    image = Image.new("RGB", (60, 60), "blue")
    image.paste("red", (0, 0, 30, 60))
    exif = Image.Exif()
    exif[ORIENTATION] = ROTATED
    image.save(tmp_path / "turned.jpg", exif=exif, quality=95)
    give_photos(page, tmp_path / "turned.jpg")
    expect(thumbnails(page).locator("img")).to_be_visible()
    shown = Image.open(io.BytesIO(thumbnails(page).locator("img").screenshot())).convert("RGB")
    red, _, blue = shown.getpixel((shown.width // 2, shown.height // 4))  # type: ignore[misc]
    assert red > 200 > 50 > blue


def test_a_phone_offers_its_camera(open_page: OpenPage) -> None:
    page = open_page(width=390, height=844, touch=True)
    camera = page.get_by_text("Take a photo")
    expect(camera).to_be_visible()
    page.locator("#camera input").set_input_files(SAMPLES / "coffee.jpg")
    expect(chosen(page)).to_have_accessible_name("coffee.jpg")
    assert not overflows(page)
    assert open_page(width=390).locator("#camera").is_hidden()
