"""What the chart makes of its values: manifests that Kubernetes takes, and pods that do what the docs say."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from redis import Redis

import service.supervisor
from service.settings import Settings, read_settings
from tests.deploy.chart import Manifest, check, environment, find, pod_specs, render, service_pod
from tests.deploy.chart_cases import ALL, CASES, ENTRY, EXAMPLES, rendered
from tests.docs.markdown import read_blocks
from tests.service.helpers import RedisServer


def test_kubernetes_takes_every_manifest() -> None:
    assert set(EXAMPLES) == {"gpu.yaml", "production.yaml"}
    for manifests in map(rendered, ALL):
        for manifest in manifests:
            check(manifest)
        assert len(_names(manifests)) == len(manifests)


def test_the_service_takes_every_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Variables that come from elsewhere have what would be there."""
    elsewhere = {"MAEVE_REDIS_URL": "rediss://:a@b:6380/0", "MAEVE_API_KEYS": ENTRY, "MAEVE_LANES": "2"}
    read: dict[str, Settings] = {}
    for case, manifests in zip(ALL, map(rendered, ALL), strict=True):
        with monkeypatch.context() as patch:
            for name, value in environment(manifests).items():
                if name.startswith("MAEVE_"):
                    patch.setenv(name, value if isinstance(value, str) else elsewhere[name])
            read[case] = read_settings([])
    assert all(settings.bundle == Path("/bundle") for settings in read.values())
    assert read["large numbers and a long drain"].max_body_bytes == 33554432
    assert read["large numbers and a long drain"].cache_bytes == 8589934592
    assert read["keys"].rate_limit == 0.5
    assert read["gpu"].device == "cuda"
    assert read["several devices"].device_names == ("cpu", "cpu")
    assert read["default"].redis_url == "redis://maeve-redis:6379/0"
    assert read["no redis"].redis_url is None


def test_every_container_is_confined() -> None:
    for manifests in map(rendered, ALL):
        for pod in pod_specs(manifests).values():
            assert pod["automountServiceAccountToken"] is False
            assert (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"]) == (True, 10001)
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            for container in [*pod["containers"], *pod.get("initContainers", [])]:
                assert container["securityContext"] == {
                    "allowPrivilegeEscalation": False,
                    "readOnlyRootFilesystem": True,
                    "capabilities": {"drop": ["ALL"]},
                }
                assert container["resources"]["limits"]["memory"]
                assert container["resources"]["requests"]["cpu"]


def test_no_service_of_the_namespace_becomes_a_setting() -> None:
    """Kubernetes sets MAEVE_PORT=tcp://... in every pod beside a Service called maeve, unless it is told not to."""
    assert find(rendered("default"), "Service")["metadata"]["name"] == "maeve"
    assert all(pod["enableServiceLinks"] is False for pod in pod_specs(rendered("default")).values())


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return bool(selector["matchLabels"].items() <= labels.items())


def test_selectors_tell_the_pods_apart() -> None:
    manifests = rendered("monitoring")
    labels = {name: find(manifests, "Deployment", name)["spec"]["template"]["metadata"]["labels"]
              for name in ("maeve", "maeve-redis")}  # fmt: skip
    labels["maeve-test"] = find(manifests, "Pod", "maeve-test")["metadata"]["labels"]
    of_service = {
        "Deployment": find(manifests, "Deployment")["spec"]["selector"],
        "Service": {"matchLabels": find(manifests, "Service")["spec"]["selector"]},
        "PodDisruptionBudget": find(manifests, "PodDisruptionBudget")["spec"]["selector"],
        "NetworkPolicy": find(manifests, "NetworkPolicy")["spec"]["podSelector"],
    }
    for kind, selector in of_service.items():
        assert [name for name in labels if _selects(selector, labels[name])] == ["maeve"], kind
    monitor = find(manifests, "ServiceMonitor")["spec"]
    services = [each for each in manifests if each["kind"] == "Service"]
    watched = [each for each in services if _selects(monitor["selector"], each["metadata"]["labels"])]
    assert [each["metadata"]["name"] for each in watched] == ["maeve"]
    assert watched[0]["metadata"]["labels"][monitor["jobLabel"]] == "maeve"  # up{job="maeve"} in the alerts


def test_two_releases_share_nothing() -> None:
    other = render({"fullnameOverride": "other"})
    assert not _names(rendered("default")) & _names(other)
    assert environment(other, "other")["MAEVE_REDIS_URL"] == "redis://other-redis:6379/0"


def _names(manifests: Iterable[Manifest]) -> set[tuple[str, str]]:
    return {(each["kind"], each["metadata"]["name"]) for each in manifests}


# Starting, stopping, updating


def test_the_probes_are_those_of_the_docs() -> None:
    [block] = [each for each in read_blocks("docs/operations.md") if each.code.startswith("startupProbe:")]
    [container] = service_pod(rendered("default"))["containers"]
    port = {each["name"]: each["containerPort"] for each in container["ports"]}
    for name, shown in yaml.safe_load(block.code).items():
        probe = container[name]
        assert port[probe["httpGet"]["port"]] == shown["httpGet"]["port"]
        assert probe["httpGet"]["path"] == shown["httpGet"]["path"]
        assert {key: probe.get(key) for key in shown} | {"httpGet": None} == shown | {"httpGet": None}


@pytest.mark.parametrize("case", ["default", "large numbers and a long drain", "several devices", "production.yaml"])
def test_a_pod_may_finish_before_it_is_killed(case: str) -> None:
    pod = service_pod(rendered(case))
    drain_s = float(environment(rendered(case)).get("MAEVE_DRAIN_S", Settings.model_fields["drain_s"].default))
    [wait, seconds] = pod["containers"][0]["lifecycle"]["preStop"]["exec"]["command"]
    assert wait == "sleep"
    ends_s = service.supervisor._ANSWER_S + service.supervisor._DEVICE_END_S
    assert pod["terminationGracePeriodSeconds"] > int(seconds) + math.ceil(drain_s) + ends_s


def test_an_update_takes_no_pod_before_another_is_ready() -> None:
    strategy = find(rendered("default"), "Deployment")["spec"]["strategy"]
    assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1, "maxUnavailable": 0}}


