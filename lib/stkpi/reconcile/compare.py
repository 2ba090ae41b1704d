"""An export of ServiceTitan against our fact rows, row by row: what differs, why, and how the two numbers add up."""

from __future__ import annotations

import functools
import hashlib
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from itertools import accumulate
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.kpis.catalog import Kpi, read_catalog
from stkpi.kpis.definition import read_definitions
from stkpi.marts.increment import check_built
from stkpi.reconcile import bridge
from stkpi.reconcile.comparison import (
    CENT,
    UNIT_COLUMN,
    Comparison,
    Window,
    find_by_id,
    find_window,
    infer_comparison,
    list_recognized,
)
from stkpi.reconcile.exports import FIELDS, Export, parse_number
from stkpi.reconcile.queries import (
    JOINER,
    OF_UNIT,
    count_known_keys,
    load_keys_left_out,
    load_known_keys,
    load_our_rows,
    load_unit_keys,
    stage_units,
)
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


class Unchanged(Exception):
    """Our rows are the same as when the export was compared before."""


@dataclass(frozen=True)
class Result:
    """What a comparison found.

    export: the file or report; `origin`: who says their number, in a sentence
    window: the days compared; `asked`: those asked for, where they are others
    theirs, ours: the number of the export's rows, and of our rows on the days asked for
    ours_in_window: our number on the days compared
    rows: key, row (in the file), side, reason, decisive, fails, what is known of the row, and each amount on both sides
    steps: from theirs to ours; `residual` is what they leave unexplained, zero
    digest: of our rows and of the definition: another one, and the comparison may end otherwise
    notes: how the export was read, in sentences
    doubts: what speaks against the export, and what was a guess, in sentences: to be said before any number
    """

    comparison: Comparison
    export: str
    origin: str
    business_units: tuple[str, ...]
    window: Window
    asked: Window | None
    theirs: Fraction
    ours: Fraction
    ours_in_window: Fraction
    rows: pd.DataFrame
    steps: tuple[bridge.Step, ...]
    notes: tuple[str, ...]
    doubts: tuple[str, ...] = ()
    digest: str = ""

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
    unless: str = "",
) -> Result:
    """Compare an export with the facts of a built warehouse, by the definitions that the company has chosen.

    kpi: its name or label; by default what the export's columns say
    business_unit: a rolled-up unit, or several with commas between; by default those that the export names
    first_day, last_day: the days asked for, both included; the days that the export states go before them
    exported_at: when the export was made; by default what it states
    tolerances: of an amount (such as produced), the largest difference that counts as equal
    unless: the digest of an earlier result
    Raises UserError where the two cannot be compared, and Unchanged where our rows are still those of `unless`.
    """
    config = settings.load()
    comparison = infer_comparison(export, read_definitions(config), kpi).with_tolerances(tolerances or {})
    check_built(target, {comparison.name: comparison.definition})
    if comparison.is_totals:
        export = _name_units(target, export)
    doubts = [*_check_stated_totals(export, comparison), *_describe_guesses(export, comparison, is_guess=not kpi)]
    notes = list(_describe_reading(export, comparison))
    if comparison.definition.departures:
        notes.append(f"Our definition departs from the default: {comparison.definition.describe()}.")
    window, asked = _find_windows(export, comparison, first_day, last_day, notes, doubts=doubts)
    exported_at = exported_at or export.exported_at
    if exported_at and exported_at.tzinfo is None:
        exported_at = exported_at.replace(tzinfo=ZoneInfo(config.time_zone))
    try:
        if not comparison.is_totals:
            comparison = _choose_key(target, export, comparison, doubts)
            # Rows of one key are one row, which is of one unit.
            parts_units = len(comparison.key) > 1 and UNIT_COLUMN in export.headers
            comparison = replace(comparison, parts_units=parts_units)
        units, named = _find_units(target, export, comparison, business_unit, notes, is_guess=not kpi)
        units = units or _infer_units(target, export, comparison, window, doubts)
        stage_units(target, units)
        ours = load_our_rows(target, comparison, window)
        digest = _digest_rows(ours, comparison)
        if digest == unless:
            raise Unchanged
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
        origin=export.origin or export.name,
        business_units=tuple(units),
        window=window,
        asked=asked,
        theirs=bridge.compute_number(rows[rows["side"] != ONLY_WAREHOUSE], comparison, IN_EXPORT),
        ours=ours_asked,
        ours_in_window=in_window,
        rows=rows,
        steps=tuple(steps),
        notes=tuple(notes),
        doubts=tuple(doubts),
        digest=digest,
    )


