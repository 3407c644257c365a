"""What a lane runs for a batch: graphs of the bundle, one after the other, on the same lane.

Letters: N images, H x W pixels, C channels, L patches, K patches kept, D width, P patch side. Every result is one flat
float32 vector per image: that is what the caches hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.masking import all_ids
from runtime import Arrays, Runtime
from service.cache import Vector

Operation = Literal["embed", "classify", "reconstruct"]
OPERATIONS: tuple[Operation, ...] = get_args(Operation)
PoolingName = Literal["cls", "mean", "patches"]
FeatureName = Literal[PoolingName, "tokens"]  # tokens: cls and the patches, as the encoder's graph gives them
_OUTPUTS: dict[FeatureName, str] = {"cls": "cls", "mean": "mean", "patches": "tokens", "tokens": "tokens"}


@dataclass(frozen=True)
class Program:
    """Images of equal programs may share a batch. `num_keep`: K, the patches that the encoder sees."""

    operation: Operation
    num_keep: int
    poolings: tuple[FeatureName, ...] = ()

    def num_values(self, manifest: Manifest) -> int:
        """The length of a result."""
        model = manifest.model
        match self.operation:
            case "embed":
                rows = {"cls": 1, "mean": 1, "patches": self.num_keep, "tokens": 1 + self.num_keep}
                return sum(rows[pooling] for pooling in self.poolings) * model.dim
            case "classify":
                assert manifest.num_classes is not None
                return manifest.num_classes
            case "reconstruct":
                return 2 * model.num_patches * model.patch_dim


@dataclass(frozen=True, eq=False)
class Item:
    """One image and the patches that the encoder sees of it; `ids_restore` where a decoder follows.

    `image`: encoded, or pixels: it came so, or was decoded in `decode_s` seconds.
    """

    image: bytes | NDArray[np.uint8]  # [H, W, C]
    ids_keep: NDArray[np.int64]  # [K]
    ids_restore: NDArray[np.int64] | None = None  # [L]
    decode_s: float = 0.0

    @property
    def pixels(self) -> NDArray[np.uint8]:
        """[H, W, C]"""
        assert not isinstance(self.image, bytes)
        return self.image


class Programs:
    """Runs batches of one bundle on one runtime; called from several lanes at once."""

    def __init__(self, manifest: Manifest, runtime: Runtime) -> None:
        self._manifest = manifest
        self._runtime = runtime

    def run(self, program: Program, items: Sequence[Item]) -> list[Vector]:
        """A flat vector per item.

        embed: the poolings one after the other, `patches` row by row without cls, `tokens` with it. classify: logits.
        reconstruct: the pixels, 0..255, then the decoder's patches. Raises what Runtime.run raises.
        """
        match program.operation:
            case "embed":
                return self._embed(program.poolings, items)
            case "classify":
                return [_flat([row]) for row in self._classify(items)]
            case "reconstruct":
                return self._reconstruct(items)

    def _encode(self, items: Sequence[Item], wanted: Sequence[str]) -> Arrays:
        ids_keep = np.stack([item.ids_keep for item in items])  # [N, K]
        return self._runtime.run("encoder", {"images": _images(items), "ids_keep": ids_keep}, wanted)

    def _embed(self, poolings: Sequence[FeatureName], items: Sequence[Item]) -> list[Vector]:
        outputs = self._encode(items, [_OUTPUTS[pooling] for pooling in poolings])
        features = {pooling: outputs[_OUTPUTS[pooling]] for pooling in poolings}
        if "patches" in features:
            features["patches"] = features["patches"][:, 1:]  # without cls
        return [_flat([features[pooling][n] for pooling in poolings]) for n in range(len(items))]

    def _classify(self, items: Sequence[Item]) -> NDArray[Any]:
        """Logits [N, classes]."""
        if "classifier" in self._manifest.graphs:
            return self._runtime.run("classifier", {"images": _images(items)})["logits"]
        ids_keep = all_ids(len(items), self._manifest.model.num_patches)
        needed = [tensor.name for tensor in self._manifest.graphs["head"].inputs]
        features = self._runtime.run("encoder", {"images": _images(items), "ids_keep": ids_keep}, needed)
        return self._runtime.run("head", features)["logits"]

    def _reconstruct(self, items: Sequence[Item]) -> list[Vector]:
        tokens = self._encode(items, ["tokens"])["tokens"]
        ids_restore = np.stack([item.ids_restore for item in items if item.ids_restore is not None])  # [N, L]
        patches = self._runtime.run("decoder", {"tokens": tokens, "ids_restore": ids_restore})["patches"]
        return [_flat([item.pixels, patches[n]]) for n, item in enumerate(items)]


def _images(items: Sequence[Item]) -> NDArray[np.uint8]:
    return np.stack([item.pixels for item in items])  # [N, H, W, C]


def _flat(parts: Sequence[NDArray[Any]]) -> Vector:
    """A copy, so that a cached vector does not keep its whole batch alive; read-only, because requests share it."""
    vector = np.concatenate([part.ravel() for part in parts], dtype=np.float32, casting="same_kind")
    vector.setflags(write=False)
    return vector
