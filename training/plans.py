"""Ready comparisons: what to pre-train and fine-tune, with how many labels and how often."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from training.recipes import NetworkFlags

PlanName = Literal["quick", "cifar10", "stl10", "tiny-imagenet"]


@dataclass(frozen=True, kw_only=True)
class PlanFlags(NetworkFlags):
    """What is compared, where it is not the plan's."""

    fractions: tuple[float, ...] | None = None
    """Shares of each class whose labels are used. Default: the plan's."""
    seeds: tuple[int, ...] | None = None
    """One fine-tuning of each arm and fraction for each: it draws the labels, the weights and the order.
    Default: the plan's."""
    blrs: tuple[float, ...] | None = None
    """Learning rates per 256 images, of which each arm and fraction takes its best on the validation split.
    Default: the plan's."""
    pretrain_epochs: int | None = None
    """Passes over the images of the pre-training. Default: the plan's, else the recipe's."""
    pretrain_batch_size: int | None = None
    """Images per step of the pre-training. Default: the plan's, else the recipe's."""
    epochs: int | None = None
    """Passes over the images of every fine-tuning, of either arm. Default: the plan's, else the recipe's."""
    batch_size: int | None = None
    """Images per step of every fine-tuning, of either arm. Default: the plan's, else the recipe's."""


@dataclass(frozen=True, kw_only=True)
class Plan(PlanFlags):
    """Flags of which fractions, seeds and learning rates are set."""

    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    seeds: tuple[int, ...] = (0, 1, 2)
    blrs: tuple[float, ...] = (5e-4, 1e-3, 2e-3)

    def __post_init__(self) -> None:
        if not self.fractions or not all(0 < f <= 1 for f in self.fractions):
            raise ValueError(f"--fractions must be at least one value, all in (0, 1], got {self.fractions}")
        if not self.seeds or min(self.seeds) < 0:
            raise ValueError(f"--seeds must be at least one number, none negative, got {self.seeds}")
        if not self.blrs or min(self.blrs) <= 0:
            raise ValueError(f"--blrs must be at least one value, all positive, got {self.blrs}")
        for name in ("fractions", "seeds", "blrs"):
            if len(set(getattr(self, name))) < len(getattr(self, name)):
                raise ValueError(f"--{name} must not name a value twice, got {getattr(self, name)}")
        for name in ("pretrain_epochs", "pretrain_batch_size", "epochs", "batch_size"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"--{name.replace('_', '-')} must be at least 1, got {value}")


PLANS: dict[PlanName, Plan] = {
    "quick": Plan(
        recipe="px32", depth=4, decoder_dim=64, decoder_depth=1, pretrain_epochs=10, epochs=10, fractions=(0.01, 0.1),
        seeds=(0, 1), blrs=(1e-3, 4e-3),
    ),
    "cifar10": Plan(recipe="long-32", epochs=100),
    "stl10": Plan(recipe="px96", pretrain_epochs=400, epochs=100, fractions=(0.05, 0.2, 1.0)),
    "tiny-imagenet": Plan(recipe="long-64", epochs=100),
}  # fmt: skip


def plan_for(name: PlanName | None, flags: PlanFlags) -> Plan:
    """The plan with what the flags set; None means not set. Raises ValueError for values that cannot be."""
    plan = Plan() if name is None else PLANS[name]
    values: dict[str, Any] = {k: v for k, v in asdict(flags).items() if v is not None and hasattr(plan, k)}
    return replace(plan, **values)
