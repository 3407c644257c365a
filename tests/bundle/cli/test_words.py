"""Words around numbers."""

from __future__ import annotations

import pytest

from bundle.cli.words import counted


@pytest.mark.parametrize(("number", "said"), [(0, "0 steps"), (1, "1 step"), (2, "2 steps"), (1500, "1,500 steps")])
def test_a_number_of_things(number: int, said: str) -> None:
    assert counted(number, "step") == said
