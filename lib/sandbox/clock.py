"""The wall clock of a time zone, in the numbers that a generator computes with.

An instant is seconds since 1970 (UTC), a day is local days since 1970. An hour that daylight saving skips or repeats
is read as before the change.
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import cache
from zoneinfo import ZoneInfo

from sandbox.records import DAY, HOUR


@cache
def _find_offset(zone: ZoneInfo, hour: int, *, is_local: bool) -> int:
    """Return how many seconds the zone is ahead of UTC in an hour since 1970, counted on its own clock or on UTC's."""
    moment = datetime.fromtimestamp(hour * HOUR, UTC)
    local = moment.replace(tzinfo=zone) if is_local else moment.astimezone(zone)
    return int(local.utcoffset().total_seconds())


class Clock:
    """Converts between instants and the days and hours of one time zone."""

    def __init__(self, time_zone: str) -> None:
        """`time_zone` is a name such as America/New_York. Raises ZoneInfoNotFoundError for another one."""
        self.zone = ZoneInfo(time_zone)

    def to_local_day(self, moment: int) -> int:
        """Return the local day of an instant."""
        return (moment + _find_offset(self.zone, moment // HOUR, is_local=False)) // DAY

    def find_year(self, moment: int) -> int:
        """Return the local year of an instant."""
        return datetime.fromtimestamp(moment, self.zone).year

    def make_moment(self, day: int, hour: int, minute: int = 0) -> int:
        """Return the instant of a local time; hour 24 ends the day."""
        local = day * DAY + hour * HOUR + minute * 60
        return local - _find_offset(self.zone, local // HOUR, is_local=True)

    def add_days(self, moment: int, days: int) -> int:
        """Return the same local time of a later day."""
        day = self.to_local_day(moment)
        return moment + self.make_moment(day + days, 12) - self.make_moment(day, 12)
