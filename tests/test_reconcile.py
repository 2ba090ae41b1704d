"""Reconciliation: each planted difference gets its reason, every row has one, and the bridge leaves nothing over."""

import json
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import papermill
import pytest
from exported import COLLECTIONS, JOB_COST, LEADS, RECEIVABLES, WBR, Row, report, units, write_csv, write_xlsx

from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from sandbox.truth import Books, Job, find_opportunity_instant, read_books
from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.formatting import format_change, format_number
from stkpi.kpis.catalog import find_kpi, read_catalog
from stkpi.marts import build as marts
from stkpi.reconcile import exports, render
from stkpi.reconcile.compare import compare
from stkpi.reconcile.exports import Export
from stkpi.reconcile.pull import list_unit_ids, pull_report
from stkpi.reconcile.reasons import DIFFERENT, IDENTICAL, ONLY_EXPORT, ONLY_WAREHOUSE
from stkpi.reporting import pages
from stkpi.reporting.comparison import render_comparison
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.reports import Reports
from stkpi.warehouse.duckdb import DuckDBWarehouse

WEEK = ("2025-08-18", "2025-08-24")
MONTHS = ("2025-01-01", "2025-08-31")
SALES, PRODUCTION = "Phoenix-Sales", "Phoenix-Production"


@dataclass(frozen=True)
class Company:
    """The tenant, as its records and as the oracle reads them."""

    store: Store
    books: Books

    def jobs(self, unit: str, first: str, last: str, date_of: Callable[[Job], str | None] = lambda job: job.created):
        """The jobs of a rolled-up unit with a date in a window, by number."""
        ids = units(self.store, unit)
        days = (date.fromisoformat(first), date.fromisoformat(last))
        return [
            job
            for job in self.books.jobs.values()
            if job.unit in ids and (day := self.books.day(date_of(job))) and days[0] <= day <= days[1]
        ]

    def raw(self, resource: str) -> dict[int, dict]:
        """The records of a resource by id."""
        return {record["id"]: record for record in self.store.rows(resource)}

    def lead(self, job: Job) -> Row:
        """A row of the Leads report for a job that it leaves out."""
        unit = self.books.units[job.unit]
        return [job.number, "Marketing Lead", None, None, unit, job.customer_name or None, None, 0, 0, job.created]


@pytest.fixture(scope="module")
def company(tenant: Store) -> Company:
    return Company(tenant, read_books(tenant, TIME_ZONE))


@dataclass(frozen=True)
class Case:
    """An export that is right but for one alteration, and the one reason that every differing row must get.

    alter: rows, company -> rows
    side: where the altered rows are; both sides if it is empty
    """

    reason: str
    side: str
    alter: Callable[[list[Row], Company], list[Row]]
    kpi: str = "leads"
    number: int = LEADS
    window: tuple[str, str] = WEEK
    exported_at: str = ""
    note: str = ""

    @property
    def id(self) -> str:
        return f"{self.kpi}-{self.reason}{self.note and '-'}{self.note}"

    @property
    def unit(self) -> str:
        return SALES if self.number in (LEADS, WBR) else PRODUCTION


def keep(condition: Callable[[Row, Company], bool]) -> Callable[[list[Row], Company], list[Row]]:
    return lambda rows, company: [row for row in rows if condition(row, company)]


def job_of(row: Row, company: Company) -> Job:
    [job] = [job for job in company.books.jobs.values() if job.number == (row[0] if len(row) == 10 else row[6])]
    return job


def raw_of(row: Row, company: Company) -> dict:
    return company.raw("jobs")[job_of(row, company).id]


def type_of(row: Row, company: Company) -> dict:
    return company.raw("job_types")[raw_of(row, company)["jobTypeId"]]


def add_leads(condition: Callable[[Job], bool], unit: str = SALES, window: tuple[str, str] = WEEK, most: int = 5):
    """Add jobs of a unit and window that meet a condition."""

    def alter(rows: list[Row], company: Company) -> list[Row]:
        known = {row[0] for row in rows}
        found = [job for job in company.jobs(unit, *window) if condition(job) and job.number not in known]
        return rows + [company.lead(job) for job in found[:most]]

    return alter


def by_utc(_: list[Row], company: Company) -> list[Row]:
    jobs = company.jobs(SALES, "2025-08-15", "2025-08-27")
    return [company.lead(job) for job in jobs if job.is_lead and WEEK[0] <= job.created[:10] <= WEEK[1]]


def by_completion(_: list[Row], company: Company) -> list[Row]:
    return [company.lead(job) for job in company.jobs(SALES, *WEEK, lambda job: job.completed) if job.is_lead]


