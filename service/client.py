"""Clients of the service: images in, arrays out. Importing this needs httpx and numpy alone.

    with Client("http://127.0.0.1:8000") as client:
        vectors = client.embed(sorted(Path("photos").glob("*.jpg")))  # float32 [N, D]

Letters: N images, D vector size, K patches kept.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal, Self

import httpx
import numpy as np

from service.client_routes import (
    AnomalyMap,
    Neighbour,
    Prediction,
    Reconstruction,
    anomaly_map,
    anomaly_params,
    embed_params,
    mask_params,
    neighbours,
    predictions,
    reconstruction,
    search_params,
)
from service.client_wire import (
    Attempts,
    Busy,
    Call,
    ClientError,
    Failed,
    Floats,
    Image,
    Params,
    PillowImage,
    Pooling,
    Rejected,
    ServiceError,
    Unreachable,
    check_images,
    plan,
    tensor_of,
)

__all__ = [
    "AnomalyMap",
    "AsyncClient",
    "Busy",
    "Client",
    "ClientError",
    "Failed",
    "Image",
    "Neighbour",
    "PillowImage",
    "Prediction",
    "Reconstruction",
    "Rejected",
    "ServiceError",
    "Unreachable",
]

_OCTETS = "application/octet-stream"


class _Base:
    """What both clients are told. ValueError for numbers out of range, and for what is no URL of a service."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        images_per_request: int = 16,
        requests_at_once: int = 4,
    ) -> None:
        if timeout_s <= 0 or images_per_request < 1 or requests_at_once < 1:
            raise ValueError("timeout_s must be positive, images_per_request and requests_at_once at least 1")
        if not re.match(r"https?://[^/]", base_url, re.IGNORECASE):
            raise ValueError(f"base_url must begin with http:// or https:// and a host, got {base_url!r}")
        self._timeout_s = timeout_s
        self._per_request = images_per_request
        self._at_once = requests_at_once
        self._options: dict[str, Any] = {
            "base_url": base_url,
            "headers": {} if api_key is None else {"authorization": f"Bearer {api_key}"},
            "limits": httpx.Limits(max_connections=requests_at_once),
        }
        self._limits: dict[str, int] | None = None  # the service's, once asked for

    def _plan(self, path: str, params: Params, accept: str, images: Sequence[Image]) -> list[Call]:
        assert self._limits is not None
        per_request = min(self._per_request, self._limits["max_images"])
        max_bytes = self._limits["max_body_bytes"]
        return list(plan(path, params, accept, images, per_request=per_request, max_bytes=max_bytes))


class Client(_Base):
    """Blocks; may be used from several threads. Close it, or use it in a `with`.

    Many images become several requests of at most `images_per_request` and of the service's own limits, up to
    `requests_at_once` of them at a time. Each may take `timeout_s`, in which it is sent again, after the time that the
    service asks for, when the service is busy (429, 503) or the connection breaks.

    Every method raises a ClientError for what the service or the network does, OSError for files that cannot be
    read, TypeError and ValueError for arguments that are no images.
    """

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        images_per_request: int = 16,
        requests_at_once: int = 4,
    ) -> None:
        super().__init__(
            base_url, api_key=api_key, timeout_s=timeout_s, images_per_request=images_per_request,
            requests_at_once=requests_at_once,
        )  # fmt: skip
        self._http = httpx.Client(**self._options)

    def embed(
        self,
        images: Iterable[Image],
        *,
        pooling: Pooling | None = None,
        normalize: bool = True,
        keep: float = 1.0,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Floats:
        """[N, D] in the order of the images, [N, K, D] for `patches`; the parameters are those of POST /embed."""
        params = embed_params(pooling, normalize, keep, dtype)
        return np.concatenate([tensor_of(answer) for answer in self._all("/embed", params, _OCTETS, images)])

    def classify(self, images: Iterable[Image], *, top_k: int = 5) -> list[list[Prediction]]:
        """The most probable labels of each image, most probable first."""
        answers = self._all("/classify", {"top_k": str(top_k)}, "application/json", images)
        return [row for answer in answers for row in predictions(answer)]

    def search(self, images: Iterable[Image], *, k: int = 10, filters: Iterable[str] = ()) -> list[list[Neighbour]]:
        """The `k` rows of the service's index that are most like each image, best first.

        `filters`: as of POST /search, "label=cat,dog" or "price<=9.5"; all of them hold.
        """
        answers = self._all("/search", search_params(k, filters), "application/json", images)
        return [rows for answer in answers for rows in neighbours(answer)]

    def reconstruct(
        self, image: Image, *, mask_ratio: float | None = None, mask: Sequence[int] | None = None, seed: int = 0
    ) -> Reconstruction:
        """What the model makes of an image with patches removed: drawn by `seed`, or those that `mask` lists."""
        call = Call("POST", "/reconstruct", mask_params(mask_ratio, mask, seed), images=check_images([image]))
        return reconstruction(self._send(call))

    def anomaly(
        self,
        image: Image,
        *,
        passes: int,
        mask_ratio: float | None = None,
        seed: int = 0,
        scale_max: float | None = None,
    ) -> AnomalyMap:
        """How far every patch of an image is from what the model makes of it, over so many passes that hide it in turn.

        The parameters are those of POST /reconstruct; with one `scale_max` the heat maps of several images compare.
        """
        params = anomaly_params(passes, mask_ratio, seed, scale_max)
        return anomaly_map(self._send(Call("POST", "/reconstruct", params, images=check_images([image]))))

    def info(self) -> dict[str, Any]:
        """What GET /info says."""
        told: dict[str, Any] = self._send(Call("GET", "/info")).json()
        return told

    def ready(self) -> bool:
        """Whether the service takes requests now; asked once."""
        try:
            return self._http.get("/readyz", timeout=self._timeout_s).is_success
        except httpx.TransportError:
            return False

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _all(self, path: str, params: Params, accept: str, images: Iterable[Image]) -> list[httpx.Response]:
        """The answers in order. The error of the first request that fails; later ones are not begun any more."""
        checked = check_images(images)
        if self._limits is None:
            self._limits = self.info()["limits"]
        calls = self._plan(path, params, accept, checked)
        with ThreadPoolExecutor(self._at_once, thread_name_prefix="maeve-client") as pool:
            futures = [pool.submit(self._send, call) for call in calls]
            try:
                return [future.result() for future in futures]
            finally:
                for future in futures:
                    future.cancel()

    def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._timeout_s)
        arguments = call.arguments()
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                headers = {**call.headers(), **attempts.timeout_header()}
                outcome = self._http.request(**arguments, headers=headers, timeout=attempts.left_s)
            except httpx.TransportError as e:
                outcome = e
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return outcome
            time.sleep(attempts.pause_s(outcome, call.offset))


