"""The oracle on tenants of a handful of records, each number countable by hand.

2025-08-18 is a Monday; Phoenix is seven hours behind UTC, so 2025-08-18T06:59Z is still Sunday there.
"""

import csv
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

import pytest

from sandbox.painting import REPORTS
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, open_books, populate
from sandbox.truth import compute_daily_kpis, compute_weekly_kpis

PHOENIX = "America/Phoenix"
MONDAY, SUNDAY = date(2025, 8, 18), date(2025, 8, 24)
IN_WEEK, BEFORE, AFTER = "2025-08-20T17:00:00Z", "2025-08-18T06:59:59.9999999Z", "2025-08-25T07:00:00Z"
SALES, RETIRED_SALES, PRODUCTION, UNMAPPED, COMM_SALES, RETIRED_PRODUCTION = 1, 2, 3, 4, 5, 6
ESTIMATE, RETIRED_ESTIMATE, PAINT, INSPECTION, TOUCHUP = 10, 11, 12, 13, 14
ROLLUP = [
    {"business_unit": name, "rollup": rollup, "region": "Phoenix", "division": division, "segment": segment}
    for name, rollup, division, segment in [
        ("Phoenix-Sales", "Phoenix-Sales", "Sales", "RES"),
        ("West - Sales", "Phoenix-Sales", "Sales", "RES"),
        ("Phoenix-Production", "Phoenix-Production", "Production", "RES"),
        ("Phoenix-Comm-Sales", "Phoenix-Sales", "Sales", "COMM"),
        ("West - Production", "Phoenix-Production", "Production", "RES"),
        ("Tucson-Sales", "Tucson-Sales", "Sales", "RES"),
    ]
]
with (Path(__file__).parents[1] / "lib/sandbox/company/business_units.csv").open(encoding="utf-8") as file:
    OWNERS_ROLLUP = list(csv.DictReader(file))


class Tenant:
    """A store, short ways to add records to it, and what the oracle and the reports say of it."""

    def __init__(self):
        self.store = Store()

    def add(self, resource, **record):
        self.store.add(resource, record, changed_at=datetime(2025, 8, 24, tzinfo=UTC))

    def job(self, id, unit, type, *, created=IN_WEEK, customer=None, status="Scheduled", **more):
        self.add(
            "jobs",
            id=id,
            jobNumber=str(id),
            businessUnitId=unit,
            jobTypeId=type,
            createdOn=created,
            customerId=customer or id,
            jobStatus=status,
            **{"firstAppointmentId": 0} | more,
        )

    def estimate(self, id, job, *, status="Sold", sold=IN_WEEK, subtotal=100.0, active=True, unit=None):
        self.add(
            "estimates",
            id=id,
            jobId=job,
            status={"value": 1, "name": status},
            soldOn=sold,
            subtotal=subtotal,
            active=active,
            businessUnitId=unit,
        )

    def invoice(self, id, amount, *, job=None, unit=None, day="2025-08-20", location=1, active=True, items=()):
        self.add(
            "invoices",
            id=id,
            referenceNumber=f"INV-{id}",
            subTotal=amount,
            total=amount,
            job=job and {"id": job},
            businessUnit=unit and {"id": unit, "name": "any"},
            invoiceDate=f"{day}T00:00:00Z",
            location={"id": location, "name": f"Home {location}"},
            active=active,
            items=[{"type": type, "totalCost": cost} for type, cost in items],
        )

    def payment(self, id, unit, applied, *, unapplied="0", day="2025-08-20", on=IN_WEEK, active=True):
        """`applied` is {invoice id: amount}."""
        self.add(
            "payments",
            id=id,
            businessUnit={"id": unit, "name": "any"},
            date=f"{day}T00:00:00Z",
            unappliedAmount=unapplied,
            appliedTo=[{"appliedTo": to, "appliedAmount": amount, "appliedOn": on} for to, amount in applied.items()],
            active=active,
        )

    def week(self, unit, as_of=SUNDAY, monday=MONDAY):
        return compute_weekly_kpis(self.store, ROLLUP, PHOENIX, as_of)[unit, monday]

    def report(self, name, units=None, first=MONDAY, last=SUNDAY):
        """Rows of a report of the week as dicts by label."""
        report = next(report for report in REPORTS if report.name == name)
        values = {"From": str(first), "To": str(last), "AsOf": str(last), "BusinessUnitIds": units}
        labels = [field["label"] for field in report.fields]
        return [dict(zip(labels, row, strict=True)) for row in report.rows(open_books(self.store), values)]


