"""POST /reconstruct?passes=n: the map, its picture, and how its passes go through the engine."""

from __future__ import annotations

import asyncio
import io
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from bundle.masking import complementary_maskings
from bundle.preprocess import preprocess
from bundle.store import Bundle, load_bundle
from runtime.fake import FakeRuntime
from service.anomaly import SCALE, AnomalyMap, colour
from service.app import create_app
from service.cache import NO_STORE
from service.decoding import Decoder
from service.device import LocalDevice
from service.engine import Engine
from service.errors import BadParameter
from service.metrics import Metrics
from service.options import ReconstructQuery
from service.programs import Item, Programs
from service.schemas import AnomalyResponse
from service.settings import Settings
from tests.service.helpers import (
    NUM_PATCHES,
    Hold,
    Served,
    encoded,
    eventually,
    photo,
    picture,
    pixels,
    reconstruct,
    serving,
    serving_fake,
)

DEFAULT_BUNDLE = Path(__file__).parents[2] / "models" / "default"
MOST_PASSES = "MAEVE_MAX_IMAGES, and half of a worker's share of MAEVE_MAX_QUEUE"


@pytest.fixture(scope="module")
def served(fake_bundle: Bundle) -> Iterator[Served]:
    with serving_fake(fake_bundle) as (served, _):
        yield served


def counted(served: Served, name: str, **labels: str) -> float:
    return float(served.app.state.metrics.registry.get_sample_value(name, labels) or 0)


# What it says


def smooth_photo() -> bytes:
    """Hills of colour with a square of noise."""
    y, x = np.mgrid[0:3:90j, 0:4:120j]
    hills = np.stack([np.sin(x + 1.3 * y), np.cos(2 * x), np.sin(x * y)], axis=-1)
    image = (128 + 90 * hills).astype(np.uint8)
    image[20:50, 40:70] = pixels(4, 30, 30)
    return encoded(Image.fromarray(image))


