"""What of a place is finished: the parts that are there, and the images of them that have errors."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
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
    """parts: those that are there, by number. Of this run: the errors of each part that it made, the number of its
    images, and the parts that could not be made because their process died over and over.
    """

    place: Place
    plans: Plans
    parts: dict[int, PartInfo]
    made: dict[int, Sequence[tuple[str, str]]] = field(default_factory=dict)
    num_made: int = 0
    deadly: list[int] = field(default_factory=list)

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
        for number in [n for n, info in self.parts.items() if retry_errors and info.num_errors]:
            del self.parts[number]
        return [number for number in range(len(self.plans)) if number not in self.parts]

    def take(self, report: Report) -> None:
        """What came of a part. BulkError where that ends the run."""
        if report.failure is not None:
            raise BulkError(report.failure)
        if report.deadly:
            self.deadly.append(report.part)
            return
        self.parts[report.part] = PartInfo(report.num_rows, len(report.errors))
        self.made[report.part] = report.errors
        self.num_made += report.num_rows

    @property
    def num_images(self) -> int:
        return sum(info.num_rows for info in self.parts.values())

    @property
    def num_errors(self) -> int:
        return sum(info.num_errors for info in self.parts.values())

    def errors(self) -> Iterator[tuple[str, str]]:
        """(path, error), part by part."""
        for number in sorted(self.parts):
            if number in self.made:
                yield from self.made[number]
            elif self.parts[number].num_errors:
                with self.place.open(part_name(number)) as file:
                    yield from part_errors(file)


def write_errors(place: Place, errors: Sequence[tuple[str, str]]) -> None:
    text = io.StringIO(newline="")
    rows = csv.writer(text)
    rows.writerow(("path", "error"))
    rows.writerows(errors)
    place.write(ERRORS, text.getvalue().encode())


def _info(place: Place, number: int) -> PartInfo | None:
    with place.open(part_name(number)) as file:
        try:
            return part_info(file)
        except (pa.ArrowException, ValueError, AttributeError):
            return None