@pytest.fixture
def tenant():
    """Six units and five job types."""
    tenant = Tenant()
    names = "Phoenix-Sales", "West - Sales", "Phoenix-Production", "Yuma", "Phoenix-Comm-Sales", "West - Production"
    for id, name in enumerate(names, start=SALES):
        tenant.add("business_units", id=id, name=name, active="West" not in name)
    types = "Interior Estimate", "old ESTIMATE", "Interior Paint", "Safety Inspection", "Touchup"
    for id, name in enumerate(types, start=ESTIMATE):
        tenant.add("job_types", id=id, name=name, active=id != RETIRED_ESTIMATE)
    return tenant


def test_leads_are_distinct_raw_customers_of_estimate_type_jobs(tenant):
    tenant.add("customers", id=1, name="Ann", active=False, mergedToId=2)
    tenant.add("customers", id=2, name="Ann", active=True)
    tenant.add("customers", id=3, name="Contest Winner", active=True)
    tenant.add("customers", id=4, name=None, active=True)
    tenant.job(101, SALES, ESTIMATE, customer=1)
    tenant.job(102, SALES, ESTIMATE, customer=1)  # the same customer again
    tenant.job(103, COMM_SALES, ESTIMATE, customer=2, status="Canceled")  # 1 was merged into 2: two raw ids
    tenant.job(104, SALES, ESTIMATE, customer=3)  # "Contest" contains test
    tenant.job(105, RETIRED_SALES, RETIRED_ESTIMATE, customer=4)  # no name: counted
    tenant.job(106, SALES, ESTIMATE, customer=99)  # unknown customer: counted
    tenant.add("customers", id=5, name="TESTING", active=True)
    tenant.job(107, SALES, PAINT)
    tenant.job(108, SALES, 999)  # unknown type
    tenant.job(112, SALES, ESTIMATE, customer=5)
    tenant.job(109, SALES, ESTIMATE, created=BEFORE)
    tenant.job(110, SALES, ESTIMATE, created=AFTER)
    tenant.job(111, SALES, ESTIMATE, created="2025-08-25T06:59:59Z")  # still Sunday in Phoenix
    assert tenant.week("Phoenix-Sales")["leads"] == 5  # customers 1, 2, 4, 99, 111
    assert tenant.week("Phoenix-Sales", monday=date(2025, 8, 11))["leads"] == 1


def test_leads_of_days_do_not_add_up_to_the_week(tenant):
    tenant.job(101, SALES, ESTIMATE, customer=1, created="2025-08-18T17:00:00Z")
    tenant.job(102, SALES, ESTIMATE, customer=1, created="2025-08-19T17:00:00Z")
    daily = compute_daily_kpis(tenant.store, ROLLUP, PHOENIX, SUNDAY)
    assert [daily["Phoenix-Sales", date(2025, 8, day)]["leads"] for day in range(18, 25)] == [1, 1, 0, 0, 0, 0, 0]
    assert tenant.week("Phoenix-Sales")["leads"] == 1


def test_estimates_are_completed_jobs_by_completion(tenant):
    tenant.job(101, SALES, ESTIMATE, created=BEFORE, status="Completed", completedOn=IN_WEEK)
    tenant.job(102, SALES, ESTIMATE, status="Canceled", completedOn=IN_WEEK)  # canceled jobs keep their completion
    tenant.job(103, SALES, PAINT, status="Completed", completedOn=IN_WEEK)
    tenant.job(104, SALES, ESTIMATE, status="Completed", completedOn=AFTER)
    tenant.job(105, PRODUCTION, ESTIMATE, status="Completed", completedOn=IN_WEEK)
    tenant.job(106, SALES, ESTIMATE, status="Completed", completedOn=None)
    assert tenant.week("Phoenix-Sales")["estimates"] == 1
    assert tenant.week("Phoenix-Production")["estimates"] == 0


