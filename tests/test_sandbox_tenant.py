"""The generated tenant: the known case to the unit, determinism, balances, and that every trap is really there."""

import csv
import hashlib
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import numpy as np
import pytest

from sandbox import __main__ as command
from sandbox.mutations import mutate_store
from sandbox.painting import PAINTING
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import populate

UNITS = PAINTING.unit_list
ROLLUPS = list(csv.DictReader((Path(__file__).parents[1] / "lib/sandbox/company/business_units.csv").open()))


def tenant(seed: int, scale: float = 0.05) -> Store:
    store = Store()
    populate(store, seed, scale)
    return store


@pytest.fixture(scope="module")
def store():
    return tenant(seed=1)


def everything(store):
    return {name: store.get_serialized(name, np.flatnonzero(store.present(name))) for name in RESOURCES}


def contents(store, name):
    """The records of a resource; of a call, which comes inside of a job, the call."""
    return (row.get("leadCall", row) for row in store.rows(name))


def local(instant: str | None) -> date | None:
    """The day in Arizona, which is seven hours behind UTC all the year."""
    return (datetime.fromisoformat(instant[:19]) - timedelta(hours=7)).date() if instant else None


def known_case(store):
    """The figures of the known case, counted over the records and the owner's rollup file by hand."""
    phoenix = {row["business_unit"] for row in ROLLUPS if row["rollup"] == "Phoenix-Sales"}
    units = {unit["id"] for unit in store.rows("business_units") if unit["name"] in phoenix}
    types = {kind["id"]: kind["name"].lower() for kind in store.rows("job_types")}
    names = {customer["id"]: customer["name"].lower() for customer in store.rows("customers")}
    jobs = [job for job in store.rows("jobs") if job["businessUnitId"] in units]

    offered, sold, billed = set(), {}, Counter()
    for estimate in store.rows("estimates"):
        if estimate["active"]:
            offered.add(estimate["jobId"])
            if estimate["status"]["name"] == "Sold":
                sold.setdefault(estimate["jobId"], []).append(local(estimate["soldOn"]))
    for invoice in store.rows("invoices"):
        if invoice["active"] and invoice["job"]:
            billed[invoice["job"]["id"]] += Decimal(invoice["subTotal"])

    def is_estimate(job):
        return "estimate" in types[job["jobTypeId"]]

    def created(first, last):
        return [job for job in jobs if first <= local(job["createdOn"]) <= last]

    def leads(first, last):
        booked = [job for job in created(first, last) if is_estimate(job)]
        return [job for job in booked if "test" not in names.get(job["customerId"], "")]

    week = date(2025, 8, 18), date(2025, 8, 24)
    opportunities = [
        (min(sold[job["id"]]), True) if job["id"] in sold else (local(job["completedOn"]), False)
        for job in jobs
        if job["id"] in sold or (job["jobStatus"] == "Completed" and (job["id"] in offered or billed[job["id"]] != 0))
    ]
    closed = [is_closed for day, is_closed in opportunities if week[0] <= day <= week[1]]
    completed = [job for job in jobs if is_estimate(job) and job["jobStatus"] == "Completed"]
    year_before = date(2024, 8, 18), date(2024, 8, 24)
    funnel = leads(*year_before)
    return {
        "leads": len({job["customerId"] for job in leads(*week)}),
        "leads with a sold estimate": len({job["customerId"] for job in leads(*week) if job["id"] in sold}),
        "estimates": sum(week[0] <= local(job["completedOn"]) <= week[1] for job in completed),
        "opportunities": len(closed),
        "closed": sum(closed),
        "2024": len(created(*year_before)),
        "2024 of an estimate type": sum(is_estimate(job) for job in created(*year_before)),
        "2024 without test customers": len(funnel),
        "2024 customers": len({job["customerId"] for job in funnel}),
        "2024 completed": sum(job["jobStatus"] == "Completed" for job in funnel),
    }


KNOWN = {
    "leads": 96,
    "leads with a sold estimate": 31,
    "estimates": 85,
    "opportunities": 78,
    "closed": 31,
    "2024": 134,
    "2024 of an estimate type": 124,
    "2024 without test customers": 124,
    "2024 customers": 124,
    "2024 completed": 111,
}


def test_known_case(store):
    assert known_case(store) == KNOWN


def test_known_case_holds_in_another_tenant_and_after_nights_of_changes():
    other = tenant(seed=5, scale=0.2)
    for step in (1, 2, 3):
        mutate_store(other, 5, step)
    assert known_case(other) == KNOWN


