"""What the chart puts around the pods: who may reach whom, how many there are, and who watches."""

from __future__ import annotations

import ipaddress
import json
import re
from typing import Any

import pytest
import yaml

from service.settings import Settings
from tests.deploy.chart import ROOT, environment, find, render
from tests.deploy.chart_cases import ADAPTER, rendered

Rule = dict[str, Any]


def _egress(case: str) -> list[Rule]:
    policy = find(rendered(case), "NetworkPolicy")["spec"]
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    return list(policy["egress"])


def _ports(rules: list[Rule]) -> list[int]:
    return [port["port"] for rule in rules for port in rule["ports"]]


# Who may reach whom


def test_the_service_reaches_names_and_redis_and_nothing_else() -> None:
    names, redis = _egress("default")
    assert names["ports"] == [{"port": 53, "protocol": "UDP"}, {"port": 53, "protocol": "TCP"}]
    assert names["to"] == [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "kube-system"}}}]
    assert redis["ports"] == [{"port": 6379}]
    [to] = redis["to"]
    assert to["podSelector"] == find(rendered("default"), "NetworkPolicy", "maeve-redis")["spec"]["podSelector"]
    assert _ports(_egress("no redis")) == [53, 53]


def test_a_redis_of_another_place_is_reached_where_it_is() -> None:
    [_, redis] = _egress("redis with a password and TLS")
    assert redis == {"ports": [{"port": 6380}], "to": [{"ipBlock": {"cidr": "10.1.0.0/16"}}]}


@pytest.mark.parametrize("case", ["bundle from an object store", "search by url", "production.yaml"])
def test_an_object_store_is_reached_by_those_who_need_one(case: str) -> None:
    assert 443 in _ports(_egress(case))
    assert 443 not in _ports(_egress("bundle from a claim"))


def test_an_object_store_of_another_port_is_reached_there() -> None:
    rules = _egress("stores of other ports")
    assert _ports(rules)[-2:] == [9000, 9001]
    assert 443 not in _ports(rules)


def test_clients_outside_the_cluster_are_let_in_where_the_service_is_for_them() -> None:
    [rule] = find(rendered("load balancer"), "NetworkPolicy")["spec"]["ingress"]
    assert {"ipBlock": {"cidr": "203.0.113.0/24"}} in rule["from"]
    assert find(render({"service.type": "NodePort", "networkPolicy.enabled": False}), "Service")


