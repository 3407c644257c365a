"""Tables on stdout, for the commands that have rich."""

from __future__ import annotations

import shutil
import sys

from rich.console import Console

_WIDTH = 100


class _Paper(Console):
    def on_broken_pipe(self) -> None:
        """Rich would end the process; bundle.cli.ending knows how."""
        raise BrokenPipeError


def paper() -> Console:
    """stdout, without colours where it goes into a pipe or a file.

    Rich would cut tables that a narrow terminal or a pipe's 80 columns do not fit, and a figure that is cut is worth
    less than a line that wraps; brackets it would take for its own markup.
    """
    width = max(_WIDTH, shutil.get_terminal_size().columns) if sys.stdout.isatty() else _WIDTH
    return _Paper(width=width, highlight=False, markup=False, emoji=False)
