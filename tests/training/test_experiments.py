"""What runs of runs share."""

from __future__ import annotations

import signal

import pytest

from training.errors import Terminated
from training.experiments import stoppable


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_unless_it_is_ignored(number: signal.Signals) -> None:
    """As Ctrl-C is in what a script started with `&`."""
    with pytest.raises(Terminated), stoppable():
        signal.raise_signal(number)
    before = signal.signal(number, signal.SIG_IGN)
    try:
        with stoppable():
            signal.raise_signal(number)
        assert signal.getsignal(number) is signal.SIG_IGN
    finally:
        signal.signal(number, before)
