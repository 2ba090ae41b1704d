"""How a KPI is compared with its report: everything follows from its entry in the catalog and the chosen definition.

What identifies a row, which amounts are held against each other, what the number is made of, and the days that a
comparison covers.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

from stkpi.errors import UserError
from stkpi.formatting import format_label
from stkpi.kpis.catalog import Kpi, Recognized, Report, find_kpi, read_catalog
from stkpi.kpis.days import move_day, read_days
from stkpi.kpis.definition import Definition, name_facts
from stkpi.kpis.sql import measure_sql, operands, split_operand, sum_sql
from stkpi.reconcile.exports import FIELDS, Export

CENT = Decimal("0.01")
LONGEST_PERIOD = timedelta(days=60)  # a longer range of a report that looks ahead is its own, not the period's
EVER = date(1900, 1, 1)
UNIT_COLUMN = "business_unit"
_REACHES_AHEAD = re.compile(r"\+\d+[dy]$")


@dataclass(frozen=True)
class Amount:
    """An amount that both sides have: on theirs the sum of the fields of the export, or 1 for a row without fields.

    sql: what a group of fact rows adds up to, as GoogleSQL
    is_whole: a number of rows, and not money
    counts_if: the condition on the candidate without which the export's amount does not count
    tolerance: the largest difference that counts as equal
    """

    name: str
    sql: str
    fields: tuple[str, ...] = ()
    is_whole: bool = False
    counts_if: str = ""
    tolerance: Decimal = Decimal(0)


Signed = tuple[tuple[int, str], ...]


@dataclass(frozen=True)
class Comparison:
    """A KPI, as the company defines it, against its report.

    table: the fact table with our rows
    report: the report as the export has it: what its rows are, what identifies them, which columns are their amounts
    parts: the amounts that the number adds up, with their signs; of a ratio the numerator and the denominator; none
        where the number counts distinct values
    is_totals: the report has totals by unit, and no rows behind them
    parts_units: rows with an empty first column of the key (payments of no invoice) are told apart by their unit
    """

    definition: Definition
    table: str
    report: Report
    amounts: tuple[Amount, ...]
    parts: tuple[Signed, ...]
    is_totals: bool = False
    parts_units: bool = False

    @property
    def kpi(self) -> Kpi:
        """The KPI's entry in the catalog."""
        return self.definition.kpi

    @property
    def name(self) -> str:
        """The KPI's name."""
        return self.kpi.name

    @property
    def label(self) -> str:
        """The KPI's label, as it stands within a sentence."""
        return format_label(self.kpi.label)

    @property
    def rows(self) -> str:
        """What the rows are called."""
        return "units" if self.is_totals else self.report.rows

    @property
    def key(self) -> Mapping[str, str]:
        """The columns of the export that identify a row (the first must be filled), each with the fact's column."""
        return {UNIT_COLUMN: "unit_name"} if self.is_totals else self.report.key

    @property
    def names_people(self) -> bool:
        """Whether a row is identified by the name of a customer or of a location."""
        return not self.is_totals and FIELDS[next(iter(self.key))][0] == "text"

    @property
    def distinct(self) -> str | None:
        """The column whose distinct values are the number; None where amounts are added up."""
        return None if self.is_totals else self.definition["measure"].says.get("distinct")

    @property
    def net(self) -> Mapping[str, object] | None:
        """The measure, where it leaves out groups below a balance."""
        measure = self.definition["measure"].says
        return measure if "net" in measure else None

    @property
    def has_no_beginning(self) -> bool:
        """Whether all rows up to a day count, so that what is settled is in no report."""
        return bool(self.definition["window"].says[0] == "ever")

    @property
    def looks_ahead(self) -> bool:
        """Whether the number is as of a day, over days that follow it."""
        low, high = self.definition["window"].says
        return low != "ever" and not low.startswith("first") and bool(_REACHES_AHEAD.search(high))

    def compute_number(self, values: int, sums: Mapping[str, Decimal]) -> Fraction:
        """Return the KPI of so many distinct values and the sums of the amounts; a ratio of nothing counts as zero."""
        if self.distinct:
            return Fraction(values)
        totals = [Fraction(sum(sign * sums[name] for sign, name in part)) for part in self.parts]
        if len(totals) == 1:
            return totals[0]
        numerator, denominator = totals
        return numerator / denominator if denominator else Fraction(0)

    def with_tolerances(self, tolerances: Mapping[str, Decimal]) -> Comparison:
        """Return it with other tolerances of its amounts. Raises UserError for an amount that it does not have."""
        names = [amount.name for amount in self.amounts]
        if unknown := sorted(tolerances.keys() - set(names)):
            raise UserError(f"There is no column {unknown[0]} to tolerate: take one of {', '.join(names) or 'none'}.")
        changed = tuple(replace(a, tolerance=tolerances.get(a.name, a.tolerance)) for a in self.amounts)
        return replace(self, amounts=changed)


