"""What can be known of the image and the compose file without a Docker engine."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["maeve", "maeve-gpu"]


class Instruction(NamedTuple):
    stage: str
    name: str
    value: str


def _instructions() -> list[Instruction]:
    """The Dockerfile's, with continued lines joined; `stage` is the name of the stage that each stands in."""
    lines = [line for line in (ROOT / "deploy/Dockerfile").read_text().splitlines() if not line.startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, value = line.partition(" ")
            stage = value.split()[-1] if name == "FROM" else stage
            found.append(Instruction(stage, name, value.strip()))
    return found


DOCKERFILE = _instructions()


def _values(name: str, stage: str | None = None) -> list[str]:
    return [i.value for i in DOCKERFILE if i.name == name and stage in (None, i.stage)]


def _copied_from_context() -> set[str]:
    words = [shlex.split(value) for value in _values("COPY")]
    return {source for parts in words if not parts[0].startswith("--from=") for source in parts[:-1]}


# The compose file


def test_without_a_profile_there_are_the_service_and_redis() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"maeve", "redis"}


def test_the_gpu_is_asked_for_in_the_profile_gpu_alone() -> None:
    asking = {name for name, service in SERVICES.items() if "reservations" in service["deploy"]["resources"]}
    assert asking == {name for name, service in SERVICES.items() if service.get("profiles") == ["gpu"]} == {"maeve-gpu"}


def test_redis_is_out_of_reach_from_outside() -> None:
    redis = SERVICES["redis"]
    assert "ports" not in redis
    assert redis["networks"] == ["cache"]
    assert COMPOSE["networks"]["cache"] == {"internal": True}


def test_redis_is_a_bounded_cache_that_writes_nothing() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "redis-server"
    assert options["--maxmemory-policy"] == "allkeys-lru"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    limit = SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"]
    assert 0 < int(options["--maxmemory"].removesuffix("mb")) < int(limit.removesuffix("m"))


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == "unless-stopped"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["pids_limit"] > 0
    assert service["deploy"]["resources"]["limits"]["memory"]
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])


@pytest.mark.parametrize("name", OURS)
def test_the_service_waits_for_no_health_of_redis(name: str) -> None:
    assert SERVICES[name]["depends_on"] == ["redis"]


@pytest.mark.parametrize("name", OURS)
def test_compose_lets_the_drain_end(name: str) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default


@pytest.mark.parametrize("name", OURS)
def test_compose_passes_every_setting_that_the_image_does_not_fix(name: str) -> None:
    fixed = {word.split("=")[0] for value in _values("ENV", "runtime") for word in shlex.split(value)}
    assert set(SERVICES[name]["environment"]) == KNOWN - fixed


@pytest.mark.parametrize("name", OURS)
def test_the_published_address_is_the_loopback_unless_asked_otherwise(name: str) -> None:
    [port] = SERVICES[name]["ports"]
    inside = _values("EXPOSE", "runtime")
    assert re.fullmatch(r"\$\{PUBLISH\w*:-127\.0\.0\.1:\d+\}:(\d+)", port)
    assert inside == [port.rpartition(":")[2]]


@pytest.mark.parametrize("name", OURS)
def test_compose_builds_a_target_that_is_there(name: str) -> None:
    build = SERVICES[name]["build"]
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert build["target"] in {i.stage for i in DOCKERFILE}


# The image


def test_every_setting_that_is_named_exists() -> None:
    for file in ("docker-compose.yml", "deploy/Dockerfile", "deploy/healthcheck.py", "docs/deployment.md"):
        named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", (ROOT / file).read_text()))
        assert named <= KNOWN, f"{file} names {sorted(named - KNOWN)}"


@pytest.mark.parametrize("target", ["service", "service-openvino", "service-gpu"])
def test_the_image_runs_as_nobody_special(target: str) -> None:
    assert _values("USER", target) == ["10001:10001"]
    assert "--uid 10001 --gid maeve" in " ".join(_values("RUN", "runtime"))


