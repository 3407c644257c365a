"""What /openapi.json and /docs say of routes, and nothing else: the handlers answer with bytes that orjson made,
because sending a thousand floats through pydantic takes longer than the rest of the request.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from service import kserve_shapes, openai
from service.errors import ERRORS, INTERNAL
from service.gate import OPEN
from service.options import JPEG, JSON, NPY, OCTETS, PNG, Query
from service.programs import PoolingName

Vectors = list[list[float]]


class ErrorDetail(BaseModel):
    type: str
    message: str
    param: str | None
    code: int


class ErrorResponse(BaseModel):
    error: ErrorDetail


class FlatErrorResponse(BaseModel):
    error: str
    type: str
    param: str | None
    code: int


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


class Neighbour(BaseModel):
    path: str
    sha256: str
    score: float
    columns: dict[str, str | int | float | bool | None]
    thumbnail: str | None


class SearchResponse(BaseModel):
    model: str
    digest: str
    num_rows: int
    results: list[list[Neighbour]]
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


class AnomalyImages(BaseModel):
    original: str
    heatmap: str


class AnomalyResponse(BaseModel):
    model: str
    digest: str
    pixel_target: Literal["raw", "normalized"]
    grid: tuple[int, int]
    passes: int
    mask_ratio: float
    seed: int
    error: list[float]
    hidden: list[int]
    mean_error: float
    max_error: float
    scale_max: float
    images: AnomalyImages
    cached: bool


def errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer with, beside the errors that any of them may; see `complete`."""
    return {status: {"model": ErrorResponse, **_error(status)} for status in statuses}


def flat_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The same below /v2."""
    return {status: {"model": FlatErrorResponse, **_error(status)} for status in statuses}


def _error(status: int) -> dict[str, Any]:
    kinds = [kind for code, kind in (*ERRORS.values(), INTERNAL) if code == status]
    headers = {401: {"WWW-Authenticate": _TEXT_HEADER}, 429: {"Retry-After": _RETRY}, 503: {"Retry-After": _RETRY}}
    told = {"headers": headers[status]} if status in headers else {}
    return {"description": " or ".join(kinds).replace("_", " "), **told}


def _ok(*binary: str, headers: dict[str, Any] | None = None) -> dict[int | str, dict[str, Any]]:
    """Results as JSON, or as one of these other media types."""
    content = {media_type: {"schema": _BINARY} for media_type in binary}
    return {200: {"content": content, "headers": {"Server-Timing": _TEXT_HEADER, **(headers or {})}}}


_TEXT_HEADER = {"schema": {"type": "string"}}
_RETRY = {"description": "Seconds.", "schema": {"type": "integer", "minimum": 1}}
_BINARY = {"type": "string", "format": "binary"}
_IMAGE = {"type": "string", "description": "base64, or a data URI", "format": "image"}
_MULTIPART = {
    "type": "object",
    "required": ["file"],
    "additionalProperties": False,
    "properties": {"file": {"type": "array", "minItems": 1, "items": _BINARY}},
}
_IMAGE_LIST = {
    "type": "object",
    "required": ["images"],
    "additionalProperties": False,
    "properties": {"images": {"type": "array", "minItems": 1, "items": _IMAGE}},
}


def takes_images(query: type[Query]) -> dict[str, Any]:
    """What a route takes: the query parameters of the model, and images."""
    forms = {"image/*": _BINARY, OCTETS: _BINARY, "multipart/form-data": _MULTIPART, JSON: _IMAGE_LIST}
    return {"parameters": _query_parameters(query), **_body(forms)}


def takes_embeddings() -> dict[str, Any]:
    """A request in OpenAI's shape."""
    return _body({JSON: _reference(openai.EmbeddingsRequest)})