def by_hand(bundle: Bundle, image: bytes, ratio: float, seed: int, passes: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Error and counts from the bundle's files, with nothing of ours but the preprocessing."""
    manifest, model = bundle.manifest, bundle.manifest.model
    run = {name: onnxruntime.InferenceSession(bundle.path / f"{name}.onnx").run for name in ("encoder", "decoder")}
    pixels = preprocess(image, manifest.preprocess)
    patch, (rows, columns) = model.patch_size, model.grid
    seen = (pixels / 255 - manifest.preprocess.mean) / manifest.preprocess.std
    blocks = [
        seen[r * patch : (r + 1) * patch, c * patch : (c + 1) * patch].ravel()
        for r in range(rows)
        for c in range(columns)
    ]
    if manifest.pixel_target == "normalized":
        blocks = [(block - block.mean()) / math.sqrt(block.var(ddof=1) + 1e-6) for block in blocks]
    num_patches = len(blocks)
    kept = int(num_patches * (1 - ratio))
    rng, circle, start = np.random.default_rng(seed), list[int](), 0
    total, hidden = np.zeros(num_patches), np.zeros(num_patches, int)
    gone = set[frozenset[int]]()
    for _ in range(passes):
        turned = circle[start:] + circle[:start]
        if not circle or frozenset(turned[kept:]) in gone:
            circle, start, gone = np.argsort(rng.random(num_patches), kind="stable").tolist(), 0, set()
            turned = circle
        gone.add(frozenset(turned[kept:]))
        start = (start + num_patches - kept) % num_patches
        (tokens,) = run["encoder"](["tokens"], {"images": pixels[None], "ids_keep": np.array([turned[:kept]])})
        restore = np.array([[turned.index(i) for i in range(num_patches)]])
        (patches,) = run["decoder"](["patches"], {"tokens": tokens, "ids_restore": restore})
        for i in turned[kept:]:
            total[i] += np.mean((patches[0, i] - blocks[i]) ** 2)
            hidden[i] += 1
    return total / hidden, hidden


@pytest.mark.parametrize(("ratio", "passes"), [(0.75, 2), (0.75, 7), (0.5, 5), (0.3, 9)])
@pytest.mark.parametrize("target", ["raw", "normalized"])
def test_the_errors_are_those_of_the_bundles_graphs(
    tiny_bundle: Bundle, target: str, ratio: float, passes: int
) -> None:
    bundle = load_bundle(DEFAULT_BUNDLE) if target == "raw" else tiny_bundle
    assert bundle.manifest.pixel_target == target
    image = smooth_photo()
    settings = Settings(bundle=bundle.path, runtime="onnxruntime", precision="fp32", lanes=1)
    with serving(create_app(settings)) as served:
        body = reconstruct(served, image, passes=passes, mask_ratio=ratio, seed=11)
    error, hidden = by_hand(bundle, image, ratio, 11, passes)
    np.testing.assert_allclose(body["error"], error, rtol=1e-3, atol=1e-5)
    assert body["hidden"] == hidden.tolist()
    assert body["mean_error"] == pytest.approx(error.mean(), rel=1e-4)
    assert body["max_error"] == body["scale_max"] == pytest.approx(error.max(), rel=1e-3)


def test_the_answer_is_what_the_document_says(served: Served) -> None:
    body = reconstruct(served, photo(1), passes=6, mask_ratio=0.5, seed=3)
    assert AnomalyResponse.model_validate(body, strict=False).model_dump().keys() == body.keys()
    assert (body["passes"], body["mask_ratio"], body["seed"], body["grid"]) == (6, 0.5, 3, [4, 4])
    assert body["hidden"] == [3] * NUM_PATCHES
    document = served.http.get("/openapi.json").json()
    operation = document["paths"]["/reconstruct"]["post"]
    schema = operation["responses"]["200"]["content"]["application/json"]["schema"]
    named = {each["$ref"].rpartition("/")[2] for each in schema["anyOf"]}
    assert named == {"ReconstructResponse", "AnomalyResponse"}
    assert set(document["components"]["schemas"]["AnomalyResponse"]["required"]) == body.keys()


def test_a_network_trained_on_photos_did_not_expect_the_square_of_noise() -> None:
    settings = Settings(bundle=DEFAULT_BUNDLE, runtime="onnxruntime", precision="fp32", lanes=1)
    y, x = np.mgrid[0:1:64j, 0:1:64j]
    image = np.repeat((60 + 120 * x + 40 * y)[..., None], 3, axis=2).astype(np.uint8)
    image[24:40, 32:48] = pixels(4, 16, 16)
    with serving(create_app(settings)) as served:
        error = np.reshape(reconstruct(served, encoded(Image.fromarray(image)), passes=4)["error"], (8, 8))
    defect = np.zeros((8, 8), bool)
    defect[3:5, 4:6] = True
    assert error[defect].min() > error[~defect].max()


# What it refuses


@pytest.mark.parametrize(
    ("params", "param", "message"),
    [
        ({"passes": 1}, "passes", "passes: with mask_ratio 0.75 it takes at least 2 to hide every patch, got 1"),
        (
            {"passes": 3, "mask_ratio": 0.25},
            "passes",
            "passes: with mask_ratio 0.25 it takes at least 4 to hide every patch, got 3",
        ),
        ({"passes": 65}, "passes", f"passes: at most 64 in one request ({MOST_PASSES}), got 65"),
        ({"passes": 0}, "passes", "passes: Input should be greater than or equal to 1"),
        ({"passes": 4, "mask": "0,1"}, None, "give mask or passes, not both"),
        ({"scale_max": 1}, None, "scale_max goes with passes"),
        ({"passes": 4, "scale_max": 0}, "scale_max", "scale_max: Input should be greater than 0"),
        ({"passes": 4, "scale_max": "inf"}, "scale_max", "scale_max: Input should be a finite number"),
    ],
)
def test_what_makes_no_map_is_a_bad_parameter(
    served: Served, params: dict[str, Any], param: str | None, message: str
) -> None:
    answer = served.http.post("/reconstruct", content=photo(1), params=params)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert error["message"].startswith(message)
    assert error["param"] == param


def test_passes_that_would_never_be_let_in_are_refused_at_once(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, max_images=10, max_queue=12) as (served, _):
        answer = served.http.post("/reconstruct", content=photo(1), params={"passes": 7})
        assert answer.status_code == 422
        wanted = f"passes: at most 6 in one request ({MOST_PASSES}), got 7"
        assert answer.json()["error"]["message"] == wanted
        assert len(reconstruct(served, photo(1), passes=6)["error"]) == NUM_PATCHES
        assert served.http.get("/info").json()["limits"]["max_passes"] == 6


def test_a_broken_image_is_image_0_whatever_the_pass(served: Served) -> None:
    answer = served.http.post("/reconstruct", content=photo(1)[:80], params={"passes": 5})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "images[0]")
    assert answer.json()["error"]["message"].startswith("image 0 is truncated or corrupt")


# Its passes in the engine


