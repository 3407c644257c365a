"""POST /classify."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service import encode, schemas
from service.call import Call, DirectRoute
from service.options import ClassifyQuery

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/classify",
    response_model=schemas.ClassifyResponse,
    responses=schemas.CLASSIFY_ANSWERS,
    openapi_extra=schemas.takes_images(ClassifyQuery),
)
async def classify(request: Request) -> Response:
    """The most probable labels of every image; 404 where the bundle has no classifier."""
    call = Call(request)
    query = call.query(ClassifyQuery)
    answer = await call.engine.classify(await call.images(), call.deadline, call.cache_policy)
    return await call.render(answer, partial(encode.predictions, answer, query.top_k, call.engine.bundle))
