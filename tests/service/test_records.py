"""What a request says of itself: its id, its times, its line in the log."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from bundle.store import Bundle
from service.logs import JsonLines, TextLines
from service.record import REQUEST_ID
from tests.service.helpers import Served, photo, serving_fake


@pytest.fixture
def lines() -> Iterator[list[dict[str, Any]]]:
    """What is logged, as JSON would have it."""
    collected: list[dict[str, Any]] = []

    class Collect(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            text = self.format(record)
            assert "\n" not in text
            collected.append(json.loads(text))

    handler = Collect()
    handler.setFormatter(JsonLines("http-1"))
    logger = logging.getLogger("service")
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel("INFO")
    yield collected
    logger.removeHandler(handler)
    logger.setLevel(before)


def timing(header: str) -> dict[str, float]:
    return {name: float(ms) for name, ms in (part.split(";dur=") for part in header.split(", "))}


def test_a_sane_id_is_kept_and_any_other_replaced(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):

        def id_for(sent: bytes | None) -> str:
            headers = {} if sent is None else {b"x-request-id": sent}
            answer = served.http.post("/embed", content=photo(1), headers=headers)
            assert answer.status_code == 200
            return str(answer.headers["x-request-id"])

        assert id_for(b"from/the-caller:7") == "from/the-caller:7"
        assert id_for(b"x" * 128) == "x" * 128
        made = [id_for(sent) for sent in (None, None, b"x" * 129, b"two words", b"caf\xe9", b"")]
        assert len(set(made)) == len(made)
        assert {len(each) for each in made} == {14}  # 12 random digits, a dash, a number


def test_every_answer_carries_an_id_and_every_answer_of_work_its_times(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, api_key="hush") as (served, _):
        key = {"x-api-key": "hush"}
        answers = [
            served.http.get("/readyz"),
            served.http.get("/"),
            served.http.post("/embed", content=photo(1)),
            served.http.post("/embed", content=photo(1)[:40], headers=key),
            served.http.post("/embed?nonsense=1", content=photo(1), headers=key),
            served.http.get("/nowhere", headers=key),
            served.http.post("/embed", content=photo(1), headers={**key, "x-request-timeout-ms": "x"}),
        ]
        assert [answer.status_code for answer in answers] == [200, 200, 401, 400, 422, 404, 422]
        assert all("x-request-id" in answer.headers for answer in answers)
        assert ["server-timing" in answer.headers for answer in answers] == [False, False, *[True] * 5]
        assert timing(answers[3].headers["server-timing"])["read"] > 0


def test_times_add_up(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle, latency_ms=50) as (served, _):
        first = timing(served.embed(photo(1)).headers["server-timing"])
        again = timing(served.embed(photo(1)).headers["server-timing"])
    assert list(first) == ["read", "cache", "decode", "queue", "infer", "encode", "total"]
    assert first["infer"] >= 50
    assert sum(first.values()) - first["total"] <= first["total"] + 0.05  # each is rounded
    assert list(again) == ["read", "encode", "total"]
    assert again["total"] < 50


def test_a_reconstruction_tells_its_times_too(fake_bundle: Bundle) -> None:
    with serving_fake(fake_bundle) as (served, _):
        answer = served.http.post("/reconstruct", content=photo(1), headers={"accept": "image/png"})
    assert timing(answer.headers["server-timing"])["encode"] > 0


def test_the_access_log_has_a_line_for_each_request(fake_bundle: Bundle, lines: list[dict[str, Any]]) -> None:
    with serving_fake(fake_bundle, access_log=True) as (served, _):
        files = [("file", photo(seed)) for seed in (1, 2, 1)]
        answer = served.http.post("/embed", files=files, headers={"x-request-id": "mine"})
        served.embed(photo(2))
        served.http.get("/no%0Awhere")
    of_requests = [line for line in lines if line["logger"] == "service.access"]
    first = of_requests[0]
    assert {name: first[name] for name in ("process", "level", "request_id", "method", "route", "status")} == {
        "process": "http-1", "level": "info", "request_id": "mine", "method": "POST", "route": "/embed", "status": 200,
    }  # fmt: skip
    assert (first["images"], first["cached"], first["bytes"]) == (3, 0, len(answer.content))
    assert first["ms"] > 0
    assert first["message"].startswith("POST /embed 200 ")
    assert (of_requests[1]["images"], of_requests[1]["cached"]) == (1, 1)
    assert (of_requests[2]["route"], of_requests[2]["status"]) == ("unmatched", 404)
    assert len(of_requests) == 3


def test_without_the_setting_there_is_no_access_log(fake_bundle: Bundle, lines: list[dict[str, Any]]) -> None:
    with serving_fake(fake_bundle) as (served, _):
        served.embed(photo(1))
    assert [line for line in lines if line["logger"] == "service.access"] == []


def test_a_failure_is_logged_with_its_request_and_traceback(fake_bundle: Bundle, lines: list[dict[str, Any]]) -> None:
    def poison(_: NDArray[np.uint8]) -> bool:
        return True

    with serving_fake(fake_bundle, fail_on=poison) as (served, _):
        answer = served.http.post("/embed", content=photo(1), headers={"x-request-id": "mine"})
        assert served.http.get("/metrics").text.count('maeve_errors_total{type="internal"} 1.0') == 1
    assert answer.status_code == 500
    [failed] = [line for line in lines if line["level"] == "error"]
    assert failed["request_id"] == "mine"
    assert failed["exception"].startswith("Traceback (most recent call last):\n")
    assert failed["exception"].endswith("InferenceError: encoder: poisoned input")


def test_requests_at_once_keep_their_ids_apart(fake_bundle: Bundle, lines: list[dict[str, Any]]) -> None:
    def ask(served: Served, number: int) -> None:
        served.http.post("/embed", content=photo(number), headers={"x-request-id": f"n{number}"})

    with serving_fake(fake_bundle, access_log=True, latency_ms=5) as (served, _), ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: ask(served, number), range(24)))
    assert sorted(line["request_id"] for line in lines) == sorted(f"n{number}" for number in range(24))


def test_a_line_of_text_ends_with_the_id_of_its_request() -> None:
    record = logging.LogRecord("service", logging.INFO, __file__, 1, "served %d", (3,), None)
    assert TextLines(None).format(record).endswith(" INFO service: served 3")
    token = REQUEST_ID.set("mine")
    try:
        assert TextLines("http-0").format(record).endswith(" http-0 INFO service: served 3 [mine]")
    finally:
        REQUEST_ID.reset(token)