def test_a_pass_is_an_image_to_the_queue_the_caches_and_the_metrics(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, runtime):
        first = reconstruct(served, photo(1), passes=4)
        computed = {"operation": "reconstruct", "source": "computed"}
        assert counted(served, "maeve_images_total", **computed) == 4
        again = reconstruct(served, photo(1), passes=4)
        assert (first["cached"], again["cached"]) == (False, True)
        assert again["error"] == first["error"]
        more = reconstruct(served, photo(1), passes=6)  # four of them are known
        assert not more["cached"]
        assert counted(served, "maeve_images_total", **computed) == 6
        plain = reconstruct(served, photo(1))  # and so is the mask of a plain reconstruction
        assert plain["cached"]
        assert counted(served, "maeve_images_total", **computed) == 6
        assert sum(n for graph, n in runtime.calls if graph == "encoder") == 6


def test_with_nothing_to_spare_none_of_the_passes_is_begun(fake_bundle: Bundle) -> None:
    hold = Hold()
    with (
        serving_fake(fake_bundle, fail_on=hold, max_images=8, max_queue=16) as (served, _),
        ThreadPoolExecutor() as pool,
    ):
        with hold:
            first = pool.submit(reconstruct, served, photo(1), passes=6)
            eventually(lambda: served.app.state.engine.admission.pending == 6)
            refused = served.http.post("/reconstruct", content=photo(2), params={"passes": 3})
            assert served.app.state.engine.admission.pending == 6
        assert len(first.result()["error"]) == NUM_PATCHES
        assert (refused.status_code, refused.json()["error"]["type"]) == (429, "overloaded")
        assert int(refused.headers["retry-after"]) >= 1
        eventually(lambda: served.app.state.engine.admission.pending == 0)


class Counting(Decoder):
    """Counts how often it had to decode."""

    decoded = 0

    def __call__(self, item: Item) -> Item:
        self.decoded += isinstance(item.image, bytes)
        return super().__call__(item)


Run = Callable[[Engine], Any]


def with_engine(bundle: Bundle, run: Run, *, fail_on: Any = None, lanes: int = 2) -> tuple[Any, Counting]:
    """`run` on an engine whose lanes decode."""

    async def meet() -> tuple[Any, Counting]:
        metrics = Metrics()
        decoder = Counting(bundle.manifest, max_pixels=10**6)
        runtime = FakeRuntime(bundle, lanes=lanes, fail_on=fail_on)
        device = LocalDevice(Programs(bundle.manifest, runtime), runtime, metrics, max_batch=4, decoder=decoder)
        engine = Engine(bundle, device, Settings(), metrics)
        try:
            async with asyncio.timeout(20):
                return await run(engine), decoder
        finally:
            await engine.close()

    return asyncio.run(meet())


def later() -> float:
    return asyncio.get_running_loop().time() + 60


@pytest.mark.parametrize("forbidden", [False, True], ids=["kept", "no-store"])
def test_the_image_is_decoded_once(fake_bundle: Bundle, forbidden: bool) -> None:
    maskings = complementary_maskings(NUM_PATCHES, 0.5, 0, 9)

    async def run(engine: Engine) -> list[NDArray[np.float32]]:
        policy = (NO_STORE,) if forbidden else ()
        return (await engine.reconstruct(photo(1), maskings, later(), *policy)).values

    values, decoder = with_engine(fake_bundle, run)
    assert decoder.decoded == 1
    image = preprocess(photo(1), fake_bundle.manifest.preprocess)
    for value in values:
        np.testing.assert_array_equal(value[: image.size].reshape(image.shape), image)
    assert len({value.tobytes() for value in values}) == 9


def test_who_leaves_takes_no_pass_from_another(fake_bundle: Bundle) -> None:
    """The second request shares passes of the first, of which none is done when that one goes with its lead."""
    hold = Hold()
    maskings = complementary_maskings(NUM_PATCHES, 0.5, 0, 6)

    async def run(engine: Engine) -> tuple[int, list[str]]:
        with hold:
            leaves = asyncio.create_task(engine.reconstruct(photo(1), maskings, later()))
            stays = asyncio.create_task(engine.reconstruct(photo(1), maskings[2:], later()))
            await asyncio.sleep(0.01)  # both wait now, for the lead's call
            assert engine.admission.pending == 6
            leaves.cancel()
            await asyncio.wait([leaves])
            pending = engine.admission.pending
        answer = await stays
        assert engine.admission.pending == 0
        return pending, [value.tobytes()[:8].hex() for value in answer.values]

    (pending, values), _ = with_engine(fake_bundle, run, fail_on=hold)
    assert pending == 4
    assert len(values) == 4


def test_the_masks_are_those_of_the_query() -> None:
    query = ReconstructQuery(passes=5, mask_ratio=0.3, seed=9)
    found = query.maskings(NUM_PATCHES, max_passes=64)
    wanted = complementary_maskings(NUM_PATCHES, 0.3, 9, 5)
    assert [each.mask.tolist() for each in found] == [each.mask.tolist() for each in wanted]


