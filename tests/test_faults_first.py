"""Faults of the first matrix that must be measured or seen alone; the others are in test_faults and elsewhere."""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from multiprocessing import get_context
from multiprocessing.context import ForkServerContext
from pkgutil import resolve_name

import pytest
import requests
from small_company import READ, assert_equal, column, job, run, tables

from stkpi import __main__ as command
from stkpi import settings, warehouse
from stkpi.ingest import read, state
from stkpi.ingest import run as ingest
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


# --- what a run that ends in the middle leaves -----------------------------------------------------------------------


def state_of(entity: str = "jobs") -> state.State:
    with warehouse.connect() as target:
        return state.read_state(target, ENTITIES[entity])


@pytest.mark.fault(5)
def test_a_server_that_breaks_for_ever_leaves_the_state_and_exits_with_1(api, break_, monkeypatch, capsys):
    run("jobs,tag_types")
    before = state_of()
    api.store.replace("jobs", 9, job(110, total=5, modifiedOn="2025-02-01T00:00:00Z"), datetime(2025, 2, 1, tzinfo=UTC))
    api.store.settle()
    api.store.add("tag_types", api.store.get("tag_types", 0) | {"id": 3})
    break_("status", "/jobs$", status=500)
    monkeypatch.setattr(sys, "argv", ["stkpi", "ingest", "--entities", "jobs,tag_types"])
    assert command.main() == 1
    assert "ServiceTitan answers 500" in capsys.readouterr().out
    assert (state_of(), str(column("total")["110"])) == (before, "1234.500000000")
    assert len(column("id", "tag_types")) == 3  # the others went on
    break_()
    assert command.main() == 0
    assert (str(column("total")["110"]), state_of().watermark) == ("5.000000000", datetime(2025, 2, 1, tzinfo=UTC))


@pytest.mark.fault(33)
def test_days_that_are_not_here_are_found_and_only_they_are_added(api, tmp_path):
    run("jobs")
    before = column("_hash")
    with warehouse.connect() as target:  # as if their window had never been read
        target.execute(
            "DELETE FROM st_raw_v2.raw_jobs WHERE id IN (109, 110, 112)",
            "UPDATE st_logs_v2.ingestion_logs SET held = 27 WHERE TRUE",
        )
    (tmp_path / "log.jsonl").unlink()
    result = run("jobs")["jobs"]
    assert (result.status, result.changed, result.in_warehouse) == ("ok", 3, 30)
    assert column("_hash") == before
    gaps = [line for line in map(json.loads, (tmp_path / "log.jsonl").open()) if line["event"] == "gap"]
    assert [(gap["entity"], gap["there"], gap["here"]) for gap in gaps] == [("jobs", 30, 27)]


@pytest.mark.fault(36)
def test_what_became_inactive_was_merged_or_deleted_is_so_here(api):
    later = {"createdOn": "2025-01-01T00:00:00Z", "modifiedOn": "2025-02-01T00:00:00Z"}
    for number in (1, 2):
        api.store.add("customers", {"id": number, "name": f"C{number}", "active": True, "mergedToId": None, **later})
    run("customers,jobs,returns")
    at = datetime(2025, 2, 1, tzinfo=UTC)
    api.store.replace("customers", 1, api.store.get("customers", 1) | {"active": False, "mergedToId": 1}, at)
    api.store.replace("returns", 0, api.store.get("returns", 0) | {"active": False, **later}, at)
    api.store.remove("jobs", 9)
    api.store.settle()
    results = run("customers,jobs,returns")
    assert {name: (r.status, r.changed, r.deleted) for name, r in results.items()} == {
        "customers": ("ok", 1, 0),
        "jobs": ("ok", 0, 1),
        "returns": ("ok", 1, 0),
    }
    assert (column("active", "customers"), column("mergedToId", "customers")["2"]) == ({"1": True, "2": False}, 1)
    assert (column("active", "returns")["101"], len(column("id", "returns"))) == (False, 30)
    assert "110" not in column("id")


