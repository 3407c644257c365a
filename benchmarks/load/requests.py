"""What servers are sent: photos, in the form that each takes, none with the same bytes as another."""

from __future__ import annotations

import base64
import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

NUMBER_BYTES = 8  # hexadecimal digits, between a body's two parts
_BOUNDARY = "7e4b1f0c5d2a"

_numbers = itertools.count(0, 1_000_000)


def first_number() -> int:
    """The first of a million numbers that no other caller in this process gets."""
    number: int = next(_numbers) % 16**NUMBER_BYTES
    return number


@dataclass(frozen=True)
class Body:
    """What stands before and behind the number."""

    head: bytes
    tail: bytes = b""

    def numbered(self, number: int) -> bytes:
        return self.head + f"{number:0{NUMBER_BYTES}x}".encode() + self.tail

    def __len__(self) -> int:
        return len(self.head) + NUMBER_BYTES + len(self.tail)


@dataclass(frozen=True)
class Form:
    """How a server wants a photo. `body`: makes it of a JPEG, the number where no decoder looks."""

    path: str
    headers: Mapping[str, str]
    body: Callable[[bytes], Body]


def raw(path: str, accept: str = "application/json") -> Form:
    """The JPEG is the body; the number follows its end."""
    return Form(path, {"Content-Type": "image/jpeg", "Accept": accept}, Body)


def multipart(path: str, field: str) -> Form:
    """The JPEG is a file of a form."""
    part = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name="{field}"; filename="a.jpg"\r\n'
    head, tail = f"{part}Content-Type: image/jpeg\r\n\r\n".encode(), f"\r\n--{_BOUNDARY}--\r\n".encode()
    headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
    return Form(path, headers, lambda photo: Body(head + photo, tail))


def open_inference(path: str) -> Form:
    """The JPEG in base64 in the JSON of the Open Inference Protocol, the number as the request's id."""

    def body(photo: bytes) -> Body:
        tensor = {"name": "images", "shape": [1, 1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
        inputs = json.dumps([tensor | {"data": [base64.b64encode(photo).decode()]}])
        return Body(f'{{"inputs": {inputs}, "id": "'.encode(), b'"}')

    return Form(path, {"Content-Type": "application/json"}, body)


@dataclass(frozen=True)
class Target:
    """A server's port on the loopback, and what to send there. `answer_bytes`: the least and the most of a right
    answer's body.
    """

    port: int
    form: Form
    bodies: Sequence[Body]
    answer_bytes: tuple[int, int] = (1, 2**31)

    def head(self, body: Body) -> bytes:
        """The request up to its body."""
        lines = [f"POST {self.form.path} HTTP/1.1", f"Host: 127.0.0.1:{self.port}", f"Content-Length: {len(body)}"]
        lines += [f"{name}: {value}" for name, value in self.form.headers.items()]
        return "\r\n".join([*lines, "", ""]).encode()

    def request(self, number: int) -> bytes:
        """The photos take turns."""
        body = self.bodies[number % len(self.bodies)]
        return self.head(body) + body.numbered(number)


def target(port: int, form: Form, photos: Sequence[bytes]) -> Target:
    return Target(port, form, [form.body(photo) for photo in photos])


def read_photos(folder: Path | None) -> list[bytes]:
    """The JPEGs of a folder, or made ones of about the size of ImageNet's. SystemExit if it holds none."""
    if folder is None:
        return [_made_photo(seed) for seed in range(64)]
    files = sorted(f for f in folder.iterdir() if f.suffix.lower() in (".jpg", ".jpeg")) if folder.is_dir() else []
    if not files:
        raise SystemExit(f"error: {folder} holds no JPEG; --images names a folder of them")
    return [f.read_bytes() for f in files]


def _made_photo(seed: int) -> bytes:
    """500 x 375: noise at several scales, as natural images have it, and so a JPEG of a photo's weight."""
    rng = np.random.default_rng(seed)
    image = np.zeros((375, 500, 3), np.float32)
    for size, weight in ((4, 1.0), (16, 0.6), (64, 0.3), (250, 0.15)):
        noise = Image.fromarray(rng.integers(0, 256, (size, size, 3), dtype=np.uint8))
        image += weight * np.asarray(noise.resize((500, 375), Image.Resampling.BICUBIC), np.float32)
    out = BytesIO()
    Image.fromarray((image / 2.05).clip(0, 255).astype(np.uint8)).save(out, "JPEG", quality=90)
    return out.getvalue()
