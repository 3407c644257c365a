"""Errors that end an export with one line instead of a traceback."""

from __future__ import annotations

from bundle.errors import MaeveError


class ExportError(MaeveError):
    """What was given cannot be exported; the message says what to do."""


class ParityError(MaeveError):
    """An exported graph does not compute what torch computes."""