def takes_tensors(*path: str) -> dict[str, Any]:
    """These parts of the path, and a request of the Open Inference Protocol, with tensors behind it or without."""
    length = {
        "name": "Inference-Header-Content-Length", "in": "header", "required": False,
        "description": "Bytes of JSON, where tensors in binary follow.",
        "schema": {"type": "integer", "minimum": 1},
    }  # fmt: skip
    forms = {JSON: _reference(kserve_shapes.InferRequest), OCTETS: _BINARY}
    return {"parameters": [*names(*path)["parameters"], length], **_body(forms)}


def names(*path: str, query: type[Query] | None = None) -> dict[str, Any]:
    """Parts of the path, and the query parameters of the model."""
    parts = [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in path]
    return {"parameters": [*parts, *(_query_parameters(query) if query else ())]}


def _body(forms: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {form: {"schema": schema} for form, schema in forms.items()}}}


def _reference(model: type[BaseModel]) -> dict[str, str]:
    return {"$ref": _REFERENCE.format(model=model.__name__)}


def _query_parameters(query: type[Query]) -> list[dict[str, Any]]:
    fields = query.model_json_schema()["properties"]
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": schema.get("description", ""),
            # a list is written with commas, unless its parameter may be repeated
            **({"style": "form", "explode": name in query.REPEATABLE} if schema.get("type") == "array" else {}),
            "schema": {key: value for key, value in schema.items() if key not in ("title", "description")},
        }
        for name, schema in fields.items()
    ]


_REFERENCE = "#/components/schemas/{model}"
_WORK = (400, 413, 415, 429)
_TENSOR_HEADERS = {f"Maeve-{name}": _TEXT_HEADER for name in ("Shape", "Dtype", "Pooling", "Model", "Digest", "Cached")}
EMBED_ANSWERS = _ok(OCTETS, NPY, headers=_TENSOR_HEADERS) | errors(*_WORK, 406)
CLASSIFY_ANSWERS = _ok() | errors(*_WORK, 404)
RECONSTRUCT_ANSWERS = _ok(PNG) | errors(*_WORK, 404, 406)
SEARCH_ANSWERS = _ok() | errors(*_WORK, 404)
THUMBNAIL_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"content": {JPEG: {"schema": _BINARY}}, "headers": {"ETag": _TEXT_HEADER, "Server-Timing": _TEXT_HEADER}},
    304: {"description": "the client has it"},
    **errors(404, 429),
}
EMBEDDINGS_ANSWERS = _ok() | errors(*_WORK, 404)
INFER_ANSWERS = _ok(OCTETS, headers={"Inference-Header-Content-Length": _TEXT_HEADER}) | flat_errors(*_WORK, 404)

_ANYWHERE = (422, 500, 503, 504)
_TIMEOUT = {
    "name": "X-Request-Timeout-Ms",
    "in": "header",
    "required": False,
    "description": "Milliseconds that the request may take, if less than the service's own limit.",
    "schema": {"type": "number", "exclusiveMinimum": 0},
}
_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "Where the service has a key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "The same."},
}
_REQUESTS: tuple[type[BaseModel], ...] = (openai.EmbeddingsRequest, kserve_shapes.InferRequest)


def complete(document: dict[str, Any]) -> dict[str, Any]:
    """FastAPI's document with what all routes have in common, which is what the gate does: the key, the deadline, and
    the errors of both.
    """
    schemas = document["components"]["schemas"]
    _, definitions = models_json_schema([(model, "validation") for model in _REQUESTS], ref_template=_REFERENCE)
    schemas.update(definitions["$defs"])
    document["components"]["securitySchemes"] = _KEYS
    for path, operations in document["paths"].items():
        model = FlatErrorResponse if path.startswith("/v2") else ErrorResponse
        for operation in operations.values():
            operation.setdefault("parameters", []).append(_TIMEOUT)
            statuses = _ANYWHERE if path in OPEN else (401, *_ANYWHERE)
            for status in statuses:
                answer = {"content": {JSON: {"schema": _reference(model)}}, **_error(status)}
                operation["responses"].setdefault(str(status), answer)
            if path not in OPEN:
                operation["security"] = [{}, *({name: []} for name in _KEYS)]
    return document