def of_2024(_: list[Row], company: Company) -> list[Row]:
    return report(company.store, LEADS, [SALES], "2024-08-18", "2024-08-24")[1]


def once_a_customer(rows: list[Row], company: Company) -> list[Row]:
    first = {job_of(row, company).customer: row[0] for row in reversed(rows)}
    return [row for row in rows if row[0] in first.values()]


def without_merged(rows: list[Row], company: Company) -> list[Row]:
    customers = company.raw("customers")
    return [
        row
        for row in rows
        if not (customer := customers.get(job_of(row, company).customer)) or not customer.get("mergedToId")
    ]


def modified_since(rows: list[Row], company: Company) -> list[Row]:
    late = [row[0] for row in rows if raw_of(row, company)["modifiedOn"] > "2025-09-01"]
    return [row for row in rows if row[0] not in sorted(set(late))[:3]]


def without_number(rows: list[Row], _: Company) -> list[Row]:
    """Blank the number of a job that has one row."""
    numbers = [row[0] for row in rows]
    place = next(n for n, number in enumerate(numbers) if numbers.count(number) == 1 and rows[n][5])
    return [*rows[:place], [None, *rows[place][1:]], *rows[place + 1 :]]


def plainly_missing(rows: list[Row], company: Company) -> list[Row]:
    """Leave out a lead like most: completed in the week, not sold, of the main unit, an active type, a new customer."""
    plain = next(
        row[0]
        for row in rows
        if (job := job_of(row, company)).status == "Completed"
        and not job.closed
        and row[4] == SALES
        and job.completed < "2025-08-22"
        and job.created > "2025-08-18T12"
        and row[5]
    )
    return [row for row in rows if row[0] != plain]


LEAD_CASES = [
    Case("not_in_warehouse", ONLY_EXPORT,
         lambda rows, _: [*rows, ["987654", *rows[0][1:5], "Nobody Known", *rows[0][6:]]]),
    Case("outside", ONLY_EXPORT, add_leads(lambda job: job.is_lead, window=("2025-08-27", "2025-09-02"))),
    Case("utc", "", by_utc),
    Case("date:completed", "", by_completion),
    Case("other_year", "", of_2024),
    Case("unit", ONLY_EXPORT, add_leads(lambda job: job.is_lead, unit="Tucson-Sales")),
    Case("division", ONLY_EXPORT, add_leads(lambda job: job.is_lead, unit="Mesa-Production", window=MONTHS),
         window=MONTHS),
    Case("job_type", ONLY_EXPORT,
         add_leads(lambda job: not job.is_estimate and "test" not in job.customer_name.lower())),
    Case("test_customers", ONLY_EXPORT, add_leads(lambda job: job.is_estimate and not job.is_lead)),
    Case("job_type:active", ONLY_WAREHOUSE, keep(lambda row, all_: type_of(row, all_)["active"])),
    Case("status:not_canceled", ONLY_WAREHOUSE, keep(lambda row, all_: job_of(row, all_).status != "Canceled")),
    Case("status:completed", ONLY_WAREHOUSE, keep(lambda row, all_: job_of(row, all_).status == "Completed")),
    Case("status:sold", ONLY_WAREHOUSE, keep(lambda row, all_: job_of(row, all_).closed)),
    Case("same_customer", ONLY_WAREHOUSE, once_a_customer),
    Case("merged", ONLY_WAREHOUSE, without_merged),
    Case("segment:residential", ONLY_WAREHOUSE, keep(lambda row, _: "Comm" not in row[4])),
    Case("unit_not_named", ONLY_WAREHOUSE, keep(lambda row, _: not row[4].startswith("Z-"))),
    Case("test_customers:unnamed_out", ONLY_WAREHOUSE, keep(lambda row, _: row[5])),
    Case("window:exclusive_end", ONLY_WAREHOUSE, keep(lambda row, _: row[9][:10] < "2025-08-21"),
         window=("2025-08-18", "2025-08-21")),
    Case("no_key", "", without_number),
    Case("changed", ONLY_WAREHOUSE, modified_since, exported_at="2025-09-01 00:00"),
    Case("absent", ONLY_WAREHOUSE, plainly_missing),
]  # fmt: skip


# --- the other KPIs: lists of jobs, estimates, payments and invoices ------------------------------------------------


JOB_HEADER = ["Job #", "Job Type", "Business Unit", "Customer Name", "Completed Date", "Sales Opportunity", "Closed"]
ESTIMATE_HEADER = ["Job #", "Estimate #", "Estimate Sold Date", "Business Unit", "Customer Name", "Estimate Subtotal"]


def job_row(job: Job, company: Company) -> Row:
    """A row of the list behind Completed Jobs or Sales Opportunity."""
    unit = company.books.units[job.unit]
    return [job.number, job.type, unit, job.customer_name or None, job.completed, 1, int(job.closed)]


