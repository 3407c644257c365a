"""One command: its arguments, its help, its usage errors. argparse takes the line apart; the words are ours.

What a command prints about itself goes to stdout and ends with status 0, what is wrong with its arguments raises
UsageError, for bundle.cli.ending.
"""

from __future__ import annotations

import argparse
import inspect
import shutil
import sys
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NoReturn, TypeVar

from bundle.cli.flags import Flag, UsageError, build, closest, flags_of
from bundle.cli.version import maeve_version

Config = TypeVar("Config")
Texts = dict[str, Sequence[str] | bool]  # by a flag's name

STATUSES: Mapping[int, str] = {
    0: "done",
    1: "done or begun, with a bad result",
    2: "not done: an argument, a file or the machine does not allow it; one line says what to change",
    130: "stopped by Ctrl-C",
    141: "nobody read the output to its end, as with | head",
}
_NARROWEST, _WIDEST, _INDENT = 60, 100, 26
_ABOUT = "about"
_HIDDEN = "\0"  # before a negative number, which argparse would take for a flag; no argument has one
_HELP = Flag(name="help", spelling="--help", takes=bool, help="Print this and end.", default=None, group=_ABOUT)
_VERSION = Flag(
    name="version", spelling="--version", takes=bool, help="Print the version and end.", default=None, group=_ABOUT
)


@dataclass(frozen=True, kw_only=True)
class Interface:
    """A command as it is seen from outside. module: as in python -m MODULE; sentence: what it does, with a full stop,
    and about: what there is to add; examples: whole lines; statuses: what they mean here, where there is more to say;
    page: where the documentation goes on.
    """

    module: str
    sentence: str
    about: str = ""
    flags: Sequence[Flag]
    examples: Sequence[str]
    page: str
    statuses: Mapping[int, str] = field(default_factory=dict)

    @property
    def prog(self) -> str:
        return f"python -m {self.module}"

    def read(self, argv: Sequence[str] | None = None) -> Texts:
        """The texts of every argument that was given. Prints and raises SystemExit for --help and --version, raises
        UsageError for an argument that is missing, unknown, or lacks its value.
        """
        argv = sys.argv[1:] if argv is None else argv
        found, unknown = self._take_apart(argv)
        if "help" in found:
            _print(self.help())
        if "version" in found:
            _print(f"maeve {maeve_version()}\n")
        if unknown:
            raise UsageError(self._unknown(unknown))
        missing = [flag for flag in self.flags if flag.required and flag.name not in found]
        if missing:
            raise UsageError(self._missing(missing))
        return found

    def help(self, width: int | None = None) -> str:
        """What --help prints, in `width` columns; by default those of the terminal, within reason."""
        width = _width(width)
        needed = [flag for flag in self.flags if flag.required]
        optional = [flag for flag in self.flags if not flag.required] + [_HELP, _VERSION]
        said = f"{self.sentence} {self.about}".rstrip()
        parts = [_fill(said, width), self._usage(needed, width), _examples(self.examples, width)]
        if needed:
            parts.append(_section("needed", needed, width))
        groups = dict.fromkeys(flag.group for flag in optional)
        parts += [_section(g or "options", [flag for flag in optional if flag.group == g], width) for g in groups]
        rows = [(str(status), said) for status, said in sorted({**STATUSES, **self.statuses}.items())]
        parts.append("exit status\n" + "\n".join(_row(*row, indent=7, width=width) for row in rows))
        parts.append(f"more: {self.page}")
        return "\n\n".join(parts) + "\n"

    def _usage(self, needed: Sequence[Flag], width: int) -> str:
        words = [f.spelling if f.is_positional else f"{f.spelling} {f.metavar}" for f in needed]
        return _fill(f"usage: {self.prog} {' '.join(words)} [flags]".replace("  ", " "), width, "       ")

    def _take_apart(self, argv: Sequence[str]) -> tuple[Texts, list[str]]:
        parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
        for flag in (*self.flags, _HELP, _VERSION):
            _add(parser, flag)
        try:
            found, unknown = parser.parse_known_args([_HIDDEN * _is_negative(text) + text for text in argv])
        except argparse.ArgumentError as e:
            raise UsageError(self._ill_used(e)) from e
        given = vars(found)
        texts: Texts = {name: each if isinstance(each, bool) else _unhidden(each) for name, each in given.items()}
        return texts, _unhidden(unknown)

    def _ill_used(self, error: argparse.ArgumentError) -> str:
        flag = next((f for f in self.flags if f.spelling == error.argument_name), None)
        if flag is None or flag.is_switch:
            return f"{(error.argument_name or '').partition('/')[0]} takes no value"
        return f"{flag.spelling} needs {flag.wants}"

    def _unknown(self, unknown: Sequence[str]) -> str:
        flags = [text.partition("=")[0] for text in unknown if text.startswith("-") and not _is_negative(text)]
        if not flags:
            return f"{unknown[0]!r} belongs to no flag; {self.prog} --help lists them"
        text = flags[0]
        known = [flag.spelling for flag in (*self.flags, _HELP, _VERSION) if not flag.is_positional]
        known += [f"--no-{flag.spelling[2:]}" for flag in self.flags if flag.is_switch]
        meant = closest(text.strip("-").replace("_", "-"), [spelling[2:] for spelling in known])
        hint = f"{self.prog} --help lists them" if meant is None else f"did you mean --{meant}?"
        return f"there is no flag {text}; {hint}"

    def _missing(self, missing: Sequence[Flag]) -> str:
        names = [flag.spelling for flag in missing]
        listed = names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
        sentence = self.sentence[0].lower() + self.sentence[1:].rstrip(".")
        return (
            f"{listed} {'is' if len(names) == 1 else 'are'} needed to {sentence}\n"
            f"such as: {self.examples[0]}\nall flags: {self.prog} --help"
        )


