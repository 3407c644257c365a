"""Millions of images: embedded into Parquet on Ray, and indexed for search."""
