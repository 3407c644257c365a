"""The servers that `benchmarks.serve_load --peers` runs beside ours, each as its users would write it.

Each runs in an environment of its own, which holds nothing of this project: these files import each other alone.
"""
