"""A page as data, and the data as one HTML file that needs nothing beside it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from itertools import count
from pathlib import Path
from typing import ClassVar, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from training.errors import TrainingError
from training.pages.figures import svg, unique_ids
from training.pages.palette import css_variables
from training.run import write_atomic

_FOLDER = Path(__file__).parent
_LOSSLESS_BYTES = 150_000  # a larger picture becomes a JPEG
_PHONE_LETTERS, _COLUMN_GAP = 40, 3  # of a table's text
_PHONE_INCHES = 5.4  # a phone cannot shrink a wider figure any further
_COLUMN_INCHES = 7.2  # nor half of a page this one
_ENLARGED = 1.3  # figures at most, where there is room


@dataclass(frozen=True)
class Text:
    kind: ClassVar[str] = "text"
    text: str
    tone: Literal["", "soft", "bad", "missing soft"] = ""


@dataclass(frozen=True)
class Code:
    kind: ClassVar[str] = "code"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    pairs: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Share:
    """A cell with a bar behind its text. share: of the cell's width, 0 to 1."""

    text: str
    share: float

    def __len__(self) -> int:
        return len(self.text)


@dataclass(frozen=True)
class Table:
    """The first column names the rows and is left-aligned, the others, which mostly hold numbers, right."""

    kind: ClassVar[str] = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str | Share]]
    caption: str = ""

    @property
    def wide(self) -> bool:
        """Whether a phone has to scroll it."""
        columns = zip(self.head, *self.rows, strict=True)
        return sum(max(map(len, column)) + _COLUMN_GAP for column in columns) > _PHONE_LETTERS


@dataclass(frozen=True)
class Drawing:
    """element: markup of an <svg> or <img> that carries its own alternative text. inches: its least width, or 0."""

    kind: ClassVar[str] = "figure"
    element: Markup
    caption: str = ""
    inches: float = 0.0

    @property
    def wide(self) -> bool:
        """Whether a phone has to scroll it."""
        return self.inches > _PHONE_INCHES

    @property
    def alone(self) -> bool:
        """Whether it needs a row for itself."""
        return self.inches > _COLUMN_INCHES


@dataclass(frozen=True)
class Group:
    """figures and pictures wrap; a strip is one row that scrolls on a narrow screen, under its name."""

    kind: ClassVar[str] = "group"
    parts: Sequence[Drawing | Table | Facts]
    layout: Literal["figures", "pictures", "strip"] = "figures"
    name: str = ""


Block = Text | Code | Facts | Table | Drawing | Group


@dataclass(frozen=True)
class Section:
    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, kw_only=True)
class Page:
    title: str
    verdict: str
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = ""


def missing(text: str) -> Text:
    """What stands where something would, were it there."""
    return Text(text, "missing soft")


def section(id_: str, title: str, build: Callable[[], Sequence[Block]]) -> Section:
    """A section, which says so where what it shows is damaged: the rest of the page is none the worse."""
    try:
        return Section(id_, title, list(build()))
    except (TrainingError, OSError, ValueError, TypeError, KeyError, IndexError, AttributeError) as e:
        return Section(id_, title, [missing(f"This part cannot be shown: what it is made of is damaged ({e!r}).")])


def drawing(figure: Figure, alt: str, caption: str = "") -> Drawing:
    """A figure as an inline <svg>. alt: what it shows, for who does not see it."""
    inches = float(figure.get_size_inches()[0])
    size = f"max-width:{72 * inches * _ENLARGED:.0f}px"
    if inches > _PHONE_INCHES:
        size += f";min-width:{72 * inches:.0f}px"
    element = svg(figure).replace("<svg", f'<svg role="img" aria-label="{escape(alt)}" style="{size}"', 1)
    return Drawing(Markup(element), caption, inches)  # noqa: S704


def picture(image: Image.Image, alt: str, caption: str = "", *, max_width: int = 480) -> Drawing:
    """An image as a data URI, at most `max_width` pixels wide."""
    image = image.convert("RGB")
    if image.width > max_width:
        height = max(1, round(image.height * max_width / image.width))
        image = image.resize((max_width, height), Image.Resampling.LANCZOS)
    kind, data = "png", _encoded(image, "PNG", optimize=True)
    if len(data) > _LOSSLESS_BYTES:
        kind, data = "jpeg", _encoded(image, "JPEG", quality=85)
    source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
    size = f'width="{image.width}" height="{image.height}" style="height:auto"'
    return Drawing(Markup(f'<img src="{source}" alt="{escape(alt)}" {size}>'), caption)  # noqa: S704


def _encoded(image: Image.Image, format_: str, **options: int) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def write_page(page: Page, path: Path) -> Path:
    """Write the file, whole or not at all, and return its path."""
    environment = Environment(
        loader=FileSystemLoader(_FOLDER), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.globals["variables"] = Markup(css_variables())  # noqa: S704
    environment.globals["style"] = Markup((_FOLDER / "style.css").read_text())  # noqa: S704
    numbers = count(1)
    environment.globals["numbered"] = lambda element: Markup(unique_ids(element, f"f{next(numbers)}-"))  # noqa: S704
    text = environment.get_template("page.html").render(page=page)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(path, text.encode())
    return path
