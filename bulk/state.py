"""What of a place is finished: the parts that are there, and the images of them that have errors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pyarrow as pa

from bulk.errors import BulkError
from bulk.parts import PART_NAME, PartInfo, part_errors, part_info, part_name
from bulk.place import STATE, Place
from bulk.plan import Plans
from bulk.worker import Report

ERRORS = f"{STATE}/errors.csv"
_FOOTERS_AT_ONCE = 16


@dataclass
class State:
    """parts: those that are there, by number. Of this run: the parts that it made, the number of images that it
    embedded, the parts that could not be made because their process died over and over, and those of which it makes
    the errors again.
    """

    place: Place
    plans: Plans
    parts: dict[int, PartInfo]
    made: set[int] = field(default_factory=set)
    num_made: int = 0
    deadly: list[int] = field(default_factory=list)
    again: frozenset[int] = frozenset()

    @classmethod
    def of(cls, place: Place, plans: Plans) -> State:
        """By the parts' footers. What no reader takes for Parquet, because somebody damaged it, counts as not there.

        BulkError for a part that is in no plan.
        """
        there = sorted(int(match[1]) for name in place.names() if (match := PART_NAME.match(name)))
        strange = [number for number in there if number >= len(plans)]
        if strange:
            raise BulkError(f"{place}/{part_name(strange[0])} is of no plan in {STATE}; choose another --out")
        with ThreadPoolExecutor(_FOOTERS_AT_ONCE) as pool:
            infos = list(pool.map(lambda number: _info(place, number), there))
        return cls(place, plans, {n: info for n, info in zip(there, infos, strict=True) if info is not None})

    def todo(self, *, retry_errors: bool) -> list[int]:
        """The numbers of the parts to make, in order; those that have errors too, if they are to be made again."""
        if retry_errors:
            self.again = frozenset(number for number, info in self.parts.items() if info.num_errors)
        for number in self.again:
            del self.parts[number]
        return [number for number in range(len(self.plans)) if number not in self.parts]

    def take(self, report: Report) -> None:
        """What came of a part. BulkError where that ends the run."""
        if report.failure is not None:
            raise BulkError(report.failure)
        if report.deadly:
            self.deadly.append(report.part)
            return
        self.parts[report.part] = PartInfo(report.num_rows, report.num_errors)
        self.made.add(report.part)
        self.num_made += report.num_made

    @property
    def num_images(self) -> int:
        return sum(info.num_rows for info in self.parts.values())

    @property
    def num_errors(self) -> int:
        return sum(info.num_errors for info in self.parts.values())

    def errors(self) -> Iterator[tuple[str, str]]:
        """(path, error), part by part as they are read from there: no more than a part's are held."""
        for number in sorted(self.parts):
            if self.parts[number].num_errors:
                with self.place.open(part_name(number)) as file:
                    errors = part_errors(file)
                yield from errors


def write_errors(place: Place, errors: Iterable[tuple[str, str]]) -> None:
    data = io.BytesIO()  # as bytes from the start: a million errors are 100 MB so, and several times that as strings
    with io.TextIOWrapper(data, encoding="utf-8", newline="", write_through=True) as text:
        rows = csv.writer(text)
        rows.writerow(("path", "error"))
        rows.writerows(errors)
        place.write(ERRORS, data.getvalue())


def _info(place: Place, number: int) -> PartInfo | None:
    with place.open(part_name(number)) as file:
        try:
            return part_info(file)
        except (pa.ArrowException, ValueError, AttributeError):
            return None