# --- how it was read --------------------------------------------------------------------------------------------------


def _check_stated_totals(export: Export, comparison: Comparison) -> Iterator[str]:
    """Say so where the rows do not add up to a count or total that the export states, of all rows so far or of its last
    ones: rows may be cut off.
    """
    at = [int(np.searchsorted(export.cells["row"].astype(int), row)) for row, _ in export.totals]
    yield from _check_stated_counts(export, comparison, at)
    # The total of a column of flags may be anything.
    added = [a for a in comparison.amounts if comparison.is_totals or not a.is_whole]
    for field in dict.fromkeys(field for amount in added for field in amount.fields):
        sums = [Decimal(0), *accumulate(export.money(field))] if export.totals else []
        starts = {Decimal(0)}
        for place, (row, cells) in zip(at, export.totals, strict=True):
            try:
                stated = None if cells[field] is None else parse_number(cells[field])
            except ValueError:
                stated = None
            so_far = sums[place]
            if stated is not None and all(abs(so_far - start - stated) > CENT for start in starts):
                yield (
                    f"{export.name} contradicts itself: its row {row} states {stated:,} as total of "
                    f"{export.headers[field]}, but the rows above add up to {so_far:,}. It may be cut off or filtered."
                )
            starts.add(so_far)


def _check_stated_counts(export: Export, comparison: Comparison, at: Sequence[int]) -> Iterator[str]:
    """Say so where there are not as many rows, filled cells or different ids above a count as it says."""
    fields = [field for field in comparison.key if FIELDS[field][0] == "id" and export.totals]
    starts = [0]
    for place, (row, cells) in zip(at, export.totals, strict=True):
        for field in fields:
            stated = str(cells[field] if cells[field] is not None else "").removesuffix(".0")
            parts = [export.cells[field].iloc[start:place].dropna() for start in starts]
            counts = {count for part in parts for count in (len(part), part.nunique())}
            if stated.isdigit() and int(stated) not in counts | {place - start for start in starts}:
                yield (
                    f"{export.name} contradicts itself: its row {row} states {stated} as count of "
                    f"{export.headers[field]}, but there are {place:,} rows above. It may be cut off or filtered."
                )
        starts.append(place)


def _describe_guesses(export: Export, comparison: Comparison, *, is_guess: bool) -> Iterator[str]:
    """Say which KPI the columns were taken for, if nobody named one, and which column by likeness."""
    if is_guess:
        others = [
            kpi.name
            for kpi in read_catalog().values()
            if comparison.is_totals and kpi is not comparison.kpi and _has_totals(export, kpi)
        ]
        more = f" {' and '.join(others)}, which it has too, or" if others else ""
        yield (
            f"{export.name} is compared as {comparison.label}, because it has "
            f"{_join(list_recognized(export, comparison))}; KPI= chooses{more} another."
        )
    else:
        yield f"{export.name} is compared as {comparison.label}."
    for field in _list_used_fields(export, comparison):
        if field in export.likened:
            yield f"Its column {export.headers[field]} is taken for {field.replace('_', ' ')} by its likeness."


def _list_used_fields(export: Export, comparison: Comparison) -> list[str]:
    report = comparison.report
    fields = [*comparison.key, *(field for amount in comparison.amounts for field in amount.fields)]
    fields += [report.only or "", *(report.never or ())[:1], UNIT_COLUMN, "customer_name", "job_type"]
    return [field for field in dict.fromkeys(fields) if field in export.headers]


