"""python -m bulk.index DST: what bulk.embed wrote, as an index that the service searches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from bulk.errors import run_command
from bulk.pieces import named_columns
from bundle.cli.command import Command
from bundle.cli.flags import Positional

STOPPED = "stopped; what is in the index stays, and the same command goes on"


@dataclass(frozen=True, kw_only=True)
class IndexConfig:
    """Index the vectors that bulk.embed wrote, for the service's /search.

    The same command again adds the parts that are new, and takes anew those that were made again. The service may have
    the index open meanwhile.
    """

    source: Annotated[str | Path, Positional("DST")]
    """What bulk.embed wrote to, by path or URL (s3://, gs://)."""
    out: str | Path | None = None
    """The index: a folder by path or URL. Default: DST/_index."""
    columns: str | None = None
    """Columns to filter by, separated by commas; `none` for none. Default: all, or those the index has."""
    rebuild: bool = False
    """Make the index anew; the old one serves until the new one is whole."""

    def __post_init__(self) -> None:
        named_columns(self.columns)

    @property
    def wanted_columns(self) -> tuple[str, ...] | None:
        """None where no flag says."""
        return named_columns(self.columns)


COMMAND = Command(
    config=IndexConfig,
    module="bulk.index",
    examples=(
        "python -m bulk.index embedded",
        "python -m bulk.index s3://shop/embedded --out /srv/shop-index --columns category,price",
        "python -m bulk.index embedded --rebuild",
    ),
    page="docs/search.md",
    statuses={130: f"{STOPPED} (Ctrl-C)"},
)


def main() -> None:
    config = COMMAND.parse()
    from bulk.indexing import index  # Arrow and LanceDB, when there is something to do

    print(index(config))


if __name__ == "__main__":
    run_command(main, stopped=STOPPED)
