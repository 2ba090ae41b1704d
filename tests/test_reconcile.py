"""Reconciliation: each planted difference gets its reason, every row has one, and the bridge leaves nothing over."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from exported import COLLECTIONS, JOB_COST, LEADS, RECEIVABLES, WBR, Row, report, units, write_csv, write_xlsx

from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE
from sandbox.truth import Books, Job, calendar_day, opportunity_instant, read
from stkpi import marts, settings, warehouse
from stkpi.errors import UserError
from stkpi.reconcile import exports, present
from stkpi.reconcile.compare import compare
from stkpi.reconcile.exports import Export
from stkpi.reconcile.pull import parameters, pull
from stkpi.reconcile.reasons import DIFFERENT, HERE, IDENTICAL, REASONS, THERE
from stkpi.servicetitan.client import Client
from stkpi.warehouse.duckdb import DuckDBWarehouse

WEEK = ("2025-08-18", "2025-08-24")
MONTHS = ("2025-01-01", "2025-08-31")
SALES, PRODUCTION = "Phoenix-Sales", "Phoenix-Production"


@pytest.fixture(scope="module")
def target(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DuckDBWarehouse]:
    """The built warehouse; a comparison writes to its stage tables only."""
    file = Path(shutil.copy(built, tmp_path_factory.mktemp("reconcile") / "warehouse.duckdb"))
    with DuckDBWarehouse(file, 0) as open_:
        yield open_


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
    return Company(tenant, read(tenant, TIME_ZONE))


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


def number_of(row: Row) -> str:
    return row[0]


def job_of(row: Row, company: Company) -> Job:
    [job] = [job for job in company.books.jobs.values() if job.number == (row[0] if len(row) == 10 else row[6])]
    return job


def job_raw(row: Row, company: Company) -> dict:
    return company.raw("jobs")[job_of(row, company).id]


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
    late = [row[0] for row in rows if job_raw(row, company)["modifiedOn"] > "2025-09-01"]
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
    Case("not_in_warehouse", THERE, lambda rows, _: [*rows, ["987654", *rows[0][1:5], "Nobody Known", *rows[0][6:]]]),
    Case("outside", THERE, add_leads(lambda job: job.is_lead, window=("2025-08-27", "2025-09-02"))),
    Case("utc", "", by_utc),
    Case("other_date", "", by_completion),
    Case("other_year", "", of_2024),
    Case("unit", THERE, add_leads(lambda job: job.is_lead, unit="Tucson-Sales")),
    Case("division", THERE, add_leads(lambda job: job.is_lead, unit="Mesa-Production", window=MONTHS), window=MONTHS),
    Case("type", THERE, add_leads(lambda job: not job.is_estimate and "test" not in job.customer_name.lower())),
    Case("test_customer", THERE, add_leads(lambda job: job.is_estimate and not job.is_lead)),
    Case("type_inactive", HERE, keep(lambda row, all_: all_.raw("job_types")[job_raw(row, all_)["jobTypeId"]]["active"])),
    Case("canceled", HERE, keep(lambda row, all_: job_of(row, all_).status != "Canceled")),
    Case("not_completed", HERE, keep(lambda row, all_: job_of(row, all_).status == "Completed")),
    Case("not_sold", HERE, keep(lambda row, all_: job_of(row, all_).closed)),
    Case("same_customer", HERE, once_a_customer),
    Case("merged", HERE, without_merged),
    Case("commercial", HERE, keep(lambda row, _: "Comm" not in row[4])),
    Case("unit_not_named", HERE, keep(lambda row, _: not row[4].startswith("Z-"))),
    Case("no_customer", HERE, keep(lambda row, _: row[5])),
    Case("no_key", "", without_number),
    Case("changed", HERE, modified_since, exported_at="2025-09-01 00:00"),
    Case("absent", HERE, plainly_missing),
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
        job_row(job, all_) for job in all_.jobs(SALES, *WEEK, opportunity_instant) if condition(job)
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
            [job.start[:10], company.books.units[job.unit], None, None, job.type, job.customer_name or None, job.number]
            + [float(job.subtotal), 0, 0, 0, 0, 0, None, job.status]
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


def payments(condition: Callable[[dict], bool]):
    """Add payments of the months, to the unit that their record names, of which some invoice is not known."""

    def alter(rows: list[Row], company: Company) -> list[Row]:
        ids = units(company.store, PRODUCTION)
        found = [
            one
            for one in company.store.rows("payments")
            if condition(one)
            and one["businessUnit"]
            and one["businessUnit"]["id"] in ids
            and MONTHS[0] <= calendar_day(one["date"]).isoformat() <= MONTHS[1]
        ][:4]
        return rows + [
            [one["date"][:10], PRODUCTION, "A Customer", one["id"], one["type"], None, float(one["total"])]
            for one in found
        ]

    return alter


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
    Case("status", THERE, completed_jobs(lambda job: job.is_estimate), "estimates", WBR),
    Case("no_charge", THERE, opportunities(lambda job: job.status == "Completed" or job.closed), "success_rate", WBR),
    Case("inactive", THERE, sold_estimates(lambda one: one["status"]["name"] == "Sold"), "total_booked", WBR),
    Case("status", THERE, sold_estimates(lambda one: one["active"]), "total_booked", WBR, note="not sold"),
    Case("no_job", HERE, sold_estimates(lambda one: is_sold(one) and one.get("jobId")), "total_booked", WBR),
    Case("type", THERE, add_jobs(lambda job: not job.is_production), "dollars_produced", JOB_COST, MONTHS),
    Case("zero", HERE, keep(lambda row, _: row[7]), "dollars_produced", JOB_COST, MONTHS),
    Case("adjustment", DIFFERENT, without_adjustments, "dollars_produced", JOB_COST, MONTHS),
    Case("listed_twice", DIFFERENT, lambda rows, _: [*rows, max(rows, key=lambda row: row[7])], "dollars_produced",
         JOB_COST, MONTHS),
    Case("amount", DIFFERENT, lambda rows, _: [[*rows[0][:7], rows[0][7] + 1, *rows[0][8:]], *rows[1:]],
         "dollars_produced", JOB_COST, MONTHS),
    Case("canceled", HERE, keep(lambda row, _: row[14] != "Canceled"), "gpm", JOB_COST, MONTHS),
    Case("changed", DIFFERENT, lambda rows, _: [[*row[:12], row[12] + 5, *row[13:]] if row[4] == "Warranty" else row
         for row in rows], "warranty_rate", JOB_COST, MONTHS, exported_at="2024-07-01 00:00"),
    Case("created_later", THERE, lambda rows, _: rows, "future_bookings", JOB_COST, ("2025-08-18", "2026-08-24")),
    Case("inactive", THERE, payments(lambda one: not one["active"]), "dollars_collected", COLLECTIONS, MONTHS),
    Case("refund", HERE, keep(lambda row, _: row[6] >= 0), "dollars_collected", COLLECTIONS, MONTHS),
    Case("unapplied", HERE, keep(lambda row, _: row[5]), "dollars_collected", COLLECTIONS, MONTHS),
    Case("zero", THERE, invoices(lambda owed, _: owed == 0), "outstanding_ar", RECEIVABLES, MONTHS),
    Case("small_balance", THERE, invoices(lambda owed, there: owed != 0 and there < 10), "outstanding_ar", RECEIVABLES,
         MONTHS),
    Case("inactive", THERE, invoices(lambda *_: False, active=False), "outstanding_ar", RECEIVABLES, MONTHS),
]  # fmt: skip
CASES = LEAD_CASES + OTHER_CASES


def exported(case: Case, company: Company, *, altered: bool = True) -> Export:
    """The export of a case: ServiceTitan's own report, altered."""
    header, rows = report(company.store, case.number, [case.unit], *case.window)
    if case.number == WBR:
        header = ESTIMATE_HEADER if case.kpi == "total_booked" else JOB_HEADER
    rows = case.alter(rows, company) if altered else rows
    return exports.table(f"{case.kpi}.csv", [header, *rows])


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_every_planted_difference_gets_its_reason(case, company, target):
    made = datetime.fromisoformat(case.exported_at).replace(tzinfo=ZoneInfo("UTC")) if case.exported_at else None
    days = {"first_day": date.fromisoformat(case.window[0]), "last_day": date.fromisoformat(case.window[1])}
    result = compare(
        exported(case, company), target, kpi=case.kpi, business_unit=case.unit, exported_at=made, **days
    )
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert len(differing) > 0
    assert set(differing["side"]) == ({case.side} if case.side else {THERE, HERE})
    assert set(differing["reason"]) == {case.reason}
    assert differing["decisive"].all()
    assert (differing["fails"] != "").all()
    assert result.residual == 0
    assert sum((step.change for step in result.steps), result.theirs) == result.ours
    assert not result.matches


def test_there_are_enough_reasons():
    assert len({case.reason for case in CASES} | {"type_without_name"}) >= 15
    assert {case.reason for case in CASES} <= REASONS.keys()


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
    result = compare(exports.table("report", [header, *rows]), target, kpi=kpi, business_unit=case.unit, **days)
    assert result.matches
    assert result.theirs == result.ours != 0
    assert result.steps == ()
