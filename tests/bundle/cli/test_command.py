"""A command's help, its version and its usage errors."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import pytest

from bundle.cli.command import Command, Group
from bundle.cli.flags import Positional, UsageError
from bundle.cli.version import maeve_version


@dataclass(frozen=True, kw_only=True)
class Flags:
    """How to compute."""

    num_threads: int = 2
    """At once."""


@dataclass(frozen=True, kw_only=True)
class Config(Flags):
    """Turn one thing into another.

    What is not set follows from the thing.
    """

    source: Annotated[Path, Positional("SOURCE")]
    """The thing."""
    out: Path
    """What it becomes."""
    scale: tuple[float, float] = (0.2, 1.0)
    """From and to, in shares of the thing's own size, which nobody knows before it was looked at closely."""
    report: bool = True
    """Write about it."""
    overwrite: bool = False
    """Replace what is there."""


COMMAND = Command(
    config=Config,
    module="things.turn",
    examples=("python -m things.turn a --out b", "python -m things.turn a --out b --scale 0.1 0.9 --num-threads 8"),
    page="docs/things.md",
    statuses={130: "stopped by Ctrl-C; nothing was written"},
)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a --out b", Config(source=Path("a"), out=Path("b"))),
        ("--out=b a", Config(source=Path("a"), out=Path("b"))),
        ("--scale 0.1 0.9 a --out b", Config(source=Path("a"), out=Path("b"), scale=(0.1, 0.9))),
        ("--overwrite a --no-report --out b", Config(source=Path("a"), out=Path("b"), overwrite=True, report=False)),
        ("a --out b --num-threads 3", Config(source=Path("a"), out=Path("b"), num_threads=3)),
        ("a --out b --scale -1 1", Config(source=Path("a"), out=Path("b"), scale=(-1.0, 1.0))),
        ("--scale -2e-1 -1E+3 a --out b", Config(source=Path("a"), out=Path("b"), scale=(-0.2, -1000.0))),
        ("a --out -1e5", Config(source=Path("a"), out=Path("-1e5"))),
    ],
)
def test_arguments_come_in_any_order(line: str, expected: Config) -> None:
    assert COMMAND.parse(line.split()) == expected


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("a --out b --num-thread 3", "there is no flag --num-thread; did you mean --num-threads?"),
        ("a --out b --num_threads=3", "there is no flag --num_threads; did you mean --num-threads?"),
        ("a --out b --no-reprot", "there is no flag --no-reprot; did you mean --no-report?"),
        ("a --out b --xyz", "there is no flag --xyz; python -m things.turn --help lists them"),
        ("a c --out b", "'c' belongs to no flag; python -m things.turn --help lists them"),
        ("a -1e-4 --out b", "'-1e-4' belongs to no flag; python -m things.turn --help lists them"),
        ("a -1e-4 --out b --xyz", "there is no flag --xyz; python -m things.turn --help lists them"),
        ("a --out b --scale 1 -inf", "--scale takes a number, got '-inf'"),
        ("a --out", "--out needs a path"),
        ("a --out b --scale 1", "--scale needs 2 values (X X)"),
        ("a --out b --overwrite=yes", "--overwrite takes no value"),
        ("a --out b --num-threads two", "--num-threads takes a whole number, got 'two'"),
    ],
)
def test_what_is_wrong_is_one_line_that_names_the_flag(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        COMMAND.parse(line.split())
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("line", "first"),
    [
        ("", "SOURCE and --out are needed to turn one thing into another"),
        ("a", "--out is needed to turn one thing into another"),
    ],
)
def test_what_is_missing_is_told_with_an_example(line: str, first: str) -> None:
    with pytest.raises(UsageError) as caught:
        COMMAND.parse(line.split())
    assert str(caught.value).splitlines() == [
        first, "such as: python -m things.turn a --out b", "all flags: python -m things.turn --help",
    ]  # fmt: skip


def test_the_version_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        COMMAND.parse(["--version"])
    assert caught.value.code == 0
    assert capsys.readouterr() == (f"maeve {maeve_version()}\n", "")


@pytest.mark.parametrize("line", ["-h", "--help", "a --help --xyz"])
def test_help_goes_to_stdout_whatever_else_is_there(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        COMMAND.parse(line.split())
    assert caught.value.code == 0
    assert capsys.readouterr() == (COMMAND.interface.help(), "")


def test_the_help_in_80_columns() -> None:
    assert (
        COMMAND.interface.help(80)
        == """\
Turn one thing into another. What is not set follows from the thing.

usage: python -m things.turn SOURCE --out PATH [flags]

examples
  python -m things.turn a --out b
  python -m things.turn a --out b --scale 0.1 0.9 --num-threads 8

needed
  SOURCE                  The thing.
  --out PATH              What it becomes.

options
  --scale X X             From and to, in shares of the thing's own size, which
                          nobody knows before it was looked at closely. Default:
                          0.2 1.
  --[no-]report           Write about it. Default: on.
  --overwrite             Replace what is there. Default: off.

how to compute
  --num-threads N         At once. Default: 2.

about
  --help                  Print this and end.
  --version               Print the version and end.

exit status
  0    done
  1    done or begun, with a bad result
  2    not done: an argument, a file or the machine does not allow it; one line
       says what to change
  130  stopped by Ctrl-C; nothing was written
  141  nobody read the output to its end, as with | head

more: docs/things.md
"""
    )


def test_a_long_example_can_be_pasted_from_a_narrow_terminal() -> None:
    text = COMMAND.interface.help(60)
    assert "  python -m things.turn a --out b --scale 0.1 0.9 \\\n     --num-threads 8\n" in text
    assert max(map(len, text.splitlines())) <= 60


@pytest.mark.parametrize(("width", "expected"), [(10, 60), (500, 100)])
def test_no_terminal_is_too_narrow_or_too_wide(width: int, expected: int) -> None:
    assert COMMAND.interface.help(width) == COMMAND.interface.help(expected)


GROUP = Group(package="things", sentence="Do things.", commands=[COMMAND], page="docs/things.md")


def test_a_package_of_commands_says_which_there_are() -> None:
    assert (
        GROUP.help(80)
        == """\
Do things.

usage: python -m things.COMMAND [flags]

commands
  turn        Turn one thing into another.

what one needs and takes: python -m things.COMMAND --help

more: docs/things.md
"""
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "one of its own is needed\ncommands\n  turn        Turn one thing into another."),
        ("--out b", "one of its own is needed\ncommands\n  turn        Turn one thing into another."),
        ("trun a --out b", "did you mean python -m things.turn?"),
    ],
)
def test_a_package_of_commands_is_none_itself(line: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        GROUP.read(line.split())
    assert str(caught.value) == f"things is no command; {message}"
