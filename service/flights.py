"""Identical work in flight is done once: whoever asks for the same key shares one task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

from bundle.errors import InvalidInput, Unavailable

T = TypeVar("T")


class Flight(Generic[T]):
    """A task and how many wait for it. It is cancelled when the last of them leaves."""

    def __init__(self, task: asyncio.Task[T]) -> None:
        self.task = task
        self.waiters = 0

    def result(self) -> T:
        """The task's, once it is done. Unavailable if it was cancelled from elsewhere: the service is closing."""
        if self.task.cancelled():
            raise Unavailable("the service is stopping")
        return self.task.result()


class Flights(Generic[T]):
    """The tasks in flight by key. Used from the event loop's thread alone."""

    def __init__(self) -> None:
        self._flights: dict[str, Flight[T]] = {}

    def __contains__(self, key: str) -> bool:
        return key in self._flights

    def join(
        self, key: str, start: Callable[[], Coroutine[Any, Any, T]], on_end: Callable[[asyncio.Task[T]], None]
    ) -> Flight[T]:
        """The key's flight, begun by `start` if there is none. Every call must be answered by a `leave`.

        `on_end` is called once for a flight begun here, even one cancelled before its first step.
        """
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = Flight(asyncio.create_task(start()))
            flight.task.add_done_callback(lambda task: self._landed(key, task))
            flight.task.add_done_callback(on_end)
        flight.waiters += 1
        return flight

    def leave(self, key: str, flight: Flight[T]) -> None:
        flight.waiters -= 1
        if flight.waiters == 0 and not flight.task.done():
            del self._flights[key]  # at once: whoever asks next must not board a flight that is going down
            flight.task.cancel()

    async def close(self) -> None:
        """Cancel what is in flight and wait for its end."""
        tasks = [flight.task for flight in self._flights.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _landed(self, key: str, task: asyncio.Task[T]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # mark it as seen: with all waiters gone nobody else will look


async def all_landed(flights: Iterable[Flight[T]]) -> None:
    """Wait until all are done, or one has failed. Cancels none of them, not even when cancelled itself."""
    tasks = {flight.task for flight in flights}
    if tasks:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)


def raise_failure(flight: Flight[Any], index: int) -> None:
    """Raise what a flight of a request's image `index` failed with, if it did.

    An error about an image is made anew to speak of this one: the flight may have begun for another place or request.
    """
    if not flight.task.done():  # it is the flight of another image that failed
        return
    try:
        flight.result()
    except InvalidInput as e:
        message = str(e).replace(f"image {e.index}", f"image {index}", 1)
        raise type(e)(message, param=e.param, index=index) from e
