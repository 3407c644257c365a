"""MLServer: a custom runtime behind its adaptive batching, images as base64 in its v2 JSON."""

# mypy: ignore-errors
# What it imports lies in the environment that it runs in.

from __future__ import annotations

import asyncio

import numpy as np
from encoder import MAX_BATCH_SIZE, MAX_WAIT_S, Encoder, settings
from mlserver import MLModel, MLServer, ModelSettings, Settings
from mlserver.codecs import Base64Codec, NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Model(MLModel):
    async def load(self) -> bool:
        self.encoder = Encoder()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        photos = Base64Codec.decode_input(payload.inputs[0])
        found = await asyncio.to_thread(self._embed, photos)
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("embedding", found)])

    def _embed(self, photos: list[bytes]) -> np.ndarray:
        return self.encoder.embed(np.stack([self.encoder.decode(photo) for photo in photos]))


async def main() -> None:
    chosen = settings()
    # Without parallel workers the model shares the server's process: quicker with one model on two cores.
    workers = chosen["workers"] if chosen["workers"] > 1 else 0
    server = MLServer(
        Settings(
            host="127.0.0.1", http_port=chosen["port"], grpc_port=chosen["port"] + 1, metrics_endpoint=None,
            debug=False, parallel_workers=workers, gzip_enabled=False,
        )
    )  # fmt: skip
    model = ModelSettings(
        name="embed", implementation="mlserver_server.Model", max_batch_size=MAX_BATCH_SIZE, max_batch_time=MAX_WAIT_S
    )
    await server.start([model])


if __name__ == "__main__":
    asyncio.run(main())
