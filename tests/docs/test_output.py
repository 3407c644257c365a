"""What counts as the same output."""

from __future__ import annotations

import pytest

from tests.docs.output import matches


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('{"dim": 192, "embeddings": [[0.01, ...]]}', '{"dim":192,"embeddings":[[-3e-05,0.5,0.25]]}'),
        ("a: ...\n  b\n", "a: what\never\nb"),
        ("took 1.5 s", "took 12 s"),
        ("...", ""),
        ('{"digest": "0974..."}', '{"digest": "0974fba484b0"}'),
    ],
)
def test_alike(shown: str, printed: str) -> None:
    assert matches(shown, printed)


@pytest.mark.parametrize(
    ("shown", "printed"),
    [
        ('{"dim": 192}', '{"dim": 64}'),
        ('{"label": "cat", ...}', '{"label": "dog", "index": 1}'),
        ("[0.5, 0.5]", "[0.5, 0.5, 0.5]"),
        ("a\nb", "a\nb\nc"),
        ("0.5", "none"),
        ("", "something"),
    ],
)
def test_not_alike(shown: str, printed: str) -> None:
    assert not matches(shown, printed)
