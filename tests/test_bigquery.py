"""The job on BigQuery: the tables of DuckDB to the cent, loads that a killed run resumes, sizes, growth and cost.

The google client is the real one; the server is an emulator, or a proxy before it where it is too lenient.
"""

import base64
import dataclasses
import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import bigquery_proxy
import pandas as pd
import pandas_gbq
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from sandbox import tenant as tenants
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import company, settings, warehouse
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import load as loading
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.reporting import site
from stkpi.runs import runner
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse import Usage, ensure_tables
from stkpi.warehouse.bigquery import BigQueryWarehouse
from stkpi.warehouse.duckdb import DuckDBWarehouse
from stkpi.warehouse.schema import Column, Table

FIRST_DAY = date(2025, 7, 7)
UTC_NOW = datetime(2025, 9, 1, 12, 30, 1, 234567, tzinfo=UTC)


def project() -> str:
    """A project of the emulator that is nobody else's."""
    return f"test-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def target(emulator: str) -> Iterator[BigQueryWarehouse]:
    """An empty warehouse of BigQuery."""
    with BigQueryWarehouse(project(), emulator=emulator) as target:
        yield target


@pytest.fixture
def file(tmp_path: Path) -> Iterator[DuckDBWarehouse]:
    """An empty warehouse of DuckDB."""
    with DuckDBWarehouse(tmp_path / "warehouse.duckdb", 1) as target:
        yield target


@pytest.fixture(params=["duckdb", "bigquery"])
def either(request: pytest.FixtureRequest) -> warehouse.Warehouse:
    """The one and the other."""
    return request.getfixturevalue({"duckdb": "file", "bigquery": "target"}[request.param])


# --- the same tables ----------------------------------------------------------------------------------------------


@pytest.fixture
def summer(serve, monkeypatch) -> Store:
    """Ten weeks of a company, with the known case, over HTTP: the environment points at it."""
    monkeypatch.setattr(tenants, "FIRST_DAY", FIRST_DAY)
    store = Store()
    populate(store, seed=4, scale=0.02)
    running = serve(store, calls_per_second=1_000_000, export_page_size=300)
    for name, value in running.environment.items():
        monkeypatch.setenv(name, value)
    return store


def rows(frame: pd.DataFrame) -> list[tuple]:
    """The rows with their types (Decimal, date, …) and None for NULL, in an order of their own."""
    plain = frame.astype(object).where(frame.notna(), None)
    return sorted(plain.itertuples(index=False, name=None), key=repr)


def kpi_tables() -> dict[str, pd.DataFrame]:
    """Every fact and KPI table, and the dashboard's view."""
    names = [mart.name for mart in marts.list_marts() if mart.name.startswith("st_mart_v2.")]
    with warehouse.connect() as target:
        return {name: target.query(f"SELECT * FROM {name}") for name in names}


def read_parts(folder: Path) -> dict[str, Any]:
    """The figures and rows of the page Explore; rows in an order of their own."""
    parts: dict[str, Any] = {}
    for path in folder.glob("*.js"):
        content = json.loads(path.read_text().removeprefix("book.add(").partition(", ")[2].removesuffix(");\n"))
        if isinstance(content, str):
            columns = json.loads(gzip.decompress(base64.b64decode(content)))
            scales = columns.pop("scales")
            parts[path.stem] = (scales, list(columns), sorted(zip(*columns.values(), strict=True), key=repr))
        else:
            parts[path.stem] = content.get("figures", content)
    return parts


