"""Python imports this at its start in every process whose PYTHONPATH names this folder: the service's own code stays as
it is, and its runtime fails as the files of FAULTS_DIR say.

poison: an image whose every pixel is POISON fails its call. `stall`: calls do not return while the file is there.
`oom`: calls on more than one image run out of memory while it is there. `clock`: time.time jumps by hours and back.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

POISON = (1, 2, 3)


class FaultyRuntime:
    """Any runtime, and the faults that the files order."""

    def __init__(self, inner: Any, folder: Path) -> None:
        self._inner = inner
        self._folder = folder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def run(self, graph: Any, inputs: Mapping[str, Any], wanted: Sequence[str] | None = None) -> Any:
        from bundle.errors import InferenceError, OutOfMemory

        while (self._folder / "stall").exists():
            time.sleep(0.05)
        rows = next(iter(inputs.values()))
        if (self._folder / "oom").exists() and len(rows) > 1:
            raise OutOfMemory("ordered by the test")
        images = inputs.get("images")
        if images is not None and any((image == POISON).all() for image in images):
            raise InferenceError("poison")
        return self._inner.run(graph, inputs, wanted)


def _inject(folder: Path) -> None:
    import runtime

    real = runtime.open_runtime

    def open_runtime(*args: Any, **options: Any) -> FaultyRuntime:
        return FaultyRuntime(real(*args, **options), folder)

    runtime.open_runtime = open_runtime
    real_time = time.time

    def jumping_time() -> float:
        jump = random.choice((-7200.0, 0.0, 7200.0)) if (folder / "clock").exists() else 0.0
        return real_time() + jump

    time.time = jumping_time


if "FAULTS_DIR" in os.environ:
    _inject(Path(os.environ["FAULTS_DIR"]))
