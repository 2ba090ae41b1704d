"""A twelfth KPI is one entry of the catalog and no code: what is invoiced per completed production job."""

from __future__ import annotations

import csv
import shutil
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from sandbox import truth
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import __main__, company, warehouse
from stkpi.kpis import catalog
from stkpi.kpis.definition import read_definitions
from stkpi.marts import build as marts
from stkpi.reconcile import command
from stkpi.reconcile.observations import report as ledger_report
from stkpi.reporting import figures, tables
from stkpi.validation import run as validation

NAME, LABEL = "revenue_per_job", "Revenue per Job"
ENTRY = """
  revenue_per_job:
    label: Revenue per Job
    sentence: What is invoiced per completed production job.
    because: The owner asked for it.
    kind: money
    good: up
    division: Production
    candidates: candidates_jobs
    fact: fact_completed_production
    columns: {job_id: job_id, job_number: job_number, job_status: job_status, customer_name: customer_name}
    terms: {produced: subtotal}
    sums: [completed_revenue, completed_production_jobs]
    report:
      name: Completed Jobs
      where: Operations reports
      rows: jobs
      row: "entity = 'job'"
      key: {job_number: job_number}
      date: completed_date
      changed: work_modified_on
      fields: {produced: [jobs_subtotal]}
    dimensions:
      measure:
        average: {ratio: [produced, rows], bits: 0, why: invoiced per job}
      entity:
        job: {is: "entity = 'job'", bits: 0, why: one row per job}
      job_type:
        listed: {is: "NOT is_excluded_from_production", bits: 0, why: production job types, out: a job type that does not count as production}
        any: {is: "TRUE", bits: 3, why: every job type}
      status:
        completed: {is: "job_status = 'Completed'", bits: 0, why: completed jobs only, out: not completed}
        any: {is: "TRUE", bits: 3, why: every status}
      date:
        completed: {is: completed_on, bits: 0, why: the day the job was completed}
        start: {is: start_on, bits: 2, why: the day the job starts}
      zone:
        tenant: {is: "@time_zone", bits: 0, why: the company's own clock}
        utc: {is: UTC, bits: 2, why: "the day by UTC, not by the company's clock"}
      window:
        inclusive: {is: [first, last], bits: 0, why: both days included}
      shift:
        none: {is: "", bits: 0, why: the dates as asked}
      attribution:
        job: {is: job, bits: 0, why: the unit of the job}
      rollup:
        rolled_up: {is: business_unit, bits: 0, why: retired and commercial units fold in}
"""  # noqa: E501
UNIT, MONDAY = "Phoenix-Production", date(2025, 8, 18)
SUNDAY = MONDAY + timedelta(days=6)