def test_success_rate(tenant):
    done = {"status": "Completed", "completedOn": IN_WEEK}
    tenant.job(101, SALES, PAINT, **done)
    tenant.estimate(1, 101, status="Open", sold=AFTER)  # not sold any more: completed, an opportunity of any type
    tenant.job(102, SALES, ESTIMATE, status="Canceled", completedOn=AFTER)
    tenant.estimate(2, 102, sold=AFTER)
    tenant.estimate(3, 102, sold=IN_WEEK)  # closed in the week of its first sale, though canceled
    tenant.job(103, SALES, ESTIMATE, **done)  # no estimate, no invoice: no charge
    tenant.job(104, SALES, ESTIMATE, **done)
    tenant.estimate(4, 104, active=False)  # as if not there: no charge too
    tenant.job(105, SALES, ESTIMATE, **done)
    tenant.invoice(1, "50.00", job=105)  # charged: an opportunity without an estimate
    tenant.job(106, SALES, ESTIMATE, **done)
    tenant.invoice(2, "50.00", job=106)
    tenant.invoice(3, "-50.00", job=106)  # sums to 0: no charge
    tenant.job(107, SALES, ESTIMATE, status="Canceled", completedOn=IN_WEEK)
    tenant.estimate(5, 107, status="Open", sold=IN_WEEK)  # neither completed nor sold
    tenant.job(108, SALES, ESTIMATE, **done)
    tenant.estimate(6, 108, sold=AFTER)  # sold the week after
    tenant.job(109, SALES, ESTIMATE, **done)
    tenant.estimate(7, 109, sold=None)  # sold without a date: dated by completion
    assert tenant.week("Phoenix-Sales")["success_rate"] == Fraction(2, 4)  # 102, 109 of 101, 102, 105, 109
    assert tenant.week("Phoenix-Production")["success_rate"] is None


def test_total_booked_by_local_day_to_the_unit_of_the_job(tenant):
    tenant.job(101, SALES, PAINT)
    tenant.job(102, PRODUCTION, PAINT)
    tenant.estimate(1, 101, subtotal=1000.10, sold="2025-08-19T01:02:00Z", unit=PRODUCTION)  # Monday 18:02
    tenant.estimate(2, 102, subtotal=1.00, unit=SALES)  # the job's unit is Production
    tenant.estimate(3, None, subtotal=20.20, unit=COMM_SALES)
    tenant.estimate(4, 999, subtotal=300.00, unit=RETIRED_SALES)  # unknown job: own unit
    tenant.estimate(5, 101, subtotal=4000.00, status="Open")
    tenant.estimate(6, 101, subtotal=5000.00, active=False)
    tenant.estimate(7, 101, subtotal=6000.00, sold=None)
    assert tenant.week("Phoenix-Sales")["total_booked"] == Decimal("1320.30")
    daily = compute_daily_kpis(tenant.store, ROLLUP, PHOENIX, SUNDAY)
    assert daily["Phoenix-Sales", MONDAY]["total_booked"] == Decimal("1000.10")


def test_production_starts_with_the_first_appointment_even_an_inactive_one(tenant):
    tenant.add("appointments", id=51, jobId=101, start=IN_WEEK, status="Canceled", active=False)
    tenant.add("appointments", id=52, jobId=101, start=AFTER, status="Scheduled", active=True)
    tenant.job(101, PRODUCTION, PAINT, created=BEFORE, completedOn=AFTER, firstAppointmentId=51)
    tenant.job(102, PRODUCTION, PAINT, created=BEFORE, completedOn=IN_WEEK, firstAppointmentId=77)
    tenant.job(103, RETIRED_PRODUCTION, 999, created=IN_WEEK, status="Canceled")  # unknown type, any status
    tenant.job(104, PRODUCTION, INSPECTION)
    tenant.job(105, PRODUCTION, PAINT, firstAppointmentId=52)
    tenant.job(106, SALES, PAINT)
    for job, amount in [(101, "1.00"), (102, "20.00"), (103, "300.00"), (104, "4000"), (105, "50000"), (106, "600000")]:
        tenant.invoice(job, amount, job=job)
    tenant.invoice(1, "-0.50", job=101, day="2026-08-20")  # an adjustment, whenever dated
    tenant.invoice(2, "7000000", job=101, active=False)
    tenant.invoice(3, "80000000", unit=PRODUCTION)  # not a job's
    assert tenant.week("Phoenix-Production")["dollars_produced"] == Decimal("320.50")


