"""What a set of stored vectors is: enough to compare others with it. Written by bulk, read by whoever searches.

Letters: D width of a vector.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from bundle.manifest import Pooling, PositiveInt, Sha256

VECTORS_KEY = b"maeve"  # of a table's schema metadata, in Parquet and in the index: a VectorSpec or an IndexInfo
INDEX_TABLE = "images"  # the table's name in an index

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
