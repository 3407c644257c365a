"""Settings, routes, errors and metrics that the docs do not tell, or tell wrongly, fail here."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from fastapi import FastAPI
from starlette.routing import BaseRoute, Route

from bundle.store import Bundle
from runtime.fake import FakeRuntime
from service.app import create_app
from service.errors import ERRORS, HTTP_TYPES, INTERNAL
from service.settings import PREFIX, Settings, show_default
from tests.service.helpers import make_bundle, photo, serving

DOCS = Path(__file__).parents[2] / "docs"


def table(page: str, first_column: str) -> list[list[str]]:
    """The cells of the table whose header begins so, without backticks."""
    lines = (DOCS / page).read_text().splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(f"| {first_column} |"))
    rows = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip().replace("`", "") for cell in line.strip("|").split("|")])
    return rows


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("contract") / "bundle")


@pytest.fixture(scope="module")
def app(bundle: Bundle) -> FastAPI:
    return create_app(Settings(), bundle=bundle, runtime=FakeRuntime(bundle))


@pytest.fixture(scope="module")
def http(app: FastAPI) -> Iterator[httpx.Client]:
    with serving(app) as served:
        yield served.http


def paths(routes: list[BaseRoute]) -> set[tuple[str, str]]:
    """("POST", "/embed") of every route, those of included routers too."""
    found = set()
    for route in routes:
        if isinstance(route, Route):
            found |= {(method, route.path) for method in route.methods or () if method != "HEAD"}
        for nested in getattr(getattr(route, "original_router", None), "routes", ()):
            found |= paths([nested])
    return found


def test_every_setting_is_told_with_its_default_and_meaning() -> None:
    told = table("settings.md", "variable")
    real = [
        [PREFIX + name.upper(), show_default(field), (field.description or "").replace("`", "")]
        for name, field in Settings.model_fields.items()
    ]
    assert told == real


def test_every_route_has_its_section(app: FastAPI) -> None:
    told = set(re.findall(r"^## (GET|POST) (/\S*)$", (DOCS / "api.md").read_text(), re.MULTILINE))
    assert told == paths(app.routes)


def test_every_parameter_is_told_in_its_routes_section(http: httpx.Client) -> None:
    page = (DOCS / "api.md").read_text()
    for path, methods in http.get("/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            section = page.split(f"## {method.upper()} {path}\n")[1].split("\n## ")[0]
            told = set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE))
            real = {each["name"] for each in operation.get("parameters", ()) if each["in"] == "query"}
            assert told == real, path


def test_every_error_is_told() -> None:
    told = {(int(row[0]), row[1]) for row in table("errors.md", "status")}
    assert told == set(ERRORS.values()) | {INTERNAL} | set(HTTP_TYPES.items())


def test_every_metric_is_told_with_its_type_labels_and_meaning(app: FastAPI, http: httpx.Client) -> None:
    http.post("/embed", content=photo(1))
    told = {row[0]: (row[1], row[2], row[3]) for row in table("metrics.md", "name")}
    real = {}
    for family in app.state.metrics.registry.collect():
        if family.name.startswith("maeve_"):
            name = family.name + ("_total" if family.type == "counter" else "")
            labels = ", ".join(family_labels(app, family.name))
            real[name] = (family.type, labels, family.documentation)
    assert told == real


def family_labels(app: FastAPI, name: str) -> tuple[str, ...]:
    """The labels in the order of their declaration."""
    collectors = app.state.metrics.registry._collector_to_names
    labels: tuple[str, ...] = next(c._labelnames for c in collectors if getattr(c, "_name", None) == name)
    return labels


def test_openapi_names_the_forms_and_the_errors_of_each_route(http: httpx.Client) -> None:
    document = http.get("/openapi.json").json()
    statuses = {str(status) for status, _ in [*ERRORS.values(), INTERNAL]}
    for path in ("/embed", "/classify", "/reconstruct"):
        operation = document["paths"][path]["post"]
        assert operation["requestBody"]["content"].keys() == {
            "image/*", "application/octet-stream", "multipart/form-data", "application/json",
        }  # fmt: skip
        assert set(operation["responses"]) - {"200"} <= statuses
        assert {"400", "401", "413", "415", "422", "429", "500", "503", "504"} <= set(operation["responses"])
        for status, answer in operation["responses"].items():
            if status != "200":
                schema = answer["content"]["application/json"]["schema"]
                assert schema == {"$ref": "#/components/schemas/ErrorResponse"}
    assert document["paths"]["/embed"]["post"]["responses"]["200"]["content"].keys() == {
        "application/json", "application/octet-stream", "application/x-npy",
    }  # fmt: skip


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_the_pages_fetch_nothing_from_elsewhere(http: httpx.Client, path: str) -> None:
    answer = http.get(path)
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert not re.search(r"""(?:src|href)\s*=\s*["']?(?:https?:)?//|@import|url\(\s*["']?(?:https?:)?//""", answer.text)
    for target in re.findall(r"""(?:fetch|reach|ask)\(["'`]([^"'`$]+)""", answer.text):
        assert target.startswith("/")


def test_every_variable_of_compose_is_told_with_its_default() -> None:
    compose = (DOCS.parent / "docker-compose.yml").read_text()
    real = dict(re.findall(r"\$\{(\w+):-([^}]*)\}", compose))
    told: dict[str, str] = {}
    for names, defaults, _ in table("deployment.md", "variable of Compose"):
        told |= dict(zip(names.split(", "), defaults.replace(", no limit", "").split(", "), strict=True))
    assert told == real