@pytest.mark.soak
def test_a_whole_night_gives_the_tables_of_duckdb_to_the_cent(healthy, emulator, tmp_path, monkeypatch) -> None:
    name, folder = project(), shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company")
    for key, value in {"BQ_PROJECT": name, "BIGQUERY_EMULATOR_HOST": emulator, "COMPANY": str(folder)}.items():
        monkeypatch.setenv(key, value)
    assert runner.run_spec(settings.ROOT / "notebooks" / "nightly.yml", runs=tmp_path / "runs") == 0
    found = kpi_tables()
    weekly = found["st_mart_v2.kpi_weekly_by_bu"]
    known = weekly[(weekly["business_unit"] == "Phoenix-Sales") & (weekly["week_start"] == date(2025, 8, 18))]
    assert known[["leads", "estimates", "closed", "opportunities"]].to_numpy().tolist() == [[96, 85, 31, 78]]
    assert len(weekly) == 63 * 13  # weeks, units
    monkeypatch.delenv("BQ_PROJECT")
    marts.build_marts(full=True)  # with what the night has proposed for the company's folder
    for table, frame in kpi_tables().items():
        assert list(found[table].columns) == list(frame.columns)
        assert rows(found[table]) == rows(frame), table
    [pages] = (tmp_path / "runs" / "data").glob("*/")  # the night wrote them from BigQuery
    site.write_site(tmp_path / "duckdb", pages.name, LAST_DAY)
    ours, theirs = (read_parts(folder / "data" / pages.name) for folder in (tmp_path / "duckdb", tmp_path / "runs"))
    assert theirs.keys() == ours.keys()
    for part, content in ours.items():
        assert theirs[part] == content, part
    # pandas-gbq, as somebody would use it in a notebook of his own.
    client = bigquery.Client(name, AnonymousCredentials(), client_options={"api_endpoint": emulator})
    sums = pandas_gbq.read_gbq(
        "SELECT SUM(leads) AS leads, SUM(dollars_collected) AS collected FROM st_mart_v2.kpi_weekly_by_bu",
        project_id=name,
        bigquery_client=client,
        progress_bar_type=None,
    )
    assert sums.iloc[0].tolist() == [weekly["leads"].sum(), weekly["dollars_collected"].sum()]
    assert raw_partition(client) == ("createdOn", "MONTH", ["_key"], "ServiceTitan's jpm API, jobs.")


def raw_partition(client: bigquery.Client) -> tuple:
    jobs = client.get_table("st_raw_v2.raw_jobs")
    assert {field.mode for field in jobs.schema} == {"NULLABLE"}
    assert {field.name: field.description for field in jobs.schema}["invoiceId"] == "The record's invoiceId"
    return jobs.time_partitioning.field, jobs.time_partitioning.type_, jobs.clustering_fields, jobs.description


FRAME = """SELECT 1 AS number, CAST(NULL AS INT64) AS hole, NUMERIC '1.25' AS money, DATE '2025-02-28' AS day,
  TIMESTAMP '2025-01-01 01:02:03.456789+00' AS moment, TRUE AS yes, 'x' AS text, CAST(1.5 AS FLOAT64) AS ratio
UNION ALL SELECT 9007199254740993, 9007199254740993, NULL, NULL, NULL, NULL, NULL, NULL"""


def test_frames_have_the_same_values_and_types_on_both(file, target) -> None:
    one, other = file.query(FRAME), target.query(FRAME)
    assert one.dtypes.to_dict() == other.dtypes.to_dict()
    assert rows(one) == rows(other)
    [first] = [row for row in other.to_dict("records") if row["text"] == "x"]
    assert first["money"] == Decimal("1.25")
    assert first["day"] == date(2025, 2, 28)
    assert first["moment"] == pd.Timestamp("2025-01-01 01:02:03.456789", tz="UTC")
    assert file.query(f"SELECT * FROM ({FRAME}) AS t WHERE FALSE").columns.tolist() == list(other.columns)


def test_values_go_in_as_they_come_out(either) -> None:
    given = {"number": 7, "money": Decimal("0.1"), "text": "O'Neil @x", "day": date(2024, 2, 29), "moment": UTC_NOW}
    columns = ", ".join(f"@{name} AS {name}" for name in given)
    found = either.query(f"SELECT {columns}, CAST(@watermark AS TIMESTAMP) AS nothing", **given, watermark=None)
    assert rows(found) == [(*given.values(), None)]


def test_an_empty_cell_of_a_csv_file_is_null_on_both(either, tmp_path) -> None:
    path = tmp_path / "units.csv"
    path.write_text('name,rule\n"Sales, North",\n,x\n', encoding="utf-8")
    for _ in range(2):  # a second load replaces the first
        assert either.load_file("st_stage_v2.units", path, [("name", "STRING"), ("rule", "STRING")]) == 2
    found = either.query("SELECT * FROM st_stage_v2.units")
    assert rows(found) == [("Sales, North", None), (None, "x")]


