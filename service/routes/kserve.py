"""GET /v2 and below, POST /v2/models/{model}/infer: for clients of the Open Inference Protocol."""

from __future__ import annotations

from functools import partial

from fastapi import APIRouter, Request, Response

from bundle.cli.version import maeve_version
from service import encode, kserve, kserve_shapes, schemas
from service.call import Call, DirectRoute
from service.headers import header
from service.offload import by_size
from service.options import JSON, OCTETS, Query
from service.routes import ops

router = APIRouter(route_class=DirectRoute)


@router.get("/v2", response_model=kserve_shapes.ServerMetadata)
async def server(request: Request) -> Response:
    """The server and its extensions of the protocol."""
    del request
    return encode.json({"name": "maeve", "version": maeve_version(), "extensions": ["binary_tensor_data"]})


@router.get("/v2/health/live", response_model=kserve_shapes.Live)
async def live(request: Request) -> Response:
    """As /livez."""
    answer = await ops.livez(request)
    return encode.json({"live": answer.status_code == 200}, status=answer.status_code)


@router.get("/v2/health/ready", response_model=kserve_shapes.Ready)
async def ready(request: Request) -> Response:
    """As /readyz."""
    answer = await ops.readyz(request)
    return encode.json({"ready": answer.status_code == 200}, status=answer.status_code)


@router.get(
    "/v2/models/{model}",
    response_model=kserve_shapes.ModelMetadata,
    responses=schemas.flat_errors(404),
    openapi_extra=schemas.names("model"),
)
@router.get(
    "/v2/models/{model}/versions/{version}",
    response_model=kserve_shapes.ModelMetadata,
    responses=schemas.flat_errors(404),
    openapi_extra=schemas.names("model", "version"),
)
async def metadata(request: Request) -> Response:
    """The bundle's tensors, as a model of the protocol."""
    manifest = Call(request).engine.manifest
    kserve.check_model(request.path_params, manifest)
    return encode.json(kserve.describe(manifest))


@router.get(
    "/v2/models/{model}/ready",
    response_model=kserve_shapes.Ready,
    responses=schemas.flat_errors(404),
    openapi_extra=schemas.names("model"),
)
@router.get(
    "/v2/models/{model}/versions/{version}/ready",
    response_model=kserve_shapes.Ready,
    responses=schemas.flat_errors(404),
    openapi_extra=schemas.names("model", "version"),
)
async def model_ready(request: Request) -> Response:
    """As /readyz, and 404 for a model that is not the bundle."""
    kserve.check_model(request.path_params, Call(request).engine.manifest)
    return await ready(request)


@router.post(
    "/v2/models/{model}/infer",
    response_model=kserve_shapes.InferResponse,
    responses=schemas.INFER_ANSWERS,
    openapi_extra=schemas.takes_tensors("model"),
)
@router.post(
    "/v2/models/{model}/versions/{version}/infer",
    response_model=kserve_shapes.InferResponse,
    responses=schemas.INFER_ANSWERS,
    openapi_extra=schemas.takes_tensors("model", "version"),
)
async def infer(request: Request) -> Response:
    """Features and logits of images, encoded or as pixels."""
    call = Call(request)
    call.query(Query)
    engine, manifest = call.engine, call.engine.manifest
    kserve.check_model(request.path_params, manifest)
    body, length = await call.body(JSON, OCTETS, ""), header(request.scope, kserve.HEADER_LENGTH.encode())
    asked = await by_size(len(body), partial(kserve.read_request, body, length, manifest, call.settings.max_images))
    answer, tensors = await kserve.compute(asked, engine, call.deadline, call.cache_policy)
    return await call.render(answer, partial(kserve.write_answer, asked, answer, tensors, manifest))
