"""The Python of a page: runs the files that are named on file descriptor 3 in one namespace, and answers each with its
status on 4.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path

namespace: dict[str, object] = {"__name__": "__main__"}
unraised: list[object] = []  # warnings and errors of destructors, which the interpreter would only print
sys.unraisablehook = lambda unraisable: unraised.append(unraisable.exc_value)
sys.path.insert(0, "")  # where the reader stands

with open(3) as requests, open(4, "w", buffering=1) as answers:
    for request in requests:
        block = Path(request.split()[0])
        status = 0
        with (
            Path(f"{block}.out").open("w") as out,
            Path(f"{block}.err").open("w") as err,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            try:
                exec(compile(block.read_text(), str(block), "exec"), namespace)  # noqa: S102 - it is the documentation's
            except Exception:  # noqa: BLE001 - told as the interpreter tells it
                traceback.print_exc(file=err)
                status = 1
            if unraised:
                print(*map(repr, unraised), sep="\n", file=err)
                unraised.clear()
                status = 1
        print(status, file=answers)
