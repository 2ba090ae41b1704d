"""What a reading must not lose, forget or believe, one small rule at a time: `make mutants` takes each rule away."""

import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from itertools import zip_longest
from typing import Any

import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from isal import igzip
from small_company import column, company, job, pay, run

from sandbox import server
from stkpi import settings, warehouse
from stkpi.ingest import load, read, state
from stkpi.ingest import run as ingest
from stkpi.servicetitan import client
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse import chunks

NEWEST = datetime(2025, 1, 30, 12, 0, 0, 123456, tzinfo=UTC)
LONG_AGO = datetime(2025, 1, 2, tzinfo=UTC)  # a change that the feed of a later night does not repeat
DATES = {"createdOn": "2025-01-05T00:00:00Z", "modifiedOn": "2025-01-05T00:00:00Z"}


def read_state(entity: str = "jobs") -> state.State:
    with warehouse.connect() as target:
        return state.read_state(target, ENTITIES[entity])


def query(sql: str) -> list[Any]:
    with warehouse.connect() as target:
        return list(target.query(sql).itertuples(index=False, name=None))


def shorten(monkeypatch: pytest.MonkeyPatch, path: str, least: int = 2) -> None:
    """Let the answers of a list lack their last row, of which the server counts one more, where they have several."""
    get = client.Client.get

    def get_short(self: client.Client, asked: str, params: dict[str, Any]) -> Page:
        page = get(self, asked, params)
        return replace(page, rows=page.rows[:-1]) if asked.endswith(path) and len(page.rows) >= least else page

    monkeypatch.setattr(client.Client, "get", get_short)


def test_a_list_that_is_empty_was_read(api):
    """A build of the KPIs refuses to count what was never read."""
    entity = ENTITIES["estimates"]
    run("jobs")
    for unread in ([entity.name], []):
        with warehouse.connect() as target:
            assert state.find_unread(target, [entity]) == unread
        assert run("estimates")["estimates"].fetched == 0


# --- what changed -----------------------------------------------------------------------------------------------------


def test_a_sale_that_left_modified_on_alone_is_found_by_its_day(api):
    estimate = {"id": 1, "active": True, "status": {"value": 0, "name": "Open"}, "soldOn": None, **DATES}
    api.store.add("estimates", estimate)
    api.store.add("estimates", estimate | {"id": 2, "modifiedOn": "2025-01-30T00:00:00Z"})
    run("estimates")
    sold = {"status": {"value": 1, "name": "Sold"}, "soldOn": "2025-01-29T00:00:00Z"}
    api.store.replace("estimates", 0, estimate | sold, LONG_AGO)
    api.store.settle()
    assert run("estimates")["estimates"].status == "ok"
    assert column("status", "estimates") == {"1": "Sold", "2": "Open"}


@pytest.mark.parametrize(("day", "amount"), [("2025-01-25", "7.50"), ("2025-01-10", "100.00")])
def test_pay_of_the_last_45_days_is_read_again_whatever_its_dates_say(day, amount, api):
    item = pay(0, id=900, date=f"{day}T00:00:00Z", amount=100)
    api.store.add("payroll", item)
    api.store.add("payroll", pay(0, id=901, date="2025-03-08T00:00:00Z", modifiedOn="2025-03-08T00:00:00Z"))
    run("payroll")
    api.store.replace("payroll", 30, item | {"amount": 7.5}, LONG_AGO)
    api.store.settle()
    assert run("payroll")["payroll"].status == "ok"
    assert f"{column('amount', 'payroll')['900']:.2f}" == amount


def test_a_bill_that_is_committed_late_is_found(api):
    bill = {"id": 1, "billAmount": "10.00", **DATES}
    api.store.add("vendor_bills", bill)
    api.store.add("vendor_bills", bill | {"id": 2, "modifiedOn": "2025-01-30T00:00:00Z"})
    run("vendor_bills")
    late = bill | {"billAmount": "12.50", "modifiedOn": "2025-01-27T00:00:00Z"}
    api.store.replace("vendor_bills", 0, late, datetime(2025, 1, 27, tzinfo=UTC))
    api.store.settle()
    assert run("vendor_bills")["vendor_bills"].status == "ok"
    assert {key: f"{value:.2f}" for key, value in column("billAmount", "vendor_bills").items()} == {
        "1": "12.50",
        "2": "10.00",
    }


def test_changes_in_every_batch_of_a_feed_arrive(api, monkeypatch):
    run("jobs")
    for number in range(101, 131):
        changed = job(number, total=number, modifiedOn="2025-02-01T00:00:00Z")
        api.store.replace("jobs", number - 101, changed, datetime(2025, 2, 1, tzinfo=UTC))
    api.store.settle()
    monkeypatch.setattr(read, "FEED_PAGES", 2)  # three pages are two batches
    assert run("jobs")["jobs"].status == "ok"
    assert {key: int(value) for key, value in column("total").items()} == {str(n): n for n in range(101, 131)}


# --- how far everything is read ---------------------------------------------------------------------------------------


def test_the_log_tells_when_the_oldest_record_that_was_written_was_created(api):
    """An increment of the KPIs compares no record from before."""
    run("jobs")
    for number in (120, 105):
        changed = job(number, total=1, modifiedOn="2025-01-31T00:00:00Z")
        api.store.replace("jobs", number - 101, changed, NEWEST)
    api.store.settle()
    run("jobs")
    [*_, last] = query(
        "SELECT CAST(DATE(oldest) AS STRING), changed FROM st_logs_v2.ingestion_logs WHERE changed > 0"
        " ORDER BY finished_at"
    )
    assert last == ("2025-01-05", 2)


