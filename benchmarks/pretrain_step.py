"""Is one pre-training step as fast as other implementations', and does masking pay?

    python -m benchmarks.pretrain_step [--network base --batch 256]

By default ViT-Ti/8 at 64 pixels with a decoder of 128 x 4: forward, backward and AdamW, the implementations in turns in
one process, same shapes, same precision, default settings of each: on a GPU ours compiles, as training does. Then the
encoder's forward pass at 75 % masking against none. Prints the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.peers import MASK_RATIO, peers
from benchmarks.report import Report, paired_ratio
from mae.config import MAEConfig, preset
from mae.masking import num_keep, random_masking
from mae.model import MaskedAutoencoder, patchify
from training.device import autocast, pick_device
from training.flops import peak_flops, pretrain_flops
from training.objective import compiled
from training.optim import make_adamw, set_lr

NETWORKS: dict[str, dict[str, Any]] = {
    "tiny": {"image_size": (64, 64), "patch_size": 8, "decoder_dim": 128, "decoder_depth": 4, "decoder_heads": 4},
    "base": {},
    "large": {},
}


class Ours(nn.Module):
    """As the peers: images -> loss, the mask drawn inside."""

    def __init__(self, config: MAEConfig) -> None:
        super().__init__()
        self.net = MaskedAutoencoder(config)
        self.num_keep = num_keep(config.num_patches, MASK_RATIO)

    def forward(self, images: Tensor) -> Tensor:
        noise = torch.rand(images.shape[0], self.net.config.num_patches, device=images.device)
        loss: Tensor = self.net(images, random_masking(noise, self.num_keep)).loss
        return loss


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def in_turns(steps: dict[str, Callable[[], None]], rounds: int, device: torch.device) -> dict[str, list[float]]:
    """Seconds of every call by name, the first two of each left out; the order alternates."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    for i in range(-2, rounds):
        for name in sorted(steps, reverse=bool(i % 2)):
            seconds = timed(steps[name], device)
            if i >= 0:
                times[name].append(seconds)
    return times


def ratio(times: dict[str, list[float]], name: str, other: str) -> float:
    """The median over rounds of other's time by name's."""
    return paired_ratio(times[other], times[name])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", choices=list(NETWORKS), default="tiny")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    torch.manual_seed(0)
    config = preset(args.network, **NETWORKS[args.network])
    images = torch.randn(args.batch, config.channels, *config.image_size, device=device)
    cast = autocast(device, args.precision)
    ours = Ours(config).to(device)

    def step(network: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
        def run() -> None:
            with cast:
                loss = network(images)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()

        return run

    our_optimizer = make_adamw(ours, weight_decay=0.05, betas=(0.9, 0.95))
    set_lr(our_optimizer, 1e-4)
    steps = {"Maeve": step(compiled(ours, "auto", device, sharded=False), our_optimizer)}
    for name, peer in peers(config).items():
        peer.to(device)
        adamw = torch.optim.AdamW(peer.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)
        steps[name] = step(peer, adamw)
    times = in_turns(steps, args.rounds, device)

    report = Report("pretrain_step" if args.network == "tiny" else f"pretrain_step_{args.network}", __doc__ or "")
    dtype = torch.bfloat16 if cast._enabled else torch.float32
    size = f"{args.network}/{config.patch_size} at {config.image_size[0]} px"
    report.add("setting", f"{size}, batch {args.batch}, {dtype} on {device}, {args.rounds} rounds")
    flops, peak = pretrain_flops(config, ours.num_keep, config.num_patches), peak_flops(device, dtype)
    for name in steps:
        speed = args.batch / statistics.median(times[name])
        report.add(f"step, {name}", f"{speed:,.0f} img/s, MFU {speed * flops / peak:.0%}")
    for name in list(steps)[1:]:
        report.add(f"step, Maeve / {name}", f"{ratio(times, 'Maeve', name):.2f}x")

    patches = patchify(images, config.patch_size)
    ids_keep = torch.rand(args.batch, config.num_patches, device=device).argsort(dim=1)[:, : ours.num_keep]

    def encode(ids: Tensor | None) -> None:
        with torch.inference_mode(), cast:
            ours.net.encoder(patches, ids)

    times = in_turns({"masked": lambda: encode(ids_keep), "whole": lambda: encode(None)}, args.rounds, device)
    report.add("encoder forward, 75 % masked", f"{args.batch / statistics.median(times['masked']):,.0f} img/s")
    report.add("encoder forward, nothing masked", f"{args.batch / statistics.median(times['whole']):,.0f} img/s")
    report.add("encoder, 75 % / 0 %", f"{ratio(times, 'masked', 'whole'):.2f}x")
    report.write()


if __name__ == "__main__":
    main()