# Where a run is killed: the function that it calls then, and what is among its arguments.
KILLED = {
    "in a page": ("stkpi.ingest.landing:_make_batch", "'id': 115"),
    "after the pages": ("stkpi.warehouse.duckdb:DuckDBWarehouse.insert_rows", "typed_jobs"),
    "before the merge": ("stkpi.ingest.load:_choose_statements", "typed_jobs"),
    "after the merge": ("stkpi.ingest.state:advance_watermark", "'jobs'"),
    "while the state is written": ("stkpi.warehouse.duckdb:_execute", "INSERT INTO st_logs_v2.sync_state"),
}


def ingest_until(place: str, among: str, environment: dict[str, str]) -> None:
    """Read the small company in this process, which is killed as soon as a function gets such an argument."""
    os.environ.update(environment)
    read.PAGE_SIZE = 10
    owner, _, name = place.rpartition("." if "." in place.partition(":")[2] else ":")
    owned = resolve_name(owner)
    before = getattr(owned, name)

    def kill_or_call(*arguments: object, **named: object) -> object:
        if among in str(arguments):
            os.kill(os.getpid(), signal.SIGKILL)
        return before(*arguments, **named)

    setattr(owned, name, kill_or_call)
    ingest.run_ingest(READ)


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServerContext]:
    """Processes that have imported all of it already."""
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    yield context


@pytest.mark.fault(37, 38, 40, 41, 42)
@pytest.mark.parametrize("night", ["first", "later"])
@pytest.mark.parametrize("moment", KILLED)
def test_a_run_that_is_killed_anywhere_is_made_up_for_by_the_next(moment, night, api, forks, monkeypatch, tmp_path):
    if night == "later":
        run()
        for number in (109, 115):
            changed = job(number, total=5, modifiedOn="2025-02-01T00:00:00Z")
            api.store.replace("jobs", number - 101, changed, datetime(2025, 2, 1, tzinfo=UTC))
        api.store.settle()
    process = forks.Process(target=ingest_until, args=(*KILLED[moment], dict(os.environ)))
    process.start()
    process.join(600)  # a busy machine takes its time
    assert process.exitcode == -signal.SIGKILL
    assert {name: (r.status, r.error) for name, r in run().items()} == dict.fromkeys(READ.split(","), ("ok", None))
    found = tables()
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "whole.duckdb"))
    run()
    assert_equal(found, tables())


def terminate_at(load: int, times: int, monkeypatch) -> None:
    """Send this process SIGTERM when a run loads for the so-many-th time."""
    loads, load_pages = count(1), read.load_pages

    def load_and_terminate(*arguments):
        if next(loads) == load:
            for _ in range(times):
                os.kill(os.getpid(), signal.SIGTERM)
                time.sleep(0.2)
        return load_pages(*arguments)

    monkeypatch.setattr(read, "load_pages", load_and_terminate)


@pytest.mark.fault(44)
@pytest.mark.parametrize("times", [1, 2])
def test_sigterm_finishes_the_window_in_hand_and_a_second_one_stops(times, api, monkeypatch):
    monkeypatch.setattr(read, "MAX_PAGE_SIZE", 7)  # two days a window
    with monkeypatch.context() as patch:
        terminate_at(2, times, patch)
        if times == 2:
            with pytest.raises(SystemExit, match="143"):
                run("payroll")
        else:
            result = run("payroll")["payroll"]
            assert (result.status, result.windows) == ("failed", 2)
            assert "Stopped on request" in result.error
    with warehouse.connect() as target:
        (done,) = target.query("SELECT COUNT(*) AS n FROM st_logs_v2.ingestion_logs WHERE status = 'loaded'")["n"]
        (rows,) = target.query("SELECT COUNT(*) AS n FROM st_raw_v2.raw_payroll")["n"]
    assert (done, 0 < rows < 30) == (2, True)
    result = run("payroll")["payroll"]
    assert (result.status, result.fetched, len(column("_key", "payroll"))) == ("ok", 30 - rows, 30)
