"""Files of arrays, `.npz`, read with one error for all that can be wrong with one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray


def read_npz(path: Path, *names: str) -> dict[str, NDArray[Any]]:
    """The named arrays, or all where none is named. ValueError, saying why, for a file that cannot be read as such;
    KeyError for a name that it does not have.
    """
    try:
        with path.open("rb") as file:  # opened here: NumPy leaves a file open of which it can make nothing
            return _read(file, names)
    except KeyError:
        raise
    except (
        Exception
    ) as e:  # NumPy, zipfile and zlib raise what they come upon in broken bytes, as EOFError, MemoryError
        raise ValueError(" ".join(str(e).split()) or type(e).__name__) from e


def _read(file: BinaryIO, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    loaded = np.load(file, allow_pickle=False)
    if not isinstance(loaded, np.lib.npyio.NpzFile):
        raise ValueError("it is one array, an .npy file, and no .npz")
    with loaded:
        absent = sorted(set(names) - set(loaded.files))
        if absent:
            raise KeyError(absent[0])
        arrays = {name: loaded[name] for name in names or loaded.files}
    strangers = sorted(name for name, array in arrays.items() if not isinstance(array, np.ndarray))
    if strangers:  # NumPy hands out the bytes of what is no array
        raise ValueError(f"{strangers[0]} in it is no array")
    return arrays
