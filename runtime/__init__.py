"""What runs a bundle's graphs, behind one small Protocol. Imports no torch."""

from runtime.base import Arrays, Runtime, ServedPrecision
from runtime.select import DEVICE_PATTERN, PrecisionName, RuntimeName, open_runtime

__all__ = ["DEVICE_PATTERN", "Arrays", "PrecisionName", "Runtime", "RuntimeName", "ServedPrecision", "open_runtime"]
