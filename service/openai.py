"""OpenAI's embeddings API as far as it fits images: bodies in and out.

https://platform.openai.com/docs/api-reference/embeddings
"""

from __future__ import annotations

from base64 import b64encode
from typing import Annotated, Any, Literal

from fastapi import Response
from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Manifest
from service import encode
from service.errors import BadParameter, UnknownModel
from service.images import from_texts, parse_image_list
from service.options import EmbedQuery, validate
from service.outcome import Answer

_TEXT = {"type": "string", "description": "base64, or a data URI", "format": "image"}
_PART = {
    "type": "object",
    "required": ["type", "image_url"],
    "additionalProperties": False,
    "properties": {
        "type": {"const": "image_url"},
        "image_url": {
            "type": "object", "required": ["url"], "additionalProperties": False, "properties": {"url": _TEXT},
        },
    },
}  # fmt: skip
_INPUT: dict[str, Any] = {"anyOf": [_TEXT, _PART, {"type": "array", "minItems": 1, "items": {"anyOf": [_TEXT, _PART]}}]}


class EmbeddingsRequest(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    input: Annotated[Any, Field(description="One image, or a list of them.", json_schema_extra=_INPUT)]
    model: str = Field(description="The bundle's name.")
    encoding_format: Literal["float", "base64"] | None = Field(
        None, description="base64: little-endian float32; float, a list of numbers, by default."
    )
    dimensions: int | None = Field(None, description="The bundle's dim, which is the only one there is.")
    user: str | None = Field(None, description="Accepted, and not looked at.")


class Embedding(BaseModel):
    object: Literal["embedding"]
    index: int
    embedding: list[float] | str


class Usage(BaseModel):
    prompt_tokens: int
    total_tokens: int


class EmbeddingsResponse(BaseModel):
    object: Literal["list"]
    data: list[Embedding]
    model: str
    usage: Usage


class Model(BaseModel):
    id: str
    object: Literal["model"]
    created: int
    owned_by: str


class ModelList(BaseModel):
    object: Literal["list"]
    data: list[Model]


def read_request(body: bytes, manifest: Manifest, max_images: int) -> tuple[EmbeddingsRequest, list[bytes | str]]:
    """The request, and its encoded images.

    Errors: BadParameter, UnknownModel, and what `from_texts` raises.
    """
    request = validate(EmbeddingsRequest, parse_image_list(body, max_images))
    check_model(request.model, manifest)
    dim = manifest.model.dim
    if request.dimensions not in (None, dim):
        raise BadParameter(f"dimensions: this model's vectors have {dim}, no more and no fewer", param="dimensions")
    inputs = request.input if isinstance(request.input, list) else [request.input]
    return request, from_texts([_text(each) for each in inputs], max_images, param="input")


def check_model(name: str, manifest: Manifest) -> None:
    """UnknownModel if it is not the bundle's name."""
    if name != manifest.name:
        raise UnknownModel(f"there is no model {name!r}; this service has {manifest.name!r}")


def embeddings(answer: Answer, request: EmbeddingsRequest, manifest: Manifest) -> Response:
    """Normalised vectors of the bundle's pooling. A token is a patch that the encoder saw."""
    query = EmbedQuery()
    [vectors] = encode.split_poolings(
        answer, query.poolings(manifest.pooling), query, manifest.model.dim
    ).values()  # [N, D]
    rows: Any = vectors
    if request.encoding_format == "base64":
        rows = [b64encode(row).decode() for row in vectors.astype("<f4", copy=False)]
    num_tokens = len(vectors) * manifest.model.num_patches
    body = {
        "object": "list",
        "data": [{"object": "embedding", "index": index, "embedding": row} for index, row in enumerate(rows)],
        "model": manifest.name,
        "usage": {"prompt_tokens": num_tokens, "total_tokens": num_tokens},
    }
    return encode.json(body, answer)


def describe(manifest: Manifest) -> dict[str, Any]:
    """The bundle as one of OpenAI's models."""
    created = int(manifest.created_at.timestamp())
    return {"id": manifest.name, "object": "model", "created": created, "owned_by": "maeve"}


def _text(entry: Any) -> Any:
    """The text of an entry that is a content part; others as they are."""
    if isinstance(entry, dict) and entry.get("type") == "image_url" and entry.keys() == {"type", "image_url"}:
        url = entry["image_url"]
        return url["url"] if isinstance(url, dict) and url.keys() == {"url"} else None
    return entry
