"""POST /search, and GET /thumbnails/{path} of what it finds."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from service import encode, schemas
from service.call import Call, DirectRoute
from service.options import JPEG, SearchQuery, ThumbnailQuery

router = APIRouter(route_class=DirectRoute)

_KEPT_S = 3600  # by the browser alone, which asks again after that


@router.post(
    "/search",
    response_model=schemas.SearchResponse,
    responses=schemas.SEARCH_ANSWERS,
    openapi_extra=schemas.takes_images(SearchQuery),
)
async def search(request: Request) -> Response:
    """The rows of the index that are most like each image; 404 where the service has no index."""
    call = Call(request)
    query, engine = call.query(SearchQuery), call.engine
    asked = await call.search.ask(query, engine.manifest)
    answer = await engine.embed(await call.images(), asked.embed, call.deadline, call.cache_policy)
    found = await call.neighbours(asked, answer)
    thumbnails = call.settings.thumbnails is not None
    work = partial(encode.neighbours, answer, found, asked.index, engine.manifest, thumbnails=thumbnails)
    return await call.render(answer, work, heavy=len(found) > 1)


@router.get(
    "/thumbnails/{path:path}",
    response_class=Response,
    responses=schemas.THUMBNAIL_ANSWERS,
    openapi_extra=schemas.names("path", query=ThumbnailQuery),
)
async def thumbnail(request: Request) -> Response:
    """A small JPEG of the image that has this path in the index; 404 where there is none, or no folder of them."""
    call = Call(request)
    size = call.query(ThumbnailQuery).size
    made = await call.thumbnails.get(request.path_params["path"], size, call.knows)
    headers = {"etag": made.etag, "cache-control": f"private, max-age={_KEPT_S}"}
    if made.jpeg is None:
        return Response(status_code=304, headers=headers)
    return Response(made.jpeg, headers=headers, media_type=JPEG)
