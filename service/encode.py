"""Answers on the wire: JSON by orjson, raw little-endian tensors, .npy, PNG."""

from __future__ import annotations

import io
import sys
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import orjson
from fastapi import Response
from numpy.typing import NDArray

from bundle.manifest import Manifest
from bundle.masking import Masking
from bundle.store import Bundle
from service.anomaly import make_map
from service.index import Index, Neighbour
from service.options import JSON, NPY, PNG, EmbedQuery, ReconstructQuery
from service.outcome import Answer
from service.programs import PoolingName
from service.reconstruct import Picture, encode_png, make_pictures
from service.thumbnails import link

Tensor = NDArray[np.floating[Any]]

_TINY = np.float32(1e-24)  # squared length under which a vector counts as having none


def split_poolings(
    answer: Answer, poolings: Sequence[PoolingName], query: EmbedQuery, dim: int
) -> dict[PoolingName, Tensor]:
    """For each pooling [N, D], and [N, K, D] for `patches`, normalised and of the type asked for."""
    if len(answer.values) == 1 and answer.values[0].size == dim and len(poolings) == 1 and poolings[0] != "patches":
        return {poolings[0]: _finish(answer.values[0], query)[None]}  # what is asked for most, and costs most to shape
    rows = np.stack(answer.values).reshape(len(answer.values), -1, dim)  # [N, rows of all poolings, D]
    num_patches = rows.shape[1] - sum(pooling != "patches" for pooling in poolings)
    tensors: dict[PoolingName, Tensor] = {}
    start = 0
    for pooling in poolings:
        size = num_patches if pooling == "patches" else 1
        part = rows[:, start : start + size]  # [N, 1 or K, D]
        start += size
        part = _finish(part, query)
        tensors[pooling] = part if pooling == "patches" else part[:, 0]
    return tensors


def _finish(vectors: Tensor, query: EmbedQuery) -> Tensor:
    """[..., D] normalised and of the type asked for; each vector in the same digits however many there are."""
    if query.normalize:
        squares = np.vecdot(vectors, vectors)  # [...]
        vectors = vectors / np.sqrt(np.maximum(squares, _TINY))[..., None]
    return vectors if query.dtype == "float32" else vectors.astype(query.dtype)


def embeddings(
    answer: Answer, poolings: Sequence[PoolingName], query: EmbedQuery, media_type: str, manifest: Manifest
) -> Response:
    """One pooling: `embeddings` is a list with an entry per image. Several, in JSON only: an object of such lists."""
    assert media_type == JSON or len(poolings) == 1
    tensors = split_poolings(answer, poolings, query, manifest.model.dim)
    first = tensors[poolings[0]]
    if media_type == JSON:
        single = len(poolings) == 1
        body = {
            "model": manifest.name,
            "digest": manifest.digest,
            "pooling": poolings[0] if single else poolings,
            "dim": manifest.model.dim,
            "embeddings": first if single else tensors,
            "cached": answer.cached,
        }
        return json(body, answer)
    head = _tensor_head(manifest.name, manifest.digest, poolings[0], first.shape, query.dtype)
    cached = ",".join(["1" if cached else "0" for cached in answer.cached])
    headers = [*head, (b"maeve-cached", cached.encode())]
    return Answered(_npy(first) if media_type == NPY else _octets(first), media_type, answer, headers)


def unit_vectors(answer: Answer, query: EmbedQuery, manifest: Manifest) -> NDArray[np.float32]:
    """[N, D] of length 1; `query`: with one pooling that gives a vector per image."""
    [pooling] = query.poolings(manifest.pooling)
    vectors: NDArray[np.float32] = split_poolings(answer, [pooling], query, manifest.model.dim)[pooling]
    return vectors


def neighbours(
    answer: Answer, found: Sequence[Sequence[Neighbour]], index: Index, manifest: Manifest, *, thumbnails: bool
) -> Response:
    """The rows found for every image, best first. `thumbnails`: whether there are any to name."""
    body = {
        "model": manifest.name,
        "digest": manifest.digest,
        "num_rows": index.num_rows,
        "results": [[_neighbour(row, thumbnails=thumbnails) for row in rows] for rows in found],
        "cached": answer.cached,
    }
    return json(body, answer)


def _neighbour(row: Neighbour, *, thumbnails: bool) -> dict[str, Any]:
    return {
        "path": row.path,
        "sha256": row.sha256,
        "score": row.score,
        "columns": row.columns,
        "thumbnail": link(row.path) if thumbnails else None,
    }


