"""An export of ServiceTitan against our fact rows, row by row: what differs, why, and how the two numbers add up."""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.kpis.definition import read_definitions
from stkpi.marts.increment import check_built
from stkpi.reconcile import bridge
from stkpi.reconcile.comparison import CENT, UNIT_COLUMN, Comparison, Window, find_window, infer_comparison
from stkpi.reconcile.exports import FIELDS, Export, parse_number
from stkpi.reconcile.queries import JOINER, load_keys_left_out, load_known_keys, load_our_rows, stage_units
from stkpi.reconcile.reasons import (
    DIFFERENT,
    IDENTICAL,
    IN_EXPORT,
    IN_WAREHOUSE,
    ONLY_EXPORT,
    ONLY_WAREHOUSE,
    Context,
    explain,
)
from stkpi.warehouse import Warehouse


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    window: the days compared; `asked`: those asked for, where they are others
    theirs, ours: the number of the export's rows, and of our rows on the days asked for
    ours_in_window: our number on the days compared
    rows: key, row (in the file), side, reason, decisive, fails, what is known of the row, and each amount on both sides
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
    """Compare an export with the facts of a built warehouse, by the definitions that the company has chosen.

    kpi: its name or label; by default what the export's columns say
    business_unit: a rolled-up unit, or several with commas between; by default those that the export names
    first_day, last_day: the days asked for, both included; the days that the export states go before them
    exported_at: when the export was made; by default what it states
    tolerances: of an amount (such as produced), the largest difference that counts as equal
    Raises UserError where the two cannot be compared.
    """
    config = settings.load()
    comparison = infer_comparison(export, read_definitions(config), kpi).with_tolerances(tolerances or {})
    check_built(target, {comparison.name: comparison.definition})
    notes = [f"{export.name} is compared as {comparison.label}."]
    if comparison.definition.departures:
        notes.append(f"Our definition departs from the default: {comparison.definition.describe()}.")
    window, asked = _find_windows(export, comparison, first_day, last_day, notes)
    exported_at = exported_at or export.exported_at
    if exported_at and exported_at.tzinfo is None:
        exported_at = exported_at.replace(tzinfo=ZoneInfo(config.time_zone))
    try:
        units, named = _find_units(target, export, comparison, business_unit, notes)
        stage_units(target, units)
        ours = load_our_rows(target, comparison, window)
        rows = _merge_sides(_read_export_rows(export, comparison, ours, notes), ours, comparison)
        if comparison.is_totals:
            rows = rows.assign(reason="totals", decisive=True, fails="totals", customer_name=None)
            notes.append("It has totals only: no row can be compared with another.")
        else:
            known = load_known_keys(target, comparison, window, rows["key"], config.time_zone)
            left_out = load_keys_left_out(target, comparison, window)
            context = Context(comparison, window, exported_at, named, left_out)
            rows = explain(_mark_sides(_join_known(rows, known, comparison), comparison), context)
        in_window = bridge.compute_number(ours, comparison)
        ours_asked = bridge.compute_number(load_our_rows(target, comparison, asked), comparison) if asked else in_window
    except target.NotFound as error:
        raise UserError("The KPI tables are not built yet: run the nightly first.") from error
    steps = list(bridge.list_steps(rows, comparison))
    if ours_asked != in_window:
        steps.append(bridge.Step("", "asked_dates", 0, ours_asked - in_window, ours_asked))
    return Result(
        comparison=comparison,
        export=export.name,
        business_units=tuple(units),
        window=window,
        asked=asked,
        theirs=bridge.compute_number(rows[rows["side"] != ONLY_WAREHOUSE], comparison, IN_EXPORT),
        ours=ours_asked,
        ours_in_window=in_window,
        rows=rows,
        steps=tuple(steps),
        notes=tuple(notes),
    )


# --- which days, which units -----------------------------------------------------------------------------------------


def _find_windows(
    export: Export, comparison: Comparison, first: date | None, last: date | None, notes: list[str]
) -> tuple[Window, Window | None]:
    """The days that are compared, and those that were asked for where they are others."""
    if (first is None) != (last is None):
        raise UserError("Give both FROM= and TO=, or neither.")
    if first and last and first > last:
        raise UserError(f"FROM {first} is after TO {last}: swap them.")
    asked = find_window(comparison, first, last) if first and last else None
    stated = None
    if export.first_day and export.last_day:
        stated = find_window(comparison, export.first_day, export.last_day)
    if stated and asked and stated != asked:
        notes.append(
            f"It states {_name_days(stated)}, and {_name_days(asked)} was asked for: its own dates are compared."
        )
        return stated, asked
    if stated:
        notes.append(f"It states its dates: {_name_days(stated)}.")
    found = stated or asked
    if found is None:
        column = comparison.report.date
        days = [day for day in export.dates(column) if day] if _rows_show_days(export, comparison) else []
        if not days:
            raise UserError(f"{export.name} does not say which days it covers: give FROM= and TO=.")
        found = find_window(comparison, min(days), max(days))
        notes.append(f"It states no dates: those of its rows are taken, {_name_days(found)}.")
    return found, None


