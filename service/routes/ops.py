"""What operators and machines look at: GET /livez, /readyz, /metrics, /info."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from bundle.errors import Unavailable
from service import encode
from service.call import Call, DirectRoute
from service.info import describe, why_not_ready

router = APIRouter(route_class=DirectRoute)


@router.get("/livez")
async def livez(request: Request) -> Response:
    """200 while the process can do work at all; 503 once it should be started anew."""
    engine = request.app.state.engine
    if engine is not None and engine.device.stalled_s == float("inf"):
        raise Unavailable("a thread that runs the model has died")
    return encode.json({"status": "alive"})


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; 503 while stopping, and while no device is ready."""
    call = Call(request)
    if call.gate.draining:
        raise Unavailable("the service is stopping")
    if request.app.state.engine is None or not call.engine.device.ready:
        raise Unavailable(why_not_ready(request.app.state.processes))
    return await livez(request)


@router.get("/metrics")
async def metrics(request: Request) -> Response:
    """The text format of Prometheus."""
    return Response(Call(request).metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/info")
async def info(request: Request) -> Response:
    """What is served, by which runtime, within which limits."""
    call = Call(request)
    processes = request.app.state.processes
    told = {} if processes is None else {"processes": processes}
    return encode.json(describe(call.engine, call.settings) | told)
