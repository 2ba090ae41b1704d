"""The sandbox against the published description, and the habits of the live API that the description does not tell."""

import gzip
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
import requests
import servicepytan
from conftest import signed_in
from jsonschema import Draft7Validator

from sandbox import server
from sandbox.companies import COMPANIES
from sandbox.faults import Order, Request
from sandbox.painting import REPORTS
from sandbox.resources import RESOURCES
from sandbox.store import Store
from sandbox.tenant import populate

SPEC = json.loads((Path(__file__).parent / "data" / "openapi.json").read_text())
TENANT = "/v2/tenant/{tenant}"
PAGING = {"page", "pageSize", "includeTotal", "sort", "orderBy", "orderByDirection"}
NEWER = datetime(2025, 3, 1, tzinfo=UTC)
# What no record could answer: kept by ServiceTitan elsewhere, or only changing what a record shows.
NOT_IN_RECORDS = {
    *("externalDataApplicationGuid", "externalDataKey", "externalDataValues", "phone", "transactionType"),
    *("excludeAccountingChangesFromModifiedDateRange", "customField.Fields", "customField.Operator"),
    *("customFields.Fields", "customFields.Operator", "agentIsExternal"),
    *("purchaseOrderTypes", "billType", "threeWayMatchDiscrepancy"),
}


def json_schema(node):
    """OpenAPI 3.0 as JSON Schema: `nullable` becomes a union with null."""
    if isinstance(node, list):
        return [json_schema(n) for n in node]
    if not isinstance(node, dict):
        return node
    schema = {k: json_schema(v) for k, v in node.items() if k not in ("nullable", "format")}
    return {"anyOf": [schema, {"type": "null"}]} if node.get("nullable") is True else schema


COMPONENTS = {"schemas": {name: json_schema(schema) for name, schema in SPEC["components"]["schemas"].items()}}


def complaints(operation, body):
    content = operation["responses"]["200"]["content"]
    schema = json_schema(next(iter(content.values()))["schema"])
    errors = Draft7Validator({**schema, "components": COMPONENTS}).iter_errors(body)
    return [f"{'/'.join(map(str, e.absolute_path))}: {e.message[:200]}" for e in itertools.islice(errors, 5)]


def record(number, **fields):
    """What every record has; `modified` is the day of February 2025."""
    day = fields.pop("modified", number)
    return {
        "id": number,
        "createdOn": f"2025-01-{number:02}T12:00:00Z",
        "modifiedOn": f"2025-02-{day:02}T12:00:00.1234567Z",
        **fields,
    }


def store_of(**resources):
    store = Store()
    for name, rows in resources.items():
        for row in rows:
            store.add(name, row)
    return store


def url(sandbox, resource, export=False):
    path = RESOURCES[resource].export_path if export else RESOURCES[resource].list_path
    return sandbox.url + path.replace("{tenant}", sandbox.environment["ST_TENANT_ID"])


def ids(reply):
    assert reply.status_code == 200, reply.text
    return [row["id"] for row in reply.json()["data"]]


# --- the published description


@pytest.fixture(params=["sandbox", "hvac"])
def served(request):
    """Each of the companies, served."""
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("path", [p for p, item in SPEC["paths"].items() if "get" in item and "{report" not in p])
def test_every_list_and_export_conforms(served, path):
    address = served.url + path.replace("{tenant}", served.environment["ST_TENANT_ID"])
    address = address.replace("{dynamicSetId}", "business-units")
    session, rows, params = signed_in(served), 0, {"page": 1, "pageSize": 40}
    for _ in range(3):
        body = session.get(address, params=params, timeout=10).json()
        rows += len(body["data"])
        assert complaints(SPEC["paths"][path]["get"], body | {"data": body["data"][:40]}) == []
        if not body["hasMore"]:
            break
        params = {"from": body["continueFrom"]} if "/export/" in path else params | {"page": params["page"] + 1}
    assert rows > 0


@pytest.mark.parametrize(
    ("company", "report"),
    [(name, report) for name, company in COMPANIES.items() for report in company.reports],
    ids=lambda value: getattr(value, "name", value),
)
def test_every_report_conforms(request, company, report):
    served = request.getfixturevalue({"painting": "sandbox"}.get(company, company))
    session = signed_in(served)
    path = f"/reporting{TENANT}/report-category/{{report_category}}/reports"
    address = path.replace("{tenant}", served.environment["ST_TENANT_ID"]).replace("{report_category}", report.category)
    listed = session.get(served.url + address, timeout=10).json()
    assert complaints(SPEC["paths"][path]["get"], listed) == []
    assert report.id in [item["id"] for item in listed["data"]]

    one = f"{served.url}{address}/{report.id}"
    described = session.get(one, timeout=10).json()
    assert complaints(SPEC["paths"][f"{path}/{{reportId}}"]["get"], described) == []

    given = {"From": "2025-08-18", "To": "2025-08-24", "AsOf": "2025-08-24", "DateType": 1}
    wanted = [{"name": p["name"], "value": given[p["name"]]} for p in described["parameters"] if p["isRequired"]]
    params = {"pageSize": 25000, "includeTotal": "true"}
    run = session.post(f"{one}/data", json={"parameters": wanted}, params=params, timeout=20).json()
    assert complaints(SPEC["paths"][f"{path}/{{reportId}}/data"]["post"], run) == []
    assert run["data"]
    assert run["totalCount"] is None
    assert {len(row) for row in run["data"]} == {len(described["fields"])}