def _describe_reading(export: Export, comparison: Comparison) -> Iterator[str]:
    """Say as what the export was read: which columns and rows."""
    used = _list_used_fields(export, comparison)
    yield "Columns that count: " + ", ".join(_describe_column(export, field) for field in used) + "."
    reasons: dict[str, list[int]] = {}
    for row, reason in export.left_out:
        reasons.setdefault(reason, []).append(row)
    left_out = "; ".join(f"{_name_rows(rows)} ({reason})" for reason, rows in reasons.items())
    yield f"{len(export.cells):,} rows are data" + (f"; left out: {left_out}." if left_out else ", none is left out.")
    ours = comparison.definition["date"].basis
    if export.basis and ours and export.basis.lower() != ours.lower():
        yield f"It is filtered by {export.basis}, and {comparison.label} by {ours}: that alone can differ."


def _has_totals(export: Export, kpi: Kpi) -> bool:
    return bool(kpi.report.totals) and export.headers.keys() >= set(kpi.report.totals)


def _describe_column(export: Export, field: str) -> str:
    header, meaning = export.headers[field], field.replace("_", " ")
    return header if meaning in header.lower().replace("#", "number") else f"{header} (as {meaning})"


MOST_ROWS = 8  # that a sentence names


def _name_rows(rows: Sequence[int]) -> str:
    shown = ", ".join(map(str, rows[:MOST_ROWS]))
    more = f" and {len(rows) - MOST_ROWS:,} more" if len(rows) > MOST_ROWS else ""
    return f"row{'s' if len(rows) > 1 else ''} {shown}{more}"