@pytest.fixture
def costs(tenant):
    """Two jobs of the week, 1,000 dollars produced: one with all kinds of cost, and a touch-up that cost 40."""
    tenant.job(101, PRODUCTION, PAINT)
    tenant.invoice(1, "1000.00", job=101, items=[("Material", "90.00"), ("Equipment", "10.00"), ("Service", "5.00")])
    tenant.invoice(2, "0", job=101, items=[("Material", "1.00"), ("Material", None)], active=False)
    tenant.job(102, PRODUCTION, TOUCHUP)
    pay = {"grossPayItemType": "TimesheetTime", "employeeId": 7}
    tenant.add("technicians", id=7, name="Bo Painter")
    tenant.add("payroll", jobId=101, amount=150.0, amountAdjustment=99.0, **pay)
    tenant.add("payroll", jobId=101, amount=150.0, **pay)  # an exact double is another row
    tenant.add("payroll", jobId=101, amount=-20.0, **pay | {"grossPayItemType": "CustomBonus"})
    tenant.add("payroll", jobId=102, amount=20.0, **pay)
    tenant.add("payroll", jobId=0, amount=500.0, **pay)
    tenant.add("payroll_adjustments", id=1, amount=-20.0, invoiceId=1, active=True)  # already in the pay items
    tenant.add("purchase_orders", id=1, jobId=101, status="Sent", total=55.0)
    tenant.add("purchase_orders", id=2, jobId=101, status="Canceled", total=1000.0)
    tenant.add("purchase_orders", id=3, jobId=102, status="Received", total=20.0)
    tenant.add("vendor_bills", id=1, jobId=101, purchaseOrderId=None, billAmount="8.00")
    tenant.add("vendor_bills", id=2, jobId=101, purchaseOrderId=1, billAmount="55.00")  # its order is counted
    tenant.add("vendor_bills", id=3, jobId=101, purchaseOrderId=2, billAmount="4.00")  # its order is canceled
    tenant.add("vendor_bills", id=4, jobId=None, purchaseOrderId=None, billAmount="900.00")
    tenant.add("returns", id=1, jobId=101, returnAmount=15.0, active=True)
    tenant.add("returns", id=2, jobId=101, returnAmount=700.0, active=False)
    return tenant


def test_margins_and_warranty(costs):
    week = costs.week("Phoenix-Production")
    assert week["gpm"] == Fraction(1000 - 280 - 20, 1000)
    assert week["gpm_full"] == Fraction(1000 - (280 + 55 + 8 + 4 + 100 - 15) - (20 + 20), 1000)
    assert week["warranty_rate"] == Fraction(40, 1000)
    assert costs.week("Phoenix-Sales")["gpm"] is None


def test_a_job_under_warranty_is_a_warranty_job_whatever_its_type(costs):
    costs.job(103, PRODUCTION, PAINT, warrantyId=9)
    costs.add("purchase_orders", id=4, jobId=103, status="Sent", total=60.0)
    assert costs.week("Phoenix-Production")["warranty_rate"] == Fraction(100, 1000)


@pytest.mark.parametrize(
    ("as_of", "expected"),
    [
        (date(2025, 8, 24), 1 + 20),  # Monday 2025-08-18 up to and with 2026-08-18
        (date(2025, 8, 18), 1 + 20),  # the same on each day of that week
        (date(2025, 8, 25), 20 + 300 + 4000 + 7000000),  # the next Monday up to and with 2026-08-25
    ],
)
def test_future_bookings(tenant, as_of, expected):
    jobs = [
        ("2025-08-18T07:00:00Z", "2025-08-10T00:00:00Z", "Scheduled", "1.00"),
        ("2026-08-19T06:59:59Z", "2025-08-10T00:00:00Z", "Completed", "20.00"),
        ("2026-08-19T07:00:00Z", "2025-08-10T00:00:00Z", "Scheduled", "300.00"),
        ("2026-08-26T06:59:59Z", "2025-08-10T00:00:00Z", "Scheduled", "4000.00"),
        ("2026-08-26T07:00:00Z", "2025-08-10T00:00:00Z", "Scheduled", "90000000.00"),
        (BEFORE, "2025-08-10T00:00:00Z", "Scheduled", "50000.00"),
        ("2025-08-26T17:00:00Z", "2025-08-10T00:00:00Z", "Canceled", "600000.00"),
        ("2025-08-26T17:00:00Z", AFTER, "Scheduled", "7000000.00"),  # known from the 25th on
    ]
    for id, (start, created, status, amount) in enumerate(jobs, start=101):
        tenant.add("appointments", id=id, jobId=id, start=start, status="Scheduled", active=True)
        tenant.job(id, PRODUCTION, PAINT, created=created, status=status, firstAppointmentId=id)
        tenant.invoice(id, amount, job=id)
    monday = as_of - timedelta(days=as_of.weekday())
    assert tenant.week("Phoenix-Production", as_of, monday)["future_bookings"] == expected
    daily = compute_daily_kpis(tenant.store, ROLLUP, PHOENIX, as_of)
    assert daily["Phoenix-Production", as_of]["future_bookings"] == expected  # from the Monday of that day