def test_known_case_has_a_sale_that_is_tuesday_in_utc(store):
    sold = [e["soldOn"][:19] for e in store.rows("estimates") if (e["soldOn"] or "").startswith("2025-08-19T01:02:00")]
    assert sold == ["2025-08-19T01:02:00"]


@pytest.mark.soak
def test_full_size():
    """At scale 1: 633 jobs on the known days of 2024, about 630 a week, and a tie that does not fit a page of 5000."""
    store = tenant(seed=2, scale=1)
    created = store.column("jobs", "createdOn") - np.timedelta64(7, "h")
    on = (created >= np.datetime64("2024-08-18")) & (created < np.datetime64("2024-08-25"))
    assert on.sum() == 633
    assert 600 < len(created) / 63 < 660
    _, ties = np.unique(store.column("payroll", "modifiedOn").astype("datetime64[s]"), return_counts=True)
    assert ties.max() > 5000


def test_same_seed_same_bytes_other_seed_others(store):
    assert everything(tenant(seed=1)) == everything(store)
    other = everything(tenant(seed=2))
    assert other["customers"] != everything(store)["customers"]
    assert other["business_units"] == everything(store)["business_units"]


def test_the_first_company_is_the_bytes_it_always_was(tenant):
    """Numbers that people and tests have read stay true. Who changes its records on purpose writes the new digest."""
    digest = hashlib.sha256(b"".join(b"".join(rows) for _, rows in sorted(everything(tenant).items())))
    assert digest.hexdigest()[:16] == "5b6373e4595a5c31"


def test_a_tenant_that_was_generated_before_is_read_and_any_other_generated(tmp_path, monkeypatch):
    monkeypatch.setattr(command, "CACHED_SCALES", (0.001, 1))
    cache = tmp_path / "sandbox.pickle"
    generated = everything(command.load_tenant("painting", 1, 0.002, cache))
    assert list(tmp_path.iterdir()) == [cache]
    monkeypatch.setattr(command, "_generate_tenant", lambda *wanted: wanted)
    assert everything(command.load_tenant("painting", 1, 0.002, cache)) == generated
    assert command.load_tenant("painting", 2, 0.0005, cache) == ("painting", 2, 0.0005)  # not kept: it is there at once
    assert command.load_tenant("hvac", 1, 0.002, tmp_path / "other") == ("hvac", 1, 0.002)
    assert everything(command.load_tenant("painting", 1, 0.002, cache)) == generated
    cache.write_bytes(cache.read_bytes()[:1000])
    assert command.load_tenant("painting", 1, 0.002, cache) == ("painting", 1, 0.002)


@pytest.mark.soak
def test_scale_multiplies_the_volume():
    small, large = (len(tenant(seed=1, scale=scale).present("payroll")) for scale in (0.1, 0.3))
    assert 2.6 < large / small < 3.4


def test_the_rollup_file_knows_all_units_but_one():
    assert {unit.name for unit in UNITS} - {row["business_unit"] for row in ROLLUPS} == {"Color Studio"}
    known = {row["business_unit"]: tuple(row.values())[1:] for row in ROLLUPS}
    for unit in UNITS[:-1]:
        assert known[unit.name] == (unit.rollup, unit.region, unit.division, unit.segment)


def balances(store):
    """Balance and total less applications of each active invoice."""
    applied = Counter()
    for payment in store.rows("payments"):
        for part in payment["appliedTo"] or []:
            if payment["active"]:
                applied[part["appliedTo"]] += Decimal(part["appliedAmount"])
    invoices = [invoice for invoice in store.rows("invoices") if invoice["active"]]
    return [(Decimal(i["balance"]), Decimal(i["total"]) - applied[i["id"]]) for i in invoices]


def test_balances_are_totals_less_active_applications(store):
    assert all(balance == expected for balance, expected in balances(store))


def test_nothing_happens_after_the_last_day(store):
    for resource in RESOURCES:
        for row in contents(store, resource):
            assert row["createdOn"] < "2025-09-15T07:00:00"
            assert (row["modifiedOn"] or "") < "2025-09-15T07:00:00"


def test_only_planted_names_contain_test(store):
    found = {c["name"] for c in store.rows("customers") if "test" in c["name"].lower()}
    assert found - {"Test duplicate"} == {
        "Test",
        "TESTING - do not dispatch",
        "Contest Winner",
        "Latest Homes LLC",
        "Account test",
    }


def near_midnight(instant):
    return instant is not None and instant[11:16] in ("06:58", "06:59", "07:00", "07:01")


