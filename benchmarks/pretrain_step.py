"""Is one pre-training step as fast as Hugging Face's ViTMAE, and does masking pay?

    python -m benchmarks.pretrain_step

ViT-Ti/8 at 64 pixels with a decoder of 128 x 4: forward, backward and AdamW, the two implementations in turns in one
process, same shapes, same precision, default settings of each. Then the encoder's forward pass at 75 % masking against
none. Prints the median of the paired ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import ViTMAEConfig, ViTMAEForPreTraining

from benchmarks.report import Report
from mae import MaskedAutoencoder, preset, random_masking
from mae.model import patchify
from training.device import autocast, pick_device
from training.optim import make_adamw, set_lr

IMAGE, PATCH, DECODER_DIM, DECODER_DEPTH, DECODER_HEADS = 64, 8, 128, 4, 4
NUM_PATCHES = (IMAGE // PATCH) ** 2


def our_model() -> MaskedAutoencoder:
    return MaskedAutoencoder(
        preset(
            "tiny", image_size=(IMAGE, IMAGE), patch_size=PATCH, decoder_dim=DECODER_DIM, decoder_depth=DECODER_DEPTH,
            decoder_heads=DECODER_HEADS,
        )
    )  # fmt: skip


def peer_model() -> nn.Module:
    return ViTMAEForPreTraining(  # type: ignore[no-any-return]
        ViTMAEConfig(
            image_size=IMAGE, patch_size=PATCH, hidden_size=192, num_hidden_layers=12, num_attention_heads=3,
            intermediate_size=768, decoder_hidden_size=DECODER_DIM, decoder_num_hidden_layers=DECODER_DEPTH,
            decoder_num_attention_heads=DECODER_HEADS, decoder_intermediate_size=4 * DECODER_DIM, norm_pix_loss=True,
        )
    )  # fmt: skip


def timed(step: Callable[[], None], device: torch.device) -> float:
    """Seconds of one call, the device's work included."""
    start = time.perf_counter()
    step()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def paired(
    a: Callable[[], None], b: Callable[[], None], rounds: int, device: torch.device
) -> tuple[float, float, float]:
    """Median seconds of each, and the median over rounds of b's time by a's; the order alternates."""
    times: list[tuple[float, float]] = []
    for i in range(-1, rounds):
        if i % 2:
            second, first = timed(b, device), timed(a, device)
        else:
            first, second = timed(a, device), timed(b, device)
        if i >= 0:
            times.append((first, second))
    return (
        statistics.median(t for t, _ in times),
        statistics.median(t for _, t in times),
        statistics.median(second / first for first, second in times),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", choices=["auto", "bf16", "fp32"], default="auto")
    args = parser.parse_args()
    device = pick_device(args.device)
    torch.manual_seed(0)
    images = torch.randn(args.batch, 3, IMAGE, IMAGE, device=device)
    ours, peer = our_model().to(device), peer_model().to(device)
    our_optimizer = make_adamw(ours, weight_decay=0.05, betas=(0.9, 0.95))
    set_lr(our_optimizer, 1e-4)
    peer_optimizer = torch.optim.AdamW(peer.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.05)

    def step(loss_of: Callable[[], Tensor], optimizer: torch.optim.Optimizer) -> None:
        with autocast(device, args.precision):
            loss = loss_of()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()

    def our_loss() -> Tensor:
        noise = torch.rand(args.batch, NUM_PATCHES, device=device)
        loss: Tensor = ours(images, random_masking(noise, NUM_PATCHES // 4)).loss
        return loss

    def peer_loss() -> Tensor:
        loss: Tensor = peer(pixel_values=images).loss
        return loss

    our_s, peer_s, step_ratio = paired(
        lambda: step(our_loss, our_optimizer), lambda: step(peer_loss, peer_optimizer), args.rounds, device
    )
    patches = patchify(images, PATCH)
    ids_keep = torch.rand(args.batch, NUM_PATCHES, device=device).argsort(dim=1)[:, : NUM_PATCHES // 4]

    def encode(ids: Tensor | None) -> None:
        with torch.inference_mode(), autocast(device, args.precision):
            ours.encoder(patches, ids)

    masked_s, whole_s, encoder_ratio = paired(lambda: encode(ids_keep), lambda: encode(None), args.rounds, device)
    report = Report("pretrain_step", __doc__ or "")
    enabled = autocast(device, args.precision)._enabled
    report.add(
        "setting", f"batch {args.batch}, {'bf16 autocast' if enabled else 'fp32'} on {device}, {args.rounds} rounds"
    )
    report.add("step, Maeve", f"{args.batch / our_s:.0f} img/s")
    report.add("step, Hugging Face ViTMAE", f"{args.batch / peer_s:.0f} img/s")
    report.add("step, Maeve / Hugging Face", f"{step_ratio:.2f}x")
    report.add("encoder forward, 75 % masked", f"{args.batch / masked_s:.0f} img/s")
    report.add("encoder forward, nothing masked", f"{args.batch / whole_s:.0f} img/s")
    report.add("encoder, 75 % / 0 %", f"{encoder_ratio:.2f}x")
    report.write()


if __name__ == "__main__":
    main()