def test_a_year_after_a_29th_of_february_ends_on_the_28th(tenant):
    for id, day in enumerate(("2016-02-29", "2017-02-28", "2017-03-01"), start=101):
        tenant.add("appointments", id=id, jobId=id, start=f"{day}T17:00:00Z", status="Scheduled", active=True)
        tenant.job(id, PRODUCTION, PAINT, created="2016-01-10T00:00:00Z", firstAppointmentId=id)
        tenant.invoice(id, str(10 ** (id - 101)), job=id)
    monday = date(2016, 2, 29)
    assert tenant.week("Phoenix-Production", monday + timedelta(days=6), monday)["future_bookings"] == 1 + 10


def test_collected_goes_to_the_invoice_or_stays_with_the_payment(tenant):
    tenant.job(101, PRODUCTION, PAINT)
    tenant.job(102, SALES, PAINT)
    tenant.invoice(1, "500", job=101, unit=SALES)  # the job's unit is Production
    tenant.invoice(2, "500", job=102, unit=PRODUCTION)  # the job's unit is Sales
    tenant.invoice(3, "500", unit=SALES, active=False)
    tenant.payment(1, SALES, {1: "1.00", 2: "20.00"}, unapplied="300.00")
    tenant.payment(2, RETIRED_PRODUCTION, {3: "4000.00", 999: "50000.00"}, unapplied="600000.00")
    tenant.payment(3, PRODUCTION, {1: "-0.25"}, day="2025-08-24", on=AFTER)  # a refund on Sunday
    tenant.payment(4, PRODUCTION, {1: "7000000"}, active=False)
    tenant.payment(5, PRODUCTION, {1: "80000000"}, day="2025-08-25")
    assert tenant.week("Phoenix-Production")["dollars_collected"] == Decimal("654000.75")


def test_outstanding_receivables_leave_out_what_a_location_hardly_owes(tenant):
    tenant.job(101, PRODUCTION, PAINT)
    tenant.invoice(1, "100.00", job=101, day="2025-01-05", location=1)
    tenant.invoice(2, "9.00", unit=PRODUCTION, location=2)
    tenant.invoice(3, "1.00", unit=RETIRED_PRODUCTION, location=2)  # the same rolled-up unit: 10 in all, stays
    tenant.invoice(4, "9.99", unit=PRODUCTION, location=3)
    tenant.invoice(5, "50.00", unit=PRODUCTION, location=4, day="2025-08-25")
    tenant.invoice(6, "60.00", unit=PRODUCTION, location=5, active=False)
    tenant.payment(1, PRODUCTION, {1: "30.00", 6: "60.00"}, on="2025-08-25T06:59:59Z")  # Sunday in Phoenix
    tenant.payment(2, PRODUCTION, {1: "40.00"}, on="2025-08-25T07:00:00Z")  # Monday
    tenant.payment(3, PRODUCTION, {2: "5.00"}, active=False)
    tenant.payment(4, PRODUCTION, {}, unapplied="70.00")
    assert tenant.week("Phoenix-Production")["outstanding_ar"] == Decimal("80.00")  # 70 + 10
    later = tenant.week("Phoenix-Production", as_of=date(2025, 8, 25), monday=date(2025, 8, 25))
    assert later["outstanding_ar"] == Decimal("90.00")  # 30 + 10 + 50


