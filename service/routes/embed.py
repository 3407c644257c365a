"""POST /embed."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service import encode, schemas
from service.call import Call, DirectRoute
from service.options import EmbedQuery, embed_type

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/embed",
    response_model=schemas.EmbedResponse,
    responses=schemas.EMBED_ANSWERS,
    openapi_extra=schemas.takes_images(EmbedQuery),
)
async def embed(request: Request) -> Response:
    """A vector per image; see the query parameters for which, and Accept for how it is sent."""
    call = Call(request)
    query, engine = call.query(EmbedQuery), call.engine
    poolings = engine.poolings(query)
    media_type = embed_type(call.accept, poolings)
    answer = await engine.embed(await call.images(), query, call.deadline, call.cache_policy)
    return await call.render(answer, partial(encode.embeddings, answer, poolings, query, media_type, engine.manifest))
