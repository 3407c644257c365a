"""Which engine runs the exported encoder fastest, and what does keeping half of the patches give?

    python -m benchmarks.engines [--preset base] [--bundle models/default] [--device cuda --batch 128]

A random ViT-Ti/16 at 224 pixels by default, or a bundle. On a CPU a batch is shared out over a runtime's lanes, as the
service shares it, and held against one session of ONNX Runtime in fp32 as it comes. On a GPU every lane runs whole
batches, beside torch, eager and compiled, on the same shapes. Each engine is a process of its own, all take turns, and
ratios are medians over rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.engines_worker import random_network
from benchmarks.report import Report, paired_ratio
from bundle.errors import MaeveError
from bundle.masking import all_ids, keep_ids
from bundle.store import Bundle, load_bundle
from export.bench.candidates import PRECISIONS, RUNTIMES, find_candidates
from export.bench.client import EngineFailed, Worker
from export.bench.inputs import comparison_inputs, read_images
from export.bench.rounds import peak_precision
from export.config import ExportConfig
from export.flops import encoder_flops
from export.pipeline import export_run
from mae.config import PRESETS, preset
from mae.weights import save_model
from runtime.agreement import cosines
from runtime.base import ServedPrecision
from runtime.cores import usable_cores
from runtime.machine import survey

WORKER = "benchmarks.engines_worker"
NUM_IMAGES = 64  # to compare outputs on, where there are real ones
MIN_COSINE = 0.999  # what an engine must keep to count as giving the same


@dataclass
class Engine:
    """`limit`: the precision whose peak it is held against. `rates`: images/s of each round, by share of patches kept.
    `cosine`: the least, to the first engine's outputs.
    """

    label: str
    arguments: dict[str, Any]
    worker: Worker
    limit: ServedPrecision
    rates: dict[float, list[float]] = field(default_factory=dict)
    cosine: float | None = None


def random_bundle(name: str, folder: Path, precision: str, images: Path | None) -> Bundle:
    """An untrained network, exported as a finished run would be; int8 where it stays close enough on `images`."""
    network = preset(name, decoder_dim=128, decoder_depth=1, decoder_heads=4)  # type: ignore[arg-type]
    save_model(random_network(network), folder / "run")
    data = {"name": "none", "num_images": 0, "pack_size": network.image_size}
    (folder / "run" / "run.json").write_text(json.dumps({"kind": "pretrain", "data": data}))
    config = ExportConfig(
        run=folder / "run", out=folder / "bundle", name=f"random-{name}", precision=precision, images=images
    )
    return export_run(config, progress=print)


def contestants(bundle: Bundle, device: str, *, is_random: bool) -> dict[str, dict[str, Any]]:
    """Label -> the arguments of the worker's `open`. The first is what the others are held against."""
    found, _ = find_candidates(bundle.manifest, RUNTIMES, PRECISIONS, device=device, machine=survey())
    ours = {
        f"{each.runtime} {each.precision}": {
            "opener": "engine", "runtime": each.runtime, "device": each.device, "precision": each.precision
        }
        for each in found
        if each.device.startswith(device)
    }  # fmt: skip
    if device == "cpu":
        torch = {"torch fp32": {"opener": "torch", "device": "cpu", "precision": "fp32", "compiled": False}}
        return {
            "ONNX Runtime fp32, one session as it comes": {"opener": "plain"},
            **ours,
            **(torch if is_random else {}),
        }
    torch = {
        f"torch {precision}, {'compiled' if compiled else 'eager'}": {
            "opener": "torch", "device": "cuda:0", "precision": precision, "compiled": compiled
        }
        for precision in ("fp32", "fp16")
        for compiled in (False, True)
    }  # fmt: skip
    return {**ours, **torch}


