"""Options of the catalog that ask for more than the defaults do, against the made-up company's own records."""

from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal

import pytest

from sandbox.painting import PAINTING
from sandbox.tenant import LAST_DAY, TIME_ZONE, open_books
from sandbox.truth import parse_calendar_day
from stkpi import warehouse
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import Definition
from stkpi.kpis.sql import definition_sql

ZERO = Decimal(0)
FIRST = date(2025, 8, 18)
WEEKS = [FIRST + timedelta(weeks=n) for n in range(4)]


def find_monday(day):
    return day and day - timedelta(day.weekday())


def measure(kpi, unit, first, **choices):
    """What the warehouse says of a week by the definition with these choices."""
    chosen = read_catalog()[kpi]
    given = {"business_unit": unit, "first_day": first, "last_day": first + timedelta(6), "time_zone": TIME_ZONE}
    sql = definition_sql(Definition(chosen, chosen.choose(choices)))
    with warehouse.connect() as target:
        value = target.query(sql, **{name: each for name, each in given.items() if f"@{name}" in sql})["value"][0]
    return Decimal(str(value))


def list_items(store):
    """Each item of an active invoice that has a job, with the job as the truth knows it."""
    books = open_books(store)
    for invoice in store.rows("invoices"):
        job = books.jobs.get((invoice["job"] or {}).get("id"))
        if job and invoice["active"]:
            for item in invoice["items"] or ():
                yield books, job, item


@pytest.fixture(scope="module")
def units():
    """The rolled-up name and the division of each unit by its id."""
    return {unit.id: (unit.rollup, unit.division) for unit in PAINTING.units}


def compare(kpi, expected, unit_names, **choices):
    """Compare the four weeks of the units; return in how many of them the default says something else."""
    departed = 0
    for unit in unit_names:
        for week in WEEKS:
            assert measure(kpi, unit, week, **choices) == expected[unit, week], (unit, week)
            departed += measure(kpi, unit, week) != expected[unit, week]
    return departed


def test_dollars_produced_by_the_unit_of_the_invoice_item(healthy, tenant, units):
    expected = defaultdict(Decimal)
    for books, job, item in list_items(tenant):
        rollup, division = units[item["businessUnit"]["id"]]
        if job.is_production and division == "Production":
            expected[rollup, find_monday(books.day(job.start))] += Decimal(item["total"])
    assert compare("dollars_produced", expected, ["Phoenix-Production"], entity="item", attribution="own") > 0


def test_total_booked_by_the_unit_of_the_invoice_item(healthy, tenant, units):
    expected = defaultdict(Decimal)
    for books, job, item in list_items(tenant):
        rollup, division = units[item["businessUnit"]["id"]]
        sold = [estimate.sold_on for estimate in job.estimates if estimate.sold and estimate.sold_on]
        if sold and division == "Sales":
            expected[rollup, find_monday(books.day(min(sold)))] += Decimal(item["total"])
    assert sum(expected.values()) > 0
    assert compare("total_booked", expected, ["Phoenix-Sales"], entity="item", attribution="own") > 0


def test_dollars_produced_of_income_accounts_only(healthy, tenant, units):
    expected = defaultdict(Decimal)
    for job in open_books(tenant).jobs.values():
        if job.is_production:
            expected[units[job.unit][0], find_monday(open_books(tenant).day(job.start))] += job.subtotal
    for books, job, item in list_items(tenant):
        account = item["generalLedgerAccount"]
        if job.is_production and account and account["type"] != "Income":
            expected[units[job.unit][0], find_monday(books.day(job.start))] -= Decimal(item["total"])
    assert compare("dollars_produced", expected, ["Phoenix-Production"], measure="income") > 0


def test_what_is_paid_and_not_applied_lowers_what_is_owed(healthy, tenant, units):
    last, unit = WEEKS[-1] + timedelta(6), "Phoenix-Production"
    assert last == LAST_DAY
    unapplied = sum(
        (
            Decimal(payment["unappliedAmount"])
            for payment in tenant.rows("payments")
            if payment["active"]
            and units[payment["businessUnit"]["id"]][0] == unit
            and parse_calendar_day(payment["date"]) <= last
        ),
        ZERO,
    )
    owed = measure("outstanding_ar", unit, WEEKS[-1], measure="all")
    assert measure("outstanding_ar", unit, WEEKS[-1], measure="all", entity="unapplied") == owed - unapplied
    assert unapplied > 0
    # By location, it counts against what the customer's first location owes.
    by_location = measure("outstanding_ar", unit, WEEKS[-1], entity="unapplied")
    assert owed - unapplied < by_location <= measure("outstanding_ar", unit, WEEKS[-1])
