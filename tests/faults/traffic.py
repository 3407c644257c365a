"""Clients of every kind, good and bad, each of whose answers is held against its own image's expected vector."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import orjson
from numpy.typing import NDArray

from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.onnx import OnnxRuntime
from tests.faults.inject.sitecustomize import POISON
from tests.faults.ledger import Ledger
from tests.service.helpers import encoded, photo

_OCTETS = {"accept": "application/octet-stream", "content-type": "image/png"}
_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Subject:
    """An image, and the embedding f32 [D] that it must get: normalised, the bundle's pooling."""

    image: bytes
    vector: NDArray[np.float32]


def subjects(bundle: Bundle, count: int) -> list[Subject]:
    """Photos of both kinds and several sizes, embedded here, without the service."""
    runtime = OnnxRuntime(bundle, lanes=1)
    manifest = bundle.manifest
    ids = np.ascontiguousarray(all_ids(1, manifest.model.num_patches))
    found = []
    for seed in range(count):
        image = photo(seed, ("PNG", "JPEG")[seed % 2], 40 + seed % 30, 50 + seed % 17)
        pixels = preprocess(image, manifest.preprocess)
        out = runtime.run("encoder", {"images": pixels[None], "ids_keep": ids}, [manifest.pooling])
        vector = out[manifest.pooling][0]
        found.append(Subject(image, vector / np.linalg.norm(vector)))
    runtime.close()
    return found


def poison() -> bytes:
    from PIL import Image

    return encoded(Image.new("RGB", (64, 64), POISON))


