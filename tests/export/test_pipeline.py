"""What an export writes, and that it computes what the trained network computes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray

from bundle.manifest import GraphName
from bundle.store import Bundle, load_bundle
from export.__main__ import summary
from mae import Classifier, LinearHead, MaskedAutoencoder, Masking
from mae.model import Normalize, patchify
from mae.weights import load_model
from runtime.onnx import OnnxRuntime
from tests.conftest import LABELS, TinyRuns


@pytest.fixture(scope="module")
def command(
    tiny_runs: TinyRuns, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The whole command, as a user types it; and where it wrote."""
    out = tmp_path_factory.mktemp("whole") / "bundles" / "whole"
    arguments = [tiny_runs.pretrained, "--classifier", tiny_runs.finetuned, "--out", out, "--name", "whole"]
    line = [sys.executable, "-m", "export", *map(str, arguments)]
    return out, subprocess.run(line, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])


@pytest.fixture(scope="module")
def classifier_bundle(command: tuple[Path, Any]) -> Bundle:
    return load_bundle(command[0])


@pytest.fixture(scope="module")
def model(tiny_runs: TinyRuns) -> MaskedAutoencoder:
    network = load_model(tiny_runs.pretrained)
    assert isinstance(network, MaskedAutoencoder)
    return network


def noise(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)


def normalized(network: MaskedAutoencoder | Classifier, images: NDArray[np.uint8]) -> torch.Tensor:
    config = network.config if isinstance(network, MaskedAutoencoder) else network.config.encoder
    return Normalize(config.mean, config.std)(torch.from_numpy(images).permute(0, 3, 1, 2))  # type: ignore[no-any-return]


# What is written