def completed_jobs(condition: Callable[[Job], bool]) -> Callable[[list[Row], Company], list[Row]]:
    return lambda _, all_: [
        job_row(job, all_) for job in all_.jobs(SALES, *WEEK, lambda job: job.completed) if condition(job)
    ]


def opportunities(condition: Callable[[Job], bool]) -> Callable[[list[Row], Company], list[Row]]:
    return lambda _, all_: [
        job_row(job, all_) for job in all_.jobs(SALES, *WEEK, find_opportunity_instant) if condition(job)
    ]


def sold_estimates(condition: Callable[[dict], bool]) -> Callable[[list[Row], Company], list[Row]]:
    def alter(_: list[Row], company: Company) -> list[Row]:
        ids, rows = units(company.store, SALES), []
        for one in company.store.rows("estimates"):
            job = company.books.jobs.get(one.get("jobId"))
            unit = job.unit if job else one["businessUnitId"]
            day = company.books.day(one.get("soldOn"))
            if unit in ids and day and WEEK[0] <= day.isoformat() <= WEEK[1] and condition(one):
                unit, number = company.books.units[unit], job.number if job else None
                rows.append([number, one["id"], day.isoformat(), unit, "A Customer", one["subtotal"]])
        return rows

    return alter


def is_sold(one: dict) -> bool:
    return one["status"]["name"] == "Sold" and one["active"]


def add_jobs(condition: Callable[[Job], bool], unit: str = PRODUCTION):
    """Add rows of the job costing sheet for jobs that start in the window."""

    def alter(rows: list[Row], company: Company) -> list[Row]:
        found = [job for job in company.jobs(unit, *MONTHS, lambda job: job.start) if condition(job)][:4]
        more = [
            [
                *[job.start[:10], company.books.units[job.unit], None, None, job.type, job.customer_name or None],
                *[job.number, float(job.subtotal), 0, 0, 0, 0, 0, None, job.status],
            ]
            for job in found
        ]
        return rows + more

    return alter


def without_adjustments(rows: list[Row], company: Company) -> list[Row]:
    adjusted: dict[str, Decimal] = {}
    for invoice in company.store.rows("invoices"):
        if invoice["adjustmentToId"] and invoice["active"] and invoice["job"]:
            number = str(invoice["job"]["number"])
            adjusted[number] = adjusted.get(number, Decimal(0)) + Decimal(str(invoice["subTotal"]))
    return [[*row[:7], float(Decimal(str(row[7])) - adjusted.get(row[6], 0)), *row[8:]] for row in rows]


def with_inactive_payments(rows: list[Row], company: Company) -> list[Row]:
    """Add what inactive payments of the months were applied to, for active invoices of the unit's jobs."""
    ids, known = units(company.store, PRODUCTION), company.raw("invoices")
    return rows + [
        [one["date"][:10], PRODUCTION, "A Customer", one["id"], one["type"], applied["appliedToReferenceNumber"], 1.5]
        for one in company.store.rows("payments")
        if not one["active"] and MONTHS[0] <= one["date"][:10] <= MONTHS[1]
        for applied in one["appliedTo"]
        if (invoice := known.get(applied["appliedTo"])) and invoice["active"] and invoice["job"]
        if company.books.jobs[invoice["job"]["id"]].unit in ids
    ]


def invoices(wanted: Callable[[Decimal, Decimal], bool], *, active: bool = True):
    """Add invoices by their balance on the last day and that of their location."""

    def alter(rows: list[Row], company: Company) -> list[Row]:
        ids, day = units(company.store, PRODUCTION), date.fromisoformat(MONTHS[1])
        balance: dict[str, Decimal] = {}
        location: dict[int | None, Decimal] = {}
        of: dict[str, int | None] = {}
        for invoice, moved, amount in company.books.movements:
            if invoice.unit in ids and moved and moved <= day and invoice.number:
                balance[invoice.number] = balance.get(invoice.number, Decimal(0)) + amount
                location[invoice.location] = location.get(invoice.location, Decimal(0)) + amount
                of[invoice.number] = invoice.location
        if active:
            found = [number for number, owed in balance.items() if wanted(owed, location[of[number]])]
        else:
            found = [
                one["referenceNumber"]
                for one in company.store.rows("invoices")
                if not one["active"] and one["job"] and company.books.jobs[one["job"]["id"]].unit in ids
                if one["invoiceDate"] and one["invoiceDate"][:10] <= MONTHS[1]
            ]
        more = [[number, "2025-01-01", PRODUCTION, "A Customer", "Home", None, 1, 0.5] for number in found[:4]]
        return rows + more

    return alter


