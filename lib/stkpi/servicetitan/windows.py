"""Ingest windows: half-open intervals [start, end) that tile a range exactly."""

from __future__ import annotations

from collections.abc import Iterable
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

    def split_in_days(self, parts: int) -> list[Window]:
        """Cut the window in at least so many parts of whole days, the last one of fewer; of one day where it has fewer.

        A window that is shorter than a day stays as it is.
        """
        day = timedelta(days=1)
        length = max(1, (self.end - self.start) // day // max(1, parts)) * day
        cuts = [self.start + length * n for n in range(-(-(self.end - self.start) // length))]
        return [Window(start, min(start + length, self.end)) for start in cuts]

    def split_at_month(self) -> tuple[Window, Window] | None:
        """Cut the window in two at the first midnight of a month (UTC) near its middle; None if none is inside."""
        start, end = self.start.astimezone(UTC), (self.end - timedelta(microseconds=1)).astimezone(UTC)
        first, last = (moment.year * 12 + moment.month - 1 for moment in (start, end))
        if first == last:
            return None
        year, month = divmod((first + last + 1) // 2, 12)
        middle = datetime(year, month + 1, 1, tzinfo=UTC)
        return Window(self.start, middle), Window(middle, self.end)

    def leave_out(self, others: Iterable[Window]) -> list[Window]:
        """Return what remains of the window outside the others."""
        rest, start = [], self.start
        for other in sorted(each for each in others if each.start < self.end):
            if other.start > start:
                rest.append(Window(start, other.start))
            start = max(start, other.end)
        return [*rest, Window(start, self.end)] if start < self.end else rest

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d}..{self.end:%Y-%m-%d}"


def floor_to_midnight(moment: datetime) -> datetime:
    """Return the UTC midnight on or before `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
