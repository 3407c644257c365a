"""A store that speaks S3 over HTTP, on loopback: moto's server, in a thread of its own."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from moto.server import ThreadedMotoServer
from pyarrow.fs import S3FileSystem

KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret"}


@dataclass(frozen=True)
class Store:
    """endpoint: where it listens. bucket: its only one."""

    endpoint: str
    bucket: str = "photos"

    @property
    def environment(self) -> Mapping[str, str]:
        """What a user sets to reach it."""
        return {**KEYS, "AWS_ENDPOINT_URL": self.endpoint, "AWS_REGION": "us-east-1"}

    def put(self, files: Mapping[str, bytes]) -> None:
        fs = S3FileSystem(
            access_key="key", secret_key="secret", region="us-east-1",  # noqa: S106
            endpoint_override=self.endpoint, allow_bucket_creation=True,
        )  # fmt: skip
        fs.create_dir(self.bucket)
        for name, content in files.items():
            with fs.open_output_stream(f"{self.bucket}/{name}") as file:
                file.write(content)

    def check_keys(self, *, after: int | None) -> None:
        """From the given number of requests on, or never, keys that are not known here are refused."""
        body = b"inf" if after is None else str(after).encode()
        self._tell("reset-auth", body)

    def clear(self) -> None:
        self._tell("reset", b"")

    def _tell(self, action: str, body: bytes) -> None:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(f"{self.endpoint}/moto-api/{action}", body, headers)  # noqa: S310
        with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
            json.load(answer)


@contextmanager
def running_store() -> Iterator[Store]:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield Store(f"http://{host}:{port}")
    finally:
        server.stop()
