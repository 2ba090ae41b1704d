"""Reports in every layout that people have, held against the same rows: each gives the same number, or one sentence.

The rows are those of the generated tenant; the layouts are those of real tenants.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import pytest
from exported import COLLECTIONS, JOB_COST, RECEIVABLES, WBR, Row, report, units, write_csv, write_xlsx

from sandbox.store import Store
from sandbox.tenant import TIME_ZONE
from sandbox.truth import Books, Job, find_opportunity_instant, read_books
from stkpi.errors import UserError
from stkpi.reconcile import exports, folder, render
from stkpi.reconcile.compare import Result, compare
from stkpi.reconcile.reasons import IDENTICAL
from stkpi.warehouse.duckdb import DuckDBWarehouse

FIRST, LAST = "2025-08-18", "2025-08-24"
DAYS = (date.fromisoformat(FIRST), date.fromisoformat(LAST))
MONTHS = (date(2025, 1, 1), date(2025, 8, 31))
SALES, PRODUCTION = "Phoenix-Sales", "Phoenix-Production"
STATED = [["Date Range", "08/18/2025 - 08/24/2025"]]


@dataclass(frozen=True)
class Tenant:
    """The rows of the made-up company for the layouts."""

    store: Store
    books: Books

    def jobs(self, unit: str, date_of: Callable[[Job], str | None], days: tuple[date, date] = DAYS) -> list[Job]:
        ids = units(self.store, unit)
        return [
            job
            for job in self.books.jobs.values()
            if job.unit in ids and (day := self.books.day(date_of(job))) and days[0] <= day <= days[1]
        ]

    def unit(self, job: Job) -> str:
        return self.books.units[job.unit]

    def sold(self) -> list[Row]:
        """Job, id, day, unit, customer and subtotal of each estimate that was sold in the week."""
        ids = units(self.store, SALES)
        of_job = {estimate.id: job for job in self.books.jobs.values() for estimate in job.estimates}
        return [
            [job.number if (job := of_job.get(one.id)) else None, str(one.id), day, self.books.units[one.unit],
             job.customer_name if job else "A Customer", float(one.subtotal)]
            for one in self.books.estimates
            if one.sold and one.unit in ids and (day := self.books.day(one.sold_on)) and DAYS[0] <= day <= DAYS[1]
        ]  # fmt: skip

    def report(self, number: int, unit: str, days: tuple[str, str] = (FIRST, LAST)) -> list[Row]:
        return report(self.store, number, [unit] if unit else [], *days)[1]


@pytest.fixture(scope="module")
def tenant_rows(tenant: Store) -> Tenant:
    return Tenant(tenant, read_books(tenant, TIME_ZONE))


SOLD = ["Job #", "Lead Type", "Estimate #", "Estimate Sold Date", "Job\u2019s Business Unit", "Customer Name",
        "Estimate Subtotal", "Sales Opportunity", "Closed"]  # fmt: skip


def total_sales_drill_down(tenant: Tenant) -> list[Row]:
    rows = [[row[0], "Marketing Lead", *row[1:], True, True] for row in tenant.sold()]
    return [SOLD, *rows, [None, None, str(len(rows))]]


def opportunities(yes: object, no: object) -> Callable[[Tenant], list[Row]]:
    def build(tenant: Tenant) -> list[Row]:
        jobs = [job for job in tenant.jobs(SALES, find_opportunity_instant) if job.is_opportunity]
        header = ["Job #", "Total Estimates", "Opportunity Date", "Business Unit", "Sales Opportunity", "Closed"]
        rows = [[job.number, 1, "8/20/2025", tenant.unit(job), yes, yes if job.closed else no] for job in jobs]
        return [header, *rows]

    return build


COST = ["", "Scheduled Date", "Job Type", "Customer Name", "Job #", "Jobs Subtotal", "Status"]


def job_cost_by_headings(tenant: Tenant) -> list[Row]:
    """The unit stands in headings only, each group has its totals, and the header comes again."""
    groups: dict[str, list[Row]] = defaultdict(list)
    for row in tenant.report(JOB_COST, PRODUCTION, ("2025-01-01", "2025-08-31")):
        groups[row[1]].append(["", row[0], row[4], row[5], row[6], row[7], row[14]])
    lines, every = [COST], [row for rows in groups.values() for row in rows]
    for unit, rows in groups.items():
        lines += [[f"Business Unit: {unit}"], *rows, ["", len(rows), "", "", "", sum_cents(rows, 5), ""], COST]
    return [*lines, ["", len(every), "", "", "", sum_cents(every, 5), ""]]


def sum_cents(rows: Sequence[Row], at: int) -> str:
    return f"${sum((Decimal(str(row[at])) for row in rows), Decimal(0)):,.2f}"


def job_revenue(tenant: Tenant) -> list[Row]:
    header = ["Job #", "Job Type", "Business Unit", "Jobs Total Revenue", "Jobs Total Costs", "Completion Date"]
    rows = tenant.report(JOB_COST, PRODUCTION, ("2025-01-01", "2025-08-31"))
    return [header, *([row[6], row[4], row[1], row[7], 10, "8/20/2025"] for row in rows)]


def collections_by_invoice(tenant: Tenant) -> list[Row]:
    header = ["Paid On", "Payment Type", "Amount", "Invoice Number", "Customer Name", "Invoice Business Unit",
              "Invoice Balance"]  # fmt: skip
    rows = tenant.report(COLLECTIONS, PRODUCTION, ("2025-01-01", "2025-08-31"))
    assert any(row[5] is None for row in rows)  # what is applied to no invoice is among them
    return [header, *([row[0], row[4], row[6], row[5], None, row[1], 0] for row in rows),
            [None, None, float(sum(Decimal(str(row[6])) for row in rows))]]  # fmt: skip


def payments_without_invoice(tenant: Tenant) -> list[Row]:
    paid: dict[object, Decimal] = defaultdict(Decimal)
    rows = tenant.report(COLLECTIONS, PRODUCTION, ("2025-01-01", "2025-08-31"))
    for row in rows:
        paid[row[3]] += Decimal(str(row[6]))
    header = ["Payment ID", "Paid On", "Customer Name", "Total", "Unapplied Amount"]
    total = [len(paid), None, None, float(sum(paid.values())), None]
    return [header, *([id, "8/20/2025", None, float(amount), 0] for id, amount in paid.items()), total]


def receivables_by_location(tenant: Tenant) -> list[Row]:
    owed: dict[object, Decimal] = defaultdict(Decimal)
    for row in tenant.report(RECEIVABLES, PRODUCTION):
        owed[row[4]] += Decimal(str(row[7]))
    rows = [[location, location, float(amount)] for location, amount in owed.items()]
    return [["Location Name", "Customer Name", "Net Amount"], *rows, [None, None, float(sum(owed.values()))]]


def unit_totals(tenant: Tenant) -> list[Row]:
    header = ["Name", "Sales Opportunity", "Closed Opportunities", "Close Rate", "Completed Jobs", "Total Sales"]
    return [header, *([row[0], row[2], row[3], row[4], row[1], row[5]] for row in tenant.report(WBR, SALES))]


def sales_by_rep(tenant: Tenant) -> list[Row]:
    header = ["Tenant Name", "Assigned Technicians", "Job #", "Business Unit", "Created Date", "Scheduled Date",
              "Completion Date", "Estimates", "Jobs Estimate Sales Subtotal"]  # fmt: skip
    jobs = [job for job in tenant.jobs(SALES, lambda job: job.completed) if job.is_completed_estimate]
    rows = [["acme", "T", job.number, tenant.unit(job), *["8/20/2025"] * 3, 2, 1.5] for job in jobs]
    return [header, *rows, [*[None] * 7, 2 * len(jobs), 1.5 * len(jobs)]]


def job_ids(number: Callable[[Job], object]) -> Callable[[Tenant], list[Row]]:
    def build(tenant: Tenant) -> list[Row]:
        jobs = [job for job in tenant.jobs(SALES, lambda job: job.completed) if job.is_completed_estimate]
        return [["Job ID", "Job #", "Status", "Business Unit", "Completion Date"],
                *([job.id, number(job), job.status, tenant.unit(job), "8/20/2025"] for job in jobs)]  # fmt: skip

    return build


def several_in_a_cell(joint: str) -> Callable[[Tenant], list[Row]]:
    def build(tenant: Tenant) -> list[Row]:
        first, second, third, *rows = tenant.sold()
        subtotal = sum(Decimal(str(row[5])) for row in (first, second, third))
        ids, days = (joint.join(str(row[at]) for row in (first, second, third)) for at in (1, 2))
        return [["Job #", "Estimate #", "Estimate Sold Date", "Business Unit", "Customer Name", "Estimate Subtotal"],
                [first[0], ids, days, *first[3:5], f"{subtotal:.2f}"], *rows]  # fmt: skip

    return build


def booked_leads(tenant: Tenant) -> list[Row]:
    header = ["Customer Name", "Campaign Category", "Job Campaign", "Job #", "Business Unit", "Created Date"]
    jobs = [job for job in tenant.jobs(SALES, lambda job: job.created) if job.is_lead]
    return [header, *([job.customer_name, "Web", "Google", job.number, tenant.unit(job), "8/20/2025"] for job in jobs)]


def job_numbers(tenant: Tenant) -> list[Row]:
    return [["Job #"], *([row[3]] for row in booked_leads(tenant)[1:])]


def appointments(tenant: Tenant) -> list[Row]:
    ids = units(tenant.store, SALES)
    jobs = {
        job.number: tenant.unit(job)
        for job in tenant.books.jobs.values()
        if job.unit in ids and job.is_estimate
        if any(DAYS[0] <= tenant.books.day(start) <= DAYS[1] for start in job.visits)
    }
    header = ["Job #", "Next Appt Start Date", "Business Unit", "Job Type", "Status"]
    return [header, *([number, "8/20/2025", unit, "Estimate", "Scheduled"] for number, unit in jobs.items())]


@dataclass(frozen=True)
class Layout:
    """A report as rows; kpi is what it must be taken for. asked: KPI=, where the columns alone do not say it."""

    kpi: str
    build: Callable[[Tenant], list[Row]]
    unit: str = ""
    days: tuple[date, date] = DAYS
    left_out: int = 0
    asked: str = ""
    note: str = ""


LAYOUTS = {
    "total sales, booleans, a last row of counts": Layout("total_booked", total_sales_drill_down, left_out=1),
    "opportunities, TRUE": Layout("success_rate", opportunities("TRUE", "FALSE")),
    "opportunities, Yes": Layout("success_rate", opportunities("Yes", "No")),
    "opportunities, boolean cells": Layout("success_rate", opportunities(True, False)),
    "opportunities, a Spanish Excel": Layout("success_rate", opportunities("VERDADERO", "FALSO")),
    "opportunities, 1 and 0": Layout("success_rate", opportunities(1, 0)),
    "job cost, the unit in headings": Layout("dollars_produced", job_cost_by_headings, days=MONTHS, left_out=-1),
    "job cost, total revenue": Layout("dollars_produced", job_revenue, days=MONTHS, note="Revenue (as jobs subtotal)"),
    "collections by invoice and day": Layout("dollars_collected", collections_by_invoice, days=MONTHS, left_out=1),
    "payments without invoice": Layout("dollars_collected", payments_without_invoice, PRODUCTION, MONTHS, left_out=1),
    "receivables by location": Layout("outstanding_ar", receivables_by_location, PRODUCTION, left_out=1),
    "totals by unit, estimates": Layout("estimates", unit_totals, note="KPI= chooses success_rate and total_booked"),
    "totals by unit, success rate": Layout("success_rate", unit_totals, asked="success_rate"),
    "totals by unit, total booked": Layout("total_booked", unit_totals, asked="Total Booked"),
    "sales by rep": Layout("estimates", sales_by_rep, left_out=1),
    "a job id left of the number": Layout("estimates", job_ids(lambda job: job.number)),
    "numbers that nobody knows": Layout("estimates", job_ids(lambda job: f"7{job.number}"),
                                        note="None of its Job # is in the warehouse: its rows are found by Job ID."),
    "estimates with commas": Layout("total_booked", several_in_a_cell(", "), note="in one cell of row 2"),
    "estimates with semicolons": Layout("total_booked", several_in_a_cell(";"), note="in one cell of row 2"),
    "estimates on lines": Layout("total_booked", several_in_a_cell("\n"), note="in one cell of row 2"),
    "leads by campaign": Layout("leads", booked_leads),
    "job numbers only": Layout("leads", job_numbers, SALES, asked="leads"),
    "next appointments": Layout("estimates_scheduled", appointments),
}  # fmt: skip


def compare_rows(rows: list[Row], target: DuckDBWarehouse, layout: Layout) -> Result:
    first, last = layout.days
    export = exports.read_table("a.csv", rows)
    return compare(export, target, kpi=layout.asked, business_unit=layout.unit, first_day=first, last_day=last)


@pytest.mark.fault(94)
@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_gives_the_same_number(name, target, tenant_rows):
    layout = LAYOUTS[name]
    rows = layout.build(tenant_rows)
    assert len(rows) > 3
    result = compare_rows(rows, target, layout)
    assert result.comparison.name == layout.kpi
    assert result.matches, render.format_text(result)
    assert result.theirs == result.ours != 0
    assert result.doubts[0].startswith(f"a.csv is compared as {result.comparison.label}")
    assert layout.note in " ".join([*result.doubts, *result.notes])
    told = next(note for note in result.notes if "rows are data" in note)
    assert ("none is left out" in told) == (layout.left_out == 0)
    if layout.left_out >= 0:
        assert told.startswith(f"{len(rows) - 1 - layout.left_out:,} rows are data")


@pytest.mark.fault(95)
def test_only_customers_are_compared_as_customers(target, tenant_rows):
    """Not as jobs: every customer of the week is there, and who is listed is known by the name alone."""
    names = sorted({row[0] for row in booked_leads(tenant_rows)[1:] if row[0]})
    layout = Layout("leads", booked_leads, SALES, asked="leads")
    result = compare_rows([["Customer Name"], *([name] for name in names), ["Unheard Of"]], target, layout)
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert result.comparison.rows == "customers"
    assert set(differing["key"]) <= {"Unheard Of", "without customer_name"}
    assert "Unheard Of" in set(differing["key"])
    assert result.residual == 0
    masked = render.build_rows_table(result, differing=False).to_csv()
    assert not [name for name in names if name in masked]


@pytest.mark.fault(96)
def test_a_cell_with_several_values_differs_by_what_its_sum_differs(target, tenant_rows):
    header, first, *rows = several_in_a_cell(", ")(tenant_rows)
    first[-1] = f"{Decimal(first[-1]) + 100}"
    result = compare_rows([header, first, *rows], target, LAYOUTS["estimates with commas"])
    differing = result.rows[result.rows["side"] != IDENTICAL]
    assert list(differing["key"]) == [first[1].split(", ")[-1]]
    assert result.theirs - result.ours == 100
    assert result.residual == 0


@pytest.mark.fault(97)
@pytest.mark.parametrize("name", ["collections by invoice and day", "total sales, booleans, a last row of counts"])
def test_a_total_or_count_that_does_not_add_up_is_the_first_thing_said(name, target, tenant_rows):
    header, *rows = LAYOUTS[name].build(tenant_rows)
    result = compare_rows([header, *rows[10:]], target, LAYOUTS[name])  # ten rows are cut off, the last one is not
    assert render.format_text(result).startswith("a.csv contradicts itself: its row ")
    assert not result.matches
    assert result.residual == 0


@pytest.mark.fault(98)
@pytest.mark.parametrize(
    ("rows", "kpi", "sentence"),
    [
        ([["Job #", "Job Type", "Business Unit", "Completion Date"], ["1", "Paint", PRODUCTION, "8/20/2025"]], "",
         "has the columns of estimates, which Sales units have, but its units are Production units: name"),
        ([["Job #"], ["1001"], ["1002"]], "", "does not say which number it is"),
        ([["Job #", "Business Unit"], ["1001", SALES]], "", "does not say which number it is"),
        ([["Payment #", "Invoice #", "Paid On", "Business Unit", "Total", "Unapplied Amount"],
          ["1", "2", "8/20/2025", PRODUCTION, 5, 0]], "", "no column for amount, only Payment #, .* Unapplied Amount"),
        ([["Name", "Sales Opportunity", "Closed Opportunities", "Completed Jobs"], ["Al Roe", 5, 2, 7]], "",
         "totals that are not by business unit .its Name is no unit that is known, so it may be by technician"),
        ([["Job #", "Estimates", "Business Unit"], ["1001", 2, SALES]], "total_booked", "no column for job sales"),
        ([["Invoice #", "Amount", "Amount", "Payment #"], ["1", 5, 6, "2"]], "", "two columns Amount with different"),
    ],
)  # fmt: skip
def test_what_would_be_a_guess_is_one_sentence(rows, kpi, sentence, target):
    with pytest.raises(UserError, match=sentence) as refused:
        compare_rows(rows, target, Layout("", booked_leads, asked=kpi))
    assert "\n" not in str(refused.value)


def test_a_report_by_another_date_is_told(target, tenant_rows):
    rows = [["Filter by", "Job Completion Date"], *booked_leads(tenant_rows)]
    notes = compare_rows(rows, target, LAYOUTS["leads by campaign"]).notes
    assert "It is filtered by Job Completion Date, and leads by Job Creation Date: that alone can differ." in notes


@pytest.mark.fault(99)
def test_no_number_rests_on_a_guess_that_is_not_said(target, tenant_rows):
    """Neither the KPI, nor a column with a typing error, nor units and days that nobody stated."""
    header, *rows = payments_without_invoice(tenant_rows)
    header[3], layout = "Totl", LAYOUTS["payments without invoice"]
    result = compare(exports.read_table("a.csv", [header, *rows]), target, first_day=MONTHS[0], last_day=MONTHS[1])
    assert result.doubts == (
        "a.csv is compared as $ collected, because it has Payment ID and Totl; KPI= chooses another.",
        "Its column Totl is taken for total by its likeness.",
        "It names no unit; the rows that we have are of Phoenix-Production. BU= compares others.",
    )
    assert compare_rows([header, *rows], target, layout).doubts == result.doubts[:2]


def test_rows_that_do_not_count_are_counted(target, tenant_rows):
    header, *rows = opportunities("Yes", "No")(tenant_rows)
    rows[2][4] = rows[5][4] = "No"
    notes = compare_rows([header, *rows], target, LAYOUTS["opportunities, Yes"]).notes
    assert "2 of them do not count, because Sales Opportunity is no or zero: rows 4, 7." in notes


# --- every night ------------------------------------------------------------------------------------------------------


def test_the_files_of_the_company_are_compared_once_and_again_when_something_changed(
    healthy, tenant_rows, tmp_path, monkeypatch
):
    home = tmp_path / "company"
    inbox = home / "exports"
    (inbox / "leads").mkdir(parents=True)
    monkeypatch.setenv("COMPANY", str(home))
    assert folder.summarize_folder(folder.compare_folder()) == "There is no file in exports/ of the company folder."

    leads = booked_leads(tenant_rows)
    write_xlsx(inbox / "Leads (1).xlsx", leads, filters=STATED)
    write_csv(inbox / "leads" / "few.csv", [*STATED, ["Job #"], *([row[3]] for row in leads[3:])])
    (inbox / "notes.csv").write_text("milk,eggs\n")
    night = folder.compare_folder()
    assert [(one.file, one.outcome, one.result is not None) for one in night] == [
        ("leads/few.csv", "different", True),
        ("notes.csv", "not comparable", False),
        ("Leads (1).xlsx", "equal", True),
    ]
    assert folder.summarize_folder(night) == "3 files: 1 different, 1 not comparable, 1 equal; 2 compared tonight."

    second = folder.compare_folder()
    assert [(one.outcome, one.sentence, one.compared_at) for one in second] == [
        (one.outcome, one.sentence, one.compared_at) for one in night
    ]
    assert [one for one in second if one.result] == []

    with DuckDBWarehouse(healthy, 0) as own:  # a record that came later
        own.execute(f"DELETE FROM st_mart_v2.fact_leads WHERE job_number = '{leads[5][3]}'")
    third = folder.compare_folder()
    assert {one.file: one.outcome for one in third if one.result} == {
        "leads/few.csv": "different",
        "Leads (1).xlsx": "different",
    }
    write_xlsx(inbox / "Leads (1).xlsx", [row for row in leads if row[3] != leads[5][3]], filters=STATED)
    assert {one.file: one.outcome for one in folder.compare_folder() if one.result} == {"Leads (1).xlsx": "equal"}


def test_payments_of_no_invoice_are_told_apart_by_their_unit(healthy, tmp_path):
    """Of one day, they have one key by invoice and day: the night gave all of them to the unit of the first."""
    with DuckDBWarehouse(healthy, 1) as target:
        target.execute(
            "UPDATE st_mart_v2.fact_collected SET paid_date = DATE '2025-08-20', event_date = DATE '2025-08-20'"
            " WHERE applied_to_number = ''"
        )
        found = target.query(
            "SELECT unit_name, business_unit, amount FROM st_mart_v2.fact_collected WHERE applied_to_number = ''"
        )
        expected = dict(found.groupby("unit_name")["amount"].sum())
        assert len(expected) > 1
        header = ["Paid On", "Amount", "Invoice Number", "Customer Name", "Invoice Business Unit"]
        lines = [["8/20/2025", float(row.amount), None, "Ann", row.unit_name] for row in found.itertuples()]
        result = compare(
            exports.read_file(write_csv(tmp_path / "collections.csv", [header, *lines])),
            target,
            business_unit=",".join(sorted(set(found["business_unit"]))),
            first_day=date(2025, 8, 20),
            last_day=date(2025, 8, 20),
        )
    rows = result.rows[result.rows["key"].str.startswith("of ")].set_index("key")
    assert {key.split(" to ")[0]: amount for key, amount in rows["amount_in_export"].items()} == {
        f"of {unit}": amount for unit, amount in expected.items()
    }
    assert set(rows["side"]) == {IDENTICAL}
