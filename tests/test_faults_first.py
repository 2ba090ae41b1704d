"""Faults of the first matrix that must be measured or seen alone; the others are in test_faults and elsewhere."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
import requests
from small_company import column, job, run

from stkpi import settings, warehouse
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES

TAGS = "settings/v2/tenant/{tenant}/tag-types"


@pytest.fixture
def caller(api) -> client.Client:
    """A client of the small company."""
    return client.Client(settings.load())


def measure(call) -> float:
    started = time.monotonic()
    call()
    return time.monotonic() - started


@pytest.mark.parametrize(
    ("headers", "title", "least"),
    [
        pytest.param({"Retry-After": "1"}, "", 1, id="seconds", marks=pytest.mark.fault(1)),
        pytest.param({"Retry-After": "date"}, "", 1, id="date", marks=pytest.mark.fault(2)),
        pytest.param({}, "Rate limit is exceeded. Try again in 1 seconds.", 1, id="title", marks=pytest.mark.fault(3)),
    ],
)
def test_a_requested_wait_is_waited(headers, title, least, caller, break_):
    if headers.get("Retry-After") == "date":  # in whole seconds: two and a bit ahead are at least one
        headers = {"Retry-After": format_datetime(datetime.now(UTC) + timedelta(seconds=2.5), usegmt=True)}
    break_("status", "tag-types$", status=429, headers=headers, title=title or "Too many", times=1)
    assert least <= measure(lambda: caller.get(TAGS, {})) < 30


@pytest.mark.fault(8)
def test_a_token_that_expires_while_a_retry_waits_is_renewed(caller, break_, api):
    caller.get(TAGS, {})
    break_("status", "tag-types$", status=500, times=1)
    api.tokens.clear()  # between the pages …
    break_("expire_token", "tag-types$", times=1, skip=1)  # … and again during the back-off
    assert len(caller.get(TAGS, {"active": "Any"}).rows) == 2


@pytest.mark.fault(13)
def test_a_report_that_was_run_a_moment_ago_is_waited_for(sandbox, monkeypatch):
    for name, value in sandbox.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("ST_REPORT_SECONDS", "1")
    caller = client.Client(settings.load())
    (category, *_) = caller.list_report_categories()
    report = caller.list_reports(category["id"])[0]
    path = f"report-category/{category['id']}/reports/{report['id']}/data$"
    order = {"fault": "status", "path": path, "status": 409, "title": "Busy", "times": 1}
    requests.post(f"{sandbox.url}/sandbox/faults", json=order, timeout=10).raise_for_status()
    described = caller.describe_report(category["id"], str(report["id"]))
    given = {
        parameter["name"]: {"Date": "2025-08-18", "Number": 0, "Boolean": False}.get(parameter["dataType"], "")
        for parameter in described["parameters"]
        if parameter["isRequired"]
    }
    try:
        assert measure(lambda: list(caller.run_report(category["id"], str(report["id"]), given))) >= 1
    finally:
        requests.delete(f"{sandbox.url}/sandbox/faults", timeout=10)


@pytest.mark.fault(17)
@pytest.mark.parametrize(("value", "status"), [("30", "ok"), ("many", "failed"), (None, "failed")])
def test_a_total_that_is_a_text_counts_and_one_that_is_none_is_said(value, status, api, break_):
    if value == "30":  # each count as a text
        break_("quote_total", "/jobs$")
    else:
        break_("bad_total", "/jobs$", value=value)
    result = run("jobs")["jobs"]
    assert result.status == status
    assert status == "ok" or "does not say how many rows it has" in result.error


@pytest.mark.fault(28)
def test_entities_without_any_modification_date_are_read_again(api):
    for row in range(30):
        record = api.store.get("returns", row) | {"modifiedOn": None}
        api.store.replace("returns", row, record, datetime(2025, 1, 30, tzinfo=UTC))
    api.store.settle()
    assert run("returns")["returns"].status == "ok"
    changed = api.store.get("returns", 3) | {"returnAmount": 55.5}
    api.store.replace("returns", 3, changed, datetime(2025, 1, 31, tzinfo=UTC))
    api.store.settle()
    assert run("returns")["returns"].status == "ok"
    assert str(column("returnAmount", "returns")["104"]) == "55.500000000"


@pytest.mark.fault(31)
@pytest.mark.parametrize("ahead", [timedelta(days=2), timedelta(days=-400)])
def test_a_clock_that_is_wrong_moves_no_mark(ahead, api, monkeypatch):
    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + ahead

    monkeypatch.setattr(client, "datetime", Wrong)
    assert run("jobs")["jobs"].status == "ok"
    with warehouse.connect() as target:
        assert state.read_state(target, ENTITIES["jobs"]).watermark == datetime(2025, 1, 30, 12, 0, 0, 123456, UTC)


@pytest.mark.fault(32)
def test_a_backfill_moves_no_watermark_and_hides_nothing_before_it(api):
    run("jobs")
    api.store.replace("jobs", 9, job(110, total=5, modifiedOn="2025-02-01T00:00:00Z"), datetime(2025, 2, 1, tzinfo=UTC))
    newer = job(111, total=6, modifiedOn="2025-03-01T00:00:00Z")
    api.store.replace("jobs", 10, newer, datetime(2025, 3, 1, tzinfo=UTC))
    api.store.settle()
    assert ingest.run_ingest("jobs", "window", "2025-01-11", "2025-01-11").entities[0].changed == 1  # job 111
    with warehouse.connect() as target:
        assert state.read_state(target, ENTITIES["jobs"]).watermark == datetime(2025, 1, 30, 12, 0, 0, 123456, UTC)
    assert run("jobs")["jobs"].changed == 1
    assert str(column("total")["110"]) == "5.000000000"


@pytest.mark.fault(43)
@pytest.mark.parametrize("table", ["sync_state", "ingestion_logs"])
def test_marks_that_were_lost_cost_a_reading_and_no_row(table, api):
    run("jobs,payroll")
    with warehouse.connect() as target:
        target.execute(f"DELETE FROM st_logs_v2.{table}")
    results = run("jobs,payroll")
    assert {(r.status, r.changed, r.deleted) for r in results.values()} == {("ok", 0, 0)}
    assert (len(column("id")), len(column("_key", "payroll"))) == (30, 30)


@pytest.mark.fault(46)
def test_a_table_that_was_dropped_behind_the_state_s_back_is_read_again(api):
    run("jobs")
    with warehouse.connect() as target:
        target.drop("st_raw_v2.raw_jobs")
    assert run("jobs")["jobs"].status == "ok"
    assert len(column("id")) == 30


@pytest.mark.fault(53)
@pytest.mark.parametrize("change", [{"drop": True}, {"value": []}, {"value": None}])
def test_a_list_that_is_absent_empty_or_null_is_loaded(change, api, break_):
    break_("mangle", "jobs$", field="tagTypeIds", ids=[110], **change)
    assert run("jobs")["jobs"].status == "ok"
    assert len(column("id")) == 30


@pytest.mark.fault(56)
@pytest.mark.parametrize("rows", [0, 1])
def test_an_entity_with_zero_rows_or_one(rows, api):
    for number in range(rows, 30):
        api.store.remove("jobs", number)
    assert (run("jobs")["jobs"].status, len(column("id"))) == ("ok", rows)
    result = run("jobs")["jobs"]
    assert (result.status, result.changed, result.in_servicetitan) == ("ok", 0, rows)