def _rows_show_days(export: Export, comparison: Comparison) -> bool:
    """Whether the dates of an export's rows tell which days it covers: not where they also say which rows count."""
    date_column = comparison.report.date
    return (
        date_column in export.headers
        and date_column != comparison.report.only
        and comparison.distinct is None
        and not comparison.has_no_beginning
    )


def _name_days(window: Window) -> str:
    return f"{window.first_day} to {window.last_day}" if window.starts_on else str(window.last_day)


def find_units(target: Warehouse, business_unit: str) -> list[str]:
    """Return rolled-up units as people name them, with commas between. Raises UserError for one that there is not."""
    known = sorted(set(target.query("SELECT business_unit FROM st_ref_v2.dim_business_units")["business_unit"]))
    units = sorted({name.strip() for name in business_unit.split(",")})
    if unknown := [name for name in units if name not in known]:
        raise UserError(f"There is no business unit {unknown[0]}: take one of {', '.join(known)}.")
    return units


def _find_units(
    target: Warehouse, export: Export, comparison: Comparison, business_unit: str, notes: list[str]
) -> tuple[list[str], frozenset[str] | None]:
    """The rolled-up units that are compared, and ServiceTitan's units that the export names."""
    named = None
    if UNIT_COLUMN in export.headers:
        named = frozenset(name for name in export.text(UNIT_COLUMN) if name)
    known = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    if strange := sorted((named or frozenset()) - set(known["unit_name"])):
        notes.append(f"Its unit {strange[0]} is not in the warehouse: renamed, or newer than the last ingest.")
    if business_unit:
        return find_units(target, business_unit), named
    division = comparison.kpi.division
    of_division = known[known["division"].isin(comparison.kpi.divisions)]
    # Under an exact rollup a unit is its own name.
    counted = of_division[str(comparison.definition["rollup"].says)]
    units = sorted(set(counted[of_division["unit_name"].isin(named or ())]))
    if not units:
        units = sorted(set(counted))
        notes.append(f"It names no unit that is known: all {division} units are compared.")
    else:
        notes.append(f"Its units make up {', '.join(units)}.")
    return units, named


# --- the two sides ----------------------------------------------------------------------------------------------------


