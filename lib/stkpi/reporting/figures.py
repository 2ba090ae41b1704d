"""The figures that the pages show: every KPI of the company, its regions and its units, for weeks and other periods.

A figure is what the warehouse says for its own place and days (`kpis.sql.figures_sql`), never a sum of others. A place
is "company", or "region:" or "unit:" and its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any
from urllib.parse import quote

import pandas as pd

from stkpi.formatting import format_number, format_rounded, format_short_day, format_span
from stkpi.kpis.catalog import BOTH, Kpi
from stkpi.kpis.days import move_day
from stkpi.kpis.definition import Definition
from stkpi.kpis.sql import figures_sql, provisional_days, table_columns
from stkpi.reporting.weeks import USUAL_WEEKS, describe_level
from stkpi.warehouse import Warehouse

COMPANY = "company"
WEEK, MONTH, YEAR, NOTED = "week", "month", "year", "noted"
_SAME_WEEK = timedelta(weeks=52)
_UNQUOTED = "!'()*"  # as in JavaScript's encodeURIComponent, by which Explore writes the same address


@dataclass(frozen=True)
class Period:
    """Days that a figure is about, both included. `id` is what an address calls it; `before`: the id of the same days
    of the year before, empty where they are not covered.
    """

    id: str
    kind: str
    first: date
    last: date
    label: str
    is_running: bool = False
    before: str = ""


@dataclass(frozen=True)
class Figure:
    """A KPI of a place and period.

    rounded, exact: as people write it, to the dollar and to the cent; number: for a chart
    note, mood: how far it is from its usual level, and whether that is good, bad or flat; without a note, empty
    until: the day until which it is provisional, empty where it is final
    was: what it was before a later night found it to be this, empty where it has not changed lately
    """

    rounded: str
    exact: str
    number: float | None
    note: str = ""
    mood: str = ""
    until: str = ""
    was: str = ""


@dataclass(frozen=True)
class Book:
    """All figures: by place, period and KPI.

    periods: newest week first, then those that are not weeks
    units: region and division of each unit; rows: the columns of the KPI tables by (place, period)
    """

    as_of: date
    periods: Mapping[str, Period]
    units: pd.DataFrame
    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    figures: Mapping[str, Mapping[str, Mapping[str, Figure]]]

    @property
    def weeks(self) -> list[Period]:
        """The full weeks, newest first."""
        return [period for period in self.periods.values() if period.kind == WEEK and not period.is_running]


def list_periods(first_day: date, as_of: date, noted: Iterable[tuple[date, date]] = ()) -> dict[str, Period]:
    """Return the weeks from the newest to that of `first_day` (a Monday), the month and the year to date with the same
    days a year ago, and the `noted` days that are none of these; only days that are covered.
    """
    monday, found = as_of - timedelta(days=as_of.weekday()), []
    while monday >= first_day:
        sunday = monday + timedelta(days=6)
        before = monday - _SAME_WEEK
        found.append(
            Period(
                monday.isoformat(),
                WEEK,
                monday,
                min(sunday, as_of),
                format_span(monday, sunday),
                sunday > as_of,
                before.isoformat() if before >= first_day else "",
            )
        )
        monday -= timedelta(weeks=1)
    for kind, start, name in ((MONTH, as_of.replace(day=1), "Month"), (YEAR, as_of.replace(month=1, day=1), "Year")):
        first, last = move_day(start, "-1y"), move_day(as_of, "-1y")
        ago = Period(f"{kind}-ago", kind, first, last, f"{name} to date a year ago, {format_span(first, last)}")
        is_covered = first >= first_day
        if start >= first_day:
            label = f"{name} to date, {format_span(start, as_of)}"
            found.append(Period(kind, kind, start, as_of, label, is_running=True, before=ago.id if is_covered else ""))
        found += [ago] if is_covered else []
    known = {(period.first, period.last) for period in found}
    found += [
        Period(f"{first}..{last}", NOTED, first, last, format_span(first, last))
        for first, last in sorted(set(noted) - known, reverse=True)
        if first_day <= first and last <= as_of
    ]
    return {period.id: period for period in found}


def read_book(
    target: Warehouse,
    definitions: Mapping[str, Definition],
    as_of: date,
    noted: Iterable[tuple[date, date]] = (),
    was: Mapping[tuple[str, str, str], str] | None = None,
) -> Book:
    """Read every figure up to `as_of`, the last day of the KPI tables.

    noted: further days to have figures of; was: what figures were before they changed, by place, period and KPI
    """
    units = target.query(
        "SELECT business_unit, COALESCE(region, 'No region') AS region, division,"
        " (SELECT MIN(event_date) FROM st_mart_v2.kpi_daily_by_bu) AS first_day"
        " FROM st_mart_v2.kpi_daily_by_bu WHERE event_date = @as_of ORDER BY region, business_unit",
        as_of=as_of,
    )
    units["division"] = units["division"].fillna(BOTH)
    periods = list_periods(units["first_day"].min(), as_of, noted)
    found = _query_figures(target, definitions, periods.values(), as_of)
    names = {(period.first, period.last): period.id for period in periods.values()}
    rows: dict[tuple[str, str], Any] = {
        (name_place(row["place_kind"], row["place"]), names[row["first_day"], row["last_day"]]): row
        for row in found.to_dict("records")
    }
    figures = {
        place: _make_figures(place, rows, periods, select_kpis(place, units, definitions), as_of=as_of, was=was or {})
        for place in dict.fromkeys(place for place, _ in rows)
    }
    return Book(as_of, periods, units.set_index("business_unit").drop(columns="first_day"), rows, figures)


def read_company_weeks(target: Warehouse, definitions: Mapping[str, Definition], as_of: date) -> pd.DataFrame:
    """Return the company's full weeks up to `as_of`, oldest first: the columns of the KPI tables as float, and
    is_provisional; the index is the week's Monday.
    """
    first_day = target.query("SELECT MIN(event_date) AS day FROM st_mart_v2.kpi_daily_by_bu")["day"][0]
    periods = list_periods(first_day, as_of).values()
    weeks = [period for period in periods if period.kind == WEEK and not period.is_running]
    found = _query_figures(target, definitions, weeks, as_of)
    found = found[found["place_kind"] == COMPANY].sort_values("first_day")
    provisional = [last + timedelta(days=provisional_days(definitions)) > as_of for last in found["last_day"]]
    numbers = found.drop(columns=["first_day", "last_day", "place_kind", "place"]).astype(float)
    return numbers.assign(is_provisional=provisional).set_index(pd.DatetimeIndex(found["first_day"], name="week_start"))


def _query_figures(
    target: Warehouse, definitions: Mapping[str, Definition], periods: Iterable[Period], as_of: date
) -> pd.DataFrame:
    asked = json.dumps([{"first_day": str(period.first), "last_day": str(period.last)} for period in periods])
    return target.query(figures_sql(definitions), periods=asked, as_of=as_of)


def name_place(kind: str, name: str) -> str:
    """Return what an address calls the company, a region or a unit."""
    return f"{kind}:{name}" if name else kind


def name_change(kpi: str, place: str, week: str) -> str:
    """Return what an address calls the change of a figure, on the page of changes.

    >>> name_change("warmth", "unit:North & East", "2025-08-18")
    'warmth/unit%3ANorth%20%26%20East/2025-08-18'
    """
    return f"{kpi}/{quote(place, safe=_UNQUOTED)}/{week}"


def select_kpis(place: str, units: pd.DataFrame, definitions: Mapping[str, Definition]) -> list[Kpi]:
    """Return the KPIs that some unit of the place has, in the catalog's order."""
    kind, _, name = place.partition(":")
    columns = {"region": "region", "unit": "business_unit"}
    here = units if kind == COMPANY else units[units[columns[kind]] == name]
    return [d.kpi for d in definitions.values() if here["division"].isin(d.kpi.divisions).any()]


