"""What the command and the notebook do: open the export, compare it with the warehouse."""

from __future__ import annotations

from stkpi import settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.reconcile import exports
from stkpi.reconcile.compare import Result, compare
from stkpi.reconcile.pull import PREFIX, pull_report
from stkpi.servicetitan.client import Client


def run(export: str, kpi: str = "", business_unit: str = "", first_day: str = "", last_day: str = "") -> Result:
    """Compare a file (.xlsx, .csv) or a saved report (`report:category/id`) with the facts; see `compare.compare`.

    first_day, last_day: ISO days, both included, or empty
    Raises UserError where the two cannot be compared.
    """
    if not export:
        raise UserError("Name the export: a file such as Leads.xlsx, or a saved report such as report:marketing/1001.")
    first = parse_day(first_day, "FROM") if first_day else None
    last = parse_day(last_day, "TO") if last_day else None
    # A file is read before the warehouse is opened: a large one takes a while, and others may want the warehouse.
    opened = None if export.startswith(PREFIX) else exports.read_file(export)
    config = settings.load()
    with warehouse.connect(config) as target:
        if opened is None:
            opened = pull_report(
                Client(config), target, export, first_day=first, last_day=last, kpi=kpi, business_unit=business_unit
            )
        return compare(opened, target, kpi=kpi, business_unit=business_unit, first_day=first, last_day=last)
