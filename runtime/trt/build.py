"""From an ONNX graph to a serialized engine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bundle.errors import RuntimeUnavailable
from bundle.manifest import GraphSpec, Precision
from runtime.trt.graph import check_readable
from runtime.trt.profiles import Profile

# Scratch memory that one kernel may ask for. Far above what attention takes at our sizes, and low enough that a build
# beside a running service does not choose kernels that fit an empty GPU alone.
WORKSPACE_BYTES = 4 * 2**30
OPTIMIZATION_LEVEL = 3  # TensorRT's default: 4 and 5 build for much longer and seldom find better kernels


@dataclass(frozen=True)
class Built:
    """`engine`: for this architecture and version alone. `timing`: what was measured, for the next build to skip."""

    engine: bytes
    timing: bytes


def build_engine(
    trt: Any,
    logger: Any,
    file: Path,
    spec: GraphSpec,
    profiles: Sequence[Profile],
    *,
    precision: Precision,
    timing: bytes = b"",
    monitor: Any = None,
) -> Built:
    """Build the graph in `file` for `profiles`, on the calling thread's GPU; minutes for a large network.

    `logger`: from make_logger. `precision`: what the graph is in; the engine computes in that, as every network of
    TensorRT 11 does. `timing`: of earlier builds. `monitor`: a tensorrt.IProgressMonitor. RuntimeUnavailable with all
    that TensorRT complains of.
    """
    check_readable(file)
    try:
        builder = trt.Builder(logger)
    except TypeError as e:  # how the bindings say that the library gave them nothing
        raise RuntimeUnavailable(f"TensorRT does not start: {logger.take_errors()}") from e
    network = builder.create_network()
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(file)):  # with the weights that lie beside it
        raise RuntimeUnavailable(f"TensorRT cannot read {file}: {_complaints(parser)}")
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE_BYTES)
    config.builder_optimization_level = OPTIMIZATION_LEVEL
    if precision == "fp32":
        config.clear_flag(trt.BuilderFlag.TF32)  # 10 bits of mantissa are not what fp32 was asked for
    if monitor is not None:
        config.progress_monitor = monitor
    for profile in profiles:
        _add_profile(builder, config, spec, profile)
    _use_timing(config, timing)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RuntimeUnavailable(f"TensorRT cannot build {file}: {logger.take_errors()}")
    return Built(bytes(engine), bytes(config.get_timing_cache().serialize()))


def _add_profile(builder: Any, config: Any, spec: GraphSpec, profile: Profile) -> None:
    described = builder.create_optimization_profile()
    for tensor in spec.inputs:
        described.set_shape(tensor.name, *profile.shapes(tensor))
    if config.add_optimization_profile(described) < 0:
        raise AssertionError(f"TensorRT refuses the profile {profile}")


def _use_timing(config: Any, timing: bytes) -> None:
    """An earlier cache of another device or version is refused; then an empty one takes its place."""
    cache = config.create_timing_cache(timing)
    if cache is None or not config.set_timing_cache(cache, False):  # noqa: FBT003 - positional in every example
        config.set_timing_cache(config.create_timing_cache(b""), False)  # noqa: FBT003


def _complaints(parser: Any) -> str:
    """All of them, each with its node, in one line."""
    errors = (parser.get_error(i) for i in range(parser.num_errors))
    return "; ".join(f"{e.node_operator()} {e.node_name()}: {' '.join(e.desc().split())}" for e in errors)
