"""Every option of the catalog, one at a time, against a recount in plain Python from the made-up company's records.

A wrong option would be a wrong figure in silence: the search for definitions, every other way to count and adopted
definitions all read the same catalog. The recount (recount.py) does not.
"""

import json
import shutil
from dataclasses import asdict
from datetime import date, timedelta

import pytest
from recount import OPTIONS, UNITS, Recount
from test_ingest import same
from test_options import put_records

from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi.kpis.catalog import read_catalog
from stkpi.kpis.definition import Definition, name_facts
from stkpi.kpis.sql import fact_sql, numbers_sql
from stkpi.marts import build as marts
from stkpi.marts.increment import Bounds
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse.duckdb import DuckDBWarehouse

CATALOG = read_catalog()
EVERY = [(name, d.name, o.id) for name, kpi in CATALOG.items() for d in kpi.dimensions for o in d.options]
DEPARTURES = [(name, d.name, o.id) for name, kpi in CATALOG.items() for d in kpi.dimensions for o in d.options[1:]]
# What the options of a dimension are tried with, besides alone, where they make no difference alone, or not all of it.
WITH = {
    ("leads", "date"): [{"entity": "estimate"}],
    ("estimates_scheduled", "status"): [{"entity": "job"}],
    ("estimates", "date"): [{"entity": "estimate"}],
    ("total_booked", "entity"): [{"attribution": "own"}],
    ("dollars_produced", "measure"): [{"entity": "invoice"}, {"entity": "item"}],
    ("dollars_produced", "entity"): [{"attribution": "own"}],
    ("dollars_produced", "attribution"): [{"entity": "invoice"}],
    ("dollars_produced", "date"): [{"entity": "invoice"}],
    ("dollars_collected", "zone"): [{"date": "applied"}],
}
# Options that must be alike: where only jobs count, the day on which the record was written is the job's.
ALIKE = {(kpi, "date"): {"created", "own"} for kpi in ("gpm", "warranty_rate", "future_bookings")}

WEEK = timedelta(days=7)
TIMES = [date(2024, 7, 1) + 2 * n * WEEK for n in range(31)]
SUMMER, WINTER = date(2025, 8, 18), date(2025, 1, 6)  # the weeks of what is added below; 2025-08-18 is a Monday
WEEKS = sorted({*TIMES, SUMMER, SUMMER + WEEK, WINTER, WINTER + WEEK})
PERIODS = [
    *((monday, monday + timedelta(6)) for monday in WEEKS),
    *((SUMMER + timedelta(n), SUMMER + timedelta(n)) for n in (2, 6)),
    *((date(2025, month, 1), date(2025, month, 30)) for month in (4, 6)),
]
PLACES = sorted({each for unit in UNITS.values() if unit.region != "Mesa" for each in (unit.rollup, unit.name)})


# --- the company ------------------------------------------------------------------------------------------------------