def opened(labels: dict[str, dict[str, Any]], bundle: Bundle, stack: ExitStack) -> list[Engine]:
    """Those that load; the others say why not. EngineFailed for the first, which they are held against."""
    engines: list[Engine] = []
    for label, arguments in labels.items():
        worker = stack.enter_context(Worker(WORKER))
        try:
            facts = worker.call("open", bundle=str(bundle.path), timeout_s=3600, **arguments)
        except EngineFailed as e:
            if not engines:
                raise _without_first(label, e) from e
            print(f"{label}: {e}", flush=True)
            continue
        limit = peak_precision(facts["device"], facts["precision"])
        engines.append(Engine(label, arguments, worker, limit))
    return engines


def pixels_to_compare_on(bundle: Bundle, batch: int, source: Path | None) -> NDArray[np.uint8]:
    """u8 [N, H, W, C]: real images of `source`, or `batch` images of noise where there is none."""
    if source is not None:
        return read_images(source, bundle.manifest.preprocess, NUM_IMAGES)
    model = bundle.manifest.model
    return np.random.default_rng(1).integers(0, 256, (batch, *model.image_size, model.channels), np.uint8)


def compare_outputs(
    engines: list[Engine], bundle: Bundle, images: NDArray[np.uint8], folder: Path, *, is_random: bool
) -> None:
    """All patches kept. Torch has the weights of the random network alone."""
    ids = all_ids(1, bundle.manifest.model.num_patches)
    np.savez(folder / "inputs.npz", allow_pickle=False, **comparison_inputs(bundle, images, ids[0]))
    reference = None
    for number, engine in enumerate(engines):
        if engine.arguments["opener"] == "torch" and not is_random:
            continue
        out = folder / f"{number}.npz"
        engine.worker.call("outputs", inputs=str(folder / "inputs.npz"), out=str(out))
        with np.load(out) as arrays:
            outputs = dict(arrays)
        reference = reference or outputs
        engine.cosine = min(float(cosines(outputs[name], reference[name]).min()) for name in reference)


def measure(engine: Engine, ids: list[int], batch: int, seconds: float, *, on_gpu: bool) -> float:
    """Images per second."""
    if on_gpu:
        rate: float = engine.worker.call("rate", batch=batch, ids=ids, seconds=seconds)
        return rate
    times: list[float] = engine.worker.call("together", num_images=batch, ids=ids, seconds=seconds)
    return batch / statistics.median(times)


def take_turns(args: argparse.Namespace, num_patches: int, engines: list[Engine]) -> dict[ServedPrecision, float]:
    """Fill in the engines' rates, taking out those that fail; the measured peak of each precision in FLOP/s.

    EngineFailed where the first one does, which the others are held against.
    """
    peaks: dict[ServedPrecision, float] = {}
    on_gpu = args.device != "cpu"
    ids = {keep: keep_ids(num_patches, keep).tolist() for keep in (1.0, args.keep)}
    with Worker(WORKER) as meter:
        for number in range(-1, args.rounds):  # the first one only warms up
            for engine in engines[:: -1 if number % 2 else 1]:
                try:
                    rates = {k: measure(engine, ids[k], args.batch, args.seconds, on_gpu=on_gpu) for k in ids}
                except EngineFailed as e:
                    if engine is engines[0]:
                        raise _without_first(engine.label, e) from e
                    print(f"{engine.label}: {e}", flush=True)
                    engines.remove(engine)
                    continue
                if number >= 0:
                    for keep, rate in rates.items():
                        engine.rates.setdefault(keep, []).append(rate)
            for limit in dict.fromkeys(engine.limit for engine in engines):
                found = meter.call(
                    "peak", device="cuda:0" if on_gpu else "cpu", precision=limit, threads=usable_cores(), seconds=0.5
                )
                peaks[limit] = max(peaks.get(limit, 0.0), found["flops_per_s"] if found else 0.0)
            print(f"round {number + 1} of {args.rounds}", flush=True)
    return peaks


def _without_first(label: str, why: EngineFailed) -> EngineFailed:
    return EngineFailed(f"{label}, which all others are held against, does not run: {why}")