def predictions(answer: Answer, top_k: int, bundle: Bundle) -> Response:
    """The `top_k` most probable labels of every image, most probable first."""
    logits = np.stack(answer.values)  # [N, classes]
    exp = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = exp / exp.sum(axis=1, keepdims=True)  # [N, classes]
    order = np.argsort(-probabilities, axis=1, kind="stable")[:, :top_k]  # [N, top_k]
    labels = bundle.labels or ()
    body = {
        "model": bundle.manifest.name,
        "digest": bundle.manifest.digest,
        "predictions": [
            [{"label": labels[i], "index": int(i), "probability": float(row[i])} for i in ids]
            for ids, row in zip(order, probabilities, strict=True)
        ],
        "cached": answer.cached,
    }
    return json(body, answer)


def reconstruction(answer: Answer, masking: Masking, media_type: str, manifest: Manifest) -> Response:
    """Three pictures and the error, or the pictures side by side as one PNG."""
    pictures = make_pictures(answer.values[0], masking.mask, manifest)
    if media_type == PNG:
        return Answered(encode_png(pictures.side_by_side()), PNG, answer)
    images = {name: getattr(pictures, name) for name in ("original", "masked", "reconstruction")}
    body = {
        "model": manifest.name,
        "digest": manifest.digest,
        "pixel_target": manifest.pixel_target,
        "grid": manifest.model.grid,
        "mask": masking.mask.astype(np.int64),
        "error": pictures.error,
        "mean_error": float(pictures.error[masking.mask == 1].mean()),
        "images": _in_base64(images),
        "cached": answer.cached[0],
    }
    return json(body, answer)


def anomaly_map(
    answer: Answer, maskings: Sequence[Masking], query: ReconstructQuery, media_type: str, manifest: Manifest
) -> Response:
    """The error of every patch over several passes with a heat map, or the pictures side by side as one PNG."""
    found = make_map(answer.values, maskings, manifest)
    max_error = found.error.max()  # float32 still, so that it is written in the digits that it has in `error`
    scale_max = query.scale_max or max_error or 1.0
    if media_type == PNG:
        return Answered(encode_png(found.side_by_side(scale_max)), PNG, answer)
    body = {
        "model": manifest.name,
        "digest": manifest.digest,
        "pixel_target": manifest.pixel_target,
        "grid": found.grid,
        "passes": len(maskings),
        "mask_ratio": query.ratio,
        "seed": query.seed,
        "error": found.error,
        "hidden": found.hidden,
        "mean_error": float(found.error.mean()),
        "max_error": max_error,
        "scale_max": scale_max,
        "images": _in_base64({"original": found.original, "heatmap": found.heatmap(scale_max)}),
        "cached": all(answer.cached),
    }
    return json(body, answer)


def _in_base64(pictures: Mapping[str, Picture]) -> dict[str, str]:
    return {name: b64encode(encode_png(picture)).decode() for name, picture in pictures.items()}


def json(body: Mapping[str, Any], answer: Answer | None = None, *, status: int = 200) -> Response:
    content = orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY, default=_contiguous)
    return Answered(content, JSON, answer, status=status)


class Answered(Response):
    """A body with its headers as they go out: Starlette's own way there is a fifth of a cache hit's time."""

    def __init__(
        self,
        body: bytes,
        media_type: str,
        answer: Answer | None = None,
        headers: Iterable[tuple[bytes, bytes]] = (),
        *,
        status: int = 200,
    ) -> None:
        self.status_code, self.background, self.body = status, None, body
        self.raw_headers = [
            (b"content-length", str(len(body)).encode()),
            (b"content-type", media_type.encode()),
            *headers,
        ]
        if answer is not None and not answer.stored:
            self.raw_headers.append((b"cache-control", b"no-store"))


@lru_cache(maxsize=64)
def _tensor_head(
    name: str, digest: str, pooling: str, shape: tuple[int, ...], dtype: str
) -> tuple[tuple[bytes, bytes], ...]:
    return (
        (b"maeve-model", name.encode("latin-1")),
        (b"maeve-digest", digest.encode()),
        (b"maeve-pooling", pooling.encode()),
        (b"maeve-shape", ",".join(map(str, shape)).encode()),
        (b"maeve-dtype", dtype.encode()),
    )


def _contiguous(value: Any) -> Any:
    """orjson takes arrays only as they lie in memory row by row."""
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value) if not value.flags.c_contiguous else value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _octets(tensor: Tensor) -> bytes:
    return tensor.tobytes() if sys.byteorder == "little" else tensor.byteswap().tobytes()


def _npy(tensor: Tensor) -> bytes:
    out = io.BytesIO()
    np.save(out, tensor, allow_pickle=False)
    return out.getvalue()
