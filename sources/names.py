"""Paths in memory by the million."""

from __future__ import annotations

import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator


class Names:
    """Paths in their order, packed: some 30 bytes each, where a str takes 80. Bytes that are no text survive."""

    def __init__(self, paths: Iterable[str] = ()) -> None:
        self._text, self._ends = bytearray(), array("q", [0])
        for path in paths:
            self.append(path)

    def append(self, path: str) -> None:
        self._text += os.fsencode(path)
        self._ends.append(len(self._text))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, i: int) -> str:
        if not 0 <= i < len(self):
            raise IndexError(i)
        return os.fsdecode(bytes(self._text[self._ends[i] : self._ends[i + 1]]))

    def __iter__(self) -> Iterator[str]:
        return (self[i] for i in range(len(self)))

    def holds(self, text: str) -> bool:
        """Whether one of them has such a part."""
        return os.fsencode(text) in self._text

    def digest(self) -> str:
        """Differs where a name or the order does."""
        return hashlib.sha256(self._ends.tobytes() + self._text).hexdigest()
