"""POST /classify."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service import encode, schemas
from service.deps import DeadlineDep, EngineDep, ImagesDep, render
from service.options import ClassifyQuery

router = APIRouter()


@router.post(
    "/classify", response_model=schemas.ClassifyResponse, responses=schemas.CLASSIFY, openapi_extra=schemas.IMAGES_BODY
)
async def classify(
    query: Annotated[ClassifyQuery, Query()], images: ImagesDep, engine: EngineDep, deadline: DeadlineDep
) -> Response:
    """The most probable labels of every image; 404 where the bundle has no classifier."""
    answer = await engine.classify(images, deadline)
    return await render(engine, answer, partial(encode.predictions, answer, query.top_k, engine.bundle))