@pytest.mark.parametrize(
    ("case", "requests", "limits"),
    [
        ("default", {"cpu": "100m", "memory": "384Mi"}, {"memory": "384Mi"}),
        ("redis with more memory", {"cpu": "100m", "memory": "2Gi"}, {"memory": "2Gi"}),
        ("redis with memory twice", {"cpu": "100m", "memory": "512Mi"}, {"cpu": 1, "memory": "1Gi"}),
    ],
)
def test_redis_has_the_memory_that_the_values_say(case: str, requests: Rule, limits: Rule) -> None:
    pod = find(rendered(case), "Deployment", "maeve-redis")["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {"requests": requests, "limits": limits}


def test_image_urls_lead_to_public_addresses_alone() -> None:
    [rule] = [rule for rule in _egress("image urls and traces") if rule["ports"] == [{"port": 443}]]
    blocks = [each["ipBlock"] for each in rule["to"]]
    barred = [ipaddress.ip_network(net) for block in blocks for net in block["except"]]
    for inside in ("10.0.0.1", "100.64.0.1", "127.0.0.1", "169.254.169.254", "172.31.0.1", "192.168.1.1", "fd00::1"):
        assert any(ipaddress.ip_address(inside) in net for net in barred), inside
    assert not any(ipaddress.ip_address("1.1.1.1") in net for net in barred)
    assert 4318 in _ports(_egress("image urls and traces"))


def test_redis_is_out_of_reach_for_all_but_the_service() -> None:
    policy = find(rendered("default"), "NetworkPolicy", "maeve-redis")["spec"]
    [rule] = policy["ingress"]
    assert rule["from"] == [{"podSelector": find(rendered("default"), "NetworkPolicy")["spec"]["podSelector"]}]
    assert policy["egress"] == []


def test_prometheus_is_let_in_where_it_is_to_ask() -> None:
    def peers(case: str) -> str:
        return json.dumps(find(rendered(case), "NetworkPolicy")["spec"]["ingress"])

    assert '"monitoring"' in peers("monitoring")
    assert '"monitoring"' not in peers("default")
    assert '"component": "test"' in peers("default").replace("app.kubernetes.io/", "")  # helm test


def test_the_network_policy_can_be_left_to_others() -> None:
    assert not [each for each in rendered("one pod") if each["kind"] == "NetworkPolicy"]


def test_a_redis_with_a_certificate_of_its_own_authority() -> None:
    manifests = rendered("redis with a password and TLS")
    assert environment(manifests)["MAEVE_REDIS_URL"] == {"secretKeyRef": {"name": "cache", "key": "url"}}
    pod = find(manifests, "Deployment")["spec"]["template"]["spec"]
    [mount] = [each for each in pod["containers"][0]["volumeMounts"] if each["name"] == "redis-ca"]
    [volume] = [each for each in pod["volumes"] if each["name"] == "redis-ca"]
    [item] = volume["secret"]["items"]
    file = f"{mount['mountPath']}/{item['path']}"
    assert Settings(redis_url=f"rediss://cache:6380/0?ssl_ca_certs={file}").redis_url
    assert file in (ROOT / "docs" / "kubernetes.md").read_text()


def test_an_ingress_leads_to_the_service() -> None:
    spec = find(rendered("ingress"), "Ingress")["spec"]
    [rule] = spec["rules"]
    [path] = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("maeve.example.org", "/")
    assert spec["tls"] == [{"hosts": ["maeve.example.org"], "secretName": "tls"}]
    service = find(rendered("ingress"), "Service")
    assert path["backend"]["service"] == {"name": "maeve", "port": {"name": service["spec"]["ports"][0]["name"]}}


# How many


def test_pods_are_counted_by_one_alone() -> None:
    assert find(rendered("default"), "Deployment")["spec"]["replicas"] == 2
    assert find(rendered("one pod"), "Deployment")["spec"]["replicas"] == 1
    assert find(render({"replicas": 0}), "Deployment")["spec"]["replicas"] == 0
    assert "replicas" not in find(rendered("autoscaling"), "Deployment")["spec"]
    assert not [each for each in rendered("default") if each["kind"] == "HorizontalPodAutoscaler"]


def test_the_autoscaler_goes_by_what_it_is_told() -> None:
    spec = find(rendered("autoscaling"), "HorizontalPodAutoscaler")["spec"]
    assert spec["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": "maeve"}
    targets = {each["pods"]["metric"]["name"]: each["pods"]["target"] for each in spec["metrics"]}
    assert targets == {
        "maeve_busy_share": {"type": "AverageValue", "averageValue": "650m"},
        "maeve_queue_share": {"type": "AverageValue", "averageValue": "250m"},
    }
    [metric] = find(rendered("autoscaling by cpu"), "HorizontalPodAutoscaler")["spec"]["metrics"]
    assert metric["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}


def test_the_adapter_makes_the_measures_of_what_the_service_tells() -> None:
    documented = set(re.findall(r"^\| `(maeve_\w+)`", (ROOT / "docs" / "metrics.md").read_text(), re.MULTILINE))
    rules = yaml.safe_load(ADAPTER.read_text())["rules"]["custom"]
    spec = find(rendered("autoscaling"), "HorizontalPodAutoscaler")["spec"]
    asked = [each["pods"]["metric"]["name"] for each in spec["metrics"]]
    assert [rule["name"]["as"] for rule in rules] == asked
    for rule in rules:
        named = set(re.findall(r"maeve_\w+", rule["seriesQuery"] + rule["metricsQuery"]))
        assert named <= documented
        assert rule["metricsQuery"].count("<<.GroupBy>>") == rule["metricsQuery"].count("<<.LabelMatchers>>") >= 2


# Who watches


def test_the_alerts_and_dashboards_are_those_of_the_project() -> None:
    manifests = rendered("monitoring")
    alerts = yaml.safe_load((ROOT / "deploy" / "prometheus" / "alerts.yml").read_text())
    assert find(manifests, "PrometheusRule")["spec"] == alerts
    boards = {path.name: json.loads(path.read_text()) for path in (ROOT / "deploy/grafana/dashboards").glob("*.json")}
    data = [each["data"] for each in manifests if each["kind"] == "ConfigMap"]
    assert {name: json.loads(text) for each in data for name, text in each.items()} == boards
    assert boards


def test_prometheus_has_the_key_that_metrics_ask_for() -> None:
    manifests = rendered("production.yaml")
    assert environment(manifests)["MAEVE_METRICS_API_KEY"] == "true"
    [endpoint] = find(manifests, "ServiceMonitor")["spec"]["endpoints"]
    assert endpoint["authorization"] == {"credentials": {"name": "maeve-metrics", "key": "key"}}
    [port] = find(manifests, "Service")["spec"]["ports"]
    assert (endpoint["port"], endpoint["path"]) == (port["name"], "/metrics")


def test_the_test_pod_asks_what_the_image_has_for_it() -> None:
    [container] = find(rendered("default"), "Pod", "maeve-test")["spec"]["containers"]
    assert container["command"] == ["python", "/opt/healthcheck.py"]
    asked = {each["name"]: each["value"] for each in container["env"]}
    service = find(rendered("default"), "Service")
    assert asked == {"MAEVE_HOST": service["metadata"]["name"], "MAEVE_PORT": str(service["spec"]["ports"][0]["port"])}
    assert all(name in (ROOT / "deploy" / "healthcheck.py").read_text() for name in asked)