class Traffic:
    """Sends until told to stop. `stop` ends every client after the request it is at."""

    def __init__(self, port: int, subjects: Sequence[Subject], *, seed: int = 0) -> None:
        self.ledger = Ledger()
        self._port = port
        self._url = f"http://127.0.0.1:{port}"
        self._subjects = subjects
        self._random = random.Random(seed)
        self._stopping = asyncio.Event()
        self._count = 0

    def stop(self) -> None:
        self._stopping.set()

    async def run(self, clients: Sequence[Callable[[], Awaitable[None]]]) -> Ledger:
        """Each of `clients` (bound methods of this class) over and over, at once, until `stop`."""

        async def repeat(client: Callable[[], Awaitable[None]]) -> None:
            while not self._stopping.is_set():
                await client()

        limits = httpx.Limits(max_connections=None, max_keepalive_connections=None)
        async with httpx.AsyncClient(base_url=self._url, timeout=60, limits=limits, trust_env=False) as self._http:
            await asyncio.gather(*(repeat(client) for client in clients))
        return self.ledger

    async def embed(self) -> None:
        """One image, never the same bytes twice, so that no cache can help."""
        subject = self._random.choice(self._subjects)
        answer = await self._post("/embed", self._fresh(subject.image), _OCTETS)
        if answer is not None:
            self._compare([subject], answer.content)

    async def embed_again(self) -> None:
        """One image as it is, which the caches know after a while."""
        subject = self._random.choice(self._subjects)
        answer = await self._post("/embed", subject.image, _OCTETS)
        if answer is not None:
            self._compare([subject], answer.content)

    async def embed_many(self) -> None:
        """Up to eight images in one request."""
        chosen = self._random.choices(self._subjects, k=self._random.randint(2, 8))
        files = [("file", (f"{i}.png", self._fresh(subject.image))) for i, subject in enumerate(chosen)]
        answer = await self._post("/embed", None, {"accept": _OCTETS["accept"]}, files=files)
        if answer is not None:
            self._compare(chosen, answer.content)

    async def reconstruct(self) -> None:
        subject = self._random.choice(self._subjects)
        answer = await self._post("/reconstruct", self._fresh(subject.image), {"accept": "image/png"})
        if answer is not None:
            self._judge(answer.content.startswith(b"\x89PNG"), "a reconstruction that is no PNG")

    async def truncated(self) -> None:
        """Half an image: 400, whatever else happens."""
        image = self._random.choice(self._subjects).image
        await self._reject(image[: len(image) // 2], 400, "invalid_input")

    async def poisoned(self) -> None:
        """An image that the model fails on: 500 for its sender alone."""
        await self._reject(self._fresh(poison()), 500, "internal")

    async def vanishing(self) -> None:
        """Sends an image, or half of one, and hangs up."""
        self.ledger.sent += 1
        body = self._fresh(self._random.choice(self._subjects).image)
        try:
            async with self._connection() as (_, writer):
                writer.write(_head(len(body)) + body[: self._random.choice((len(body), len(body) // 2))])
                await writer.drain()
                await asyncio.sleep(self._random.uniform(0, 0.03))
        except OSError:
            self.ledger.cut += 1
            return
        self.ledger.left += 1

    async def slow_reader(self) -> None:
        """Takes its time with the answer, and gets all of it."""
        self.ledger.sent += 1
        subject = self._random.choice(self._subjects)
        body = self._fresh(subject.image)
        try:
            async with self._connection() as (reader, writer):
                writer.write(_head(len(body)) + body)
                await writer.drain()
                head = await reader.readuntil(b"\r\n\r\n")
                await asyncio.sleep(self._random.uniform(0, 0.3))
                length = next(line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
                content = await reader.readexactly(int(length.split(b":")[1]))
        except (OSError, EOFError, asyncio.IncompleteReadError):
            self.ledger.cut += 1
            return
        if head.startswith(b"HTTP/1.1 200"):
            self._compare([subject], content)
        else:
            self._refused(int(head.split()[1]), content)

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """One that takes little at a time, and is gone at the end, whatever came between."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port, limit=2**10)
        try:
            yield reader, writer
        finally:
            writer.transport.abort()

    async def _post(
        self,
        route: str,
        body: bytes | None,
        headers: dict[str, str],
        *,
        files: Any = None,
        fault: tuple[int, str] | None = None,
    ) -> httpx.Response | None:
        """The answer if it is 200; what else became of the request is noted here. `fault`: the error it must get."""
        self.ledger.sent += 1
        try:
            answer = await self._http.post(route, content=body, headers=headers, files=files)
        except httpx.TransportError:
            self.ledger.cut += 1
            await asyncio.sleep(0.02)
            return None
        if answer.status_code == 200:
            return answer
        self._refused(answer.status_code, answer.content, fault)
        await asyncio.sleep(0.02)  # a refusal costs the service nothing, so a client must not only collect refusals
        return None

    async def _reject(self, body: bytes, status: int, kind: str) -> None:
        """Send what must get that error."""
        answer = await self._post("/embed", body, _OCTETS, fault=(status, kind))
        if answer is not None:
            self.ledger.wrong.append(f"200 in place of {status} {kind}")

    def _compare(self, chosen: Sequence[Subject], content: bytes) -> None:
        """Every vector against its own image's."""
        want = np.stack([subject.vector for subject in chosen])  # [N, D]
        if len(content) != want.nbytes:
            self.ledger.wrong.append(f"{len(content)} bytes for {len(chosen)} vectors")
            return
        error = float(np.abs(np.frombuffer(content, "<f4").reshape(want.shape) - want).max())
        self._judge(error <= _TOLERANCE, f"a vector is {error} off")

    def _judge(self, right: object, fault: str) -> None:
        if right:
            self.ledger.answered += 1
        else:
            self.ledger.wrong.append(fault)

    def _refused(self, status: int, content: bytes, fault: tuple[int, str] | None = None) -> None:
        try:
            kind: str = orjson.loads(content)["error"]["type"]
        except (orjson.JSONDecodeError, KeyError, TypeError):
            self.ledger.wrong.append(f"{status} without a reason: {content[:80]!r}")
            return
        if (status, kind) == fault:
            self.ledger.rejected += 1
        else:
            self.ledger.refused[status, kind] += 1

    def _fresh(self, image: bytes) -> bytes:
        """The same picture in bytes never sent before: a number behind the end, where decoders do not look."""
        self._count += 1
        return image + self._count.to_bytes(8, "big")


def _head(length: int) -> bytes:
    return (
        f"POST /embed HTTP/1.1\r\nHost: x\r\nAccept: application/octet-stream\r\nContent-Length: {length}\r\n\r\n"
    ).encode()