def test_every_published_parameter_filters():
    for resource in RESOURCES.values():
        published = {p["name"] for p in SPEC["paths"][resource.list_path]["get"]["parameters"]}
        known = resource.filters.keys() | {resource.active} | NOT_IN_RECORDS | PAGING
        comparers = {name for name in published if name.endswith(".Comparer")}
        assert published - known - comparers - {"tenant"} == set(), resource.path
        assert resource.filters.keys() - published == set(), resource.path
        assert resource.export == (resource.export_path in SPEC["paths"]), resource.path


# --- lists

FILTERED = {
    "jobs": [
        record(1, jobNumber="A-1", jobStatus="Completed", completedOn="2025-01-31T07:00:00Z", businessUnitId=7,
               tagTypeIds=[1, 2], firstAppointmentId=11),
        record(2, jobNumber="A-2", jobStatus="Canceled", completedOn=None, businessUnitId=7, tagTypeIds=[],
               firstAppointmentId=12),
        record(3, jobNumber="A-3", jobStatus="Completed", completedOn="2025-02-01T07:00:00Z", businessUnitId=8,
               tagTypeIds=[2], firstAppointmentId=13),
    ],
    "appointments": [
        record(11, jobId=1, start="2025-03-01T15:00:00Z", status="Done", unused=False, active=True),
        record(12, jobId=2, start="2025-03-02T15:00:00Z", status="Canceled", unused=True, active=True),
        record(13, jobId=3, start="2025-03-03T15:00:00Z", status="Done", unused=False, active=True),
        record(14, jobId=1, start="2025-03-09T15:00:00Z", status="Scheduled", unused=False, active=False),
    ],
    "invoices": [
        record(21, active=True, total="100.00", balance="0.00", syncStatus="Posted", job={"id": 1, "number": "A-1"},
               businessUnit={"id": 7}, invoiceDate="2025-03-01T00:00:00Z"),
        record(22, active=True, total="1234.50", balance="34.50", syncStatus="Exported", job=None,
               businessUnit={"id": 8}, invoiceDate="2025-03-02T00:00:00Z"),
        record(23, active=False, total="9.00", balance="9.00", syncStatus="Pending", job=None, businessUnit=None,
               invoiceDate=None) | {"modifiedOn": None},
    ],
    "payments": [
        record(1, active=True, date="2025-03-01T00:00:00Z", appliedTo=[{"appliedTo": 21}, {"appliedTo": 22}]),
        record(2, active=True, date="2025-03-02T00:00:00Z", appliedTo=None),
    ],
    "credit_memos": [
        record(1, active=True, date="2025-03-01", total=60.0, balance=10.0,
               appliedTo=[{"appliedTo": 21, "appliedOn": "2025-03-05"}, {"appliedTo": 22, "appliedOn": "2025-03-09"}]),
        record(2, active=True, date="2025-03-02", total=40.0, balance=40.0, appliedTo=None),
        record(3, active=False, date="2025-03-03", total=40.5, balance=0.0, appliedTo=[]),
    ],
    "estimates": [
        record(1, active=True, status={"value": 1, "name": "Sold"}, soldOn="2025-03-01T00:00:00Z", subtotal=10.5),
        record(2, active=True, status={"value": 0, "name": "Open"}, soldOn=None, subtotal=99),
    ],
    "payroll": [
        record(1, employeeId=5, date="2025-03-01T00:00:00Z", jobId=1),
        record(2, employeeId=6, date="2025-03-02T00:00:00Z", jobId=0) | {"id": None},
    ],
    "payroll_adjustments": [record(1, active=True, postedOn="2025-03-01T00:00:00Z", employeeId=5)],
    "customers": [record(1, active=True, name="Ada Lark", address={"city": "Mesa", "latitude": 33.4})],
    "purchase_orders": [record(1) | {"number": "P-1"}],
    "vendor_bills": [
        record(1, purchaseOrderId=1, billAmount="99.50", billDate="2025-03-01T09:00:00Z"),
        record(2, purchaseOrderId=None, billAmount="100.00", billDate="2025-03-02T09:00:00Z"),
    ],
    "calls": [
        record(1) | {"id": 0, "leadCall": record(1, active=True, duration="00:01:30", tags=[{"typeName": "Hot"}])},
        record(2) | {"id": 0, "leadCall": record(2, active=False, duration="01:00:00", tags=[])},
    ],
    "campaigns": [record(1, active=True, name="Mailers", campaignPhoneNumbers=["6025550100"])],
}  # fmt: skip