# --- tables that grow -----------------------------------------------------------------------------------------------

SMALL = Table("st_raw_v2.raw_things", (Column("id", "INT64"), Column("createdOn", "TIMESTAMP", 'Its "birth"')),
              partition="TIMESTAMP_TRUNC(createdOn, MONTH)", cluster=("id",), description="Things.")  # fmt: skip


def test_a_table_gets_the_columns_that_the_registry_has_gained(either) -> None:
    ensure_tables(either, [SMALL])
    either.execute("INSERT INTO st_raw_v2.raw_things (id, createdOn) VALUES (1, TIMESTAMP '2025-01-01 00:00:00+00')")
    grown = Table(**{**vars(SMALL), "columns": (*SMALL.columns, Column("total", "NUMERIC"), Column("note", "STRING"))})
    ensure_tables(either, [grown])
    ensure_tables(either, [grown])
    ensure_tables(either, [SMALL])  # an older program does not take them away
    assert either.list_columns("st_raw_v2") == {
        SMALL.name: {"id": "INT64", "createdOn": "TIMESTAMP", "total": "NUMERIC", "note": "STRING"}
    }
    assert either.query(f"SELECT id FROM {SMALL.name} WHERE total IS NULL")["id"].tolist() == [1]


def test_a_column_of_another_type_is_refused_in_a_sentence(either) -> None:
    ensure_tables(either, [SMALL])
    other = Table(SMALL.name, (Column("id", "STRING"),))
    with pytest.raises(UserError, match=r"^st_raw_v2.raw_things.id is INT64 in the warehouse and must be STRING: \w"):
        ensure_tables(either, [other])


def test_a_table_that_was_stored_otherwise_is_replaced(emulator, proxy) -> None:
    with BigQueryWarehouse(project(), emulator=proxy.url) as target:
        target.execute("CREATE OR REPLACE TABLE st_mart_v2.t AS SELECT 1 AS x")
        refused = (
            "Cannot replace a table with a different partitioning spec. Instead, DROP the table, and then recreate it."
        )
        proxy.faults = [bigquery_proxy.failed(lambda request: request.submits, "invalidQuery", refused, 1)]
        target.execute("CREATE OR REPLACE TABLE st_mart_v2.t\nCLUSTER BY x AS SELECT 2 AS x")
        assert target.query("SELECT x FROM st_mart_v2.t")["x"].tolist() == [2]


# --- loads ------------------------------------------------------------------------------------------------------------


