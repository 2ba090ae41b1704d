"""Numbers for the ledger straight from ServiceTitan: one run of the owner's totals by unit (Daily WBR) a night."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pandas as pd

from stkpi.errors import UserError
from stkpi.kpis.catalog import BOTH, Kpi, read_catalog
from stkpi.reconcile.definitions import find as finder
from stkpi.reconcile.exports import Export
from stkpi.reconcile.observations.ledger import API, Observation
from stkpi.reconcile.observations.outcomes import OPEN, Checked
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.schema import Column, Table

TABLE = Table(
    "st_logs_v2.report_columns",
    (Column("report", "STRING"), Column("column_names", "STRING"), Column("seen_at", "TIMESTAMP")),
    description="The columns of a saved report, one a line, each time they had changed",
)
SEEN = "SELECT column_names FROM st_logs_v2.report_columns WHERE report = @report ORDER BY seen_at DESC LIMIT 1"
REMEMBER = "INSERT INTO st_logs_v2.report_columns (report, column_names, seen_at) VALUES (@report, @names, @at)"
# Half of the last digit that a report shows, by kind.
TOLERANCES = {"count": Decimal(0), "money": Decimal("0.01"), "rate": Decimal("0.00005")}

Days = tuple[date, date]


def choose_period(checked: Iterable[Checked], covered: pd.DataFrame) -> Days | None:
    """Return the days to read tonight: those whose number has changed since it was read; else the last full week, if it
    was not read yet; else the next that the definition finder would ask about. None where all of them were read.

    covered: as `covered_days` gives it
    """
    of_api = [one for one in checked if one.observation.source == API]
    for one in of_api:
        if one.outcome == OPEN and one.ours is not None:
            return one.observation.first_day, one.observation.last_day
    read = {(one.observation.first_day, one.observation.last_day) for one in of_api}
    first_day, as_of = covered["first_day"].min(), covered["last_day"].max()
    sunday = as_of - timedelta(days=(as_of.weekday() + 1) % 7)
    asked = [(period.first, period.last) for period in finder.list_questions(["any"], as_of)]
    wanted = [(sunday - timedelta(days=6), sunday), *asked]
    return next((days for days in wanted if days not in read and days[0] >= first_day), None)


def list_totals(export: Export) -> list[Kpi]:
    """Return the KPIs of which a report has totals by unit: it has all their columns, and no rows behind them."""
    if "business_unit" not in export.headers or "job_number" in export.headers:
        return []
    return [
        kpi for kpi in read_catalog().values() if kpi.report.totals and set(kpi.report.totals) <= set(export.headers)
    ]


def read_totals(export: Export, units: pd.DataFrame, reference: str, days: Days) -> list[Observation]:
    """Return the numbers of a report with totals by unit for the rolled-up units, which it does not know.

    units: unit_name, business_unit, division. Raises UserError for a report without such totals.
    """
    kpis = list_totals(export)
    if not kpis:
        raise UserError(f"{export.name} has no totals by unit: name a report with Business Unit and Completed Jobs.")
    division = dict(zip(units["business_unit"], units["division"], strict=True))
    rollup = dict(zip(units["unit_name"], units["business_unit"], strict=True))
    unit = export.text("business_unit").map(lambda name: rollup.get(name, name))
    found = []
    for kpi in kpis:
        fields = kpi.report.totals
        sums = pd.DataFrame({field: export.money(field) for field in fields}).groupby(unit).sum()
        for name, row in sums.iterrows():
            if division.get(str(name), BOTH) not in kpi.divisions:
                continue
            value = row[fields[0]]
            if len(fields) > 1:
                if not row[fields[1]]:
                    continue  # a ratio without a denominator is no number
                value = (value / row[fields[1]]).quantize(Decimal("0.0001"))
            found.append(
                Observation(
                    id=f"api:{reference}:{kpi.name}:{name}:{days[0]}:{days[1]}",
                    kpi=kpi.name,
                    unit=str(name),
                    first_day=days[0],
                    last_day=days[1],
                    value=value,
                    tolerance=TOLERANCES[kpi.kind],
                    source=API,
                    report=f"{export.name}: {', '.join(export.headers[field] for field in fields)}",
                    read_by="nightly",
                    read_on=datetime.now(UTC).date(),
                    status=OPEN,
                )
            )
    return found


def describe_changed_columns(target: Warehouse, reference: str, export: Export) -> str | None:
    """Say in one sentence what is new and what is gone among a report's columns since it was read; None if nothing.
    The columns are remembered.
    """
    ensure_tables(target, [TABLE])
    now = sorted([*export.headers.values(), *export.unknown])
    seen = target.query(SEEN, report=reference)["column_names"]
    before = seen[0].split("\n") if len(seen) else None
    if before == now:
        return None
    target.run_transaction(REMEMBER, report=reference, names="\n".join(now), at=datetime.now(UTC))
    if before is None:
        return None
    new, gone = _list_names(set(now) - set(before)), _list_names(set(before) - set(now))
    return f"yellow: the columns of {export.name} ({reference}) have changed; new: {new}; gone: {gone}."


def _list_names(names: Sequence[str] | set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