class AsyncClient(_Base):
    """As Client, for asyncio: cancelling a call ends its requests. Close it with `aclose`, or use `async with`."""

    def __init__(
        self,
        base_url: str,
        *,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        images_per_request: int = 16,
        requests_at_once: int = 4,
    ) -> None:
        super().__init__(
            base_url, api_key=api_key, timeout_s=timeout_s, images_per_request=images_per_request,
            requests_at_once=requests_at_once,
        )  # fmt: skip
        self._http = httpx.AsyncClient(**self._options)

    async def embed(
        self,
        images: Iterable[Image],
        *,
        pooling: Pooling | None = None,
        normalize: bool = True,
        keep: float = 1.0,
        dtype: Literal["float32", "float16"] = "float32",
    ) -> Floats:
        """As Client.embed."""
        params = embed_params(pooling, normalize, keep, dtype)
        return np.concatenate([tensor_of(answer) for answer in await self._all("/embed", params, _OCTETS, images)])

    async def classify(self, images: Iterable[Image], *, top_k: int = 5) -> list[list[Prediction]]:
        """As Client.classify."""
        answers = await self._all("/classify", {"top_k": str(top_k)}, "application/json", images)
        return [row for answer in answers for row in predictions(answer)]

    async def search(
        self, images: Iterable[Image], *, k: int = 10, filters: Iterable[str] = ()
    ) -> list[list[Neighbour]]:
        """As Client.search."""
        answers = await self._all("/search", search_params(k, filters), "application/json", images)
        return [rows for answer in answers for rows in neighbours(answer)]

    async def reconstruct(
        self, image: Image, *, mask_ratio: float | None = None, mask: Sequence[int] | None = None, seed: int = 0
    ) -> Reconstruction:
        """As Client.reconstruct."""
        call = Call("POST", "/reconstruct", mask_params(mask_ratio, mask, seed), images=check_images([image]))
        return reconstruction(await self._send(call))

    async def anomaly(
        self,
        image: Image,
        *,
        passes: int,
        mask_ratio: float | None = None,
        seed: int = 0,
        scale_max: float | None = None,
    ) -> AnomalyMap:
        """As Client.anomaly."""
        params = anomaly_params(passes, mask_ratio, seed, scale_max)
        return anomaly_map(await self._send(Call("POST", "/reconstruct", params, images=check_images([image]))))

    async def info(self) -> dict[str, Any]:
        """As Client.info."""
        told: dict[str, Any] = (await self._send(Call("GET", "/info"))).json()
        return told

    async def ready(self) -> bool:
        """As Client.ready."""
        try:
            return (await self._http.get("/readyz", timeout=self._timeout_s)).is_success
        except httpx.TransportError:
            return False

    async def aclose(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def _all(self, path: str, params: Params, accept: str, images: Iterable[Image]) -> list[httpx.Response]:
        """As Client._all."""
        checked = check_images(images)
        if self._limits is None:
            self._limits = (await self.info())["limits"]
        slots = asyncio.Semaphore(self._at_once)

        async def send(call: Call) -> httpx.Response:
            async with slots:
                return await self._send(call)

        tasks = [asyncio.create_task(send(call)) for call in self._plan(path, params, accept, checked)]
        try:
            return [await task for task in tasks]
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _send(self, call: Call) -> httpx.Response:
        attempts = Attempts(self._timeout_s)
        arguments = await asyncio.to_thread(call.arguments)  # reads files, compresses pixels
        while True:
            outcome: httpx.Response | httpx.TransportError
            try:
                headers = {**call.headers(), **attempts.timeout_header()}
                outcome = await self._http.request(**arguments, headers=headers, timeout=attempts.left_s)
            except httpx.TransportError as e:
                outcome = e
            if isinstance(outcome, httpx.Response) and outcome.is_success:
                return outcome
            await asyncio.sleep(attempts.pause_s(outcome, call.offset))
