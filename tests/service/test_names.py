"""Look-ups that are given up, and name servers that say nothing."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from service.names import LookUps
from tests.service.helpers import eventually


@pytest.fixture
def silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Until it is set, names in .silent have no answer; then they have none either, and that is said."""
    over, real = threading.Event(), socket.getaddrinfo

    def getaddrinfo(host: str, *args: Any, **kwargs: Any) -> Any:
        if not host.endswith(".silent"):
            return real(host, *args, **kwargs)
        assert over.wait(30)
        raise socket.gaierror("no answer")

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield over
    over.set()


async def give_up_on(look_ups: LookUps, num_names: int) -> None:
    asking = [asyncio.wait_for(look_ups.addresses(f"{i}.silent", 443), 0.05) for i in range(num_names)]
    given_up = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in given_up] == [TimeoutError] * num_names


@pytest.mark.usefixtures("silence")
async def test_silent_name_servers_hold_up_nobody_else() -> None:
    look_ups = LookUps(41)
    await give_up_on(look_ups, 40)
    assert await asyncio.wait_for(look_ups.addresses("127.0.0.1", 443), 5) == ["127.0.0.1"]


async def test_threads_that_hang_are_bounded_and_come_back(silence: threading.Event) -> None:
    look_ups = LookUps(3)
    await give_up_on(look_ups, 3)
    with pytest.raises(OSError, match=r"photos\.test is not looked up: too many names have no answer yet"):
        await look_ups.addresses("photos.test", 443)
    silence.set()
    eventually(lambda: "names" not in [thread.name for thread in threading.enumerate()])
    assert await look_ups.addresses("127.0.0.1", 443) == ["127.0.0.1"]
    with pytest.raises(OSError, match="no answer"):
        await look_ups.addresses("0.silent", 443)