def test_estimates_scheduled_are_jobs_on_the_board(tenant):
    tenant.job(101, SALES, ESTIMATE, created=BEFORE)
    tenant.job(102, SALES, ESTIMATE, created=BEFORE)
    tenant.job(103, SALES, PAINT)
    visits = [
        (101, IN_WEEK, "Scheduled", True),
        (101, "2025-08-21T17:00:00Z", "Done", True),
        (102, IN_WEEK, "Canceled", True),
        (102, IN_WEEK, "Scheduled", False),
        (103, IN_WEEK, "Scheduled", True),
        (102, AFTER, "Scheduled", True),
    ]
    for id, (job, start, status, active) in enumerate(visits):
        tenant.add("appointments", id=id, jobId=job, start=start, status=status, active=active)
    assert tenant.week("Phoenix-Sales")["estimates_scheduled"] == 1


@pytest.mark.parametrize(("division", "counts"), [(None, "both"), ("Both", "both"), ("", "both"), ("Sales", "sales")])
def test_a_unit_of_both_divisions_or_without_one_counts_as_sales_and_as_production(tenant, division, counts):
    tenant.job(101, UNMAPPED, ESTIMATE, status="Completed", completedOn=IN_WEEK)
    tenant.estimate(1, 101, subtotal=500.0)
    tenant.invoice(1, "70.00", job=101)
    tenant.payment(1, UNMAPPED, {1: "30.00"})
    row = {"business_unit": "Yuma", "rollup": "Yuma", "region": "", "division": division, "segment": ""}
    rollup = ROLLUP if division is None else [*ROLLUP, row]  # None: the file lacks the unit
    week = compute_weekly_kpis(tenant.store, rollup, PHOENIX, SUNDAY)["Yuma", MONDAY]
    assert (week["leads"], week["estimates"], week["total_booked"]) == (1, 1, 500)
    production = (70, 70, 30, 40) if counts == "both" else (0, 0, 0, 0)
    names = ("dollars_produced", "future_bookings", "dollars_collected", "outstanding_ar")
    assert tuple(week[name] for name in names) == production


def test_every_unit_and_week_has_a_row_and_the_running_week_ends_at_as_of(tenant):
    tenant.job(101, SALES, ESTIMATE, created="2025-08-04T06:00:00Z")  # Sunday 3 August in Phoenix
    tenant.job(102, UNMAPPED, ESTIMATE, status="Completed", completedOn=IN_WEEK)
    tenant.job(103, SALES, ESTIMATE, created="2025-08-20T07:00:00Z")
    table = compute_weekly_kpis(tenant.store, ROLLUP, PHOENIX, as_of=date(2025, 8, 19))
    assert {unit for unit, _ in table} == {"Phoenix-Sales", "Phoenix-Production", "Yuma"}
    assert {week for _, week in table} == {date(2025, 7, 28), *(date(2025, 8, day) for day in (4, 11, 18))}
    assert len(table) == 3 * 4
    assert table["Phoenix-Sales", MONDAY]["leads"] == 0  # created the day after as_of
    assert {value for value in table["Yuma", MONDAY].values() if value} == set()


def test_leads_report_has_a_row_per_estimate_and_times_with_the_offset(tenant):
    tenant.add("customers", id=101, name="Ann", active=True)
    tenant.job(101, SALES, ESTIMATE, created="2025-08-20T01:13:02.9300000Z", jobGeneratedLeadSource={"jobId": 1})
    tenant.estimate(1, 101, subtotal=100.5, sold="2025-08-21T17:00:00Z")
    tenant.estimate(2, 101, status="Open", sold=None)
    tenant.job(102, RETIRED_SALES, ESTIMATE)
    lead, sold, created = "Tech Generated Lead", "2025-08-21T10:00:00-07:00", "2025-08-19T18:13:02.93-07:00"
    assert [list(row.values()) for row in tenant.report("Leads", [SALES])] == [
        ["101", lead, "1", sold, "Phoenix-Sales", "Ann", 100.5, 1, 1, created],
        ["101", lead, "2", None, "Phoenix-Sales", "Ann", 100.0, 1, 1, created],
    ]
    assert [row["Job #"] for row in tenant.report("Leads")] == ["101", "101", "102"]


