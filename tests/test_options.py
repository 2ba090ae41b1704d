"""Options of the catalog that ask for more than the defaults do, against the made-up company's own records."""

import re
from collections import defaultdict
from datetime import date, timedelta
from decimal import Decimal

import pytest

from sandbox.painting import PAINTING
from sandbox.tenant import LAST_DAY, TIME_ZONE, open_books
from sandbox.truth import parse_calendar_day
from stkpi import warehouse
from stkpi.ingest import load
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import Definition, choose_definitions, name_facts
from stkpi.kpis.sql import definition_sql, numbers_sql
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import ENTITIES
from stkpi.validation import run as validation

ZERO = Decimal(0)
FIRST = date(2025, 8, 18)
WEEKS = [FIRST + timedelta(weeks=n) for n in range(4)]


def find_monday(day):
    return day and day - timedelta(day.weekday())


def measure(kpi, unit, first, last=None, **choices):
    """What the warehouse says of a week, or of the days up to `last`, by the definition with these choices."""
    chosen = read_catalog()[kpi]
    given = {
        "business_unit": unit,
        "first_day": first,
        "last_day": last or first + timedelta(6),
        "time_zone": TIME_ZONE,
    }
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


def test_numbers_are_computed_from_the_facts_of_their_own_kpis_alone():
    """BigQuery bills every table that a statement names."""
    definitions = choose_definitions({})
    for name, table in name_facts(definitions).items():
        assert set(re.findall(r"st_mart_v2\.(\w+)", numbers_sql(definitions, [name]))) == {table}


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


PRODUCTION, LAST_WEEK = "Phoenix-Production", WEEKS[-1]
CREDITS = ("applied", "unapplied", "credit_memos", "all_credits")


def measure_owed(entity="applied", day=LAST_DAY, **choices):
    """What is owed at the end of a day, those who owe little included."""
    return measure("outstanding_ar", PRODUCTION, LAST_WEEK, day, **{"measure": "all"} | choices, entity=entity)


def test_what_is_credited_and_not_used_lowers_what_is_owed(healthy, tenant, units):
    books = open_books(tenant)
    unused = sum((credit.amount for credit in books.credits if units[credit.unit][0] == PRODUCTION), ZERO)
    assert unused > 0
    assert not any(credit.settled for credit in books.credits)  # what settles an active invoice is void in this company
    assert measure_owed("all_credits") == measure_owed("unapplied") - unused
    assert measure_owed("credit_memos") == measure_owed()


def test_a_void_credit_memo_counts_only_where_inactive_payments_do(healthy, tenant, units):
    invoices = {invoice["id"]: invoice for invoice in tenant.rows("invoices") if invoice["active"]}
    jobs, void = open_books(tenant).jobs, ZERO
    for memo in tenant.rows("credit_memos"):
        for part in memo["appliedTo"] or ():
            invoice = invoices.get(part["appliedTo"])
            unit = invoice and (jobs[invoice["job"]["id"]].unit if invoice["job"] else invoice["businessUnit"]["id"])
            if invoice and not memo["active"] and units[unit][0] == PRODUCTION:
                void += Decimal(str(part["appliedAmount"]))
    assert void > 0
    assert measure_owed("credit_memos", active="any_payment") == measure_owed(active="any_payment") - void


def put_records(file, entity, *records):
    """Load records of an entity as an ingest does."""
    reading = load.Reading(ENTITIES[entity], "test", "incremental", "test")
    with warehouse.connect() as target:
        load.load_pages(target, file.with_suffix(".landing"), reading, [Page(list(records), has_more=False)])


def test_a_credit_memo_settles_its_invoice_on_its_day_and_the_rest_its_location(healthy, tenant, units):
    """A memo of $100, of Tuesday, that settles $60 of an invoice on Thursday."""
    tuesday, thursday = LAST_WEEK + timedelta(1), LAST_WEEK + timedelta(3)
    days = (tuesday - timedelta(1), tuesday, thursday - timedelta(1), thursday)
    movements = [move for move in open_books(tenant).movements if units[move.invoice.unit][0] == PRODUCTION]
    owed = defaultdict(Decimal)
    for move in movements:
        owed[move.invoice.location] += move.amount
    invoice = next(move.invoice for move in movements if move.day < LAST_WEEK and owed[move.invoice.location] >= 500)
    part = {"appliedId": 1, "appliedTo": invoice.id, "appliedAmount": 60.0, "appliedOn": thursday.isoformat()}
    memo = {
        "id": 77,
        "date": tuesday.isoformat(),
        "total": 100.0,
        "balance": 40.0,
        "appliedTo": [part],
        "customer": None,
        "location": {"id": invoice.location, "name": "where the work was"},
        "businessUnit": {"id": next(unit.id for unit in PAINTING.units if unit.rollup == PRODUCTION), "name": "any"},
        "createdOn": f"{tuesday}T18:00:00Z",
        "modifiedOn": f"{thursday}T18:00:00Z",
        "active": True,
    }
    before = {option: measure_owed(option) for option in CREDITS}
    located = {option: measure_owed(option, measure="least_10") for option in CREDITS}
    daily = [measure_owed("all_credits", day) for day in days]
    put_records(healthy, "credit_memos", memo)
    lowered = {"applied": 0, "unapplied": 0, "credit_memos": 60, "all_credits": 100}
    assert {option: before[option] - measure_owed(option) for option in CREDITS} == lowered
    # By location too: it is the memo's own, which still owes more than $10.
    assert {option: located[option] - measure_owed(option, measure="least_10") for option in CREDITS} == lowered
    assert [was - measure_owed("all_credits", day) for was, day in zip(daily, days, strict=True)] == [0, 40, 40, 100]
    put_records(healthy, "credit_memos", memo | {"active": False})
    assert {option: measure_owed(option) for option in CREDITS} == before


def test_a_credit_memo_that_the_figure_leaves_out_is_named_where_the_balances_are_lower(healthy, tenant, units):
    invoice = next(move.invoice for move in open_books(tenant).movements if units[move.invoice.unit][0] == PRODUCTION)
    part = {"appliedId": 1, "appliedTo": invoice.id, "appliedAmount": 60.0, "appliedOn": LAST_WEEK.isoformat()}
    put_records(
        healthy,
        "credit_memos",
        {"id": 77, "date": LAST_WEEK.isoformat(), "balance": 0, "appliedTo": [part], "active": True},
    )
    with warehouse.connect() as target:
        target.execute("UPDATE st_ref_v2.dim_invoices SET balance = balance - 60 WHERE invoice_id = @id", id=invoice.id)
    [check] = [check for check in validation.run().checks if check.name == "ar_equals_balances"]
    assert (check.color, check.measures[0].item, check.measures[0].value) == ("red", PRODUCTION, 60)
    assert check.found.endswith(", and $60 of credit memos lower the balances")