def plan_comparison(definition: Definition, table: str, report: Report | None = None) -> Comparison:
    """Return the comparison, row by row, of a definition whose rows are in the fact table `table`.

    report: the report as the export has it; by default as the KPI's entry in the catalog begins
    """
    kpi, measure = definition.kpi, definition["measure"].says
    report = report or kpi.report
    added_up = ["rows"] if "count" in measure else operands(measure)
    parts = tuple(tuple(split_operand(operand)) for operand in added_up)
    terms = dict.fromkeys(term for part in parts for _, term in part)
    amounts = tuple(_plan_amount(kpi, report, term) for term in terms)
    return Comparison(definition, table, report, amounts, parts)


def _plan_amount(kpi: Kpi, report: Report, term: str) -> Amount:
    is_whole = term == "rows" or term.startswith("is_") or term not in kpi.terms
    return Amount(
        name=term,
        sql=sum_sql(kpi, term),
        fields=report.fields.get(term, ()),
        is_whole=is_whole,
        counts_if=report.counts_if.get(term, ""),
        tolerance=Decimal(0) if is_whole else CENT,
    )


def plan_totals(definition: Definition, table: str) -> Comparison:
    """Return the comparison of a report with totals by unit, whose columns the catalog names."""
    kpi, measure, columns = definition.kpi, definition["measure"].says, definition.kpi.report.totals
    sums = [sum_sql(kpi, operand) for operand in operands(measure)] or [measure_sql(kpi, measure)]
    tolerance = CENT if kpi.kind == "money" else Decimal(0)
    amounts = tuple(
        Amount(column, sql, (column,), kpi.kind != "money", tolerance=tolerance)
        for column, sql in zip(columns, sums, strict=True)
    )
    parts = tuple(((1, column),) for column in columns)
    return Comparison(definition, table, kpi.report, amounts, parts, is_totals=True)


# --- which comparison an export is good for ---------------------------------------------------------------------------


def is_totals(export: Export) -> bool:
    """Whether an export has a row per business unit and no rows behind its numbers."""
    reports = [kpi.report for kpi in read_catalog().values()]
    ids = {next(iter(report.key)) for report in reports}
    return not ids & export.headers.keys() and any(_has(export, report.totals) for report in reports)


def _has(export: Export, columns: tuple[str, ...]) -> bool:
    return bool(columns) and export.headers.keys() >= set(columns)


def infer_comparison(export: Export, definitions: Mapping[str, Definition], kpi: str = "") -> Comparison:
    """Return the comparison that an export is good for: of `kpi` if it is named, else by its columns.

    Raises UserError for an unknown KPI, and for an export without the columns that the comparison needs.
    """
    found = definitions[find_kpi(kpi).name if kpi else _infer_kpi(export)]
    table = name_facts(definitions)[found.kpi.name]
    if is_totals(export):
        _check_totals_columns(export, found.kpi)
        return plan_totals(found, table)
    comparison = plan_comparison(found, table, next(_list_reports(export, found.kpi), found.kpi.report))
    _check_columns(export, comparison)
    return comparison


def _list_reports(export: Export, kpi: Kpi) -> Iterator[Report]:
    """The forms of a KPI's report whose key an export has."""
    return (each for each in (kpi.report, *kpi.report.otherwise) if _has(export, tuple(each.key)))


def find_by_id(export: Export, comparison: Comparison) -> Comparison | None:
    """Return the same comparison by ids in the place of numbers, where the export has both; else None."""
    by_id = [each for each in _list_reports(export, comparison.kpi) if all(name.endswith("_id") for name in each.key)]
    other = next((each for each in by_id if each.key != comparison.key), None)
    return plan_comparison(comparison.definition, comparison.table, other) if other else None