OTHER_CASES = [
    Case("status", ONLY_EXPORT, completed_jobs(lambda job: job.is_estimate), "estimates", WBR),
    Case("no_charge", ONLY_EXPORT, opportunities(lambda job: job.status == "Completed" or job.closed), "success_rate",
         WBR),
    Case("active", ONLY_EXPORT, sold_estimates(lambda one: one["status"]["name"] == "Sold"), "total_booked", WBR),
    Case("status", ONLY_EXPORT, sold_estimates(lambda one: one["active"]), "total_booked", WBR, note="not sold"),
    Case("job:with_job", ONLY_WAREHOUSE, sold_estimates(lambda one: is_sold(one) and one.get("jobId")), "total_booked",
         WBR),
    Case("job_type", ONLY_EXPORT, add_jobs(lambda job: not job.is_production), "dollars_produced", JOB_COST, MONTHS),
    Case("zero", ONLY_WAREHOUSE, keep(lambda row, _: row[7]), "dollars_produced", JOB_COST, MONTHS),
    Case("measure:without_adjustments", DIFFERENT, without_adjustments, "dollars_produced", JOB_COST, MONTHS),
    Case("listed_twice", DIFFERENT, lambda rows, _: [*rows, max(rows, key=lambda row: row[7])], "dollars_produced",
         JOB_COST, MONTHS),
    Case("amount", DIFFERENT, lambda rows, _: [[*rows[0][:7], rows[0][7] + 1, *rows[0][8:]], *rows[1:]],
         "dollars_produced", JOB_COST, MONTHS),
    Case("measure:full", DIFFERENT, lambda rows, _: [[*row[:8], row[12], 0, *row[10:]] for row in rows], "gpm",
         JOB_COST, MONTHS),
    Case("status:not_canceled", ONLY_WAREHOUSE, keep(lambda row, _: row[14] != "Canceled"), "gpm", JOB_COST, MONTHS),
    Case("changed", DIFFERENT, lambda rows, _: [[*row[:12], row[12] + 5, *row[13:]] if row[4] == "Warranty" else row
         for row in rows], "warranty_rate", JOB_COST, MONTHS, exported_at="2024-07-01 00:00"),
    Case("created_later", ONLY_EXPORT, lambda rows, _: rows, "future_bookings", JOB_COST, ("2025-08-18", "2026-08-18")),
    Case("active", ONLY_EXPORT, with_inactive_payments, "dollars_collected", COLLECTIONS, MONTHS),
    Case("sign:positive", ONLY_WAREHOUSE, keep(lambda row, _: row[6] >= 0), "dollars_collected", COLLECTIONS, MONTHS),
    Case("entity:applied", ONLY_WAREHOUSE, keep(lambda row, _: row[5]), "dollars_collected", COLLECTIONS, MONTHS),
    Case("measure:least_10_invoice", ONLY_WAREHOUSE, keep(lambda row, _: row[7] >= 10), "outstanding_ar", RECEIVABLES,
         MONTHS),
    Case("zero", ONLY_EXPORT, invoices(lambda owed, _: owed == 0), "outstanding_ar", RECEIVABLES, MONTHS),
    Case("measure", ONLY_EXPORT, invoices(lambda owed, there: owed != 0 and there < 10), "outstanding_ar", RECEIVABLES,
         MONTHS),
    Case("active", ONLY_EXPORT, invoices(lambda *_: False, active=False), "outstanding_ar", RECEIVABLES, MONTHS),
]  # fmt: skip
CASES = LEAD_CASES + OTHER_CASES


def exported(case: Case, company: Company, *, altered: bool = True) -> Export:
    """The export of a case: ServiceTitan's own report, altered."""
    header, rows = report(company.store, case.number, [case.unit], *case.window)
    if case.number == WBR:
        header = ESTIMATE_HEADER if case.kpi == "total_booked" else JOB_HEADER
    rows = case.alter(rows, company) if altered else rows
    return exports.read_table(f"{case.kpi}.csv", [header, *rows])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_planted_difference_gets_its_reason(case, company, target):
    made = datetime.fromisoformat(case.exported_at).replace(tzinfo=ZoneInfo("UTC")) if case.exported_at else None
    days = {"first_day": date.fromisoformat(case.window[0]), "last_day": date.fromisoformat(case.window[1])}
    result = compare(exported(case, company), target, kpi=case.kpi, business_unit=case.unit, exported_at=made, **days)
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert len(differing) > 0
    assert set(differing["side"]) == ({case.side} if case.side else {ONLY_EXPORT, ONLY_WAREHOUSE})
    assert set(differing["reason"]) == {case.reason}
    assert differing["decisive"].all()
    assert (differing["fails"] != "").all()
    assert result.residual == 0
    assert sum((step.change for step in result.steps), result.theirs) == result.ours
    assert not result.matches


