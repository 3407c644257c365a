"""promtool on what is configured, and a real Prometheus beside real services: all that is asked has an answer."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image

from tests.deploy.watching import PROMETHEUS, RULES, dashboard_expressions
from tests.servers import serving_bundle
from tests.service.helpers import RedisServer, encoded, eventually, free_port, make_bundle, photo, serving_fake

pytestmark = pytest.mark.skipif(
    not (shutil.which("promtool") and shutil.which("prometheus")), reason="prometheus is not installed"
)

KEY = "of-the-tests"
TARGETS = 'targets: ["maeve:8000", "maeve-gpu:8000"]'
AUTHORIZATION = "# authorization: { credentials_file: /etc/prometheus/maeve.key }"
SCRAPES = 6


def promtool(*arguments: str) -> str:
    """What it says. AssertionError where it finds fault."""
    told = subprocess.run(["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stdout + told.stderr
    return told.stdout


def test_promtool_takes_the_configuration_and_its_rules() -> None:
    told = promtool("check", "config", "prometheus.yml")
    assert f"{len(RULES)} rules found" in told
    promtool("check", "rules", "alerts.yml")


def test_every_alert_fires_and_stays_quiet_when_it_should() -> None:
    promtool("test", "rules", "alerts_test.yml")
    tested = re.findall(r"^      - (\{ )?alertname: (\w+)", (PROMETHEUS / "alerts_test.yml").read_text(), re.MULTILINE)
    for name in RULES:
        assert {bool(quiet) for quiet, tested_name in tested if tested_name == name} == {True, False}, name


@dataclass(frozen=True)
class Watched:
    """A Prometheus, and its names for a service that does well and one that fails and turns away."""

    http: httpx.Client
    well: str
    badly: str

    def ask(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and the value of every series. AssertionError for what is no PromQL."""
        answer = self.http.get("/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", f"{expression}: {answer.get('error')}"
        return [(series["metric"], float(series["value"][1])) for series in answer["data"]["result"]]

    def firing(self, alert: str) -> set[str | None]:
        """The instances for which it fires."""
        alerts = self.http.get("/api/v1/alerts").json()["data"]["alerts"]
        return {
            each["labels"].get("instance") for each in alerts
            if each["labels"]["alertname"] == alert and each["state"] == "firing"
        }  # fmt: skip

    def scrapes(self) -> float:
        """Of the target that was asked least often since the load began."""
        counts = [value for _, value in self.ask('count_over_time(up{job="maeve"}[1m])')]
        return min(counts) if len(counts) == 2 else 0


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    folder = tmp_path_factory.mktemp("prometheus")
    redis = RedisServer(folder)
    with ExitStack() as stack:
        stack.callback(redis.kill)
        redis.start()
        well = stack.enter_context(_service(redis))
        badly = stack.enter_context(_troubled(folder))
        prometheus = stack.enter_context(_prometheus(folder, well, badly))
        watched = Watched(prometheus, well, badly)
        with _under_load(well, badly):
            eventually(lambda: watched.scrapes() >= SCRAPES, 60)
            eventually(lambda: watched.firing("MaeveFails"), 30)
            yield watched


@contextmanager
def _service(redis: RedisServer) -> Iterator[str]:
    """The command, with several processes, a Redis and a key that its metrics ask for too."""
    with serving_bundle(
        "--workers", "2", "--log-level", "error",
        MAEVE_API_KEY=KEY, MAEVE_METRICS_API_KEY="true", MAEVE_REDIS_URL=redis.url,
    ) as running:  # fmt: skip
        yield running.authority


@contextmanager
def _troubled(folder: Path) -> Iterator[str]:
    """One that has room for two images and fails on bright ones."""
    bundle = make_bundle(folder / "bundle")
    with serving_fake(
        bundle, latency_ms=20, fail_on=lambda row: row.mean() > 200, max_queue=2, max_images=2, cache_bytes=0
    ) as (served, _):
        yield f"127.0.0.1:{served.port}"


@contextmanager
def _prometheus(folder: Path, *targets: str) -> Iterator[httpx.Client]:
    """With our configuration, but these targets, twice a second, and alerts that fire at once."""
    port = free_port()
    (folder / "maeve.key").write_text(KEY)
    text = (PROMETHEUS / "prometheus.yml").read_text()
    for ours, here in (
        (TARGETS, f"targets: {json.dumps(targets)}"),
        (AUTHORIZATION, f"authorization: {{ credentials_file: {folder / 'maeve.key'} }}"),
        ("localhost:9090", f"127.0.0.1:{port}"),
        ("_interval: 15s", "_interval: 500ms"),
    ):
        assert ours in text
        text = text.replace(ours, here)
    (folder / "prometheus.yml").write_text(text)
    rules = (PROMETHEUS / "alerts.yml").read_text()
    (folder / "alerts.yml").write_text(re.sub(r"^ +for: .*\n", "", rules, flags=re.MULTILINE))
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20, trust_env=False) as http:
            eventually(lambda: process.poll() is not None or _answers(http), 30)
            assert process.poll() is None, (folder / "log").read_text()[-2000:]
            yield http
    finally:
        process.terminate()
        process.wait(30)