def _read_export_rows(export: Export, comparison: Comparison, ours: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows of the export that count: key, row, listed (how often), customer, job type, and its amounts."""
    amounts = [f"{amount.name}{IN_EXPORT}" for amount in comparison.amounts]
    if export.cells.empty:
        notes.append("It has no rows.")
        names = ["key", "row", "listed", f"customer{IN_EXPORT}", f"job_type{IN_EXPORT}", *amounts]
        return pd.DataFrame(columns=names, dtype=object)
    _check_stated_totals(export, comparison, notes)
    first_key = next(iter(comparison.key))
    frame = pd.DataFrame({"key": _read_keys(export, comparison), "row": export.cells["row"]})
    for name, field in (("customer", "customer_name"), ("job_type", "job_type")):
        frame[f"{name}{IN_EXPORT}"] = export.text(field) if field in export.headers else None
    for amount, name in zip(comparison.amounts, amounts, strict=True):
        values = [export.money(field) for field in amount.fields]
        ones = pd.Series(Decimal(1), index=frame.index, dtype=object)
        frame[name] = functools.reduce(operator.add, values) if values else ones
    frame = frame[_rows_that_count(export, comparison, frame)]
    keyless = frame["key"].isna()
    if keyless.any():
        notes.append(f"{keyless.sum()} of its rows have no {first_key.replace('_', ' ')}.")
        frame["key"] = frame["key"].where(~keyless, "row " + frame["row"].astype(str))
    # Where a key is one of our rows at most, a row that is listed twice is still one.
    once = "rows" not in ours or bool((ours["rows"] <= 1).all())
    how = {
        name: "max" if amount.is_whole and once else "sum"
        for amount, name in zip(comparison.amounts, amounts, strict=True)
    }
    first = dict.fromkeys(("row", f"customer{IN_EXPORT}", f"job_type{IN_EXPORT}"), "first")
    grouped = frame.groupby("key", sort=False)
    return grouped.agg(first | how).assign(listed=grouped.size()).reset_index()


def _read_keys(export: Export, comparison: Comparison) -> pd.Series:
    if comparison.is_totals:
        return export.text(UNIT_COLUMN)
    first, *others = (export.ids(field) for field in comparison.key)
    for column in others:
        first = first + JOINER + column.fillna("")
    return first


def _check_stated_totals(export: Export, comparison: Comparison, notes: list[str]) -> None:
    """Say so where the rows do not add up to the total that the export states: rows may be cut off."""
    for field in dict.fromkeys(field for a in comparison.amounts for field in a.fields if not a.is_whole):
        try:
            stated = parse_number((export.totals or {}).get(field) or "")
        except ValueError:
            continue
        added_up = sum(export.money(field), Decimal(0))
        if stated is not None and abs(stated - added_up) > CENT:
            notes.append(
                f"Its own total of {export.headers[field]} is {stated:,}, but its rows add up to {added_up:,}: it may "
                "be cut off or filtered."
            )


def _rows_that_count(export: Export, comparison: Comparison, frame: pd.DataFrame) -> pd.Series:
    counts = pd.Series(True, index=frame.index)
    if comparison.is_totals:
        return counts
    only, never = comparison.report.only, comparison.report.never
    if only and only in export.headers:
        filled = export.money(only) if FIELDS[only][0] == "money" else export.text(only)
        counts &= filled.map(bool)
    if never and never[0] in export.headers:
        counts &= export.text(never[0]) != never[1]
    # A row without an id and without an amount is of something else: a job without an estimate in a list of both.
    empty = frame["key"].isna() & bool(comparison.amounts)
    for amount in comparison.amounts:
        empty &= (frame[f"{amount.name}{IN_EXPORT}"] == 0) if amount.fields else False
    return counts & ~empty


def _merge_sides(theirs: pd.DataFrame, ours: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """One row per key of either side, with `side` as far as the keys tell, amounts zero where a side has none."""
    names = ["members", *(amount.name for amount in comparison.amounts)]
    ours = ours[["key", *names]].rename(columns={name: f"{name}{IN_WAREHOUSE}" for name in names})
    rows = theirs.merge(ours, on="key", how="outer", indicator=True)
    places = {"left_only": ONLY_EXPORT, "right_only": ONLY_WAREHOUSE, "both": IDENTICAL}
    rows["side"] = rows.pop("_merge").astype(str).map(places)
    for name in (f"{amount.name}{suffix}" for amount in comparison.amounts for suffix in (IN_EXPORT, IN_WAREHOUSE)):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), Decimal(0))
    members = rows[f"members{IN_WAREHOUSE}"].map(lambda values: values if isinstance(values, tuple) else ())
    return _mark_sides(rows.assign(**{f"members{IN_WAREHOUSE}": members, f"members{IN_EXPORT}": members}), comparison)


def _mark_sides(rows: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    both = rows["side"].isin([IDENTICAL, DIFFERENT])
    differs = pd.Series(False, index=rows.index)
    for amount in comparison.amounts:
        difference = (rows[f"{amount.name}{IN_EXPORT}"] - rows[f"{amount.name}{IN_WAREHOUSE}"]).abs()
        differs |= difference > amount.tolerance
    rows["side"] = np.where(both & differs, DIFFERENT, np.where(both, IDENTICAL, rows["side"]))
    return rows


def _join_known(rows: pd.DataFrame, known: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """The rows with what is known of them: distinct values by what is known, amounts only where they count."""
    rows = rows.merge(known.assign(in_warehouse=True), on="key", how="left")
    if comparison.distinct:
        rows[f"members{IN_EXPORT}"] = _find_members(rows, comparison)
    for amount in comparison.amounts:
        if amount.counts_if:
            counts = _infer_by_job_type(rows, f"counts_if:{amount.name}")
            rows[f"{amount.name}{IN_EXPORT}"] = rows[f"{amount.name}{IN_EXPORT}"].where(counts, Decimal(0))
    return rows


def _find_members(rows: pd.DataFrame, comparison: Comparison) -> list[tuple[str, ...]]:
    """The distinct values that each row of the export stands for: ours where we have the row, else what is known of it,
    else the customer's name (of a customer) or the row itself.
    """
    known = rows[f"member:{comparison.definition['measure'].id}"]
    by_name = "customer" in str(comparison.distinct)
    columns = (rows["side"], rows[f"members{IN_WAREHOUSE}"], rows["in_warehouse"], known, rows["key"])
    found: list[tuple[str, ...]] = []
    for (side, ours, is_known, member, key), name in zip(
        zip(*columns, strict=True), rows[f"customer{IN_EXPORT}"], strict=True
    ):
        if side == IDENTICAL:
            found.append(ours)
        elif is_known is True:
            found.append(() if pd.isna(member) else (str(member),))
        else:
            found.append((f"name {name}",) if by_name and isinstance(name, str) else (str(key),))
    return found


def _infer_by_job_type(rows: pd.DataFrame, flag: str) -> pd.Series:
    """A flag of each row; of one that the warehouse does not know, that of the known rows of its job type."""
    known = rows[flag].astype(object)
    job_type = rows[f"job_type{IN_EXPORT}"]
    of_type = known.dropna().astype(bool).groupby(job_type[known.notna()]).all()
    inferred = job_type.map(of_type).astype(object)
    return known.where(known.notna(), inferred.where(inferred.notna(), False)).astype(bool)
