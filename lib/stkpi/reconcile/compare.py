"""An export of ServiceTitan against our fact rows, row by row: what differs, why, and how the two numbers add up."""

from __future__ import annotations

import csv
import tempfile
from calendar import isleap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.marts import build as marts
from stkpi.reconcile import bridge
from stkpi.reconcile import comparisons as kpis
from stkpi.reconcile.comparisons import Column, Comparison
from stkpi.reconcile.exports import Export, number
from stkpi.reconcile.reasons import DIFFERENT, HERE, IDENTICAL, THERE, Frame, explain
from stkpi.warehouse import Warehouse

LONGEST_PERIOD = timedelta(days=60)  # a longer window of Future Bookings is the report's own, to a year ahead
EVER = date(1900, 1, 1)
_SUMMARY_COLUMNS = {
    "estimates": (Column("jobs", ("completed_jobs",)),),
    "success_rate": (Column("opportunities", ("sales_opportunity",)), Column("closed", ("closed",))),
    "total_booked": (Column("amount", ("total_sales",), tolerance=kpis.CENT),),
}


@dataclass(frozen=True)
class Window:
    """The days that a comparison covers, both included. `as_of` is the last day on which a record may be created."""

    first_day: date
    last_day: date
    as_of: date


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    window: the days compared; `asked`: those asked for, where they are others
    theirs, ours: the number of the export's rows, and of our rows on the days asked for
    ours_in_window: our number on the days compared
    rows: key, row (in the file), side, reason, decisive, fails, customer, and of each column the amount there and here
    steps: from theirs to ours; `residual` is what they leave unexplained, zero
    notes: what was assumed, in sentences
    """

    comparison: Comparison
    export: str
    business_units: tuple[str, ...]
    window: Window
    asked: Window | None
    theirs: Fraction
    ours: Fraction
    ours_in_window: Fraction
    rows: pd.DataFrame
    steps: tuple[bridge.Step, ...]
    notes: tuple[str, ...]

    @property
    def residual(self) -> Fraction:
        """What the steps from their number to ours do not explain."""
        return self.ours - self.theirs - sum(step.change for step in self.steps)

    @property
    def matches(self) -> bool:
        """Whether every row is the same on both sides, and the number the one that was asked for."""
        return bool((self.rows["side"] == IDENTICAL).all()) and self.ours == self.ours_in_window

    @property
    def reasons(self) -> pd.DataFrame:
        """How many rows there are by side and reason."""
        counts = self.rows[self.rows["side"] != IDENTICAL].groupby(["side", "reason"]).size()
        return counts.rename("rows").reset_index().sort_values("rows", ascending=False, ignore_index=True)


def compare(
    export: Export,
    target: Warehouse,
    *,
    kpi: str = "",
    business_unit: str = "",
    first_day: date | None = None,
    last_day: date | None = None,
    exported_at: datetime | None = None,
    tolerances: Mapping[str, Decimal] | None = None,
) -> Result:
    """Compare an export with the facts of a built warehouse.

    kpi: a column of the weekly table; by default what the export's columns say
    business_unit: a rolled-up unit, or several with commas between; by default those that the export names
    first_day, last_day: the days asked for, both included; the days that the export states go before them
    exported_at: when the export was made; by default what it states
    tolerances: of a column (see `kpis`), the largest difference that counts as equal
    Raises UserError where the two cannot be compared.
    """
    config = settings.load()
    summary = kpis.is_summary(export)
    comparison = comparison_for(export, kpi)
    comparison = _tolerant(comparison, tolerances or {})
    notes = [f"{export.name} is taken for {comparison.label}."]
    window, asked = _windows(export, comparison, first_day, last_day, notes)
    exported_at = exported_at or export.exported_at
    if exported_at and exported_at.tzinfo is None:
        exported_at = exported_at.replace(tzinfo=ZoneInfo(config.time_zone))
    try:
        units, named = _units(target, export, comparison, business_unit, notes)
        _stage(target, "st_stage_v2.reconcile_units", "business_unit", units)
        theirs = _theirs(export, comparison, notes)
        ours = _ours(target, comparison, window, summary)
        judged = Frame(comparison, window.first_day, window.last_day, exported_at, named)
        rows = _merged(theirs, ours, comparison)
        if summary:
            rows = rows.assign(reason="summary", decisive=True, fails="summary", customer_name=None)
            notes.append("It has totals only: no row can be laid beside another.")
        else:
            known = _explained(target, comparison, window, rows["key"], config.time_zone)
            rows = explain(_sides(_joined(target, rows, known, comparison), comparison), judged)
        in_window = bridge.number(rows[rows["side"] != THERE], comparison, "here")
        ours_asked = in_window
        if asked:
            other = _ours(target, comparison, asked, summary)
            ours_asked = bridge.number(_renamed(other, comparison), comparison, "here")
    except target.NotFound as error:
        raise UserError("The KPI tables are not built yet: run `make nightly` first.") from error
    steps = list(bridge.steps(rows, comparison))
    if ours_asked != in_window:
        steps.append(bridge.Step("", "asked_dates", 0, ours_asked - in_window, ours_asked))
    return Result(
        comparison=comparison,
        export=export.name,
        business_units=tuple(units),
        window=window,
        asked=asked,
        theirs=bridge.number(rows[rows["side"] != HERE], comparison, "there"),
        ours=ours_asked,
        ours_in_window=in_window,
        rows=rows,
        steps=tuple(steps),
        notes=tuple(notes),
    )


def _tolerant(comparison: Comparison, tolerances: Mapping[str, Decimal]) -> Comparison:
    names = [column.name for column in comparison.columns]
    if unknown := sorted(tolerances.keys() - set(names)):
        raise UserError(f"There is no column {unknown[0]} to tolerate: take one of {', '.join(names) or 'none'}.")
    columns = tuple(replace(c, tolerance=tolerances.get(c.name, c.tolerance)) for c in comparison.columns)
    return replace(comparison, columns=columns)


def comparison_for(export: Export, kpi: str) -> Comparison:
    """How the export is compared: `kpis.taken_for`, or by totals of a unit where it has nothing else."""
    if not kpis.is_summary(export):
        return kpis.taken_for(export, kpi)
    return _summary(kpi or next(name for field, name in kpis.SUMMARY.items() if field in export.headers), export)


def _summary(kpi: str, export: Export) -> Comparison:
    """The comparison of totals by unit."""
    if kpi not in _SUMMARY_COLUMNS:
        raise UserError(f"{export.name} has totals by unit, of {', '.join(_SUMMARY_COLUMNS)} only: name one with KPI=.")
    columns = _SUMMARY_COLUMNS[kpi]
    if missing := [field for column in columns for field in column.fields if field not in export.headers]:
        raise UserError(f"{export.name} has no column for {missing[0].replace('_', ' ')}: export the report with it.")
    return replace(
        kpis.COMPARISONS[kpi], rows="units", key=("business_unit",), columns=columns, needs=(), only=None,
        parts=(columns[-1].name,),
    )  # fmt: skip


# --- which days, which units -----------------------------------------------------------------------------------------


def _windows(
    export: Export, comparison: Comparison, first: date | None, last: date | None, notes: list[str]
) -> tuple[Window, Window | None]:
    """The days that are compared, and those that were asked for where they are others."""
    if (first is None) != (last is None):
        raise UserError("Give both FROM= and TO=, or neither.")
    if first and last and first > last:
        raise UserError(f"FROM {first} is after TO {last}: exchange them.")
    asked = window_of(comparison, first, last) if first and last else None
    stated = window_of(comparison, export.first_day, export.last_day) if export.first_day and export.last_day else None
    if stated is None and asked is None:
        days = [day for day in export.dates(f"{comparison.date}_date") if day] if _has_dates(export, comparison) else []
        if not days:
            raise UserError(f"{export.name} does not say which days it covers: give FROM= and TO=.")
        stated = window_of(comparison, min(days), max(days))
        notes.append(f"It states no dates: those of its rows are taken, {_days(stated)}.")
        return stated, None
    if stated and asked and stated != asked:
        notes.append(f"It states {_days(stated)}, and {_days(asked)} was asked for: its own dates are compared.")
        return stated, asked
    if stated:
        notes.append(f"It states its dates: {_days(stated)}.")
    return stated or asked, None  # type: ignore[return-value] one of them is there


def _has_dates(export: Export, comparison: Comparison) -> bool:
    return f"{comparison.date}_date" in export.headers and not comparison.distinct | (comparison.date == "sold")


def window_of(comparison: Comparison, first: date, last: date) -> Window:
    """The days of a period that the KPI looks at: A/R all up to its end, Future Bookings those up to a year ahead."""
    if comparison.name == "outstanding_ar":
        return Window(EVER, last, last)
    if comparison.name == "future_bookings":
        if last - first > LONGEST_PERIOD:
            return Window(first, last, _year(last, -1))
        return Window(last - timedelta(days=last.weekday()), _year(last, 1), last)
    return Window(first, last, last)


def _year(day: date, years: int) -> date:
    """The same day of another year; 28 February for the 29th."""
    year = day.year + years
    return day.replace(year=year, day=28 if (day.month, day.day) == (2, 29) and not isleap(year) else day.day)


def _days(window: Window) -> str:
    return str(window.last_day) if window.first_day == EVER else f"{window.first_day} to {window.last_day}"


def units_of(target: Warehouse, business_unit: str) -> list[str]:
    """Rolled-up units as people name them, with commas between. Raises UserError for one that there is not."""
    known = sorted(set(target.query("SELECT business_unit FROM st_ref_v2.dim_business_units")["business_unit"]))
    units = sorted({name.strip() for name in business_unit.split(",")})
    if unknown := [name for name in units if name not in known]:
        raise UserError(f"There is no business unit {unknown[0]}: take one of {', '.join(known)}.")
    return units


def _units(
    target: Warehouse, export: Export, comparison: Comparison, business_unit: str, notes: list[str]
) -> tuple[list[str], frozenset[str] | None]:
    """The rolled-up units that are compared, and ServiceTitan's units that the export names."""
    named = None
    if "business_unit" in export.headers:
        named = frozenset(name for name in export.text("business_unit") if name)
    known = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    if strange := sorted((named or frozenset()) - set(known["unit_name"])):
        notes.append(f"Its unit {strange[0]} is not in the warehouse: renamed, or newer than the last ingest.")
    if business_unit:
        return units_of(target, business_unit), named
    of_division = known[known["division"] == comparison.division]
    units = sorted(set(of_division[of_division["unit_name"].isin(named or ())]["business_unit"]))
    if not units:
        units = sorted(set(of_division["business_unit"]))
        notes.append(f"It names no unit that is known: all {comparison.division} units are compared.")
    else:
        notes.append(f"Its units make up {', '.join(units)}.")
    return units, named