@pytest.fixture(scope="module")
def small():
    """The few records of FILTERED, served."""
    running = server.start(store_of(**FILTERED), calls_per_second=1_000_000)
    yield running
    running.close()


@pytest.mark.parametrize(
    ("resource", "params", "expected"),
    [
        ("jobs", {}, [1, 2, 3]),
        ("jobs", {"ids": "3,1"}, [1, 3]),
        ("jobs", {"ids": ["3", "1"]}, [1, 3]),
        ("jobs", {"number": "a-2"}, [2]),
        ("jobs", {"jobStatus": "Completed", "businessUnitId": 7}, [1]),
        ("jobs", {"completedOnOrAfter": "2025-01-31T07:00:00Z", "completedBefore": "2025-02-01T07:00:00Z"}, [1]),
        ("jobs", {"completedOnOrAfter": "2025-01-31T00:00:00-07:00"}, [1, 3]),
        ("jobs", {"modifiedOnOrAfter": "2025-02-02T12:00:00.1234567Z"}, [2, 3]),
        ("jobs", {"modifiedOnOrAfter": "2025-02-02T12:00:00.1234568Z"}, [3]),
        ("jobs", {"createdBefore": "2025-01-02", "modifiedBefore": "2025-02-28"}, [1]),
        ("jobs", {"tagTypeIds": "2"}, [1, 3]),
        ("jobs", {"firstAppointmentStartsBefore": "2025-03-03"}, [1, 2]),
        ("jobs", {"appointmentStartsOnOrAfter": "2025-03-09"}, [1]),
        ("jobs", {"appointmentStartsOnOrAfter": "2025-03-09", "appointmentStatus": "Done"}, []),
        ("jobs", {"hasUnusedAppointments": "true"}, [2]),
        ("jobs", {"technicianId": 5}, [1]),
        ("jobs", {"sort": "-ModifiedOn"}, [3, 2, 1]),
        ("jobs", {"expand": "everything"}, [1, 2, 3]),
        ("appointments", {}, [11, 12, 13]),
        ("appointments", {"active": "Any"}, [11, 12, 13, 14]),
        ("appointments", {"active": "False"}, [14]),
        ("appointments", {"startsOnOrAfter": "2025-03-02", "status": "Done"}, [13]),
        ("invoices", {}, [21, 22]),
        ("invoices", {"activeState": "All"}, [21, 22, 23]),
        ("invoices", {"activeState": "InactiveOnly"}, [23]),
        ("invoices", {"activeState": "All", "modifiedBefore": "2030-01-01"}, [21, 22]),
        ("invoices", {"statuses": ["Posted", "Exported"]}, [21, 22]),
        ("invoices", {"jobNumber": "A-1"}, [21]),
        ("invoices", {"businessUnitId": 8}, [22]),
        ("invoices", {"invoicedOnOrAfter": "2025-03-01", "invoicedOnBefore": "2025-03-02"}, [21]),
        ("invoices", {"totalGreater": "100"}, [21, 22]),
        ("invoices", {"totalLess": "100"}, [21]),
        ("invoices", {"balanceFilter.Balance": "0", "balanceFilter.Comparer": "Greater"}, [22]),
        ("payments", {"paidOnAfter": "2025-03-02"}, [2]),
        ("payments", {"appliedToInvoiceIds": "22,5"}, [1]),
        ("credit_memos", {}, [1, 2]),
        ("credit_memos", {"active": "Any", "dateOnOrAfter": "2025-03-02"}, [2, 3]),
        ("credit_memos", {"appliedToInvoiceIds": "22"}, [1]),
        ("credit_memos", {"appliedOnOrAfter": "2025-03-09"}, [1]),
        ("credit_memos", {"appliedOnOrAfter": "2025-03-10"}, []),
        ("credit_memos", {"appliedBefore": "2025-03-05"}, []),
        ("credit_memos", {"appliedBefore": "2025-03-06"}, [1]),
        ("credit_memos", {"totalFilter.Amount": "40"}, [2]),
        ("credit_memos", {"totalFilter.Amount": "40", "totalFilter.Comparer": "GreaterThan"}, [1]),
        ("credit_memos", {"totalFilter.Amount": "40", "totalFilter.Comparer": "GreaterThanOrEqual"}, [1, 2]),
        (
            "credit_memos",
            {"totalFilter.Amount": "50", "totalFilter.Comparer": "LessThan", "balanceFilter.Amount": "0",
             "balanceFilter.Comparer": "NotEqual"},
            [2],
        ),
        ("estimates", {"soldAfter": "2025-03-01", "soldBefore": "2025-03-02"}, [1]),
        ("estimates", {"status": "Open"}, [2]),
        ("estimates", {"totalLess": "10.5"}, [1]),
        ("payroll", {"dateOnOrAfter": "2025-03-01", "dateOnOrBefore": "2025-03-02"}, [1]),
        ("payroll", {"employeeId": "6"}, [None]),
        ("payroll_adjustments", {"postedOnOrBefore": "2025-03-01"}, [1]),
        ("customers", {"name": "lark", "city": "mesa", "latitude": "33.4"}, [1]),
        ("customers", {"name": "dove"}, []),
        ("campaigns", {"campaignPhoneNumber": "6025550100"}, [1]),
        ("vendor_bills", {"minCost": "99.6"}, [2]),
        ("vendor_bills", {"dateFrom": "2025-03-01", "dateTo": "2025-03-02"}, [1]),
        ("vendor_bills", {"purchaseOrderNumber": "p-1"}, [1]),
    ],
)  # fmt: skip
def test_filters(small, resource, params, expected):
    assert ids(signed_in(small).get(url(small, resource), params=params, timeout=10)) == expected


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        ({}, [1]),
        ({"active": "Any"}, [1, 2]),
        ({"active": "Any", "ids": "2"}, [2]),
        ({"active": "Any", "minDuration": "91"}, [2]),
        ({"minDuration": "90"}, [1]),
        ({"tag": "hot"}, [1]),
        ({"active": "Any", "sort": "-CreatedOn"}, [2, 1]),
        ({"active": "Any", "createdBefore": "2025-01-02"}, [1]),
    ],
)
def test_calls_are_filtered_by_what_is_in_them(small, params, expected):
    rows = signed_in(small).get(url(small, "calls"), params=params, timeout=10).json()["data"]
    assert [row["leadCall"]["id"] for row in rows] == expected
    assert {row["id"] for row in rows} == {0}  # of the job, where there is one


