"""ServiceTitan's reports of a tenant, and files in the layouts in which people export them."""

import csv
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from openpyxl import Workbook

from sandbox.companies import COMPANIES
from sandbox.store import Store
from sandbox.tenant import open_books

LEADS, WBR, JOB_COST, COLLECTIONS, RECEIVABLES = 1001, 1002, 1003, 1004, 1005
Row = list[Any]


def units(store: Store, *names: str) -> list[int]:
    """The ids of business units; all those that roll up into Phoenix-Sales or Phoenix-Production for these names."""
    rollups = {
        "Phoenix-Sales": ("Phoenix-Sales", "Phoenix-Comm-Sales", "Z-DO NOT USE - West - Sales"),
        "Phoenix-Production": ("Phoenix-Production", "Phoenix-Comm-Production", "Z-DO NOT USE - West - Production"),
    }
    wanted = {unit for name in names for unit in rollups.get(name, (name,))}
    return [unit["id"] for unit in store.rows("business_units") if unit["name"] in wanted]


def report(store: Store, number: int, unit_names: Sequence[str], first: str, last: str) -> tuple[list[str], list[Row]]:
    """A report's header and rows over some days, both included; the AR report is as of the last one."""
    [found] = [report for report in COMPANIES[store.company].reports if report.id == number]
    values: dict[str, Any] = {"AsOf": last} if number == RECEIVABLES else {"From": first, "To": last}
    rows = found.rows(
        open_books(store), values | ({"BusinessUnitIds": units(store, *unit_names)} if unit_names else {})
    )
    return [field["label"] for field in found.fields], list(rows)


def write_csv(path: Path, rows: Iterable[Sequence[Any]], *, encoding: str = "utf-8", delimiter: str = ",") -> Path:
    """A .csv file of the rows."""
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(rows)
    return path


def write_xlsx(
    path: Path,
    rows: Iterable[Sequence[Any]],
    *,
    filters: Iterable[Sequence[Any]] = (),
    created: datetime | None = None,
) -> Path:
    """An .xlsx file of the rows, with a second sheet "Filters" if there are any."""
    book = Workbook(write_only=True)
    sheet = book.create_sheet("Report")
    for row in rows:
        sheet.append(list(row))
    if filters := list(filters):
        sheet = book.create_sheet("Filters")
        for row in filters:
            sheet.append(list(row))
    if created:
        book.properties.created = created
    book.save(path)
    return path
