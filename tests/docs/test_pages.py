"""Every page's examples, as a reader follows them: they run, and print what the page says they print."""

from __future__ import annotations

import shutil

import pytest

from tests.chromium import require_chromium
from tests.docs.markdown import Block, documents, read_blocks
from tests.docs.page import Page, is_run

PAGES = {path: read_blocks(path) for path in documents()}


@pytest.mark.parametrize("path", [path for path, blocks in PAGES.items() if any(map(is_run, blocks))])
def test_the_examples_of_a_page_run(path: str, page: Page) -> None:
    languages = {block.language for block in PAGES[path] if is_run(block)}
    if "js" in languages and shutil.which("node") is None:
        pytest.skip("there is no node to run JavaScript with")
    if "html" in languages:
        require_chromium()
    for block in PAGES[path]:
        page.follow(block)


def block(language: str, code: str, line: int = 1, **marks: str) -> Block:
    return Block("made.md", line, language, code, {name.replace("_", " "): text for name, text in marks.items()})


def test_a_session_keeps_what_was_defined_before(page: Page) -> None:
    page.follow(block("bash", "name=maeve; mkdir made; cd made"))
    page.follow(block("bash", 'echo "$name in ${PWD##*/}"'))
    page.follow(block("text", "maeve in made", output=""))
    page.follow(block("python", "number = 7"))
    page.follow(block("python", "print(number)"))
    page.follow(block("text", "7", output=""))


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("bash", "false; true"),
        ("bash", "false | cat"),
        ("bash", "echo $undefined"),
        ("bash", "curl localhost:8000/embed --data-binary @README.md"),
        ("python", "open('photo.jpg')\n"),  # never closed: a warning
        ("python", "1 / 0"),
        ("js", "await fetch('http://localhost:1/')"),
    ],
)
def test_a_block_that_fails_fails_the_page(page: Page, language: str, code: str) -> None:
    if language == "js" and shutil.which("node") is None:
        pytest.skip("there is no node")
    with pytest.raises(AssertionError, match=r"made\.md:1 failed"):
        page.follow(block(language, code))


def test_an_error_of_python_names_the_line_of_the_page(page: Page) -> None:
    with pytest.raises(AssertionError, match=r'made\.md-30", line 31, in <module>'):
        page.follow(block("python", "number = 1\nnumber / 0\n", line=30))


def test_a_block_that_must_fail_does(page: Page) -> None:
    page.follow(block("bash", "echo told; false", fails=""))
    page.follow(block("text", "told", output=""))
    with pytest.raises(AssertionError, match="did not fail"):
        page.follow(block("bash", "true", fails=""))


def test_other_output_than_shown_fails_the_page(page: Page) -> None:
    page.follow(block("bash", "curl localhost:8000/livez"))
    with pytest.raises(AssertionError, match="but this is printed"):
        page.follow(block("text", '{"status": "dead", ...}', output=""))
    page.follow(block("text", '{"status": "alive", ...}', output=""))


def test_the_service_with_a_key_asks_for_it(page: Page) -> None:
    page.follow(block("bash", "curl --data-binary @photo.jpg https://maeve.example.org/embed", fails=""))
    page.follow(block("text", '{"error": {"type": "unauthorized", ...}}', output=""))
    ask = 'curl -H "X-API-Key: $KEY" --data-binary @photo.jpg https://maeve.example.org/embed'
    page.follow(block("bash", f"{ask} -o once.json"))
    page.follow(block("bash", f"for _ in {{1..12}}; do {ask} -o many.json; done", fails=""))
    page.follow(block("bash", "cat many.json"))
    page.follow(block("text", '{"error": {"type": "rate_limited", ...}}', output=""))


def test_what_is_not_to_be_run_is_not(page: Page) -> None:
    for each in (
        block("bash", "touch ran\npython -m training.pretrain --data photos/ --out runs/a"),
        block("bash", "touch ran", not_run="it would"),
        block("text", "touch ran"),
    ):
        assert not is_run(each)
        page.follow(each)
    page.follow(block("bash", "test ! -e ran"))
    page.follow(block("bash", "python -m service.keys shop >entry && touch ran", run=""))
    page.follow(block("bash", "test -e ran && grep -q shop: entry"))
