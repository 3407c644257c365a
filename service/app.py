"""The application: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from bundle.store import Bundle, load_bundle
from runtime import Runtime
from runtime.selfcheck import prove
from service.engine import Engine
from service.gate import Gate, GateMiddleware
from service.info import maeve_version
from service.metrics import Metrics
from service.routes import classify, embed, ops, pages, reconstruct
from service.settings import Settings

_DESCRIPTION = "Embeds, classifies and reconstructs images with a Masked Autoencoder."


class Service(FastAPI):
    """The gate answers every error and closes every request, so nothing stands between it and the router.

    FastAPI's own stack serves dependencies and uploads that are not used here, at a quarter of a request's time outside
    of the model.
    """

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
        for middleware in reversed(self.user_middleware):
            app = middleware.cls(app, *middleware.args, **middleware.kwargs)
        return app


def create_app(
    settings: Settings, *, bundle: Bundle | None = None, runtime: Runtime | None = None, proven: bool = False
) -> FastAPI:
    """The service as an ASGI app. Its lifespan loads the bundle and opens the runtime, unless they are given, and
    closes the runtime in either case: it serves this app alone. `proven`: the runtime was held against the bundle.

    BundleError and RuntimeUnavailable come out of the lifespan's start.
    """
    metrics = Metrics()
    gate = Gate()

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        loaded = bundle or load_bundle(settings.bundle)
        opened = runtime or settings.open_runtime(loaded)
        if not proven:
            prove(loaded, opened)
        app.state.engine = engine = Engine(loaded, opened, settings, metrics)
        await engine.warm_up()
        try:
            yield
        finally:
            gate.drain()
            await engine.close()

    app = Service(
        title="Maeve", description=_DESCRIPTION, version=maeve_version(), lifespan=lifespan,
        docs_url=None, redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked for at every request
    )  # fmt: skip
    app.state.settings, app.state.metrics, app.state.gate = settings, metrics, gate
    metrics.watch("maeve_requests_in_flight", "Requests for work not answered yet.", lambda: gate.in_flight)
    app.add_middleware(GateMiddleware, gate=gate, settings=settings, metrics=metrics)
    routers = (embed.router, classify.router, reconstruct.router, ops.router, pages.make_router())
    # Not include_router: it would keep the routers as they are, match every request in two steps, and do so last.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    return app
