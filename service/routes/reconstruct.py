"""POST /reconstruct."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service import encode, schemas
from service.call import Call, DirectRoute
from service.options import JSON, PNG, ReconstructQuery, negotiate

router = APIRouter(route_class=DirectRoute)


@router.post(
    "/reconstruct",
    response_model=schemas.ReconstructResponse | schemas.AnomalyResponse,
    responses=schemas.RECONSTRUCT_ANSWERS,
    openapi_extra=schemas.takes_images(ReconstructQuery),
)
async def reconstruct(request: Request) -> Response:
    """What the model makes of one image with patches removed, or with `passes` how far every patch is from what the
    model makes of it; 404 where the bundle has no decoder.
    """
    call = Call(request)
    query, engine = call.query(ReconstructQuery), call.engine
    media_type = negotiate(call.accept, (JSON, PNG))
    maskings = engine.maskings(query)
    [image] = await call.images(at_most=1)
    answer = await engine.reconstruct(image, maskings, call.deadline, call.cache_policy)
    if query.passes is None:
        work = partial(encode.reconstruction, answer, maskings[0], media_type, engine.manifest)
    else:
        work = partial(encode.anomaly_map, answer, maskings, query, media_type, engine.manifest)
    return await call.render(answer, work, heavy=True)
