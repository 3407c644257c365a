"""POST /reconstruct, and the pictures behind it."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from bundle.masking import masking_from_removed, random_masking
from bundle.preprocess import preprocess
from bundle.store import Bundle
from service.reconstruct import encode_png, make_pictures, patchify, unpatchify
from tests.service.helpers import (
    NUM_PATCHES,
    Served,
    make_bundle,
    photo,
    picture,
    pixels,
    reconstruct,
    serving_fake,
)


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle) as (served, _):
        yield served


def cells(image: NDArray[Any]) -> NDArray[Any]:
    return patchify(image.astype(np.float32), 8)


def test_the_answer_holds_three_pictures_the_mask_and_the_error(served: Served, fake_bundle: Bundle) -> None:
    image = photo(1)
    body = reconstruct(served, image, mask_ratio=0.5, seed=3)
    assert body.keys() == {
        "model", "digest", "pixel_target", "grid", "mask", "error", "mean_error", "images", "cached",
    }  # fmt: skip
    mask = random_masking(NUM_PATCHES, 0.5, 3).mask
    assert body["mask"] == mask.tolist()
    assert (body["grid"], len(body["error"]), sum(body["mask"])) == ([4, 4], 16, 8)
    assert body["mean_error"] == pytest.approx(np.asarray(body["error"])[mask == 1].mean(), rel=1e-5)
    original = preprocess(image, fake_bundle.manifest.preprocess)
    np.testing.assert_array_equal(picture(body, "original"), original)
    for name in ("masked", "reconstruction"):
        got, visible = cells(picture(body, name)), mask == 0
        np.testing.assert_array_equal(got[visible], cells(original)[visible])
        assert (got[~visible] != cells(original)[~visible]).any(axis=1).all()
    assert (cells(picture(body, "masked"))[mask == 1] == 127).all()


def test_named_patches_are_removed(served: Served) -> None:
    body = reconstruct(served, photo(1), mask="0,15,5")
    assert np.flatnonzero(body["mask"]).tolist() == [0, 5, 15]


def test_the_default_removes_three_quarters_and_is_the_same_every_time(served: Served) -> None:
    first, second, other = (
        reconstruct(served, photo(1), **p) for p in ({}, {"mask_ratio": 0.75, "seed": 0}, {"seed": 1})
    )
    assert sum(first["mask"]) == 12
    assert first["images"] == second["images"]
    assert (first["cached"], second["cached"]) == (False, True)
    assert first["mask"] != other["mask"]


def test_a_png_shows_them_side_by_side(served: Served) -> None:
    answer = served.http.post("/reconstruct", content=photo(1), headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert shown.shape == (32, 3 * 32 + 2 * 4, 3)
    body = reconstruct(served, photo(1))
    for i, name in enumerate(("original", "masked", "reconstruction")):
        np.testing.assert_array_equal(shown[:, 36 * i : 36 * i + 32], picture(body, name))


@pytest.mark.parametrize("send", ["multipart", "json"])
def test_the_image_may_come_in_other_forms(served: Served, send: str) -> None:
    if send == "multipart":
        answer = served.http.post("/reconstruct", files={"file": photo(1)})
    else:
        answer = served.http.post("/reconstruct", json={"images": [base64.b64encode(photo(1)).decode()]})
    assert answer.json()["images"] == reconstruct(served, photo(1))["images"]


def test_it_takes_one_image(served: Served) -> None:
    answer = served.http.post("/reconstruct", files=[("file", photo(1)), ("file", photo(2))])
    assert (answer.status_code, answer.json()["error"]["type"]) == (413, "too_large")


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"mask": "0,16"}, "mask must name patches from 0 to 15"),
        ({"mask": "1,1"}, "mask names a patch twice"),
        ({"mask": ",".join(map(str, range(16)))}, "mask must remove between 1 and 15 of the 16 patches, got 16"),
        ({"mask": "1,x"}, "mask: must be patch indices separated by commas"),
        ({"mask": "9" * 30}, "mask: must be patch indices separated by commas"),
        ({"mask": ""}, "mask: must be patch indices separated by commas"),
        ({"mask": "1", "mask_ratio": "0.5"}, "give mask or mask_ratio, not both"),
        ({"mask_ratio": "1"}, "mask_ratio: Input should be less than 1"),
        ({"mask_ratio": "nan"}, "mask_ratio: "),
        ({"seed": "-1"}, "seed: Input should be greater than or equal to 0"),
    ],
)
def test_a_bad_mask_is_a_bad_parameter(served: Served, params: dict[str, str], message: str) -> None:
    answer = served.http.post("/reconstruct", content=photo(1), params=params)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert error["type"] == "bad_parameter"


def test_a_bundle_without_a_decoder_says_so(tmp_path: Path) -> None:
    with serving_fake(make_bundle(tmp_path / "b", "encoder")) as (served, _):
        answer = served.http.post("/reconstruct", content=photo(1))
    assert (answer.status_code, answer.json()["error"]["message"]) == (404, "the bundle fake has no decoder")


# The pictures


@pytest.mark.parametrize("target", ["raw", "normalized"])
def test_a_perfect_prediction_is_the_original(tmp_path: Path, target: str) -> None:
    bundle = make_bundle(tmp_path / "b", pixel_target=target)
    image = pixels(7, 32, 32)
    seen = (image.astype(np.float32) / 255 - 0.5) / 0.25  # as the graphs normalise
    patches = patchify(seen.astype(np.float32), 8)
    if target == "normalized":  # as training does: unbiased variance + 1e-6
        patches = (patches - patches.mean(1, keepdims=True)) / np.sqrt(patches.var(1, ddof=1, keepdims=True) + 1e-6)
    value = np.concatenate([image.ravel(), patches.ravel()]).astype(np.float32)
    masking = masking_from_removed(NUM_PATCHES, [0, 3, 9])
    pictures = make_pictures(value, masking.mask, bundle.manifest)
    np.testing.assert_array_equal(pictures.reconstruction, image)
    assert pictures.error.max() < 1e-6
    worse = value.copy()
    worse[image.size + 192 * 3 : image.size + 192 * 4] += 2  # patch 3
    pictures = make_pictures(worse, masking.mask, bundle.manifest)
    assert pictures.error[3] == pytest.approx(4, rel=1e-4)
    assert (cells(pictures.reconstruction) != cells(image)).any(axis=1).nonzero()[0].tolist() == [3]


def test_patches_of_a_rectangle_come_back_together() -> None:
    image = np.random.default_rng(0).random((16, 24, 3)).astype(np.float32)
    patches = patchify(image, 8)
    assert patches.shape == (6, 192)
    np.testing.assert_array_equal(patches[1].reshape(8, 8, 3), image[:8, 8:16])
    np.testing.assert_array_equal(unpatchify(patches, (2, 3), 8), image)


@pytest.mark.parametrize(("channels", "mode"), [(1, "L"), (3, "RGB"), (4, "RGBA")])
def test_pngs_keep_their_channels(channels: int, mode: str) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (4, 5, channels), dtype=np.uint8)
    image = Image.open(io.BytesIO(encode_png(picture)))
    assert image.mode == mode
    np.testing.assert_array_equal(np.asarray(image).reshape(4, 5, channels), picture)
