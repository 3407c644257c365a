"""Runs the blocks of one page, in their order, and holds what they print against what the page says."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Self

from tests.docs import commands
from tests.docs.markdown import Block
from tests.docs.output import matches
from tests.docs.sessions import Result, Session, run_once
from tests.docs.workshop import make_workshop
from tests.servers import Running, clean_environment, serving_command
from tests.service.helpers import free_port

KEYED = "maeve.example.org"  # in the text: a service that asks for the key in $KEY, and limits its rate
_LIVE = 8000  # the port that the text gives to the service of `make serve`
_MODULE = re.compile(r"// (\S+\.m?js)\n")  # a first line that names a file to save the block as
_TOLD = 3000

Browse = Callable[[Path], str]
"""Open an HTML file from another origin than the service's, hand it a photo, and give what it shows."""


class Page:
    """A reader who goes through a page, with a service that runs and, once a block asks for it, one with a key."""

    def __init__(self, folder: Path, live: Running, keyed: Callable[[], Running], key: str, browse: Browse) -> None:
        make_workshop(folder)
        self._folder, self._keyed, self._browse = folder, keyed, browse
        self._blocks = folder / ".blocks"
        self._blocks.mkdir()
        self._ports: dict[int, int] = {_LIVE: live.port}
        path = f"{Path(sys.executable).parent}:{clean_environment()['PATH']}"
        self._environment = clean_environment() | {"HOME": str(folder), "KEY": key, "PATH": path, "NO_COLOR": "1"}
        self._ends = ExitStack()
        self._sessions: dict[str, Session] = {}
        self.printed: Result | None = None  # by the last block that ran

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.close()

    def follow(self, block: Block) -> None:
        """Run the block if it is to be run. AssertionError where it fails, or prints something else than is shown."""
        if "output" in block.marks:
            self._compare(block)
        elif is_run(block):
            self.printed = self._run(block)
            failed = self.printed.status != 0
            verdict = "did not fail" if "fails" in block.marks else f"failed ({self.printed.status})"
            assert failed == ("fails" in block.marks), (
                f"{block.place} {verdict}:\n{block.code}\n{self.printed.err[-_TOLD:]}\n{self.printed.out[-_TOLD:]}"
            )
        elif block.language not in ("text", "json", "yaml"):
            self.printed = None

    def _compare(self, block: Block) -> None:
        if self.printed is None:
            return  # of a block that was not run: no one knows
        assert matches(block.code, self.printed.out), (
            f"{block.place} shows\n{block.code}\nbut this is printed:\n{self.printed.out[:_TOLD]}"
        )

    def _run(self, block: Block) -> Result:
        if block.language == "bash":
            last = commands.parse(block.code)[-1]
            return self._serve(block, last) if last.serves else self._in_session(block, "shell")
        if block.language == "python":
            return self._in_session(block, "python")
        code = self._localised(block.code)
        if block.language == "html":
            file = self._folder / "page.html"
            file.write_text(code)
            return Result(0, self._browse(file), "")
        name = _MODULE.match(code)
        file = self._folder / (name[1] if name else f"line-{block.line}.mjs")
        file.write_text(code)
        return run_once(["node", file.name], self._folder, self._environment)

    def _in_session(self, block: Block, kind: str) -> Result:
        if kind not in self._sessions:
            session = {"shell": Session.shell, "python": Session.python}[kind](self._folder, self._environment)
            self._sessions[kind] = session
            self._ends.callback(session.close)
        # As far down as in the page, so that an error names the page's own line.
        file = self._blocks / f"{Path(block.path).name}-{block.line}"
        file.write_text("\n" * (block.line - 1) + self._localised(block.code))
        return self._sessions[kind].run(file, fails="fails" in block.marks)

    def _serve(self, block: Block, command: commands.Command) -> Result:
        """A service of the page's own, which goes on until the page ends; it listens where the text says, mapped."""
        found = re.search(r"(?:PORT=|--port[ =])(\d+)", block.code)
        assert found is not None, f"{block.place}: a service that is run needs a port of its own, such as PORT=8001"
        port = self._ports.setdefault(int(found[1]), free_port())
        words = [word.replace(found[1], str(port)) for word in command.words]
        environment = {**self._environment, **command.environment}
        log = self._blocks / f"service-{port}.log"
        service = serving_command(words, port, folder=self._folder, environment=environment, log=log)
        self._ends.enter_context(service)
        return Result(0, "", log.read_text())

    def _localised(self, code: str) -> str:
        """The code with the addresses of the services that are really there."""
        if KEYED in code:
            authority = self._keyed().authority
            code = code.replace(f"https://{KEYED}", f"http://{authority}").replace(KEYED, authority)
        for told, port in self._ports.items():
            code = re.sub(rf"\b(?:localhost|127\.0\.0\.1):{told}\b", f"127.0.0.1:{port}", code)
        return code


def is_run(block: Block) -> bool:
    """Whether a block is run, and not only checked or parsed."""
    if block.language not in ("bash", "python", "js", "html") or "not run" in block.marks:
        return False
    if "run" in block.marks or block.language != "bash":
        return True
    try:
        return not any(command.is_checked for command in commands.parse(block.code))
    except ValueError:
        return True  # for the shell to say what is wrong with it
