"""Compare the newest days and weeks with those before: gaps, silence, and unusual numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from stkpi.formatting import format_day, format_rounded
from stkpi.kpis.catalog import Kpi
from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation.checks import Measure
from stkpi.validation.kpi_checks import COMPANY

WEEKS = 12
GROWING = tuple(name for name, entity in ENTITIES.items() if entity.grows)
# The days of gross pay keep filling up for weeks, so that its newest days never look like those before.
LATE = ENTITIES["payroll"]
SHORTEST_GAP = 2  # days: a weekend is no silence
SMALL_CHANGE = 0.05  # of what is usual, or five points of a rate: never an alarm


def measure_coverage(days: pd.DataFrame, least: float) -> Iterator[Measure]:
    """Measure per entity and month the share of the usual rows that is missing: 1 for an empty month, 0 for a full one.

    days: entity, day, records; a row for every day from the entity's first record on. The usual is the median of the
    entity's whole months, by the days of the month that are in `days`. Too small to say are the month in which an
    entity begins and those in which fewer than `least` rows are usual; an entity that never had any is missing, unless
    there are companies that have none.
    """
    for entity, rows in _by_entity(days):
        by_month = rows.groupby(pd.DatetimeIndex(rows.index).to_period("M")).agg(["sum", "size"])
        days_in_month = pd.PeriodIndex(by_month.index).days_in_month
        whole = by_month[by_month["size"] == days_in_month]
        usual = (whole if len(whole) else by_month)["sum"].median()
        expected = usual * by_month["size"] / days_in_month
        if by_month["sum"].sum() == 0 and not ENTITIES[entity].may_be_empty:
            yield Measure(entity, 1, "no rows at all")
        for month, found, rows_expected in list(zip(by_month.index, by_month["sum"], expected, strict=True))[1:]:
            if rows_expected >= max(least, 1):
                detail = f"{found:,} rows where about {rows_expected:,.0f} are usual"
                yield Measure(f"{entity} {month}", 1 - found / rows_expected, detail)


def measure_silence(days: pd.DataFrame, as_of: date) -> Iterator[Measure]:
    """Measure per entity how long ago the newest record is, in multiples of its longest gap in the 12 weeks before.

    Left out is what a company need not have, and has on less than a day a week.
    """
    for entity, rows in _by_entity(days):
        busy = rows.index[rows > 0]
        if busy.empty:
            if not ENTITIES[entity].may_be_empty:
                yield Measure(entity, np.inf, "no rows at all")
            continue
        quiet = (pd.Timestamp(as_of) - busy[-1]).days
        recent = busy[busy >= busy[-1] - timedelta(weeks=WEEKS)]
        if ENTITIES[entity].may_be_empty and len(recent) < WEEKS:
            continue  # what is rare may well stay away for long
        longest = max([SHORTEST_GAP, *np.diff(recent).astype("timedelta64[D]").astype(int)])
        detail = f"nothing for {quiet} days, the longest gap before was {longest}"
        yield Measure(entity, quiet / longest, detail)


def measure_volume(days: pd.DataFrame, as_of: date) -> Iterator[Measure]:
    """Measure per entity and day of the last seven whole days its robust z-score among the same weekdays of 12 weeks.

    Gross pay is left out: its newest days are still filling up.
    """
    for entity, rows in _by_entity(days):
        for day in pd.date_range(end=as_of - timedelta(days=1), periods=7) if entity != LATE.name else ():
            before = rows.reindex(day - pd.to_timedelta(np.arange(1, WEEKS + 1) * 7, unit="D")).dropna()
            if len(before) >= WEEKS // 2 and day in rows.index:
                usual = before.median()
                score = compute_z_score(rows[day], before, max(usual, 1) ** 0.5)  # what chance alone makes of a count
                detail = f"{rows[day]:,.0f} rows where {usual:,.0f} are usual on a {day:%A}"
                yield Measure(f"{entity} {day:%Y-%m-%d}", abs(score), detail)


def measure_newest_week(
    weeks: pd.DataFrame, kpis: Mapping[str, Kpi], as_of: date, *, company: bool
) -> Iterator[Measure]:
    """Measure per KPI (of the company, or of each unit) the robust z-score of its newest week among the 12 before.

    weeks: scope, week_start and a column per KPI, full weeks only. A KPI whose records arrive late is judged in the
    newest complete week, a level (a balance) by how much it changed. One that
    was zero in a week, or a level that did not move in one, is too small to judge.
    """
    frame = weeks[(weeks["scope"] == COMPANY) == company].assign(week_start=pd.to_datetime(weeks["week_start"]))
    for scope, rows in frame.sort_values("week_start").set_index("week_start").groupby("scope"):
        for name, kpi in kpis.items():
            last = pd.Timestamp(as_of - timedelta(days=6 + kpi.complete_after))
            values = rows.loc[:last, name].astype(float).tail(WEEKS + 1)
            before = values.iloc[:-1].dropna()
            if len(before) < WEEKS // 2 or (before == 0).any() or np.isnan(values.iloc[-1]):
                continue
            if kpi.is_level and (before.diff().dropna() == 0).any():
                continue
            newest, usual = format_rounded(values.iloc[-1], kpi.kind), format_rounded(before.median(), kpi.kind)
            detail = f"{newest} where {usual} is usual, week of {format_day(values.index[-1])}"
            yield Measure(f"{scope}, {kpi.label}", abs(_score_week(kpi, before, values.iloc[-1])), detail)


def _score_week(kpi: Kpi, before: pd.Series, value: float) -> float:
    usual = float(before.median())
    if kpi.is_level:
        return compute_z_score(value - before.iloc[-1], before.diff().dropna(), SMALL_CHANGE * usual)
    chance = usual**0.5 if kpi.kind == "count" else SMALL_CHANGE if kpi.kind == "rate" else 0
    return compute_z_score(value, before, max(SMALL_CHANGE * usual, chance))


def compute_z_score(value: float, before: pd.Series, least: float) -> float:
    """Return how far `value` is from the median of `before`, in times its usual variation.

    The usual variation is 1.4826 times the median absolute deviation (a standard deviation, where the numbers are
    normal), but at least `least`: twelve calm weeks must not turn a small change into an alarm.
    """
    usual = float(before.median())
    variation = 1.4826 * float((before - usual).abs().median())
    return (value - usual) / max(variation, least)


def measure_reads(status: pd.DataFrame, now: datetime, entities: Iterable[str] = ENTITIES) -> Iterator[Measure]:
    """Measure per entity how many hours ago it was read last; `status` as ingest.state gives it."""
    read = status[~status["refused"]].set_index("entity")["last_read"]
    refused = set(status["entity"]) - set(read.index)
    for entity in entities:
        if entity in refused:
            continue  # which is a check of its own
        if entity in read:
            hours = (now - read[entity]).total_seconds() / 3600
            yield Measure(entity, hours, f"read {hours:,.0f} hours ago")
        else:
            yield Measure(entity, np.inf, "was never read")


def measure_refusals(status: pd.DataFrame) -> Iterator[Measure]:
    """Measure per optional entity whether ServiceTitan refuses it (1) or not (0)."""
    read = status.set_index("entity")
    for entity in ENTITIES.values():
        if entity.optional:
            refused = entity.name in read.index and bool(read.loc[entity.name, "refused"])
            detail = "ServiceTitan refuses it, so that no figure counts what it has" if refused else "can be read"
            yield Measure(entity.name.replace("_", " "), float(refused), detail)


def _by_entity(days: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    """Each growing entity with its records by day, in order; an entity that has none is there as well."""
    frame = days.assign(day=pd.to_datetime(days["day"])).sort_values("day").set_index("day")
    for entity in GROWING:
        yield entity, frame.loc[frame["entity"] == entity, "records"].astype(int)
