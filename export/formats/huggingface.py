"""A folder that transformers opens: ViTMAEForPreTraining, ViTMAEModel or ViTForImageClassification.

The weights and config.json are `mae.foreign`'s. What export adds is what the run knows: how images are prepared, and a
model card.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from export.errors import ExportError
from export.formats.folder import fresh_folder, write_json
from export.formats.source import Source, provenance
from mae.classifier import Classifier
from mae.foreign import write_foreign
from mae.model import MaskedAutoencoder

PREPROCESSOR_FILE = "preprocessor_config.json"
CARD_FILE = "README.md"
_BICUBIC = 3  # Pillow's number for it

_EMBED = """\
from PIL import Image
from transformers import AutoImageProcessor, ViTMAEModel

processor = AutoImageProcessor.from_pretrained("{folder}")
model = ViTMAEModel.from_pretrained("{folder}", mask_ratio=0.0)  # sees all patches, in an order of its own
pixels = processor(Image.open("photo.jpg").convert("{mode}"), return_tensors="pt")
tokens = model(**pixels).last_hidden_state
embedding = tokens[:, 1:].mean(dim=1)  # or tokens[:, 0], of the cls token
"""
_CLASSIFY = """\
from PIL import Image
from transformers import AutoImageProcessor, ViTForImageClassification

processor = AutoImageProcessor.from_pretrained("{folder}")
model = ViTForImageClassification.from_pretrained("{folder}")
pixels = processor(Image.open("photo.jpg").convert("{mode}"), return_tensors="pt")
logits = model(**pixels).logits
label = model.config.id2label[int(logits.argmax())]
"""


def write_huggingface(source: Source, out: Path, *, overwrite: bool = False) -> str:
    """Write the folder, and say what it is.

    ExportError for a network that no class of transformers is (ViTMAE takes square images, its classifier the cls
    token), BundleError where `out` is taken or the disk does not take it.
    """
    with fresh_folder(out, "hf", overwrite=overwrite, weights_sha256=source.weights_sha256) as folder:
        try:
            write_foreign(source.network, folder, "hf", source.labels)
        except ValueError as e:
            raise ExportError(str(e)) from e
        write_json(folder / PREPROCESSOR_FILE, preprocessor(source))
        (folder / CARD_FILE).write_text(model_card(source, out.name), encoding="utf-8")
    return f"{out}: a Hugging Face folder for transformers.{_class_name(source)}.from_pretrained"


def preprocessor(source: Source) -> dict[str, Any]:
    """preprocessor_config.json: the steps of `bundle.preprocess`, as far as a processor of transformers has them.

    BitImageProcessor scales the shorter side and cuts the centre, as here but for half a pixel; the ViT's own distorts
    what is not square. A margin that is not square has no equal there: the whole image is then scaled to the network's
    size.
    """
    spec = source.preprocess
    size = dict(zip(("height", "width"), spec.crop, strict=True))
    if spec.resize[0] == spec.resize[1] and spec.crop[0] == spec.crop[1]:
        cut = {"size": {"shortest_edge": spec.resize[0]}, "do_center_crop": True, "crop_size": size}
    else:
        cut = {"size": size, "do_center_crop": False}
    return {
        "image_processor_type": "BitImageProcessor" if cut["do_center_crop"] else "ViTImageProcessor",
        "do_convert_rgb": source.config.channels == 3,
        "do_normalize": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": list(spec.mean),
        "image_std": list(spec.std),
        "resample": _BICUBIC,
        "rescale_factor": 1 / 255,
        **cut,
    }


def model_card(source: Source, folder: str) -> str:
    """README.md, with the front matter that the hub reads."""
    is_classifier = isinstance(source.network, Classifier)
    task = "image-classification" if is_classifier else "image-feature-extraction"
    tags = "".join(f"- {tag}\n" for tag in ("vit", "masked-autoencoder", "maeve"))
    mode = {1: "L", 4: "RGBA"}.get(source.config.channels, "RGB")
    usage = (_CLASSIFY if is_classifier else _EMBED).format(folder=folder, mode=mode)
    return (
        f"---\nlibrary_name: transformers\npipeline_tag: {task}\ntags:\n{tags}---\n\n# {source.name}\n\n"
        f"{source.title}\n\n```python\n{usage}```\n\n## Where it comes from\n\n{provenance(source)}\n"
    )


def _class_name(source: Source) -> str:
    if isinstance(source.network, Classifier):
        return "ViTForImageClassification"
    return "ViTMAEForPreTraining" if isinstance(source.network, MaskedAutoencoder) else "ViTMAEModel"
