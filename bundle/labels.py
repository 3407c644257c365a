"""`labels.json`: class names in the order of the logits, as a JSON list."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from bundle.errors import BundleError


def encode_labels(labels: Sequence[str]) -> bytes:
    """The file's content, a name per line. ValueError if there is none. Names may repeat: ImageNet has two cranes."""
    if not labels:
        raise ValueError("labels must name at least one class")
    return (json.dumps(list(labels), ensure_ascii=False, indent=0) + "\n").encode()


def read_labels(path: Path) -> tuple[str, ...]:
    """BundleError if the file is missing or not a list of strings."""
    try:
        labels = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as e:  # JSONDecodeError and UnicodeDecodeError are ValueErrors
        raise BundleError(f"{path}: cannot read the labels: {e}") from e
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise BundleError(f"{path}: labels must be a JSON list of at least one string")
    return tuple(labels)