def test_the_plain_list_of_vendor_bills_is_a_bare_array(small):
    address = url(small, "vendor_bills").removesuffix("/paginated")
    assert [row["id"] for row in signed_in(small).get(address, timeout=10).json()] == [1, 2]


@pytest.mark.parametrize(
    ("resource", "name", "value"),
    [
        ("jobs", "businessUnitId", "seven"),
        ("jobs", "businessUnitId", "99999999999999999999"),
        ("jobs", "createdBefore", "2025-02-30"),
        ("jobs", "createdBefore", "yesterday"),
        ("jobs", "ids", ",".join(map(str, range(51)))),
        ("jobs", "sort", "+customerPo"),
        ("jobs", "page", "0"),
        ("jobs", "pageSize", "-1"),
        ("jobs", "includeTotal", "maybe"),
        ("appointments", "active", "Both"),
        ("invoices", "activeState", "Any"),
        ("credit_memos", "appliedBefore", "yesterday"),
    ],
)
def test_a_malformed_value_is_a_problem_that_names_it(small, resource, name, value):
    reply = signed_in(small).get(url(small, resource), params={name: value}, timeout=10)
    assert reply.status_code == 400
    assert reply.headers["Content-Type"] == "application/problem+json"
    assert set(reply.json()) == {"type", "title", "status", "traceId", "errors", "data"}
    assert list(reply.json()["errors"]) == [name]


def test_pages_tile_the_list(serve):
    api = serve(store_of(jobs=[record(n) for n in range(1, 8)]))
    session = signed_in(api)
    pages = [session.get(url(api, "jobs"), params={"page": n, "pageSize": 3}, timeout=10).json() for n in (1, 2, 3, 4)]
    assert [[row["id"] for row in page["data"]] for page in pages] == [[1, 2, 3], [4, 5, 6], [7], []]
    assert [page["hasMore"] for page in pages] == [True, True, False, False]
    assert {page["totalCount"] for page in pages} == {None}
    counted = session.get(url(api, "jobs"), params={"includeTotal": "true", "businessUnitId": 1}, timeout=10).json()
    assert (counted["totalCount"], counted["page"], counted["pageSize"]) == (0, 1, 50)
    assert session.get(url(api, "jobs"), params={"pageSize": 9999}, timeout=10).json()["pageSize"] == 5000


def test_a_change_is_seen_by_the_next_request(serve):
    store = store_of(jobs=[record(1, jobStatus="Scheduled")])
    api = serve(store)
    session, done = signed_in(api), {"jobStatus": "Completed"}
    assert ids(session.get(url(api, "jobs"), params=done, timeout=10)) == []
    store.replace("jobs", 0, record(1, jobStatus="Completed"), NEWER)
    assert ids(session.get(url(api, "jobs"), params=done, timeout=10)) == [1]


def test_gross_pay_pages_repeat_and_miss_rows_unless_one_page_holds_all(serve):
    api = serve(store_of(payroll=[record(1, sourceEntityId=n) | {"id": n} for n in range(200)]))
    session = signed_in(api)
    bodies = [
        session.get(url(api, "payroll"), params={"page": n, "pageSize": 100, "includeTotal": "true"}, timeout=10).json()
        for n in (1, 2)
    ]
    assert [body["totalCount"] for body in bodies] == [200, 200]
    assert [len(body["data"]) for body in bodies] == [100, 100]
    assert len({row["id"] for body in bodies for row in body["data"]}) < 200
    assert ids(session.get(url(api, "payroll"), params={"pageSize": 200}, timeout=10)) == list(range(200))


