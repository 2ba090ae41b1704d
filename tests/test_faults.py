"""After any fault and one more ordinary run, every table equals that of a run without fault.

The sandbox breaks its answers on command; the client, the ingest and the warehouse are the real ones.
"""

import json
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import bigquery_proxy
import pandas as pd
import pytest
from small_company import FIRST_JOB, READ, assert_equal, column, company, job, quarantine, run, tables, use

from sandbox import server
from stkpi import warehouse
from stkpi.errors import UserError
from stkpi.ingest import read, state
from stkpi.ingest import run as ingest
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES


@pytest.fixture(scope="module")
def healthy(tmp_path_factory) -> dict[str, pd.DataFrame]:
    """The tables of a run without fault."""
    running = server.start(company(), calls_per_second=1_000_000, export_page_size=10)
    with pytest.MonkeyPatch.context() as patch:
        use(running, tmp_path_factory.mktemp("healthy"), patch)
        assert all(result.status == "ok" for result in run().values())
        found = tables()
    running.close()
    assert {name: len(rows) for name, rows in found.items()} == {
        "jobs": 30,
        "returns": 30,
        "payroll": 30,
        "tag_types": 2,
    }
    return found


SOON = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
LISTS = r"/(jobs|returns|gross-pay-items|tag-types)$"


@pytest.mark.fault(1, 2, 3, 4, 6, 8, 9, 11, 12, 15, 16, 19, 20, 22)
@pytest.mark.parametrize(
    ("fault", "arguments"),
    [
        ("status", {"status": 429, "headers": {"Retry-After": "0"}, "times": 3}),
        ("status", {"status": 429, "headers": {"Retry-After": SOON}, "times": 2}),
        ("status", {"status": 429, "title": "Rate limit is exceeded. Try again in 1 seconds.", "times": 1}),
        ("status", {"status": 500, "times": 2, "skip": 1}),
        ("status", {"status": 503, "times": 1, "path": "connect/token"}),
        ("expire_token", {"times": 2, "skip": 3}),
        ("reset", {"times": 2, "skip": 1}),
        ("html", {"times": 2}),
        ("html", {"status": 502, "times": 2}),
        ("empty", {"times": 2}),
        ("no_data", {"times": 2}),
        ("data_null", {"times": 2}),
        ("empty_page", {"times": 2}),
        ("has_more_missing", {}),
        ("has_more_string", {}),
        ("repeat_page", {"times": 2, "skip": 6}),
        ("cap_page_size", {"size": 3}),
    ],
)
def test_the_same_run_survives(fault, arguments, break_, healthy):
    break_(fault, **{"path": LISTS, **arguments})
    results = run()
    assert {name: (r.status, r.error) for name, r in results.items()} == dict.fromkeys(READ.split(","), ("ok", None))
    assert_equal(tables(), healthy)


@pytest.mark.fault(5, 10, 17, 18)
@pytest.mark.parametrize(
    ("fault", "arguments", "status", "sentence"),
    [
        ("status", {"status": 500}, "failed", "ServiceTitan answers 500"),
        ("status", {"status": 403}, "failed", "not permitted (403)"),
        ("status", {"status": 404}, "failed", "answers 404"),
        ("status", {"status": 429, "headers": {"Retry-After": "3600"}}, "failed", "answers 429"),
        ("html", {}, "failed", "the answer is not JSON (text/html"),
        ("empty_page", {}, "failed", "says that there are rows"),
        ("bad_total", {"value": None}, "failed", "does not say how many rows it has"),
        ("bad_total", {"value": 31}, "failed", "ignores createdOnOrAfter or createdBefore"),
    ],
)
def test_a_lasting_fault_fails_its_entity_and_no_other(fault, arguments, status, sentence, break_, healthy):
    break_(fault, "/jobs$", **arguments)
    results = run("jobs,tag_types")
    assert {name: r.status for name, r in results.items()} == {"jobs": status, "tag_types": "ok"}
    assert sentence in results["jobs"].error
    assert "('" not in results["jobs"].error  # a sentence, not what Python shows of an exception
    with warehouse.connect() as target:
        assert state.read_state(target, ENTITIES["jobs"]).watermark is None
    break_()
    assert {r.status for r in run().values()} == {"ok"}
    assert_equal(tables(), healthy)


@pytest.mark.fault(23, 28)
@pytest.mark.parametrize("fault", ["repeat_token", "null_token"])
def test_a_feed_that_does_not_advance_fails_and_never_loops(fault, break_, healthy):
    run()
    with warehouse.connect() as target:  # as after a week without a night: the feed has several pages
        state.write_state(target, ENTITIES["returns"], "test", state.State(datetime(2025, 1, 9, tzinfo=UTC)))
    break_(fault, "export/returns")
    results = run()
    assert results["returns"].status == "failed"
    assert "not from where to continue" in results["returns"].error
    break_()
    assert {r.status for r in run().values()} == {"ok"}
    assert_equal(tables(), healthy)


