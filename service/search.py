"""What POST /search asks: the newest version of the index that fits the bundle which is served, in bounded turns."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from bundle.errors import Overloaded, Unavailable
from bundle.manifest import Manifest
from runtime.cores import usable_cores
from service.admission import Load
from service.filters import expression, parse_filter
from service.index import Index, Neighbour, open_index, prove_index
from service.metrics import Metrics
from service.options import EmbedQuery, SearchQuery
from service.settings import Settings

T = TypeVar("T")

log = logging.getLogger(__name__)

_FRESH_S = 10.0  # between two looks for rows that were added
_PATIENCE_S = 1.0  # between two looks that requests cause


@dataclass(frozen=True)
class Asked:
    """A request that fits the index. embed: how its images become vectors that compare with the stored ones."""

    index: Index
    embed: EmbedQuery
    k: int
    where: Any


class Search:
    """Holds one version of the index open. Once it is used, from its event loop's thread alone.

    `served`: the bundle that is served now.
    """

    def __init__(
        self, location: str, settings: Settings, metrics: Metrics, served: Callable[[], Manifest | None]
    ) -> None:
        self._location = location
        self._metrics = metrics
        self._served = served
        self._max_waiting = settings.max_queue
        self._turns = asyncio.Semaphore(usable_cores())  # one search uses several cores as it is
        self._load = Load()
        self._opening = asyncio.Lock()
        self._opened_at = -_PATIENCE_S
        self._opened_for: str | None = None  # the bundle that was served then
        self._fault: str | None = None  # why the last look or search failed, if it did
        self._said: str | None = None
        self.index: Index | None = None  # the newest that could be read

    @property
    def up(self) -> bool:
        """Whether there is an index that fits the bundle, and could be read the last time that it was."""
        return self.index is not None and self._fault is None

    @property
    def pending(self) -> int:
        """Images whose neighbours are being looked for, or wait for that."""
        return self._load.pending

    async def ask(self, query: SearchQuery, manifest: Manifest) -> Asked:
        """BadParameter for filters that do not fit the index; Unavailable if none fits the bundle."""
        index = self.index
        if index is None or index.why_unfit(manifest) is not None:
            index = await self._open_anew(index, manifest)
        why = index.why_unfit(manifest)
        if why is not None:
            raise Unavailable(why)
        conditions = [parse_filter(text, index.columns) for text in query.filter]
        embed = EmbedQuery(pooling=index.vectors.pooling, keep=index.vectors.keep)
        return Asked(index, embed, query.k, expression(conditions))

    async def nearest(self, asked: Asked, vectors: NDArray[np.float32]) -> list[list[Neighbour]]:
        """The neighbours of each of `vectors` [N, D], which are of length 1. Overloaded, Unavailable."""
        self._enter(len(vectors))
        finished = False
        try:
            found = await _all(self._look(asked, vector) for vector in vectors)
            finished, self._fault = True, None
        except Unavailable as e:
            self._tell(str(e))
            raise
        finally:
            for _ in vectors:
                self._load.leave(finished=finished)
        return found

    async def prove(self, manifest: Manifest) -> Index:
        """Open the index. Raises as `prove_index`."""
        self.index = await prove_index(self._location, manifest)
        return self.index

    async def keep_fresh(self) -> None:
        """Take what is added to the index, for ever."""
        pause_s = 0.0 if self.index is None else _FRESH_S
        while True:
            await asyncio.sleep(pause_s)
            async with self._opening:
                await self._open(self.index if self.up else None, self._served())
            pause_s = _FRESH_S

    def describe(self) -> dict[str, Any] | None:
        """For /info. None until an index could be read."""
        index = self.index
        if index is None:
            return None
        return {
            "num_rows": index.num_rows,
            "columns": [{"name": name, "type": kind} for name, kind in index.columns.items()],
            "vectors": index.vectors.model_dump(include={"bundle", "digest", "precision", "pooling", "keep"}),
        }

    async def _look(self, asked: Asked, vector: NDArray[np.float32]) -> list[Neighbour]:
        async with self._turns:
            start = time.perf_counter()
            try:
                found = await asked.index.nearest(vector, asked.k, asked.where)
            except Unavailable as e:  # it may have been made anew in its place
                newest = await self._instead_of(asked.index)
                if newest is None:
                    raise
                log.warning("searched once more, in the newest version: %s", e)
                found = await newest.nearest(vector, asked.k, asked.where)
            self._metrics.searched(time.perf_counter() - start)
            return found

    def _enter(self, num_images: int) -> None:
        """Overloaded if so many more would wait for too long."""
        if self._load.pending + num_images > self._max_waiting:
            raise Overloaded(
                f"{self._load.pending} images wait for their neighbours, {self._max_waiting} at most",
                retry_after_s=self._load.drain_s(),
            )
        self._load.enter(num_images)

    async def _instead_of(self, broken: Index) -> Index | None:
        """Another version for the same vectors, None if there is none."""
        served = self._served()
        newest = None if served is None else await self._open_anew(broken, served)
        return None if newest is None or newest is broken or newest.vectors != broken.vectors else newest

    async def _open_anew(self, before: Index | None, manifest: Manifest) -> Index:
        """The newest version, unless another request has just looked for it. Unavailable if none could be read yet."""
        async with self._opening:
            waited = time.monotonic() >= self._opened_at + _PATIENCE_S or self._opened_for != manifest.digest
            if self.index is before and waited:
                await self._open(None, manifest)
        if self.index is None:
            raise Unavailable(self._fault or f"the index {self._location} is being opened")
        return self.index

    async def _open(self, current: Index | None, manifest: Manifest | None) -> None:
        """Take the newest version, if it is another than `current`. One that cannot be read, or does not fit where the
        one before does, is left alone: an index is made anew before the bundle is switched to. So is one that is still
        being sorted into partitions, which would be searched slowly for as long.
        """
        self._opened_at = time.monotonic()
        self._opened_for = None if manifest is None else manifest.digest
        try:
            newest = await (open_index(self._location) if current is None else current.newer())
        except Unavailable as e:
            self._tell(str(e))
            return
        if newest is None:
            return
        why = None if manifest is None else newest.why_unfit(manifest)
        fits = self.index is not None and manifest is not None and not self.index.why_unfit(manifest)
        if why is not None and fits:
            self._say(logging.INFO, f"not searched until the bundle is switched: {why}")
            return
        if fits and current is not None and current.approximate and newest.to_be_approximate:
            self._say(logging.INFO, f"not searched until bulk.index has sorted it into partitions: {newest}")
            return
        self._tell(why)
        if self.index is not None and newest.num_rows != self.index.num_rows:
            log.info("searching %d rows from now on, %d before", newest.num_rows, self.index.num_rows)
        self.index = newest

    def _tell(self, fault: str | None) -> None:
        self._fault = fault
        if fault is not None:
            self._say(logging.ERROR, f"no search: {fault}")

    def _say(self, level: int, message: str) -> None:
        """In the log, unless it was the last that was said: the same is found out again and again."""
        if message != self._said:
            log.log(level, "%s", message)
            self._said = message


async def _all(works: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """What each comes to, in order. The first failure is raised once the others have ended, which it cancels."""
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(work) for work in works]
    except BaseExceptionGroup as e:
        raise e.exceptions[0] from None
    return [task.result() for task in tasks]


def prove_search(settings: Settings, manifest: Manifest) -> Index | None:
    """As `prove_index`, before there is an app. None where the settings name no index."""
    return None if settings.search_index is None else asyncio.run(prove_index(settings.search_index, manifest))


def make_search(settings: Settings, metrics: Metrics, served: Callable[[], Manifest | None]) -> Search | None:
    """None where the settings name no index. Nothing is opened yet."""
    search = None if settings.search_index is None else Search(settings.search_index, settings, metrics, served)
    watch = metrics.watch
    rows = lambda: search.index.num_rows if search and search.index else 0  # noqa: E731
    watch("maeve_search_rows", "Rows of the index that is searched.", rows, across="max")
    up = lambda: bool(search and search.up)  # noqa: E731
    watch("maeve_search_up", "1 while there is an index that fits the bundle and can be read.", up, across="min")
    pending = lambda: search.pending if search else 0  # noqa: E731
    watch("maeve_searches_pending", "Images whose neighbours are looked for, or wait for that.", pending)
    return search
