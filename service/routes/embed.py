"""POST /embed."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service import encode, schemas
from service.deps import AcceptDep, DeadlineDep, EngineDep, ImagesDep, render
from service.options import EmbedQuery, embed_type

router = APIRouter()


@router.post("/embed", response_model=schemas.EmbedResponse, responses=schemas.EMBED, openapi_extra=schemas.IMAGES_BODY)
async def embed(
    query: Annotated[EmbedQuery, Query()],
    accept: AcceptDep,
    images: ImagesDep,
    engine: EngineDep,
    deadline: DeadlineDep,
) -> Response:
    """A vector per image; see the query parameters for which, and Accept for how it is sent."""
    poolings = engine.poolings(query)
    media_type = embed_type(accept, poolings)
    answer = await engine.embed(images, query, deadline)
    return await render(
        engine, answer, partial(encode.embeddings, answer, poolings, query, media_type, engine.manifest)
    )
