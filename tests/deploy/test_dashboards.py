"""The alerts and the dashboard by their structure: no Grafana is needed, and none has looked at it here.

tests/deploy/test_prometheus.py asks a Prometheus all that they ask.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.contract.test_service_docs import table
from tests.deploy.watching import (
    DASHBOARD,
    GRAFANA,
    PANELS,
    PROMETHEUS,
    RULES,
    dashboard_expressions,
    family,
    selectors,
)

COLUMNS = 24
SOURCE = {"type": "prometheus", "uid": "${datasource}"}
METRICS = {row[0]: {name for name in row[2].split(", ") if name} for row in table("metrics.md", "name")}
TYPES = {row[1] for row in table("errors.md", "status")}
ADDED = {"job", "instance"}  # by Prometheus, to every series
OF_PROCESSES = {"process", "pid"}
BY_PROMETHEUS = {"up": set[str](), "ALERTS": {"alertname", "alertstate"}}
# Of the client library, under the names that the docs describe as process_*.
OF_THE_SYSTEM = {
    "process_resident_memory_bytes", "process_cpu_seconds_total", "process_open_fds", "process_max_fds",
    "process_start_time_seconds",
}  # fmt: skip
VALUES = {
    "source": {"memory", "redis", "flight", "computed"},
    "outcome": {"hit", "miss", "error", "bypass", "switched", "unchanged", "refused"},
    "tier": {"memory", "redis"},
}


def expressions() -> Iterator[tuple[str, str]]:
    yield from ((name, rule["expr"]) for name, rule in RULES.items())
    yield from dashboard_expressions()


@pytest.mark.parametrize(("place", "expression"), list(expressions()))
def test_what_is_asked_for_is_in_the_docs(place: str, expression: str) -> None:
    asked = selectors(expression)
    assert asked
    for name, matched in asked:
        if name in OF_THE_SYSTEM:
            known = OF_PROCESSES
        else:
            known = BY_PROMETHEUS[name] if name in BY_PROMETHEUS else METRICS[family(name)]
        assert set(matched) <= known | ADDED, place
        for label, value in matched.items():
            if label in VALUES:
                assert set(value.split("|")) <= VALUES[label], place
            if label == "type":
                assert set(value.split("|")) <= TYPES, place


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {family(name) for _, expression in dashboard_expressions() for name, _ in selectors(expression)}
    told_elsewhere = {"maeve_requests_in_flight", "maeve_cache_entries", "maeve_decode_threads", "maeve_process"}
    assert set(METRICS) - shown == told_elsewhere


def test_the_alerts_have_what_whoever_is_woken_needs() -> None:
    assert len(RULES) > 12
    for rule in RULES.values():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])) <= {"instance", "route", "process"}


def test_the_docs_say_of_every_alert_what_to_do() -> None:
    told = [(row[0], row[1]) for row in table("operations.md", "alert")]
    assert told == [(name, rule["labels"]["severity"]) for name, rule in RULES.items()]


def test_the_panels_have_their_own_ids_and_places() -> None:
    """Every row of the grid is full, and no two panels lie on each other."""
    panels = DASHBOARD["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels) > 20
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {(place["x"] + i, place["y"] + j) for i in range(place["w"]) for j in range(place["h"])}
        assert cells.isdisjoint(taken), panel["title"]
        taken |= cells
    height = max(y for _, y in taken) + 1
    assert taken == {(x, y) for x in range(COLUMNS) for y in range(height)}


def test_the_dashboard_fits_any_grafana() -> None:
    """It names no data source of its own, and keeps to the schema of Grafana 11."""
    assert DASHBOARD["schemaVersion"] == 39
    assert DASHBOARD["uid"] == "maeve"
    assert "id" not in DASHBOARD  # which belongs to one Grafana
    variables = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
    assert {name: each["type"] for name, each in variables.items()} == {"datasource": "datasource", "instance": "query"}
    for each in (*PANELS, variables["instance"], *DASHBOARD["annotations"]["list"]):
        assert each["datasource"] == SOURCE
    for place, expression in dashboard_expressions():
        assert set(re.findall(r"\$(\w+)", expression)) <= {"instance", "__rate_interval"}, place


def test_every_panel_says_what_it_shows_and_in_which_unit() -> None:
    assert {panel["type"] for panel in PANELS} == {"stat", "table", "timeseries"}
    for panel in PANELS:
        assert panel["title"]
        assert panel["description"].endswith(".")
        assert len({target["refId"] for target in panel["targets"]}) == len(panel["targets"])
        if panel["type"] != "table":
            assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
            assert all(target["legendFormat"] for target in panel["targets"]), panel["title"]
        for _, matched in (found for target in panel["targets"] for found in selectors(target["expr"])):
            assert matched.get("instance") == "$instance" or "alertname" in matched, panel["title"]


def test_the_lines_are_at_the_alerts_figures() -> None:
    """A panel that shows a line names the alert that watches it, and the line is where that fires."""
    lined = {}
    for panel in PANELS:
        steps = panel["fieldConfig"]["defaults"].get("thresholds", {}).get("steps", [])[1:]
        alert = re.search(r"Alert: (\w+)\.$", panel["description"])
        if alert and not shows_states(panel):
            lined[alert[1]] = [step["value"] for step in steps]
        assert alert is None or alert[1] in RULES
    for name, values in lined.items():
        [figure] = re.findall(r" > ([\d.]+)$", RULES[name]["expr"].strip())
        assert values == [float(figure)], name
    assert set(lined) == {
        "MaeveStartsAgain", "MaeveRestarts", "MaeveSlow", "MaeveNearlyFull", "MaeveCallHangs", "MaeveFails",
        "MaeveTurnsAway",
    }  # fmt: skip


def shows_states(panel: dict[str, Any]) -> bool:
    """Whether its values are states with words of their own."""
    return bool(panel["fieldConfig"]["defaults"].get("mappings"))


def test_grafana_is_given_the_data_source_and_the_dashboard() -> None:
    [source] = read("datasources")["datasources"]
    assert (source["type"], source["url"], source["isDefault"]) == ("prometheus", "http://prometheus:9090", True)
    prometheus = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    [provider] = read("dashboards")["providers"]
    assert provider["type"] == "file"
    assert provider["options"]["path"].startswith("/")


def read(kind: str) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load((GRAFANA / "provisioning" / kind / "maeve.yml").read_text())
    assert content["apiVersion"] == 1
    return content
