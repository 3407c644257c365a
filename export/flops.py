"""How much arithmetic a graph does for one image: 2 FLOPs per multiply-accumulate of its matrix products.

What is left out (norms, softmax, GELU, sums) is a few percent of it, and is no work for a matrix unit. Letters: L
patches, K patches kept, D encoder width, E decoder width, T tokens.
"""

from __future__ import annotations

from bundle.manifest import GraphName, GraphSpec, Manifest, ModelSpec


def encoder_flops(model: ModelSpec, num_keep: int) -> int:
    """The encoder, where it sees `num_keep` patches (K): the embedding, then blocks over 1 + K tokens."""
    embed = 2 * num_keep * model.patch_dim * model.dim
    return embed + model.depth * _block_flops(1 + num_keep, model.dim, model.mlp_ratio)


def graph_flops(manifest: Manifest, graph: GraphName, num_keep: int) -> int:
    """One image through one graph. `num_keep`: the patches that the encoder sees; a classifier sees them all."""
    model, spec = manifest.model, manifest.graphs[graph]
    match graph:
        case "encoder":
            return encoder_flops(model, num_keep)
        case "decoder":
            return _decoder_flops(model, num_keep)
        case "head":
            return 2 * sum(_width(tensor.shape) for tensor in spec.inputs) * _num_classes(spec)
        case "classifier":
            return encoder_flops(model, model.num_patches) + 2 * model.dim * _num_classes(spec)


def _decoder_flops(model: ModelSpec, num_keep: int) -> int:
    assert model.decoder is not None  # else there would be no such graph
    width = model.decoder.dim
    embed = 2 * (1 + num_keep) * model.dim * width
    # The decoder's MLP has the ratio of the encoder's (mae.model.Decoder).
    blocks = model.decoder.depth * _block_flops(1 + model.num_patches, width, model.mlp_ratio)
    return embed + blocks + 2 * model.num_patches * width * model.patch_dim


def _block_flops(tokens: int, dim: int, mlp_ratio: float) -> int:
    """q, k, v and the projection, both layers of the MLP, and the two products of attention."""
    linear = 2 * tokens * dim * (4 * dim + 2 * int(dim * mlp_ratio))
    return linear + 4 * tokens * tokens * dim


def _width(shape: tuple[int | str, ...]) -> int:
    assert isinstance(shape[-1], int)
    return shape[-1]


def _num_classes(spec: GraphSpec) -> int:
    return _width(spec.outputs[0].shape)