@dataclass(frozen=True, kw_only=True)
class Command(Generic[Config]):
    """A command whose arguments are the fields of a dataclass. The first paragraph of its docstring is the command's
    sentence, the rest follows it in --help.
    """

    config: type[Config]
    module: str
    examples: Sequence[str]
    page: str
    statuses: Mapping[int, str] = field(default_factory=dict)

    @property
    def interface(self) -> Interface:
        sentence, *about = (inspect.getdoc(self.config) or "").split("\n\n")
        return Interface(
            module=self.module, sentence=_joined(sentence), about=_joined(" ".join(about)),
            flags=flags_of(self.config), examples=self.examples, page=self.page, statuses=self.statuses,
        )  # fmt: skip

    def parse(self, argv: Sequence[str] | None = None) -> Config:
        """The configuration that `argv`, by default this process's arguments, asks for. Raises as Interface.read, and
        UsageError for values that it does not take.
        """
        return build(self.config, self.interface.read(argv))


@dataclass(frozen=True, kw_only=True)
class Group:
    """A package that is no command itself and has some: `python -m PACKAGE` tells which."""

    package: str
    sentence: str
    commands: Sequence[Command[Any]]
    page: str

    def read(self, argv: Sequence[str] | None = None) -> NoReturn:
        """Prints and raises SystemExit for --help and --version; UsageError for all else."""
        argv = sys.argv[1:] if argv is None else argv
        if not {"-h", "--help"}.isdisjoint(argv):
            _print(self.help())
        if "--version" in argv:
            _print(f"maeve {maeve_version()}\n")
        meant = next((name for text in argv if (name := closest(text, [*self._sentences]))), None)
        if meant is not None:
            raise UsageError(f"{self.package} is no command; did you mean python -m {self.package}.{meant}?")
        raise UsageError(f"{self.package} is no command; one of its own is needed\n{self._list(_width())}")

    def help(self, width: int | None = None) -> str:
        """As Interface.help."""
        width = _width(width)
        usage = f"usage: python -m {self.package}.COMMAND [flags]"
        each = f"what one needs and takes: python -m {self.package}.COMMAND --help"
        parts = (_fill(self.sentence, width), usage, self._list(width), each, f"more: {self.page}")
        return "\n\n".join(parts) + "\n"

    @property
    def _sentences(self) -> dict[str, str]:
        """By the commands' names without the package."""
        return {each.module.removeprefix(f"{self.package}."): each.interface.sentence for each in self.commands}

    def _list(self, width: int) -> str:
        return "commands\n" + "\n".join(_row(*row, indent=14, width=width) for row in self._sentences.items())


