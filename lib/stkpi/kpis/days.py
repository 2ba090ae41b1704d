"""The days that a definition reads for a period, in Python and in GoogleSQL: both move days the same way."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import lru_cache

import pandas as pd

from stkpi.kpis.catalog import Option

_DAY = re.compile(r"(first|last|monday)?([+-]\d+[dy])?")


@lru_cache(maxsize=10_000)  # a search moves the same days many times
def move_day(day: date, step: str) -> date:
    """Return the day some days (+7d) or years (-1y; 28 February for the 29th) on.

    >>> move_day(date(2024, 2, 29), "+1y")
    datetime.date(2025, 2, 28)
    """
    if step.endswith("y"):
        return (pd.Timestamp(day) + pd.DateOffset(years=int(step[:-1]))).date()
    return day + timedelta(days=int(step[:-1])) if step else day


def read_days(window: Option, shift: Option, first: date, last: date) -> tuple[date, date, date]:
    """Return the first and last day that a definition reads for the period from `first` to `last`, and the period's
    last day as shifted; the first is date.min where the window has no beginning.
    """
    first, last = move_day(first, shift.says), move_day(last, shift.says)
    days = {"first": first, "last": last, "monday": last - timedelta(days=last.weekday())}
    found = []
    for text in window.says:
        anchor, step = (None, "") if text == "ever" else _DAY.fullmatch(text).groups("")  # type: ignore[union-attr]
        found.append(move_day(days[anchor], step) if anchor else date.min)
    return found[0], found[1], last


def day_sql(text: str, shift: Option, first: str, last: str) -> str:
    """Return a day of a window as GoogleSQL; `first` and `last` are the period's days as GoogleSQL."""
    anchor, step = _DAY.fullmatch(text).groups("")  # type: ignore[union-attr]
    day = _move_sql(first if anchor == "first" else last, shift.says)
    return _move_sql(f"DATE_TRUNC({day}, WEEK(MONDAY))" if anchor == "monday" else day, step)


def _move_sql(sql: str, step: str) -> str:
    if not step:
        return sql
    name = "SUB" if step[0] == "-" else "ADD"
    return f"DATE_{name}({sql}, INTERVAL {step[1:-1]} {'YEAR' if step[-1] == 'y' else 'DAY'})"


def within_sql(day: str, window: Option, shift: Option, first: str, last: str) -> str:
    """Return the condition that `day` lies in the window of a period, as GoogleSQL."""
    low, high = window.says
    end = day_sql(high, shift, first, last)
    if low == "ever":
        return f"{day} <= {end}"
    start = day_sql(low, shift, first, last)
    return f"{day} = {start}" if start == end else f"{day} BETWEEN {start} AND {end}"
