"""The second company of the sandbox: another clock, other units, other numbers, imports, and the reports of an owner.

What both companies have in common is in test_sandbox_tenant.py and test_sandbox_server.py.
"""

import re
from collections import Counter, defaultdict
from datetime import date, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from conftest import signed_in
from test_sandbox_server import ids, url, walk
from test_sandbox_tenant import balances, contents, everything

from sandbox.companies import COMPANIES
from sandbox.hvac import HVAC
from sandbox.mutations import mutate_store
from sandbox.organization import to_day_number
from sandbox.records import NO_INSTANT
from sandbox.reports import DATE_TYPES
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from sandbox.truth import compute_daily_kpis, compute_weekly_kpis

NEW_YORK = ZoneInfo("America/New_York")
OBRIEN = "O'Brien Heating & Air"
CHANGE = date(2024, 11, 3)  # a Sunday: its second o'clock comes twice
MONDAY = date(2024, 10, 28)  # of the week that it ends
SETTINGS = ("business_units", "technicians", "employees", "tag_types", "activity_codes")


def local(instant):
    return datetime.fromisoformat(instant[:19] + "+00:00").astimezone(NEW_YORK)


def dated(store, resource, field):
    """The local times of a field, imports left out."""
    return [local(row[field]) for row in store.rows(resource) if row[field] != NO_INSTANT]


@pytest.fixture(scope="module")
def weekly(hvac_tenant):
    """What the truth says of its weeks, each unit Both and the retired one in its successor."""
    return compute_weekly_kpis(hvac_tenant, HVAC.list_rollups(), HVAC.time_zone, LAST_DAY, HVAC.rules)


# --- names and numbers


def test_nothing_is_called_as_in_the_painting_company(hvac, hvac_tenant):
    texts = [text.lower() for rows in everything(hvac_tenant).values() for text in rows]
    assert len(texts) > 5000
    assert not any(word in text for text in texts for word in (b"phoenix", b"paint", b"gallons", b"arizona"))
    names = [row["name"] for resource in (*SETTINGS, "job_types", "campaigns") for row in hvac_tenant.rows(resource)]
    assert not any(word in name for name in names for word in ("Sales", "Production"))
    assert "Phoenix" not in str(hvac.environment)
    painting = COMPANIES["painting"]
    for resource in (*SETTINGS, "job_types"):
        assert all(row["id"] > 70_000_000 for row in hvac_tenant.rows(resource)), resource
    assert painting.first_tenant_id != HVAC.first_tenant_id


def test_its_units_are_no_branches():
    assert [tuple(row.values()) for row in HVAC.list_rollups()] == [
        (OBRIEN, OBRIEN, "", "Both", ""),
        ("Plumbing", "Plumbing", "", "Both", ""),
        ("Service & Repair", "Service & Repair", "", "Both", ""),
        ("Install", "Install", "", "Both", ""),
        ('Indoor Air "Fresh Start"', 'Indoor Air "Fresh Start"', "", "Both", ""),
        ("Drains (old)", "Plumbing", "", "Both", ""),
    ]
    assert [unit.name for unit in HVAC.units if not unit.active] == ["Drains (old)"]


def test_its_rules_name_types_that_it_has():
    names = {kind.name for kind in HVAC.lead_types + HVAC.sold_types + HVAC.service_types}
    assert HVAC.rules.not_production | HVAC.rules.warranty | HVAC.free_types < names


def test_numbers_are_no_ids(hvac_tenant):
    jobs = {job["id"]: job["jobNumber"] for job in hvac_tenant.rows("jobs")}
    invoices = {invoice["id"]: invoice["referenceNumber"] for invoice in hvac_tenant.rows("invoices")}
    assert len(set(jobs.values())) == len(jobs)
    assert len(set(invoices.values())) == len(invoices)
    assert all(re.fullmatch(r"2[45]-\d{5}", number) for number in jobs.values())
    assert all(re.fullmatch(r"2[45]-\d{5}(-2)?", number) for number in invoices.values())
    assert not {str(id) for id in (*jobs, *invoices)} & {*jobs.values(), *invoices.values()}
    assert min(jobs) > 5_000_000_000

    of_job = defaultdict(list)
    for invoice in hvac_tenant.rows("invoices"):
        if invoice["job"]:
            assert invoice["job"]["number"] == jobs[invoice["job"]["id"]]
            of_job[invoice["job"]["number"]].append(invoice["referenceNumber"])
    assert sorted(map(len, of_job.values()))[-1] == 2
    assert all(numbers == [job, f"{job}-2"][: len(numbers)] for job, numbers in of_job.items())

    parts = [part for payment in hvac_tenant.rows("payments") for part in payment["appliedTo"] or []]
    known = [part for part in parts if part["appliedTo"] in invoices]
    assert all(part["appliedToReferenceNumber"] == invoices[part["appliedTo"]] for part in known)
    assert len(known) < len(parts)
    assert all(row["jobNumber"] == jobs.get(row["jobId"]) for row in hvac_tenant.rows("payroll"))
    assert all(row["jobNumber"] == jobs.get(row["jobId"]) for row in hvac_tenant.rows("estimates"))
    assert all(row["appointmentNumber"].startswith(jobs[row["jobId"]]) for row in hvac_tenant.rows("appointments"))


