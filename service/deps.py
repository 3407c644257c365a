"""What handlers ask for by type."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

from fastapi import Depends, Request, Response

from service.engine import Answer, Engine
from service.gate import Gate
from service.images import read_images
from service.metrics import Metrics
from service.settings import Settings

_RENDER_INLINE_VALUES = 2**15  # more values than this would hold up the event loop for milliseconds


async def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


async def _engine(request: Request) -> Engine:
    engine: Engine = request.app.state.engine
    return engine


async def _metrics(request: Request) -> Metrics:
    metrics: Metrics = request.app.state.metrics
    return metrics


async def _gate(request: Request) -> Gate:
    gate: Gate = request.app.state.gate
    return gate


async def _deadline(request: Request) -> float:
    """When the request's time is over, in the event loop's time."""
    deadline: float = request.scope["maeve.deadline"]
    return deadline


async def _accept(request: Request) -> str | None:
    return request.headers.get("accept")


SettingsDep = Annotated[Settings, Depends(_settings)]
EngineDep = Annotated[Engine, Depends(_engine)]
MetricsDep = Annotated[Metrics, Depends(_metrics)]
GateDep = Annotated[Gate, Depends(_gate)]
DeadlineDep = Annotated[float, Depends(_deadline)]
AcceptDep = Annotated[str | None, Depends(_accept)]


async def _images(request: Request, settings: SettingsDep) -> list[bytes]:
    return await read_images(request, settings, max_images=settings.max_images)


async def _image(request: Request, settings: SettingsDep) -> bytes:
    return (await read_images(request, settings, max_images=1))[0]


ImagesDep = Annotated[list[bytes], Depends(_images)]
ImageDep = Annotated[bytes, Depends(_image)]


async def render(engine: Engine, answer: Answer, work: Callable[[], Response]) -> Response:
    """Make the response here, or on another thread where it is a large one."""
    return work() if answer.num_values <= _RENDER_INLINE_VALUES else await engine.offload(work)
