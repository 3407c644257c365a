"""What can be known of the compose file without a Docker engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.deploy.dockerfile import ROOT, TARGETS, environment, lineage, values

KNOWN = {PREFIX + name.upper() for name in Settings.model_fields}
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = ["maeve", "maeve-gpu"]
PUBLISHED = sorted(name for name, service in SERVICES.items() if "ports" in service)
HAS_COMPOSE = (
    shutil.which("docker") is not None
    and subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0
)


def _default(text: str) -> str:
    """What `${NAME:-default}` says where NAME is not set."""
    return re.sub(r"\$\{\w+:?-([^}]*)\}", r"\1", text)


@pytest.mark.skipif(not HAS_COMPOSE, reason="docker compose is not installed")
@pytest.mark.parametrize("profile", ["", "gpu", "monitoring", "train", "*"])
def test_compose_takes_the_file(profile: str) -> None:
    command = ["docker", "compose", *(["--profile", profile] if profile else []), "config", "--quiet"]
    bare = {name: os.environ[name] for name in ("PATH", "HOME", "DOCKER_CONFIG") if name in os.environ}
    read = subprocess.run(command, cwd=ROOT, env=bare, capture_output=True, text=True, check=False)
    assert (read.returncode, read.stderr) == (0, "")


def test_without_a_profile_there_are_the_service_and_redis() -> None:
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {"maeve", "redis"}


def test_the_profiles() -> None:
    profiles: dict[str, set[str]] = {}
    for name, service in SERVICES.items():
        for profile in service.get("profiles", ()):
            profiles.setdefault(profile, set()).add(name)
    assert profiles == {"gpu": {"maeve-gpu"}, "train": {"maeve-train"}, "monitoring": {"prometheus", "grafana"}}


def test_the_gpu_is_asked_for_in_the_profile_gpu_alone() -> None:
    asking = {name for name, service in SERVICES.items() if "reservations" in service["deploy"]["resources"]}
    assert asking == {"maeve-gpu"}


# Every container


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_confined(name: str) -> None:
    service = SERVICES[name]
    assert service["restart"] == ("no" if name == "maeve-train" else "unless-stopped")
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_container_is_bounded(name: str) -> None:
    limits = SERVICES[name]["deploy"]["resources"]["limits"]
    assert limits["memory"]
    assert limits["pids"] > 0
    assert "pids_limit" not in SERVICES[name]  # Compose 2 refuses it beside deploy.resources


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_no_container_is_root(name: str) -> None:
    """By a number, which names the same user whatever the image calls it."""
    service = SERVICES[name]
    if "build" in service:
        [user] = values("USER", *lineage(_default(service["build"]["target"])))
    else:
        user = service["user"]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user)


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    image = SERVICES[name]["image"]
    assert image.startswith("maeve:") or re.search(r":v?\d", image)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_address_is_the_loopback_unless_asked_otherwise(name: str) -> None:
    [port] = SERVICES[name]["ports"]
    assert re.fullmatch(r"\$\{PUBLISH\w*:-127\.0\.0\.1:\d+\}:(\d+)", port)


def test_no_two_published_ports_are_the_same() -> None:
    ports = [_default(SERVICES[name]["ports"][0]).split(":")[1] for name in PUBLISHED]
    assert len(set(ports)) == len(ports)


@pytest.mark.parametrize("name", sorted(name for name, service in SERVICES.items() if "build" in service))
def test_compose_builds_a_target_that_is_there(name: str) -> None:
    build = SERVICES[name]["build"]
    target = _default(build["target"])
    assert (ROOT / build["context"] / build["dockerfile"]).is_file()
    assert target in TARGETS
    assert _default(SERVICES[name]["image"]) == f"maeve:{target}"


def test_every_volume_and_every_folder_is_there() -> None:
    used = set()
    for service in SERVICES.values():
        for volume in service.get("volumes", ()):
            source = volume["source"] if isinstance(volume, dict) else volume.split(":")[0]
            if source.startswith("./"):
                assert (ROOT / source).exists(), source
            elif not source.startswith("$"):
                used.add(source)
    assert used == set(COMPOSE["volumes"])


# The service


@pytest.mark.parametrize("name", OURS)
def test_the_service_waits_for_no_health_of_redis(name: str) -> None:
    assert SERVICES[name]["depends_on"] == ["redis"]


@pytest.mark.parametrize("name", OURS)
def test_compose_lets_the_drain_end(name: str) -> None:
    assert int(SERVICES[name]["stop_grace_period"].removesuffix("s")) > Settings.model_fields["drain_s"].default


@pytest.mark.parametrize("name", OURS)
def test_compose_passes_every_setting(name: str) -> None:
    """But the address, which the published port needs."""
    assert set(SERVICES[name]["environment"]) == KNOWN - {"MAEVE_HOST", "MAEVE_PORT"}


@pytest.mark.parametrize("name", OURS)
def test_what_the_image_sets_holds_in_compose(name: str) -> None:
    """A variable without a value would be taken away from the container, and not left to the image."""
    image = environment(_default(SERVICES[name]["build"]["target"]))
    passed = {name: value for name, value in SERVICES[name]["environment"].items() if name in image}
    assert {name: _default(value) for name, value in passed.items()} == {name: image[name] for name in passed}
    assert ("MAEVE_DEVICE" in passed) == (name == "maeve-gpu")


@pytest.mark.parametrize("name", OURS)
def test_the_port_is_the_one_that_the_image_exposes(name: str) -> None:
    assert values("EXPOSE") == [SERVICES[name]["ports"][0].rpartition(":")[2]]


# Redis


def test_redis_is_out_of_reach_from_outside() -> None:
    redis = SERVICES["redis"]
    assert "ports" not in redis
    assert redis["networks"] == ["cache"]
    assert COMPOSE["networks"]["cache"] == {"internal": True}
    assert {name for name, service in SERVICES.items() if "cache" in service["networks"]} == {"redis", *OURS}


def test_redis_is_a_bounded_cache_that_writes_nothing() -> None:
    words = SERVICES["redis"]["command"]
    options = dict(zip(words[1::2], words[2::2], strict=True))
    assert words[0] == "redis-server"
    assert options["--maxmemory-policy"] == "allkeys-lru"
    assert (options["--save"], options["--appendonly"]) == ("", "no")
    limit = SERVICES["redis"]["deploy"]["resources"]["limits"]["memory"]
    assert 0 < int(options["--maxmemory"].removesuffix("mb")) < int(limit.removesuffix("m"))


# Training


def test_what_is_exported_is_what_the_service_may_read() -> None:
    train = SERVICES["maeve-train"]
    words = _default(train["command"]).split()
    assert words[:5] == ["python", "/opt/train.py", "/data", "/runs/photos", "/bundles/photos"]
    assert "bundles:/bundles" in train["volumes"]
    assert all("bundles:/bundles:ro" in SERVICES[name]["volumes"] for name in OURS)
    # A new volume takes the owner of the folder that it covers.
    assert "--owner maeve --group maeve /bundles /runs" in " ".join(values("RUN", "base"))