# --- the clock


@pytest.mark.parametrize(
    ("day", "hour", "utc"),
    [
        (date(2024, 11, 2), 7, "2024-11-02T11:00:00"),
        (date(2024, 11, 3), 0, "2024-11-03T04:00:00"),
        (date(2024, 11, 3), 7, "2024-11-03T12:00:00"),
        (date(2024, 11, 3), 24, "2024-11-04T05:00:00"),
        (date(2025, 3, 9), 0, "2025-03-09T05:00:00"),
        (date(2025, 3, 9), 7, "2025-03-09T11:00:00"),
    ],
)
def test_the_clock_changes(day, hour, utc):
    moment = HVAC.clock.make_moment(to_day_number(day), hour)
    assert moment == datetime.fromisoformat(utc + "+00:00").timestamp()
    assert HVAC.clock.to_local_day(moment) == to_day_number(day) + hour // 24
    assert HVAC.clock.to_local_day(moment - 1) == to_day_number(day) - (hour == 0)


def test_work_is_at_the_same_local_hours_before_and_after_the_change(hvac_tenant):
    starts = dated(hvac_tenant, "appointments", "start")
    for day, utc in ((CHANGE, 11), (CHANGE + timedelta(days=42), 12), (date(2025, 3, 9), 12), (date(2025, 4, 20), 11)):
        month = [start for start in starts if day - timedelta(days=42) <= start.date() < day and start.hour > 4]
        assert len(month) > 50
        assert min(start.hour for start in month) == 7
        assert min(start.utctimetuple().tm_hour for start in month if start.hour < 19) == utc
    for resource, field in (("jobs", "createdOn"), ("appointments", "start"), ("payments", "createdOn")):
        hours = Counter(moment.hour for moment in dated(hvac_tenant, resource, field))
        assert sum(hours[hour] for hour in range(7, 19)) > 0.88 * hours.total(), resource


# --- imports


@pytest.mark.parametrize("resource", ["customers", "locations", "jobs", "invoices"])
def test_some_records_are_of_year_1(hvac, hvac_tenant, resource):
    imported = [row for row in hvac_tenant.rows(resource) if row["createdOn"] == NO_INSTANT]
    assert 0 < len(imported) < 0.2 * len(hvac_tenant.present(resource))
    assert {row.get("createdById", 0) for row in imported} == {0}
    everyone = {"activeState": "All", "active": "Any", "pageSize": 5000}
    session, address = signed_in(hvac), url(hvac, resource)
    for before in ("0001-01-02T00:00:00Z", "0002-01-01", "2024-01-01"):
        found = ids(session.get(address, params=everyone | {"createdBefore": before}, timeout=10))
        assert found == [row["id"] for row in imported]
    rest = ids(session.get(address, params=everyone | {"createdOnOrAfter": "0001-01-02"}, timeout=10))
    assert len(rest) == len(hvac_tenant.present(resource)) - len(imported)


def test_some_invoices_name_no_customer_and_items_have_many_decimals(hvac_tenant):
    invoices = list(hvac_tenant.rows("invoices"))
    assert 0 < sum("customer" not in invoice for invoice in invoices) < 0.1 * len(invoices)
    assert any(invoice["items"] is None for invoice in invoices)
    items = [item for invoice in invoices for item in invoice["items"] or []]
    assert {len(item["quantity"].partition(".")[2]) for item in items} == {19}
    assert {len(item["cost"].partition(".")[2]) for item in items} == {2, 10}
    assert all(re.fullmatch(r"-?\d+\.\d\d", item["totalCost"]) for item in items)


# --- the server


def test_sort_is_heeded_only_where_the_description_names_the_fields(hvac):
    session = signed_in(hvac)

    def read(resource, **params):
        return ids(session.get(url(hvac, resource), params={"pageSize": 5} | params, timeout=10))

    for resource in ("invoices", "payments", "estimates", "payroll_adjustments", "tag_types"):
        assert read(resource, sort="-CreatedOn") == read(resource) == read(resource, sort="+Colour"), resource
    assert read("invoices", orderBy="createdOn", orderByDirection="desc") == read("invoices")
    for resource in ("jobs", "appointments", "customers", "locations", "purchase_orders", "returns"):
        newest, oldest = read(resource, sort="-Id"), read(resource, sort="+Id")
        assert newest == sorted(newest, reverse=True) != oldest == sorted(oldest), resource
    for resource in ("estimates", "job_types"):
        assert read(resource, orderBy="Id", orderByDirection="desc")[0] > read(resource)[0], resource