def list_added(tenant):  # noqa: PLR0915 a list of records
    """What the made-up company never wrote, and some options are about, by resource."""

    def find(resource, **fields):
        return next(r for r in tenant.rows(resource) if all(r[name] == value for name, value in fields.items()))

    ids = iter(range(9_000_000, 9_001_000))
    added = {name: [] for name in ENTITIES}

    def add(resource, like, **changes):
        added[resource].append(like | {"id": next(ids)} | changes)
        return added[resource][-1]

    [sales, production] = (
        next(u.id for u in UNITS.values() if u.name == f"Tucson-{d}") for d in ("Sales", "Production")
    )
    a_type, a_customer = find("job_types", name="Estimate - Interior"), find("customers", active=True)
    a_job, a_visit = find("jobs", warrantyId=None), find("appointments", status="Done", active=True)
    an_estimate, an_invoice = find("estimates", active=True), find("invoices", active=True, adjustmentToId=None)
    a_payment, an_item = find("payments", active=True), find("payroll", grossPayItemType="TimesheetTime")
    a_memo = find("credit_memos", active=True)
    customer = add("customers", a_customer, name="Two Homes")["id"]
    homes = [add("locations", find("locations", active=True), customerId=customer)["id"] for _ in range(2)]

    def add_job(unit, kind, home, *visits, status="Completed", **more):
        """A job of the customer with two homes; it was booked, begun and done with its first visit."""
        job, first = next(ids), next(ids)
        for n, start in enumerate(visits):
            own = {"jobId": job, "start": start, "status": "Done" if status == "Completed" else status}
            add("appointments", a_visit, **own, **{} if n else {"id": first})
        ref = {"businessUnitId": unit, "jobTypeId": kind, "customerId": customer, "locationId": home}
        when = {"createdOn": visits[0], "completedOn": visits[0], "firstAppointmentId": first}
        return add("jobs", a_job, id=job, jobNumber=str(job), jobStatus=status, **ref | when | more)["id"]

    def add_payment(to, dollars, on):
        part = a_payment["appliedTo"][0] | {"appliedTo": to, "appliedAmount": f"{dollars}.00", "appliedOn": on}
        add("payments", a_payment, appliedTo=[part], date=f"{SUMMER}T00:00:00Z", unappliedAmount="0.00")

    def add_invoice(dollars, home, job=None, **more):
        money = dict.fromkeys(("subTotal", "total", "balance"), f"{dollars}.00")
        ref = {"customer": {"id": customer, "name": ""}, "location": {"id": home, "name": ""}}
        unit = {"businessUnit": {"id": production, "name": ""}, "job": job and {"id": job}}
        day = f"{SUMMER}T00:00:00Z"
        return add("invoices", an_invoice, items=[], invoiceDate=day, salesTax="0.00", **money, **ref, **unit, **more)

    # Two homes of one customer, two visits to each, two jobs at one of them; a type for commercial customers.
    commercial = add("job_types", a_type, name="COMM. Estimate", soldThreshold=100.0)["id"]
    other = {"customerId": a_customer["id"], "locationId": find("locations", customerId=a_customer["id"])["id"]}
    add_job(sales, commercial, homes[0], f"{SUMMER}T17:00:00Z", **other)
    for home in (*homes, homes[0]):
        add_job(sales, a_type["id"], home, f"{SUMMER}T18:00:00Z", f"{SUMMER + timedelta(2)}T18:00:00Z")
    # A job that was completed, and is not any more; what it sold is less than its type's threshold.
    again = add_job(sales, commercial, homes[1], f"{SUMMER}T19:00:00Z", status="InProgress")
    sold = {"status": {"value": 1, "name": "Sold"}, "soldOn": f"{SUMMER}T20:00:00Z", "subtotal": 50.0}
    add("estimates", an_estimate, jobId=again, **sold)
    # Jobs of which no status is known, nor of one the type, nor of one the customer.
    unknown = {"customerId": next(ids), "locationId": next(ids)}
    nobody = add_job(sales, a_type["id"], 0, f"{SUMMER}T21:00:00Z", status=None, **unknown)
    add("estimates", an_estimate, jobId=nobody, status={"value": 0, "name": "Open"}, soldOn=None)
    add_invoice(2000, homes[0], add_job(production, 0, homes[0], f"{SUMMER}T22:00:00Z", status=None))
    # Work that begins 90 and 91 days after the week in which it was booked.
    for days in 90, 91:
        start = f"{SUMMER + timedelta(6 + days)}T17:00:00Z"
        booked = {"createdOn": f"{SUMMER}T17:00:00Z", "completedOn": None}
        add_invoice(300, homes[0], add_job(production, 0, homes[0], start, status="Scheduled", **booked))
    # At 6 p.m., 10 p.m. and 11:30 p.m. on a Sunday, and at half past midnight on a Monday.
    monday, in_winter = SUMMER + WEEK, WINTER + WEEK
    for start in f"{monday}T01:00:00Z", f"{monday}T05:00:00Z", f"{monday}T06:30:00Z", f"{in_winter}T07:30:00Z":
        estimated = add_job(sales, a_type["id"], homes[0], start, customerId=next(ids))
        add("estimates", an_estimate, **sold | {"jobId": estimated, "soldOn": start})
        kind = "Warranty Callback" if str(in_winter) in start else "Touchup"
        job = add_job(production, find("job_types", name=kind)["id"], homes[0], start)
        work = add_invoice(1000, homes[0], job)
        add("payroll", an_item, jobId=job, amount=100.0, amountAdjustment=20.0)
        add_payment(work["id"], 10, start)
    # A payment of an adjustment, a credit that settles an invoice, and two homes that owe little each.
    adjustment = add_invoice(-50, homes[0], job, adjustmentToId=work["id"])
    add_payment(adjustment["id"], -50, f"{SUMMER}T17:00:00Z")
    part = {"appliedId": 1, "appliedTo": work["id"], "appliedAmount": 60.0, "appliedOn": str(SUMMER)}
    add("credit_memos", a_memo, appliedTo=[part], balance=0.0, date=str(SUMMER))
    for home in homes:
        add_invoice(6, home)
    return added


