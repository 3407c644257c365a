"""The colours of a page, (light, dark): those of the service's own page, and a few more for what figures tell apart.

Figures are drawn in the light colours, and a page puts the names there, so that they follow its reader's theme.
"""

from __future__ import annotations

COLORS: dict[str, tuple[str, str]] = {
    "page": ("#f7f7f5", "#16171a"),
    "card": ("#ffffff", "#1f2125"),
    "line": ("#dedfdc", "#35383e"),
    "text": ("#1c1d20", "#ececea"),
    "soft": ("#5d6066", "#a2a5ab"),
    "accent": ("#2456c7", "#8db0ff"),
    "bad": ("#b3261e", "#ff8f86"),
    "on-accent": ("#ffffff", "#16171a"),
    "heat": ("#7a9be0", "#4c649c"),  # under text of either theme at any strength
    "series-1": ("#c2571a", "#f0a06a"),
    "series-2": ("#1f7a4d", "#63c795"),
    "series-3": ("#8a3fb0", "#d09af0"),
    "series-4": ("#0f7285", "#5cc4d6"),
    "series-5": ("#a8326e", "#f58fbd"),
    "series-6": ("#7a6200", "#d9bd4a"),
    "series-7": ("#565b66", "#b4b9c4"),
    "series-8": ("#3d6b12", "#a3d168"),
    "series-9": ("#7d4b3a", "#d8a491"),
}
SERIES = ("accent", *(name for name in COLORS if name.startswith("series-")))  # in the order of their use


def light(name: str) -> str:
    return COLORS[name][0]


def series(index: int) -> str:
    """The light colour of the index-th thing that a figure tells apart; they repeat after ten."""
    return light(SERIES[index % len(SERIES)])


def css_variables() -> str:
    return " ".join(f"--{name}: light-dark({light}, {dark});" for name, (light, dark) in COLORS.items())
