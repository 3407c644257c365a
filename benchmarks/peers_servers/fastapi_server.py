"""Plain FastAPI: a route that decodes and embeds in a thread of the pool."""

# mypy: ignore-errors
# What it imports lies in the environment that it runs in.

from __future__ import annotations

import uvicorn
from encoder import Encoder, settings
from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool

app = FastAPI()
encoder = Encoder()


def _embed(data: bytes) -> list[float]:
    return encoder.embed(encoder.decode(data)[None])[0].tolist()


@app.post("/embed")
async def embed(request: Request) -> dict[str, list[float]]:
    return {"embedding": await run_in_threadpool(_embed, await request.body())}


if __name__ == "__main__":
    chosen = settings()
    uvicorn.run(
        "fastapi_server:app", host="127.0.0.1", port=chosen["port"], workers=chosen["workers"], log_level="warning"
    )