# --- the two sides ----------------------------------------------------------------------------------------------------


def _theirs(export: Export, comparison: Comparison, notes: list[str]) -> pd.DataFrame:
    """The rows of the export that count: key, row, listed (how often), customer, job type, and `<column>_there`."""
    columns = {column.name: column for column in comparison.columns}
    if export.cells.empty:
        notes.append("It has no rows.")
        names = ["key", "row", "listed", "customer_there", "job_type_there", *(f"{name}_there" for name in columns)]
        return pd.DataFrame(columns=names, dtype=object)
    _check_totals(export, comparison, notes)
    summary = comparison.key == ("business_unit",)
    parts = [export.text("business_unit")] if summary else [export.ids(field) for field in comparison.key]
    frame = pd.DataFrame({"key": parts[0], "row": export.cells["row"]})
    if len(parts) > 1:
        frame["key"] = frame["key"] + " to " + parts[1].fillna("")
    for name, field in (("customer_there", "customer_name"), ("job_type_there", "job_type")):
        frame[name] = export.text(field) if field in export.headers else None
    for name, column in columns.items():
        amounts = [export.money(field) for field in column.fields]
        frame[f"{name}_there"] = sum(amounts[1:], amounts[0]) if amounts else Decimal(1)
    frame = frame[_counting(export, comparison)]
    keyless = frame["key"].isna()
    if keyless.any():
        notes.append(f"{keyless.sum()} of its rows have no {comparison.key[0].replace('_', ' ')}.")
        frame["key"] = frame["key"].where(~keyless, "row " + frame["row"].astype(str))
    how = {f"{name}_there": "max" if column.flag else "sum" for name, column in columns.items()}
    first = dict.fromkeys(("row", "customer_there", "job_type_there"), "first")
    grouped = frame.groupby("key", sort=False)
    return grouped.agg(first | how).assign(listed=grouped.size()).reset_index()