@pytest.mark.parametrize("resource", SETTINGS)
@pytest.mark.parametrize("company", ["sandbox", "hvac"])
def test_settings_have_feeds(request, company, resource):
    served = request.getfixturevalue(company)
    rows, _ = walk(signed_in(served), url(served, resource, export=True))
    assert sorted(row["id"] for row in rows) == sorted(row["id"] for row in served.store.rows(resource))
    assert {row["active"] for row in rows} == {True, False}


def test_calls_bookings_and_memberships_belong_to_jobs_and_customers(hvac_tenant):
    jobs = {job["id"]: job for job in hvac_tenant.rows("jobs")}
    bookings = {row["id"]: row for row in hvac_tenant.rows("bookings")}
    memberships = {row["id"]: row for row in hvac_tenant.rows("memberships")}
    assert {row["id"] for row in bookings.values() if row["jobId"]} == {j["bookingId"] for j in jobs.values()} - {None}
    assert all(jobs[row["jobId"]]["bookingId"] == id for id, row in bookings.items() if row["jobId"])
    assert {row["status"] for row in bookings.values() if not row["jobId"]} == {"Dismissed"}
    assert memberships.keys() == {job["membershipId"] for job in jobs.values()} - {None}
    assert all(
        memberships[job["membershipId"]]["customerId"] == job["customerId"]
        for job in jobs.values()
        if job["membershipId"]
    )
    assert {row["active"] for row in memberships.values()} == {True, False}
    calls = {row["leadCall"]["id"]: row for row in hvac_tenant.rows("calls")}
    assert {id for id, row in calls.items() if row["id"]} == {job["leadCallId"] for job in jobs.values()} - {None}
    assert all(jobs[row["id"]]["leadCallId"] == id for id, row in calls.items() if row["id"])
    assert sum(not row["id"] for row in calls.values()) > 1


# --- its reports


def run(hvac, name, **values):
    """A report's rows of the week of the change as dicts by field name; or the status if it is refused."""
    [report] = [report for report in HVAC.reports if report.name == name]
    address = f"{hvac.url}/reporting/v2/tenant/{hvac.tenant_id}/report-category/{report.category}/reports/{report.id}"
    days = {"From": str(MONDAY), "To": str(CHANGE)} if name[:2] != "AR" else {"AsOf": str(CHANGE)}
    body = {"parameters": [{"name": name, "value": value} for name, value in (days | values).items()]}
    reply = signed_in(hvac).post(f"{address}/data", json=body, params={"pageSize": 25000}, timeout=10)
    if reply.status_code != 200:
        return reply.status_code
    names = [field["name"] for field in reply.json()["fields"]]
    return [dict(zip(names, row, strict=True)) for row in reply.json()["data"]]


def date_type(hvac, label):
    address = f"{hvac.url}/reporting/v2/tenant/{hvac.tenant_id}/dynamic-value-sets/job-date-filter-type"
    values = signed_in(hvac).get(address, timeout=10).json()["data"]
    return {name: value for value, name in values}[label]


def unit_ids(*names):
    return [HVAC.unit_by_name[name].id for name in names]


def total(rows, name):
    return round(Decimal(sum(row[name] for row in rows)), 2)


@pytest.mark.parametrize("name", ["*Leads* - API", "FOREMAN Job Cost", "*Collections*"])
def test_a_report_must_be_told_by_which_date_it_is_filtered(hvac, name):
    assert run(hvac, name) == 400
    assert run(hvac, name, DateType=len(DATE_TYPES)) == 400
    assert run(hvac, name, DateType="Invoice Date") == 400
    numbers = {label: len(run(hvac, name, DateType=date_type(hvac, label))) for label in DATE_TYPES}
    assert len(set(numbers.values())) > 2  # a wrong one is no error: it is another number


