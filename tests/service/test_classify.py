"""POST /classify."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.fake import FakeRuntime
from tests.service.helpers import LABELS, NUM_PATCHES, make_bundle, photo, serving_fake


def probabilities(bundle: Bundle, image: bytes) -> dict[str, float]:
    runtime = FakeRuntime(bundle)
    batch = preprocess(image, bundle.manifest.preprocess)[None]
    if "classifier" in bundle.manifest.graphs:
        logits = runtime.run("classifier", {"images": batch})["logits"][0]
    else:
        encoded = runtime.run("encoder", {"images": batch, "ids_keep": all_ids(1, NUM_PATCHES)})
        logits = runtime.run("head", {"mean": encoded["mean"]})["logits"][0]
    exp = np.exp(logits.astype(np.float64))
    return dict(zip(LABELS, exp / exp.sum(), strict=True))


@pytest.mark.parametrize("graphs", [("encoder", "head"), ("encoder", "classifier")])
def test_labels_come_with_probabilities_the_likeliest_first(tmp_path: Path, graphs: tuple[str, ...]) -> None:
    bundle = make_bundle(tmp_path / "b", *graphs)
    images = [photo(1), photo(2)]
    with serving_fake(bundle) as (served, _):
        body = served.http.post("/classify", files=[("file", image) for image in images]).json()
    assert body.keys() == {"model", "digest", "predictions", "cached"}
    for image, found in zip(images, body["predictions"], strict=True):
        want = sorted(probabilities(bundle, image).items(), key=lambda item: -item[1])
        assert [entry["label"] for entry in found] == [label for label, _ in want]
        assert [entry["index"] for entry in found] == [LABELS.index(label) for label, _ in want]
        np.testing.assert_allclose([e["probability"] for e in found], [p for _, p in want], rtol=1e-5)


def test_top_k_cuts_the_list(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        for top_k, count in ((1, 1), (3, 3), (10**30, 5)):
            found = served.http.post("/classify", content=photo(1), params={"top_k": top_k}).json()
            assert len(found["predictions"][0]) == count
        assert served.http.post("/classify", content=photo(1)).json()["cached"] == [True]


def test_a_bundle_without_a_classifier_says_so(tmp_path: Path) -> None:
    with serving_fake(make_bundle(tmp_path / "b", "encoder")) as (served, _):
        answer = served.http.post("/classify", content=photo(1))
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_offered"
    assert answer.json()["error"]["message"] == "the bundle fake has no classifier"