def test_a_watermark_never_goes_back(api):
    run("jobs")
    assert read_state().watermark == NEWEST
    api.store.remove("jobs", 29)  # the newest
    api.store.settle()
    assert run("jobs")["jobs"].status == "ok"
    assert read_state() == state.State(NEWEST)


def test_a_backfill_has_its_last_day_and_no_other(api):
    assert ingest.run_ingest("jobs,payroll", "window", "2025-01-03", "2025-01-05").status == "ok"
    assert sorted(column("id")) == ["103", "104", "105"]
    assert query("SELECT date, COUNT(*) FROM st_raw_v2.raw_payroll GROUP BY date ORDER BY date") == [
        (day, 3) for day in (datetime(2025, 1, number, tzinfo=UTC).date() for number in (3, 4, 5))
    ]


def test_a_window_that_came_short_is_not_done(api, monkeypatch):
    with monkeypatch.context() as patch:
        shorten(patch, "/jobs")
        result = run("jobs")["jobs"]
    assert (result.status, "sent fewer rows than it counts" in result.error) == ("partial", True)
    assert query("SELECT DISTINCT status FROM st_logs_v2.ingestion_logs") == [("short",)]
    first = read_state()
    assert (first.watermark, first.cycle is None) == (None, False)
    with warehouse.connect() as target:
        assert state.read_finished_windows(target, ENTITIES["jobs"], first.cycle) == set()
    assert run("jobs")["jobs"].status == "ok"
    assert (len(column("id")), read_state()) == (30, state.State(NEWEST))


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_a_slice_that_came_short_deletes_nothing(mode, api, monkeypatch):
    run("payroll")
    before = column("_hash", "payroll")
    with monkeypatch.context() as patch:
        shorten(patch, "/gross-pay-items")
        (result,) = ingest.run_ingest("payroll", mode).entities
    assert (result.status, result.deleted) == ("partial", 0)
    assert column("_hash", "payroll") == before


def test_a_deleted_record_counts_as_loaded_only_in_the_state_that_was_deleted(api, tmp_path, monkeypatch):
    """The feed repeats it, and it is skipped. If a MERGE lost a newer state of it, that must not look the same."""
    run("jobs")
    jobs = ENTITIES["jobs"]
    reading = load.Reading(jobs, "feed", "incremental", jobs.feed_path or "")
    moved = ("INSERT INTO st_logs_v2.deleted (entity, key, digest) SELECT 'jobs', _key, _hash", "DELETE")
    with warehouse.connect() as target:
        target.execute(*(f"{verb} FROM st_raw_v2.raw_jobs WHERE _key = '101'" for verb in moved))
        monkeypatch.setattr(load, "merge_sql", lambda *_, **__: "SELECT 1")
        monkeypatch.setattr(load, "insert_sql", lambda *_, **__: "SELECT 1")
        repeated = load.load_pages(target, tmp_path, reading, [Page([job(101)], has_more=False)])
        assert (repeated.loaded, repeated.changed) == (1, 0)
        with pytest.raises(RuntimeError, match="1 rows were fetched, but 0 were loaded"):
            load.load_pages(target, tmp_path, reading, [Page([job(101, total=7)], has_more=False)])


def test_a_window_of_which_the_warehouse_lost_a_row_is_read_again(api, monkeypatch):
    """The log calls it loaded by then, so the next run finds the row by the counts."""
    insert = load.insert_sql
    with monkeypatch.context() as patch:
        patch.setattr(load, "insert_sql", lambda *args, **named: insert(*args, **named) + " WHERE id != 101")
        failed = run("jobs")["jobs"]
    assert failed.status == "failed"
    assert "30 rows were fetched, but 29 were loaded and 0 quarantined" in failed.error
    assert read_state().watermark is None
    assert run("jobs")["jobs"].status == "ok"
    assert (len(column("id")), read_state()) == (30, state.State(NEWEST))


# --- pieces and tokens ------------------------------------------------------------------------------------------------


@hypothesis.settings(deadline=None)  # a busy machine takes its time
@given(st.lists(st.integers(1, 30), max_size=40), st.integers(5, 60), st.integers(1, 7))
def test_chunks_tile_a_file_within_their_limits(tmp_path_factory, sizes, max_bytes, max_rows):
    path = tmp_path_factory.getbasetemp() / "lines.ndjson.gz"
    lines = [b"x" * size + b"\n" for size in sizes]
    path.write_bytes(igzip.compress(b"".join(lines)))
    found = list(chunks.split_file(path, max_bytes, max_rows))
    assert [line for chunk in found for line in chunk.lines] == lines
    assert [chunk.first for chunk in found] == [sum(len(each.lines) for each in found[:n]) for n in range(len(found))]
    for chunk, following in zip_longest(found, found[1:]):
        assert len(chunk.lines) == 1 or len(chunk.body) <= max_bytes
        assert len(chunk.lines) <= max_rows
        fits = following and len(chunk.body) + len(following.lines[0]) <= max_bytes and len(chunk.lines) < max_rows
        assert not fits
        assert chunk.name == f"{chunk.first}-{chunk.first + len(chunk.lines) - 1}"


def test_the_halves_of_a_chunk_are_the_chunk():
    first, second = chunks.Chunk(7, (b"a", b"b", b"c")).split()
    assert (first, second) == (chunks.Chunk(7, (b"a",)), chunks.Chunk(8, (b"b", b"c")))


def test_a_token_is_renewed_before_it_expires(serve: Callable[..., server.Sandbox], monkeypatch):
    running = serve(company(), calls_per_second=1_000_000, token_seconds=2)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    caller = client.Client(settings.load())
    caller.check_access()
    caller.check_access()
    assert len(running.tokens) == 1
    time.sleep(1.1)
    caller.check_access()
    assert len(running.tokens) == 2
    assert {line["status"] for line in running.log} == {200}
