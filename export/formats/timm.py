"""A folder that timm opens: model.safetensors with its names, and the config.json of its hub layout.

The tensors are `mae.foreign`'s. timm builds any plain ViT from the architecture of nearest width and `model_args`, the
arguments of its VisionTransformer (timm/models/vision_transformer.py) that differ.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bundle.manifest import Preprocess
from export.errors import ExportError
from export.formats.folder import fresh_folder, write_json
from export.formats.source import Source, provenance
from mae.classifier import Classifier
from mae.foreign import write_foreign

WEIGHTS_FILE, CONFIG_FILE, CARD_FILE = "model.safetensors", "config.json", "README.md"

# timm's plain ViTs at 224 pixels, by width: name, and what it is made of when nothing else is said.
_ARCHITECTURES: dict[int, tuple[str, dict[str, Any]]] = {
    192: ("vit_tiny_patch16_224", {"patch_size": 16, "depth": 12, "num_heads": 3}),
    384: ("vit_small_patch16_224", {"patch_size": 16, "depth": 12, "num_heads": 6}),
    768: ("vit_base_patch16_224", {"patch_size": 16, "depth": 12, "num_heads": 12}),
    1024: ("vit_large_patch16_224", {"patch_size": 16, "depth": 24, "num_heads": 16}),
    1280: ("vit_huge_patch14_224", {"patch_size": 14, "depth": 32, "num_heads": 16}),
}
_DEFAULTS: dict[str, Any] = {"img_size": [224, 224], "in_chans": 3, "mlp_ratio": 4.0}
_ANY_WIDTH = 768  # the architecture that another width is asked of

_USAGE = """\
import timm
from PIL import Image

model = timm.create_model("local-dir:{folder}", pretrained=True).eval()
transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
pixels = transform(Image.open("photo.jpg").convert("RGB"))[None]
{last}
"""
_EMBED = "embedding = model.forward_features(pixels)[:, 1:].mean(dim=1)  # or [:, 0], of the cls token"
_CLASSIFY = "logits = model(pixels)"


def write_timm(source: Source, out: Path, *, overwrite: bool = False) -> str:
    """Write the folder, and say what it is. timm has no decoder, so that is left out.

    BundleError where `out` is taken or the disk does not take it.
    """
    config = timm_config(source)
    with fresh_folder(out, "timm", overwrite=overwrite, weights_sha256=source.weights_sha256) as folder:
        folder.mkdir()
        try:
            write_foreign(source.network, folder / WEIGHTS_FILE, "timm", source.labels)
        except ValueError as e:
            raise ExportError(str(e)) from e
        write_json(folder / CONFIG_FILE, config)
        (folder / CARD_FILE).write_text(model_card(source, out.name), encoding="utf-8")
    return f'{out}: a timm folder, {config["architecture"]}, for timm.create_model("local-dir:{out}", pretrained=True)'


def timm_config(source: Source) -> dict[str, Any]:
    """config.json, as timm's own `save_for_hf` writes it (timm/models/_hub.py)."""
    name, arguments = model_args(source)
    network, spec = source.network, source.preprocess
    classifier = network.config if isinstance(network, Classifier) else None
    pool = "avg" if classifier is not None and classifier.pooling == "mean" else "token"
    document: dict[str, Any] = {
        "architecture": name,
        "num_classes": 0 if classifier is None else classifier.num_classes,
        "num_features": source.config.dim,
        "global_pool": pool,
        "model_args": {**arguments, "global_pool": pool},
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [source.config.channels, *source.config.image_size],
            "fixed_input_size": True,
            "interpolation": spec.interpolation,
            "crop_pct": crop_share(spec),
            "crop_mode": "center",
            "mean": list(spec.mean),
            "std": list(spec.std),
            "num_classes": 0 if classifier is None else classifier.num_classes,
            "pool_size": None,
            "first_conv": "patch_embed.proj",
            "classifier": "head",
        },
    }
    return document if source.labels is None else {**document, "label_names": list(source.labels)}


def model_args(source: Source) -> tuple[str, dict[str, Any]]:
    """(the architecture, the arguments in which this network differs from it)."""
    config = source.config
    name, made_of = _ARCHITECTURES.get(config.dim, _ARCHITECTURES[_ANY_WIDTH])
    own = {
        "img_size": list(config.image_size),
        "patch_size": config.patch_size,
        "in_chans": config.channels,
        "embed_dim": config.dim,
        "depth": config.depth,
        "num_heads": config.heads,
        "mlp_ratio": config.mlp_ratio,
    }
    usual = {**_DEFAULTS, **made_of, "embed_dim": config.dim if config.dim in _ARCHITECTURES else _ANY_WIDTH}
    return name, {key: value for key, value in own.items() if usual[key] != value}


def crop_share(spec: Preprocess) -> float:
    """timm's crop_pct: it scales the shorter side to floor(crop / crop_pct), which must come out as `resize`."""
    crop, resize = spec.crop[0], spec.resize[0]
    share = crop / resize
    return share if math.floor(crop / share) == resize else math.nextafter(share, 0)


def model_card(source: Source, folder: str) -> str:
    """README.md, with the front matter that the hub reads."""
    is_classifier = isinstance(source.network, Classifier)
    task = "image-classification" if is_classifier else "image-feature-extraction"
    usage = _USAGE.format(folder=folder, last=_CLASSIFY if is_classifier else _EMBED)
    return (
        f"---\nlibrary_name: timm\npipeline_tag: {task}\ntags:\n- timm\n- masked-autoencoder\n- maeve\n---\n\n"
        f"# {source.name}\n\n{source.title} Here is what timm has a place for, the decoder left out.\n\n"
        f"```python\n{usage}```\n\n## Where it comes from\n\n{provenance(source)}\n"
    )
