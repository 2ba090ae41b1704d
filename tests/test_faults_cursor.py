"""Wrong without an error: what the watermark, a walk or a count would lose in silence (faults 73 to 82, 112, 119)."""

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from small_company import LAST_JOB, column, job, pay, run

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, TIME_ZONE, populate
from sandbox.truth import compute_weekly_kpis
from stkpi import company, warehouse
from stkpi.ingest import load, read, state
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse.duckdb import DuckDBWarehouse

NEWEST = datetime(2025, 1, 30, 12, 0, 0, 123456, tzinfo=UTC)
JOBS = ENTITIES["jobs"]


BIGQUERY = ["duckdb", pytest.param("bigquery", marks=pytest.mark.soak)]


def change(api: server.Sandbox, number: int, at: str = "2025-02-01T00:00:00Z", **values: Any) -> None:
    """Change a job in ServiceTitan at a moment."""
    changed = job(number, **{"modifiedOn": at, **values})
    api.store.replace("jobs", number - 101, changed, datetime.fromisoformat(at))
    api.store.settle()


def watermark(entity: str = "jobs") -> datetime | None:
    with warehouse.connect() as target:
        return state.read_state(target, ENTITIES[entity]).watermark


def execute(sql: str) -> None:
    with warehouse.connect() as target:
        target.execute(sql)


def deleted() -> list[tuple[str, str]]:
    with warehouse.connect() as target:
        rows = state.read_deleted(target, datetime(2020, 1, 1, tzinfo=UTC))
    return list(zip(rows["entity"], rows["key"], strict=True))


def test_073_a_modification_in_2099_hides_no_later_one(api):
    change(api, 110, "2099-01-01T00:00:00Z", total=1)
    assert run("jobs")["jobs"].status == "ok"
    assert watermark() == NEWEST
    change(api, 111, total=222.25)
    change(api, 110, "2025-02-02T00:00:00Z", total=333.5)  # the same record, corrected
    assert run("jobs")["jobs"].changed == 2
    assert {key: str(value)[:6] for key, value in column("total").items() if key in ("110", "111")} == {
        "110": "333.50",
        "111": "222.25",
    }
    assert watermark() == datetime(2025, 2, 2, tzinfo=UTC)


@pytest.mark.parametrize("arguments", [("full",), ("window", "2025-01-01", "2025-01-31")])
def test_073_full_and_backfill_overwrite_whatever_is_there(arguments, api):
    run("jobs")
    execute("UPDATE st_raw_v2.raw_jobs SET total = 0, _hash = '', modifiedOn = TIMESTAMP '2025-12-01' WHERE id = 110")
    assert ingest.run_ingest("jobs", *arguments).entities[0].changed == 1
    assert str(column("total")["110"]) == "1234.500000000"


def test_073_a_watermark_in_the_future_is_no_watermark(api):
    run("jobs")
    with warehouse.connect() as target:  # as a version before this one may have left it
        state.write_state(target, JOBS, "old", state.State(datetime(2099, 1, 1, tzinfo=UTC)))
    change(api, 111, total=222.25)
    assert run("jobs")["jobs"].status == "ok"
    assert str(column("total")["111"]) == "222.250000000"
    assert watermark() == datetime(2025, 2, 1, tzinfo=UTC)


@pytest.mark.soak
def test_073_total_booked_of_a_week_is_right_after_a_date_in_2099(serve, monkeypatch, tmp_path):
    """Half of the week's sales come on the second night; it was $87,380.21, and every light green."""
    store = Store()
    populate(store, seed=1, scale=0.02)
    estimates = list(store.items("estimates"))
    sold = [(row, e) for row, e in estimates if "2025-08-18" <= (e["soldOn"] or "") < "2025-08-26"][::2]
    for row, estimate in sold:
        still_open = {"status": {"value": 0, "name": "Open"}, "soldOn": None, "modifiedOn": "2025-08-01T00:00:00Z"}
        store.replace("estimates", row, estimate | still_open, datetime(2025, 8, 1, tzinfo=UTC))
    row, estimate = estimates[5]
    store.replace("estimates", row, estimate | {"modifiedOn": "2099-01-01T00:00:00Z"}, datetime(2025, 8, 2, tzinfo=UTC))
    running = serve(store, calls_per_second=1_000_000, export_page_size=300)
    for name, value in (running.environment | {"WAREHOUSE": str(tmp_path / "warehouse.duckdb")}).items():
        monkeypatch.setenv(name, value)
    assert ingest.run_ingest().status == "ok"
    for row, estimate in sold:
        changed = estimate | {"modifiedOn": "2025-09-15T00:00:00Z"}
        store.replace("estimates", row, changed, datetime(2025, 9, 15, tzinfo=UTC))
    store.settle()
    assert ingest.run_ingest("estimates").status == "ok"
    marts.build_marts(LAST_DAY.isoformat())
    with warehouse.connect() as target:
        found = target.query(
            "SELECT SUM(total_booked) AS booked FROM st_mart_v2.kpi_weekly_by_bu WHERE week_start = DATE '2025-08-18'"
        )["booked"].item()
    units = company.read_table(company.SANDBOX_PRESET / company.UNITS, company.COLUMNS[company.UNITS])
    weeks = compute_weekly_kpis(store, units, TIME_ZONE, LAST_DAY)
    truth = sum(kpis["total_booked"] or 0 for (_, week), kpis in weeks.items() if f"{week}" == "2025-08-18")
    assert f"{found:.2f}" == f"{float(truth):.2f}" == "179357.66"


