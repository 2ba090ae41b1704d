"""What the command and the notebook do: open the export, compare it with the warehouse."""

from __future__ import annotations

from datetime import date, timedelta

from stkpi import company, settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.kpis.catalog import find_kpi
from stkpi.reconcile import exports
from stkpi.reconcile.compare import Result, compare
from stkpi.reconcile.observations.outcomes import covered_days
from stkpi.reconcile.pull import list_unit_ids, pull_report
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.reports import PREFIX, Reports


def run(export: str, kpi: str = "", business_unit: str = "", first_day: str = "", last_day: str = "") -> Result:
    """Compare a file (.xlsx, .csv) or a saved report (`report:category/id`) with the facts; see `compare.compare`.

    export: empty: the saved report that company.yml names, of `kpi` or the first
    first_day, last_day: ISO days, both included, or empty: those of the file, of a report the newest full week
    Raises UserError where the two cannot be compared.
    """
    config = settings.load()
    own = company.read_company(config)
    export = export or _find_report(own, kpi)
    first = parse_day(first_day, "FROM") if first_day else None
    last = parse_day(last_day, "TO") if last_day else None
    # A file is read before the warehouse is opened: a large one takes a while, and others may want the warehouse.
    opened = None if export.startswith(PREFIX) else exports.read_file(export)
    with warehouse.connect(config) as target:
        if opened is None:
            if not (first or last):
                first, last = _find_newest_week(target)
            opened = pull_report(
                Reports(Client(config)),
                export,
                first_day=first,
                last_day=last,
                kpi=kpi,
                unit_ids=list_unit_ids(target, business_unit) if business_unit else (),
                chosen=own.find_choices(export),
            )
        return compare(opened, target, kpi=kpi, business_unit=business_unit, first_day=first, last_day=last)


def _find_report(own: company.Company, kpi: str) -> str:
    reports = own.reports
    report = reports.get(find_kpi(kpi).name) if kpi else next(iter(reports.values()), None)
    if report is None:
        raise UserError(
            "Name the export: a file such as Leads.xlsx, or a saved report such as report:marketing/1001; "
            f"{company.show_path(own.folder / company.FILE)} has none under `reports`."
        )
    return report.reference


def _find_newest_week(target: warehouse.Warehouse) -> tuple[date, date]:
    as_of: date = covered_days(target)["last_day"].max()
    sunday = as_of - timedelta(days=(as_of.weekday() + 1) % 7)
    return sunday - timedelta(days=6), sunday
