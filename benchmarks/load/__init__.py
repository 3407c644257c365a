"""Servers of image features under load, in turns: what `benchmarks.serve_load` measures with."""