def _check_totals(export: Export, comparison: Comparison, notes: list[str]) -> None:
    """Say so where the rows do not add up to the total that the export states: rows may be cut off."""
    for field in {field for column in comparison.columns for field in column.fields if not column.flag}:
        try:
            stated = number((export.totals or {}).get(field) or "")
        except ValueError:
            continue
        if stated is not None and abs(stated - export.money(field).sum()) > kpis.CENT:
            notes.append(
                f"Its own total of {export.headers[field]} is {stated:,}, but its rows add up to "
                f"{export.money(field).sum():,}: it may be cut off or filtered."
            )


def _counting(export: Export, comparison: Comparison) -> pd.Series:
    counts = pd.Series(True, index=export.cells.index)
    if comparison.only in export.headers:
        kept = export.text(comparison.only) if comparison.only == "sold_date" else export.money(comparison.only)
        counts &= kept.map(bool)
    if comparison.never and comparison.never[0] in export.headers:
        counts &= export.text(comparison.never[0]) != comparison.never[1]
    if comparison.key == ("estimate_number",):  # a job without an estimate has a row in the same sheet
        counts &= export.ids("estimate_number").notna() | export.money("estimate_subtotal").map(bool)
    return counts


def _ours(target: Warehouse, comparison: Comparison, window: Window, summary: bool) -> pd.DataFrame:
    sql = _sql("summary" if summary else comparison.name)
    return target.query(sql, first_day=window.first_day, last_day=window.last_day, as_of=window.as_of)


