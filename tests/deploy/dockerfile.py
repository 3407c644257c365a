"""deploy/Dockerfile, taken apart."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
DOCKERFILE = ROOT / "deploy/Dockerfile"


class Instruction(NamedTuple):
    stage: str
    name: str
    value: str


class Stage(NamedTuple):
    name: str
    parent: str


def _instructions() -> list[Instruction]:
    """All of them, with continued lines joined; `stage` is the name of the stage that each stands in."""
    lines = [line for line in DOCKERFILE.read_text().splitlines() if not line.startswith("#")]
    found: list[Instruction] = []
    stage = ""
    for line in "\n".join(lines).replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, value = line.partition(" ")
            stage = value.split()[-1] if name == "FROM" else stage
            found.append(Instruction(stage, name, value.strip()))
    return found


INSTRUCTIONS = _instructions()
STAGES = [Stage(i.stage, i.value.split()[0]) for i in INSTRUCTIONS if i.name == "FROM"]
TARGETS = [stage.name for stage in STAGES if any(i.name == "USER" and i.stage == stage.name for i in INSTRUCTIONS)]


def lineage(stage: str) -> list[str]:
    """A stage and those that it is built upon, the first one first."""
    parents = dict(STAGES)
    found = [stage]
    while found[0] in parents:
        found.insert(0, parents[found[0]])
    return found[1:]  # the first is the base image


def values(name: str, *stages: str) -> list[str]:
    """What stands behind an instruction in some stages, or in all."""
    return [i.value for i in INSTRUCTIONS if i.name == name and (not stages or i.stage in stages)]


def environment(target: str) -> dict[str, str]:
    """What ENV sets in an image in the end."""
    words = [word for value in values("ENV", *lineage(target)) for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def labels(target: str) -> dict[str, str]:
    words = [word for value in values("LABEL", *lineage(target)) for word in shlex.split(value)]
    return dict(word.split("=", 1) for word in words)


def copied(*stages: str) -> set[str]:
    """What is taken from the build's context, in some stages or in all."""
    copies = [shlex.split(value) for value in values("COPY", *stages)]
    return {source for words in copies if not words[0].startswith("--from=") for source in words[:-1]}