# --- export feeds


def walk(session, address, start=""):
    """Rows of the export pages up to the end, and the last token."""
    rows, token = [], start
    while True:
        body = session.get(address, params={"from": token, "includeRecentChanges": "true"}, timeout=10).json()
        rows += body["data"]
        token = body["continueFrom"]
        if not body["hasMore"]:
            return rows, token


def test_the_feed_is_in_order_of_change_and_goes_on_from_its_token(serve):
    store = store_of(customers=[record(1, modified=3, active=True), record(2, modified=1, active=False), record(3)])
    api = serve(store, export_page_size=2)
    session, address = signed_in(api), url(api, "customers", export=True)
    rows, token = walk(session, address)
    assert [row["id"] for row in rows] == [2, 1, 3]
    assert walk(session, address, token) == ([], token)

    store.replace("customers", 1, record(2, active=False, name="moved"), NEWER)
    store.add("customers", record(4, active=True), NEWER)
    rows, after = walk(session, address, token)
    assert [row["id"] for row in rows] == [4, 2]
    assert [row["id"] for row in walk(session, address)[0]] == [1, 3, 4, 2]
    assert walk(session, address, "2025-02-28")[0] == rows
    assert [row["id"] for row in walk(session, address, "2025-02-03T12:00:00.1234567Z")[0]] == [1, 3, 4, 2]

    again = serve(store_of(customers=[record(1, modified=3), record(2, modified=1), record(3)]))
    assert walk(signed_in(again), url(again, "customers", export=True), after) == ([], after)


def test_a_token_survives_a_restart_and_brings_the_changes_of_the_next_night(serve):
    def night_after(token=None):
        store = Store()
        populate(store, seed=2, scale=0.01)
        api = serve(store, seed=2)
        session, address = signed_in(api), url(api, "estimates", export=True)
        if token is None:
            token = walk(session, address)[1]
        assert walk(session, address, token) == ([], token)
        requests.post(f"{api.url}/sandbox/mutate", json={"step": 1}, timeout=20).raise_for_status()
        return token, walk(session, address, token)

    token, first = night_after()
    assert first[0]
    assert night_after(token) == (token, first)


def test_exports_of_jobs_and_gross_pay_say_active(serve):
    store = store_of(jobs=[record(1)], payroll=[record(1), record(2)])
    api = serve(store)
    session = signed_in(api)
    store.remove("payroll", 0)
    rows, _ = walk(session, url(api, "payroll", export=True))
    assert [(row["id"], row["active"]) for row in rows] == [(2, True), (1, False)]
    assert ids(session.get(url(api, "payroll"), timeout=10)) == [2]
    assert walk(session, url(api, "jobs", export=True))[0][0]["active"] is True
    assert "active" not in session.get(url(api, "jobs"), timeout=10).json()["data"][0]


def test_estimates_are_exported_at_both_of_their_paths(small):
    session, address = signed_in(small), url(small, "estimates", export=True)
    other = address.replace("export/estimates", "estimates/export")
    assert session.get(other, timeout=10).json() == session.get(address, timeout=10).json()
    assert session.get(other, timeout=10).json()["data"]


def test_appointments_export_takes_active(small):
    reply = signed_in(small).get(url(small, "appointments", export=True), params={"active": "False"}, timeout=10)
    assert ids(reply) == [14]


@pytest.mark.parametrize("start", ["nonsense", "Y3VzdG9tZXJzQDE"])
def test_a_token_of_another_feed_is_refused(small, start):
    reply = signed_in(small).get(url(small, "jobs", export=True), params={"from": start}, timeout=10)
    assert reply.status_code == 400
    assert list(reply.json()["errors"]) == ["from"]


# --- at the door


def test_wrong_credentials_keys_and_tenants_are_refused(small):
    session, environment = signed_in(small), small.environment
    form = {"grant_type": "client_credentials", "client_id": environment["ST_CLIENT_ID"], "client_secret": "guess"}
    assert requests.post(environment["ST_AUTH_URL"], data=form, timeout=10).json() == {"error": "invalid_client"}
    jobs = url(small, "jobs")
    assert session.get(jobs, headers={"Authorization": "guess"}, timeout=10).status_code == 401
    assert session.get(jobs, headers={"ST-App-Key": "guess"}, timeout=10).status_code == 401
    assert session.get(jobs.replace(environment["ST_TENANT_ID"], "2"), timeout=10).status_code == 403
    assert session.get(jobs + "s", timeout=10).status_code == 404
    bearer = {"Authorization": f"Bearer {session.headers['Authorization']}"}
    assert session.get(jobs, headers=bearer, timeout=10).status_code == 200


def test_a_token_expires(serve):
    api = serve(store_of(jobs=[record(1)]), token_seconds=0)
    reply = signed_in(api).get(url(api, "jobs"), timeout=10)
    assert reply.status_code == 401
    assert reply.json()["status"] == 401


