"""The shell's commands in the documentation: which of them run, and what can be said of the others without that.

A command that builds, installs, trains, serves or needs a machine of some kind is checked and not run, and so is the
whole block that it stands in. What is checked: our own commands' arguments by their own parsers, targets and variables
of make, extras of pip, files, services, profiles and stages of Docker. The rest is at least the shell's syntax.
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import yaml

from service.settings import PREFIX, Settings
from tests.docs.markdown import ROOT

OURS = ("training", "export", "service", "benchmarks", "bulk")
_ELSEWHERE = {
    "docker", "torchrun", "sbatch", "srun", "kubectl", "helm", "make", "pip", "git", "kill", "systemctl", "apt-get",
    "sudo", "ssh", "tensorboard", "redis-server", "nvidia-smi", "npm", "nohup",
}  # fmt: skip
_SIGNS = re.compile(r"[;&|()<>]+")
_ASSIGNMENT = re.compile(r"([A-Za-z_]\w*)=(.*)", re.DOTALL)
_HEREDOC = re.compile(r"<<-?\s*['\"]?(\w+)['\"]?")


@dataclass(frozen=True)
class Command:
    """words: the program and its arguments, without redirections. environment: what is set for it alone."""

    words: tuple[str, ...]
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def module(self) -> tuple[str, list[str]] | None:
        """The module of ours that it runs, and its arguments."""
        words = list(self.words)
        if words[0] == "sbatch" and len(words) > 1 and (ROOT / words[1]).is_file():
            script = re.search(r"-m ([\w.]+)", (ROOT / words[1]).read_text())
            return None if script is None else (script[1], words[2:])
        if words[0] in ("python", "python3", "torchrun") and "-m" in words[:-1]:
            at = words.index("-m")
            if words[at + 1].split(".")[0] in OURS:
                return words[at + 1], words[at + 2 :]
        return None

    @property
    def is_checked(self) -> bool:
        """Whether it is not to be run."""
        pip = self.words[:3] in (("python", "-m", "pip"), ("python", "-m", "pytest"), ("python", "-m", "venv"))
        return self.words[0] in _ELSEWHERE or pip or self.module is not None

    @property
    def serves(self) -> bool:
        """Whether it is a service that goes on until it is ended."""
        is_service = self.module is not None and self.module[0] == "service" and "--check" not in self.words
        return self.words[:2] == ("make", "serve") or is_service


def parse(code: str) -> list[Command]:
    """The commands of a piece of shell, those of a pipe one by one. ValueError for quotes that never end."""
    commands = []
    for line in _logical_lines(code):
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        tokens = iter([*lexer, ";"])
        for token in tokens:
            if not _SIGNS.fullmatch(token):
                words.append(token)
            elif token[0] in "<>":
                next(tokens)  # the file
                words = words[:-1] if words and words[-1].isdigit() else words
            elif words:
                commands.append(_command(words))
                words = []
    return [command for command in commands if command.words]


def _logical_lines(code: str) -> Iterator[str]:
    """Lines as the shell sees them: joined where a quote or a backslash goes on, here-documents left out."""
    lines = iter(code.replace("\\\n", " ").splitlines())
    for line in lines:
        whole = line
        while not _is_closed(whole):
            try:
                whole += "\n" + next(lines)
            except StopIteration:
                raise ValueError(f"a quote has no end: {line}") from None
        yield whole
        for end in _HEREDOC.findall(whole):
            while next(lines, end).strip() != end:
                pass


def _is_closed(line: str) -> bool:
    try:
        shlex.split(line, comments=True)
    except ValueError:
        return False
    return True


def _command(words: Sequence[str]) -> Command:
    environment = {}
    rest = list(words)
    while rest and (assignment := _ASSIGNMENT.fullmatch(rest[0])):
        environment[assignment[1]] = assignment[2]
        rest.pop(0)
    return Command(tuple(rest), environment)


def complaints(command: Command) -> list[str]:
    """What is wrong with a command, as far as that can be seen without running it and without our own parsers."""
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    found = [f"{name} is no setting" for name in command.environment if name.startswith(PREFIX) and name not in known]
    program, *arguments = command.words
    if program == "python" and arguments[:2] == ["-m", "pip"]:
        program, arguments = "pip", arguments[2:]
    check = {"make": _make, "pip": _pip, "docker": _docker, "sbatch": _sbatch}.get(program)
    return found + (check(arguments) if check else [])


def _make(arguments: Sequence[str]) -> list[str]:
    text = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][\w-]*):", text, re.MULTILINE))
    variables = set(re.findall(r"^([A-Z_]+) \?=", text, re.MULTILINE))
    found = []
    for argument in arguments:
        assignment = _ASSIGNMENT.fullmatch(argument)
        if assignment and assignment[1] not in variables:
            found.append(f"the Makefile has no variable {assignment[1]}")
        if not assignment and argument not in targets:
            found.append(f"the Makefile has no target {argument}")
    return found


def _pip(arguments: Sequence[str]) -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    found = []
    for option, value in pairwise(arguments):
        if option in ("-c", "--constraint", "-r") and not (ROOT / value).is_file():
            found.append(f"there is no file {value}")
    for argument in arguments:
        if extras := re.fullmatch(r"(?:\.|maeve)\[([\w,-]+)\]", argument):
            unknown = set(extras[1].split(",")) - set(project["optional-dependencies"])
            found += [f"there is no extra {extra}" for extra in sorted(unknown)]
    return found


def _docker(arguments: Sequence[str]) -> list[str]:
    return _compose(arguments[1:]) if arguments[:1] == ["compose"] else _build(arguments)


def _compose(arguments: Sequence[str]) -> list[str]:
    files: list[str] = []
    profiles: list[str] = []
    rest = list(arguments)
    while len(rest) > 1 and rest[0] in ("-f", "--file", "--profile"):
        (profiles if rest[0] == "--profile" else files).append(rest[1])
        rest = rest[2:]
    found = [f"there is no file {name}" for name in files if not (ROOT / name).is_file()]
    if found:
        return found
    services: dict[str, Any] = {}
    for name in files or ["docker-compose.yml"]:
        services |= yaml.safe_load((ROOT / name).read_text())["services"]
    known = {profile for service in services.values() for profile in service.get("profiles", ())}
    found = [f"no service has the profile {name}" for name in profiles if name not in known]
    named = [word for word in rest[1:] if not word.startswith("-")]
    named = named[:1] if rest[:1] in (["exec"], ["run"]) else named
    return found + [f"there is no service {name}" for name in named if name not in services]


def _build(arguments: Sequence[str]) -> list[str]:
    if arguments[:1] != ["build"]:
        return []
    options = dict(pairwise(arguments))
    file = options.get("-f") or options.get("--file") or "Dockerfile"
    if not (ROOT / file).is_file():
        return [f"there is no file {file}"]
    stages = re.findall(r"^FROM .* AS ([\w-]+)", (ROOT / file).read_text(), re.MULTILINE | re.IGNORECASE)
    target = options.get("--target")
    return [] if target is None or target in stages else [f"{file} has no stage {target}"]


def _sbatch(arguments: Sequence[str]) -> list[str]:
    return [] if (ROOT / arguments[0]).is_file() else [f"there is no file {arguments[0]}"]