def test_074_a_change_without_a_modification_date_arrives(api):
    run("jobs")
    changed = job(110, total=77.75, modifiedOn=None)
    api.store.replace("jobs", 9, changed, datetime(2025, 1, 31, tzinfo=UTC))
    api.store.settle()
    assert run("jobs")["jobs"].status == "ok"
    assert str(column("total")["110"]) == "77.750000000"


def test_075_a_deleted_record_is_noticed_named_and_counts_no_more(api):
    run("jobs,returns")
    api.store.remove("jobs", 9)
    api.store.remove("returns", 4)
    results = run("jobs,returns")
    assert {name: (r.status, r.deleted) for name, r in results.items()} == {"jobs": ("ok", 1), "returns": ("ok", 1)}
    assert (len(column("id")), len(column("id", "returns"))) == (29, 29)
    assert deleted() == [("jobs", "110"), ("returns", "105")]
    results = run("jobs,returns")  # the feed repeats deleted records
    assert [(r.status, r.changed, r.deleted) for r in results.values()] == [("ok", 0, 0)] * 2
    assert len(column("id", "returns")) == 29


def test_075_a_record_that_is_listed_again_is_here_again(api):
    run("jobs")
    removed = api.store.get("jobs", 9)
    api.store.remove("jobs", 9)
    run("jobs")
    api.store.add("jobs", removed)
    api.store.settle()
    assert run("jobs")["jobs"].status == "ok"
    assert ("110" in column("id"), deleted()) == (True, [])


def test_075_a_list_that_lost_half_of_its_records_is_not_believed(api, monkeypatch):
    run("jobs")
    monkeypatch.setattr(load, "FEW", 3)
    for row in range(15):
        api.store.remove("jobs", row)
    result = run("jobs")["jobs"]
    assert (result.status, len(column("id"))) == ("partial", 30)
    assert "15 records are no longer in ServiceTitan's list" in result.error
    (result,) = ingest.run_ingest("jobs", "full").entities  # as the sentence says
    assert (result.status, result.deleted, len(column("id"))) == ("ok", 15, 15)


def test_076_one_deleted_there_and_one_lost_here_do_not_hide_each_other(api):
    run("jobs")
    api.store.remove("jobs", 9)
    execute("DELETE FROM st_raw_v2.raw_jobs WHERE id = 111")
    assert run("jobs")["jobs"].status == "ok"
    assert set(column("id")) == {str(number) for number in range(101, 131)} - {"110"}


def test_076_what_is_lost_in_one_month_is_not_hidden_by_what_is_deleted_in_another(api, monkeypatch):
    for number in range(131, 141):
        api.store.add("jobs", job(number, createdOn="2025-03-05T00:00:00Z", modifiedOn="2025-03-05T00:00:00Z"))
    api.store.settle()
    monkeypatch.setattr(read, "WINDOW_ROWS", 30)
    run("jobs")
    api.store.remove("jobs", 35)  # of March
    execute("DELETE FROM st_raw_v2.raw_jobs WHERE id = 111")  # of January
    execute("UPDATE st_logs_v2.ingestion_logs SET held = 39 WHERE entity = 'jobs'")  # as if it had never come
    assert run("jobs")["jobs"].status == "ok"
    assert set(column("id")) == {str(number) for number in range(101, 141)} - {"136"}