@pytest.fixture
def built_with_twelve(healthy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The built warehouse, with the twelfth KPI; returns the company folder."""
    file = tmp_path / "catalog.yml"
    file.write_text(catalog.FILE.read_text(encoding="utf-8") + ENTRY, encoding="utf-8")
    monkeypatch.setattr(catalog, "FILE", file)
    folder = Path(shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company"))
    monkeypatch.setenv("COMPANY", str(folder))
    marts.build_marts(LAST_DAY.isoformat())
    return folder


def count_by_hand(store: Store, unit: str) -> dict[date, tuple[Decimal, int]]:
    """Revenue and number of a unit's completed production jobs, by day, without a line of the product's SQL."""
    books = truth.read_books(store, TIME_ZONE)
    rows = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    names = {row["business_unit"] for row in rows if row["rollup"] == unit}
    found: dict[date, tuple[Decimal, int]] = {}
    for job in books.jobs.values():
        day = books.day(job.completed)
        if day and job.status == "Completed" and job.is_production and books.units.get(job.unit) in names:
            revenue, jobs = found.get(day, (Decimal(0), 0))
            found[day] = (revenue + job.subtotal, jobs + 1)
    return found


def sum_days(days: dict[date, tuple[Decimal, int]], first: date, last: date) -> tuple[Decimal, int]:
    chosen = [each for day, each in days.items() if first <= day <= last]
    return sum((revenue for revenue, _ in chosen), Decimal(0)), sum(jobs for _, jobs in chosen)


def test_it_is_everywhere_and_equals_the_count_by_hand(built_with_twelve, tenant, tmp_path, monkeypatch, capsys):
    days = count_by_hand(tenant, UNIT)
    revenue, jobs = sum_days(days, MONDAY, SUNDAY)
    assert jobs > 1
    expected = revenue / jobs
    with warehouse.connect() as target:
        weekly = target.query("SELECT * FROM st_mart_v2.kpi_weekly_by_bu")
        daily = target.query("SELECT * FROM st_mart_v2.kpi_daily_by_bu WHERE business_unit = @unit", unit=UNIT)
        regional = target.query("SELECT * FROM st_mart_v2.regional_kpis WHERE week_start = @day", day=MONDAY)
        rows = target.query("SELECT * FROM st_mart_v2.fact_completed_production WHERE business_unit = @unit", unit=UNIT)
    # Every week and day of the unit, then the region, which has this one Production unit.
    for row in weekly[weekly["business_unit"] == UNIT].itertuples():
        total, count = sum_days(days, row.week_start, row.last_day)
        assert (row.completed_revenue, row.completed_production_jobs) == (total, count)
        assert pd.isna(row.revenue_per_job) if not count else row.revenue_per_job == pytest.approx(total / count)
    for row in daily.itertuples():
        assert (row.completed_revenue, row.completed_production_jobs) == sum_days(days, row.event_date, row.event_date)
    phoenix = regional.set_index("region").loc["Phoenix"]
    assert (phoenix["completed_revenue"], phoenix["completed_production_jobs"]) == (revenue, jobs)
    assert len(rows) == sum(jobs for _, jobs in days.values())

    # On the page, among the checks and in every other way to count.
    full_weeks = tables.select_full_weeks(weekly, LAST_DAY)
    with warehouse.connect(read_only=True) as target:
        weeks = figures.read_company_weeks(target, read_definitions(), LAST_DAY)
    assert LABEL in tables.render_tiles(weeks, read_definitions()).data
    assert LABEL in tables.render_units_tables(full_weeks, read_definitions()).data
    checks = validation.run()
    assert any(LABEL in str(kpi) for kpi in checks.week.iloc[:, 0])
    [equal] = [check for check in checks.checks if check.name == "weekly_equals_facts"]
    assert equal.color == "green"
    ways = ledger_report.show_ways(LABEL, UNIT, str(MONDAY), str(SUNDAY))
    assert ways.value == pytest.approx(float(expected))
    assert {"status=any", "date=start", "zone=utc"} <= set(ways.table["definition"])

    # observe, find, sql and reconcile know it by name.
    place = ("--bu", UNIT, "--from", str(MONDAY), "--to", str(SUNDAY))
    assert run_command(monkeypatch, "observe", "--kpi", LABEL, *place, "--value", f"${expected:,.2f}") == 0
    assert "It matches" in capsys.readouterr().out
    assert run_command(monkeypatch, "find", "--kpi", NAME) == 0
    assert "as expected" in capsys.readouterr().out
    assert run_command(monkeypatch, "sql", "--kpi", NAME, "--definition", "status=any") == 0
    assert "SAFE_DIVIDE" in capsys.readouterr().out
    export = write_export(rows, tmp_path / "completed.csv")
    same = command.run(str(export), LABEL, UNIT, str(MONDAY), str(SUNDAY))
    assert same.matches
    assert float(same.ours) == pytest.approx(float(expected))
    fewer = write_export(rows, tmp_path / "fewer.csv", leave_out=1)
    differing = command.run(str(fewer), LABEL, UNIT, str(MONDAY), str(SUNDAY))
    assert not differing.matches
    assert differing.residual == 0


def run_command(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    monkeypatch.setattr("sys.argv", ["stkpi", *words])
    return __main__.main()


def write_export(rows: pd.DataFrame, file: Path, leave_out: int = 0) -> Path:
    """The rows of the week as a report would list them."""
    week = rows[rows["event_date"].between(MONDAY, SUNDAY)].sort_values("job_number").iloc[leave_out:]
    with file.open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out)
        writer.writerow(["Job #", "Completed Date", "Business Unit", "Jobs Subtotal"])
        for row in week.itertuples():
            writer.writerow([row.job_number, f"{row.event_date:%m/%d/%Y}", row.unit_name, f"${row.produced:,.2f}"])
    return file
