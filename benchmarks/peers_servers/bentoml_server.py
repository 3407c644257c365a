"""BentoML: a batchable route that takes photos as files; its dispatcher waits as long as it finds useful."""

# mypy: ignore-errors
# What it imports lies in the environment that it runs in.

from __future__ import annotations

import bentoml
import numpy as np
from encoder import MAX_BATCH_SIZE, Encoder, settings
from PIL.Image import Image

chosen = settings()


@bentoml.service(workers=chosen["workers"], traffic={"timeout": 60, "max_concurrency": 1024})
class Embed:
    def __init__(self) -> None:
        self.encoder = Encoder()

    # max_latency_ms is no time to wait for a batch: requests that would take longer are refused.
    @bentoml.api(batchable=True, max_batch_size=MAX_BATCH_SIZE, max_latency_ms=60_000)
    def embed(self, images: list[Image]) -> list[list[float]]:
        return self.encoder.embed(np.stack([self.encoder.cut(image) for image in images])).tolist()
