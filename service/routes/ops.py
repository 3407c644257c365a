"""What operators and machines look at: GET /livez, /readyz, /startupz, /metrics, /info."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from fastapi.responses import PlainTextResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from bundle.errors import Unavailable
from service import encode, probes
from service.call import Call, DirectRoute
from service.engine import Engine
from service.info import describe

router = APIRouter(route_class=DirectRoute)


@router.get("/livez")
async def livez(request: Request) -> Response:
    """200 while the process can do work at all; 503 once it should be started anew."""
    call = Call(request)
    return _probed("alive", call.served, probes.why_not_alive(call.served, call.settings))


@router.get("/readyz")
async def readyz(request: Request) -> Response:
    """200 while requests are welcome; 503, saying why, while starting or stopping, and while no device works."""
    call = Call(request)
    processes = request.scope["app"].state.processes
    fault = probes.why_not_ready(call.served, call.gate, call.settings, processes)
    return _probed("ready", call.served, fault)


@router.get("/startupz")
async def startupz(request: Request) -> Response:
    """503 until the service could take requests for the first time, 200 ever after."""
    call = Call(request)
    return _probed("started", call.served, None if call.started else "the service is starting")


def _probed(status: str, engine: Engine | None, fault: str | None) -> Response:
    if fault is not None:
        raise Unavailable(fault)
    return encode.json(probes.state(status, engine))


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(request: Request) -> Response:
    """The text format of Prometheus."""
    return Response(Call(request).metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/info")
async def info(request: Request) -> Response:
    """What is served, by which runtime, within which limits."""
    call = Call(request)
    processes = request.scope["app"].state.processes
    told = {} if processes is None else {"processes": processes}
    return encode.json(describe(call.engine, call.settings, request.scope["app"].state.search) | told)
