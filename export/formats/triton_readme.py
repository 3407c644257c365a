"""The README.md of a Triton model repository."""

from __future__ import annotations

from collections.abc import Mapping

from bundle.manifest import GraphName, Preprocess, TensorSpec
from bundle.store import Bundle
from export.formats.options import TritonOptions

_TEXT = """\
# {name} for Triton

A model repository for Triton's `onnxruntime` backend, written by `python -m export --format triton` from the bundle
`{name}`, digest `{digest}`.

    tritonserver --model-repository=REPOSITORY

Several such repositories can be given, each with a `--model-repository` of its own: names begin with their bundle's.

| model | precision | inputs | outputs |
| --- | --- | --- | --- |
{rows}

N is the batch, K the number of patches kept, at most {num_patches}.

## What goes in

`images` are unsigned bytes, {height} x {width} x {channels}, row by row, channel last; the models normalise them.
{crop}
Rotate by the EXIF orientation first, and lay transparency over white.

`ids_keep` says which patches the encoder sees, counted row by row from 0. For a plain embedding that is all of them:

```python
import numpy as np

images = np.zeros((1, {height}, {width}, {channels}), np.uint8)  # yours
ids_keep = np.arange({num_patches}, dtype=np.int64)[None].repeat(len(images), axis=0)
```

Any subset gives a cheaper embedding.{more}

## Batches

Triton puts requests together whose inputs have the same shape. Requests that keep another number of patches are not
put together with these, so send one K, or few.

Every setting stands in the models' `config.pbtxt`: {where}.
"""


def readme(bundle: Bundle, models: Mapping[GraphName, str], options: TritonOptions) -> str:
    manifest = bundle.manifest
    height, width = manifest.model.image_size
    graphs = manifest.graphs
    rows = [
        f"| `{name}` | {bundle.nearest(graph, options.precision)} | {_tensors(graphs[graph].inputs)} | "
        f"{_tensors(graphs[graph].outputs)} |"
        for graph, name in models.items()
    ]
    on_cpu = "instances of one thread each, on the CPU"
    return _TEXT.format(
        name=manifest.name,
        digest=manifest.digest,
        rows="\n".join(rows),
        num_patches=manifest.model.num_patches,
        height=height,
        width=width,
        channels=manifest.model.channels,
        crop=_crop(manifest.preprocess),
        more=_more(models),
        where=on_cpu if options.device == "cpu" else "instances on every GPU, which take batches",
    )


def _tensors(specs: tuple[TensorSpec, ...]) -> str:
    return ", ".join(f"`{spec.name}` {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs)


def _crop(spec: Preprocess) -> str:
    height, width = spec.resize
    scaled = (
        f"Scale an image ({spec.interpolation}) until it covers {height} x {width} pixels, keeping its aspect, and cut"
    )
    return f"{scaled} {spec.crop[0]} x {spec.crop[1]} from its centre."


def _more(models: Mapping[GraphName, str]) -> str:
    """A paragraph for each of the other models."""
    parts = []
    if "decoder" in models:
        parts.append(
            f"`{models['decoder']}` takes the encoder's `tokens` of the patches kept, and `ids_restore`: for each\n"
            "patch its place among those kept, in the order of `ids_keep`, followed by those removed."
        )
    if "head" in models:
        parts.append(f"`{models['head']}` takes the encoder's outputs of the same names, and gives logits.")
    if "classifier" in models:
        parts.append(f"`{models['classifier']}` takes images alone, and gives logits.")
    if "head" in models or "classifier" in models:
        parts[-1] += "\nAsk for `logits` with a class count, and Triton answers with labels."
    return "".join(f"\n\n{part}" for part in parts)
