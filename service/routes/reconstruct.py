"""POST /reconstruct."""

from __future__ import annotations

from functools import partial
from typing import Annotated

from fastapi import APIRouter, Query, Response

from service import encode, schemas
from service.deps import AcceptDep, DeadlineDep, EngineDep, ImageDep
from service.options import JSON, PNG, ReconstructQuery, negotiate

router = APIRouter()


@router.post(
    "/reconstruct",
    response_model=schemas.ReconstructResponse,
    responses=schemas.RECONSTRUCT,
    openapi_extra=schemas.IMAGES_BODY,
)
async def reconstruct(
    query: Annotated[ReconstructQuery, Query()],
    accept: AcceptDep,
    image: ImageDep,
    engine: EngineDep,
    deadline: DeadlineDep,
) -> Response:
    """What the model makes of one image with patches removed; 404 where the bundle has no decoder."""
    media_type = negotiate(accept, (JSON, PNG))
    masking = engine.masking(query)
    answer = await engine.reconstruct(image, masking, deadline)
    return await engine.offload(partial(encode.reconstruction, answer, masking, media_type, engine.manifest))
