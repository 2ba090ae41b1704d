"""`extra` in company.yml: any list or feed of ServiceTitan's API becomes a raw table, by its name and without code."""

import csv
import json
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from typing import Any

import pandas as pd
import pytest
import requests
from endpoint_facts import make_lines
from test_audit import SPEC

from sandbox import server
from sandbox.resources import RESOURCES, Resource
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.ingest.load import define_raw_table
from stkpi.runs import doctor
from stkpi.servicetitan import endpoints
from stkpi.servicetitan.endpoints import find_entity, read_endpoints
from stkpi.servicetitan.entities import ENTITIES

EXTRA = {"telecom/calls": "calls", "crm/bookings": "bookings", "memberships/memberships": "memberships"}
TABLES = {"calls": "telecom_calls", "bookings": "crm_bookings", "memberships": "memberships_memberships"}


# --- the facts


def test_the_facts_are_those_of_the_published_description():
    with endpoints.FILE.open(encoding="utf-8") as file:
        facts = {line["path"]: line for line in csv.DictReader(file)}
    described = [line for line in make_lines(SPEC) if not line["path"].startswith("reporting/")]
    assert len(described) > 40
    for line in described:
        found = facts[line["path"]]
        # The facts are of July 2026, the description beside the tests of March: since then, fields were added.
        assert set(found.pop("fields").split()) >= set(line.pop("fields").split()), line["path"]
        assert found == line


def test_no_published_field_of_the_registry_s_own_lists_is_drift():
    known = {endpoint.path: endpoint for endpoint in read_endpoints().values()}
    for entity in ENTITIES.values():
        listed = known[entity.path.replace("/tenant/{tenant}/", "/")]
        assert entity.find_drift(set(listed.fields.split())) == (), entity.name


def test_every_field_of_the_registry_is_published_in_the_list_and_in_the_feed():
    """A field that no record has is a red (missing_fields): it must come by every way of reading."""
    known = {endpoint.path: endpoint for endpoint in read_endpoints().values()}
    for entity in ENTITIES.values():
        for path in (entity.path, entity.feed_path):
            if published := known.get(path.replace("/tenant/{tenant}/", "/")):
                assert entity.find_missing(set(published.fields.split())) == (), path


def test_every_list_and_feed_has_a_name_and_a_table_of_its_own():
    known = read_endpoints()
    assert Counter(endpoint.is_feed for endpoint in known.values()) == {False: 125, True: 53}
    found = {name: find_entity(name) for name in known}
    own = [entity for entity in found.values() if "/" in entity.name]
    assert len({entity.table for entity in own}) == len(own) > 130
    assert all(define_raw_table(entity).columns for entity in own)
    ways = Counter((entity.is_feed, entity.keyless, entity.incremental) for entity in own)
    assert ways.keys() == {
        (False, False, "feed"),
        (False, False, "modified"),
        (False, False, "whole"),
        (False, True, "whole"),
        (True, False, "feed"),
        (True, False, "whole"),
        (True, True, "whole"),
    }


@pytest.mark.parametrize(
    ("name", "way", "keyless"),
    [
        ("telecom/calls", "modified", False),  # its feed has the call in another shape
        ("crm/bookings", "modified", False),  # its feed adds `active`
        ("memberships/memberships", "feed", False),
        ("jpm/export/job-notes", "feed", False),
        ("jpm/export/job-canceled-logs", "whole", False),  # without a date of modification
        ("jpm/export/job-history", "whole", True),
        ("payroll/payroll-settings", "whole", True),
        ("accounting/payment-terms", "whole", True),  # an id that may be null
        ("accounting/payment-types", "whole", False),  # without a filter by modification
    ],
)
def test_how_each_kind_is_read(name, way, keyless):
    entity = find_entity(name)
    assert (entity.incremental, entity.keyless) == (way, keyless)


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("jpm/jobs", "jobs"),
        ("accounting/inventory-bills", "vendor_bills"),  # the bare array, whose rows the paginated list has too
        ("accounting/inventory-bills/paginated", "vendor_bills"),
        ("accounting/export/invoices", "invoices"),
        ("payroll/gross-pay-items", "payroll"),
        ("Telecom/Calls/", "telecom/calls"),
        ("telecom/v2/calls", "telecom/v2/calls"),
    ],
)
def test_a_list_that_is_read_anyway_is_not_read_twice(name, own):
    assert find_entity(name).name == own


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("telecom/cals", "telecom/calls"),
        ("bookings", "crm/bookings"),
        ("membership/memberships", "memberships/memberships"),
    ],
)
def test_an_unknown_name_is_one_sentence_with_the_nearest_right_one(write_extra, name, nearest):
    write_extra(name)
    with pytest.raises(UserError) as raised:
        ingest.run_ingest()
    assert f"company.yml, extra: ServiceTitan's API has no list {name}; did you mean {nearest}?" in str(raised.value)
    assert str(raised.value).count("\n") == 0