# What each trap looks like in a single record.
TRAPS = {
    "job of a retired unit": ("jobs", lambda r: r["businessUnitId"] in RETIRED),
    "job of the unmapped unit": ("jobs", lambda r: r["businessUnitId"] == UNITS[-1].id),
    "canceled job with completedOn": ("jobs", lambda r: r["jobStatus"] == "Canceled" and r["completedOn"]),
    "warranty": ("jobs", lambda r: r["warrantyId"]),
    "job without appointments": ("jobs", lambda r: r["firstAppointmentId"] == 0),
    "job near midnight": ("jobs", lambda r: near_midnight(r["createdOn"])),
    "seven digits": ("jobs", lambda r: r["createdOn"].endswith(".9999999Z")),
    "canceled but active appointment": ("appointments", lambda r: r["status"] == "Canceled" and r["active"]),
    "inactive appointment": ("appointments", lambda r: not r["active"]),
    "more than a year ahead": (
        "appointments",
        lambda r: local(r["start"]) - local(r["createdOn"]) > timedelta(days=366),
    ),
    "inactive sold estimate": ("estimates", lambda r: not r["active"] and r["soldOn"]),
    "estimate without a job": ("estimates", lambda r: r["jobId"] is None and r["soldOn"]),
    "estimate without a unit": ("estimates", lambda r: r["businessUnitId"] is None),
    "dismissed with soldOn": ("estimates", lambda r: r["status"]["name"] == "Dismissed" and r["soldOn"]),
    "change order": ("estimates", lambda r: r["isChangeOrder"]),
    "sale without a bump": ("estimates", lambda r: r["soldOn"] and r["modifiedOn"] < r["soldOn"]),
    "sold near midnight": ("estimates", lambda r: near_midnight(r["soldOn"])),
    "invoice never modified": ("invoices", lambda r: r["modifiedOn"] is None),
    "invoice without a job": ("invoices", lambda r: r["job"] is None),
    "inactive invoice": ("invoices", lambda r: not r["active"]),
    "adjustment": ("invoices", lambda r: r["adjustmentToId"] and float(r["total"]) < 0),
    "items of $0": ("invoices", lambda r: len(r["items"] or []) > 1 and float(r["subTotal"]) == 0),
    "item of another unit": ("invoices", lambda r: r["items"] and r["items"][0]["businessUnit"] != r["businessUnit"]),
    "equipment": ("invoices", lambda r: any(item["type"] == "Equipment" for item in r["items"] or [])),
    "left $9.99": ("invoices", lambda r: r["balance"] == "9.99"),
    "left $10.00": ("invoices", lambda r: r["balance"] == "10.00"),
    "overpaid": ("invoices", lambda r: r["balance"] == "-2.50"),
    "inactive payment": ("payments", lambda r: not r["active"]),
    "refund": ("payments", lambda r: r["refundedPaymentId"] and float(r["total"]) < 0),
    "unapplied": ("payments", lambda r: r["unappliedAmount"] != "0.00"),
    "over two invoices": ("payments", lambda r: len(r["appliedTo"] or []) > 1),
    "applied later": ("payments", lambda r: r["appliedTo"] and r["appliedTo"][0]["appliedOn"] > r["createdOn"]),
    "credit memo not used": ("credit_memos", lambda r: r["active"] and r["balance"] == r["total"]),
    "credit memo used in part": ("credit_memos", lambda r: r["active"] and 0 < r["balance"] < r["total"]),
    "void credit memo": ("credit_memos", lambda r: not r["active"] and r["appliedTo"]),
    "credit memo of no location": ("credit_memos", lambda r: r["location"] is None and r["balance"]),
    "pay without an id": ("payroll", lambda r: r["id"] is None),
    "pay without a job": ("payroll", lambda r: r["jobId"] == 0),
    "pay a month late": ("payroll", lambda r: days_late(r) > 30),
    "adjustment in gross pay": ("payroll", lambda r: r["grossPayItemType"] == "CustomBonus"),
    "canceled order": ("purchase_orders", lambda r: r["status"] == "Canceled"),
    "shipping": ("purchase_orders", lambda r: r["shipping"] > 0 and r["tax"] > 0),
    "order without a job": ("purchase_orders", lambda r: r["jobId"] is None),
    "bill of an order": ("vendor_bills", lambda r: r["purchaseOrderId"] and r["jobId"]),
    "bill without an order": ("vendor_bills", lambda r: r["purchaseOrderId"] is None and r["jobId"]),
    "bill without a job": ("vendor_bills", lambda r: r["jobId"] is None),
    "call of no job": ("calls", lambda r: r["id"] == 0),
    "inactive call": ("calls", lambda r: not r["leadCall"]["active"]),
    "inactive return": ("returns", lambda r: not r["active"]),
    "test customer": ("customers", lambda r: r["name"] == "Test"),
    "test in a name": ("customers", lambda r: r["name"] == "Latest Homes LLC"),
    "merged customer": ("customers", lambda r: r["mergedToId"] and not r["active"]),
    "inactive customer": ("customers", lambda r: not r["mergedToId"] and not r["active"]),
    "inactive type": ("job_types", lambda r: not r["active"] and "Estimate" in r["name"]),
}
RETIRED = {unit.id for unit in UNITS if not unit.active}


