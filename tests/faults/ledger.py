"""What became of every request. The sum must hold: sent = answered + rejected + refused + cut + left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field


@dataclass
class Ledger:
    """`rejected`: bad images whose senders were told so. `refused`: good ones, by status and type of a well-formed
    error. `cut`: the connection ended without an answer. `left`: the client went away on purpose. `wrong`: answers that
    are not what they must be; each makes its test fail.
    """

    sent: int = 0
    answered: int = 0
    rejected: int = 0
    left: int = 0
    cut: int = 0
    refused: Counter[tuple[int, str]] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)

    def balance(self) -> int:
        """Requests of which nothing is known: must be 0."""
        return self.sent - (
            self.answered + self.rejected + self.left + self.cut + sum(self.refused.values()) + len(self.wrong)
        )

    def __str__(self) -> str:
        refused = ", ".join(f"{n} x {status} {kind}" for (status, kind), n in sorted(self.refused.items()))
        return (
            f"{self.sent} sent: {self.answered} answered, {self.rejected} rejected, {self.left} left, {self.cut} cut, "
            f"{len(self.wrong)} wrong; refused: {refused or 'none'}"
        )

    def check(self, *, allowed: AbstractSet[tuple[int, str]] = frozenset(), cuts: bool = False) -> None:
        """AssertionError unless requests were answered, the sum holds, nothing is wrong, no refusal but the `allowed`
        ones happened, and no connection was cut (or `cuts` may happen: a process with connections was killed).
        """
        assert not self.wrong, self.wrong[:5]
        assert self.answered, str(self)
        assert self.balance() == 0, str(self)
        assert set(self.refused) <= allowed, str(self)
        assert cuts or self.cut == 0, str(self)