def test_there_are_enough_reasons():
    assert len({case.reason for case in CASES} | {"type_without_name"}) >= 15


@pytest.mark.parametrize(
    ("kpi", "number", "window"),
    [
        ("leads", LEADS, WEEK), ("dollars_produced", JOB_COST, MONTHS), ("gpm", JOB_COST, MONTHS),
        ("warranty_rate", JOB_COST, MONTHS), ("dollars_collected", COLLECTIONS, MONTHS),
        ("outstanding_ar", RECEIVABLES, MONTHS), ("estimates", WBR, WEEK), ("success_rate", WBR, WEEK),
        ("total_booked", WBR, WEEK),
    ],
)  # fmt: skip
def test_servicetitans_own_report_matches(company, target, kpi, number, window):
    case = Case("", "", lambda rows, _: rows, kpi, number, window)
    header, rows = report(company.store, number, [case.unit], *window)
    days = {"first_day": date.fromisoformat(window[0]), "last_day": date.fromisoformat(window[1])}
    result = compare(exports.read_table("report", [header, *rows]), target, kpi=kpi, business_unit=case.unit, **days)
    assert result.matches
    assert result.theirs == result.ours != 0
    assert result.steps == ()


# --- the predicates are those of the facts ---------------------------------------------------------------------------


def everything(kpi: str, company: Company) -> Export:
    """An export with every record of the tenant that could have to do with the KPI."""
    if kpi == "total_booked":
        rows = [[one["id"], "2025-08-18", one["subtotal"]] for one in company.store.rows("estimates")]
        return exports.read_table(kpi, [["Estimate #", "Estimate Sold Date", "Estimate Subtotal"], *rows])
    if kpi == "dollars_collected":
        rows = [
            [one["id"], applied["appliedToReferenceNumber"], 1]
            for one in company.store.rows("payments")
            for applied in (*one["appliedTo"], {"appliedToReferenceNumber": None})
        ]
        return exports.read_table(kpi, [["Payment #", "Invoice #", "Amount"], *rows])
    if kpi == "outstanding_ar":
        rows = [[one["referenceNumber"], 1] for one in company.store.rows("invoices")]
        return exports.read_table(kpi, [["Invoice #", "Balance"], *rows])
    header = ["Job #", "Closed", "Jobs Subtotal", "Labor Pay", "Payroll Adjustments", "Jobs Total Costs"]
    return exports.read_table(kpi, [header, *([job.number, 0, 1, 1, 1, 1] for job in company.books.jobs.values())])


@pytest.mark.parametrize("kpi", read_catalog())
def test_a_record_is_left_out_if_and_only_if_a_predicate_fails(kpi, company, target):
    unit = f"Phoenix-{find_kpi(kpi).division}"
    result = compare(
        everything(kpi, company),
        target,
        kpi=kpi,
        business_unit=unit,
        first_day=date(2025, 8, 4),
        last_day=date(2025, 8, 31),
    )
    rows = result.rows
    there = rows[rows["side"] == ONLY_EXPORT]
    assert len(there) > 100
    assert (there["fails"] != "").all()
    assert "stale" not in set(there["reason"])
    assert ONLY_WAREHOUSE not in set(rows["side"])
    assert result.residual == 0


# --- which days and units -------------------------------------------------------------------------------------------


def leads_file(
    company: Company, folder: Path, *, first: str = WEEK[0], last: str = WEEK[1], states: bool = True
) -> Path:
    header, rows = report(company.store, LEADS, [SALES], first, last)
    filters = [["Date Range", f"{first} - {last}"], ["Business Unit", "Phoenix-Sales, Phoenix-Comm-Sales"]]
    path = folder / "Leads.xlsx"
    return write_xlsx(path, [["Leads"], [], header, *rows, [None] * 6 + [1.5]], filters=filters if states else ())


def test_the_year_that_was_mistaken(company, target, tmp_path):
    """The owner's own case: the export is of 2025, and the question was asked for 2024."""
    result = compare(
        exports.read_file(leads_file(company, tmp_path)),
        target,
        business_unit=SALES,
        first_day=date(2024, 8, 18),
        last_day=date(2024, 8, 24),
    )
    assert (result.theirs, result.ours, result.ours_in_window) == (96, 124, 96)
    assert [(step.reason, step.change) for step in result.steps] == [("asked_dates", 28)]
    assert result.residual == 0
    assert not result.matches
    assert render.summarize(result) == (
        "Leads.xlsx has 96 leads, we have 124: the export covers Aug 18 to Aug 24, 2025, but Aug 18 to Aug 24, 2024 "
        "was asked for; on the export's own days we have also 96 (Phoenix-Sales)."
    )
    assert "It states 2025-08-18 to 2025-08-24, and 2024-08-18 to 2024-08-24 was asked for" in " ".join(result.notes)