def _make_figures(
    place: str,
    rows: Mapping[tuple[str, str], Mapping[str, Any]],
    periods: Mapping[str, Period],
    kpis: Sequence[Kpi],
    *,
    as_of: date,
    was: Mapping[tuple[str, str, str], str],
) -> dict[str, dict[str, Figure]]:
    full = [period for period in periods.values() if period.kind == WEEK and not period.is_running]
    usual = {kpi.name: _list_usual([rows[place, period.id][kpi.name] for period in full]) for kpi in kpis}
    places = {period.id: n for n, period in enumerate(full)}
    return {
        period.id: {
            kpi.name: _make_figure(
                kpi,
                rows[place, period.id][kpi.name],
                usual[kpi.name][places[period.id]] if period.id in places else float("nan"),
                _find_until(kpi, period, as_of),
                was.get((place, period.id, kpi.name), ""),
            )
            for kpi in kpis
        }
        for period in periods.values()
    }


def _list_usual(values: Sequence[Any]) -> list[float]:
    """The mean of the twelve weeks before each week; `values` are the newest first. A provisional week gets none: the
    weeks that follow a final one are those that may not be final, never those before it.
    """
    series = pd.Series([None if pd.isna(value) else float(value) for value in reversed(values)], dtype=float)
    return list(series.rolling(USUAL_WEEKS, min_periods=1).mean().shift(1))[::-1]


def _find_until(kpi: Kpi, period: Period, as_of: date) -> str:
    final = period.last + timedelta(days=kpi.complete_after)
    return format_short_day(final) if kpi.complete_after and final > as_of else ""


def _make_figure(kpi: Kpi, value: Any, usual: float, until: str, was: str) -> Figure:
    if pd.isna(value):
        return Figure("—", "—", None, was=was)
    note, mood = ("", "") if until or pd.isna(usual) else describe_level(float(value), usual, kpi)
    return Figure(format_rounded(value, kpi.kind), format_number(value, kpi.kind), float(value), note, mood, until, was)


def list_parts(definition: Definition) -> list[str]:
    """Return the columns of the KPI tables that a ratio is made of, numerator first; none for another KPI."""
    return [column.name for column in table_columns(definition)][: len(definition.kpi.sums)]


def iterate_figures(book: Book) -> Iterator[tuple[str, Period, str, Figure]]:
    """Yield every figure with its place, period and KPI."""
    for place, periods in book.figures.items():
        for period, figures in periods.items():
            for kpi, figure in figures.items():
                yield place, book.periods[period], kpi, figure