def test_a_list_that_company_yml_does_not_name_is_not_read(write_extra, sandbox):
    write_extra()
    with pytest.raises(UserError, match=r"telecom/calls is not read: write `extra: \[telecom/calls\]` into company"):
        ingest.run_ingest("telecom/calls")


def test_extra_that_is_no_list_is_refused_with_its_line(write_extra, tmp_path):
    (tmp_path / "company" / "company.yml").write_text("name: Acme\nextra: telecom/calls\n")
    with pytest.raises(UserError, match=r"company.yml, line 2: extra must be a list of endpoints"):
        company.read_company(settings.load())


# --- reading


@pytest.fixture
def write_extra(tmp_path, monkeypatch, sandbox) -> Callable[..., None]:
    """`write_extra(*names)` makes a company that reads them besides; a warehouse of its own, and the sandbox."""
    monkeypatch.setenv("COMPANY", str(tmp_path / "company"))
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    (tmp_path / "company").mkdir()
    use(sandbox, monkeypatch)

    def write(*names: str) -> None:
        (tmp_path / "company" / "company.yml").write_text(f"extra: [{', '.join(names)}]\n")

    return write


def use(running: server.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)


def read_table(name: str) -> pd.DataFrame:
    with warehouse.connect() as target:
        return target.query(f"SELECT * FROM st_raw_v2.raw_{name} ORDER BY _key")


def read(*names: str) -> dict[str, Any]:
    report = ingest.run_ingest(",".join(names))
    return {result.entity: result for result in report.entities}


@pytest.mark.parametrize("name", ["painting", "hvac"])
def test_three_endpoints_over_three_nights(name, write_extra, serve, monkeypatch):
    store = Store(name)
    populate(store, seed=3, scale=0.005)
    running = serve(store, seed=3, calls_per_second=1_000_000)
    use(running, monkeypatch)
    write_extra(*EXTRA)
    first = read(*EXTRA)
    assert {result.status for result in first.values()} == {"ok"}
    for endpoint, resource in EXTRA.items():
        rows, table = list(store.rows(resource)), read_table(TABLES[resource])
        calls = [row.get("leadCall", row) for row in rows]
        assert sorted(table["id"]) == sorted(call["id"] for call in calls), endpoint
        assert first[endpoint].fetched == first[endpoint].in_servicetitan == len(rows) > 5
        assert set(table["createdOn"].dt.date) == {date.fromisoformat(call["createdOn"][:10]) for call in calls}
        assert table["modifiedOn"].notna().all()
        assert [json.loads(record) for record in table["_record"]] == sorted(
            rows, key=lambda row: str(row.get("leadCall", row)["id"])
        )
    assert set(read_table("telecom_calls")["active"]) == {True, False}  # inactive ones come too

    # Nothing changed, and nothing is written; then a night of changes, and only those are.
    assert sum(result.changed for result in read(*EXTRA).values()) == 0
    old = {resource: {json.dumps(row, sort_keys=True) for row in store.rows(resource)} for resource in TABLES}
    requests.post(f"{running.url}/sandbox/mutate", json={"step": 1}, timeout=60).raise_for_status()
    requests.post(
        f"{running.url}/sandbox/faults",
        json={"path": "/calls$", "fault": "mangle", "field": "sentiment", "value": "angry"},
        timeout=10,
    ).raise_for_status()
    second = read(*EXTRA)
    for endpoint, resource in EXTRA.items():
        new = {json.dumps(row, sort_keys=True) for row in store.rows(resource)} - old[resource]
        assert 0 < len(new) <= second[endpoint].changed <= len(new) + 1  # one carries the new field
        # A booking was deleted, so the window that it was in is read again.
        assert second[endpoint].deleted == (endpoint == "crm/bookings")
        assert second[endpoint].deleted or second[endpoint].fetched < first[endpoint].fetched / 2
    assert second["crm/bookings"].deleted == 1  # the night deleted one
    assert set(read_table("crm_bookings")["id"]) == {row["id"] for row in store.rows("bookings")}
    assert second["telecom/calls"].drift == ("sentiment",)
    assert second["memberships/memberships"].drift == ()


