"""What operators and machines look at: GET /livez, /readyz, /metrics, /info."""

from __future__ import annotations

from fastapi import APIRouter, Response
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4

from bundle.errors import Unavailable
from service import encode
from service.deps import EngineDep, GateDep, MetricsDep, SettingsDep
from service.info import describe

router = APIRouter()


@router.get("/livez")
async def livez(engine: EngineDep) -> Response:
    """200 while the process can do work at all; 503 once it should be started anew."""
    if not engine.alive:
        raise Unavailable("a thread that runs the model has died")
    return encode.json({"status": "alive"})


@router.get("/readyz")
async def readyz(engine: EngineDep, gate: GateDep) -> Response:
    """200 while requests are welcome; 503 while stopping."""
    if gate.draining:
        raise Unavailable("the service is stopping")
    return await livez(engine)


@router.get("/metrics")
async def metrics(metrics: MetricsDep) -> Response:
    """The text format of Prometheus."""
    return Response(metrics.render(), media_type=CONTENT_TYPE_PLAIN_0_0_4)


@router.get("/info")
async def info(engine: EngineDep, settings: SettingsDep) -> Response:
    """What is served, by which runtime, within which limits."""
    return encode.json(describe(engine, settings))
