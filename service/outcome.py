"""What comes of the images of a request, and where it came from."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from service.cache import Vector

Source = Literal["memory", "redis", "flight", "computed"]


@dataclass(frozen=True)
class Outcome:
    """One image's result. `stages`: name -> seconds spent there."""

    value: Vector
    source: Source
    stages: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Answer:
    """A request's results in the order of its images. `stages`: for each, the slowest image's seconds; none if all
    were in the memory.
    """

    values: list[Vector]
    cached: list[bool]
    stages: dict[str, float]
    stored: bool = True  # False where the request forbade to keep it

    @property
    def num_values(self) -> int:
        return sum(value.size for value in self.values)
