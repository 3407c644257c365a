"""The shapes of answers, for /openapi.json and /docs alone: the handlers answer with bytes that orjson made, because
sending a thousand floats through pydantic takes longer than the rest of the request.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel

from service.errors import ERRORS, INTERNAL
from service.options import NPY, OCTETS, PNG
from service.programs import PoolingName

Vectors = list[list[float]]


class ErrorDetail(BaseModel):
    type: str
    message: str
    param: str | None
    code: int


class ErrorResponse(BaseModel):
    error: ErrorDetail


class EmbedResponse(BaseModel):
    model: str
    digest: str
    pooling: PoolingName | list[PoolingName]
    dim: int
    embeddings: Vectors | list[Vectors] | dict[PoolingName, Vectors | list[Vectors]]
    cached: list[bool]


class Prediction(BaseModel):
    label: str
    index: int
    probability: float


class ClassifyResponse(BaseModel):
    model: str
    digest: str
    predictions: list[list[Prediction]]
    cached: list[bool]


class ReconstructImages(BaseModel):
    original: str
    masked: str
    reconstruction: str


class ReconstructResponse(BaseModel):
    model: str
    digest: str
    pixel_target: Literal["raw", "normalized"]
    grid: tuple[int, int]
    mask: list[int]
    error: list[float]
    mean_error: float
    images: ReconstructImages
    cached: bool


def responses(*, binary: tuple[str, ...] = (), leave_out: tuple[int, ...] = ()) -> dict[int | str, dict[str, Any]]:
    """What a route may answer with beside its JSON: `binary` media types, and errors."""
    kinds = dict([*ERRORS.values(), INTERNAL])
    errors: dict[int | str, dict[str, Any]] = {
        status: {"model": ErrorResponse, "description": kind.replace("_", " ")}
        for status, kind in sorted(kinds.items())
        if status not in leave_out
    }
    content = {media_type: {"schema": {"type": "string", "format": "binary"}} for media_type in binary}
    return {200: {"content": content}, **errors}


_BINARY = {"type": "string", "format": "binary"}
_MULTIPART = {"type": "object", "required": ["file"], "properties": {"file": {"type": "array", "items": _BINARY}}}
_JSON = {
    "type": "object",
    "required": ["images"],
    "additionalProperties": False,
    "properties": {
        "images": {"type": "array", "minItems": 1, "items": {"type": "string", "description": "base64, or a data URI"}}
    },
}


def takes_images(query: type[BaseModel]) -> dict[str, Any]:
    """What a route takes: the query parameters of the model, and images."""
    return {
        "parameters": [*_query_parameters(query), _TIMEOUT],
        "requestBody": {
            "required": True,
            "content": {
                "image/*": {"schema": _BINARY},
                "multipart/form-data": {"schema": _MULTIPART},
                "application/json": {"schema": _JSON},
            },
        },
    }


_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds that the request may take, if less than the service's own limit.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}


def _query_parameters(query: type[BaseModel]) -> list[dict[str, Any]]:
    fields = query.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            "schema": {key: value for key, value in schema.items() if key not in ("title", "description")},
        }
        for name, schema in fields.items()
    ]


EMBED_ANSWERS = responses(binary=(OCTETS, NPY), leave_out=(404,))
CLASSIFY_ANSWERS = responses(leave_out=(406,))
RECONSTRUCT_ANSWERS = responses(binary=(PNG,))
