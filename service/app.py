"""The application: `create_app(settings)`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from bundle.cli.version import maeve_version
from bundle.store import Bundle
from runtime import Runtime
from service import schemas
from service.call import DirectRouter
from service.cors import Cors
from service.engine import Engine
from service.fetch import make_fetcher
from service.gate import Gate, GateMiddleware
from service.metrics import Metrics
from service.opening import Opened, load, open_bundle, start_engine
from service.origins import parse_origins
from service.routes import classify, embed, kserve, openai, ops, pages, reconstruct, search
from service.search import make_search
from service.settings import Settings
from service.thumbnails import make_thumbnails
from service.tracing import open_tracing

_REFRESH_S = 1.0
_DESCRIPTION = "Embeds, classifies and reconstructs images with a Masked Autoencoder."


class Service(FastAPI):
    """The gate answers every error and closes every request, so nothing stands between it and the router.

    FastAPI's own stack serves dependencies and uploads that are not used here, at a quarter of a request's time outside
    of the model.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Requests go straight to the stack; of what FastAPI does before it nothing is used here."""
        if scope["type"] != "http" or self.middleware_stack is None:
            await super().__call__(scope, receive, send)
            return
        scope["app"] = self
        await self.middleware_stack(scope, receive, send)

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = DirectRouter(self.router.routes, self.router)
        for middleware in reversed(self.user_middleware):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app

    def openapi(self) -> dict[str, Any]:
        """The document that /openapi.json answers with, made once."""
        if self.openapi_schema is None:
            self.openapi_schema = schemas.complete(super().openapi())
        return self.openapi_schema

    async def adopt(self, engine: Engine | None) -> None:
        """Serve with `engine` from now on; None refuses work with 503. The one before is closed once the requests that
        may have begun with it are over; nobody else closes an engine that was adopted.
        """
        before: Engine | None = self.state.engine
        self.state.engine = engine
        self.state.started |= engine is not None
        if before is not None:
            await self.state.gate.settled()
            await before.close()

    async def end(self) -> None:
        """Refuse work from now on and close the engine, if there is one."""
        self.state.gate.drain()
        if self.state.engine is not None:
            await self.state.engine.close()


def create_app(
    settings: Settings,
    *,
    bundle: Bundle | None = None,
    runtime: Runtime | None = None,
    proven: bool = False,
    metrics: Metrics | None = None,
) -> Service:
    """The service as an ASGI app. Its lifespan loads the bundle and opens the runtime, unless they are given, and
    closes the runtime in either case: it serves this app alone. `proven`: bundle and runtime come from `open_bundle`.

    SettingsError if traces are asked for and cannot be made; BundleError, RuntimeUnavailable, and for an index that
    cannot be searched Unavailable and SettingsError, come out of the lifespan's start.
    """
    metrics = metrics or Metrics()

    @asynccontextmanager
    async def serving(app: Service) -> AsyncIterator[None]:
        loaded = bundle or load(settings)
        opened = Opened(loaded, runtime) if runtime and proven else open_bundle(loaded, settings, runtime)
        await app.adopt(await start_engine(opened, settings, metrics))
        try:
            if app.state.search is not None:
                await app.state.search.prove(loaded.manifest)
            yield
        finally:
            await app.end()

    return make_app(settings, metrics, serving)


def make_app(
    settings: Settings, metrics: Metrics, serving: Callable[[Service], AbstractAsyncContextManager[None]]
) -> Service:
    """The app without an engine: whoever makes one, within `serving`, has the app adopt it, and ends the app.

    SettingsError if traces are asked for and cannot be made.
    """
    gate = Gate()
    tracing = open_tracing() if settings.traces else None

    @asynccontextmanager
    async def lifespan(app: Service) -> AsyncIterator[None]:
        keeping = [asyncio.create_task(_keep_fresh(metrics))] if metrics.shared else []
        try:
            async with serving(app):
                if app.state.search is not None:
                    keeping.append(asyncio.create_task(app.state.search.keep_fresh()))
                yield
        finally:
            for task in keeping:
                task.cancel()
            if app.state.thumbnails is not None:
                app.state.thumbnails.close()
            if tracing is not None:
                await asyncio.to_thread(tracing.close)

    app = Service(
        title="Maeve", description=_DESCRIPTION, version=maeve_version(), lifespan=lifespan,
        docs_url=None, redoc_url=None, redirect_slashes=False,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked for at every request
    )  # fmt: skip
    app.state.settings, app.state.metrics, app.state.gate = settings, metrics, gate
    app.state.engine, app.state.started, app.state.processes = None, False, None
    app.state.fetcher, app.state.thumbnails = make_fetcher(settings), make_thumbnails(settings)
    app.state.search = make_search(settings, metrics, lambda: app.state.engine and app.state.engine.manifest)
    metrics.watch("maeve_requests_in_flight", "Requests for work not answered yet.", lambda: gate.in_flight)
    app.add_middleware(GateMiddleware, gate=gate, settings=settings, metrics=metrics, tracing=tracing)
    if settings.cors_origins is not None:
        app.add_middleware(Cors, origins=parse_origins(settings.cors_origins))
    work = (embed, classify, reconstruct, search, openai, kserve, ops)
    routers = (*(module.router for module in work), pages.make_router())
    # Not include_router: it would keep the routers as they are, match every request in two steps, and do so last.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    return app


async def _keep_fresh(metrics: Metrics) -> None:
    """What is watched changes without an event that could tell the other processes."""
    while True:
        metrics.refresh()
        await asyncio.sleep(_REFRESH_S)
