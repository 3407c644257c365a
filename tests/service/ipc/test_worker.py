"""A worker, in this process, that is told of one generation of devices after the other."""

from __future__ import annotations

import gc
import socket
import weakref
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from bundle.store import Bundle
from service.engine import Engine
from service.ipc.child import Start
from service.ipc.framing import Control, Message
from service.options import EmbedQuery
from service.settings import Settings
from service.worker import Worker
from tests.service.helpers import photo
from tests.service.ipc.test_remote import Pair, pair


@pytest.fixture
def by_hand() -> Iterator[None]:
    """Garbage is collected when the code asks for it, and not by chance."""
    gc.disable()
    yield
    gc.enable()
    gc.unfreeze()


def serve(made: Pair, generation: int) -> Message:
    told = {"name": "cpu", "path": str(made.path), "info": asdict(made.local.infos[0])}
    bundle = made.bundle
    return {
        "type": "serve", "generation": generation, "bundle": str(bundle.path), "devices": [told],
        "manifest": bundle.manifest.model_dump(mode="json"), "labels": bundle.labels,
    }  # fmt: skip


async def adopted(control: Control, generation: int) -> None:
    while await control.receive() != {"type": "adopted", "generation": generation}:
        pass


@pytest.mark.usefixtures("by_hand")
async def test_what_was_before_a_switch_is_let_go_of(fake_bundle: Bundle, tmp_path: Path) -> None:
    mine, its = socket.socketpair()
    control = await Control.over(mine)
    async with pair(fake_bundle) as made:
        start = Start("http-0", Settings(), {"serve": serve(made, 1), "folder": str(tmp_path)}, its)
        worker = Worker(start)
        async with worker._lifespan(worker.app):
            await adopted(control, 1)
            assert gc.get_freeze_count() > 0  # what serves is not looked through again and again
            engine: Engine = worker.app.state.engine
            await engine.embed([photo(1)], EmbedQuery(), float("inf"))
            before = weakref.ref(engine)
            del engine
            control.send(serve(made, 2))
            await adopted(control, 2)
            assert before() is None
    await control.close()
