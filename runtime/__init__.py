"""What runs a bundle's graphs, behind one small Protocol. Imports no torch."""

from runtime.base import Arrays, Runtime
from runtime.select import RuntimeName, open_runtime

__all__ = ["Arrays", "Runtime", "RuntimeName", "open_runtime"]
