"""Ingest windows: half-open intervals [start, end) that tile a range exactly."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from stkpi.errors import UserError


@dataclass(frozen=True, order=True)
class Window:
    """The instants from `start` (included) to `end` (excluded), both aware and in UTC."""

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        if not self.start < self.end:
            raise UserError(
                f"A window must end after it starts: {self.start:%Y-%m-%d} to {self.end:%Y-%m-%d} does not."
            )

    def split(self) -> tuple[Window, Window]:
        """Cut the window in two at a midnight. Raises ValueError for a window of one day."""
        days = (self.end - self.start) // timedelta(days=1)
        if days < 2:  # noqa: PLR2004 - one day cannot be split at a midnight
            raise ValueError("a window of one day cannot be split")
        middle = self.start + timedelta(days=days // 2)
        return Window(self.start, middle), Window(middle, self.end)

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d}..{self.end:%Y-%m-%d}"


def floor_to_midnight(moment: datetime) -> datetime:
    """Return the UTC midnight on or before `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)


def split_by_month(start: datetime, end: datetime, length: int = 1) -> Iterator[Window]:
    """Tile [start, end) with windows that break at a UTC month's first midnight, every `length` months."""
    while start < end:
        month = start.astimezone(UTC).month - 1 + length
        following = floor_to_midnight(start).replace(year=start.year + month // 12, month=month % 12 + 1, day=1)
        yield Window(start, min(following, end))
        start = following
