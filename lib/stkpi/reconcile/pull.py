"""An owner's report straight from ServiceTitan's Reporting API, in the place of an exported file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime

from stkpi.errors import UserError
from stkpi.kpis.definition import read_definitions
from stkpi.reconcile import exports
from stkpi.reconcile.compare import find_units
from stkpi.reconcile.comparison import Comparison, find_window, infer_comparison, is_totals
from stkpi.reconcile.exports import Export
from stkpi.servicetitan.reports import Chosen, Description, Reports, split_by_month
from stkpi.warehouse import Warehouse

LONGEST = 31  # days of rows that one run is asked for; more are asked for month by month


def pull_report(
    reports: Reports,
    reference: str,
    *,
    first_day: date | None,
    last_day: date | None,
    kpi: str = "",
    unit_ids: Sequence[int] = (),
    chosen: Mapping[str, Chosen] | None = None,
) -> Export:
    """Run a saved report (`report:category/id`) over a period; its rows as an export, whose name says what filters it.

    unit_ids: ServiceTitan's units, as `list_unit_ids` gives them; none: all
    chosen: the values of other parameters, both by their labels, as company.yml has them
    Raises UserError where the report does not exist, is refused, or has no column that is known.
    """
    described = reports.describe(reference)
    if first_day is None or last_day is None:
        raise UserError("A report is run for days: give FROM= and TO=.")
    header = read_header(described)
    comparison = infer_comparison(header, read_definitions(), kpi)
    window = find_window(comparison, first_day, last_day)
    chosen = complete_choices(reports, described, comparison, chosen or {})
    periods = split_days(described, header, window.first_day, window.last_day)
    rows = [
        row
        for first, last in periods
        for row in reports.run(described, reports.choose_values(described, first, last, unit_ids, chosen))
    ]
    name = name_report(described, chosen)
    export = (
        exports.read_table(name, [described.columns, *rows], only_data=True) if rows else replace(header, name=name)
    )
    return replace(
        export,
        first_day=window.starts_on or window.last_day,
        last_day=window.last_day,
        exported_at=datetime.now(UTC),
        origin="ServiceTitan",
        basis=next((str(value) for value in chosen.values() if value in list_bases(comparison)), ""),
    )


def read_header(described: Description) -> Export:
    """Return a report without its rows. Raises UserError for one that has no column that is known, or no units."""
    header = exports.read_table(described.name, [described.columns])
    if is_totals(header) and "business_unit" not in header.headers:
        raise UserError(
            f"{described.name} has totals, but not by unit: its first column is {described.columns[0]}. Name a report "
            "with totals by business unit, or one with a row per job."
        )
    return header


def complete_choices(
    reports: Reports, described: Description, comparison: Comparison, chosen: Mapping[str, Chosen]
) -> dict[str, Chosen]:
    """Return what is chosen, and the date by which our definition counts where the report asks for one and none is."""
    label, offered = reports.find_filter(described, list_bases(comparison))
    given = {each.lower(): value for each, value in chosen.items()}
    if label and not given.get(label.lower()) and comparison.definition["date"].basis in offered:
        return {**chosen, label: comparison.definition["date"].basis}
    return dict(chosen)


def list_bases(comparison: Comparison) -> list[str]:
    """Return the dates, as ServiceTitan's reports call them, by which the KPI could be counted."""
    return [option.basis for option in comparison.kpi["date"] if option.basis]


def split_days(described: Description, header: Export, first_day: date, last_day: date) -> list[tuple[date, date]]:
    """Return the days of each run that a report needs: rows of long periods come month by month, totals at once."""
    is_ranged = sum(one.is_date for one in described.parameters) > 1
    if not is_ranged or is_totals(header) or (last_day - first_day).days < LONGEST:
        return [(first_day, last_day)]
    return split_by_month(first_day, last_day)


def name_report(described: Description, chosen: Mapping[str, Chosen]) -> str:
    """Return a report's name with what it is filtered by: `*Leads* - API (Filter by Job Creation Date)`."""
    words = [
        f"{label} {value if isinstance(value, str) else ', '.join(value)}" for label, value in chosen.items() if value
    ]
    return f"{described.name} ({'; '.join(words)})" if words else described.name


def list_unit_ids(target: Warehouse, business_unit: str) -> list[int]:
    """Return the ids of the ServiceTitan units that roll up into a unit. Raises UserError for one that there is not."""
    units = find_units(target, business_unit)
    known = target.query("SELECT business_unit_id, business_unit FROM st_ref_v2.dim_business_units")
    return [int(id) for id in known[known["business_unit"].isin(units)]["business_unit_id"]]