# The picture


def test_a_png_shows_the_photo_and_its_heat_side_by_side(served: Served) -> None:
    answer = served.http.post("/reconstruct", content=photo(1), params={"passes": 4}, headers={"accept": "image/png"})
    assert answer.headers["content-type"] == "image/png"
    shown = np.asarray(Image.open(io.BytesIO(answer.content)))
    assert shown.shape == (32, 2 * 32 + 4, 3)
    body = reconstruct(served, photo(1), passes=4)
    np.testing.assert_array_equal(shown[:, :32], picture(body, "original"))
    np.testing.assert_array_equal(shown[:, 36:], picture(body, "heatmap"))


def test_the_colours_end_at_the_largest_error_or_where_they_are_told_to(served: Served) -> None:
    own = reconstruct(served, photo(1), passes=4)
    same = reconstruct(served, photo(1), passes=4, scale_max=own["max_error"])
    wider = reconstruct(served, photo(1), passes=4, scale_max=2 * own["max_error"])
    assert own["scale_max"] == own["max_error"] == max(own["error"])
    assert same["images"] == own["images"]
    assert (wider["scale_max"], wider["error"]) == (2 * own["max_error"], own["error"])
    assert picture(wider, "heatmap").mean() < picture(own, "heatmap").mean()


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize(
    ("scale_max", "places"), [(5e-324, [0, 8, 8, 8, 8, 8]), (4.0, [0, 1, 4, 8, 0.2, 2]), (1e308, [0] * 6)]
)
def test_pictures_of_any_channels_get_colours_at_any_scale(
    channels: int, scale_max: float, places: list[float]
) -> None:
    """`places`: on the scale of nine anchors, of patches of grey 200."""
    error = np.array([0, 0.5, 2, 4, 0.1, 1], np.float32)
    original = np.full((16, 24, channels), 200, np.uint8)
    found = AnomalyMap(original, error, np.ones(6, np.int64), (2, 3))
    heat = found.heatmap(scale_max)
    assert heat.shape == (16, 24, 3)
    assert (heat.reshape(2, 8, 3, 8, 3) == heat[::8, ::8].reshape(2, 1, 3, 1, 3)).all()  # one colour a patch
    anchors = np.array(SCALE)
    wanted = np.stack([np.interp(places, range(9), anchors[:, channel]) for channel in range(3)], axis=-1)
    np.testing.assert_allclose(heat[::8, ::8].reshape(6, 3), 0.35 * 200 + 0.65 * wanted, atol=0.51)
    assert found.side_by_side(scale_max).shape == (16, 52, 3)


def oklab(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    """[..., 3] of sRGB in 0..255, by the matrices of its author's page."""
    linear = np.where(rgb / 255 <= 0.04045, rgb / 255 / 12.92, ((rgb / 255 + 0.055) / 1.055) ** 2.4)
    cones = np.array(
        [
            [0.4122214708, 0.5363325363, 0.0514459929],
            [0.2119034982, 0.6806995451, 0.1073969566],
            [0.0883024619, 0.2817188376, 0.6299787005],
        ]
    )
    lab = np.array(
        [
            [0.2104542553, 0.7936177850, -0.0040720468],
            [1.9779984951, -2.4285922050, 0.4505937099],
            [0.0259040371, 0.7827717662, -0.8086757660],
        ]
    )
    found: NDArray[np.float64] = np.cbrt(linear @ cones.T) @ lab.T
    return found


def test_equal_steps_of_error_look_equal() -> None:
    steps = oklab(colour(np.linspace(0, 1, 33)))
    lengths = np.linalg.norm(np.diff(steps, axis=0), axis=1)
    assert lengths.max() / lengths.min() < 1.25
    assert (np.diff(steps[:, 0]) > 0).all()  # ever lighter, so that it reads without colour too


@given(st.floats(0, 1))
def test_a_colour_lies_between_two_anchors(part: float) -> None:
    at = part * (len(SCALE) - 1)
    low, high = np.array(SCALE[int(at)]), np.array(SCALE[min(int(at) + 1, len(SCALE) - 1)])
    np.testing.assert_allclose(colour(np.array(part)), low + (at - int(at)) * (high - low), atol=1e-6)


def test_an_image_of_one_patch_has_no_map() -> None:
    with pytest.raises(BadParameter, match="passes: an image of one patch has none to remove"):
        ReconstructQuery(passes=2).maskings(1, max_passes=64)
