"""Traces as a collector gets them, over HTTP."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.app import create_app
from service.settings import Settings, SettingsError
from tests.service.helpers import free_port, photo, serving_fake

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Collector:
    def __init__(self) -> None:
        self.requests: list[Any] = []
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                assert self.path == "/v1/traces"
                collector.requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    @property
    def spans(self) -> list[Any]:
        scopes = [scope for request in self.requests for each in request.resource_spans for scope in each.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    @property
    def resource(self) -> dict[str, Any]:
        return attributes(self.requests[0].resource_spans[0].resource)


def attributes(of: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in of.attributes}


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    collector = Collector()
    thread = threading.Thread(target=collector.server.serve_forever)
    thread.start()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)
    yield collector
    collector.server.shutdown()
    thread.join()
    collector.server.server_close()


def test_a_request_is_a_span_with_a_child_for_each_stage(fake_bundle: Bundle, collector: Collector) -> None:
    with serving_fake(fake_bundle, traces=True, latency_ms=30) as (served, _):
        headers = {"traceparent": f"00-{TRACE}-{SPAN}-01", "x-request-id": "mine"}
        served.http.post("/embed", files=[("file", photo(1)), ("file", photo(2))], headers=headers)
        served.http.get("/readyz")
    # the drain has sent what there was, long before the five seconds after which it would have been
    [request] = [span for span in collector.spans if span.name == "POST /embed"]
    assert (request.trace_id.hex(), request.parent_span_id.hex()) == (TRACE, SPAN)
    assert request.kind == 2  # SPAN_KIND_SERVER
    told = attributes(request)
    assert told["http.route"] == "/embed"
    assert told["http.response.status_code"] == 200
    assert told["maeve.request_id"] == "mine"
    assert (told["maeve.operation"], told["maeve.num_images"], told["maeve.num_cached"]) == ("embed", 2, 0)
    children = [span for span in collector.spans if span.parent_span_id == request.span_id]
    assert [span.name for span in children] == ["read", "cache", "decode", "queue", "infer", "encode"]
    assert {span.trace_id for span in children} == {request.trace_id}
    for before, after in pairwise(children):
        assert before.end_time_unix_nano == after.start_time_unix_nano
    infer = children[4]
    assert 30e6 <= infer.end_time_unix_nano - infer.start_time_unix_nano < 10e9
    assert request.start_time_unix_nano == children[0].start_time_unix_nano
    assert abs(request.end_time_unix_nano / 1e9 - time.time()) < 60
    assert len(collector.spans) == 7  # a look at the service is no span
    assert collector.resource["service.name"] == "maeve"


def test_a_failure_is_a_span_with_that_status(fake_bundle: Bundle, collector: Collector) -> None:
    with serving_fake(fake_bundle, traces=True, fail_on=lambda _: True) as (served, _):
        served.embed(photo(1))
    [request] = [span for span in collector.spans if span.name == "POST /embed"]
    assert attributes(request)["http.response.status_code"] == 500
    assert request.status.code == 2  # STATUS_CODE_ERROR


def test_the_usual_variables_are_heeded(
    fake_bundle: Bundle, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "features")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    with serving_fake(fake_bundle, traces=True) as (served, _):
        served.embed(photo(1))
        served.http.post("/embed", content=photo(1), headers={"traceparent": f"00-{TRACE}-{SPAN}-01"})
    assert collector.resource["service.name"] == "features"
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_a_collector_that_is_away_hurts_no_request(fake_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    with serving_fake(fake_bundle, traces=True) as (served, _):
        for seed in range(20):
            assert served.embed(photo(seed)).status_code == 200
        start = time.monotonic()
    assert time.monotonic() - start < 10


def test_without_the_library_the_setting_is_an_error(fake_bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(SettingsError, match=r"MAEVE_TRACES is set and OpenTelemetry is not installed; pip install"):
        create_app(Settings(traces=True), bundle=fake_bundle, runtime=FakeRuntime(fake_bundle))
