"""Every command, in a process of its own: --help, --version, what is missing, what is mistyped; and docs/cli.md."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from bundle.cli.command import STATUSES, Interface
from bundle.cli.version import maeve_version
from training.__main__ import GROUP

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "cli.md").read_text()
COMMANDS = re.findall(r"^\| `([a-z.]+)` \|", PAGE.split("| command | purpose |")[1].split("\n\n")[0], re.MULTILINE)
Answer = tuple[int, str, str]
PACKAGES = ("mae", "bundle", "runtime", "sources", "training", "export", "bulk", "service")


def interface_of(command: str) -> Interface:
    if command == "service":
        return importlib.import_module("service.settings").interface()  # type: ignore[no-any-return]
    name = f"{command}.__main__" if (ROOT / command.replace(".", "/")).is_dir() else command
    return importlib.import_module(name).COMMAND.interface  # type: ignore[no-any-return]


def mistyped(command: str) -> tuple[str, str]:
    """The last of its flags, and what somebody wrote instead."""
    *_, flag = [flag.spelling for flag in interface_of(command).flags if not flag.is_positional] or ["--help"]
    return flag, f"{flag[:-1]}x{flag[-1]}"


@dataclass(frozen=True)
class Asked:
    """What a command answered: exit status, stdout, stderr. `imported`: the modules that all of it took."""

    help: Answer
    version: Answer
    mistyped: Answer
    nothing: Answer | None  # without arguments; None where it would begin to work
    imported: set[str]


@cache
def asked(command: str) -> Asked:
    """See asked.py."""
    questions = [["--help"], ["--version"], [mistyped(command)[1], "1"]]
    if needs_arguments(command):
        questions.append([])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MAEVE_")}
    done = subprocess.run(
        [sys.executable, "-X", "importtime", str(Path(__file__).with_name("asked.py")), command],
        input=json.dumps(questions), capture_output=True, text=True, check=False, cwd=ROOT,
        env=environment | {"COLUMNS": "80"}, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    answers: list[Answer] = [(status, out, err) for status, out, err in json.loads(done.stdout)]
    help_, version, wrong, *nothing = answers
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    return Asked(help_, version, wrong, nothing[0] if nothing else None, imported)


def needs_arguments(command: str) -> bool:
    return any(flag.required for flag in interface_of(command).flags)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_comes_without_torch(command: str) -> None:
    status, out, err = asked(command).help
    assert (status, err) == (0, "")
    assert "bundle.cli.command" in asked(command).imported
    assert asked(command).imported.isdisjoint({"torch", "onnxruntime", "tensorrt", "sklearn", "fastapi"})
    assert out == interface_of(command).help(80)
    for part in (f"\nusage: python -m {command} ", "\nexamples\n", "Default:", "\nexit status\n", "\nmore: docs/"):
        assert part in out or (part == "Default:" and command == "training.report")  # which has no options
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("command", COMMANDS)
def test_the_version(command: str) -> None:
    assert asked(command).version == (0, f"maeve {maeve_version()}\n", "")


@pytest.mark.parametrize("command", [command for command in COMMANDS if needs_arguments(command)])
def test_without_arguments_it_says_what_it_needs(command: str) -> None:
    answer = asked(command).nothing
    assert answer is not None
    status, out, err = answer
    assert (status, out) == (2, "")
    what, example, pointer = err.splitlines()
    assert re.match(r"error: .* (is|are) needed to ", what)
    assert example.startswith("such as: ")
    assert pointer == f"all flags: python -m {command} --help"


@pytest.mark.parametrize("command", COMMANDS)
def test_a_mistyped_flag_is_told_with_the_one_that_was_meant(command: str) -> None:
    flag, written = mistyped(command)
    assert asked(command).mistyped == (2, "", f"error: there is no flag {written}; did you mean {flag}?\n")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_says_what_it_means_and_what_holds_without_it(command: str) -> None:
    for flag in interface_of(command).flags:
        assert flag.help.endswith("."), flag.spelling
        assert flag.required or flag.default is not None or "Default:" in flag.help or flag.spelling == "--check"


@pytest.mark.parametrize("command", COMMANDS)
def test_its_examples_are_ones_that_it_takes(command: str) -> None:
    interface = interface_of(command)
    assert 1 <= len(interface.examples) <= 4
    for example in interface.examples:
        before, _, arguments = example.partition(f" -m {command}")
        assert before.split()[0] in ("python", "torchrun")
        interface.read(shlex.split(arguments.partition(" > ")[0]))


@pytest.mark.parametrize("command", COMMANDS)
def test_it_names_a_page_that_tells_more(command: str) -> None:
    page = interface_of(command).page
    assert f"python -m {command}" in (ROOT / page).read_text()
    assert f"({page.removeprefix('docs/')})" in PAGE


def test_the_page_knows_every_module_that_can_be_run() -> None:
    files = [file for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    runnable = [file for file in files if '\nif __name__ == "__main__":\n' in file.read_text()]
    names = {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__") for file in runnable}
    processes = set(re.findall(r"`([a-z_.]+)`", PAGE.split("The modules ")[1].split(" are processes")[0]))
    assert names == set(COMMANDS) | processes | {GROUP.package}


def test_a_package_of_commands_lists_them() -> None:
    assert [each.module for each in GROUP.commands] == [name for name in COMMANDS if name.startswith("training.")]
    line = [sys.executable, "-m", GROUP.package]
    help_, none = (
        subprocess.run([*line, *more], capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
        for more in (["--help"], [])
    )
    assert (help_.returncode, help_.stdout, help_.stderr) == (0, GROUP.help(80), "")
    assert (none.returncode, none.stdout) == (2, "")
    assert none.stderr.startswith("error: training is no command; one of its own is needed\ncommands\n  pack        ")
    assert f"`python -m {GROUP.package}` is no command" in PAGE


def test_the_page_s_lines_are_ones_that_the_commands_take() -> None:
    lines = [line for line in PAGE.splitlines() if line.startswith("python -m ")]
    assert len(lines) >= 12
    for line in lines:
        _, _, command, *arguments = shlex.split(line.partition(" > ")[0])
        interface_of(command).read(arguments)


def test_the_page_s_statuses_are_those_that_help_tells() -> None:
    table = PAGE.split("| status | meaning |")[1].split("\n\n")[0]
    told = set(STATUSES).union(*(interface_of(command).statuses for command in COMMANDS))
    assert {int(status) for status in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)} == told
    ends_by_sigterm = re.findall(r"`([a-z]+\.[a-z]+)`", next(r for r in table.splitlines() if r.startswith("| 143")))
    assert ends_by_sigterm == [command for command in COMMANDS if 143 in interface_of(command).statuses]
