"""python -m training.probe --data DIR --init RUN --out RUN2: a linear classifier on the frozen encoder's features.

Multinomial logistic regression by L-BFGS on standardised features, its L2 penalty chosen on a validation split. The
standardisation is folded into the weights, so that the result is one linear layer.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from bundle.digest import file_sha256
from mae.classifier import Feature, LinearHead, LinearHeadConfig
from mae.model import Normalize, patchify
from mae.pretrained import Pretrained
from mae.weights import WEIGHTS_FILE, load_pretrained, save_model
from training.cli import parse
from training.convert import resolve_init
from training.data import Ids, open_data, open_test, require_classes, split_labeled
from training.device import pick_device
from training.errors import run_command
from training.evaluate import map_batches, top1
from training.packed import PackedDataset
from training.run import Run, data_fields, read_run, write_labels


@dataclass(frozen=True, kw_only=True)
class ProbeConfig:
    """Fit a linear classifier on a pre-trained encoder's features, which stay as they are."""

    data: Path
    """Labeled images: a folder with one sub-folder per class, Parquet with a column `label`, or a packed set."""
    out: Path
    """The run's folder."""
    init: Path
    """The run of training.pretrain, or the foreign weights, whose encoder is probed."""
    test: Path | None = None
    """Labeled images that are looked at once, at the end."""
    features: tuple[Feature, ...] = ("cls", "mean")
    """Which features the classifier sees, concatenated."""
    label_fraction: float = 1.0
    val_fraction: float = 0.1
    penalties: tuple[float, ...] = (1e-5, 1e-4, 1e-3, 1e-2)
    """L2 penalties to choose from, on standardised features and the mean loss."""
    max_iterations: int = 100
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        if not self.penalties or min(self.penalties) < 0:
            raise ValueError(f"--penalties must be at least one value, none negative, got {self.penalties}")
        if self.max_iterations < 1:
            raise ValueError(f"--max-iterations must be at least 1, got {self.max_iterations}")
        if self.seed < 0:
            raise ValueError(f"--seed must not be negative, got {self.seed}")


def probe(config: ProbeConfig) -> dict[str, float]:
    """Fit, evaluate on validation and, once, on the test set; returns the metrics that run.json keeps."""
    run = Run(config.out, "probe", asdict(config), resume=False)
    config = replace(config, init=resolve_init(config.init, config.out / "init"))
    pretrained = read_run(config.init, "pretrain")
    model = load_pretrained(config.init)
    device = pick_device(config.device)
    model.to(device)
    size = tuple(pretrained["data"]["pack_size"])
    packed = open_data(config.data, config.out / "pack", size=size, channels=model.config.channels)
    classes = require_classes(packed)
    test = None if config.test is None else open_test(config.test, config.out, packed, classes)
    train_ids, val_ids = split_labeled(packed, config.label_fraction, config.val_fraction, config.seed)
    head = LinearHead(LinearHeadConfig(inputs=config.features, dim=model.config.dim, num_classes=len(classes)))
    features = extract(model, config.features, packed, np.concatenate([train_ids, val_ids]), device)
    train_x, val_x = features[: len(train_ids)], features[len(train_ids) :]
    train_y = torch.from_numpy(packed.labels[train_ids])
    fits = {penalty: fit_logistic(train_x, train_y, len(classes), penalty, config.max_iterations)
            for penalty in config.penalties}  # fmt: skip
    scores = {
        penalty: top1(val_x @ weight.T + bias, packed.labels[val_ids]) for penalty, (weight, bias) in fits.items()
    }
    best = max(scores, key=scores.__getitem__)
    head.load_state_dict({"linear.weight": fits[best][0], "linear.bias": fits[best][1]})
    metrics = {"probe_val_top1": scores[best], "probe_penalty": best}
    if test is not None:
        ids = np.arange(len(test))
        with torch.inference_mode():
            logits = head(extract(model, config.features, test, ids, device))
        metrics["probe_test_top1"] = top1(logits, test.labels)
    save_model(head, config.out)
    write_labels(config.out, classes)
    run.describe(
        data=data_fields(packed.info), num_train=len(train_ids), num_val=len(val_ids), metrics=metrics,
        init_sha256=file_sha256(config.init / WEIGHTS_FILE),  # a head fits these very weights, and export asks for them
    )  # fmt: skip
    return metrics


def extract(
    model: Pretrained, names: tuple[Feature, ...], packed: PackedDataset, ids: Ids, device: torch.device
) -> Tensor:
    """The named features of every image, concatenated: f32 [N, D * len(names)]."""
    normalize = Normalize(model.config.mean, model.config.std).to(device)

    def features(pixels: Tensor) -> Tensor:
        tokens = model.encoder(patchify(normalize(pixels), model.config.patch_size))  # [B, 1 + L, D]
        parts = {"cls": tokens[:, 0], "mean": tokens[:, 1:].mean(dim=1)}
        return torch.cat([parts[name] for name in names], dim=1)

    return map_batches(packed, ids, model.config.image_size, device, features, "features")


def fit_logistic(x: Tensor, y: Tensor, num_classes: int, penalty: float, max_iterations: int) -> tuple[Tensor, Tensor]:
    """x: f32 [N, F], y: i64 [N] -> weight f32 [classes, F], bias f32 [classes], for features as they came."""
    std, mean = torch.std_mean(x, dim=0)
    std = std.clamp(min=1e-6)
    z = (x - mean) / std
    weight = torch.zeros(num_classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(num_classes, requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=max_iterations, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(z, weight, bias), y) + penalty * weight.square().sum()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    scaled = weight.detach() / std
    return scaled, bias.detach() - scaled @ mean


def main() -> None:
    config = parse(ProbeConfig, "training.probe")
    metrics = probe(config)
    print(f"{config.out}: " + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items()))


if __name__ == "__main__":
    run_command(main)