@pytest.mark.fault(24)
def test_a_page_limit_is_an_error_not_a_silent_end(api, monkeypatch):
    monkeypatch.setattr(client, "MAX_PAGES", 2)
    results = run("jobs")
    assert results["jobs"].status == "failed"
    assert "more than 2 pages" in results["jobs"].error


@pytest.mark.fault(7)
def test_no_answer_in_time_is_asked_again(break_, healthy, monkeypatch):
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    break_("timeout", "/jobs$", seconds=1, times=2)
    assert run()["jobs"].status == "ok"
    assert_equal(tables(), healthy)


def test_a_sign_in_server_that_sends_no_token_is_said(break_, monkeypatch):
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    break_("status", "/connect/token", status=200)
    with pytest.raises(UserError, match="the sign-in server sent no token"):
        run("jobs")


@pytest.mark.fault(21)
def test_rows_that_move_between_pages_are_not_lost(api, break_):
    # The first rows of the first page are modified while the walk is at it, and move to its end.
    break_("move_rows", "/jobs$", rows=2, at="2025-02-01T00:00:00Z", times=1, skip=3)
    assert run("jobs")["jobs"].status == "ok"
    break_()
    run("jobs")
    assert {key: str(value)[:10] for key, value in column("modifiedOn").items() if str(value) >= "2025-02-01"} == {
        str(row["id"]): "2025-02-01" for row in api.store.rows("jobs") if row["modifiedOn"] >= "2025-02-01"
    }
    assert len(column("id")) == 30


@pytest.mark.fault(25)
def test_gross_pay_that_exceeds_a_page_is_read_in_slices_that_fit(api, monkeypatch, healthy):
    monkeypatch.setattr(read, "MAX_PAGE_SIZE", 7)  # three a day: two days fit, four do not
    pages, fetch = [], read.EntityReader.fetch_slice
    monkeypatch.setattr(read.EntityReader, "fetch_slice", lambda *given: pages.append(fetch(*given)) or pages[-1])
    result = run()["payroll"]
    assert (result.status, result.fetched) == ("ok", 30)
    assert len(pages) > 5
    assert sum(page.has_more for page in pages) <= 3  # after the first it is known how many come a day, about
    assert_equal(tables(), healthy)


def test_gross_pay_of_one_day_that_exceeds_a_page_is_said(api, monkeypatch):
    monkeypatch.setattr(read, "MAX_PAGE_SIZE", 2)
    result = run("payroll")["payroll"]
    assert result.status == "failed"
    assert "more rows on one day" in result.error


def test_a_deleted_gross_pay_item_is_deleted(api):
    run("payroll")
    api.store.remove("payroll", 29)
    run("payroll")
    assert len(column("amount", "payroll")) == 29


@pytest.mark.fault(26, 29, 30)
def test_ties_and_late_rows_at_the_watermark_are_read(api):
    run("jobs")
    newest = max(row["modifiedOn"] for row in api.store.rows("jobs"))
    api.store.add("jobs", job(131, modifiedOn=newest))
    api.store.add("jobs", job(132, modifiedOn="2025-01-29T13:00:00Z"))  # committed after it was dated
    api.store.settle()
    results = run("jobs")
    assert (results["jobs"].status, results["jobs"].changed) == ("ok", 2)


@pytest.mark.fault(50, 55)
def test_a_row_that_cannot_be_typed_is_quarantined_with_its_reason_until_it_can_be_loaded(break_, healthy):
    break_("mangle", "/jobs$", field="id", value=None, ids=[110])
    break_("mangle", "/jobs$", field="customerId", value="seven", ids=[111])
    break_("mangle", "/jobs$", field="total", value="NaN", ids=[112])
    break_("mangle", "/jobs$", field="createdOn", value="yesterday", ids=[113])
    result = run()["jobs"]
    assert (result.status, result.fetched, result.in_quarantine) == ("partial", result.loaded + result.quarantined, 4)
    assert len(column("id")) == 26
    without_id = ("jobs", None, "id is missing")
    assert sorted(quarantine(), key=str) == [
        ("jobs", "111", "customerId is not INT64: seven"),
        ("jobs", "112", "total is not NUMERIC: NaN"),
        ("jobs", "113", "createdOn is not TIMESTAMP: yesterday"),
        without_id,
    ]
    break_()
    assert [r.error for r in ingest.run_ingest(READ, "full").entities] == [None] * 4
    assert_equal(tables(), healthy)
    assert quarantine() == []  # a full reading has not met the one without an id again