def record(number: int, size: int = 0) -> dict:
    """A tag type whose name is `size` letters that do not compress."""
    moment = f"2025-0{1 + number % 8}-10T12:00:00Z"
    return {"id": number, "name": os.urandom(size // 2).hex(), "createdOn": moment, "modifiedOn": moment}


def reading(target: warehouse.Warehouse) -> loading.Reading:
    entity = ENTITIES["tag_types"]
    ensure_tables(target, (*state.TABLES, loading.define_raw_table(entity)))
    return loading.Reading(entity, "run-1", "incremental", "tags")


@pytest.mark.soak
@pytest.mark.parametrize("large", [0, 1])
def test_30_mb_load_through_a_server_that_refuses_10_mb(large, proxy, tmp_path) -> None:
    proxy.faults = [bigquery_proxy.too_large()]
    records = [record(number, 300_000) for number in range(100)] + [record(999, 11_000_000)] * large
    with BigQueryWarehouse(project(), emulator=proxy.url) as target:
        done = loading.load_pages(target, tmp_path, reading(target), [Page(records, False, len(records))])
        assert (done.fetched, done.loaded, done.quarantined) == (100 + large, 100, large)
        found = target.query("SELECT COUNT(*) AS n, SUM(LENGTH(name)) AS letters FROM st_raw_v2.raw_tag_types")
        assert found.iloc[0].tolist() == [100, 30_000_000]
        held = target.query("SELECT key, reason, JSON_VALUE(record, '$.createdOn') AS made FROM st_logs_v2.quarantine")
        assert held[["key", "made"]].to_numpy().tolist() == [["999", "2025-08-10T12:00:00Z"]] * large
        assert all(re.fullmatch(r"too large for a request: 11,0\d\d,\d\d\d bytes", said) for said in held["reason"])
    sent = [request.size for request in proxy.requests if request.rows and request.size <= 10_000_000]
    assert max(sent) < 8_500_000
    assert len(sent) >= 4


def test_a_record_too_large_for_duckdb_is_quarantined_as_well(file, tmp_path) -> None:
    done = loading.load_pages(file, tmp_path, reading(file), [Page([record(1), record(2, 34_000_000)], False, 2)])
    assert (done.fetched, done.loaded, done.quarantined) == (2, 1, 1)
    held = file.query("SELECT key, reason FROM st_logs_v2.quarantine")
    assert held["key"].tolist() == ["2"]
    assert held["reason"][0].startswith("too large to load: 34,000,")
    assert list(tmp_path.glob("*.gz")) == []


@pytest.mark.fault(39, 40)
@pytest.mark.soak
def test_a_run_killed_between_submit_and_merge_resumes_its_load_jobs(summer, proxy, tmp_path, monkeypatch) -> None:
    for key, value in {"BQ_PROJECT": project(), "BIGQUERY_EMULATOR_HOST": proxy.url}.items():
        monkeypatch.setenv(key, value)
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "warehouse.duckdb"))
    reached, go_on = threading.Event(), threading.Event()

    def hold(_: bigquery_proxy.Request, proceed: bigquery_proxy.Proceed) -> bigquery_proxy.Reply:
        reached.set()
        go_on.wait(60)
        return proceed()

    proxy.faults = [
        bigquery_proxy.Fault(
            lambda request: "CREATE OR REPLACE TABLE st_stage_v2.typed_jobs" in request.statement, hold
        )
    ]
    with subprocess.Popen([sys.executable, "-m", "stkpi", "ingest", "--entities", "jobs"], env=os.environ) as process:
        assert reached.wait(120)
        process.send_signal(signal.SIGKILL)
    proxy.faults.clear()
    go_on.set()
    first = loads(proxy)
    assert first
    proxy.requests.clear()
    [result] = ingest.run_ingest("jobs").entities
    assert (result.status, result.fetched) == ("ok", len(list(summer.items("jobs"))))
    assert first <= loads(proxy)  # sent again under the same ids, which the server knows; then other windows
    name = ENTITIES["jobs"].table
    with warehouse.connect() as target:
        found = target.query(f"SELECT * EXCEPT (_run_id, _ingested_at, _source) FROM {name}")
        assert target.list_columns("st_stage_v2").keys() == {"st_stage_v2.writer"}  # this connection's
    monkeypatch.delenv("BQ_PROJECT")
    assert ingest.run_ingest("jobs").status == "ok"
    with warehouse.connect() as target:
        expected = target.query(f"SELECT * EXCEPT (_run_id, _ingested_at, _source) FROM {name}")
    assert rows(found) == rows(expected)


def loads(proxy: bigquery_proxy.Proxy) -> set[str]:
    """The ids of the load jobs that were submitted."""
    return {request.job_id for request in proxy.requests if request.rows}


def test_a_merge_prunes_by_the_months_of_its_rows() -> None:
    months = [date(2024, 12, 1), date(2025, 1, 1), date(2025, 3, 1)]
    assert loading.created_in_sql(months) == (
        "(T.createdOn >= TIMESTAMP '2024-12-01 00:00:00+00' AND T.createdOn < TIMESTAMP '2025-02-01 00:00:00+00'"
        " OR T.createdOn >= TIMESTAMP '2025-03-01 00:00:00+00' AND T.createdOn < TIMESTAMP '2025-04-01 00:00:00+00'"
        " OR T.createdOn IS NULL)"
    )
    assert loading.created_in_sql([*months, None]) == "TRUE"
    assert loading.created_in_sql([]) == "(T.createdOn IS NULL)"


# --- what it costs, and who may ------------------------------------------------------------------------------------