def test_the_call_over_the_limit_is_told_how_long_to_wait(serve):
    api = serve(store_of(jobs=[record(1)]), calls_per_second=2)
    session = signed_in(api)
    replies = [session.get(url(api, "jobs"), timeout=10) for _ in range(3)]
    assert [reply.status_code for reply in replies] == [200, 200, 429]
    assert replies[2].headers["Retry-After"] == "1"
    assert replies[2].json()["title"] == "Rate limit is exceeded. Try again in 1 seconds."


def test_a_reply_is_compressed_when_asked(small):
    session = signed_in(small)
    packed = session.get(url(small, "jobs"), headers={"Accept-Encoding": "gzip"}, stream=True, timeout=10)
    plain = session.get(url(small, "jobs"), headers={"Accept-Encoding": "identity"}, timeout=10)
    assert packed.headers["Content-Encoding"] == "gzip"
    assert "Content-Encoding" not in plain.headers
    assert gzip.decompress(packed.raw.read()) == plain.content


# --- reports


def test_a_report_runs_once_a_minute_and_names_a_missing_parameter(serve, tenant):
    api = serve(tenant, report_seconds=60)
    session, report = signed_in(api), REPORTS[0]
    address = f"{api.url}/reporting/v2/tenant/{api.environment['ST_TENANT_ID']}/report-category/{report.category}"
    data = f"{address}/reports/{report.id}/data"
    missing = session.post(data, json={"parameters": [{"name": "From", "value": "2025-08-18"}]}, timeout=10)
    assert missing.status_code == 400
    assert "To" in missing.json()["errors"]
    wanted = {"parameters": [{"name": "From", "value": "2025-08-18"}, {"name": "To", "value": "2025-08-24"}]}
    assert session.post(data, json=wanted, timeout=10).status_code == 200
    refused = session.post(data, json=wanted, timeout=10)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) in (60, 61)


# --- faults on command


def ordered(api, fault, **more):
    asked = {"path": "customers$", "fault": fault, **more}
    assert requests.post(f"{api.url}/sandbox/faults", json=asked, timeout=10).status_code == 200


@pytest.fixture
def faulty(serve):
    """Five customers, and `page(**params)` and `feed(**params)` that read them without care."""
    store = store_of(customers=[record(n, active=True, name=f"C{n}") for n in range(1, 6)])
    api = serve(store, calls_per_second=1_000_000)
    api.session = session = signed_in(api)
    api.page = lambda **params: session.get(url(api, "customers"), params={"pageSize": 2} | params, timeout=2)
    api.feed = lambda **params: session.get(url(api, "customers", export=True), params=params, timeout=2)
    return api


def test_status_faults_come_after_skip_and_as_often_as_asked(faulty):
    ordered(faulty, "status", status=429, skip=1, times=2, headers={"Retry-After": "3"}, title="Slow down.")
    replies = [faulty.page() for _ in range(4)]
    assert [reply.status_code for reply in replies] == [200, 429, 429, 200]
    assert replies[1].headers["Retry-After"] == "3"
    assert replies[1].json()["title"] == "Slow down."


def test_faults_are_cleared(faulty):
    ordered(faulty, "status", status=403)
    assert faulty.page().status_code == 403
    requests.delete(f"{faulty.url}/sandbox/faults", timeout=10)
    assert faulty.page().status_code == 200


def test_a_fault_that_does_not_exist_is_refused(faulty):
    reply = requests.post(f"{faulty.url}/sandbox/faults", json={"fault": "gremlin"}, timeout=10)
    assert reply.status_code == 400
    assert "gremlin" in reply.json()["title"]


def test_the_connection_is_reset_in_mid_body(faulty):
    ordered(faulty, "reset", times=1)
    with pytest.raises((requests.ConnectionError, requests.exceptions.ChunkedEncodingError)):
        faulty.page()
    assert faulty.page().status_code == 200


def test_a_late_reply(faulty):
    ordered(faulty, "timeout", seconds=2.5, times=1)
    with pytest.raises(requests.ReadTimeout):
        faulty.page()


def test_expire_token(faulty):
    ordered(faulty, "expire_token", times=1)
    assert faulty.page().status_code == 401


def test_the_token_endpoint_fails(faulty):
    ordered(faulty, "status", path="connect/token", times=1)
    with pytest.raises(requests.HTTPError, match="500"):
        signed_in(faulty)


@pytest.mark.parametrize(("fault", "content"), [("html", b"<html>"), ("empty", b"")])
def test_bodies_that_are_no_json(faulty, fault, content):
    ordered(faulty, fault)
    reply = faulty.page()
    assert reply.status_code == 200
    assert reply.content.startswith(content)
    with pytest.raises(requests.exceptions.JSONDecodeError):
        reply.json()