def test_the_manifest_says_what_it_is_and_where_it_came_from(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    assert manifest.name == "tiny"
    assert manifest.model.model_dump() == {
        "image_size": (32, 32),
        "patch_size": 8,
        "channels": 3,
        "dim": 32,
        "depth": 2,
        "heads": 2,
        "mlp_ratio": 4.0,
        "decoder": {"dim": 32, "depth": 1, "heads": 2},
    }
    assert (manifest.preprocess.resize, manifest.preprocess.crop) == ((36, 36), (32, 32))
    assert manifest.preprocess.mean == (0.485, 0.456, 0.406)  # the network's, not the data's
    assert (manifest.pixel_target, manifest.pooling, manifest.num_classes) == ("normalized", "mean", 5)
    assert manifest.provenance.model_dump(exclude={"maeve_version"}) == {
        "dataset": "noise",
        "num_images": 7,
        "epochs": 2.0,
        "metrics": {"reconstruction_loss": 0.5, "probe_val_top1": 0.25, "num_val": 20},
        "git_commit": "abc123",
    }
    assert tiny_bundle.labels == LABELS


def test_every_graph_is_one_small_file_within_its_tolerance(tiny_bundle: Bundle) -> None:
    manifest = tiny_bundle.manifest
    files = {"decoder.onnx", "encoder.onnx", "head.onnx", "labels.json", "golden.npz"}
    assert set(manifest.files) == files
    assert {p.name for p in tiny_bundle.path.iterdir()} == files | {"manifest.json"}
    assert sorted(manifest.parity) == ["decoder.fp32", "encoder.fp32", "head.fp32"]
    for parity in manifest.parity.values():
        assert parity.max_abs <= parity.tolerance < 1e-3
        assert parity.cosine_min > 0.999999


@pytest.mark.parametrize("graph", ["encoder", "decoder", "head"])
def test_the_graphs_are_valid_and_named_as_the_manifest_says(tiny_bundle: Bundle, graph: GraphName) -> None:
    model = onnx.load(tiny_bundle.graph_file(graph))
    onnx.checker.check_model(model, full_check=True)
    spec = tiny_bundle.manifest.graphs[graph]
    assert [tensor.name for tensor in model.graph.input] == [tensor.name for tensor in spec.inputs]
    assert [tensor.name for tensor in model.graph.output] == [tensor.name for tensor in spec.outputs]
    assert [(o.domain, o.version) for o in model.opset_import] == [("", spec.opset)]
    for value, tensor in zip((*model.graph.input, *model.graph.output), (*spec.inputs, *spec.outputs), strict=True):
        shape = [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]
        assert [s if isinstance(s, int) else None for s in shape] == [
            s if isinstance(s, int) else None for s in tensor.shape
        ]


@pytest.mark.parametrize("graph", ["encoder", "decoder"])
def test_weights_are_stored_once(tiny_bundle: Bundle, model: MaskedAutoencoder, graph: GraphName) -> None:
    module = model.encoder if graph == "encoder" else model.decoder
    tensors = (*module.parameters(), *module.buffers())
    stored = onnx.load(tiny_bundle.graph_file(graph)).graph.initializer
    assert sum(len(tensor.raw_data) for tensor in stored) < 1.02 * sum(tensor.nbytes for tensor in tensors)


def test_the_files_tell_nothing_of_the_machine_that_wrote_them(tiny_bundle: Bundle) -> None:
    here = str(Path(__file__).parents[2]).encode()
    for file in tiny_bundle.path.iterdir():
        assert here not in file.read_bytes()
        assert b"stack_trace" not in file.read_bytes()


def test_the_same_weights_give_the_same_bytes(tiny_bundle: Bundle, classifier_bundle: Bundle) -> None:
    """Exported twice, in two processes."""
    for name in ("encoder.onnx", "decoder.onnx"):
        assert classifier_bundle.manifest.files[name] == tiny_bundle.manifest.files[name]
    assert classifier_bundle.manifest.digest != tiny_bundle.manifest.digest


def test_what_the_command_prints(command: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    """Progress on stderr, the result on stdout."""
    out, done = command
    bundle = load_bundle(out)
    assert done.stdout == summary(bundle) + "\n"
    path, digest, header, *rows = done.stdout.splitlines()
    assert (path, digest) == (str(out), f"digest {bundle.manifest.digest}")
    assert header.split() == [
        "graph", "precision", "file", "MB", "off", "by", "photos:", "cosine", "min", "mean", "same", "top-1",
        "quantized",
    ]  # fmt: skip
    graphs = ("encoder", "decoder", "classifier")
    whole = [[graph, "fp32", f"{graph}.onnx"] for graph in graphs]
    half = [[graph, "fp16", f"{graph}.fp16.onnx"] for graph in graphs]
    assert [row.split()[:3] for row in rows] == whole + half
    first, *progress = [line.split(" s  ", 1)[1] for line in done.stderr.splitlines()]
    assert first.startswith("int8: left out, since ")
    assert first.endswith("has left no real images to hold it against; give --images")
    steps = [f"{graph} {precision}: exporting" for precision in ("fp32", "fp16") for graph in graphs]
    assert progress[::2] == steps
    assert all(line.endswith(" of torch") for line in progress[1::2])


# What it computes: torch's own forward, with nothing of the export in between


@pytest.mark.parametrize(("n", "k"), [(1, 16), (1, 1), (2, 4), (5, 16), (3, 9)])
def test_encoder_and_decoder_equal_the_autoencoder(
    tiny_bundle: Bundle, model: MaskedAutoencoder, n: int, k: int
) -> None:
    images = noise(n)
    ids_shuffle = torch.rand(n, 16, generator=torch.Generator().manual_seed(k)).argsort(dim=1)
    ids_restore = ids_shuffle.argsort(dim=1)
    masking = Masking(ids_shuffle[:, :k], ids_restore, (ids_restore >= k).float())
    with torch.inference_mode():
        expected = model(normalized(model, images), masking)
    runtime = OnnxRuntime(tiny_bundle)
    encoded = runtime.run("encoder", {"images": images, "ids_keep": ids_shuffle[:, :k].numpy()})
    decoded = runtime.run("decoder", {"tokens": encoded["tokens"], "ids_restore": ids_restore.numpy()})
    np.testing.assert_allclose(encoded["tokens"], expected.latent, atol=2e-5)
    np.testing.assert_allclose(encoded["cls"], expected.latent[:, 0], atol=2e-5)
    np.testing.assert_allclose(encoded["mean"], expected.latent[:, 1:].mean(dim=1), atol=2e-5)
    np.testing.assert_allclose(decoded["patches"], expected.pred, atol=2e-5)


@pytest.mark.parametrize("value", [0, 255])
def test_plain_black_and_white_images_agree(tiny_bundle: Bundle, model: MaskedAutoencoder, value: int) -> None:
    images = np.full((1, 32, 32, 3), value, np.uint8)
    with torch.inference_mode():
        expected = model.encoder(patchify(normalized(model, images), 8))
    tokens = OnnxRuntime(tiny_bundle).run("encoder", {"images": images, "ids_keep": np.arange(16)[None]})["tokens"]
    np.testing.assert_allclose(tokens, expected, atol=2e-5)


def test_the_head_equals_the_probe(tiny_bundle: Bundle, tiny_runs: TinyRuns) -> None:
    head = load_model(tiny_runs.probe)
    assert isinstance(head, LinearHead)
    features = np.random.default_rng(0).standard_normal((4, 32), dtype=np.float32)
    with torch.inference_mode():
        expected = head(torch.from_numpy(features))
    np.testing.assert_allclose(OnnxRuntime(tiny_bundle).run("head", {"mean": features})["logits"], expected, atol=1e-5)


@pytest.mark.parametrize("n", [1, 6])
def test_the_classifier_equals_the_finetuned_network(classifier_bundle: Bundle, tiny_runs: TinyRuns, n: int) -> None:
    network = load_model(tiny_runs.finetuned)
    assert isinstance(network, Classifier)
    with torch.inference_mode():
        expected = network(normalized(network, noise(n)))
    logits = OnnxRuntime(classifier_bundle).run("classifier", {"images": noise(n)})["logits"]
    assert expected.std() > 0.1  # there is something to compare
    np.testing.assert_allclose(logits, expected, atol=5e-5)


def test_the_classifier_bundle_says_so(classifier_bundle: Bundle) -> None:
    manifest = classifier_bundle.manifest
    assert manifest.name == "whole"
    assert list(manifest.graphs) == ["encoder", "decoder", "classifier"]
    assert manifest.provenance.metrics == {"reconstruction_loss": 0.5, "val_top1": 0.75, "num_val": 20}
    assert classifier_bundle.labels == LABELS


def test_golden_arrays_are_torchs(tiny_bundle: Bundle, model: MaskedAutoencoder) -> None:
    golden = tiny_bundle.golden()
    assert set(golden) == {
        *("encoder.in.images", "encoder.in.ids_keep", "encoder.out.cls", "encoder.out.mean", "encoder.out.tokens"),
        *("decoder.in.tokens", "decoder.in.ids_restore", "decoder.out.patches", "head.in.mean", "head.out.logits"),
    }
    with torch.inference_mode():
        patches = patchify(normalized(model, golden["encoder.in.images"]), 8)
        expected = model.encoder(patches, torch.from_numpy(golden["encoder.in.ids_keep"]))
    np.testing.assert_allclose(golden["encoder.out.tokens"], expected, atol=1e-6)
    assert np.array_equal(golden["decoder.in.tokens"], golden["encoder.out.tokens"])
    assert np.array_equal(golden["head.in.mean"], golden["encoder.out.mean"])