def _width(width: int | None = None) -> int:
    """Of a help text: that of the terminal by default, within reason."""
    return min(max(width or shutil.get_terminal_size().columns, _NARROWEST), _WIDEST)


def _add(parser: argparse.ArgumentParser, flag: Flag) -> None:
    """Nothing is required and nothing converted here: argparse would word the errors."""
    options: dict[str, Any] = {"default": argparse.SUPPRESS}
    if flag.is_positional:
        parser.add_argument(flag.name, metavar=flag.spelling, nargs=flag.num_texts, **options).required = False
    elif flag in (_HELP, _VERSION):
        short = ["-h"] if flag is _HELP else []
        parser.add_argument(*short, flag.spelling, dest=flag.name, action="store_true", **options)
    elif flag.is_switch:
        parser.add_argument(flag.spelling, dest=flag.name, action=argparse.BooleanOptionalAction, **options)
    else:
        parser.add_argument(flag.spelling, dest=flag.name, nargs=flag.num_texts, **options)


def _is_negative(text: str) -> bool:
    """Whether it is a number with a minus: -1e-4, -.5, -inf."""
    try:
        float(text)
    except ValueError:
        return False
    return text.startswith("-")


def _unhidden(texts: Sequence[str]) -> list[str]:
    return [text.removeprefix(_HIDDEN) for text in texts]


def _print(text: str) -> NoReturn:
    sys.stdout.write(text)
    sys.exit(0)


def _section(title: str, flags: Sequence[Flag], width: int) -> str:
    rows = (_row(_left(flag), _right(flag), indent=_INDENT, width=width) for flag in flags)
    return f"{_fill(title, width)}\n" + "\n".join(rows)


def _left(flag: Flag) -> str:
    if flag.is_positional:
        return flag.spelling
    if flag.is_switch:
        return f"--[no-]{flag.spelling[2:]}" if flag.default == "on" else flag.spelling
    return f"{flag.spelling} {flag.metavar}"


def _right(flag: Flag) -> str:
    said = flag.help
    if any(choice not in said for choice in flag.choices) and flag.metavar == "NAME":
        said += f" One of {', '.join(flag.choices)}."
    return f"{said} Default: {flag.default}." if flag.default is not None else said


def _row(left: str, right: str, *, indent: int, width: int) -> str:
    """Two columns; a left side that is too long has a line for itself."""
    filled = _fill(right, width - indent, "").split("\n")
    head = f"  {left}"
    lines = [head] if len(head) > indent - 2 else [f"{head:{indent}}{filled.pop(0)}"]
    return "\n".join([*lines, *(" " * indent + line for line in filled)])


def _examples(lines: Sequence[str], width: int) -> str:
    """A line that is too long goes on after a backslash, as a shell has it."""
    rows = []
    for line in lines:
        first, *flags = line.replace(" --", "\n--").split("\n")
        row = f"  {first}"
        for flag in flags:
            if len(row) + len(flag) + 3 > width:
                rows.append(f"{row} \\")
                row = f"     {flag}"
            else:
                row += f" {flag}"
        rows.append(row)
    return "examples\n" + "\n".join(rows)


def _joined(text: str) -> str:
    return " ".join(text.split())


def _fill(text: str, width: int, indent: str = "") -> str:
    return textwrap.fill(text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