@pytest.mark.parametrize(
    ("fault", "args", "changed"),
    [
        ("no_data", {}, {"data": ...}),
        ("data_null", {}, {"data": None}),
        ("empty_page", {}, {"data": [], "hasMore": True}),
        ("has_more_missing", {}, {"hasMore": ...}),
        ("has_more_string", {}, {"hasMore": "true"}),
        ("bad_total", {"value": "17"}, {"totalCount": "17"}),
    ],
)
def test_envelope_faults(faulty, fault, args, changed):
    good = faulty.page().json()
    ordered(faulty, fault, **args)
    expected = {k: v for k, v in (good | changed).items() if v is not ...}
    assert faulty.page().json() == expected


def test_feed_tokens_that_do_not_advance(faulty):
    ordered(faulty, "repeat_token", times=1)
    first = faulty.feed().json()["continueFrom"]
    assert first == ""
    ordered(faulty, "null_token", times=1)
    assert faulty.feed().json()["continueFrom"] is None


def test_a_total_becomes_a_text_where_there_is_one(faulty):
    ordered(faulty, "quote_total")
    assert faulty.page(includeTotal="true").json()["totalCount"] == "5"
    assert faulty.page().json()["totalCount"] is None
    assert "totalCount" not in faulty.feed().json()


ARGUMENTS = {
    **{"timeout": {"seconds": 0}, "drip": {"seconds": 0}, "cap_page_size": {"size": 3}, "ignore": {"names": ["page"]}},
    **{"bad_total": {"value": "many"}, "mangle": {"field": "name", "value": 7}, "add_row": {"raw": "null"}},
    "move_rows": {"rows": 2, "at": "2025-06-01T00:00:00Z"},
}


@pytest.mark.parametrize("export", [False, True], ids=["list", "feed"])
def test_any_two_faults_at_once_are_answered(faulty, export):
    """A fault that finds no field of its own must not end the request: the client would see a reset and try again."""
    path = url(faulty, "customers", export).removeprefix(faulty.url)
    headers = {name.lower(): value for name, value in faulty.session.headers.items()}
    (token,) = faulty.tokens
    for pair in itertools.product(faulty.effects, repeat=2):
        faulty.tokens[token] = time.monotonic() + 60  # which expire_token took away
        faulty.faults[:] = [Order(re.compile(path), fault, dict(ARGUMENTS.get(fault, {}))) for fault in pair]
        try:
            reply = faulty.answer(Request("GET", path, {"pageSize": ["2"]}, headers))
        except Exception as error:
            raise AssertionError(f"{' and '.join(pair)} on one page") from error
        expected = {500} if "status" in pair else {401} if "expire_token" in pair else {200}
        assert {reply.status} <= expected | ({200} if "html" in pair or "empty" in pair else set()), pair


def test_a_page_comes_twice(faulty):
    ordered(faulty, "repeat_page", skip=1, times=1)
    pages = [faulty.page(page=n) for n in (1, 2, 3)]
    assert [ids(page) for page in pages] == [[1, 2], [1, 2], [5]]
    assert [page.json()["page"] for page in pages] == [1, 2, 3]


def test_the_server_caps_the_page_size(faulty):
    ordered(faulty, "cap_page_size", size=2)
    body = faulty.page(pageSize=4).json()
    assert (len(body["data"]), body["pageSize"], body["hasMore"]) == (2, 2, True)


def test_rows_move_between_pages(faulty):
    ordered(faulty, "move_rows", rows=1, at="2025-06-01T00:00:00Z", times=1)
    pages = [faulty.page(page=n, modifiedBefore="2025-03-01") for n in (1, 2, 3)]
    assert [ids(page) for page in pages] == [[1, 2], [4, 5], []]
    assert [row["id"] for row in faulty.feed().json()["data"]] == [2, 3, 4, 5, 1]


def test_rows_of_a_feed_come_again_at_its_end(faulty):
    faulty.settings = replace(faulty.settings, export_page_size=3)
    ordered(faulty, "move_rows", rows=2, at="2025-06-01T00:00:00Z", times=1)
    first = faulty.feed()
    rest = faulty.feed(**{"from": first.json()["continueFrom"]})
    assert (ids(first), ids(rest)) == ([1, 2, 3], [4, 5, 1])
    assert rest.json()["data"][-1]["modifiedOn"] == "2025-06-01T00:00:00Z"


def test_a_deleted_row_of_a_feed_stays_deleted_when_rows_move(faulty):
    faulty.store.remove("customers", 0)
    faulty.store.settle()
    ordered(faulty, "move_rows", rows=9, at="2025-06-01T00:00:00Z", times=1)
    assert ids(faulty.feed()) == [2, 3, 4, 5, 1]
    assert ids(faulty.feed()) == [1, 2, 3, 4, 5]
    assert ids(faulty.page(pageSize=9)) == [2, 3, 4, 5]


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        ({"field": "name", "value": "\u2028\x00🦎"}, ["\u2028\x00🦎", "C2"]),
        ({"field": "name", "value": 7, "rows": 2}, [7, 7]),
        ({"field": "name", "drop": True, "ids": [2]}, ["C1", None]),
    ],
)
def test_mangled_fields(faulty, args, expected):
    ordered(faulty, "mangle", **args)
    assert [row.get("name") for row in faulty.page().json()["data"]] == expected


