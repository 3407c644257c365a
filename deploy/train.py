"""Pre-train, or go on with a run that was stopped, then export it: what the profile `train` of the compose file runs.

python train.py DATA RUN BUNDLE [flags of training.pretrain]

It is one process from beginning to end, so that SIGTERM reaches the training, which saves and exits with 143. The exit
statuses are those of the two commands.
"""

from __future__ import annotations

import os
import runpy
import sys


def main(data: str, run: str, bundle: str, *flags: str) -> None:
    """Returns never: the export takes the place of this process."""
    sys.argv = ["training.pretrain", "--data", data, "--out", run, "--resume", *flags]
    runpy.run_module("training.pretrain", run_name="__main__", alter_sys=True)  # exits where it does not end well
    export = [sys.executable, "-m", "export", run, "--out", bundle, "--overwrite"]
    os.execv(sys.executable, export)  # noqa: S606  no shell is wanted


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit("usage: train.py DATA RUN BUNDLE [flags of training.pretrain]")
    main(*sys.argv[1:])
