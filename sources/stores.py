"""Stores that are not this machine's disk: the file system behind a URL, and what its errors mean.

`s3://` and `gs://` go through pyarrow's own file systems, everything else through fsspec's
(docs/decisions/0086-stores-through-arrow.md). What they need to know stands in the environment, as the stores' own
tools read it: AWS_ENDPOINT_URL, AWS_REGION, AWS_PROFILE and the keys, GOOGLE_APPLICATION_CREDENTIALS.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from datetime import timedelta
from functools import lru_cache
from typing import Any, BinaryIO, NamedTuple, cast

_CONNECT_TIMEOUT_S = 5
_ANSWER_TIMEOUT_S = 15  # without a byte
_ATTEMPTS = 3
_GOOGLE_RETRIES_S = 5  # of one request; twice as long in practice
_BUFFER_BYTES = 2**20  # a request of its own for every few bytes would take as long as the way there and back
_AWS_ERROR = re.compile(r"AWS Error (\w+) during \w+ operation: (.*)", re.DOTALL)
_GOOGLE_ERROR = re.compile(r"google::cloud::Status\((\w+): (.*?)(?: error_info=|\)$)", re.DOTALL)
_NOT_LET_IN = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "SIGNATURE_DOES_NOT_MATCH", "INVALID_CLIENT_TOKEN_ID")
_YES = ("1", "true", "yes")


class Reason(NamedTuple):
    """text: goes behind the name of what failed. passing: whether asking again may help."""

    text: str
    passing: bool


MISSING = Reason("does not exist", passing=False)


def file_system(url: str) -> tuple[Any, str]:
    """fsspec's file system for a URL, and the path within it. Raises what fsspec and pyarrow raise, see `reason`."""
    scheme, _, path = url.partition("://")
    if scheme in ("s3", "s3a"):
        return _s3(path.split("/", 1)[0], os.environ), path
    if scheme in ("gs", "gcs"):
        return _gcs(_is_yes(os.environ, "GS_NO_SIGN_REQUEST")), path
    import fsspec

    fs, within = fsspec.core.url_to_fs(url, **(_web_options() if scheme in ("http", "https") else {}))
    return fs, within


def open_stored(url: str) -> BinaryIO:
    """For reading from the start; can be stepped through where the store can. Raises as `file_system` does."""
    fs, path = file_system(url)
    file = fs.open(path, "rb")
    if is_arrow(fs):
        return cast("BinaryIO", io.BufferedReader(file, _BUFFER_BYTES))
    return cast("BinaryIO", file)


def stored_size(file: BinaryIO) -> int | None:
    """The bytes of what `open_stored` returned; None where the store does not tell."""
    size = getattr(getattr(file, "raw", file), "size", None)
    return cast("int | None", size() if callable(size) else size)


def is_arrow(fs: Any) -> bool:
    from fsspec.implementations.arrow import ArrowFSWrapper

    return isinstance(fs, ArrowFSWrapper)


def reason(error: Exception) -> Reason:
    """What an error of a disk or a store means. Every store raises errors of its own."""
    if isinstance(error, FileNotFoundError) and not hasattr(error.__cause__, "status"):
        return MISSING
    if isinstance(error, PermissionError):
        return Reason("may not be read: permission denied", passing=False)
    if (match := _AWS_ERROR.search(str(error))) is not None:
        return _aws_reason(*match.groups())
    if (match := _GOOGLE_ERROR.search(str(error))) is not None:
        return _google_reason(*match.groups())
    # fsspec makes a missing file of everything that a web server may answer, and keeps the answer as its cause.
    status = getattr(error, "status", getattr(error.__cause__, "status", None))
    if isinstance(status, int):
        return _web_reason(status)
    return Reason(f"cannot be read: {str(error).strip() or type(error).__name__}", passing=True)


def _aws_reason(code: str, message: str) -> Reason:
    if code == "NO_SUCH_BUCKET":
        return Reason("cannot be reached: there is no such bucket", passing=False)
    if code in _NOT_LET_IN or "HTTP 403" in message:
        return Reason(
            f"may not be read: {code.lower().replace('_', ' ')}; see to AWS_PROFILE or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY, or set AWS_NO_SIGN_REQUEST=1 for what is public",
            passing=False,
        )
    return Reason(f"cannot be reached: {message.rsplit('Details: ', 1)[-1].strip()}", passing=True)


def _web_reason(status: int) -> Reason:
    if status in (404, 410):
        return MISSING
    if status in (401, 403):
        return Reason(f"may not be read: HTTP status {status}", passing=False)
    return Reason(f"cannot be reached: HTTP status {status}", passing=status >= 500 or status in (408, 429))


def _google_reason(code: str, message: str) -> Reason:
    if code in ("UNAUTHENTICATED", "PERMISSION_DENIED"):
        return Reason(
            f"may not be read: {code.lower().replace('_', ' ')}; see to GOOGLE_APPLICATION_CREDENTIALS, or set "
            "GS_NO_SIGN_REQUEST=1 for what is public",
            passing=False,
        )
    return Reason(f"cannot be reached: {message.rsplit('last message of ', 1)[-1].strip()}", passing=True)


def _s3(bucket: str, environment: Mapping[str, str]) -> Any:
    """A region that nothing tells is asked for, since a bucket answers in its own alone; another's store has none."""
    endpoint = environment.get("AWS_ENDPOINT_URL_S3") or environment.get("AWS_ENDPOINT_URL") or None
    region = environment.get("AWS_REGION") or environment.get("AWS_DEFAULT_REGION") or None
    if endpoint is None and region is None:
        region = _region_of(bucket)
    return _s3_client(endpoint, region, _is_yes(environment, "AWS_NO_SIGN_REQUEST"))


@lru_cache(maxsize=64)
def _region_of(bucket: str) -> str:
    from pyarrow.fs import resolve_s3_region

    return cast("str", resolve_s3_region(bucket))


@lru_cache(maxsize=8)
def _s3_client(endpoint: str | None, region: str | None, anonymous: bool) -> Any:
    """One for all, since each holds connections. The keys are found by the SDK's chain."""
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    return ArrowFSWrapper(
        S3FileSystem(
            endpoint_override=endpoint,
            region=region,
            anonymous=anonymous,
            connect_timeout=_CONNECT_TIMEOUT_S,
            request_timeout=_ANSWER_TIMEOUT_S,
            retry_strategy=AwsStandardS3RetryStrategy(max_attempts=_ATTEMPTS),
        ),
        skip_instance_cache=True,
    )


@lru_cache(maxsize=2)
def _gcs(anonymous: bool) -> Any:
    from fsspec.implementations.arrow import ArrowFSWrapper
    from pyarrow.fs import GcsFileSystem

    limit = timedelta(seconds=_GOOGLE_RETRIES_S)
    return ArrowFSWrapper(GcsFileSystem(anonymous=anonymous, retry_time_limit=limit), skip_instance_cache=True)


def _web_options() -> dict[str, Any]:
    """fsspec's own are five minutes for everything, a big file's content included."""
    with suppress(ImportError):  # fsspec says itself what is missing
        import aiohttp

        timeout = aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_ANSWER_TIMEOUT_S)
        return {"client_kwargs": {"timeout": timeout}}
    return {}


def _is_yes(environment: Mapping[str, str], name: str) -> bool:
    return environment.get(name, "").lower() in _YES
