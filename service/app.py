"""The application: `create_app(settings)`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI
from starlette.types import ASGIApp

from bundle.store import Bundle, load_bundle
from runtime import Runtime
from runtime.selfcheck import prove
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

    def build_middleware_stack(self) -> ASGIApp:
        app: ASGIApp = self.router
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

    async def end(self) -> None:
        """Refuse work from now on and close the engine, if there is one."""
        self.state.gate.drain()
        if self.state.engine is not None:
            await self.state.engine.close()


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
) -> Service:
    """The service as an ASGI app. Its lifespan loads the bundle and opens the runtime, unless they are given, and
    closes the runtime in either case: it serves this app alone. `proven`: the runtime was held against the bundle.

    BundleError and RuntimeUnavailable come out of the lifespan's start.
    """
    metrics = Metrics()

    @asynccontextmanager
    async def lifespan(app: Service) -> AsyncIterator[None]:
        loaded = bundle or load_bundle(settings.bundle)
        opened = runtime or settings.open_runtime(loaded)
        if not proven:
            prove(loaded, opened)
        engine = Engine(loaded, local_device(loaded, opened, settings, metrics), settings, metrics)
        await engine.warm_up()
        await app.adopt(engine)
        try:
            yield
        finally:
            await app.end()

    return make_app(settings, metrics, lifespan)


def make_app(
    settings: Settings, metrics: Metrics, lifespan: Callable[[Service], AbstractAsyncContextManager[None]]
) -> Service:
    """The app without an engine: whoever makes one, in `lifespan` or later, has the app adopt it."""
    gate = Gate()
    app = Service(
        title="Maeve", description=_DESCRIPTION, version=maeve_version(), lifespan=lifespan,
        docs_url=None, redoc_url=None,
        telemetry={"tracing": False, "metrics": False, "logs": False},  # asked for at every request
    )  # fmt: skip
    app.state.settings, app.state.metrics, app.state.gate = settings, metrics, gate
    app.state.engine = app.state.processes = None
    metrics.watch("maeve_requests_in_flight", "Requests for work not answered yet.", lambda: gate.in_flight)
    app.add_middleware(GateMiddleware, gate=gate, settings=settings, metrics=metrics)
    routers = (embed.router, classify.router, reconstruct.router, ops.router, pages.make_router())
    # Not include_router: it would keep the routers as they are, match every request in two steps, and do so last.
    app.router.routes[:0] = [route for router in routers for route in router.routes]
    return app
