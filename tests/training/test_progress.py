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
        bar.advance(3)
        bar.note("loss 0.5")
        bar.advance(1)
    assert capsys.readouterr().err.splitlines() == ["packing 9/10", "packing 10/10 loss 0.5"]


def test_a_quiet_bar_says_nothing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setattr(progress, "_LINE_EVERY_S", 0.0)
    with track("packing", 10, quiet=True) as bar:
        bar.note("loss 0.5")
        bar.advance(10)
    assert capsys.readouterr().err == ""


def test_on_a_terminal_a_bar(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich's way to be told that this is one
    monkeypatch.setenv("COLUMNS", "200")
    with track("training", 10, done=4) as bar:
        bar.note("loss 0.5")
        bar.advance(2)
        bar.advance(4)  # the note stays
    last = capsys.readouterr().err.rsplit("training", 1)[1]
    assert "10/10" in last
    assert "loss 0.5" in last