def test_077_a_record_that_is_loaded_and_in_quarantine_counts_once(api, break_):
    run("jobs")
    change(api, 110, total=5)
    break_("mangle", "jobs$", field="total", value="much", ids=[110])
    execute("DELETE FROM st_raw_v2.raw_jobs WHERE id = 111")
    result = run("jobs")["jobs"]
    assert (result.status, result.in_quarantine, result.in_warehouse) == ("partial", 1, 30)
    assert len(column("id")) == 30


@pytest.mark.parametrize("created", [0, 1])
def test_078_a_row_that_leaves_while_pages_are_walked_costs_no_other(created, api, monkeypatch):
    get, done = client.Client.get, []

    def get_and_change(self, path, params):
        page = get(self, path, params)
        if path.endswith("/jobs") and params.get("page") == 1 and params.get("pageSize") == 10 and not done:
            done.append(True)  # the first page was read: its first row goes, so that the others move up by one
            api.store.remove("jobs", 0)
            for number in range(created):
                api.store.add("jobs", job(LAST_JOB + 1 + number, createdOn="2025-01-30T13:00:00Z"))
            api.store.settle()
        return page

    monkeypatch.setattr(client.Client, "get", get_and_change)
    assert run("jobs")["jobs"].status == "ok"
    assert done
    assert set(column("id")) == {str(number) for number in range(102, LAST_JOB + 1 + created)}


def paid(where: str = "TRUE") -> str:
    with warehouse.connect() as target:
        found = target.query(f"SELECT SUM(amount) AS paid FROM st_raw_v2.raw_payroll WHERE {where}")["paid"].item()
    return f"{found:.2f}"


@pytest.mark.parametrize("id_", [7, None])
def test_079_pay_that_moves_to_another_day_or_vanishes_beyond_the_lookback(id_, api):
    api.store.add("payroll", pay(0, id=id_, date="2024-06-03T00:00:00Z", amount=500))
    api.store.add("payroll", pay(0, id=id_ and 8, date="2024-07-04T00:00:00Z", amount=70))
    api.store.settle()
    run("payroll")
    assert paid("date < '2025-01-01'") == "570.00"
    moved = pay(0, id=id_, date="2024-06-05T00:00:00Z", amount=500, modifiedOn="2025-01-11T00:00:00Z")
    api.store.replace("payroll", 30, moved, datetime(2025, 1, 11, tzinfo=UTC))
    api.store.settle()
    assert run("payroll")["payroll"].status == "ok"
    assert (paid("date < '2025-01-01'"), paid("date = '2024-06-05'")) == ("570.00", "500.00")
    api.store.remove("payroll", 31)
    assert run("payroll")["payroll"].status == "ok"
    assert paid("date < '2025-01-01'") == "500.00"


@pytest.mark.parametrize(
    ("fault", "path", "arguments", "words"),
    [
        ("ignore", "/jobs$", {"names": ["page"]}, "gives page 1 again as page 2"),
        ("ignore", "/jobs$", {"names": ["createdOnOrAfter"]}, "ignores createdOnOrAfter or createdBefore"),
        ("ignore", "/jobs$", {"names": ["createdBefore"]}, "ignores createdOnOrAfter or createdBefore"),
        ("ignore", "items$", {"names": ["dateOnOrAfter"]}, "ignores dateOnOrAfter or dateOnOrBefore"),
    ],
)
def test_080_a_server_that_ignores_a_parameter_is_named_and_ends(fault, path, arguments, words, api, break_):
    break_(fault, path, **arguments)
    entity = "jobs" if "jobs" in path else "payroll"
    result = run(entity)[entity]
    assert result.status == "failed"
    assert words in result.error


def test_080_tokens_that_alternate_end(api, break_):
    run("jobs")
    break_("alternate_tokens", "export/jobs$")
    result = run("jobs")["jobs"]
    assert (result.status, "not from where to continue" in result.error) == ("failed", True)


@pytest.mark.parametrize("engine", BIGQUERY)
def test_081_a_creation_that_moves_to_another_month_makes_no_second_row(engine, api, monkeypatch, request):
    if engine == "bigquery":
        monkeypatch.setenv("BQ_PROJECT", f"moved-{uuid.uuid4().hex[:12]}")
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", request.getfixturevalue("emulator"))
    # The next reading brings no other record of January, whose month would be looked at anyway.
    march = "2025-03-05T00:00:00Z"
    api.store.add("jobs", job(131, createdOn=march, modifiedOn=march))
    run("jobs")
    monkeypatch.setattr(DuckDBWarehouse, "remote", True)  # statements are bounded by months, as on BigQuery
    change(api, 110, "2025-03-06T00:00:00Z", createdOn="2024-11-05T00:00:00Z")
    assert run("jobs")["jobs"].status == "ok"
    with warehouse.connect() as target:
        assert target.query("SELECT COUNT(*) AS n FROM st_raw_v2.raw_jobs")["n"].item() == 31
    assert str(column("createdOn")["110"])[:10] == "2024-11-05"


