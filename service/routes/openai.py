"""POST /v1/embeddings, GET /v1/models: for clients of OpenAI's API."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service import encode, openai, schemas
from service.call import Call, DirectRoute
from service.offload import by_size
from service.options import JSON, EmbedQuery, Query

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/v1/embeddings",
    response_model=openai.EmbeddingsResponse,
    responses=schemas.EMBEDDINGS_ANSWERS,
    openapi_extra=schemas.takes_embeddings(),
)
async def embeddings(request: Request) -> Response:
    """A vector per image in OpenAI's shape, of length 1 and the bundle's pooling."""
    call = Call(request)
    call.query(Query)
    engine, body = call.engine, await call.body(JSON)
    read = partial(openai.read_request, body, engine.manifest, call.settings.max_images)
    asked, sent = await by_size(len(body), read)
    answer = await engine.embed(await call.fetched(sent), EmbedQuery(), call.deadline, call.cache_policy)
    return await call.render(answer, partial(openai.embeddings, answer, asked, engine.manifest))


@router.get("/v1/models", response_model=openai.ModelList)
async def models(request: Request) -> Response:
    """The bundle, as a list of one."""
    manifest = Call(request).engine.manifest
    return encode.json({"object": "list", "data": [openai.describe(manifest)]})


@router.get(
    "/v1/models/{model}",
    response_model=openai.Model,
    responses=schemas.errors(404),
    openapi_extra=schemas.names("model"),
)
async def model(request: Request) -> Response:
    """The bundle, if that is its name."""
    manifest = Call(request).engine.manifest
    openai.check_model(request.path_params["model"], manifest)
    return encode.json(openai.describe(manifest))