def tell(
    args: argparse.Namespace, flops: int, engines: list[Engine], peaks: dict[ServedPrecision, float], report: Report
) -> None:
    """`flops`: of one image, all patches kept."""
    first = engines[0]
    for engine in engines:
        rate = statistics.median(engine.rates[1.0])
        peak = peaks[engine.limit]
        share = f", {rate * flops / peak:.0%} of the {engine.limit} peak" if peak else ""
        cosine = "" if engine.cosine is None else f", cosine {engine.cosine:.6f}"
        times = paired_ratio(engine.rates[1.0], first.rates[1.0])
        report.add(
            engine.label, f"{args.batch / rate * 1000:.3g} ms a batch, {rate:,.0f} img/s, {times:.2f}x{share}{cosine}"
        )
    close = [e for e in engines if e.arguments["opener"] == "engine" and (e.cosine or 0) >= MIN_COSINE]
    if close:
        fastest = max(close, key=lambda engine: statistics.median(engine.rates[1.0]))
        others = [e for e in engines if e is first or e.label == "onnxruntime fp32"]
        held = [f"{paired_ratio(fastest.rates[1.0], e.rates[1.0]):.2f}x {e.label}" for e in others]
        report.add(f"fastest at a cosine of {MIN_COSINE} and more: {fastest.label}", "; ".join(held))
    for engine in engines:
        gain = paired_ratio(engine.rates[args.keep], engine.rates[1.0])
        report.add(f"keep {args.keep:g} / keep 1, {engine.label}", f"{gain:.2f}x")
    for limit, peak in sorted(peaks.items()):
        report.add(f"measured peak, {limit}", f"{peak / 1e9:,.0f} GFLOP/s")


def compare(args: argparse.Namespace) -> None:
    with tempfile.TemporaryDirectory(prefix="maeve-engines-") as name, ExitStack() as stack:
        folder = Path(name)
        if args.bundle is None:
            variants = {"cpu": "fp32,int8", "cuda": "fp32,fp16"}[args.device]
            bundle = random_bundle(args.preset, folder, variants, args.images)
        else:
            bundle = load_bundle(args.bundle)
        labels = contestants(bundle, args.device, is_random=args.bundle is None)
        if not any(arguments["opener"] == "engine" for arguments in labels.values()):
            raise SystemExit(f"error: none of our engines runs here on {args.device}")
        images = pixels_to_compare_on(bundle, min(args.batch, 8), args.images)
        engines = opened(labels, bundle, stack)
        compare_outputs(engines, bundle, images, folder, is_random=args.bundle is None)
        what = args.preset if args.bundle is None else bundle.manifest.name
        report = Report(f"engines_{what}" + ("" if args.device == "cpu" else "_cuda"), __doc__ or "")
        model = bundle.manifest.model
        report.add(
            "setting",
            f"{what}: {model.depth} x {model.dim}, patch {model.patch_size} at {model.image_size[0]} px, batch "
            f"{args.batch} on {args.device}, {args.rounds} rounds; cosines on {len(images)} "
            + ("images of noise" if args.images is None else f"images of {args.images.name}"),
        )
        peaks = take_turns(args, model.num_patches, engines)
        tell(args, encoder_flops(model, model.num_patches), engines, peaks, report)
        report.write()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=list(PRESETS), default="tiny")
    parser.add_argument("--bundle", type=Path, help="measure this bundle instead of a random network")
    parser.add_argument(
        "--images", type=Path, help="real ones, to compare outputs on and to make int8 of the random network by"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--batch", type=int, help="8 on a CPU, 128 on a GPU")
    parser.add_argument("--keep", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=1.0, help="of one engine in one round, for each keep")
    args = parser.parse_args()
    args.batch = args.batch or {"cpu": 8, "cuda": 128}[args.device]
    try:
        compare(args)
    except MaeveError as e:
        raise SystemExit(f"error: {e}") from e


if __name__ == "__main__":
    main()
