"""How commands end: exit statuses, and what stands on stderr; in processes of their own where pipes matter."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from bundle.cli.ending import BAD_RESULT, INTERRUPTED, NOT_DONE, TERMINATED, UNREAD, Stopped, run
from bundle.cli.flags import UsageError
from bundle.errors import BundleError, CacheError, MaeveError

ROOT = Path(__file__).parents[3]
BUFFERED = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
STATUSES: dict[type[Exception], int] = {CacheError: BAD_RESULT, MaeveError: NOT_DONE}


def ended(error: BaseException, *, speaks: bool = True) -> object:
    """The exit status of a command that raises `error`."""

    def command() -> None:
        raise error

    with pytest.raises(SystemExit) as caught:
        run(command, statuses=STATUSES, stopped="stopped; nothing was written", speaks=speaks)
    return caught.value.code


@pytest.mark.parametrize(
    ("error", "status", "said"),
    [
        (BundleError("no such\n  bundle"), NOT_DONE, "error: no such bundle\n"),
        (CacheError("altered"), BAD_RESULT, "error: altered\n"),
        (UsageError("--out is needed\nsuch as: this"), NOT_DONE, "error: --out is needed\nsuch as: this\n"),
        (KeyboardInterrupt(), INTERRUPTED, "stopped; nothing was written\n"),
        (Stopped("saved at step 3", signal.SIGTERM), TERMINATED, "saved at step 3\n"),
        (Stopped("saved at step 3", signal.SIGINT), INTERRUPTED, "saved at step 3\n"),
    ],
)
def test_each_error_has_its_status(
    error: BaseException, status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert ended(error) == status
    assert capsys.readouterr() == ("", said)


def test_a_paragraph_is_cut_to_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(BundleError("word\n" * 1000)) == NOT_DONE
    err = capsys.readouterr().err
    assert err.endswith(" ...\n")
    assert len(err) < 700


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run(lambda: print(1 // 0), statuses=STATUSES)


def test_a_process_that_does_not_speak_is_silent_about_what_all_are_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert ended(UsageError("wrong"), speaks=False) == NOT_DONE
    assert ended(Stopped("saved", signal.SIGTERM), speaks=False) == TERMINATED
    assert capsys.readouterr().err == ""
    assert ended(BundleError("its own"), speaks=False) == NOT_DONE
    assert capsys.readouterr().err == "error: its own\n"


def test_it_returns_where_the_command_does_and_ctrl_c_is_as_before() -> None:
    before = signal.getsignal(signal.SIGINT)
    run(lambda: None, statuses=STATUSES)
    assert signal.getsignal(signal.SIGINT) is before


def python(body: str) -> list[str]:
    text = f"from bundle.cli.ending import run\ndef main():\n    {body}\nrun(main, statuses={{}}, stopped='stopped')\n"
    return [sys.executable, "-c", text]


def in_shell(script: str, command: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """A command where a line of the shell has $COMMAND."""
    line = script.replace("$COMMAND", shlex.join(command))
    return subprocess.run(
        ["sh", "-c", line], capture_output=True, text=True, check=False, cwd=ROOT, env=BUFFERED, timeout=60
    )


def unread(body: str) -> tuple[int, str]:
    """Status and stderr of a command whose reader leaves before it does anything: `body` is to begin with input()."""
    with subprocess.Popen(
        python(body), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT,
        env=BUFFERED,
    ) as process:  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.close()
        err = process.stderr.read()
    return process.returncode, err


@pytest.mark.parametrize("lines", [1, 100_000])
def test_a_reader_that_leaves_ends_it_quietly(lines: int) -> None:
    """Whether the pipe breaks while something is written or only when the last of it is."""
    assert unread(f"input(); print('x\\n' * {lines})") == (UNREAD, "")


def test_an_error_is_told_also_where_nobody_reads_the_output() -> None:
    status, err = unread("input(); print('x'); raise ZeroDivisionError")
    assert status == 1
    assert err.endswith("ZeroDivisionError\n")


def test_another_pipe_that_breaks_is_an_error_like_any_other() -> None:
    body = "import os; read, write = os.pipe(); os.close(read); os.write(write, b'x')"
    done = subprocess.run(python(body), capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.endswith("BrokenPipeError: [Errno 32] Broken pipe\n")


def test_an_output_that_takes_no_more_is_one_line() -> None:
    done = in_shell("$COMMAND > /dev/full", python("print('x')"))
    assert (done.returncode, done.stderr) == (
        NOT_DONE, "error: the output could not be written: No space left on device\n",
    )  # fmt: skip


@pytest.mark.parametrize(("redirection", "said"), [(">&-", ("", "to stderr\n")), (">&- 2>&-", ("", ""))])
def test_a_closed_output_takes_what_it_is_given(redirection: str, said: tuple[str, str]) -> None:
    body = "import sys; sys.stdout.write('to stdout\\n'); print('to stderr', file=sys.stderr)"
    done = in_shell(f"$COMMAND {redirection}", python(body))
    assert (done.returncode, done.stdout, done.stderr) == (0, *said)


def test_a_ctrl_c_that_becomes_another_error_is_still_one() -> None:
    """As in the middle of torch's own work."""
    body = (
        "import signal\n    try:\n        signal.raise_signal(signal.SIGINT)\n"
        "    except KeyboardInterrupt:\n        raise RuntimeError('something failed')"
    )
    done = subprocess.run(python(body), capture_output=True, text=True, check=False, cwd=ROOT)
    assert (done.returncode, done.stdout, done.stderr) == (INTERRUPTED, "", "stopped\n")


def test_a_ctrl_c_that_is_ignored_goes_on_being_so() -> None:
    """As in what a script started with `&`."""
    body = "import signal; signal.raise_signal(signal.SIGINT); print('went on')"
    done = in_shell("trap '' INT; $COMMAND", python(body))
    assert (done.returncode, done.stdout, done.stderr) == (0, "went on\n", "")
