"""Ingest windows: half-open intervals [start, end) that tile a range exactly."""

from __future__ import annotations

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

    def __str__(self) -> str:
        return f"{self.start:%Y-%m-%d}..{self.end:%Y-%m-%d}"


def floor_to_midnight(moment: datetime) -> datetime:
    """Return the UTC midnight on or before `moment`."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