def days_late(item):
    return (local(item["createdOn"]) - date.fromisoformat(item["date"][:10])).days


@pytest.mark.parametrize("name", TRAPS)
def test_trap_is_planted(store, name):
    resource, trap = TRAPS[name]
    assert any(trap(record) for record in store.rows(resource))


def test_traps_between_records_are_planted(store):
    jobs = {job["id"]: job for job in store.rows("jobs")}
    visits = {visit["id"]: visit for visit in store.rows("appointments")}
    customers = {customer["id"]: customer for customer in store.rows("customers")}
    invoices = {invoice["id"]: invoice for invoice in store.rows("invoices")}
    parts = [part for payment in store.rows("payments") for part in payment["appliedTo"] or []]
    firsts = [job["firstAppointmentId"] for job in jobs.values()]
    sold = Counter(e["jobId"] for e in store.rows("estimates") if e["soldOn"] and e["jobId"])
    pay = Counter(store.get_serialized("payroll", range(len(store.present("payroll")))))
    merged = [c["mergedToId"] for c in customers.values() if c["mergedToId"]]

    assert any(first and first not in visits for first in firsts)
    assert any(first in visits and not visits[first]["active"] for first in firsts)
    assert any(first in visits and visits[first]["status"] == "Canceled" for first in firsts)
    assert any(job["customerId"] not in customers for job in jobs.values())
    assert Counter(job["customerId"] for job in jobs.values()).most_common(1)[0][1] > 2
    assert any(customers[target]["mergedToId"] for target in merged if target in customers)
    assert any(part["appliedTo"] not in invoices for part in parts)
    assert any(part["appliedTo"] in invoices and not invoices[part["appliedTo"]]["active"] for part in parts)
    credits = [part for memo in store.rows("credit_memos") for part in memo["appliedTo"] or []]
    assert any(part["appliedTo"] not in invoices for part in credits)
    assert any(part["appliedTo"] in invoices and not invoices[part["appliedTo"]]["active"] for part in credits)
    assert max(sold.values()) > 1
    assert max(pay.values()) > 1
    assert any(
        i["job"] and i["businessUnit"]["id"] != jobs[i["job"]["id"]]["businessUnitId"] for i in invoices.values()
    )
    assert any(
        e["jobId"] and e["businessUnitId"] not in (None, jobs[e["jobId"]]["businessUnitId"])
        for e in store.rows("estimates")
    )


def test_mutations_change_the_tenant_in_every_way():
    store, again = tenant(seed=3), tenant(seed=3)
    before = {name: len(store.present(name)) for name in RESOURCES}
    versions = {name: store.version(name) for name in RESOURCES}
    mutate_store(store, 3, 1)
    mutate_store(again, 3, 1)
    assert everything(store) == everything(again)
    assert 300 < sum(store.version(name) - versions[name] for name in RESOURCES) < 600

    added = {name for name in RESOURCES if len(store.present(name)) > before[name]}
    assert added >= {"jobs", "appointments", "invoices", "payments", "estimates", "payroll", "customers"}
    assert not store.present("payroll").all()
    assert all(balance == expected for balance, expected in balances(store))
    now = [e for e in store.rows("estimates") if (e["soldOn"] or "") > "2025-09-15T07:00:00"]
    assert any(e["modifiedOn"] < e["soldOn"] for e in now)
    assert any(c["mergedToId"] and c["modifiedOn"] > "2025-09-15T07:00:00" for c in store.rows("customers"))
    assert any(days_late(r) > 30 and r["createdOn"] > "2025-09-15T07:00:00" for r in store.rows("payroll"))
    assert all(
        (r["modifiedOn"] or r["createdOn"]) < "2025-09-16T07:00:00" for n in RESOURCES for r in contents(store, n)
    )