@pytest.fixture
def phoenix(monkeypatch):
    """A machine whose own zone is Phoenix."""
    monkeypatch.setenv("TZ", "America/Phoenix")
    time.tzset()
    yield
    monkeypatch.undo()
    os.environ.pop("TZ", None)
    time.tzset()


def test_082_dates_without_a_zone_and_with_an_offset_on_a_machine_in_phoenix(phoenix, api):
    api.store.add("payroll", pay(0, id=7, date="2024-06-03T00:00:00", amount=500))
    change(api, 110, createdOn="2025-01-10T03:00:00")
    change(api, 111, createdOn="2025-01-10T20:00:00-07:00")
    run("jobs,payroll")
    api.store.replace(
        "payroll",
        30,
        pay(0, id=7, date="2024-06-03T00:00:00", amount=501, modifiedOn="2025-01-10T00:00:00"),
        datetime(2025, 1, 11, tzinfo=UTC),
    )
    api.store.settle()
    results = run("jobs,payroll")
    assert {r.status for r in results.values()} == {"ok"}
    assert paid("date = '2024-06-03'") == "501.00"
    assert [str(column("createdOn")[key]) for key in ("110", "111")] == [
        "2025-01-10 03:00:00+00:00",
        "2025-01-11 03:00:00+00:00",
    ]


@pytest.mark.parametrize("hours", [26, 72])
def test_112_a_change_that_is_committed_late_arrives(hours, api):
    run("jobs,returns")
    at = datetime(2025, 1, 30, 12, tzinfo=UTC) - timedelta(hours=hours)
    stamp = f"{at:%Y-%m-%dT%H:%M:%S}Z"
    change(api, 104, stamp, total=99.5)
    late = api.store.get("returns", 3) | {"returnAmount": 12.5, "modifiedOn": stamp}
    api.store.replace("returns", 3, late, at)
    api.store.settle()
    assert [r.status for r in run("jobs,returns").values()] == ["ok", "ok"]
    assert (str(column("total")["104"]), str(column("returnAmount", "returns")["104"])) == (
        "99.500000000",
        "12.500000000",
    )


def test_119_the_marks_of_a_night_are_the_servers_time_not_the_machines(api, monkeypatch):
    ahead = timedelta(days=3300)

    class Wrong(datetime):
        @classmethod
        def now(cls, tz=None):
            return datetime.now(tz) + ahead

    with monkeypatch.context() as patch:
        patch.setattr(client, "datetime", Wrong)
        run("jobs")
    with warehouse.connect() as target:
        marks = target.query(
            "SELECT MAX(_ingested_at) AS mark FROM st_raw_v2.raw_jobs"
            " UNION ALL SELECT MAX(finished_at) FROM st_logs_v2.ingestion_logs"
        )["mark"]
    assert all(abs(mark - pd.Timestamp.now(UTC)) < timedelta(minutes=10) for mark in marks)


def test_119_builds_of_a_wrong_clock_are_healed_by_the_next_right_one(healthy):
    with warehouse.connect() as target:
        weekly = "SELECT COUNT(*) AS weeks, SUM(total_booked) AS booked FROM st_mart_v2.kpi_weekly_by_bu"
        before = target.query(weekly).iloc[0].tolist()
        target.execute(  # as a build leaves it that believed it was 2035
            "UPDATE st_logs_v2.builds SET noted_at = TIMESTAMP '2035-05-01 00:00:00+00',"
            " started_at = TIMESTAMP '2035-05-01 00:00:00+00' WHERE TRUE",
            "DELETE FROM st_raw_v2.raw_estimates WHERE soldOn >= TIMESTAMP '2025-09-08 00:00:00+00'",
        )
    assert marts.build_marts().plan.mode == "full"
    with warehouse.connect() as target:
        assert target.query("SELECT MAX(noted_at) AS newest FROM st_logs_v2.builds")["newest"][0] < datetime.now(UTC)
        after = target.query(weekly).iloc[0].tolist()
    assert (after[0], after[1] < before[1]) == (before[0], True)
    assert marts.build_marts().plan.mode == "nothing"
