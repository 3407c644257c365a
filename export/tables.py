"""Tables of at least 100 columns; bundle.cli.paper prints them."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.table import Table
from rich.text import Text

Cell = str | Text


def new_table(title: str, *columns: str) -> Table:
    """The first column and those whose name begins with ">", numbers set to the right, are never broken into lines."""
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        name, number = column.removeprefix(">"), column.startswith(">")
        no_wrap = number or index == 0
        table.add_column(name, justify="right" if number else "left", no_wrap=no_wrap, overflow="fold")
    return table


def fields_table(fields: Mapping[str, Cell]) -> Table:
    """A name and a value per line."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in fields.items():
        table.add_row(name, value)
    return table
