"""What a load came to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Outcome:
    """Of one load on one server. `answers`: those of status 200 and of the right length; `errors`: all others, and
    requests without an answer. Latencies in ms, nan where nothing was answered; `client_cpu_s`: what the client took
    of the cores.
    """

    seconds: float
    answers: int
    errors: int
    p50_ms: float
    p99_ms: float
    client_cpu_s: float

    @property
    def rate(self) -> float:
        """Right answers per second."""
        return self.answers / self.seconds


def summed_up(latencies_s: Sequence[float], errors: int, seconds: float, client_cpu_s: float) -> Outcome:
    """`latencies_s`: of the right answers alone."""
    p50, p99 = np.percentile(latencies_s, [50, 99]) * 1000 if latencies_s else (np.nan, np.nan)
    return Outcome(seconds, len(latencies_s), errors, float(p50), float(p99), client_cpu_s)