def billed(proxy: bigquery_proxy.Proxy, size: int) -> bigquery_proxy.Fault:
    """Every job is billed `size` bytes: the emulator knows none."""

    def answer(_: bigquery_proxy.Request, proceed: bigquery_proxy.Proceed) -> bigquery_proxy.Reply:
        reply = proceed()
        job = json.loads(reply.body)
        if "statistics" in job:
            job["statistics"]["totalBytesProcessed"] = str(size - 1)
            job["statistics"].setdefault("query", {}).update(
                totalBytesBilled=str(size), totalBytesProcessed=str(size - 1)
            )
        return dataclasses.replace(reply, body=json.dumps(job).encode())

    return bigquery_proxy.Fault(lambda request: "/jobs" in request.path and not request.rows, answer)


def test_what_is_billed_is_counted_and_a_step_stops_at_its_budget(proxy) -> None:
    usage = Usage()
    with BigQueryWarehouse(project(), emulator=proxy.url, usage=usage, budget=25_000_000) as target:
        proxy.faults = [billed(proxy, 10_000_000)]
        target.query("SELECT 1 AS x")
        target.execute("CREATE OR REPLACE TABLE st_stage_v2.t AS SELECT 1 AS x")
        limits = [
            request.job["configuration"]["query"]["maximumBytesBilled"] for request in proxy.requests if request.submits
        ]
        assert limits == ["25000000", "15000000"]
        assert (usage.statements, usage.processed, usage.billed) == (2, 19_999_998, 20_000_000)
        target.query("SELECT 1 AS x")
        with pytest.raises(WarehouseError, match=r"budget of 25,000,000 bytes \(30,000,000 are used\): raise"):
            target.query("SELECT 1 AS x")
        assert len([request for request in proxy.requests if request.submits]) == 3


def test_a_statement_that_google_finds_too_expensive_stops_the_step(proxy) -> None:
    said = "Query exceeded limit for bytes billed: 1000. 10485760 or higher required."
    with BigQueryWarehouse(project(), emulator=proxy.url, budget=1000) as target:
        proxy.faults = [bigquery_proxy.failed(lambda request: request.submits, "bytesBilledLimitExceeded", said)]
        with pytest.raises(
            WarehouseError, match=r"more than its budget of 1,000 bytes .0 are used.: raise BQ_STEP_BUDGET"
        ):
            target.query("SELECT 1 AS x")


def test_a_dry_run_runs_nothing(either) -> None:
    either.execute("CREATE TABLE st_raw_v2.t (x INT64)")
    assert either.estimate_bytes("INSERT INTO st_raw_v2.t (x) VALUES (@total)", total=1) == 0
    assert either.query("SELECT COUNT(*) AS n FROM st_raw_v2.t")["n"][0] == 0
    with pytest.raises(either.NotFound):
        either.estimate_bytes("SELECT x FROM st_raw_v2.nothing")


def test_without_credentials_it_says_how_to_get_some(monkeypatch, tmp_path) -> None:
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(UserError, match=r"Google credentials are missing: run `gcloud auth application-default"):
        BigQueryWarehouse("company")


def test_an_account_without_a_role_is_told_which(proxy) -> None:
    proxy.faults = [bigquery_proxy.denied(lambda request: True)]
    with pytest.raises(
        UserError, match=r"not allowed to use BigQuery in project company: grant it .*roles/bigquery.jobUser"
    ):
        BigQueryWarehouse("company", emulator=proxy.url)


def test_datasets_elsewhere_are_told(emulator) -> None:
    name = project()
    BigQueryWarehouse(name, "EU", emulator=emulator).close()
    with pytest.raises(UserError, match=r"^The datasets are in EU, not in US: set BQ_LOCATION=EU\.$"):
        BigQueryWarehouse(name, "US", emulator=emulator)


def test_scratch_tables_that_a_crash_has_left_go_after_three_days(target, emulator) -> None:
    client = target._client
    assert client.get_dataset("st_stage_v2").default_table_expiration_ms == 3 * 24 * 3600 * 1000
    assert client.get_dataset("st_raw_v2").default_table_expiration_ms is None
