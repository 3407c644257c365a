"""From a dataclass to flags and back."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest

from bundle.cli.flags import Flag, Positional, UsageError, build, closest, flags_of, read


@dataclass(frozen=True, kw_only=True)
class Shared:
    """What several commands share."""

    seed: int = 0
    """Of everything random."""


@dataclass(frozen=True, kw_only=True)
class Nested:
    """What goes with a dot."""

    size: int | None = None
    """In pixels. Default: all."""

    def __post_init__(self) -> None:
        if self.size == 0:
            raise ValueError("--nested.size must not be 0")


@dataclass(frozen=True, kw_only=True)
class Config(Shared):
    """Do a thing."""

    source: Annotated[Path, Positional("SOURCE")]
    """Where from."""
    data: str | Path
    """What with, of which
    there is much."""
    loss: Literal["mse", "l1"] = "mse"
    """Which one."""
    rate: float | None = None
    """How fast. Default: as it comes."""
    scale: tuple[float, float] = (0.2, 1.0)
    """From and to."""
    seeds: tuple[int, ...] | None = None
    """Some. Default: none."""
    stages: tuple[tuple[float, int], ...] | None = None
    """Pairs. Default: none."""
    report: bool = True
    """Whether to tell."""
    nested: Nested = field(default_factory=Nested)


FLAGS = {flag.name: flag for flag in flags_of(Config)}


def test_every_field_is_a_flag_its_own_first() -> None:
    assert list(FLAGS) == [
        "source", "data", "loss", "rate", "scale", "seeds", "stages", "report", "nested.size", "seed",
    ]  # fmt: skip
    spellings = [flag.spelling for flag in FLAGS.values()]
    assert spellings[:3] == ["SOURCE", "--data", "--loss"]
    assert spellings[-2:] == ["--nested.size", "--seed"]
    assert [flag.name for flag in FLAGS.values() if flag.required] == ["source", "data"]
    assert (FLAGS["seed"].group, FLAGS["nested.size"].group) == ("what several commands share", "what goes with a dot")


@pytest.mark.parametrize(
    ("name", "metavar", "default"),
    [
        ("source", "PATH", None),
        ("data", "PATH", None),
        ("loss", "mse|l1", "mse"),
        ("rate", "X", None),
        ("scale", "X X", "0.2 1"),
        ("seeds", "N ...", None),
        ("stages", "X N ...", None),
        ("seed", "N", "0"),
    ],
)
def test_what_stands_for_a_value_and_what_holds_without_it(name: str, metavar: str, default: str | None) -> None:
    assert (FLAGS[name].metavar, FLAGS[name].default) == (metavar, default)


def test_the_string_below_a_field_is_its_help() -> None:
    assert FLAGS["data"].help == "What with, of which there is much."
    assert FLAGS["nested.size"].help == "In pixels. Default: all."


@pytest.mark.parametrize(
    ("name", "texts", "value"),
    [
        ("source", ["a/b"], Path("a/b")),
        ("data", ["s3://bucket//a"], "s3://bucket//a"),  # a Path would lose a slash
        ("loss", ["l1"], "l1"),
        ("rate", ["1e-3"], 0.001),
        ("scale", ["0.5", "1"], (0.5, 1.0)),
        ("seeds", ["3", "1"], (3, 1)),
        ("stages", ["0.5", "128", "0.8", "176"], ((0.5, 128), (0.8, 176))),
    ],
)
def test_values_are_read_by_their_types(name: str, texts: list[str], value: Any) -> None:
    found = read(FLAGS[name], texts)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        ("loss", ["mss"], "--loss must be mse or l1, got 'mss'; did you mean mse?"),
        ("loss", ["x"], "--loss must be mse or l1, got 'x'"),
        ("rate", ["fast"], "--rate takes a number, got 'fast'"),
        ("rate", ["nan"], "--rate takes a number, got 'nan'"),
        ("scale", ["0.5", "inf"], "--scale takes a number, got 'inf'"),
        ("source", [""], "SOURCE takes a path, got ''"),
        ("data", [""], "--data takes a path or a URL, got ''"),
        ("seed", ["1.5"], "--seed takes a whole number, got '1.5'"),
        ("scale", ["0.5", "b"], "--scale takes a number, got 'b'"),
        ("stages", ["0.5", "128", "0.8"], "--stages takes one or more values (X N ...), got 0.5 128 0.8"),
    ],
)
def test_what_a_flag_does_not_take_is_said_with_what_it_does(name: str, texts: list[str], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        read(FLAGS[name], texts)
    assert str(caught.value) == message


def test_a_configuration_is_built_of_what_was_given() -> None:
    config = build(Config, {"source": ["a"], "data": ["b"], "nested.size": ["7"], "report": False})
    assert config == Config(source=Path("a"), data="b", nested=Nested(size=7), report=False)


def test_what_the_configuration_refuses_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match=r"^--nested\.size must not be 0$"):
        build(Config, {"source": ["a"], "data": ["b"], "nested.size": ["0"]})


def test_long_lists_of_names_stand_in_the_help() -> None:
    names = Literal["first-of-several", "second-of-several"]
    flag = Flag(name="a", spelling="--a", takes=names, help="", default=None)
    assert (flag.metavar, flag.choices) == ("NAME", ("first-of-several", "second-of-several"))


@pytest.mark.parametrize(("text", "meant"), [("epoch", "epochs"), ("batchsize", "batch-size"), ("zzz", None)])
def test_the_closest_name(text: str, meant: str | None) -> None:
    assert closest(text, ["data", "epochs", "batch-size"]) == meant
