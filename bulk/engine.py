"""From rows to vectors on one device: decoded and run on threads, in order, each error beside its row.

On a CPU a lane decodes what it runs, as the service's lanes do; a GPU has decoders beside it, and wants batches.
Letters: N images, K patches kept, D width of a vector.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bulk.parts import Embedded
from bulk.pieces import Row
from bundle.decode import MODES
from bundle.errors import BundleError, InferenceError, InvalidInput, OutOfMemory
from bundle.manifest import Manifest
from bundle.masking import keep_ids
from bundle.preprocess import preprocess
from bundle.vectors import VectorSpec
from runtime import Runtime

_TINY = np.float32(1e-24)  # squared length under which a vector counts as having none, as in the service
_ROWS_PER_TASK = 16  # fewer, and handing them to a thread is felt beside a small network
_TASK_BYTES = 16 * 2**20  # of encoded images, which bounds what waits in memory
_TASKS_PER_THREAD = 3  # one that runs, and enough read ahead


@dataclass(frozen=True, eq=False)
class _Decoded:
    """pixels: u8 [H, W, C], or why there are none."""

    row: Row
    sha256: str | None
    pixels: NDArray[np.uint8] | InvalidInput


class Engine:
    """Makes the vectors of `spec`. `embed` may be called from several threads, which share the device and its threads.

    decoders: threads beside a GPU. Whoever has the engine closes it, and the runtime.
    """

    def __init__(
        self, manifest: Manifest, runtime: Runtime, spec: VectorSpec, *, max_pixels: int, decoders: int = 1
    ) -> None:
        check_channels(manifest)
        self._manifest, self._runtime, self._spec = manifest, runtime, spec
        self._max_pixels = max_pixels
        self._ids = keep_ids(manifest.model.num_patches, spec.keep)  # [K]
        self._cap = runtime.max_batch
        self._lanes = ThreadPoolExecutor(runtime.lanes, thread_name_prefix="lane")
        on_gpu = runtime.device != "cpu"
        self._decoders = ThreadPoolExecutor(decoders, thread_name_prefix="decode") if on_gpu else None
        self._task_rows = runtime.max_batch if on_gpu else -(-_ROWS_PER_TASK // runtime.max_batch) * runtime.max_batch
        self._window = runtime.lanes * _TASKS_PER_THREAD

    def embed(self, rows: Iterable[Row]) -> Iterator[Embedded]:
        """In the order of `rows`, which are read ahead by what keeps the threads busy. Raises what `rows` does."""
        waiting: deque[Future[list[Embedded]]] = deque()
        try:
            for task in _tasks(rows, self._task_rows):
                waiting.append(self._begin(task))
                if len(waiting) >= self._window:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()

    def close(self) -> None:
        """Waits for what runs."""
        self._lanes.shutdown(cancel_futures=True)
        if self._decoders is not None:
            self._decoders.shutdown(cancel_futures=True)

    def _begin(self, rows: list[Row]) -> Future[list[Embedded]]:
        if self._decoders is None:
            return self._lanes.submit(lambda: self._finish([self._decode(row) for row in rows]))
        # A lane waits for its own images alone, and those of earlier tasks come earlier: nothing waits in a ring.
        decoded = [self._decoders.submit(self._decode, row) for row in rows]
        return self._lanes.submit(lambda: self._finish([each.result() for each in decoded]))

    def _decode(self, row: Row) -> _Decoded:
        if isinstance(row.data, InvalidInput):
            return _Decoded(row, None, row.data)
        sha256 = hashlib.sha256(row.data).hexdigest()
        try:
            pixels = preprocess(
                row.data, self._manifest.preprocess, channels=self._manifest.model.channels, max_pixels=self._max_pixels
            )
        except InvalidInput as e:
            return _Decoded(row, sha256, e)
        except MemoryError:
            return _Decoded(row, sha256, InvalidInput("the memory does not hold this image"))
        return _Decoded(row, sha256, pixels)

    def _finish(self, decoded: Sequence[_Decoded]) -> list[Embedded]:
        vectors = iter(self._vectors([each.pixels for each in decoded if not isinstance(each.pixels, InvalidInput)]))
        found = []
        for each in decoded:
            outcome = each.pixels if isinstance(each.pixels, InvalidInput) else next(vectors)
            if isinstance(outcome, Exception):
                found.append(Embedded(each.row.path, each.sha256, None, _reason(outcome), each.row.columns))
            else:
                found.append(Embedded(each.row.path, each.sha256, outcome, None, each.row.columns))
        return found

    def _vectors(self, pixels: Sequence[NDArray[np.uint8]]) -> list[NDArray[np.float32] | InferenceError]:
        """[D] for each image, or why there is none. A call that fails is halved until those to blame stand alone."""
        found: list[NDArray[np.float32] | InferenceError] = []
        waiting = deque(pixels[i : i + self._cap] for i in range(0, len(pixels), self._cap))
        while waiting:
            batch = waiting.popleft()
            try:
                found += map(self._checked, self._run(batch))
            except (InferenceError, MemoryError) as e:
                if len(batch) == 1:
                    found.append(e if isinstance(e, InferenceError) else OutOfMemory(str(e)))
                    continue
                middle = len(batch) // 2
                if isinstance(e, OutOfMemory | MemoryError):
                    self._cap = max(1, min(self._cap, middle))  # for good: the device will not grow
                waiting.extendleft((batch[middle:], batch[:middle]))
        return found

    def _run(self, batch: Sequence[NDArray[np.uint8]]) -> NDArray[np.float32]:
        """[N, D], scaled as the spec says, with the service's arithmetic."""
        ids_keep = np.ascontiguousarray(np.broadcast_to(self._ids, (len(batch), len(self._ids))))  # [N, K]
        pooling = self._spec.pooling
        outputs = self._runtime.run("encoder", {"images": np.stack(batch), "ids_keep": ids_keep}, [pooling])
        vectors: NDArray[np.float32] = outputs[pooling].astype(np.float32, copy=False)
        if self._spec.normalize:
            vectors = vectors / np.sqrt(np.maximum(np.vecdot(vectors, vectors), _TINY))[:, None]
        return vectors

    def _checked(self, vector: NDArray[np.float32]) -> NDArray[np.float32] | InferenceError:
        if not np.isfinite(vector).all():
            return InferenceError("the model gave numbers that are not finite")
        if self._spec.dtype == "float16" and np.abs(vector).max() > np.finfo(np.float16).max:
            return InferenceError("the vector exceeds the range of float16; use --dtype float32, or --normalize")
        return vector


def check_channels(manifest: Manifest) -> None:
    """BundleError if the bundle's images cannot come from image files."""
    if manifest.model.channels not in MODES:
        raise BundleError(f"images of {manifest.model.channels} channels cannot be decoded, only {sorted(MODES)}")


def _tasks(rows: Iterable[Row], most: int) -> Iterator[list[Row]]:
    """Runs of rows that one thread takes at once."""
    task: list[Row] = []
    num_bytes = 0
    for row in rows:
        task.append(row)
        num_bytes += len(row.data) if isinstance(row.data, bytes) else 0
        if len(task) == most or num_bytes >= _TASK_BYTES:
            yield task
            task, num_bytes = [], 0
    if task:
        yield task


def _reason(error: Exception) -> str:
    """As it stands in the part: preprocess() counts images of a request, and here every image is its own."""
    return " ".join(str(error).replace("image 0 ", "the image ", 1).split())