UNUSUAL = [
    ("total", "1,234.50", "1234.500000000"),
    ("total", 0.1, "0.100000000"),
    ("summary", "Grüße 🎨\u2028next", "Grüße 🎨\u2028next"),
    ("summary", "a\0b", "a\ufffdb"),
    ("summary", "x" * 1_000_000, "x" * 1_000_000),
    ("jobStatus", "Teleported", "Teleported"),
    ("modifiedOn", "2025-01-20T05:06:07", "2025-01-20 05:06:07+00:00"),
    ("modifiedOn", "2025-01-20T05:06:07.9999999-07:00", "2025-01-20 12:06:07.999999+00:00"),
    ("modifiedOn", "2025-01-20", "2025-01-20 00:00:00+00:00"),
    ("tagTypeIds", [], "[]"),
]


@pytest.mark.fault(27, 34, 51, 52, 57)
def test_values_that_are_unusual_are_kept(api):
    for position, (field, value, _) in enumerate(UNUSUAL):
        changed = job(FIRST_JOB + position, **{field: value})
        api.store.replace("jobs", position, changed, datetime(2025, 1, 30, tzinfo=UTC))
    result = run("jobs")["jobs"]
    assert (result.status, result.loaded) == ("ok", 30)
    for number, (field, _, expected) in enumerate(UNUSUAL, FIRST_JOB):
        assert str(column(field)[str(number)]) == expected
        if field == "summary":  # and so it is in the whole record
            assert column("JSON_VALUE(_record, '$.summary')")[str(number)] == expected


@pytest.mark.fault(52)
def test_a_bare_nan_costs_its_row_and_not_its_page(break_, api):
    break_("mangle", "/jobs$", field="total", raw="NaN", ids=[110])
    assert run("jobs")["jobs"].quarantined == 1
    assert quarantine() == [("jobs", "110", "total is not NUMERIC: NaN")]


@pytest.mark.fault(48, 49)
def test_a_new_field_is_kept_and_reported_and_a_missing_one_is_null(break_, api):
    break_("mangle", "/jobs$", field="crewMood", value="sunny", ids=[110])
    break_("mangle", "/jobs$", field="customerId", drop=True, ids=[111])
    result = run("jobs")["jobs"]
    assert (result.status, result.drift) == ("ok", ("crewMood",))
    assert column("JSON_VALUE(_record, '$.crewMood')")["110"] == "sunny"
    assert pd.isna(column("customerId")["111"])


@pytest.mark.fault(54)
def test_of_two_versions_in_one_batch_the_newer_wins(break_, api):
    newer = {"jobStatus": "Hold", "modifiedOn": "2025-06-01T00:00:00Z"}
    break_("duplicate_row", "/jobs$", ids=[110], change={"jobStatus": "Canceled", "modifiedOn": "2020-01-01T00:00:00Z"})
    break_("duplicate_row", "/jobs$", ids=[111], change=newer)
    result = run("jobs")["jobs"]
    assert (result.fetched, result.loaded) == (32, 32)
    assert {key: column("jobStatus")[key] for key in ("110", "111")} == {"110": "Completed", "111": "Hold"}


@pytest.mark.fault(14)
def test_no_secret_reaches_the_log(api, break_, tmp_path):
    break_("status", "/jobs$", status=500, title="cs1.sandbox-not-a-real-one")
    results = run()
    text = (tmp_path / "log.jsonl").read_text() + str(results)
    assert "/jobs" in text
    for secret in ("cs1.sandbox", "ak1.sandbox", *api.tokens):
        assert secret not in text


@pytest.mark.fault(1, 2, 3)
def test_retry_after_is_read_in_every_form():
    now = datetime(2025, 8, 18, 12, 0, 0, tzinfo=UTC)
    assert client.parse_requested_wait({"Retry-After": "7"}, "", now) == 7
    assert client.parse_requested_wait({"Retry-After": "Mon, 18 Aug 2025 12:00:09 GMT"}, "", now) == 9
    assert client.parse_requested_wait({"Retry-After": "Mon, 18 Aug 2025 11:59:09 GMT"}, "", now) == 0
    assert client.parse_requested_wait({}, "Rate limit is exceeded. Try again in 13 seconds.", now) == 13
    assert client.parse_requested_wait({"Retry-After": "soon"}, "", now) == 0


# --- the warehouse is BigQuery ------------------------------------------------------------------------------------


