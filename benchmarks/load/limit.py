"""The limit: decode and run, with nothing around them."""

from __future__ import annotations

import socket
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.load.requests import Target, first_number
from benchmarks.peers_servers.encoder import decode
from bundle.manifest import Precision
from bundle.masking import all_ids
from bundle.preprocess import preprocess
from bundle.store import Bundle
from runtime.cores import usable_cores
from runtime.onnx import load_session

Decode = Callable[[bytes], NDArray[np.uint8]]


def our_decode(bundle: Bundle) -> Decode:
    """As the service decodes: encoded bytes -> u8 [H, W, C]."""
    manifest = bundle.manifest
    return lambda data: preprocess(data, manifest.preprocess, channels=manifest.model.channels)


def plain_decode(bundle: Bundle) -> Decode:
    """As the peers decode: encoded bytes -> u8 [H, W, 3]."""
    spec = bundle.manifest.preprocess
    return lambda data: decode(data, spec.resize, spec.crop)


class BareLoop:
    """As many threads as there are cores, each with its own one-thread session of the encoder."""

    def __init__(self, bundle: Bundle, decoder: Decode, photos: Sequence[bytes], precision: Precision = "fp32") -> None:
        self._decode, self._photos = decoder, photos
        self._output = bundle.manifest.pooling
        self._ids = np.ascontiguousarray(all_ids(1, bundle.manifest.model.num_patches))
        file = bundle.graph_file("encoder", precision)
        self._sessions = [load_session(file) for _ in range(usable_cores())]

    def embed(self, photo: bytes, lane: int = 0) -> NDArray[np.float32]:
        """Encoded bytes -> f32 [D]."""
        inputs = {"images": self._decode(photo)[None], "ids_keep": self._ids}
        found: NDArray[np.float32] = self._sessions[lane].run([self._output], inputs)[0][0]
        return found

    def rate(self, seconds: float) -> float:
        """Images per second of all threads together."""
        counts = [0] * len(self._sessions)
        until = time.perf_counter() + seconds

        def loop(lane: int) -> None:
            while time.perf_counter() < until:
                self.embed(self._photos[counts[lane] % len(self._photos)], lane)
                counts[lane] += 1

        started = time.perf_counter()
        threads = [threading.Thread(target=loop, args=(lane,)) for lane in range(len(counts))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return sum(counts) / (time.perf_counter() - started)


@dataclass(frozen=True)
class Overhead:
    """Medians in ms: of one request to an unloaded server, of decode + run in this process, of the difference of each
    pair.
    """

    request_ms: float
    bare_ms: float
    difference_ms: float


def overhead(target: Target, bare: BareLoop, photos: Sequence[bytes], seconds: float) -> Overhead:
    """One photo after the other, both ways in turns."""
    asked: list[float] = []
    done: list[float] = []
    with socket.create_connection(("127.0.0.1", target.port)) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        until, number = time.perf_counter() + seconds, first_number()
        while time.perf_counter() < until or len(asked) < 2:
            start = time.perf_counter()
            bare.embed(photos[number % len(photos)])
            done.append(time.perf_counter() - start)
            request = target.request(number)
            start = time.perf_counter()
            _exchange(connection, request)
            asked.append(time.perf_counter() - start)
            number += 1
    differences = [a - b for a, b in zip(asked, done, strict=True)]
    return Overhead(*(statistics.median(times) * 1000 for times in (asked, done, differences)))


def _exchange(connection: socket.socket, request: bytes) -> None:
    """Send, and read the answer to its end. ValueError for one that is not 200 with a length."""
    connection.sendall(request)
    answer = b""
    while (end := answer.find(b"\r\n\r\n")) < 0:
        answer += _received(connection)
    status, *lines = answer[:end].lower().split(b"\r\n")
    if not status.startswith(b"http/1.1 200"):
        raise ValueError(f"the server answered {status.decode()}")
    length = next(int(line.split(b":")[1]) for line in lines if line.startswith(b"content-length:"))
    left = length - (len(answer) - end - 4)
    while left > 0:
        left -= len(_received(connection))


def _received(connection: socket.socket) -> bytes:
    if not (data := connection.recv(65536)):
        raise ValueError("the server closed the connection")
    return data
