"""Public weights in and out: FAIR's, timm's and Hugging Face's spelling of a ViT and of a Masked Autoencoder."""

from mae.foreign.files import is_foreign, weights_file, write_whole
from mae.foreign.hints import Hints
from mae.foreign.names import SpellingName
from mae.foreign.read import Foreign, read_foreign
from mae.foreign.shapes import Foreigner
from mae.foreign.write import check_destination, write_foreign

__all__ = [
    "Foreign",
    "Foreigner",
    "Hints",
    "SpellingName",
    "check_destination",
    "is_foreign",
    "read_foreign",
    "weights_file",
    "write_foreign",
    "write_whole",
]