@pytest.fixture(scope="module")
def added(tenant):
    return list_added(tenant)


@pytest.fixture(scope="module")
def recount(tenant, added):
    """`recount(kpi, choices)` counts the figures of all places and periods in plain Python, each definition once."""
    company, known = Recount({name: [*tenant.rows(name), *added[name]] for name in ENTITIES}), {}

    def count(kpi, choices):
        key = (kpi, *choices.items())
        if key not in known:
            known[key] = company.count(kpi, choices, PLACES, PERIODS)
        return known[key]

    return count


@pytest.fixture(scope="module")
def ask(built, sandbox, added, tmp_path_factory):
    """`ask(kpi, choices)` asks a warehouse with the added records for the figures of all places and periods."""
    file = tmp_path_factory.mktemp("every_option") / "warehouse.duckdb"
    shutil.copy(built, file)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (sandbox.environment | {"WAREHOUSE": str(file)}).items():
            patch.setenv(name, value)
        for name, records in added.items():
            put_records(file, name, *records)
        marts.build_marts(LAST_DAY.isoformat())
    asked = [(place, *period) for place in PLACES for period in PERIODS]
    made = {}
    with DuckDBWarehouse(file, 0) as target:

        def answer(kpi, choices):
            definition = Definition(CATALOG[kpi], CATALOG[kpi].choose(choices))
            table, rows = name_facts({kpi: definition})[kpi], fact_sql([definition])
            if made.get(table) != rows:  # another window or shift counts the same rows
                create = f"CREATE OR REPLACE TABLE st_mart_v2.{table} AS\n{rows}"
                target.execute(create, time_zone=TIME_ZONE, **asdict(Bounds()))
                made[table] = rows
            numbers = [
                {"id": str(n), "kpi": kpi, "unit": place, "first_day": first, "last_day": last}
                for n, (place, first, last) in enumerate(asked)
            ]
            found = target.query(numbers_sql({kpi: definition}, [kpi]), numbers=json.dumps(numbers, default=str))
            return {asked[int(row.id)]: row.value for row in found.itertuples()}

        yield answer


# --- its figures ------------------------------------------------------------------------------------------------------


def check(ask, recount, kpi, choices):
    """Check that the warehouse and the recount have the same figures; return them."""
    expected, found = recount(kpi, choices), ask(kpi, choices)
    wrong = [
        f"{each}: {found[each]}, not {value}"
        for each, value in expected.items()
        if value != found[each] and not same(value, found[each])
    ]
    assert not wrong, "\n".join([f"{len(wrong)} of {len(expected)} figures are wrong", *map(str, wrong[:5])])
    return expected


def choose(kpi, **choices):
    return {d.name: d.options[0].id for d in CATALOG[kpi].dimensions} | choices


def test_every_option_is_recounted():
    known = {(kpi, name, id) for kpi, dimensions in OPTIONS.items() for name, ids in dimensions.items() for id in ids}
    assert known == set(EVERY)


@pytest.mark.parametrize("kpi", CATALOG)
def test_the_default(ask, recount, kpi):
    assert any(check(ask, recount, kpi, choose(kpi)).values())


@pytest.mark.parametrize(("kpi", "dimension", "option"), DEPARTURES, ids=map("-".join, DEPARTURES))
def test_option(ask, recount, kpi, dimension, option):
    bases = [choose(kpi, **others) for others in [{}, *WITH.get((kpi, dimension), [])]]
    figures = [check(ask, recount, kpi, base | {dimension: option}) for base in bases]
    same_as = {
        other.id
        for other in CATALOG[kpi][dimension]
        if figures == [recount(kpi, base | {dimension: other.id}) for base in bases]
    }
    alike = ALIKE.get((kpi, dimension), set())
    assert same_as == (alike if option in alike else {option}), "the records, or WITH, do not tell these apart"
