"""One stream of calls: its own buffers, execution contexts and CUDA graphs, used by one thread at a time.

A call of one graph at one shape is always the same queue of work: copy the inputs to the GPU, run the kernels. From its
second time on it is a CUDA graph, launched at once instead of kernel by kernel. The outputs that are wanted follow.

A lane has one piece of pinned memory and one of device memory, laid out alike: inputs, then outputs. So the way there
is a single copy, and every graph uses the same pieces, as a lane runs but one call at a time. The same holds for the
scratch memory of the execution contexts.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bundle.errors import InferenceError, OutOfMemory
from bundle.manifest import GraphName, TensorSpec
from runtime.base import Arrays
from runtime.specs import output_shape
from runtime.trt.cuda import Cuda
from runtime.trt.engine import Engine
from runtime.trt.profiles import Axes

MAX_SHAPES = 64  # kept ready per lane; a caller who asks for ever other parts of the patches must not fill the memory
_ALIGNMENT = 256  # bytes, what TensorRT wants of an address at most

_Key = tuple[GraphName, tuple[tuple[str, int], ...]]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Slot:
    """Where a tensor lies in a lane's memory, and what it is there."""

    name: str
    offset: int
    shape: tuple[int, ...]
    dtype: str

    @property
    def end(self) -> int:
        return self.offset + math.prod(self.shape) * np.dtype(self.dtype).itemsize

    def view(self, memory: NDArray[np.uint8]) -> NDArray[Any]:
        return memory[self.offset : self.end].view(self.dtype).reshape(self.shape)