def test_the_old_dashboard_counted_only_what_was_sold(company, target):
    header, rows = report(company.store, LEADS, [SALES], *WEEK)
    sold = [row for row in rows if row[8]]
    result = compare(
        exports.read_table("dashboard", [header, *sold]),
        target,
        business_unit=SALES,
        first_day=date(2025, 8, 18),
        last_day=date(2025, 8, 24),
    )
    assert (result.theirs, result.ours) == (31, 96)
    assert render.summarize(result) == (
        "dashboard has 31 leads, we have 96 (Phoenix-Sales, Aug 18 to Aug 24, 2025): 66 jobs only here, not sold (+65)."
    )


@pytest.mark.parametrize(
    ("number", "unit", "kpi"), [(JOB_COST, PRODUCTION, "dollars_produced"), (LEADS, SALES, "leads")]
)
def test_a_job_type_that_all_missing_jobs_have_is_named(company, target, number, unit, kpi):
    header, rows = report(company.store, number, [unit], *MONTHS)
    days = {"first_day": date.fromisoformat(MONTHS[0]), "last_day": date.fromisoformat(MONTHS[1])}
    types = [row[4] if number == JOB_COST else type_of(row, company)["name"] for row in rows]
    (_, _), (name, _), *_ = Counter(types).most_common()
    kept = [row for row, type_ in zip(rows, types, strict=True) if type_ != name]
    without = exports.read_table("report", [header, *kept])
    result = compare(without, target, kpi=kpi, business_unit=unit, **days)
    [hint] = render.list_hints(result)
    missing = int((result.rows["side"] == ONLY_WAREHOUSE).sum())
    assert hint.startswith(f"All {missing:,} jobs only here that count are of the job type {name}, and none")
    assert ("job_type_rules.csv of your company folder" in hint) == (kpi == "dollars_produced")
    assert hint in render.format_text(result)
    assert hint in render_comparison(result)
    mixed = exports.read_table("report", [header, *rows[::2]])
    assert render.list_hints(compare(mixed, target, kpi=kpi, business_unit=unit, **days)) == []


def test_the_units_are_those_that_the_export_names(company, target, tmp_path):
    result = compare(exports.read_file(leads_file(company, tmp_path)), target)
    assert result.business_units == (SALES,)
    assert result.matches
    assert render.summarize(result) == (
        "Leads.xlsx and we have the same leads, 96 (Phoenix-Sales, Aug 18 to Aug 24, 2025): all 97 jobs are the same."
    )


def test_without_any_dates_it_says_what_is_missing(company, target, tmp_path):
    export = exports.read_file(leads_file(company, tmp_path, states=False))
    with pytest.raises(UserError, match="does not say which days it covers: give FROM= and TO="):
        compare(export, target)
    with pytest.raises(UserError, match="Give both FROM= and TO="):
        compare(export, target, first_day=date(2025, 8, 18))
    with pytest.raises(UserError, match="FROM 2025-08-24 is after TO 2025-08-18"):
        compare(export, target, first_day=date(2025, 8, 24), last_day=date(2025, 8, 18))


@pytest.mark.fault(69)
def test_a_unit_that_does_not_exist_and_one_that_was_renamed(company, target, tmp_path):
    export = exports.read_file(leads_file(company, tmp_path))
    with pytest.raises(UserError, match="There is no business unit Phoenix: take one of Color Studio, "):
        compare(export, target, business_unit="Phoenix")
    renamed = export.cells.replace({"business_unit": {"Phoenix-Sales": "PHX Sales"}})
    result = compare(replace(export, cells=renamed), target, business_unit=SALES)
    assert result.matches
    assert "Its unit PHX Sales is not in the warehouse: renamed, or newer than the last ingest." in result.notes


# --- what else a file can be ----------------------------------------------------------------------------------------


@pytest.mark.fault(70)
def test_an_empty_export(company, target):
    header, _ = report(company.store, LEADS, [SALES], *WEEK)
    days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
    result = compare(exports.read_table("empty", [header]), target, business_unit=SALES, **days)
    assert (result.theirs, result.ours, result.residual) == (0, 96, 0)
    assert result.reasons.to_dict("records") == [{"side": ONLY_WAREHOUSE, "reason": "absent", "rows": 97}]