def test_mangled_into_what_is_no_json(faulty):
    ordered(faulty, "mangle", field="balance", raw="NaN")
    assert b'"balance":NaN' in faulty.page().content


def test_a_duplicate_row(faulty):
    ordered(faulty, "duplicate_row", change={"name": "newer"})
    assert [(row["id"], row["name"]) for row in faulty.page().json()["data"]] == [(1, "C1"), (2, "C2"), (1, "newer")]


def test_the_log_tells_what_was_asked_and_no_secret(faulty):
    faulty.page(page=2)
    text = requests.get(f"{faulty.url}/sandbox/log", timeout=10).text
    last = json.loads(text)[-1]
    assert (last["method"], last["path"][-10:], last["status"]) == ("GET", "/customers", 200)
    assert last["params"] == {"pageSize": ["2"], "page": ["2"]}
    assert faulty.environment["ST_CLIENT_SECRET"] not in text


# --- clients that others wrote


def test_servicepytan_reads_lists_and_exports(sandbox, tenant):
    environment = sandbox.environment
    connection = servicepytan.auth.servicepytan_connect(
        app_key=environment["ST_APP_KEY"],
        tenant_id=environment["ST_TENANT_ID"],
        client_id=environment["ST_CLIENT_ID"],
        client_secret=environment["ST_CLIENT_SECRET"],
    )
    connection |= {"api_root": sandbox.url, "auth_root": sandbox.url}
    units = servicepytan.Endpoint("settings", "business-units", connection)
    expected = sorted(row["id"] for row in tenant.rows("business_units"))
    assert sorted(row["id"] for row in units.get_all({"active": "Any", "pageSize": 5})) == expected
    assert sorted(row["id"] for row in units.export_all("business-units")) == expected


def test_a_client_that_stops_only_at_an_empty_page_ends(sandbox, tenant):
    """So reads the open-source Singer tap: it asks again with the last token, whatever hasMore says."""
    session, token, found = signed_in(sandbox), "2000-01-01T00:00:00Z", []
    for _ in range(200):
        address = url(sandbox, "technicians", export=True)
        body = session.get(address, params={"from": token, "includeRecentChanges": "true"}, timeout=10).json()
        if not body["data"]:
            break
        found += [row["id"] for row in body["data"]]
        token = body["continueFrom"]
    else:
        pytest.fail("the feed never ended")
    assert sorted(found) == sorted(row["id"] for row in tenant.rows("technicians"))


# --- the command


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SANDBOX_SEED", "lucky", ("whole number", "2147483647")),
        ("SANDBOX_COMPANY", "roofing", ("painting or hvac",)),
    ],
)
def test_a_bad_setting_is_one_sentence(name, value, words):
    environment = os.environ | {name: value}
    ended = subprocess.run(
        [sys.executable, "-m", "sandbox"], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode == 2
    assert all(word in ended.stderr for word in (f"{name}={value}", *words))
    assert ended.stderr.count("\n") == 1


@contextmanager
def command(*arguments: str, company: str = "") -> Iterator[tuple[subprocess.Popen, dict[str, str]]]:
    """Python in a process of its own that serves a small tenant, and what it exports; killed if it does not end."""
    environment = os.environ | {"SANDBOX_PORT": "0", "SANDBOX_SCALE": "0.001", "SANDBOX_COMPANY": company}
    with subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as run:
        try:
            lines = [run.stdout.readline() for _ in range(10)]
            yield run, dict(line.removeprefix("export ").strip().split("=", 1) for line in lines)
        finally:
            run.kill()


def test_the_command_prints_what_to_export_and_ends_when_interrupted():
    with command("-m", "sandbox") as (run, exported):
        assert requests.get(exported["ST_API_URL"] + "/sandbox/log", timeout=10).json() == []
        run.send_signal(signal.SIGINT)
        assert run.wait(10) == 0
    assert exported["AS_OF"] == "2025-09-14"
    assert Path(exported["COMPANY"]).parts == ("runs", "sandbox", "painting", "company")
    assert (exported["TIME_ZONE"], exported["ST_TENANT_ID"]) == ("America/Phoenix", "1000001")


def test_the_command_serves_the_other_company():
    with command("-m", "sandbox", company="hvac") as (_, exported):
        pass
    assert Path(exported["COMPANY"]).parts == ("runs", "sandbox", "hvac", "company")
    assert (exported["TIME_ZONE"], exported["ST_TENANT_ID"]) == ("America/New_York", "4400001")


SIGNALLED_IN_A_THREAD = """
import signal, sys, threading
from sandbox.__main__ import main

def end():
    sys.stdin.read()
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

threading.Thread(target=end, daemon=True).start()
main()
"""


def test_the_command_ends_when_another_thread_than_its_main_one_gets_the_signal():
    with command("-c", SIGNALLED_IN_A_THREAD) as (run, _):
        time.sleep(0.5)  # it waits by now
        run.stdin.close()
        assert run.wait(10) == 0