@pytest.mark.parametrize("units", [(OBRIEN,), ("Service & Repair",), ("Plumbing", "Drains (old)")])
def test_its_reports_add_up_to_the_truth(hvac, hvac_tenant, weekly, units):
    week, chosen = weekly[units[0], MONDAY], {"BusinessUnitId": unit_ids(*units)}
    leads = run(hvac, "*Leads* - API", DateType=date_type(hvac, "Job Creation Date"), **chosen)
    customers = {job["jobNumber"]: job["customerId"] for job in hvac_tenant.rows("jobs")}
    assert len({customers[row["JobNumber"]] for row in leads}) == week["leads"]

    sold = run(hvac, "BU Sales - API", BusinessUnitIds=unit_ids(*units))
    assert [row["Name"] for row in sold] == sorted(units)
    assert total(sold, "CompletedJobs") == week["estimates"]
    opportunities = total(sold, "SalesOpportunity")
    assert total(sold, "ClosedOpportunities") == (week["success_rate"] or 0) * Fraction(opportunities)
    assert total(sold, "TotalSales") == week["total_booked"]

    costs = run(hvac, "FOREMAN Job Cost", DateType=date_type(hvac, "Job Start Date"), **chosen)
    assert total(costs, "JobsSubtotal") == week["dollars_produced"]
    paid = run(hvac, "*Collections*", DateType=date_type(hvac, "Last Paid On Date"), **chosen)
    assert total(paid, "Amount") == week["dollars_collected"] > 0
    owed = run(hvac, "AR Transactions Summarized By Location", **chosen)
    assert total(owed, "NetAmount") == week["outstanding_ar"] > 0


def test_two_columns_of_a_report_have_one_label(hvac):
    [leads] = [report for report in HVAC.reports if "Leads" in report.name]
    labels = Counter(field["label"] for field in leads.fields)
    assert [label for label, number in labels.items() if number > 1] == ["Campaign"]
    rows = run(hvac, leads.name, DateType=date_type(hvac, "Job Creation Date"), BusinessUnitId=unit_ids(OBRIEN))
    assert {(row["CampaignCategory"], row["Campaign"]) for row in rows} == {(None, "Radio Delmarva")}
    assert {row["JobNumber"]: row["CreatedDate"] for row in rows} == {
        "24-10253": "2024-10-31T09:42:54.4567-04:00",
        "24-10254": "2024-10-31T00:21:03.1234567-04:00",
    }


# --- the truth


def test_a_week_counted_by_hand(hvac_tenant, weekly):
    """Plumbing with its retired unit, from Monday 2024-09-09.

    Jobs 24-10150 and 24-10151 are of an estimate type, for two customers; the first was booked in Drains (old) on
    Tuesday at 21:26, which is Wednesday in UTC. Two estimates were sold: one by mail, one of job 24-10151.
    """
    monday = date(2024, 9, 9)
    assert weekly["Plumbing", monday]["leads"] == 2
    assert weekly["Plumbing", monday]["total_booked"] == Decimal("3071.13") + Decimal("7544.67") == Decimal("10615.80")
    [job] = [job for job in hvac_tenant.rows("jobs") if job["jobNumber"] == "24-10150"]
    assert (job["createdOn"], job["businessUnitId"]) == ("2024-09-11T01:26:35.7Z", *unit_ids("Drains (old)"))
    [mailed] = [row for row in hvac_tenant.rows("estimates") if row["subtotal"] == 3071.13]
    assert (mailed["jobId"], mailed["businessUnitName"]) == (None, "Plumbing")
    daily = compute_daily_kpis(hvac_tenant, HVAC.list_rollups(), HVAC.time_zone, monday + timedelta(6), HVAC.rules)
    days = [daily["Plumbing", monday + timedelta(day)] for day in range(7)]
    assert [day["leads"] for day in days] == [0, 2, 0, 0, 0, 0, 0]
    assert [float(day["total_booked"]) for day in days] == [0, 0, 0, 0, 0, 3071.13, 7544.67]


def test_the_truth_begins_when_the_imports_end_and_knows_the_successor(weekly):
    assert min(monday for _, monday in weekly) == date(2024, 7, 1)
    assert {unit for unit, _ in weekly} == {unit.rollup for unit in HVAC.units}
    for name in weekly[OBRIEN, MONDAY]:  # each unit sells and produces: no KPI is empty anywhere
        assert all(any(weekly[unit, monday][name] for _, monday in weekly) for unit in {unit for unit, _ in weekly})


# --- nights


def test_nights_change_the_company_as_the_other_one():
    store, again = Store("hvac"), Store("hvac")
    for each in (store, again):
        populate(each, seed=2, scale=0.02)
        mutate_store(each, 2, 1)
        mutate_store(each, 2, 2)
    assert everything(store) == everything(again)
    assert all(balance == expected for balance, expected in balances(store))
    numbers = [job["jobNumber"] for job in store.rows("jobs")]
    assert len(set(numbers)) == len(numbers)
    assert sum(number.startswith("25-5") for number in numbers) > 40
    for name, resource in RESOURCES.items():
        kept = [id for id in store.column(name, resource.id_path)[store.present(name)].tolist() if id > 0]
        assert len(np.unique(kept)) == len(kept), name
        assert all((r["modifiedOn"] or r["createdOn"]) < "2025-09-17T04:00:00" for r in contents(store, name))
