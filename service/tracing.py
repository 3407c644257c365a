"""OpenTelemetry traces: a span for every request for work, and one for each of its stages.

Stages were measured as durations, on several threads and for several images at once: their spans lie end to end within
the request's, in the order in which an image goes through them, and each is as long as the slowest image's.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Mapping
from typing import Any

from bundle.cli.version import maeve_version
from service.record import STAGES, Record
from service.settings import SettingsError

log = logging.getLogger(__name__)

_CLOSE_S = 3  # for what has not been sent yet, when the service stops


class Tracing:
    """Tells a provider of spans about requests that have ended. `open_tracing` makes one that sends them."""

    def __init__(self, provider: Any) -> None:
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._provider = provider
        self._tracer = provider.get_tracer("maeve", maeve_version())
        self._extract = TraceContextTextMapPropagator().extract
        self._server = SpanKind.SERVER

    def tell(self, record: Record, headers: Mapping[bytes, bytes]) -> None:
        """`headers`: the request's, of which traceparent and tracestate name the caller's span (W3C Trace Context)."""
        from opentelemetry.trace import set_span_in_context
        from opentelemetry.trace.status import Status, StatusCode

        started = time.time_ns() - int((time.perf_counter() - record.started) * 1e9)
        parent = {name: headers[name.encode()].decode("latin-1") for name in ("traceparent", "tracestate")
                  if name.encode() in headers}  # fmt: skip
        span = self._tracer.start_span(
            f"{record.method} {record.route}", self._extract(parent), self._server, _attributes(record),
            start_time=started,
        )  # fmt: skip
        if record.status >= 500:
            span.set_status(Status(StatusCode.ERROR))
        context = set_span_in_context(span)
        at = started
        for stage in STAGES:
            if stage in record.stages:
                begun, at = at, at + int(record.stages[stage] * 1e9)
                self._tracer.start_span(stage, context, start_time=begun).end(at)
        span.end(started + int(record.seconds * 1e9))

    def close(self) -> None:
        """Send what has not been sent, for three seconds at most: a collector that is away must not hold up the end."""
        closing = threading.Thread(target=self._provider.shutdown, name="traces", daemon=True)
        closing.start()
        closing.join(_CLOSE_S)
        if closing.is_alive():
            log.warning("the last traces could not be sent within %d s", _CLOSE_S)


def open_tracing() -> Tracing:
    """Traces that go by OTLP over HTTP to where the OTEL_EXPORTER_OTLP_* variables say, from a thread of their own: a
    collector that is slow or away costs spans, never a request.

    SettingsError where OpenTelemetry is not installed.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import OTELResourceDetector, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as e:
        raise SettingsError(
            "MAEVE_TRACES is set and OpenTelemetry is not installed; pip install -e '.[otel]', or leave it out"
        ) from e
    ours = {"service.name": "maeve", "service.version": maeve_version(), "process.pid": os.getpid()}
    resource = Resource.create().merge(Resource(ours)).merge(OTELResourceDetector().detect())
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Tracing(provider)


def _attributes(record: Record) -> dict[str, str | int]:
    """The names are those of OpenTelemetry's conventions for HTTP, and ours."""
    attributes: dict[str, str | int] = {
        "http.request.method": record.method,
        "http.route": record.route,
        "http.response.status_code": record.status,
        "http.response.body.size": record.num_bytes,
        "maeve.request_id": record.request_id,
    }
    if record.num_images:
        attributes |= {
            "maeve.operation": record.route.lstrip("/"),
            "maeve.num_images": record.num_images,
            "maeve.num_cached": record.num_cached,
        }
    return attributes