def _infer_kpi(export: Export) -> str:
    catalog = read_catalog()
    if is_totals(export):
        return next(name for name, kpi in catalog.items() if _has(export, kpi.report.totals))
    ranked = [
        (each.rank, name)
        for name, kpi in catalog.items()
        for each in kpi.report.recognized_by
        if _recognizes(each, export)
    ]
    if not ranked:
        raise UserError(
            f"{export.name} does not say which number it is: its columns are "
            f"{', '.join([*export.headers.values(), *export.unknown])}. "
            f"Name one with KPI=, such as KPI={next(iter(catalog))}."
        )
    return min(ranked)[1]


def _recognizes(each: Recognized, export: Export) -> bool:
    if not _has(export, each.columns) or not each.filled:
        return _has(export, each.columns)
    cells = export.cells[list(each.columns)]
    return len(cells) > 0 and not cells.isin([None, ""]).to_numpy().any()


def list_recognized(export: Export, comparison: Comparison) -> list[str]:
    """Return the columns of an export by which it was taken for a KPI, as it calls them."""
    if comparison.is_totals:
        columns: tuple[str, ...] = comparison.kpi.report.totals
    else:
        fitting = [each for each in comparison.kpi.report.recognized_by if _recognizes(each, export)]
        columns = min(fitting, key=lambda each: each.rank).columns
    return [export.headers[column] for column in columns]


def _check_totals_columns(export: Export, kpi: Kpi) -> None:
    if not kpi.report.totals:
        known = [name for name, each in read_catalog().items() if _has(export, each.report.totals)]
        raise UserError(f"{export.name} has totals by unit, of {', '.join(known)} only: name one with KPI=.")
    if missing := [column for column in kpi.report.totals if column not in export.headers]:
        raise UserError(f"{export.name} has no column for {_words(missing)}: export the report with it.")


def _check_columns(export: Export, comparison: Comparison) -> None:
    kpi, report = comparison.kpi, comparison.report
    if unnamed := [a.name for a in comparison.amounts if a.name != "rows" and not a.fields]:
        option = comparison.definition["measure"]
        raise UserError(
            f"The report {report.name} cannot show {comparison.label} as it is defined here, measure {option.id} "
            f"({option.why}): no column of it is known for {_words(unnamed)}. Compare totals, or name the columns "
            f"under `fields` in the catalog's entry of {kpi.name}."
        )
    wanted = [*comparison.key, *(field for amount in comparison.amounts for field in amount.fields)]
    missing = [field for field in dict.fromkeys(wanted) if field not in export.headers]
    if missing and export.headers:
        raise UserError(
            f"{export.name} cannot be compared with {comparison.label}: it has no column for {_words(missing)}, "
            f"only {', '.join([*export.headers.values(), *export.unknown])}. Name another KPI= or export the report "
            "with that column."
        )


def _words(names: list[str]) -> str:
    return ", ".join(names).replace("_", " ")


# --- which days it covers ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """The days that a comparison covers, both included.

    first_day, last_day: the days of the report; the first is EVER where all days up to the last count
    as_of: the last day on which a row may be known
    reads: the days that our definition reads for them, where they are others
    """

    first_day: date
    last_day: date
    as_of: date
    reads: tuple[date, date] | None = None

    @property
    def days_read(self) -> tuple[date, date]:
        """The first and last day that our definition reads."""
        return self.reads or (self.first_day, self.last_day)

    @property
    def starts_on(self) -> date | None:
        """Its first day, None where it has no beginning."""
        return None if self.first_day == EVER else self.first_day


def find_window(comparison: Comparison, first: date, last: date) -> Window:
    """Return the days that a definition looks at for a period, or for the range that a report states.

    A balance is as of the last day. A report that looks ahead may state its own range: one longer than any period is
    taken as it stands, and the day on which it was read follows from it.
    """
    window, shift = comparison.definition["window"], comparison.definition["shift"]
    if comparison.looks_ahead and last - first > LONGEST_PERIOD:
        return Window(first, last, _find_day_read(str(window.says[0]), first))
    low, high, known = read_days(window, shift, first, last)
    low = max(low, EVER)
    if comparison.looks_ahead:
        return Window(low, high, known)
    given = (EVER if comparison.has_no_beginning else first, last)
    return Window(*given, known, None if given == (low, high) else (low, high))


def _find_day_read(low: str, first: date) -> date:
    """Return the last day of the period whose window, which begins with `low`, begins on `first`."""
    if low.startswith("monday"):
        return first + timedelta(days=6 - first.weekday())
    step = low.removeprefix("last")
    return move_day(first, step.translate(str.maketrans("+-", "-+")))
