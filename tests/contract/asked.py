"""python asked.py COMMAND: run a command with each of the argument lists on stdin, as `python -m COMMAND` would.

One process answers them all, since most of what a command that is only asked something does is to start.
"""

from __future__ import annotations

import contextlib
import io
import json
import runpy
import sys

command = sys.argv[1]
sys.path[0] = ""  # where it stands, as with -m
answers = []
for arguments in json.load(sys.stdin):
    sys.argv = [command, *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        try:
            runpy.run_module(command, run_name="__main__", alter_sys=True)
            status: object = 0
        except SystemExit as e:
            status = e.code
    answers.append([status, out.getvalue(), err.getvalue()])
json.dump(answers, sys.stdout)
