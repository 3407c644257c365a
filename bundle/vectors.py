"""What a set of stored vectors is: enough to compare others with it. Written by bulk, read by whoever searches.

Letters: D width of a vector.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Pooling, PositiveInt, Sha256

VECTORS_KEY = b"maeve"  # of a table's schema metadata, in Parquet and in the index: a VectorSpec or an IndexInfo
INDEX_TABLE = "images"  # the table's name in an index
APPROXIMATE_FROM = 20_000  # rows of an index; below, comparing with all of them is as fast (decision 88)
REFINE = 10  # candidates of an approximate index for each row asked for, compared by their stored vectors
_URL: Final = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)

StoredDtype = Literal["float32", "float16"]


class VectorSpec(BaseModel):
    """How vectors were made; two sets compare only if theirs are equal but for `dtype` and `precision`.

    bundle, digest: the bundle's name and digest. precision: of the engine, such as fp32, bf16, int8. keep: part of the
    patches that the encoder saw. normalize: whether every vector has length 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    bundle: str
    digest: Sha256
    precision: str
    pooling: Pooling
    normalize: bool
    keep: Annotated[float, Field(gt=0, le=1)]
    dim: PositiveInt
    dtype: StoredDtype


class IndexInfo(BaseModel):
    """The metadata of an index's table. Its columns: `path` string, `sha256` string, `vector` float32[D], and others to
    filter by.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    schema_version: Literal[1] = 1
    vectors: VectorSpec


def is_store(location: str) -> bool:
    """Whether an index lies in an object store, by URL, and not in a folder."""
    return _URL.match(location) is not None


def store_options(location: str, environment: Mapping[str, str]) -> dict[str, str] | None:
    """Beyond what LanceDB finds in the environment by itself: another S3 than Amazon's, and an end to its patience.

    None for a folder.
    """
    if not is_store(location):
        return None
    options = {"client_max_retries": "3", "connect_timeout": "5s"}
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL")
    if endpoint is not None and location.lower().startswith("s3://"):
        options |= {"aws_endpoint": endpoint, "allow_http": str(endpoint.startswith("http://")).lower()}
    return options
