"""Names for bytes: the sha256 of a file, and the digest of a whole manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_NOT_DIGESTED = frozenset({"digest", "created_at"})


def canonical_json(obj: Any) -> bytes:
    """The one spelling of a JSON value: keys sorted, no blanks, UTF-8. ValueError for NaN and infinities."""
    return json.dumps(obj, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def file_sha256(path: Path) -> str:
    """64 hexadecimal digits. OSError if the file cannot be read."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def manifest_digest(manifest: Mapping[str, Any]) -> str:
    """The sha256 of the manifest's canonical JSON without `digest` and `created_at`.

    The manifest names the sha256 of every file, so its digest stands for the whole bundle; leaving the time out lets
    two exports of the same weights be recognised as the same bundle.
    """
    return hashlib.sha256(canonical_json({k: v for k, v in manifest.items() if k not in _NOT_DIGESTED})).hexdigest()
