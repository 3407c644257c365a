"""TensorRT: engines built from the bundle's graphs, kept on disk, and run through CUDA graphs. Imports no torch."""