def test_the_image_for_gpus_asks_for_one() -> None:
    assert _values("ENV", "service-gpu") == ["MAEVE_DEVICE=cuda"]
    assert "MAEVE_DEVICE" not in " ".join(_values("ENV", "runtime"))
    assert SERVICES["maeve-gpu"]["environment"]["MAEVE_DEVICE"] is None  # left to the image where nobody sets it


def test_nothing_that_reports_its_use_is_left() -> None:
    assert "ORT_DISABLE_TELEMETRY=1" in " ".join(_values("ENV", "runtime"))
    [install] = _values("RUN", "dependencies-openvino")
    assert install.endswith("uninstall --yes openvino-telemetry")


def test_a_build_without_a_target_makes_the_cpu_image() -> None:
    assert DOCKERFILE[-1].stage == "service"


def test_sigterm_reaches_the_service() -> None:
    assert _values("STOPSIGNAL") == ["SIGTERM"]
    assert _values("ENTRYPOINT") == ['["python", "-m", "service"]']  # the exec form: no shell in between


def test_what_is_copied_exists_and_is_sent_to_the_engine() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    sources = _copied_from_context()
    assert [source for source in sorted(sources) if not (ROOT / source).exists()] == []
    assert ignore[0] == "*"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == sources


def test_every_package_that_the_service_imports_is_copied() -> None:
    """Walks the imports from `service`, so that a new package of ours cannot be forgotten in the Dockerfile."""
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    needed: set[str] = set()
    waiting = {"service"}
    while waiting:
        package = waiting.pop()
        needed.add(package)
        text = "\n".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
        waiting |= (set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)) & ours) - needed
    assert needed == ours & _copied_from_context()


def test_the_image_is_labelled_with_the_version() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    labels = dict(word.split("=", 1) for value in _values("LABEL", "runtime") for word in shlex.split(value))
    assert labels["org.opencontainers.image.version"] == version


def test_the_base_image_is_the_python_of_the_tests() -> None:
    [default] = [value for value in _values("ARG") if value.startswith("PYTHON_IMAGE=")]
    target = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mypy"]["python_version"]
    assert default == f"PYTHON_IMAGE=python:{target}-slim-bookworm"


# What the image runs beside the service


def test_the_requirements_are_those_of_pyproject() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    expectations = [([], project["dependencies"]), *(([name], extras[name]) for name in ("gpu", "openvino"))]
    for arguments, expected in expectations:
        command = [sys.executable, "deploy/requirements.py", *arguments]
        printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
        assert printed.splitlines() == expected
    assert not [line for line in project["dependencies"] if line.startswith("torch")]


@contextmanager
def _answering(status: int) -> Iterator[int]:
    """A server that answers /readyz with `status`, and anything else with 404; gives its port."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/readyz" else 404)
            self.end_headers()
            self.wfile.write(b"draining")

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


def _healthcheck(**environment: str) -> subprocess.CompletedProcess[str]:
    proxy = {"http_proxy": "http://127.0.0.1:9"}  # the discard port: an answer by way of it would be an error
    command = [sys.executable, "deploy/healthcheck.py"]
    return subprocess.run(command, cwd=ROOT, env=proxy | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])  # noqa: S104
def test_healthy_when_ready(host: str) -> None:
    with _answering(200) as port:
        result = _healthcheck(MAEVE_HOST=host, MAEVE_PORT=str(port))
    assert (result.returncode, result.stderr) == (0, "")


def test_unhealthy_when_not_ready() -> None:
    with _answering(503) as port:
        result = _healthcheck(MAEVE_HOST="127.0.0.1", MAEVE_PORT=str(port))
    assert result.returncode == 1
    assert "503 draining" in result.stderr


def test_unhealthy_when_nothing_listens() -> None:
    with _answering(200) as port:
        pass
    result = _healthcheck(MAEVE_HOST="127.0.0.1", MAEVE_PORT=str(port))
    assert result.returncode == 1
    assert "refused" in result.stderr
