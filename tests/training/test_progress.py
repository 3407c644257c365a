"""Progress: a bar where somebody watches, a line now and then where nobody does."""

from __future__ import annotations

import pytest

from training import progress
from training.progress import track


def test_without_a_terminal_a_line_now_and_then(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    with track("packing", 10, done=4) as bar:
        bar.advance(2)  # less than half a minute has passed
        monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
        bar.advance(2, note="")  # a step without news
        bar.advance(1)
        bar.advance(1, note="loss 0.5")
    assert capsys.readouterr().err.splitlines() == ["packing 9/10", "packing 10/10 loss 0.5"]


def test_on_a_terminal_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's way to be told that this is one
    monkeypatch.setenv("COLUMNS", "200")
    with track("training", 10, done=4) as bar:
        bar.advance(2, note="loss 0.5")
        bar.advance(4, note="")
    err = capsys.readouterr().err
    assert "training" in err
    assert "10/10" in err
