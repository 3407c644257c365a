"""Images named by https URLs, fetched so that a caller cannot make the service reach where the caller could not.

A name is resolved once; every address it has must be public, and the connection goes to one of exactly those, with the
certificate checked against the name: an answer of DNS that changes in between (rebinding) changes nothing.
"""

from __future__ import annotations

import asyncio
import ipaddress
import ssl
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

import h11

from bundle.errors import InvalidInput, TooLarge
from service.names import LookUps
from service.settings import Settings

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]

_URL_CHARS = 2048
_NUM_REDIRECTS = 3
_NUM_ADDRESSES = 3  # of a name, tried one after the other
_CONCURRENCY = 16  # fetches at once, of all requests
_LOOK_UPS = LookUps(8 * _CONCURRENCY)  # the system waits for a name server many times as long as a fetch may take
_READ_BYTES = 64 * 2**10
_REDIRECTS = {301, 302, 303, 307, 308}
# What `is_global` takes for public though packets may end inside: translated, tunnelled and compatible addresses, which
# carry an IPv4 address of the caller's choice (RFC 6052, 8215, 3056, 4380, 4291), and the relay of 6to4 (RFC 7526).
_DISGUISES = tuple(
    map(ipaddress.ip_network, ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96", "192.88.99.0/24"))
)


class Unreachable(Exception):
    """A URL could not be fetched, for a reason that may tell about the network that the service is in."""


def is_public(address: Address) -> bool:
    """Whether anyone on the internet could reach it, so that reaching it for a caller gives nothing away."""
    if isinstance(address, ipaddress.IPv6Address) and (address.ipv4_mapped is not None or address.is_site_local):
        return False
    disguised = any(address.version == each.version and address in each for each in _DISGUISES)
    return address.is_global and not address.is_multicast and not address.is_reserved and not disguised


def is_url(text: str) -> bool:
    """Whether a string where base64 may stand is meant as a URL; no base64 holds a colon."""
    return text[:8].lower().startswith(("https://", "http://"))


@dataclass(frozen=True)
class _Target:
    host: str
    port: int
    path: str  # and query


class _Budget:
    """Bytes that a request's images may have together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._left = max_bytes

    def check(self, num_bytes: int, index: int) -> None:
        if num_bytes > self._left:
            raise TooLarge(f"image {index}: with it the images have more than {self._max_bytes} bytes", index=index)

    def take(self, num_bytes: int, index: int) -> None:
        self.check(num_bytes, index)
        self._left -= num_bytes


class Fetcher:
    """Fetches from public addresses on port 443. The other arguments are for tests, which have no internet.

    `resolve` raises OSError for a name without addresses. `allow`: which addresses may be connected to.
    """

    def __init__(
        self,
        *,
        max_bytes: int,
        timeout_s: float,
        resolve: Resolve = _LOOK_UPS.addresses,
        allow: Callable[[Address], bool] = is_public,
        ports: Collection[int] = (443,),
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._max_bytes = max_bytes
        self._timeout_s = timeout_s
        self._resolve = resolve
        self._allow = allow
        self._ports = ports
        self._tls = tls or ssl.create_default_context()
        self._places = asyncio.Semaphore(_CONCURRENCY)

    async def fetch(self, images: Sequence[bytes | str]) -> list[bytes]:
        """The images in their order, those that are URLs fetched.

        InvalidInput with the first image's index whose URL is not one that is fetched, or did not give an image's
        bytes; TooLarge if they have more than `max_bytes` together.
        """
        budget = _Budget(self._max_bytes)
        targets = [None if isinstance(image, bytes) else self._target(image, i) for i, image in enumerate(images)]
        tasks = {
            i: asyncio.create_task(self._fetch(target, i, budget))
            for i, target in enumerate(targets)
            if target is not None
        }
        try:
            await asyncio.wait(tasks.values(), return_when=asyncio.FIRST_EXCEPTION)
            for task in tasks.values():
                if task.done():
                    task.result()
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        return [image if isinstance(image, bytes) else tasks[i].result() for i, image in enumerate(images)]

    def _target(self, url: str, index: int) -> _Target:
        """InvalidInput for what is never fetched, whoever answers there."""
        try:
            parts = urlsplit(url)
            port = parts.port or 443
        except ValueError:
            raise InvalidInput(f"image {index}: the URL is malformed", index=index) from None
        clean = len(url) <= _URL_CHARS and url.isascii() and url.isprintable() and " " not in url and "\\" not in url
        if not clean or not parts.hostname:
            raise InvalidInput(
                f"image {index}: a URL must be ASCII without spaces, of at most {_URL_CHARS} characters", index=index
            )
        if parts.scheme != "https" or port not in self._ports or "@" in parts.netloc:
            raise InvalidInput(f"image {index}: a URL must be https, on port 443 and without a user", index=index)
        path = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        return _Target(parts.hostname, port, path)

    async def _fetch(self, target: _Target, index: int, budget: _Budget) -> bytes:
        async with self._places:
            try:
                async with asyncio.timeout(self._timeout_s):
                    return await self._follow(target, index, budget)
            except TimeoutError:
                ms = self._timeout_s * 1000
                raise InvalidInput(f"image {index} did not come from its URL within {ms:.0f} ms", index=index) from None
            except (Unreachable, OSError, ValueError, h11.ProtocolError):  # which of them is not told
                raise InvalidInput(f"image {index} could not be fetched from its URL", index=index) from None

    async def _follow(self, target: _Target, index: int, budget: _Budget) -> bytes:
        for _ in range(_NUM_REDIRECTS + 1):
            found = await self._get(target, index, budget)
            if isinstance(found, bytes):
                return found
            target = self._target(found, index)
        raise InvalidInput(f"image {index}: its URL redirects more than {_NUM_REDIRECTS} times", index=index)

    async def _get(self, target: _Target, index: int, budget: _Budget) -> bytes | str:
        """The body, or the URL to go on with."""
        reader, writer = await self._connect(target)
        try:
            return await _Exchange(reader, writer, target, index, budget).run()
        finally:
            writer.transport.abort()

    async def _connect(self, target: _Target) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        addresses = [ipaddress.ip_address(text) for text in await self._resolve(target.host, target.port)]
        if not addresses or not all(map(self._allow, addresses)):
            raise Unreachable(target.host)
        for address in addresses[:_NUM_ADDRESSES]:
            try:
                async with asyncio.timeout(self._timeout_s / 2):  # leaves time for the next
                    return await asyncio.open_connection(
                        str(address), target.port, ssl=self._tls, server_hostname=target.host
                    )
            except (OSError, TimeoutError):
                continue
        raise Unreachable(target.host)


class _Exchange:
    """One GET over a connection of its own."""

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        target: _Target,
        index: int,
        budget: _Budget,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._target = target
        self._index = index
        self._budget = budget
        self._http = h11.Connection(h11.CLIENT)

    async def run(self) -> bytes | str:
        headers = [
            ("Host", urlsplit(self._url()).netloc), ("User-Agent", "maeve"), ("Accept", "image/*"),
            ("Accept-Encoding", "identity"), ("Connection", "close"),
        ]  # fmt: skip
        request = self._http.send(h11.Request(method="GET", target=self._target.path, headers=headers))
        self._writer.write((request or b"") + (self._http.send(h11.EndOfMessage()) or b""))
        response = await self._next()
        while isinstance(response, h11.InformationalResponse):
            response = await self._next()
        assert isinstance(response, h11.Response)
        fields = {name.decode("latin-1"): value.decode("latin-1") for name, value in response.headers}
        if response.status_code in _REDIRECTS and "location" in fields:
            return urljoin(self._url(), fields["location"])
        if response.status_code != 200:
            raise self._bad(f"its URL answered with status {response.status_code}")
        if fields.get("content-encoding", "identity").lower() != "identity":
            raise self._bad("its URL answered with a compressed body")
        self._budget.check(int(fields.get("content-length", "0")), self._index)
        return await self._body()

    async def _body(self) -> bytes:
        body = bytearray()
        while isinstance(event := await self._next(), h11.Data):
            self._budget.take(len(event.data), self._index)
            body += event.data
        return bytes(body)

    async def _next(self) -> object:
        """The next event. h11.RemoteProtocolError for an answer that is none, or is cut short."""
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._reader.read(_READ_BYTES))
        if isinstance(event, h11.ConnectionClosed):
            raise Unreachable(self._target.host)
        return event

    def _url(self) -> str:
        host = f"[{self._target.host}]" if ":" in self._target.host else self._target.host
        port = "" if self._target.port == 443 else f":{self._target.port}"
        return f"https://{host}{port}{self._target.path}"

    def _bad(self, what: str) -> InvalidInput:
        return InvalidInput(f"image {self._index}: {what}", index=self._index)


def make_fetcher(settings: Settings) -> Fetcher | None:
    """None where MAEVE_IMAGE_URLS is off."""
    if not settings.image_urls:
        return None
    return Fetcher(max_bytes=settings.max_body_bytes, timeout_s=settings.image_url_timeout_ms / 1000)


async def fetch_images(images: Sequence[bytes | str], fetcher: Fetcher | None) -> list[bytes]:
    """The images in their order, those that are URLs fetched; raises as Fetcher.fetch.

    InvalidInput with the index of the first URL if there is no fetcher.
    """
    urls = [i for i, image in enumerate(images) if isinstance(image, str)]
    if urls and fetcher is None:
        raise InvalidInput(
            f"image {urls[0]} is a URL, which this service does not fetch (MAEVE_IMAGE_URLS)", index=urls[0]
        )
    if not urls or fetcher is None:
        return [image for image in images if isinstance(image, bytes)]
    return await fetcher.fetch(images)
