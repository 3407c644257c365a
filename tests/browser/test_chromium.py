"""What becomes of these tests where there is no Chromium."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chromium import open_browser, require_chromium
from tests.servers import ROOT


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """A machine without any Chromium."""
    for name in ("CHROMIUM", "REQUIRE_CHROMIUM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    return monkeypatch


@pytest.mark.usefixtures("nowhere")
def test_without_one_a_test_is_skipped_with_words() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"there is no Chromium: install one of chromium, .* in CHROMIUM"):
        require_chromium()


def test_where_it_is_required_its_lack_is_a_failure(nowhere: pytest.MonkeyPatch) -> None:
    nowhere.setenv("REQUIRE_CHROMIUM", "1")
    words = r"there is no Chromium: .*; REQUIRE_CHROMIUM asks for it"
    with pytest.raises(pytest.fail.Exception, match=words), open_browser():
        pass


def test_it_is_taken_where_it_is_named_or_found(nowhere: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = tmp_path / "google-chrome"
    found.touch(mode=0o755)
    assert require_chromium() == str(found)
    nowhere.setenv("CHROMIUM", "/opt/chromium")
    assert require_chromium() == "/opt/chromium"


def test_ci_requires_it() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert script.index("export REQUIRE_CHROMIUM=1\n") < script.index("make test\n")
