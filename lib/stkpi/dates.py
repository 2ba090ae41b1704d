"""Days as people write them, and as people say them."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

from stkpi.errors import UserError

FIRST_YEAR, LAST_YEAR = 1990, 2100  # dates outside of them are no dates
# ISO first, then American forms; a year of two digits is of this century.
_FORMS = ("%Y-%m-%d", "%m/%d/%Y", "%m/%d/%y", "%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%Y%m%d")


def parse_day(text: str, name: str) -> date:
    """Return the day that a person wrote: 2025-08-18, 8/18/25, 8/18/2025 or Aug 18, 2025.

    name: what the person called it (FROM, as_of), for the message
    Raises UserError for what is no day.

    >>> parse_day("8/18/25", "FROM")
    datetime.date(2025, 8, 18)
    """
    for form in _FORMS:
        try:
            return datetime.strptime(" ".join(text.split()), form).date()  # noqa: DTZ007 a day has no time zone
        except ValueError:
            continue
    raise UserError(f"{name}={text} is not a day: write it as 2025-08-18 or 8/18/25.")


def parse_moment(value: Any) -> datetime | None:
    """Return the instant that a value of a record means, in UTC; None for what is no date of this world (1990 to 2100).

    Without a zone it is UTC, whatever the machine's zone is.

    >>> parse_moment("2025-08-18T23:30:00.1234567-07:00").isoformat()
    '2025-08-19T06:30:00.123456+00:00'
    """
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        return None
    return moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