def test_a_backfill_the_status_and_the_doctor_know_them(write_extra, sandbox):
    write_extra("telecom/calls", "memberships/memberships")
    day = LAST_DAY - timedelta(days=3)
    report = ingest.run_ingest("telecom/calls", "window", day.isoformat(), day.isoformat())
    assert report.status == "ok"
    found = read_table("telecom_calls")
    assert len(found) == report.entities[0].fetched > 0
    assert set(found["createdOn"].dt.tz_convert(sandbox.company.time_zone).dt.date) == {day}
    read("telecom/calls", "memberships/memberships")
    lines = [line.split() for line in ingest.describe_status()]
    assert {"telecom/calls", "memberships/memberships"} <= {line[0] for line in lines}
    write_extra("telecom/calls")
    [told] = [line for line in ingest.describe_status() if "memberships/memberships" in line]
    assert "no longer read" in told
    write_extra("telecom/calls", "jpm/export/job-notes")
    with pytest.raises(UserError, match="404"):
        doctor.check_scopes(settings.load())
    write_extra("telecom/calls", "memberships/memberships")
    assert "endpoints can be read" in doctor.check_scopes(settings.load())


# --- rows without an id, and feeds without a list


@pytest.fixture
def odd(monkeypatch, write_extra, serve) -> Iterator[server.Sandbox]:
    """A tenant with payroll settings (a list without ids), job notes and job history (feeds; the second has no ids)."""
    served = {
        "settings": Resource("payroll/v2/payroll-settings", {}, export=False),
        "notes": Resource("jpm/v2/job-notes", {}, active=None),
        "history": Resource("jpm/v2/job-history", {}, active=None),
    }
    for name, resource in served.items():
        monkeypatch.setitem(RESOURCES, name, resource)
    monkeypatch.setitem(server._LISTS, served["settings"].list_path, "settings")
    for name in ("notes", "history"):
        monkeypatch.setitem(server._EXPORTS, served[name].export_path, name)
    store = Store()
    for number in range(1, 6):
        dates = {"createdOn": f"2025-01-0{number}T00:00:00Z", "modifiedOn": f"2025-02-0{number}T00:00:00Z"}
        pay = {"employeeId": number // 2, "hourlyRate": 20.0, "active": True} | dates
        store.add("settings", pay)
        store.add("notes", {"id": number, "jobId": 1, "text": "Gate", "active": True} | dates)
        store.add("history", {"jobId": number, "history": [{"eventType": "Booked"}]} | dates)
    store.add("settings", pay)  # a row that is there twice is two rows
    running = serve(store, calls_per_second=1_000_000, export_page_size=2)
    use(running, monkeypatch)
    write_extra("payroll/payroll-settings", "jpm/export/job-notes", "jpm/export/job-history")
    yield running


def test_rows_without_an_id_are_replaced_whole(odd):
    first = read("payroll/payroll-settings", "jpm/export/job-history")
    assert {result.status for result in first.values()} == {"ok"}
    assert len(read_table("payroll_payroll_settings")) == 6
    assert sum(result.changed for result in read("payroll/payroll-settings", "jpm/export/job-history").values()) == 0
    changed = {"employeeId": 1, "hourlyRate": 25.0, "active": True, "createdOn": "2025-01-02T00:00:00Z"}
    later = pd.Timestamp("2025-03-01", tz="UTC").to_pydatetime()
    odd.store.replace("settings", 1, changed, later)
    odd.store.remove("settings", 0)
    odd.store.replace("history", 0, {"jobId": 1, "history": [{"eventType": "Booked"}, {"eventType": "Done"}]}, later)
    assert {result.status for result in read("payroll/payroll-settings", "jpm/export/job-history").values()} == {"ok"}
    records = sorted(read_table("payroll_payroll_settings")["_record"])
    assert [json.loads(record)["hourlyRate"] for record in records] == [25.0, 20.0, 20.0, 20.0, 20.0]
    histories = {
        json.loads(r)["jobId"]: len(json.loads(r)["history"]) for r in read_table("jpm_export_job_history")["_record"]
    }
    assert histories == {1: 2, 2: 1, 3: 1, 4: 1, 5: 1}


def test_a_feed_without_a_list_goes_on_where_it_ended(odd):
    notes = "jpm/export/job-notes"
    assert read(notes)[notes].fetched == 5
    later = pd.Timestamp("2025-03-01", tz="UTC").to_pydatetime()
    moved = {"id": 1, "jobId": 1, "text": "Moved", "active": True, "createdOn": "2025-01-01T00:00:00Z"}
    odd.store.replace("notes", 0, moved | {"modifiedOn": "2025-03-01T00:00:00Z"}, later)
    again = read(notes)[notes]
    assert (again.status, again.changed, again.fetched) == ("ok", 1, 5)  # the change, and the last days again
    assert len(read_table("jpm_export_job_notes")) == 5
    by_day = ingest.run_ingest(notes, "window", "2025-03-01", "2025-03-01").entities[0]
    assert (by_day.fetched, by_day.changed) == (1, 0)