def _answers(http: httpx.Client) -> bool:
    try:
        return http.get("/-/ready").is_success
    except httpx.TransportError:
        return False


@contextmanager
def _under_load(well: str, badly: str) -> Iterator[None]:
    """Requests of every kind: new images and known ones, wrong ones, failing ones and more than there is room for."""
    over = threading.Event()

    def one(authority: str, path: str, bodies: list[bytes]) -> None:
        headers = {"Authorization": f"Bearer {KEY}"}
        with httpx.Client(base_url=f"http://{authority}", headers=headers, timeout=20, trust_env=False) as http:
            while not over.is_set():
                for body in bodies:
                    http.post(path, content=body)

    photos = [photo(seed, "JPEG") for seed in range(400)]
    bright = encoded(Image.new("RGB", (40, 40), "white"))
    loads = [(well, "/embed", photos), (well, "/classify", photos[:2]), (well, "/embed", [b"no image"])]
    loads += [(badly, "/embed", [photo(i), photo(i + 1), bright]) for i in range(0, 8, 2)]
    threads = [threading.Thread(target=one, args=load) for load in loads]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        over.set()
        for thread in threads:
            thread.join(30)


def test_every_rule_is_evaluated(watched: Watched) -> None:
    groups: list[dict[str, Any]] = watched.http.get("/api/v1/rules").json()["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert {rule["name"] for rule in rules} == set(RULES)
    assert {(rule["name"], rule["health"]) for rule in rules} == {(name, "ok") for name in RULES}


def test_what_every_alert_compares_is_there(watched: Watched) -> None:
    """Of both services, but for errors of a kind that only one of them has had."""
    for name, rule in RULES.items():
        expression = re.sub(r" (==|>|<) ", r" \1 bool ", rule["expr"].strip())  # a value where it does not fire too
        expression = expression.removeprefix("absent")  # which has one where the rest has none
        found = watched.ask(expression)
        assert found, name
        assert all(value in (0, 1) for _, value in found), name
        instances = {labels["instance"] for labels, _ in found if "instance" in labels}
        if name in ("MaeveFails", "MaeveTurnsAway"):
            assert instances == {watched.badly}
        elif name != "MaeveTwoBundles":
            assert instances == {watched.well, watched.badly}, name


def test_the_alerts_tell_who_is_in_trouble(watched: Watched) -> None:
    assert watched.firing("MaeveFails") == watched.firing("MaeveTurnsAway") == {watched.badly}
    assert watched.firing("MaeveTwoBundles") == {None}
    for name in ("MaeveDown", "MaeveGone", "MaeveNoDevice", "MaeveRestarts", "MaeveStartsAgain", "MaeveReloadRefused"):
        assert watched.firing(name) == set(), name


def test_every_panel_has_something_to_show(watched: Watched) -> None:
    instances = "|".join(re.escape(each) for each in (watched.well, watched.badly)).replace("\\", "\\\\")
    for place, expression in dashboard_expressions():
        asked = expression.replace("$__rate_interval", "20s").replace("$instance", f"({instances})")
        assert "$" not in asked, place
        found = watched.ask(asked)
        if place == "another bundle":
            assert found == []
            found = watched.ask(asked.removesuffix(" > 0"))
        assert found, place
        if "maeve_search_seconds_bucket" not in asked:  # no service here has an index, so that no search took any time
            assert any(math.isfinite(value) for _, value in found), place


def test_prometheus_watches_itself(watched: Watched) -> None:
    assert [value for _, value in watched.ask('up{job="prometheus"}')] == [1]