def test_a_job_type_that_lost_its_name(company, built, tmp_path, monkeypatch):
    file = Path(shutil.copy(built, tmp_path / "warehouse.duckdb"))
    monkeypatch.setenv("WAREHOUSE", str(file))
    with DuckDBWarehouse(file, 0) as own:
        own.execute("DELETE FROM st_raw_v2.raw_job_types WHERE name = 'Re-Estimate'")
    marts.build_marts(LAST_DAY.isoformat())
    header, rows = report(company.store, LEADS, [SALES], *WEEK)
    days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
    with DuckDBWarehouse(file, 0) as own:
        result = compare(exports.read_table("leads", [header, *rows]), own, business_unit=SALES, **days)
    lost = {job.number for job in company.jobs(SALES, *WEEK) if job.type == "Re-Estimate" and job.is_lead}
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert set(differing["key"]) == lost != set()
    assert set(differing["reason"]) == {"type_without_name"}
    assert differing["decisive"].all()


def test_a_row_that_fails_twice_has_no_decisive_reason(company, target):
    """A test customer's job of another unit: neither predicate alone keeps it out."""
    header, _ = report(company.store, LEADS, [SALES], *WEEK)
    test = next(job for job in company.jobs(SALES, *WEEK) if job.is_estimate and not job.is_lead)
    days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
    export = exports.read_table("leads", [header, company.lead(test)])
    rows = compare(export, target, business_unit="Tucson-Sales", **days).rows
    [row] = rows[rows["side"] == ONLY_EXPORT].to_dict("records")
    assert row["fails"] == "unit, test_customers"
    assert not row["decisive"]


def test_totals_by_unit_are_compared_where_a_report_has_no_rows(company, target):
    header, rows = report(company.store, WBR, [SALES], *WEEK)
    rows[0][1] += 3
    days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
    result = compare(
        exports.read_table("wbr", [header, *rows, ["Total", 88, 78, 31]]), target, business_unit=SALES, **days
    )
    assert result.comparison.name == "estimates"
    assert (result.theirs, result.ours, result.residual) == (88, 85, 0)
    assert [(step.reason, step.change) for step in result.steps] == [("totals", -3)]
    assert "It has totals only: no row can be compared with another." in result.notes


def test_a_total_that_is_not_the_sum_of_the_rows_is_told(company, target):
    header, rows = report(company.store, JOB_COST, [PRODUCTION], *MONTHS)
    total = [None] * 7 + ["$1.00"]
    days = {"first_day": date(2025, 1, 1), "last_day": date(2025, 8, 31)}
    result = compare(exports.read_table("cost", [header, *rows, total]), target, business_unit=PRODUCTION, **days)
    assert result.matches
    assert "states 1.00 as total of Jobs Subtotal, but the rows above add up to" in result.doubts[0]


def test_a_tolerance_of_a_column(company, target):
    header, rows = report(company.store, JOB_COST, [PRODUCTION], *MONTHS)
    rows[0][7] += 0.75
    export = exports.read_table("cost", [header, *rows])
    days = {"first_day": date(2025, 1, 1), "last_day": date(2025, 8, 31), "business_unit": PRODUCTION}
    assert not compare(export, target, **days).matches
    result = compare(export, target, tolerances={"produced": Decimal(1)}, **days)
    assert result.matches
    assert [(step.reason, step.change) for step in result.steps] == [("rounding", Fraction(-3, 4))]
    assert result.residual == 0
    with pytest.raises(UserError, match="There is no column profit to tolerate: take one of produced"):
        compare(export, target, tolerances={"profit": Decimal(1)}, **days)


# --- for people, scripts and the API ---------------------------------------------------------------------------------


def test_names_are_masked_unless_asked_for(company, target, tmp_path):
    result = compare(exports.read_file(leads_file(company, tmp_path)), target)
    name = next(name for name in result.rows["customer_name"] if name)
    own = render.write_files(result, tmp_path / "out")
    masked = (own / "rows.csv").read_text()
    assert len(masked.splitlines()) == 98
    assert not [one for one in result.rows["customer_name"].dropna() if one in masked]
    assert name in render.build_rows_table(result, differing=False, names=True)["customer"].tolist()
    told = json.loads((own / "result.json").read_text())
    assert (told["theirs"], told["ours"], told["residual"], told["matches"]) == ("96", "96", "0", True)
    assert told["window"] == ["2025-08-18", "2025-08-24"]
    assert name not in (own / "result.json").read_text() + render.format_text(result)


@pytest.mark.parametrize(
    ("value", "kind", "figure", "change"),
    [
        (Fraction(1234), "count", "1,234", "+1,234"),
        (Fraction(-5, 2), "money", "-$2.50", "-$2.50"),
        (Fraction(31, 78), "rate", "39.74%", "+39.74 pt"),
        (Fraction(0), "money", "$0.00", "±0"),
    ],
)
def test_figures(value, kind, figure, change):
    assert (format_number(value, kind), format_change(value, kind)) == (figure, change)


