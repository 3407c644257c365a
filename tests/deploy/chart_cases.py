"""Values that the chart has to make something of: one set for each thing that the docs offer."""

from __future__ import annotations

from functools import cache
from typing import Any

from tests.deploy.chart import CHART, Manifest, render

ENTRY = "shop:" + "9f" * 32
CASES: dict[str, dict[str, Any]] = {
    "default": {},
    "one pod": {"replicas": 1, "podDisruptionBudget.enabled": False, "networkPolicy.enabled": False},
    "gpu": {"gpu.enabled": True, "gpu.runtimeClassName": "nvidia", "settings.MAEVE_WORKERS": 4},
    "several devices": {"settings.MAEVE_DEVICES": "cpu,cpu", "settings.MAEVE_WORKERS": 2},
    "no limit of CPU": {"resources.limits": {"cpu": None, "memory": "1Gi"}},
    "no redis": {"redis.enabled": False},
    "redis by url": {"redis.enabled": False, "externalRedis.url": "redis://cache.example.org:6380/1"},
    "redis with a password and TLS": {
        "redis.enabled": False,
        "externalRedis.existingSecret": "cache",
        "externalRedis.caSecret": "authority",
        "externalRedis.ports": [6380],
        "externalRedis.cidrs": ["10.1.0.0/16"],
    },
    "keys": {
        "apiKeys.entries": [ENTRY, ENTRY.replace("shop", "app") + ":50"],
        "settings.MAEVE_RATE_LIMIT": 0.5,
        "settings.MAEVE_METRICS_API_KEY": True,
    },
    "keys of a secret": {"apiKeys.existingSecret": "keys", "apiKeys.existingSecretKey": "all"},
    "bundle from a claim": {"bundle.claim": {"name": "bundles", "subPath": "photos/7"}},
    "bundle from an object store": {
        "bundle.fetch.source": ":s3,provider=AWS,env_auth=true,region=eu-central-1:models/a",
        "bundle.fetch.existingSecret": "s3",
    },
    "bundle from an image": {"bundle.image": {"reference": "registry.example.org/photos:7", "path": "/bundle/"}},
    "search": {"search.claim.name": "index", "search.thumbnails": {"name": "photos", "subPath": "small"}},
    "search by url": {"search.url": "s3://models/index", "envFrom": [{"secretRef": {"name": "s3"}}]},
    "stores of other ports": {
        "search": {"url": "s3://models/index", "ports": [9000, 9001]},
        "bundle.fetch": {"source": ":s3,endpoint='minio:9000':models/a", "ports": [9000]},
    },
    "load balancer": {
        "service.type": "LoadBalancer",
        "networkPolicy.from": [{"podSelector": {}}, {"ipBlock": {"cidr": "203.0.113.0/24"}}],
    },
    "redis with more memory": {"redis.resources.limits": {"memory": "2Gi"}},
    "redis with memory twice": {
        "redis.resources": {"requests": {"memory": "512Mi"}, "limits": {"cpu": 1, "memory": "1Gi"}}
    },
    "ingress": {"ingress.enabled": True, "ingress.host": "maeve.example.org", "ingress.tlsSecret": "tls"},
    "autoscaling": {"autoscaling.enabled": True, "autoscaling.busyShare": "0.65"},
    "autoscaling by cpu": {
        "autoscaling": {"enabled": True, "busyShare": None, "queueShare": None, "cpuUtilization": 70}
    },
    "image urls and traces": {
        "settings.MAEVE_IMAGE_URLS": True,
        "settings.MAEVE_TRACES": True,
        "env": [{"name": "OTEL_EXPORTER_OTLP_ENDPOINT", "value": "http://collector:4318"}],
        "networkPolicy.extraEgress": [{"ports": [{"port": 4318}], "to": [{"podSelector": {}}]}],
    },
    "monitoring": {
        "monitoring.serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}, "keySecret": "metrics"},
        "monitoring.rules.enabled": True,
        "monitoring.dashboards.enabled": True,
    },
    "large numbers and a long drain": {
        "settings.MAEVE_MAX_BODY_BYTES": 33554432,
        "settings.MAEVE_CACHE_BYTES": 8589934592,
        "settings.MAEVE_DRAIN_S": "112.5",
        "preStopSeconds": 20,
    },
    "placement": {
        "image": {"repository": "registry.example.org/maeve", "digest": "sha256:" + "0a" * 32},
        "imagePullSecrets": [{"name": "registry"}],
        "nodeSelector": {"disk": "fast"},
        "tolerations": [{"key": "vision", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "topologySpreadConstraints": [
            {"maxSkew": 1, "topologyKey": "kubernetes.io/hostname", "whenUnsatisfiable": "DoNotSchedule"}
        ],
        "podAnnotations": {"a": "b"},
        "podLabels": {"team": "vision"},
        "extraVolumes": [{"name": "engines", "persistentVolumeClaim": {"claimName": "engines"}}],
        "extraVolumeMounts": [{"name": "engines", "mountPath": "/engines"}],
        "settings.MAEVE_ENGINE_CACHE": "/engines",
        "serviceAccount.create": False,
    },
}
EXAMPLES = {path.name: path for path in sorted((CHART / "examples").glob("*.yaml"))}
ADAPTER = EXAMPLES.pop("prometheus-adapter.yaml")  # values of another chart
ALL = (*CASES, *EXAMPLES)


@cache
def rendered(case: str) -> tuple[Manifest, ...]:
    """The manifests of a case, or of a file of examples. Not to be changed."""
    if case in EXAMPLES:
        return tuple(render({}, "--values", EXAMPLES[case]))
    return tuple(render(CASES[case]))