def _join(words: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# --- which days, which units -----------------------------------------------------------------------------------------


def _find_windows(
    export: Export,
    comparison: Comparison,
    first: date | None,
    last: date | None,
    notes: list[str],
    *,
    doubts: list[str],
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
        doubts.append(f"It states no dates: those of its rows are taken, {_name_days(found)}.")
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
    """Return the rolled-up units that a person names, in any letter case, with commas between.

    Raises UserError for one that there is not.
    """
    known = sorted(set(target.query("SELECT business_unit FROM st_ref_v2.dim_business_units")["business_unit"]))
    spoken = {name.casefold(): name for name in known}
    named = [name.strip() for name in business_unit.split(",")]
    if unknown := [name for name in named if name.casefold() not in spoken]:
        raise UserError(f"There is no business unit {unknown[0]}: take one of {', '.join(known)}.")
    return sorted({spoken[name.casefold()] for name in named})


def _find_units(
    target: Warehouse, export: Export, comparison: Comparison, business_unit: str, notes: list[str], *, is_guess: bool
) -> tuple[list[str], frozenset[str] | None]:
    """The rolled-up units that are compared, none where the export names none, and ServiceTitan's units that it names.

    Raises UserError where the KPI is a guess, and all of the units are of the other division.
    """
    named = None
    if UNIT_COLUMN in export.headers:
        named = frozenset(name for name in export.text(UNIT_COLUMN) if name)
    known = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    if strange := sorted((named or frozenset()) - set(known["unit_name"])):
        notes.append(f"Its unit {strange[0]} is not in the warehouse: renamed, or newer than the last ingest.")
    divisions = set(known.loc[known["unit_name"].isin(named or ()), "division"].dropna())
    if is_guess and divisions and not divisions & set(comparison.kpi.divisions):
        fitting = [kpi.name for kpi in read_catalog().values() if divisions & set(kpi.divisions)]
        raise UserError(
            f"{export.name} has the columns of {comparison.label}, which {comparison.kpi.division} units have, but its "
            f"units are {_join(sorted(divisions))} units: name what it shows with KPI=, one of {', '.join(fitting)}."
        )
    if business_unit:
        return find_units(target, business_unit), named
    counted = _list_counted(known, comparison)
    units = sorted(set(counted[counted.index.isin(named or ())]))
    if units:
        notes.append(f"Its units make up {', '.join(units)}.")
    return units, named


def _list_counted(known: pd.DataFrame, comparison: Comparison) -> pd.Series:
    """The unit under which each of ServiceTitan's units of the KPI's divisions counts, by its name."""
    of_division = known[known["division"].isin(comparison.kpi.divisions)].set_index("unit_name", drop=False)
    return of_division[str(comparison.definition["rollup"].says)]  # under an exact rollup a unit is its own name


def _infer_units(
    target: Warehouse, export: Export, comparison: Comparison, window: Window, doubts: list[str]
) -> list[str]:
    """The fewest units that have all rows of an export that we have; all units where we have none of them."""
    known = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    units = sorted(set(_list_counted(known, comparison)))
    rows = load_unit_keys(target, comparison, window)
    asked = set() if comparison.is_totals else set(_read_keys(export, comparison, None).explode().dropna())
    of_unit = {unit: asked & set(rows.loc[rows["business_unit"] == unit, "key"]) for unit in units}
    left, found = set().union(*of_unit.values()), list[str]()
    while left:
        unit = max(units, key=lambda unit: len(of_unit[unit] & left))
        found.append(unit)
        left -= of_unit[unit]
    if found:
        doubts.append(f"It names no unit; the rows that we have are of {_join(sorted(found))}. BU= compares others.")
    else:
        doubts.append(f"It names no unit that is known: all {comparison.kpi.division} units are compared.")
    return sorted(found) or units


# --- the two sides ----------------------------------------------------------------------------------------------------


def _digest_rows(ours: pd.DataFrame, comparison: Comparison) -> str:
    rows = sorted(zip(*(map(str, ours[column].tolist()) for column in ours), strict=True))
    return hashlib.sha256(repr((comparison.definition.describe(), rows)).encode()).hexdigest()


def _name_units(target: Warehouse, export: Export) -> Export:
    """Return totals with their units. Raises UserError for those of other things, such as technicians."""
    if UNIT_COLUMN in export.headers:
        return export
    known = set(target.query("SELECT unit_name FROM st_ref_v2.dim_business_units")["unit_name"])
    if "name" not in export.headers or not known & set(export.text("name")):
        header = export.headers.get("name") or export.headers.get("technician")
        what = (
            f"its {header} is no unit that is known, so it may be by technician" if header else "no column names them"
        )
        raise UserError(
            f"{export.name} has totals that are not by business unit ({what}): there is no such number here. Export it "
            "by business unit, or the rows behind the number, with their Job #."
        )
    headers = {UNIT_COLUMN if field == "name" else field: header for field, header in export.headers.items()}
    return replace(export, cells=export.cells.rename(columns={"name": UNIT_COLUMN}), headers=headers)


def _choose_key(target: Warehouse, export: Export, comparison: Comparison, doubts: list[str]) -> Comparison:
    """Return the comparison by number or, where no number of the export is known, by the ids that stand beside it."""
    other = find_by_id(export, comparison)
    if other is None or export.cells.empty:
        return comparison
    for each in (comparison, other):
        keys = _read_keys(export, each, "").explode().dropna()
        if count_known_keys(target, each, keys):
            break
    else:
        return comparison
    if each is other:
        number, id = (export.headers[next(iter(one.key))] for one in (comparison, other))
        doubts.append(f"None of its {number} is in the warehouse: its rows are found by {id}.")
    return each


def _read_export_rows(export: Export, comparison: Comparison, ours: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """The rows of the export that count: key, row, listed (how often), customer, job type, and its amounts."""
    amounts = [f"{amount.name}{IN_EXPORT}" for amount in comparison.amounts]
    if export.cells.empty:
        notes.append("It has no rows.")
        names = ["key", "row", "listed", f"customer{IN_EXPORT}", f"job_type{IN_EXPORT}", *amounts]
        return pd.DataFrame(columns=names, dtype=object)
    # What is applied to no invoice has no invoice number here either.
    starts = OF_UNIT if comparison.parts_units else JOINER
    nothing = "" if ours["key"].str.startswith(starts).any() else None
    frame = pd.DataFrame({"key": _read_keys(export, comparison, nothing), "row": export.cells["row"]})
    for name, field in (("customer", "customer_name"), ("job_type", "job_type")):
        frame[f"{name}{IN_EXPORT}"] = export.text(field) if field in export.headers else None
    for amount, name in zip(comparison.amounts, amounts, strict=True):
        values = [export.money(field) for field in amount.fields]
        ones = pd.Series(Decimal(1), index=frame.index, dtype=object)
        frame[name] = functools.reduce(operator.add, values) if values else ones
    uncounted = _find_uncounted(export, comparison, frame)
    for why, rows in frame["row"].groupby(uncounted):
        notes.append(
            f"{len(rows):,} of them {'does' if len(rows) == 1 else 'do'} not count, {why}: {_name_rows(list(rows))}."
        )
    frame = frame[uncounted.isna()]
    keyless = frame["key"].map(len) == 0
    if keyless.any():
        header = export.headers[next(iter(comparison.key))]
        named = _name_rows(list(frame.loc[keyless, "row"]))
        notes.append(f"{keyless.sum()} of its rows {'has' if keyless.sum() == 1 else 'have'} no {header}: {named}.")
        frame["key"] = frame["key"].where(~keyless, frame["row"].map(lambda row: (f"row {row}",)))
    frame = _split_cells(frame, comparison, ours, notes)
    # Where a key is one of our rows at most, a row that is listed twice is still one.
    once = "rows" not in ours or bool((ours["rows"] <= 1).all())
    how = {
        name: "max" if amount.is_whole and once else "sum"
        for amount, name in zip(comparison.amounts, amounts, strict=True)
    }
    first = dict.fromkeys(("row", f"customer{IN_EXPORT}", f"job_type{IN_EXPORT}"), "first")
    grouped = frame.groupby("key", sort=False)
    return grouped.agg(first | how).assign(listed=grouped.size()).reset_index()


def _read_keys(export: Export, comparison: Comparison, nothing: str | None) -> pd.Series:
    """The keys of each row of the export, a tuple, as the queries write them; more than one where a cell has several
    ids, none where the first column is empty.

    nothing: what an empty first column is written as where the other columns of the key are filled; None: no key
    """
    parts = []
    for field in comparison.key:
        if FIELDS[field][0] == "id":
            parts.append(export.ids(field))
        else:
            column = export.dates(field) if FIELDS[field][0] == "date" else export.text(field)
            parts.append(column.map(lambda value: () if value is None else (str(value),)))
    keys = []
    units = export.text(UNIT_COLUMN) if comparison.parts_units else [None] * len(export.cells)
    for row, unit, (first, *others) in zip(export.cells["row"], units, zip(*parts, strict=True), strict=True):
        if not first and nothing is not None and any(others):
            first = (f"{OF_UNIT}{unit}" if unit else nothing,)  # noqa: PLW2901
        several = max(map(len, (first, *others)))
        if any(len(part) not in (0, 1, several) for part in others) or len(first) not in (0, several, 1):
            raise UserError(
                f"{export.name}, row {row} has several values in one cell that do not pair up: split them into rows."
            )
        columns = [part * several if len(part) == 1 else part or ("",) * several for part in others]
        firsts = first * several if len(first) == 1 else first
        keys.append(tuple(JOINER.join(parts) for parts in zip(firsts, *columns, strict=True)) if firsts else ())
    return pd.Series(keys, index=export.cells.index, dtype=object)


def _split_cells(frame: pd.DataFrame, comparison: Comparison, ours: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """Make a row of each key of a cell with several. Their amounts add up to the cell's: each is ours as far as we have
    one, and the last takes what is left.
    """
    several = frame["key"].map(len) > 1
    money = [amount.name for amount in comparison.amounts if amount.fields and not amount.is_whole]
    if not several.any():
        return frame.assign(key=frame["key"].map(lambda keys: keys[0]))
    shared = ", their amounts add up to the one of the row" if money else ""
    notes.append(
        f"Several {comparison.rows} stand in one cell of {_name_rows(list(frame.loc[several, 'row']))}: each is a row"
        f"{shared}."
    )
    split = frame.explode("key", ignore_index=True)
    for name in money:
        own = dict(zip(ours["key"], ours[name], strict=True))
        values: list[Decimal] = []
        for keys, amount in zip(frame["key"], frame[f"{name}{IN_EXPORT}"], strict=True):
            found = [own.get(key, Decimal(0)) for key in keys]
            last = max((at for at, key in enumerate(keys) if key not in own), default=len(keys) - 1)
            found[last] += amount - sum(found, Decimal(0))
            values += found
        split[f"{name}{IN_EXPORT}"] = pd.Series(values, index=split.index, dtype=object)
    return split


def _find_uncounted(export: Export, comparison: Comparison, frame: pd.DataFrame) -> pd.Series:
    """Why each row of the export does not count, None where it does."""
    why = pd.Series(None, index=frame.index, dtype=object)
    if comparison.is_totals:
        return why
    # A row without an id and without an amount is of something else: a job without an estimate in a list of both.
    empty = (frame["key"].map(len) == 0) & bool(comparison.amounts)
    for amount in comparison.amounts:
        empty &= (frame[f"{amount.name}{IN_EXPORT}"] == 0) if amount.fields else False
    why[empty] = "without an id and an amount"
    only, never = comparison.report.only, comparison.report.never
    if never and never[0] in export.headers:
        why[export.text(never[0]) == never[1]] = f"because {export.headers[never[0]]} is {never[1]}"
    if only and only in export.headers:
        is_text = FIELDS[only][0] in ("text", "date")
        filled = export.text(only) if is_text else export.money(only)
        why[~filled.map(bool)] = f"because {export.headers[only]} is {'empty' if is_text else 'no or zero'}"
    return why


def _merge_sides(theirs: pd.DataFrame, ours: pd.DataFrame, comparison: Comparison) -> pd.DataFrame:
    """One row per key of either side, with `side` as far as the keys tell, amounts zero where a side has none."""
    names = ["members", *(amount.name for amount in comparison.amounts)]
    ours = ours[["key", *names]].rename(columns={name: f"{name}{IN_WAREHOUSE}" for name in names})
    rows = theirs.merge(ours, on="key", how="outer", indicator=True)
    places = {"left_only": ONLY_EXPORT, "right_only": ONLY_WAREHOUSE, "both": IDENTICAL}
    rows["side"] = rows.pop("_merge").astype(str).map(places)
    for name in (f"{amount.name}{suffix}" for amount in comparison.amounts for suffix in (IN_EXPORT, IN_WAREHOUSE)):
        rows[name] = rows[name].astype(object).where(rows[name].notna(), Decimal(0))
    if comparison.is_totals:  # a unit that has nothing has no rows here
        theirs_is_zero = (rows[[f"{amount.name}{IN_EXPORT}" for amount in comparison.amounts]] == 0).all(axis=1)
        rows["side"] = rows["side"].where(~theirs_is_zero | (rows["side"] != ONLY_EXPORT), IDENTICAL)
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
    known = f"member:{comparison.definition['measure'].id}"
    by_name = "customer" in str(comparison.distinct)
    columns = ["side", f"members{IN_WAREHOUSE}", "in_warehouse", known, "key", f"customer{IN_EXPORT}"]
    lists = [rows[column].tolist() for column in columns]  # a text at a time takes ten times as long
    found: list[tuple[str, ...]] = []
    for side, ours, is_known, member, key, name in zip(*lists, strict=True):
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