def test_a_drain_of_nodes_is_never_blocked() -> None:
    budget = find(rendered("default"), "PodDisruptionBudget")["spec"]
    assert (budget["maxUnavailable"], budget["unhealthyPodEvictionPolicy"]) == (1, "AlwaysAllow")
    assert not [each for each in rendered("one pod") if each["kind"] == "PodDisruptionBudget"]


# Devices and cores


def test_a_pod_has_one_gpu_and_will_not_do_without() -> None:
    pod = service_pod(rendered("gpu"))
    [container] = pod["containers"]
    assert container["image"] == "maeve:service-gpu"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert environment(rendered("gpu"))["MAEVE_DEVICE"] == "cuda"
    assert pod["runtimeClassName"] == "nvidia"
    assert pod["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert "nvidia.com/gpu" not in json.dumps(pod_specs(rendered("gpu"))["maeve-redis"])


@pytest.mark.parametrize(("gpu", "counted"), [(False, "MAEVE_LANES"), (True, "MAEVE_DECODE_THREADS")])
def test_without_a_limit_the_requested_cores_are_used(gpu: bool, counted: str) -> None:
    free = CASES["no limit of CPU"] | {"gpu.enabled": gpu}
    source = environment(render(free))[counted]
    assert source == {"resourceFieldRef": {"containerName": "maeve", "resource": "requests.cpu", "divisor": "1"}}
    assert environment(render(free | {f"settings.{counted}": 3}))[counted] == "3"


def test_with_a_limit_the_service_counts_for_itself() -> None:
    assert not {"MAEVE_LANES", "MAEVE_DECODE_THREADS"} & set(environment(rendered("default")))


# Bundles, indexes, keys


def test_a_bundle_of_a_claim_is_mounted_where_the_service_looks() -> None:
    pod = service_pod(rendered("bundle from a claim"))
    assert {"name": "bundle", "mountPath": "/bundle", "readOnly": True, "subPath": "photos/7"} in (
        pod["containers"][0]["volumeMounts"]
    )
    assert "initContainers" not in pod


@pytest.mark.parametrize("case", ["bundle from an object store", "bundle from an image"])
def test_a_bundle_is_copied_before_the_service_starts(case: str) -> None:
    pod = service_pod(rendered(case))
    [copier] = pod["initContainers"]
    written = {mount["mountPath"]: mount["name"] for mount in copier["volumeMounts"]}
    [read] = [each for each in pod["containers"][0]["volumeMounts"] if each["mountPath"] == "/bundle"]
    assert read == {"name": written["/target"], "mountPath": "/bundle", "readOnly": True}
    assert [*copier.get("command", []), *copier.get("args", [])][-1] == "/target"


def test_keys_lie_in_the_secret_alone() -> None:
    manifests = rendered("keys")
    secret = find(manifests, "Secret")
    assert secret["stringData"]["api-keys"] == f"{ENTRY},{ENTRY.replace('shop', 'app')}:50"
    assert environment(manifests)["MAEVE_API_KEYS"] == {"secretKeyRef": {"name": "maeve", "key": "api-keys"}}
    assert all(ENTRY not in json.dumps(each) for each in manifests if each["kind"] != "Secret")
    assert environment(rendered("keys of a secret"))["MAEVE_API_KEYS"] == {
        "secretKeyRef": {"name": "keys", "key": "all"}
    }


def test_new_keys_are_new_pods() -> None:
    def noted(manifests: Iterable[Manifest]) -> str:
        return str(find(manifests, "Deployment")["spec"]["template"]["metadata"]["annotations"]["maeve/keys"])

    assert noted(rendered("keys")) != noted(render({"apiKeys.entries": [ENTRY]}))


def test_redis_is_a_bounded_cache_that_answers_others(tmp_path: Path) -> None:
    """The arguments are tried on a real server: it takes them, and holds what they say."""
    [container] = pod_specs(rendered("default"))["maeve-redis"]["containers"]
    limit = int(container["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20
    server = RedisServer(tmp_path)
    server.start(*container["args"])
    try:
        client = Redis.from_url(server.url, decode_responses=True)
        told = {name: client.config_get(name)[name] for name in ("maxmemory", "maxmemory-policy", "save", "appendonly")}
        assert client.config_get("protected-mode") == {"protected-mode": "no"}
        client.close()
    finally:
        server.kill()
    assert (told["maxmemory-policy"], told["save"], told["appendonly"]) == ("allkeys-lru", "", "no")
    assert 0 < int(told["maxmemory"] or 0) < limit
