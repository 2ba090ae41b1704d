"""What a run of days or weeks says about its own end: gaps, silence, and numbers unlike those before."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation.checks import Measure

WEEKS = 12
GROWING = tuple(name for name, entity in ENTITIES.items() if entity.incremental != "whole")
# The days of gross pay fill up for weeks: its newest days, and a margin made of them, are never like those before.
LATE = ENTITIES["payroll"]
MARGINS = ("gpm", "warranty_rate")
COUNTS = ("leads", "estimates_scheduled", "estimates")
RATES = ("success_rate", *MARGINS)
LEVELS = ("future_bookings", "outstanding_ar")
COMPANY = "The company"
SHORTEST_GAP = 2  # days: a weekend is no silence
SMALL_CHANGE = 0.05  # of what is usual, or five points of a rate: never an alarm


def coverage(days: pd.DataFrame, least: float) -> Iterator[Measure]:
    """Per entity and month, the share of the usual rows that is missing: 1 for an empty month, 0 for a full one.

    days: entity, day, records; a row for every day from the entity's first record on. The usual is the median of the
    entity's whole months, by the days of the month that are in `days`. Too small to say are the month in which an
    entity begins and those in which fewer than `least` rows are usual; an entity that never had any is missing.
    """
    for entity, rows in _by_entity(days):
        by_month = rows.groupby(pd.DatetimeIndex(rows.index).to_period("M")).agg(["sum", "size"])
        whole = by_month[by_month["size"] == by_month.index.days_in_month]
        usual = (whole if len(whole) else by_month)["sum"].median()
        expected = usual * by_month["size"] / by_month.index.days_in_month
        if by_month["sum"].sum() == 0:
            yield Measure(entity, 1, "no rows at all")
        for month, found in by_month["sum"].iloc[1:].items():
            if expected[month] >= max(least, 1):
                detail = f"{found:,} rows where about {expected[month]:,.0f} are usual"
                yield Measure(f"{entity} {month}", 1 - found / expected[month], detail)


def silence(days: pd.DataFrame, as_of: date) -> Iterator[Measure]:
    """Per entity, how long ago the newest record is, in multiples of its longest gap in the 12 weeks before it."""
    for entity, rows in _by_entity(days):
        busy = rows.index[rows > 0]
        if busy.empty:
            yield Measure(entity, np.inf, "no rows at all")
            continue
        quiet = (pd.Timestamp(as_of) - busy[-1]).days
        recent = busy[busy >= busy[-1] - timedelta(weeks=WEEKS)]
        longest = max([SHORTEST_GAP, *np.diff(recent).astype("timedelta64[D]").astype(int)])
        detail = f"nothing for {quiet} days, the longest gap before was {longest}"
        yield Measure(entity, quiet / longest, detail)


def volume(days: pd.DataFrame, as_of: date) -> Iterator[Measure]:
    """Per entity and day of the last seven whole days, its robust z-score among the same weekdays of 12 weeks.

    Gross pay is left out: its newest days are still filling.
    """
    for entity, rows in _by_entity(days):
        for day in pd.date_range(end=as_of - timedelta(days=1), periods=7) if entity != LATE.name else ():
            before = rows.reindex(day - pd.to_timedelta(np.arange(1, WEEKS + 1) * 7, unit="D")).dropna()
            if len(before) >= WEEKS // 2 and day in rows.index:
                usual = before.median()
                score = z_score(rows[day], before, max(usual, 1) ** 0.5)  # what chance alone makes of a count
                detail = f"{rows[day]:,.0f} rows where {usual:,.0f} are usual on a {day:%A}"
                yield Measure(f"{entity} {day:%Y-%m-%d}", abs(score), detail)


def newest_week(weeks: pd.DataFrame, as_of: date, *, company: bool) -> Iterator[Measure]:
    """Per KPI (of the company, or of each unit), the robust z-score of its newest week among the 12 weeks before.

    weeks: scope, week_start and a column per KPI, full weeks only. A margin is judged in the newest week whose labor is
    complete, a level (such as A/R) by how it changed. A KPI that was zero in one of the weeks is too thin to say.
    """
    frame = weeks[(weeks["scope"] == COMPANY) == company].assign(week_start=pd.to_datetime(weeks["week_start"]))
    for scope, rows in frame.sort_values("week_start").set_index("week_start").groupby("scope"):
        for kpi in rows.columns.drop("scope"):
            last = pd.Timestamp(as_of - timedelta(days=6) - (LATE.lookback if kpi in MARGINS else timedelta(0)))
            values = rows.loc[:last, kpi].astype(float).tail(WEEKS + 1)
            before, value = values.iloc[:-1].dropna(), values.iloc[-1]
            if len(before) < WEEKS // 2 or (before == 0).any() or np.isnan(value):
                continue
            usual = before.median()
            if kpi in LEVELS:
                score = z_score(value - before.iloc[-1], before.diff().dropna(), SMALL_CHANGE * usual)
            else:
                chance = usual**0.5 if kpi in COUNTS else 0
                score = z_score(value, before, max(SMALL_CHANGE * usual, SMALL_CHANGE if kpi in RATES else chance))
            form = "{:.1%}" if kpi in RATES else "{:,.0f}"
            detail = f"{form.format(value)} where {form.format(usual)} is usual, week of {values.index[-1]:%F}"
            yield Measure(f"{scope}, {kpi}", abs(score), detail)


def z_score(value: float, before: pd.Series, least: float) -> float:
    """How far `value` is from the median of `before`, in spreads of `before`.

    The spread is 1.4826 times the median absolute deviation (a standard deviation, where the numbers are normal), but
    at least `least`: twelve calm weeks must not turn a small change into an alarm.
    """
    usual = float(before.median())
    spread = 1.4826 * float((before - usual).abs().median())
    return (value - usual) / max(spread, least)


def reads(status: pd.DataFrame, now: datetime) -> Iterator[Measure]:
    """Per entity, how many hours ago it was read last; `status` as ledger.status gives it."""
    read = status.set_index("entity")["last_read"]
    for entity in ENTITIES:
        if entity in read:
            hours = (now - read[entity]).total_seconds() / 3600
            yield Measure(entity, hours, f"read {hours:,.0f} hours ago")
        else:
            yield Measure(entity, np.inf, "was never read")


def quarantine(status: pd.DataFrame) -> Iterator[Measure]:
    """Per entity, its rows in quarantine; `status` as ledger.status gives it."""
    for entity, rows in status.set_index("entity")["quarantined"].items():
        yield Measure(str(entity), float(rows), f"{rows:,} rows in quarantine")


def _by_entity(days: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Each growing entity with its records by day, in order; an entity that has none is there as well."""
    frame = days.assign(day=pd.to_datetime(days["day"])).sort_values("day").set_index("day")
    for entity in GROWING:
        yield entity, frame.loc[frame["entity"] == entity, "records"].astype(int)
