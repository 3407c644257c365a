"""The command line of a training command, as its configuration."""

from __future__ import annotations

from typing import TypeVar

import tyro

Config = TypeVar("Config")


def parse(config: type[Config], module: str) -> Config:
    """Read the arguments that this process was started with. Raises ValueError for values that `config` refuses.

    tyro would draw a box of many lines around that error; so it reads into a class that checks nothing, and the
    configuration is made from what it read.
    """
    unchecked = type(config.__name__, (config,), {"__doc__": config.__doc__, "__post_init__": lambda _self: None})
    return config(**vars(tyro.cli(unchecked, prog=f"python -m {module}")))
