"""Starlette doing nothing: a route that reads the body and answers with zeros, the limit of what a cache hit can be.

python -m benchmarks.load.noop PORT BYTES
"""

from __future__ import annotations

import sys

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route


def create_app(num_bytes: int) -> Starlette:
    """`POST /embed` answers with `num_bytes` zeros."""
    zeros = bytes(num_bytes)

    async def embed(request: Request) -> Response:
        await request.body()
        return Response(zeros, media_type="application/octet-stream")

    return Starlette(routes=[Route("/embed", embed, methods=["POST"])])


if __name__ == "__main__":
    uvicorn.run(create_app(int(sys.argv[2])), host="127.0.0.1", port=int(sys.argv[1]), log_level="warning")