def _renamed(ours: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    names = {column.name: f"{column.name}_here" for column in comparison.columns}
    frame = ours[["key", "customer_id", *names]].rename(columns=names | {"customer_id": "who_here"})
    return frame.assign(who_here=frame["who_here"].astype(str))


def _merged(theirs: pd.DataFrame, ours: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """One row per key of either side, with `side` as far as the keys tell, amounts zero where a side has none."""
    rows = theirs.merge(_renamed(ours, comparison), on="key", how="outer", indicator=True)
    places = {"left_only": THERE, "right_only": HERE, "both": IDENTICAL}
    rows["side"] = rows.pop("_merge").astype(str).map(places)
    for column in comparison.columns:
        for hand in ("there", "here"):
            name = f"{column.name}_{hand}"
            rows[name] = rows[name].astype(object).where(rows[name].notna(), Decimal(0))
    rows["who_there"] = rows["key"]
    return _sides(rows, comparison)


def _sides(rows: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    both = rows["side"].isin([IDENTICAL, DIFFERENT])
    differs = pd.Series(False, index=rows.index)
    for column in comparison.columns:
        differs |= (rows[f"{column.name}_there"] - rows[f"{column.name}_here"]).abs() > column.tolerance
    rows["side"] = np.where(both & differs, DIFFERENT, np.where(both, IDENTICAL, rows["side"]))
    return rows


def _explained(
    target: Warehouse, comparison: Comparison, window: Window, keys: Iterable[str], zone: str
) -> pd.DataFrame:
    """What the warehouse knows of the keys: predicates, traits and dates, one row per key that it knows."""
    _stage(target, "st_stage_v2.reconcile_keys", "key", keys)
    return target.query(
        _sql(f"explain_{comparison.explain}"),
        division=comparison.division,
        time_zone=zone,
        first_day=window.first_day,
        last_day=window.last_day,
        as_of=window.as_of,
    )


def _joined(target: Warehouse, rows: pd.DataFrame, known: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """The rows with what is known of them; customers by id, and amounts that count for some records only."""
    rows = rows.merge(known, on="key", how="left")
    name = "name " + rows["customer_there"].astype(str)
    unknown = rows["key"].where(rows["customer_there"].isna(), name)
    ids = rows["customer_id"]
    rows["who_there"] = ids.astype(str).where(ids.notna(), unknown)
    for column in comparison.columns:
        if column.where:
            warranty = target.query("SELECT job_type FROM st_ref_v2.job_type_rules WHERE rule = 'warranty'")["job_type"]
            counts = rows[column.where].where(rows[column.where].notna(), rows["job_type_there"].isin(warranty))
            amounts = rows[f"{column.name}_there"]
            rows[f"{column.name}_there"] = amounts.where(counts.astype(bool), Decimal(0))
    return rows


def _sql(name: str) -> str:
    return (marts.SQL / "reconcile" / f"{name}.sql").read_text(encoding="utf-8")


def _stage(target: Warehouse, table: str, column: str, values: Iterable[str]) -> None:
    """Put a list where a query can join it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([column])
            writer.writerows([value] for value in values)
        target.load(table, path, [(column, "STRING")])
