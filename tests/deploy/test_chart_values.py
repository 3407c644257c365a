"""What may be written into the chart's values, and what is said of the rest."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml

from service.settings import PREFIX, Settings
from tests.deploy.chart import BY_OTHER_KEYS, CHART, OLDEST, ROOT, helm, settings_schema, template
from tests.deploy.chart_cases import ENTRY, EXAMPLES

VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())
SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
KEYED = {"apiKeys.entries": [ENTRY]}
SCALED = {"autoscaling.enabled": True}


def test_the_chart_passes_helms_own_checks() -> None:
    for values in ([], *(["--values", example] for example in EXAMPLES.values())):
        done = helm("lint", "--strict", CHART, *values)
        assert done.returncode == 0, done.stdout


def test_the_chart_has_the_version_of_the_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert chart["kubeVersion"] == f">={OLDEST}.0-0"


def test_the_schema_knows_every_setting_of_the_service() -> None:
    wanted = settings_schema()
    assert SCHEMA["properties"]["settings"] == wanted, f"settings in values.schema.json must be {json.dumps(wanted)}"


def test_settings_by_other_keys_are_named_where_they_are_missed() -> None:
    comment = (CHART / "values.yaml").read_text().partition("\nsettings: {}")[0].rpartition("\n\n")[2]
    assert {name for name in BY_OTHER_KEYS if name in comment} == BY_OTHER_KEYS


def _open_keys(values: dict[str, Any], schema: dict[str, Any], path: str = "") -> list[str]:
    """Keys that stand in one of the two alone, where the schema lists what there is."""
    if schema.get("additionalProperties") is not False or path == ".settings":
        return []
    known = schema["properties"]
    found = [f"{path}.{key}" for key in set(values) ^ set(known) if f"{path}.{key}" != ".global"]
    for key in set(values) & set(known):
        if isinstance(values[key], dict):
            found += _open_keys(values[key], known[key], f"{path}.{key}")
    return found


def test_the_schema_lists_what_values_yaml_has() -> None:
    assert _open_keys(VALUES, SCHEMA) == []


def test_every_section_of_the_values_is_closed() -> None:
    """An object that takes any key would take a misspelt one; those that do are Kubernetes' own to check."""
    free = {key for key, schema in SCHEMA["properties"].items() if schema == {"type": "object"}}
    assert free == {"global", "affinity"}


@pytest.mark.parametrize(
    ("values", "told"),
    [
        ({"replica": 3}, "(root): Additional property replica is not allowed"),
        ({"gpu.enable": True}, "gpu: Additional property enable is not allowed"),
        ({"bundle.claim.subpath": "a"}, "bundle.claim: Additional property subpath is not allowed"),
        ({"settings.MAEVE_MAX_QUEU": 9}, "settings: Additional property MAEVE_MAX_QUEU is not allowed"),
        ({"settings.MAEVE_REDIS_URL": "redis://a"}, "settings: Additional property MAEVE_REDIS_URL is not allowed"),
        ({"settings.MAEVE_MAX_QUEUE": 0}, "settings.MAEVE_MAX_QUEUE: Must be greater than or equal to 1"),
        ({"settings.MAEVE_MAX_QUEUE": 1.5}, "settings.MAEVE_MAX_QUEUE: Invalid type. Expected: integer, given: number"),
        ({"settings.MAEVE_PRECISION": "fp8"}, "settings.MAEVE_PRECISION must be one of the following"),
        ({"settings.MAEVE_DRAIN_S": "soon"}, "settings.MAEVE_DRAIN_S: Does not match pattern"),
        ({"env": [{"name": "MAEVE_LANES", "value": "2"}]}, "env.0.name: Must not validate the schema (not)"),
        ({"replicas": -1}, "replicas: Must be greater than or equal to 0"),
        ({"image.digest": "sha256:12"}, "image.digest: Does not match pattern"),
        ({"apiKeys.entries": ["shop:secret"]}, "apiKeys.entries.0: Does not match pattern"),
        ({"externalRedis.url": "http://redis"}, "externalRedis.url: Does not match pattern"),
        ({"autoscaling.busyShare": 70}, "autoscaling.busyShare: Must be less than or equal to 1"),
        ({"gpu.resource": "gpu"}, "gpu.resource: Does not match pattern"),
        ({"ingress.enabled": True}, "ingress.host: String length must be greater than or equal to 1"),
        ({"resources": None}, "(root): resources is required"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, Any], told: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert told in done.stderr


@pytest.mark.parametrize(
    ("values", "told"),
    [
        (SCALED | {"replicas": 3}, "replicas (3) and autoscaling.enabled exclude each other"),
        (
            SCALED | {"autoscaling.minReplicas": 11},
            "autoscaling.minReplicas (11) is above autoscaling.maxReplicas (10)",
        ),
        (SCALED | {"autoscaling.busyShare": None, "autoscaling.queueShare": None}, "needs a measure"),
        (SCALED | {"gpu.enabled": True, "autoscaling.cpuUtilization": 70}, "says nothing of a GPU"),
        (
            {"bundle.claim.name": "a", "bundle.fetch.source": ":s3:b"},
            "bundle.claim.name and bundle.fetch.source exclude each other",
        ),
        (
            {"bundle.fetch.source": ":s3:b", "bundle.image.reference": "c"},
            "bundle.fetch.source and bundle.image.reference exclude each other",
        ),
        ({"search.claim.name": "a", "search.url": "s3://b"}, "search.claim.name and search.url exclude each other"),
        ({"gpu.enabled": True, "search.url": "s3://b"}, "has both a GPU's engine and the search"),
        ({"externalRedis.url": "redis://a"}, "add redis.enabled=false"),
        (
            {"redis.enabled": False, "externalRedis.url": "redis://a", "externalRedis.existingSecret": "b"},
            "externalRedis.url and externalRedis.existingSecret exclude each other",
        ),
        (
            {"redis.enabled": False, "externalRedis.url": "rediss://a", "externalRedis.caSecret": "b"},
            "add ?ssl_ca_certs=/etc/maeve/redis/ca.crt",
        ),
        (KEYED | {"apiKeys.existingSecret": "a"}, "apiKeys.entries and apiKeys.existingSecret exclude each other"),
        ({"settings.MAEVE_RATE_LIMIT": 5}, "need keys"),
        (
            KEYED | {"settings.MAEVE_METRICS_API_KEY": True, "monitoring.serviceMonitor.enabled": True},
            "give monitoring.serviceMonitor.keySecret",
        ),
        ({"service.type": "LoadBalancer"}, "add their addresses to networkPolicy.from as an ipBlock"),
        ({"service.type": "NodePort"}, "service.type NodePort is for clients outside the cluster"),
        ({"resources": {"limits": {"cpu": None}, "requests": {"cpu": None}}}, "a pod would take its node's every core"),
    ],
)
def test_values_that_contradict_each_other_are_refused_in_words(values: dict[str, Any], told: str) -> None:
    done = template(values)
    assert done.returncode != 0
    assert "these values do not go together:" in done.stderr
    assert told in done.stderr


def test_all_contradictions_are_told_at_once() -> None:
    done = template(SCALED | {"replicas": 3, "settings.MAEVE_RATE_LIMIT": 5})
    assert "exclude each other" in done.stderr
    assert "need keys" in done.stderr


def test_the_drain_that_the_chart_reckons_with_is_the_services() -> None:
    assert (
        f"settings.{PREFIX}DRAIN_S | default {Settings.model_fields['drain_s'].default} "
        in (CHART / "templates" / "_helpers.tpl").read_text()
    )
