"""API keys. Settings hold their SHA-256 alone; `python -m service.keys NAME` makes a key and its entry.

A plain hash is enough: a key is 32 random bytes, which nobody guesses at any speed.
"""

from __future__ import annotations

import hmac
import math
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import Annotated

from bundle.cli.command import Command
from bundle.cli.ending import NOT_DONE, run
from bundle.cli.flags import Positional, UsageError

SHORT_FORM = "default"  # the name of the one key of MAEVE_API_KEY

_PREFIX = "maeve_"  # scanners for leaked secrets find a key by it
_NUM_BYTES = 32
_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_HASH = re.compile(r"[0-9a-fA-F]{64}")


@dataclass(frozen=True)
class Key:
    """`name`: for logs. `digest`: SHA-256 of the key. `rate`: requests per second, None for the setting's."""

    name: str
    digest: bytes
    rate: float | None = None


class Keyring:
    """The keys that open the service."""

    def __init__(self, keys: Iterable[Key]) -> None:
        self.keys = tuple(keys)

    def find(self, sent: bytes) -> Key | None:
        """The key that was sent. Takes as long for each of them as for none."""
        digest = sha256(sent).digest()
        found = None
        for key in self.keys:
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def hashed(name: str, key: str) -> Key:
    return Key(name, sha256(key.encode()).digest())


def parse_keys(text: str) -> tuple[Key, ...]:
    """The entries of MAEVE_API_KEYS: name:sha256 or name:sha256:rate, separated by commas.

    ValueError that says which entry is wrong, and never repeats more of it than its name.
    """
    keys = tuple(_parse_entry(entry.strip(), number) for number, entry in enumerate(text.split(","), 1))
    names = [key.name for key in keys]
    for i, name in enumerate(names):
        if name in names[:i]:
            raise ValueError(f"two keys are called {name}")
    return keys


def _parse_entry(entry: str, number: int) -> Key:
    name, *rest = entry.split(":")
    if not _NAME.fullmatch(name):
        raise ValueError(f"entry {number} has no name of up to 64 letters, digits, dots, dashes or underscores")
    if len(rest) not in (1, 2):
        raise ValueError(f"the entry of {name} must be {name}:sha256 or {name}:sha256:rate")
    if not _HASH.fullmatch(rest[0]):
        raise ValueError(f"the hash of {name} must be 64 hexadecimal digits; python -m service.keys {name} makes a key")
    return Key(name, bytes.fromhex(rest[0]), _parse_rate(rest[1], name) if len(rest) == 2 else None)


def _parse_rate(text: str, name: str) -> float:
    try:
        rate = float(text)
    except ValueError:
        rate = math.nan
    if not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"the rate of {name} must be a positive number of requests per second")
    return rate


@dataclass(frozen=True, kw_only=True)
class KeyConfig:
    """Make an API key, and print it beside the entry by which the service knows it."""

    name: Annotated[str, Positional("NAME")]
    """Whose key it is, for the logs: up to 64 letters, digits, dots, dashes or underscores."""
    rate: str | None = None
    """Requests per second. Default: MAEVE_RATE_LIMIT."""


COMMAND = Command(
    config=KeyConfig,
    module="service.keys",
    examples=("python -m service.keys ada", "python -m service.keys nightly-job --rate 20"),
    page="docs/security.md",
)


def main() -> None:
    run(_make, statuses={OSError: NOT_DONE})


def _make() -> None:
    config = COMMAND.parse()
    key = _PREFIX + secrets.token_urlsafe(_NUM_BYTES)
    rate = "" if config.rate is None else f":{config.rate}"
    entry = f"{config.name}:{hashed(config.name, key).digest.hex()}{rate}"
    try:
        parse_keys(entry)
    except ValueError as e:
        raise UsageError(str(e)) from e
    print(f"key, shown this once:      {key}\nentry for MAEVE_API_KEYS:  {entry}")


if __name__ == "__main__":
    main()
