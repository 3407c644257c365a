"""What all peers do with a photo: Pillow decodes it, ONNX Runtime embeds a batch. Its settings are the file at PEER."""

from __future__ import annotations

import json
import os
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray
from PIL import Image

MAX_BATCH_SIZE = 8
MAX_WAIT_S = 0.005


def settings() -> dict[str, Any]:
    """`model`, the ONNX file; `output`, the name of its embedding; `resize` and `crop`, [height, width] in pixels;
    `num_patches`; `workers`, processes; `threads` of each one's session; `port`.
    """
    found: dict[str, Any] = json.loads(Path(os.environ["PEER"]).read_text())
    return found


def decode(data: bytes, resize: tuple[int, int], crop: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of an encoded image, scaled until it covers `resize`: u8 [H, W, 3]."""
    return cut(Image.open(BytesIO(data)), resize, crop)


def cut(image: Image.Image, resize: tuple[int, int], crop: tuple[int, int]) -> NDArray[np.uint8]:
    """`decode` of an opened image."""
    scale = max(resize[0] / image.height, resize[1] / image.width)
    width, height = round(image.width * scale), round(image.height * scale)
    left, top = (width - crop[1]) // 2, (height - crop[0]) // 2
    scaled = image.convert("RGB").resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(scaled.crop((left, top, left + crop[1], top + crop[0])))


class Encoder:
    """A session of ONNX Runtime with its defaults but for the number of threads."""

    def __init__(self) -> None:
        self._settings = settings()
        options = ort.SessionOptions()
        options.intra_op_num_threads = self._settings["threads"]
        self._session = ort.InferenceSession(self._settings["model"], options, providers=["CPUExecutionProvider"])
        self._ids = np.arange(self._settings["num_patches"], dtype=np.int64)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """u8 [H, W, 3]."""
        return decode(data, self._settings["resize"], self._settings["crop"])

    def cut(self, image: Image.Image) -> NDArray[np.uint8]:
        """u8 [H, W, 3]."""
        return cut(image, self._settings["resize"], self._settings["crop"])

    def embed(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """u8 [N, H, W, 3] -> f32 [N, D]."""
        ids = np.tile(self._ids, (len(images), 1))
        found: NDArray[np.float32] = self._session.run([self._settings["output"]], {"images": images, "ids_keep": ids})[
            0
        ]
        return found
