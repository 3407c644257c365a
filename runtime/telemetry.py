"""Nothing leaves the machine: ONNX Runtime's Linux wheels report their use over the network unless told not to."""

from __future__ import annotations

import os


def silence() -> None:
    """To be called before the first import of onnxruntime; what the user has set stays."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