@pytest.mark.fault(63, 64)
@pytest.mark.soak
def test_bigquery_with_every_fault_has_the_tables_of_duckdb_without(api, healthy, proxy, monkeypatch) -> None:
    monkeypatch.setenv("BQ_PROJECT", f"faults-{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)
    too_large = bigquery_proxy.Fault(
        lambda request: bool(request.rows) and request.size > 6_000, bigquery_proxy.too_large().answer
    )
    passing = [
        bigquery_proxy.reset_after(lambda request: request.submits, times=2, skip=3),
        bigquery_proxy.streaming_buffer("st_raw_v2.raw_jobs", times=1),
        bigquery_proxy.too_many_dml("st_raw_v2.raw_returns", times=1),
        bigquery_proxy.too_many_requests(lambda request: request.submits, times=1, skip=9),
        bigquery_proxy.backend_error(times=2, skip=4),
    ]
    proxy.faults = [*passing, too_large, bigquery_proxy.unfinished()]
    results = run()
    assert {result.error for result in results.values()} == {None}
    assert {result.status for result in results.values()} == {"ok"}
    assert [fault.times for fault in passing] == [0] * 5
    assert too_large.met >= 2
    assert_equal(tables(), healthy)


@pytest.mark.soak
def test_065_a_table_that_wants_a_bound_stops_its_own_entity_and_nothing_of_it_is_lost(api, proxy, monkeypatch):
    """Whoever owns the project may switch `require_partition_filter` on. The next night after it is off is whole."""
    monkeypatch.setenv("BQ_PROJECT", f"faults-{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)
    assert {result.status for result in run("jobs,tag_types").values()} == {"ok"}
    before, june = read_ledger(), datetime(2025, 6, 1, tzinfo=UTC)
    for name, changes in (("jobs", {"summary": "late"}), ("tag_types", {"name": "renamed"})):
        record = api.store.get(name, 0) | changes | {"modifiedOn": f"{june:%Y-%m-%dT%H:%M:%SZ}"}
        api.store.replace(name, 0, record, june)

    proxy.faults = [bigquery_proxy.wants_partition_filter("st_raw_v2.raw_jobs", "createdOn")]
    results = run("jobs,tag_types")
    assert {name: result.status for name, result in results.items()} == {"jobs": "failed", "tag_types": "ok"}
    assert "does not filter by the partition of its table" in results["jobs"].error
    assert "\n" not in results["jobs"].error
    assert proxy.faults[0].met == 1  # asking again is of no use
    proxy.faults.clear()
    assert column("summary")["101"] == "plain"
    assert column("name", "tag_types")["1"] == "renamed"
    after = read_ledger()
    assert after["jobs"] == before["jobs"]  # no line says that they were read
    assert after["tag_types"] != before["tag_types"]

    assert {result.status for result in run("jobs,tag_types").values()} == {"ok"}
    assert read_ledger()["jobs"] != before["jobs"]
    found = tables("jobs,tag_types")
    monkeypatch.delenv("BQ_PROJECT")
    assert {result.status for result in run("jobs,tag_types").values()} == {"ok"}
    assert_equal(found, tables("jobs,tag_types"))


def read_ledger() -> dict[str, tuple]:
    """For each entity: how many readings of it are noted, and its newest modification."""
    with warehouse.connect() as target:
        lines = target.query(
            "SELECT entity, COUNT(*) AS readings, MAX(watermark) AS newest FROM st_logs_v2.ingestion_logs"
            " GROUP BY entity"
        )
    return {entity: tuple(rest) for entity, *rest in lines.itertuples(index=False)}


@pytest.mark.fault(62)
def test_bigquery_that_loses_a_row_of_a_load_merges_nothing(api, proxy, monkeypatch) -> None:
    monkeypatch.setenv("BQ_PROJECT", f"faults-{uuid.uuid4().hex[:12]}")
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", proxy.url)

    def one_row_less(_: bigquery_proxy.Request, proceed: bigquery_proxy.Proceed) -> bigquery_proxy.Reply:
        reply = proceed()
        table = json.loads(reply.body)
        if "numRows" not in table:  # it is asked whether there is such a table: there is none yet
            return reply
        return replace(reply, body=json.dumps(table | {"numRows": str(int(table["numRows"]) - 1)}).encode())

    counts = bigquery_proxy.Fault(
        lambda request: request.method == "GET" and "/tables/landing_" in request.path, one_row_less
    )
    proxy.faults = [counts]
    (result,) = ingest.run_ingest("tag_types").entities
    assert result.status == "failed"
    assert "2 records were landed and 1 loaded: nothing was merged" in result.error
    with warehouse.connect() as target:
        assert target.query("SELECT COUNT(*) AS n FROM st_raw_v2.raw_tag_types")["n"].item() == 0
    proxy.faults.clear()
    (result,) = ingest.run_ingest("tag_types").entities
    assert (result.status, result.changed) == ("ok", 2)