def place(tensors: Iterable[TensorSpec], axes: Axes, start: int = 0) -> tuple[Slot, ...]:
    """A slot for each, one behind the other, aligned."""
    slots: list[Slot] = []
    for tensor in tensors:
        offset = -(-(slots[-1].end if slots else start) // _ALIGNMENT) * _ALIGNMENT
        slots.append(Slot(tensor.name, offset, output_shape(tensor, axes), tensor.dtype))
    return tuple(slots)


@dataclass
class _Shape:
    """A graph at one shape, ready to run. `launchable`: the CUDA graph, once there is one."""

    context: Any  # tensorrt.IExecutionContext
    inputs: Sequence[Slot]
    outputs: Sequence[Slot]
    calls: int = 0
    launchable: Any = None
    capturable: bool = True


class Lane:
    """Memory for the largest call is taken at once: OutOfMemory if the GPU or the host does not have it."""

    def __init__(self, cuda: Cuda, engines: Mapping[GraphName, Engine], logger: Any, user_managed: Any) -> None:
        """`user_managed`: tensorrt.ExecutionContextAllocationStrategy.USER_MANAGED."""
        self._cuda, self._engines, self._logger, self._user_managed = cuda, engines, logger, user_managed
        self._shapes: OrderedDict[_Key, _Shape] = OrderedDict()  # the one used last comes last
        self._scratch_bytes = max(1, *(engine.scratch_bytes for engine in engines.values()))
        nbytes = max(_largest_call(engine) for engine in engines.values())
        with contextlib.ExitStack() as made:
            self._stream = cuda.make_stream()
            made.callback(cuda.destroy_stream, self._stream)
            self._done = cuda.make_event()
            made.callback(cuda.destroy_event, self._done)
            self._scratch = cuda.malloc(self._scratch_bytes)
            made.callback(cuda.free, self._scratch)
            self._device = cuda.malloc(nbytes)
            made.callback(cuda.free, self._device)
            self._pinned = cuda.malloc_pinned(nbytes)
            made.callback(cuda.free_pinned, self._pinned)
            made.callback(self._drop_shapes)
            self._made = made.pop_all()

    @property
    def num_graphs(self) -> int:
        """CUDA graphs that are ready."""
        return sum(shape.launchable is not None for shape in self._shapes.values())

    def run(self, graph: GraphName, inputs: Mapping[str, NDArray[Any]], axes: Axes, wanted: Collection[str]) -> Arrays:
        """Run `graph` at the sizes `axes` on the first rows that `inputs` have; the missing ones are zeros.

        Gives as many rows as came in. InferenceError, or OutOfMemory, after which the lane is as good as before.
        """
        num_images = len(next(iter(inputs.values())))
        shape = self._shape(graph, axes)
        for slot in shape.inputs:
            view = slot.view(self._pinned)
            view[:num_images] = inputs[slot.name]
            view[num_images:] = 0
        outputs = [slot for slot in shape.outputs if slot.name in wanted]
        try:
            self._start(graph, shape)
            for slot in outputs:
                part = slice(slot.offset, slot.end)
                self._cuda.copy_to_host(self._pinned[part], self._device + slot.offset, self._stream)
            self._cuda.wait(self._done, self._stream)
        except InferenceError:
            self._forget(graph, axes)
            raise
        return {slot.name: slot.view(self._pinned)[:num_images].copy() for slot in outputs}

    def close(self) -> None:
        """Give everything back; what a GPU that has failed does not take is passed over."""
        with contextlib.suppress(InferenceError):
            self._made.close()

    def _start(self, graph: GraphName, shape: _Shape) -> None:
        """Queue the work. The first time at a shape it is queued plainly: TensorRT settles what depends on the shape
        then, which no capture may contain, and a shape that never comes again is not worth a capture.
        """
        if shape.calls == 1 and shape.capturable:
            try:
                shape.launchable = self._cuda.capture(self._stream, lambda: self._queue(graph, shape))
            except OutOfMemory:
                raise
            except InferenceError as e:
                shape.capturable = False
                log.info("%s: no CUDA graph, kernels are launched one by one: %s", graph, e)
        shape.calls += 1
        if shape.launchable is None:
            self._queue(graph, shape)
        else:
            self._cuda.launch(shape.launchable, self._stream)

    def _queue(self, graph: GraphName, shape: _Shape) -> None:
        first, last = shape.inputs[0].offset, shape.inputs[-1].end
        self._cuda.copy_to_device(self._device + first, self._pinned[first:last], self._stream)
        if not shape.context.execute_async_v3(int(self._stream)):
            raise self._failure(graph)

    def _shape(self, graph: GraphName, axes: Axes) -> _Shape:
        key = _key(graph, axes)
        shape = self._shapes.get(key)
        if shape is None:
            while len(self._shapes) >= MAX_SHAPES:
                self._drop(self._shapes.popitem(last=False)[1])
            shape = self._shapes[key] = self._prepare(graph, axes)
        self._shapes.move_to_end(key)
        return shape

    def _prepare(self, graph: GraphName, axes: Axes) -> _Shape:
        """A context of its own: a CUDA graph holds on to the one that it was captured from, at the shape it had."""
        engine = self._engines[graph]
        inputs = place(engine.spec.inputs, axes)
        outputs = place(engine.spec.outputs, axes, start=inputs[-1].end)
        context = engine.engine.create_execution_context(self._user_managed)
        if context is None:
            raise self._failure(graph)
        context.set_device_memory(self._scratch, self._scratch_bytes)
        # On the stream of the calls, so that it is done before any of them.
        ready = context.set_optimization_profile_async(engine.profile_for(axes), int(self._stream))
        ready = ready and all(context.set_input_shape(slot.name, slot.shape) for slot in inputs)
        ready = ready and all(
            context.set_tensor_address(slot.name, self._device + slot.offset) for slot in (*inputs, *outputs)
        )
        if not ready:
            raise self._failure(graph)
        return _Shape(context, inputs, outputs)

    def _failure(self, graph: GraphName) -> InferenceError:
        text = self._logger.take_errors()
        kind = OutOfMemory if "out of memory" in text.lower() or "OutOfMemory" in text else InferenceError
        return kind(f"{graph}: {text}")

    def _forget(self, graph: GraphName, axes: Axes) -> None:
        """After a failure: let the stream end what it was given, and begin anew at that shape."""
        with contextlib.suppress(InferenceError):
            self._cuda.synchronize(self._stream)
        shape = self._shapes.pop(_key(graph, axes), None)
        if shape is not None:
            self._drop(shape)

    def _drop(self, shape: _Shape) -> None:
        if shape.launchable is not None:
            with contextlib.suppress(InferenceError):  # of a GPU that has failed; there is nothing to save
                self._cuda.destroy_graph(shape.launchable)

    def _drop_shapes(self) -> None:
        while self._shapes:
            self._drop(self._shapes.popitem()[1])


def _key(graph: GraphName, axes: Axes) -> _Key:
    return graph, tuple(sorted(axes.items()))


def _largest_call(engine: Engine) -> int:
    """Bytes of all inputs and outputs at the greatest sizes."""
    names = engine.profiles[0].axes
    greatest = {name: max(profile.axes[name].greatest for profile in engine.profiles) for name in names}
    return place((*engine.spec.inputs, *engine.spec.outputs), greatest)[-1].end
