"""Days as people write them, and as people say them."""

from __future__ import annotations

from datetime import date, datetime

from stkpi.errors import UserError

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
