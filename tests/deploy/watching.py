"""The alerts and the dashboard as files say them, and what they ask of Prometheus."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "deploy" / "prometheus"
GRAFANA = ROOT / "deploy" / "grafana"
[_GROUP] = yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
RULES: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in _GROUP["rules"]}
DASHBOARD: dict[str, Any] = json.loads((GRAFANA / "dashboards" / "maeve.json").read_text())
PANELS: list[dict[str, Any]] = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
_METRIC = re.compile(r"\b((?:maeve|process)_\w+|up|ALERTS)\b(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"([^"]*)"')


def dashboard_expressions() -> Iterator[tuple[str, str]]:
    """(where it stands, what is asked), with Grafana's variables."""
    for panel in PANELS:
        for target in panel["targets"]:
            yield f"{panel['title']} {target['refId']}", target["expr"]
    for annotation in DASHBOARD["annotations"]["list"]:
        yield annotation["name"], annotation["expr"]


def selectors(expression: str) -> list[tuple[str, dict[str, str]]]:
    """The metrics that an expression asks for, each with the labels that it is matched by."""
    # names in by (...) are labels
    plain = re.sub(r"\b(?:by|on|without)\s*\([^)]*\)", "", expression)
    return [(name, dict(_MATCHER.findall(matchers))) for name, matchers in _METRIC.findall(plain)]


def family(name: str) -> str:
    """The metric that the docs name, of one of its series."""
    return re.sub("_(?:bucket|sum|count)$", "", name)
