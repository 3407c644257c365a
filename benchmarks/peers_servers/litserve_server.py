"""LitServe, with the batching of its documentation."""

# mypy: ignore-errors
# What it imports lies in the environment that it runs in.

# LitServe reads annotations as they are, so they must not be strings.

from typing import Annotated

import litserve
import numpy as np
from encoder import MAX_BATCH_SIZE, MAX_WAIT_S, Encoder, settings
from fastapi import Body
from numpy.typing import NDArray


class Api(litserve.LitAPI):
    def setup(self, device: str) -> None:
        del device
        self.encoder = Encoder()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> NDArray[np.uint8]:
        return self.encoder.decode(request)

    def batch(self, inputs: list[NDArray[np.uint8]]) -> NDArray[np.uint8]:
        return np.stack(inputs)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self.encoder.embed(x)

    def unbatch(self, output: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        return list(output)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, list[float]]:
        return {"embedding": output.tolist()}


if __name__ == "__main__":
    chosen = settings()
    api = Api(max_batch_size=MAX_BATCH_SIZE, batch_timeout=MAX_WAIT_S, api_path="/embed")
    server = litserve.LitServer(api, accelerator="cpu", workers_per_device=chosen["workers"], timeout=60)
    server.run(host="127.0.0.1", port=chosen["port"], log_level="warning", generate_client_file=False)
