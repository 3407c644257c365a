"""The commands and the values of docs/kubernetes.md, as far as they go without a cluster."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from tests.deploy.chart import CHART, ROOT, check, render
from tests.docs.commands import Command, parse
from tests.docs.markdown import Block, read_blocks

PAGE = "docs/kubernetes.md"
FILE = "maeve.yaml"
BLOCKS = read_blocks(PAGE)
VALUES = [block for block in BLOCKS if block.language == "yaml"]
COMMANDS = [command for block in BLOCKS if block.language == "bash" for command in parse(block.code)]
OF_CHART = [command for command in COMMANDS if command.words[0] == "helm" and "deploy/chart" in command.words]
_WITH_VALUE, _ALONE = ("--values", "--set", "--namespace"), ("--wait", "--create-namespace", "--install")


def _rendering(command: Command, values: Path) -> list[str]:
    """What `helm template` takes of an install or an upgrade."""
    _, verb, *words = command.words
    assert verb in ("install", "upgrade")
    given, rest = [], iter(words)
    for word in rest:
        if word in _WITH_VALUE:
            value = next(rest)
            given += [word, str(values) if value == FILE else value]
        else:
            assert word in (*_ALONE, "maeve", "deploy/chart")
    return given


def test_all_values_are_pieces_of_the_file_that_the_commands_name() -> None:
    assert all(block.code.startswith(f"# {FILE}\n") for block in VALUES)
    assert any(FILE in command.words for command in OF_CHART)


@pytest.mark.parametrize("block", VALUES, ids=lambda block: block.place)
def test_the_values_of_the_page_render(block: Block, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(block.code)
    for manifest in render({}, "--values", file):
        check(manifest)


@pytest.mark.parametrize("command", OF_CHART, ids=lambda command: " ".join(command.words))
def test_the_commands_of_the_page_render(command: Command, tmp_path: Path) -> None:
    file = tmp_path / FILE
    file.write_text(VALUES[0].code)
    for manifest in render({}, *_rendering(command, file)):
        check(manifest)


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"\bdeploy/[\w./-]+\w", (ROOT / PAGE).read_text()))
    assert {"deploy/chart", "deploy/ray/job.yaml", "deploy/ray/rayjob.yaml"} <= named
    assert [name for name in sorted(named) if not (ROOT / name).exists()] == []


def test_every_value_that_the_page_names_is_there() -> None:
    """Such as `networkPolicy.from` in the text."""
    known = yaml.safe_load((CHART / "values.yaml").read_text())
    named = set(re.findall(r"`([a-z]\w+(?:\.[a-zA-Z]\w+)+)`", (ROOT / PAGE).read_text()))
    named = {name for name in named if name.split(".")[0] in known}
    assert {"networkPolicy.from", "bundle.fetch.source", "apiKeys.entries"} <= named
    for name in named:
        value = known
        for key in name.split("."):
            assert key in value, name
            value = value[key]
