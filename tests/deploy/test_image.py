"""What can be known of the images without a Docker engine."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from service.settings import PREFIX, Settings
from tests.deploy.dockerfile import (
    DOCKERFILE,
    INSTRUCTIONS,
    ROOT,
    STAGES,
    TARGETS,
    copied,
    environment,
    labels,
    lineage,
    values,
)

KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}
SERVICES = ["service", "service-gpu", "service-openvino", "service-search"]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())
HADOLINT = shutil.which("hadolint", path=str(Path(sys.executable).parent)) or shutil.which("hadolint")


def test_the_targets() -> None:
    assert sorted(TARGETS) == sorted([*SERVICES, "bulk", "training"])


def test_a_build_without_a_target_makes_the_cpu_image() -> None:
    assert STAGES[-1].name == "service"


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed")
def test_the_linter_finds_nothing() -> None:
    assert HADOLINT is not None
    found = subprocess.run([HADOLINT, str(DOCKERFILE)], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def test_what_the_linter_is_told_to_ignore_is_one_rule() -> None:
    ignored = re.findall(r"^# hadolint ignore=(.*)$", DOCKERFILE.read_text(), re.MULTILINE)
    assert set(ignored) == {"DL3008"}  # versions of Debian's packages, which the file says why
    assert len(ignored) == sum("apt-get install" in value for value in values("RUN"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_runs_as_nobody_special(target: str) -> None:
    assert values("USER", *lineage(target)) == ["10001:10001"]
    assert INSTRUCTIONS[max(n for n, i in enumerate(INSTRUCTIONS) if i.stage == target)].name == "USER"
    assert "--uid 10001 --gid maeve" in " ".join(values("RUN", *lineage(target)))


@pytest.mark.parametrize("target", TARGETS)
def test_an_init_reaps_and_passes_signals_on_to_a_process_without_a_shell(target: str) -> None:
    assert values("STOPSIGNAL", *lineage(target)) == ["SIGTERM"]
    [entry] = values("ENTRYPOINT", *lineage(target))
    service = '["tini", "--", "python", "-m", "service"]'
    assert entry == (service if target in SERVICES else '["tini", "--"]')
    assert "--no-install-recommends tini" in " ".join(values("RUN", *lineage(target)))


@pytest.mark.parametrize("target", TARGETS)
def test_what_is_written_at_run_time_goes_to_tmp(target: str) -> None:
    assert environment(target)["HOME"] == "/tmp"  # noqa: S108
    assert "--home-dir /tmp " in " ".join(values("RUN", "base"))


@pytest.mark.parametrize("target", TARGETS)
def test_the_image_is_labelled(target: str) -> None:
    said = {name.removeprefix("org.opencontainers.image."): value for name, value in labels(target).items()}
    assert said["version"] == PROJECT["project"]["version"]
    assert said["licenses"] == PROJECT["project"]["license"]
    assert said["revision"] == "${REVISION}"
    assert said["title"]
    assert said["description"]


def test_the_revision_is_given_last_so_that_another_one_builds_nothing_again() -> None:
    for target in TARGETS:
        names = [i.name for i in INSTRUCTIONS if i.stage == target]
        assert "RUN" not in names[names.index("ARG", names.index("COPY")) :], target


def test_the_service_on_gpus_asks_for_one() -> None:
    assert {target for target in TARGETS if "MAEVE_DEVICE" in environment(target)} == {"service-gpu"}
    assert environment("service-gpu")["MAEVE_DEVICE"] == "cuda"


def test_nothing_that_reports_its_use_is_left() -> None:
    assert {environment(target)["ORT_DISABLE_TELEMETRY"] for target in TARGETS} == {"1"}
    assert environment("bulk")["RAY_USAGE_STATS_ENABLED"] == "0"
    [install] = values("RUN", "service-openvino")
    assert install.endswith("uninstall --yes openvino-telemetry")


def test_installing_leaves_nothing_behind_and_takes_pinned_versions() -> None:
    for value in values("RUN", *{name for target in TARGETS for name in lineage(target)}):
        commands = re.split(r"&&|;", value)
        pip = [command for command in commands if "pip" in command and " install " in command]
        assert all("--no-cache-dir --constraint /lists/constraints.txt" in command for command in pip), value
        assert "apt-get install" not in value or "rm -rf /var/lib/apt/lists/*" in value, value


def test_every_setting_that_is_named_exists() -> None:
    for file in ("docker-compose.yml", "deploy/Dockerfile", "deploy/healthcheck.py", "docs/deployment.md"):
        named = set(re.findall(rf"\b{PREFIX}[A-Z_]*[A-Z]\b", (ROOT / file).read_text()))
        assert named <= KNOWN, f"{file} names {sorted(named - KNOWN)}"


def test_what_is_copied_exists_and_is_sent_to_the_engine() -> None:
    ignore = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert [source for source in sorted(copied()) if not (ROOT / source).exists()] == []
    assert ignore[0] == "*"
    assert {line.removeprefix("!") for line in ignore if line.startswith("!")} == copied()


@pytest.mark.parametrize(
    ("project", "packages"),
    [("service", ["service"]), ("bulk", ["bulk"]), ("training", ["training", "export"])],
)
def test_every_package_that_is_imported_is_copied(project: str, packages: list[str]) -> None:
    """Walks the imports, so that a new package of ours cannot be forgotten in the Dockerfile."""
    ours = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    needed: set[str] = set()
    waiting = set(packages)
    while waiting:
        package = waiting.pop()
        needed.add(package)
        text = "\n".join(path.read_text() for path in (ROOT / package).rglob("*.py"))
        waiting |= (set(re.findall(r"^\s*(?:from|import) (\w+)", text, re.MULTILINE)) & ours) - needed
    assert needed <= ours & copied("project", f"project-{project}")


def test_the_base_image_is_the_python_of_the_tests() -> None:
    [default] = [value for value in values("ARG") if value.startswith("PYTHON_IMAGE=")]
    assert default == f"PYTHON_IMAGE=python:{PROJECT['tool']['mypy']['python_version']}-slim-bookworm"


@pytest.mark.parametrize(
    "extras",
    [[], ["bulk", "cluster"], ["gpu"], ["openvino"], ["search"], ["train", "export"]],
    ids=lambda extras: "+".join(extras),
)
def test_the_requirements_are_those_of_pyproject(extras: list[str]) -> None:
    project = PROJECT["project"]
    command = [sys.executable, "deploy/requirements.py", *extras]
    printed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    wanted = [project["optional-dependencies"][name] for name in extras] or [project["dependencies"]]
    assert set(printed) == {line for lines in wanted for line in lines}
    assert len(printed) == len(set(printed))
    assert " ".join(["python requirements.py", *extras, ">"]) in " ".join(values("RUN", "requirements"))


def test_the_service_is_without_torch() -> None:
    assert not [line for line in PROJECT["project"]["dependencies"] if line.startswith("torch")]


# The health check


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
