"""Profiles and buckets, against shapes computed by hand: 16 patches, width 32."""

from __future__ import annotations

import pytest

from bundle.manifest import GraphName, GraphSpec, TensorSpec
from runtime.trt.profiles import Profile, Range, bucket, buckets, plan_profiles, read_profile

IMAGES = TensorSpec(name="images", dtype="uint8", shape=("N", 32, 32, 3))
IDS_KEEP = TensorSpec(name="ids_keep", dtype="int64", shape=("N", "K"))
TOKENS = TensorSpec(name="tokens", dtype="float32", shape=("N", "1+K", 32))
IDS_RESTORE = TensorSpec(name="ids_restore", dtype="int64", shape=("N", 16))
MEAN = TensorSpec(name="mean", dtype="float32", shape=("N", 32))


def spec(*inputs: TensorSpec) -> GraphSpec:
    return GraphSpec(files={"fp32": "x.onnx"}, inputs=inputs, outputs=(MEAN,), opset=20)


ENCODER, DECODER, HEAD = spec(IMAGES, IDS_KEEP), spec(TOKENS, IDS_RESTORE), spec(MEAN)


def test_the_encoder_has_one_image_many_images_and_parts() -> None:
    one, many, part = plan_profiles("encoder", ENCODER, 16, 8)
    assert one.shapes(IMAGES) == ((1, 32, 32, 3),) * 3
    assert one.shapes(IDS_KEEP) == ((1, 16),) * 3
    assert many.shapes(IMAGES) == ((2, 32, 32, 3), (8, 32, 32, 3), (8, 32, 32, 3))
    assert many.shapes(IDS_KEEP) == ((2, 16), (8, 16), (8, 16))
    assert part.shapes(IMAGES) == ((1, 32, 32, 3), (8, 32, 32, 3), (8, 32, 32, 3))
    assert part.shapes(IDS_KEEP) == ((1, 1), (8, 4), (8, 16))


def test_the_decoder_has_parts_alone() -> None:
    (part,) = plan_profiles("decoder", DECODER, 16, 8)
    assert part.shapes(TOKENS) == ((1, 2, 32), (8, 5, 32), (8, 17, 32))
    assert part.shapes(IDS_RESTORE) == ((1, 16), (8, 16), (8, 16))


@pytest.mark.parametrize(("graph", "inputs"), [("head", HEAD), ("classifier", spec(IMAGES))])
def test_graphs_without_parts_have_one_and_many(graph: GraphName, inputs: GraphSpec) -> None:
    profiles = plan_profiles(graph, inputs, 16, 64)
    assert [p.axes for p in profiles] == [{"N": Range(1, 1, 1)}, {"N": Range(2, 64, 64)}]


def test_a_batch_of_one_needs_no_profile_for_many() -> None:
    assert [p.axes["N"] for p in plan_profiles("encoder", ENCODER, 16, 1)] == [Range(1, 1, 1)] * 2
    assert len(plan_profiles("head", HEAD, 16, 1)) == 1
    with pytest.raises(ValueError, match="max_batch must be at least 1, got 0"):
        plan_profiles("head", HEAD, 16, 0)


@pytest.mark.parametrize("num_patches", [1, 2, 16, 197])
@pytest.mark.parametrize("max_batch", [1, 2, 3, 64])
def test_every_shape_that_can_be_asked_for_has_a_profile(num_patches: int, max_batch: int) -> None:
    for graph, inputs in (("encoder", ENCODER), ("decoder", DECODER)):
        profiles = plan_profiles(graph, inputs, num_patches, max_batch)  # type: ignore[arg-type]
        for n in buckets(max_batch):
            for k in range(1, num_patches + 1):
                assert any(p.contains({"N": n, "K": k}) for p in profiles)
        assert not any(p.contains({"N": max_batch + 1, "K": 1}) for p in profiles)
        assert not any(p.contains({"N": 1, "K": num_patches + 1}) for p in profiles)


def test_a_profile_is_read_back_from_its_shapes() -> None:
    for inputs in (ENCODER, DECODER):
        profile = Profile({"N": Range(2, 8, 9), "K": Range(1, 4, 16)})
        assert read_profile(inputs, {t.name: profile.shapes(t) for t in inputs.inputs}) == profile


def test_buckets_are_powers_of_two_and_the_greatest_batch() -> None:
    assert buckets(64) == (1, 2, 4, 8, 16, 32, 64)
    assert buckets(12) == (1, 2, 4, 8, 12)
    assert buckets(1) == (1,)
    assert [bucket(n, 12) for n in (1, 2, 3, 4, 5, 8, 9, 12)] == [1, 2, 4, 4, 8, 8, 12, 12]