def test_job_cost_report_splits_the_cost_that_the_margin_takes(costs):
    paint, touchup = costs.report("FOREMAN Job Cost", [PRODUCTION])
    assert (paint["Labor Pay"], paint["Payroll Adjustments"], paint["Returns"]) == (300, -20, 15)
    assert (paint["Materials + Equip. + PO/Bill Costs"], paint["Jobs Total Costs"]) == (167, 432)
    assert (paint["Jobs Gross Margin %"], paint["Primary Technician"]) == (0.568, "Bo Painter")
    assert (touchup["Jobs Total Costs"], touchup["Jobs Gross Margin %"]) == (40, None)


def test_a_report_sees_what_changed(tenant):
    tenant.job(101, SALES, ESTIMATE)
    assert len(tenant.report("Leads")) == 1
    tenant.job(102, SALES, ESTIMATE)
    assert len(tenant.report("Leads")) == 2


def test_a_report_names_the_value_that_it_cannot_read(tenant):
    with pytest.raises(ValueError, match="From must be a date"):
        tenant.report("Leads", first="18 August")


@pytest.fixture(scope="module")
def generated():
    """A generated tenant at a tenth of its size, and what the oracle says of its weeks."""
    tenant = Tenant()
    populate(tenant.store, seed=5, scale=0.1)
    return tenant, compute_weekly_kpis(tenant.store, OWNERS_ROLLUP, PHOENIX, LAST_DAY)


def unit_ids(tenant, rollup):
    """Ids of the units that the owner's file rolls up into a name."""
    names = {row["business_unit"] for row in OWNERS_ROLLUP if row["rollup"] == rollup}
    return [unit["id"] for unit in tenant.store.rows("business_units") if unit["name"] in names]


def test_the_known_case(generated):
    tenant, weekly = generated
    week = weekly["Phoenix-Sales", MONDAY]
    assert (week["leads"], week["estimates"], week["success_rate"]) == (96, 85, Fraction(31, 78))
    customers = {job["jobNumber"]: job["customerId"] for job in tenant.store.rows("jobs")}
    leads = tenant.report("Leads", unit_ids(tenant, "Phoenix-Sales"))
    assert len({customers[lead["Job #"]] for lead in leads}) == 96


WEEKS = pytest.mark.parametrize("monday", [MONDAY, date(2024, 8, 12), date(2025, 9, 8)])


def total(rows, label):
    return round(Decimal(sum(row[label] for row in rows)), 2)


@WEEKS
def test_the_sales_report_adds_up_to_the_oracle(generated, monday):
    tenant, weekly = generated
    week = weekly["Phoenix-Sales", monday]
    ids = unit_ids(tenant, "Phoenix-Sales")
    rows = tenant.report("Daily WBR by business unit", ids, monday, monday + timedelta(days=6))
    assert total(rows, "Completed Jobs") == week["estimates"] > 0
    assert Fraction(total(rows, "Closed")) / Fraction(total(rows, "Sales Opportunity")) == week["success_rate"]
    assert total(rows, "Total Sales") == week["total_booked"] > 0


@WEEKS
def test_the_production_reports_add_up_to_the_oracle(generated, monday):
    tenant, weekly = generated
    week, sunday = weekly["Phoenix-Production", monday], monday + timedelta(days=6)
    ids = unit_ids(tenant, "Phoenix-Production")
    costs = tenant.report("FOREMAN Job Cost", ids, monday, sunday)
    produced, labor = total(costs, "Jobs Subtotal"), total(costs, "Labor Pay") + total(costs, "Payroll Adjustments")
    assert produced == week["dollars_produced"] > 0
    assert 1 - Fraction(labor) / Fraction(produced) == week["gpm"]
    assert 1 - Fraction(total(costs, "Jobs Total Costs")) / Fraction(produced) == week["gpm_full"]
    assert total(tenant.report("Collections", ids, monday, sunday), "Amount") == week["dollars_collected"]
    assert total(tenant.report("AR Report", ids, monday, sunday), "Balance") == week["outstanding_ar"] > 0


def test_the_jobs_ahead_add_up_to_the_oracle(generated):
    """On the newest day: of an earlier one the report also shows jobs created since."""
    tenant, weekly = generated
    monday, ids = LAST_DAY - timedelta(days=6), unit_ids(tenant, "Phoenix-Production")
    ahead = tenant.report("FOREMAN Job Cost", ids, monday, monday.replace(year=monday.year + 1))
    booked = total([row for row in ahead if row["Status"] != "Canceled"], "Jobs Subtotal")
    assert booked == weekly["Phoenix-Production", monday]["future_bookings"] > 0
