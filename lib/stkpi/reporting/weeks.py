"""The full weeks of the KPI table: what changed, and what is still provisional.

`weekly` is `kpi_weekly_by_bu`: a row per week and unit, money and ratios as Decimal or None.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import date, timedelta

import pandas as pd

from stkpi.formatting import format_day, format_rounded, format_short_day
from stkpi.kpis.catalog import BOTH, Kpi

USUAL_WEEKS = 12
_NO_NUMBERS = ("week_start", "last_day", "business_unit", "region", "division", "is_provisional")
_TINY_BASE = 3  # times the number before: a percentage of so little says nothing


def select_full_weeks(weekly: pd.DataFrame, as_of: date) -> pd.DataFrame:
    """Return the rows of weeks whose Sunday is not after `as_of`, numbers as float, in the order of weeks.

    A unit without a division sells and produces.
    """
    frame = weekly.assign(
        week_start=pd.to_datetime(weekly["week_start"]), division=weekly["division"].fillna(BOTH).astype(object)
    )
    frame = frame[frame["week_start"] <= pd.Timestamp(as_of - timedelta(days=6))].sort_values("week_start")
    return frame.astype({column: float for column in frame if column not in _NO_NUMBERS})


def select_units(weeks: pd.DataFrame, division: str, kpis: Iterable[Kpi]) -> pd.DataFrame:
    """Return the rows of the units that have the KPIs of a division: its own units, and those that sell and produce,
    without the latter's idle ones.
    """
    units = weeks[weeks["division"].isin((division, BOTH))]
    return drop_idle_units(units, [kpi for kpi in kpis if kpi.division == division])


def drop_idle_units(weeks: pd.DataFrame, kpis: Iterable[Kpi]) -> pd.DataFrame:
    """Return the rows without units that may sell and produce but have no number in these KPIs, in any week."""
    has_number = weeks[[kpi.name for kpi in kpis]].fillna(0).ne(0).any(axis=1)
    return weeks[(weeks["division"] != BOTH) | has_number.groupby(weeks["business_unit"]).transform("any")]


def find_provisional(kpi: Kpi, rows: pd.DataFrame) -> pd.Series:
    """Return for each row whether records that count for the KPI in that week still arrive."""
    return rows["is_provisional"].astype(bool) & bool(kpi.complete_after)


def find_final_day(kpi: Kpi, week_start: pd.Timestamp) -> date:
    """Return the day on which the KPI of a week is final."""
    return (week_start + pd.Timedelta(days=6 + kpi.complete_after)).date()


def compute_usual(values: pd.Series, provisional: pd.Series) -> float:
    """Return the mean of the twelve weeks before the newest; provisional weeks say nothing about what is usual."""
    before = values.iloc[:-1][~provisional.iloc[:-1]]
    return float(before.tail(USUAL_WEEKS).mean())


def describe_change(now: float, before: float, kpi: Kpi) -> tuple[str, str]:
    """Return the change in words (+5, +12% of money, +1.2 pt of a rate) and whether it is good, bad or flat.

    A percentage of next to nothing is not one: then it is "from $2 to $84".
    """
    if pd.isna(now) or pd.isna(before):
        return "", "flat"
    new, old = format_rounded(now, kpi.kind), format_rounded(before, kpi.kind)
    if new == old:
        return "no change", "flat"
    mood = "good" if (now - before) * kpi.good > 0 else "bad"
    if kpi.kind == "rate":
        return f"{(now - before) * 100:+.1f} pt", mood
    if kpi.kind == "count":
        return f"{round(now) - round(before):+,d}", mood
    if before <= 0 or now <= 0 or now / before > _TINY_BASE:
        return f"from {old} to {new}", mood
    percent = (now / before - 1) * 100
    words = f"{percent:+.0f}%" if abs(percent) >= 1 else f"{percent:+.1f}%"
    return ("no change", "flat") if float(words[:-1]) == 0 else (words, mood)


def describe_against_usual(now: float, usual: float, kpi: Kpi) -> str:
    """Return a number beside its usual level: `$84, 12% above usual`."""
    number, (words, _) = format_rounded(now, kpi.kind), describe_level(now, usual, kpi)
    return f"{number}, {words}" if words else number


def describe_level(now: float, usual: float, kpi: Kpi) -> tuple[str, str]:
    """Return how far a number is from its usual level (`12% above usual`), and whether it is good, bad or flat."""
    words, mood = describe_change(now, usual, kpi)
    if words.startswith("from "):
        return f"usually {format_rounded(usual, kpi.kind)}", mood
    if words == "no change":
        return "as usual", mood
    return (f"{words[1:]} {_SIDES[words[0]]} usual" if words else ""), mood


_SIDES = {"+": "above", "-": "below"}


def name_week(week: pd.Timestamp) -> str:
    """Return a week as people say it: Aug 18 to Aug 24, 2025."""
    return f"{format_short_day(week)} to {format_day(week + pd.Timedelta(days=6))}"
