"""The one exception tree. `service.errors` maps it to HTTP; everything else lets it pass through."""


class MaeveError(Exception):
    """Root of every error that Maeve raises on purpose."""


class InvalidInput(MaeveError):
    """The caller's image or parameter is wrong (HTTP 400).

    `param` names the offending parameter, `index` the offending image of a request, counted from 0.
    """

    def __init__(self, message: str, *, param: str | None = None, index: int | None = None) -> None:
        super().__init__(message)
        self.param = param
        self.index = index


class UnsupportedMedia(InvalidInput):
    """The bytes are not an image of a type that is read (HTTP 415)."""


class TooLarge(InvalidInput):
    """Too many bytes, pixels or images (HTTP 413)."""


class Overloaded(MaeveError):
    """The queue is full (HTTP 429). `retry_after_s`: seconds until a place is expected to be free."""

    def __init__(self, message: str, *, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Unavailable(MaeveError):
    """Starting, draining or restarting (HTTP 503)."""


class DeadlineExceeded(MaeveError):
    """The request's time is over (HTTP 504)."""


class SourceError(MaeveError):
    """What was named as data cannot be read, or holds no images; the message says what to do."""


class BundleError(MaeveError):
    """A bundle is missing, incomplete, altered or of another schema."""


class RuntimeUnavailable(MaeveError):
    """The asked-for runtime or device is not on this machine."""


class InferenceError(MaeveError):
    """A graph failed on these inputs; others may still succeed. Where it was a batch, a part of it may be to blame."""


class OutOfMemory(InferenceError):
    """The device's memory does not hold a call of this size; a smaller one may fit."""


class CacheError(MaeveError):
    """The cache did not answer. Costs speed, never a request."""
