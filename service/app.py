"""The application: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp, Receive, Scope, Send

from bundle.store import Bundle, load_bundle
from runtime import Runtime
from runtime.selfcheck import prove
from service.call import DirectRouter
from service.decoding import Decoder
from service.device import LocalDevice
from service.engine import Engine
from service.gate import Gate, GateMiddleware
from service.info import maeve_version
from service.metrics import Metrics
from service.programs import Programs
from service.routes import classify, embed, ops, pages, reconstruct
from service.settings import Settings

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

    async def adopt(self, engine: Engine | None) -> None:
        """Serve with `engine` from now on; None refuses work with 503. The one before is closed once the requests that
        may have begun with it are over; nobody else closes an engine that was adopted.
        """
        before: Engine | None = self.state.engine
        self.state.engine = engine
        if before is not None:
            await self.state.gate.settled()
            await before.close()


def local_device(bundle: Bundle, runtime: Runtime, settings: Settings, metrics: Metrics) -> LocalDevice:
    """A lane that is a core decodes its images best itself: another thread would only share that core. A device beside
    the cores wants its images ready.
    """
    on_lanes = settings.decode_threads == 0 or (settings.decode_threads is None and runtime.device == "cpu")
    return LocalDevice(
        Programs(bundle.manifest, runtime), runtime, metrics, max_batch=settings.max_batch or runtime.max_batch,
        decoder=Decoder(bundle.manifest, max_pixels=settings.max_pixels) if on_lanes else None,
    )  # fmt: skip


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
        engine = Engine(loaded, local_device(loaded, opened, settings, metrics), settings, metrics)
        await engine.warm_up()
        app.state.engine = engine
        try:
            yield
        finally:
            gate.drain()
            if app.state.engine is not None:
                await app.state.engine.close()

    app = Service(
        title="Maeve", description=_DESCRIPTION, version=maeve_version(), lifespan=lifespan,
        docs_url=None, redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked for at every request
    )  # fmt: skip
    app.state.settings, app.state.metrics, app.state.gate, app.state.engine = settings, metrics, gate, None
    metrics.watch("maeve_requests_in_flight", "Requests for work not answered yet.", lambda: gate.in_flight)
    app.add_middleware(GateMiddleware, gate=gate, settings=settings, metrics=metrics)
    routers = (embed.router, classify.router, reconstruct.router, ops.router, pages.make_router())
    # Not include_router: it would keep the routers as they are, match every request in two steps, and do so last.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    return app
