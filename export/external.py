"""Which files beside it an ONNX graph says its weights are in."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx


def external_files(model: onnx.ModelProto) -> set[str]:
    """The locations, as the graph spells them, of all arrays that it keeps outside of itself."""
    nodes = (node for function in model.functions for node in function.node)
    tensors = (*_of_graph(model.graph), *_of_nodes(nodes))
    return {
        next((entry.value for entry in tensor.external_data if entry.key == "location"), "")
        for tensor in tensors
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    }


def _of_graph(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.TensorProto]:
    """Constants, and what is in the branches of an If or the body of a Loop."""
    for attribute in (each for node in nodes for each in node.attribute):
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        if attribute.HasField("g"):
            yield from _of_graph(attribute.g)
        for graph in attribute.graphs:
            yield from _of_graph(graph)
