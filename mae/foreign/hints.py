"""What the shapes of weights do not say: the number of heads, the grid of a rectangular image, the pixels' scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from mae.config import Loss, MAEConfig, Target


@dataclass(frozen=True, kw_only=True)
class Hints:
    """None: not known. image_size: (height, width) that the weights were trained at; labels: a classifier's names."""

    heads: int | None = None
    decoder_heads: int | None = None
    image_size: tuple[int, int] | None = None
    target: Target | None = None
    loss: Loss | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: tuple[str, ...] | None = None

    def over(self, other: Hints) -> Hints:
        """These, and the other's where these say nothing."""
        own = {f.name: getattr(self, f.name) for f in fields(self)}
        return Hints(**{name: getattr(other, name) if value is None else value for name, value in own.items()})

    @staticmethod
    def of(config: MAEConfig, labels: tuple[str, ...] | None) -> Hints:
        names = [f.name for f in fields(Hints) if f.name != "labels"]
        return Hints(**{name: getattr(config, name) for name in names}, labels=labels)

    @staticmethod
    def read(document: Mapping[str, Any]) -> Hints:
        """From JSON, which has no tuples; fields of other names are left alone."""
        known = {f.name for f in fields(Hints)}
        values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in document.items() if n in known}
        return Hints(**values)

    def document(self) -> dict[str, Any]:
        """For JSON; without what is not known."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items() if v is not None}