def test_a_saved_report_is_run_and_matches(healthy, sandbox):
    with warehouse.connect() as own:
        days = {"first_day": date(2025, 8, 18), "last_day": date(2025, 8, 24)}
        reports = Reports(Client(settings.load()))
        export = pull_report(reports, "report:marketing/1001", unit_ids=list_unit_ids(own, SALES), **days)
        result = compare(export, own, business_unit=SALES, **days)
        assert result.matches
        assert result.theirs == 96
        assert render.summarize(result).startswith("ServiceTitan and we have the same leads, 96")
        export = pull_report(reports, "report:accounting/1005", unit_ids=list_unit_ids(own, PRODUCTION), **days)
        assert compare(export, own, business_unit=PRODUCTION, **days).matches
        with pytest.raises(UserError, match="ServiceTitan has no report marketing/9: name it as"):
            pull_report(reports, "report:marketing/9", **days)
        with pytest.raises(UserError, match="names no report"):
            pull_report(reports, "report:1001", **days)


def test_the_exit_code_tells_a_script(healthy, company, tmp_path, monkeypatch, capsys):
    from stkpi.__main__ import main  # noqa: PLC0415 the whole product is behind it

    def command(*arguments: str | Path) -> int:
        monkeypatch.setattr(sys, "argv", ["stkpi", "reconcile", *map(str, arguments)])
        return main()

    assert command("--export", leads_file(company, tmp_path), "--out", tmp_path / "out") == 0
    answer = capsys.readouterr().out
    assert answer.startswith(
        "Leads.xlsx is compared as leads, because it has Lead Type and Job #; KPI= chooses another."
    )
    assert "\nLeads.xlsx and we have the same leads, 96 (Phoenix-Sales" in answer

    header, rows = report(company.store, LEADS, [SALES], *WEEK)
    fewer = write_csv(tmp_path / "fewer.csv", [["Date Range: 8/18/2025 - 8/24/2025"], header, *rows[20:]])
    assert command("--export", fewer, "--bu", SALES, "--out", tmp_path / "out") == 1
    answer = capsys.readouterr().out
    page = Path(answer.partition("Row by row: ")[2].strip())
    assert page.parent.parent == tmp_path / "out"
    assert page.parent.name.startswith("fewer-")
    names = {job.customer_name for job in company.jobs(SALES, *WEEK) if job.is_lead and job.customer_name}
    shown = page.read_text()
    assert len([name for name in names if name in shown]) == len(names)  # the owner's own machine
    assert shown.count('<a href="https://go.servicetitan.com/#/Job/Index/') == 97
    assert shown.index("only here") < shown.index("identical</td>", shown.index("Row by row"))
    assert command("--export", fewer, "--bu", SALES, "--masked", "--out", tmp_path / "masked") == 1
    [masked] = (tmp_path / "masked").glob("*/page.html")
    assert not [name for name in names if name in masked.read_text()]
    capsys.readouterr()

    assert command("--export", tmp_path / "none.xlsx") == 2
    assert command("--export", fewer, "--from", "18.8.2025", "--to", "2025-08-24") == 2
    refused = capsys.readouterr().err.splitlines()
    assert refused[0].startswith("There is no file")
    assert refused[1].startswith("FROM=18.8.2025 is not a day")


@pytest.mark.parametrize(("answer", "code"), [(0, 0), (1, 0), (2, 2), (130, 2)])
def test_make_calls_a_difference_no_error(answer, code, tmp_path):
    """The command ends with 0, 1 or 2. make has only done and failed: that the numbers differ is done."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\nexit {answer}\n")
    python.chmod(0o755)
    command = ["make", "-s", "-o", ".venv/ready", f"BIN={tmp_path}", "reconcile", "EXPORT=a.csv"]
    done = subprocess.run(command, cwd=settings.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert ("Error" in done.stderr) == (code != 0)


def test_the_notebook_says_the_sentence_on_top(healthy, company, tmp_path):
    values = {"export": str(leads_file(company, tmp_path)), "first_day": "2024-08-18", "last_day": "2024-08-24"}
    executed = papermill.execute_notebook(
        str(settings.ROOT / "notebooks" / "07_reconcile.ipynb"), None, values, kernel_name="python3", progress_bar=False
    )
    figures = pages.read_recorded(executed)["reconcile"]
    assert (figures["theirs"], figures["ours"], figures["residual"]) == ("96", "124", "0")
    page = pages.render_notebook(executed)
    assert "Leads.xlsx has 96 leads, we have 124: the export covers Aug 18 to Aug 24, 2025" in page
    assert "http" not in page.replace("http://www.w3.org", "").replace("https://go.servicetitan.com/#/Job", "")
