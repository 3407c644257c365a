"""Nothing leaves the machine: what ONNX Runtime and OpenVINO report of their use, they do not report from here."""

from __future__ import annotations

import os
import sys
from typing import Any, cast


def silence() -> None:
    """To be called before the first import of onnxruntime or openvino.

    ONNX Runtime's Linux wheels read a variable; what the user has set stays. OpenVINO imports the package
    openvino_telemetry, which asks nobody, calls www.google-analytics.com and writes to the home folder; no variable
    stops it, but OpenVINO does without the package, and None in its place is how Python says that there is none.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
