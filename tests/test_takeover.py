"""Beside what is already there: nothing that this program did not make is changed, replaced, dropped or written to.

The old warehouse is tests/data/old_warehouse.sql, on DuckDB and on the emulator of BigQuery.
"""

import shutil
import sys
import uuid
from collections.abc import Callable
from contextlib import nullcontext
from datetime import date
from pathlib import Path
from typing import Any, Protocol

import duckdb
import pandas as pd
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

from sandbox import tenant as tenants
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import __main__, company, settings, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.marts import invoice_repair as repair
from stkpi.marts import takeover
from stkpi.runs import runner
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.bigquery import BigQueryWarehouse
from stkpi.warehouse.dialect import to_duckdb
from stkpi.warehouse.duckdb import DuckDBWarehouse
from stkpi.warehouse.ownership import Ownership
from stkpi.warehouse.schema import Column, Table

SCRIPT = Path(__file__).with_name("data").joinpath("old_warehouse.sql").read_text(encoding="utf-8")
COMMANDS = (
    "ingest", "rebuild", "status", "validate", "repair", "repair --table st_raw_v2.raw_invoices --apply",
    "find --kpi leads", "reconcile --export docs/old-dashboard.csv",
)  # fmt: skip
SENTENCE = (
    "This program did not make st_logs_v2.ingestion_logs, st_logs_v2.sync_state, st_mart_v2.daily_kpis, "
    "st_mart_v2.kpi_weekly_by_bu, st_mart_v2.leads_daily_bu, st_mart_v2.regional_kpis, st_raw_v2.raw_collections, "
    "st_raw_v2.raw_invoices, st_raw_v2.raw_jobs, st_raw_v2.raw_locations and 5 more, and leaves everything as it is: "
    "set DATASETS=st_{}_v3 in .env, so that its own tables get other names."
)


class Old(Protocol):
    """The old warehouse on one engine."""

    settings: dict[str, str]

    def run(self, script: str) -> None:
        """Run GoogleSQL statements as its owner."""

    def dump(self) -> Any:
        """Everything that is in the datasets of the old warehouse, and the names of all datasets."""

    def open(self, **options: Any) -> Warehouse:
        """Open it as this program does."""


class OldFile:
    """In a DuckDB file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.settings = {"WAREHOUSE": str(file)}

    def run(self, script: str) -> None:
        with duckdb.connect(self.file) as connection:
            for statement in to_duckdb(script):
                connection.execute(statement)

    def dump(self, pattern: str = "st_%_v2") -> Any:
        with duckdb.connect(self.file, read_only=True) as connection:
            found = connection.execute(
                "SELECT schema_name || '.' || table_name, sql, comment FROM duckdb_tables() WHERE schema_name LIKE $1"
                " UNION ALL SELECT schema_name || '.' || view_name, sql, comment FROM duckdb_views()"
                " WHERE schema_name LIKE $1 ORDER BY 1",
                [pattern],
            ).fetchall()
            rows = {
                name: connection.execute(f"SELECT COUNT(*), SUM(HASH(t) >> 8) FROM {name} AS t").fetchone()
                for name, _, _ in found
            }
            schemas = "SELECT schema_name FROM duckdb_schemas() WHERE schema_name LIKE $1 ORDER BY 1"
            return found, rows, connection.execute(schemas, [pattern]).fetchall()

    def open(self, **options: Any) -> Warehouse:
        return DuckDBWarehouse(self.file, 1, **options)


class OldProject:
    """In a project of BigQuery."""

    def __init__(self, emulator: str) -> None:
        self.name, self.url = f"old-{uuid.uuid4().hex[:12]}", emulator
        self.settings = {"BQ_PROJECT": self.name, "BIGQUERY_EMULATOR_HOST": emulator}
        self.client = bigquery.Client(self.name, AnonymousCredentials(), client_options={"api_endpoint": emulator})

    def run(self, script: str) -> None:
        for statement in script.split(";\n"):
            if statement.strip():
                self.client.query_and_wait(statement)

    def dump(self) -> Any:
        datasets = [item.dataset_id for item in self.client.list_datasets() if item.dataset_id.endswith("_v2")]
        tables = [self.client.get_table(item.reference) for name in datasets for item in self.client.list_tables(name)]
        rows = {
            f"{table.dataset_id}.{table.table_id}": sorted(
                repr(tuple(row.values()))
                for row in self.client.query_and_wait(f"SELECT * FROM {table.dataset_id}.{table.table_id}")
            )
            for table in tables
        }
        return (
            [self.client.get_dataset(name).to_api_repr() for name in datasets],
            [table.to_api_repr() for table in tables],  # with labels, options, descriptions and the last change
            rows,
        )

    def open(self, **options: Any) -> Warehouse:
        return BigQueryWarehouse(self.name, emulator=self.url, **options)


@pytest.fixture(params=["duckdb", "bigquery"])
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    """An empty file or project."""
    if request.param == "duckdb":
        return OldFile(tmp_path / "old.duckdb")
    return OldProject(request.getfixturevalue("emulator"))


@pytest.fixture
def old(empty: Old) -> Old:
    """The old warehouse on one engine and the other."""
    empty.run(SCRIPT)
    return empty


def point(patch: pytest.MonkeyPatch, *settings: dict[str, str]) -> None:
    for name, value in (item for each in settings for item in each.items()):
        patch.setenv(name, value)


def command(patch: pytest.MonkeyPatch, line: str) -> int:
    patch.setattr(sys, "argv", ["stkpi", *line.split()])
    return __main__.main()


# --- under its names --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["duckdb", pytest.param("bigquery", marks=pytest.mark.soak)])
def test_every_command_answers_with_one_sentence_and_writes_nothing(
    engine, tmp_path, request, sandbox, monkeypatch, capsys
):
    old = OldFile(tmp_path / "old.duckdb") if engine == "duckdb" else OldProject(request.getfixturevalue("emulator"))
    old.run(SCRIPT)
    point(monkeypatch, sandbox.environment, old.settings)
    before = old.dump()
    for line in COMMANDS:
        assert command(monkeypatch, line) == 2
        assert capsys.readouterr().err == f"{SENTENCE}\n", line
        assert old.dump() == before, line
    assert command(monkeypatch, "doctor") == 2
    assert SENTENCE in capsys.readouterr().out
    assert old.dump() == before


def test_the_remedy_is_a_name_that_is_not_in_use(old):
    with pytest.raises(UserError, match=r"set DATASETS=st_\{\}_v3 in"):
        old.open()
    old.open(datasets="st_{}_v3", read_only=True).close()
    old.run("CREATE SCHEMA st_raw_v3;\nCREATE TABLE st_raw_v3.mine (x INT64);\n")
    with pytest.raises(UserError, match=r"^This program did not make st_raw_v3.mine, .* set DATASETS=st_\{\}_v4 in"):
        old.open(datasets="st_{}_v3")


def test_reading_creates_nothing_not_even_datasets(empty):
    with empty.open(read_only=True) as target:
        with pytest.raises(target.NotFound):
            target.query("SELECT * FROM st_raw_v2.raw_jobs")
        with pytest.raises(RuntimeError, match=r"opened for reading only, and st_raw_v2.t would be written"):
            target.execute("CREATE TABLE st_raw_v2.t (x INT64)")
    assert not isinstance(empty, OldFile) or not empty.file.exists()
    assert isinstance(empty, OldFile) or list(empty.client.list_datasets()) == []


# --- one table of another, in our datasets ----------------------------------------------------------------------------

HARMS = (
    "CREATE OR REPLACE TABLE st_mart_v2.mine AS SELECT 1 AS x",
    "CREATE OR REPLACE VIEW st_mart_v2.mine AS SELECT 1 AS x",
    "CREATE TABLE IF NOT EXISTS st_mart_v2.mine (x INT64)",
    "ALTER TABLE st_mart_v2.mine ADD COLUMN y INT64",
    "INSERT INTO st_mart_v2.mine (x) SELECT 7",
    "MERGE INTO st_mart_v2.mine AS T USING (SELECT 7 AS x) AS S ON T.x = S.x WHEN MATCHED THEN DELETE",
    "UPDATE st_mart_v2.mine SET x = 7 WHERE TRUE",
    "DELETE FROM st_mart_v2.mine WHERE TRUE",
    "TRUNCATE TABLE st_mart_v2.mine",
    "DROP TABLE st_mart_v2.mine",
)


@pytest.mark.parametrize(  # a file that this program writes has no other writer meanwhile
    ("empty", "since"), [("duckdb", "before"), ("bigquery", "before"), ("bigquery", "meanwhile")], indirect=["empty"]
)
def test_no_statement_harms_a_table_that_is_not_ours(empty, since, tmp_path):
    mine = "CREATE TABLE st_mart_v2.mine AS SELECT 1 AS x;\nCREATE VIEW st_mart_v2.view_of_mine AS SELECT 1 AS x;\n"
    csv = tmp_path / "mine.csv"
    csv.write_text("x\n7\n", encoding="utf-8")
    with empty.open() as target:
        target.execute("CREATE TABLE st_mart_v2.ours AS SELECT 1 AS x")
    if since == "before":
        empty.run(mine)
    with empty.open() as target:  # what has nothing to do with it goes on
        if since == "meanwhile":
            empty.run(mine)
        attempts: list[Callable[[], Any]] = [
            *(lambda sql=sql: target.execute(sql) for sql in HARMS),
            lambda: target.query(HARMS[4]),
            lambda: target.run_transaction("DELETE FROM st_mart_v2.ours WHERE TRUE", HARMS[6]),
            lambda: target.drop("st_mart_v2.ours", "st_mart_v2.mine"),
            lambda: target.drop("st_mart_v2.view_of_mine"),
            lambda: target.load_file("st_mart_v2.mine", csv, [("x", "STRING")]),
            lambda: ensure_tables(target, [Table("st_mart_v2.mine", (Column("x", "STRING"),))]),
            lambda: ensure_tables(target, [Table("st_mart_v2.mine", (Column("x", "INT64"), Column("y", "INT64")))]),
        ]
        for attempt in attempts:
            with pytest.raises(UserError, match=r"^This program did not make st_mart_v2\.(view_of_)?mine, and leaves"):
                attempt()
        for table in ("mine", "ours"):
            assert target.query(f"SELECT * FROM st_mart_v2.{table}").to_dict("list") == {"x": [1]}
        assert target.query("SELECT * FROM st_mart_v2.view_of_mine").to_dict("list") == {"x": [1]}


@pytest.mark.parametrize("empty", ["duckdb", pytest.param("bigquery", marks=pytest.mark.soak)], indirect=True)
def test_what_is_ours_stays_ours_however_it_is_made_again(empty, tmp_path):
    rows = tmp_path / "t.csv"
    rows.write_text("x\n7\n", encoding="utf-8")
    for datasets in ("st_{}_v2", "acme_{}"):
        for _ in range(2):
            with empty.open(datasets=datasets) as target:
                target.execute(
                    "CREATE OR REPLACE TABLE st_mart_v2.t\nCLUSTER BY x AS SELECT CAST(1 AS INT64) AS x",
                    "CREATE OR REPLACE VIEW st_mart_v2.v AS SELECT x FROM st_mart_v2.t",
                )
                ensure_tables(target, [Table("st_mart_v2.d", (Column("x", "INT64"),), description='A "table"')])
                ensure_tables(target, [Table("st_mart_v2.d", (Column("x", "INT64"), Column("y", "INT64")))])
                assert target.load_file("st_mart_v2.l", rows, [("x", "STRING")]) == 1
                assert target.list_columns("st_mart_v2") == {
                    "st_mart_v2.t": {"x": "INT64"},
                    "st_mart_v2.v": {"x": "INT64"},
                    "st_mart_v2.d": {"x": "INT64", "y": "INT64"},
                    "st_mart_v2.l": {"x": "STRING"},
                }
    with empty.open() as target:
        target.drop("st_mart_v2.t", "st_mart_v2.d", "st_mart_v2.l")
        assert set(target.list_columns("st_mart_v2")) <= {"st_mart_v2.v"}
    with empty.open(datasets="acme_{}") as target:
        assert len(target.list_columns("st_mart_v2")) == 4


# --- side by side -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small(serve, monkeypatch) -> Store:
    """Three weeks of a small company over HTTP, the known week among them: the environment points at it."""
    monkeypatch.setattr(tenants, "FIRST_DAY", date(2025, 8, 25))
    store = Store()
    populate(store, seed=5, scale=0.005)
    running = serve(store, calls_per_second=1_000_000)
    point(monkeypatch, running.environment | {"AS_OF": LAST_DAY.isoformat()})
    return store


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["duckdb", "bigquery"])
def test_old_and_new_live_side_by_side(engine, small, tmp_path, request, monkeypatch, capsys):
    old = OldFile(tmp_path / "old.duckdb") if engine == "duckdb" else OldProject(request.getfixturevalue("emulator"))
    old.run(SCRIPT)
    before = old.dump()
    folder = shutil.copytree(company.SANDBOX_PRESET, tmp_path / "company")  # a night may add to it
    point(monkeypatch, old.settings, {"DATASETS": "st_{}_v3", "COMPANY": str(folder)})
    for line in ("doctor", "setup", "ingest"):
        assert command(monkeypatch, line) == 0, line
        assert old.dump() == before, line
    if engine == "duckdb":  # on the emulator a night takes minutes; its statements are those of the commands
        # Its checks do not all like a company of three weeks.
        assert runner.run_spec(settings.ROOT / "notebooks" / "nightly.yml", runs=tmp_path / "runs") in (0, 1)
        assert old.dump() == before
    for line in ("rebuild", "ingest --entities jobs", "status", "repair", "repair --table st_raw_v2.raw_invoices"):
        assert command(monkeypatch, line) == 0, line
        assert old.dump() == before, line
    for line in ("validate", "find --kpi leads"):
        assert command(monkeypatch, line) in (0, 1), line
    marts.build_marts()
    assert old.dump() == before
    with warehouse.connect(read_only=True) as target:
        weekly = target.query(
            "SELECT leads FROM st_mart_v2.kpi_weekly_by_bu"
            " WHERE business_unit = 'Phoenix-Sales' AND week_start = DATE '2025-08-18'"
        )
    assert weekly["leads"].tolist() == [96]
    capsys.readouterr()
    assert command(monkeypatch, "sql --kpi leads") == 0
    printed = capsys.readouterr().out
    assert "st_ref_v3.candidates_jobs" in printed
    assert "_v2" not in printed

    # The one table that a command changes, because it is told to.
    old.run(
        "INSERT INTO st_raw_v2.raw_invoices (id, createdOn, total, _ingested_at, _ingestion_source)\n"
        "SELECT id, createdOn, CAST(total AS FLOAT64), createdOn, 'servicetitan_v2' FROM st_raw_v3.raw_invoices\n"
        "WHERE jobId IS NOT NULL"
    )
    assert command(monkeypatch, "repair --table st_raw_v2.raw_invoices --apply") == 0
    with old.open(datasets="st_{}_v3", read_only=True) as target:
        his = target.qualify_name("st_raw_v2.raw_invoices")
        counts = target.query(
            f"SELECT COUNT(*) AS n, COUNT(jobId) AS jobs, COUNT(jobNumber) AS numbers, COUNT(businessUnitName) AS units"
            f" FROM {his}"
        ).iloc[0]
    assert counts["n"] > 50
    assert counts.nunique() == 1
    found = takeover.compare_old("st_{}_v2", tmp_path / "found").tables.set_index("table")["only there"]
    assert found[["st_raw_v2.raw_jobs", "st_raw_v2.raw_invoices", "st_raw_v2.raw_purchase_orders"]].tolist() == [
        2,
        0,
        1,
    ]
    assert len(list((tmp_path / "found").glob("*.sql"))) == 3


def test_a_build_needs_every_entity_that_it_counts(small, tmp_path, monkeypatch):
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "new.duckdb"))
    assert ingest.run_ingest("jobs,invoices").status == "ok"
    with pytest.raises(UserError, match=r"^Nothing of .*business_units, .*estimates.* was read from ServiceTitan yet"):
        marts.build_marts()
    with warehouse.connect(read_only=True) as target:
        assert list(target.list_columns("st_mart_v2")) == []
        assert list(target.list_columns("st_ref_v2")) == ["st_ref_v2.roots"]


def test_an_entity_without_a_record_was_read_all_the_same(serve, tmp_path, monkeypatch):
    point(monkeypatch, serve(Store()).environment, {"WAREHOUSE": str(tmp_path / "new.duckdb")})
    assert ingest.run_ingest("jobs,payroll,tag_types").status == "ok"
    with warehouse.connect() as target:
        unread = state.find_unread(target, ENTITIES.values())
    assert set(unread) == ENTITIES.keys() - {"jobs", "payroll", "tag_types"}


def test_the_views_for_his_dashboards_equal_our_days(healthy):
    days = """SELECT event_date, business_unit, leads AS lead_count, estimates AS estimate_count, estimates_scheduled,
  total_booked, CAST(100 * success_rate AS NUMERIC) AS close_rate, dollars_produced,
  CAST(100 * gpm AS NUMERIC) AS gpm_percent, CAST(100 * warranty_rate AS NUMERIC) AS warranty_percent,
  dollars_collected, outstanding_ar, future_bookings
FROM st_mart_v2.kpi_daily_by_bu ORDER BY event_date, business_unit"""
    summed = ("lead_count", "estimate_count", "estimates_scheduled", "total_booked", "dollars_produced",
              "dollars_collected", "outstanding_ar", "future_bookings")  # fmt: skip
    with warehouse.connect(read_only=True) as target:
        ours = target.query(days)
        by_unit = target.query("SELECT * FROM st_mart_v2.dashboard_daily_by_bu ORDER BY event_date, business_unit")
        by_region = target.query("SELECT * FROM st_mart_v2.dashboard_daily ORDER BY event_date, region")
    assert by_unit.equals(ours)
    assert by_unit["lead_count"].sum() > 500
    for name in summed:
        assert (by_region.groupby("event_date")[name].sum() == ours.groupby("event_date")[name].sum()).all(), name
    rates = by_region.dropna(subset=["close_rate_percent", "gpm_percent", "warranty_percent"])
    assert rates["close_rate_percent"].between(0, 100).all()
    assert rates["close_rate_percent"].max() > 1  # times 100


# --- his invoices -----------------------------------------------------------------------------------------------------

HIS = "st_raw_v1.raw_invoices"
# As he has them: 12 % without a job, all without customer and unit, money as FLOAT64. Three that ServiceTitan deleted
# since: one names a job, one names two, one nothing.
FILL = f"""INSERT INTO {HIS}
  (id, referenceNumber, subTotal, total, jobId, createdOn, modifiedOn, _ingested_at, _ingestion_source)
SELECT id, referenceNumber, CAST(subTotal AS FLOAT64), CAST(total AS FLOAT64), IF(MOD(id, 8) = 0, NULL, jobId),
  createdOn, modifiedOn, createdOn, 'servicetitan_v2'
FROM st_raw_v2.raw_invoices;
INSERT INTO {HIS} (id, referenceNumber, subTotal, createdOn, _ingested_at, _ingestion_source)
SELECT 1, CONCAT('Job ', MIN(jobNumber)), 1.5, NULL, TIMESTAMP '2025-01-01 00:00:00+00', 'servicetitan_v2'
FROM st_raw_v2.raw_jobs
UNION ALL
SELECT 2, CONCAT(MIN(jobNumber), ' and ', MAX(jobNumber)), 2.5, TIMESTAMP '2024-09-01 00:00:00+00',
  TIMESTAMP '2025-01-01 00:00:00+00', 'servicetitan_v2'
FROM st_raw_v2.raw_jobs
UNION ALL
SELECT 3, 'cash', 3.5, TIMESTAMP '2024-09-01 00:00:00+00', TIMESTAMP '2025-01-01 00:00:00+00', 'servicetitan_v2'
"""
KEPT = "SELECT * EXCEPT (jobId, businessUnitId{more}) FROM {his} ORDER BY id"


def test_his_invoices_find_their_jobs_in_his_own_table(healthy, monkeypatch, capsys):
    old = OldFile(healthy)
    old.run(SCRIPT.replace("_v2", "_v1"))
    old.run(FILL)
    monkeypatch.chdir(healthy.parent)
    before, ours_before = old.dump("st_%_v1"), old.dump("st_%_v2")

    told = repair.run_old(HIS)
    assert (old.dump("st_%_v1"), old.dump("st_%_v2")) == (before, ours_before)

    assert command(monkeypatch, f"repair --table {HIS} --apply") == 0
    assert f"{told.filled:,} invoices have changed." in capsys.readouterr().out
    assert told.dry_run
    assert told.columns == ("jobNumber", "businessUnitName")
    after = old.dump("st_%_v1")
    untouched = [name for name in after[1] if name != HIS]
    assert [one for one in after[0] if one[0] != HIS] == [one for one in before[0] if one[0] != HIS]
    assert {name: after[1][name] for name in untouched} == {name: before[1][name] for name in untouched}
    assert old.dump("st_%_v2") == ours_before

    with warehouse.connect(read_only=True) as target:
        found = target.query(
            f"""SELECT his.id, his.jobId, his.jobNumber, his.businessUnitName, jobs.id AS job, jobs.jobNumber AS number,
  COALESCE(ours.businessUnitId, jobs.businessUnitId) AS unit, his.businessUnitId AS his_unit, units.name
FROM {HIS} AS his
LEFT JOIN st_raw_v2.raw_invoices AS ours ON his.id = ours.id
LEFT JOIN st_raw_v2.raw_jobs AS jobs ON ours.jobId = jobs.id
LEFT JOIN st_raw_v2.raw_business_units AS units ON his.businessUnitId = units.id
ORDER BY his.id"""
        )
        jobs = target.query("SELECT id, jobNumber FROM st_raw_v2.raw_jobs ORDER BY jobNumber")
    given, known = found[found["id"] > 3], found.set_index("id").loc[[1, 2, 3]]
    for ours, his in (("job", "jobId"), ("number", "jobNumber"), ("unit", "his_unit"), ("name", "businessUnitName")):
        left, right = (given[name].astype(object).fillna("") for name in (ours, his))
        assert (left == right).all(), his
    assert known["jobId"].fillna(0).tolist() == [jobs["id"][0], 0, 0]
    assert known["jobNumber"].fillna("").tolist() == [jobs["jobNumber"][0], "", ""]
    unresolved = set(told.unresolved["invoice"])
    assert {"2", "3"} <= unresolved
    assert "1" not in unresolved

    again = repair.run_old(HIS, dry_run=False)
    assert (again.filled, again.columns) == (0, ())
    assert old.dump("st_%_v1") == after


def test_the_one_table_that_may_change_gets_columns_and_values_and_no_more(tmp_path):
    old = OldFile(tmp_path / "old.duckdb")
    old.run(SCRIPT)
    jobs = "old.st_raw_v2.raw_jobs"
    with old.open(datasets="st_{}_v3", may_change="st_raw_v2.raw_jobs") as target:
        assert target.qualify_name("st_raw_v2.raw_jobs") == "`old`.st_raw_v2.raw_jobs"
        target.execute(f"ALTER TABLE {jobs} ADD COLUMN note STRING", f"UPDATE {jobs} SET note = 'x' WHERE id = 1")
        for harm in (
            f"DROP TABLE {jobs}",
            f"DELETE FROM {jobs} WHERE TRUE",
            f"INSERT INTO {jobs} SELECT * FROM {jobs}",
        ):
            with pytest.raises(UserError, match=r"^This program did not make st_raw_v2\.raw_jobs, "):
                target.execute(harm)
        with pytest.raises(UserError, match=r"^This program did not make st_raw_v2\.raw_invoices, "):
            target.execute("UPDATE old.st_raw_v2.raw_invoices SET jobId = 1 WHERE TRUE")
        found = target.query(f"SELECT id, note FROM {jobs} ORDER BY id")
    assert found["note"].astype(object).where(found["note"].notna(), None).tolist() == ["x", None]


@pytest.mark.parametrize(
    ("table", "sentence"),
    [
        ("raw_invoices", "TABLE=raw_invoices is not a table: write its dataset"),
        ("st_raw_v1.nothing", "There is no table st_raw_v1.nothing: correct TABLE."),
        ("st_raw_v1.raw_jobs", "st_raw_v1.raw_jobs is not a table of another program's old invoices: correct"),
        ("st_raw_v2.raw_invoices", "st_raw_v2.raw_invoices is not a table of another program's old invoices: correct"),
    ],
)
def test_a_table_that_is_none_of_old_invoices(healthy, table, sentence):
    OldFile(healthy).run(SCRIPT.replace("_v2", "_v1"))
    with pytest.raises(UserError, match=sentence):
        repair.run_old(table, dry_run=False)


# --- what only he has -------------------------------------------------------------------------------------------------


def test_what_only_his_tables_have_is_listed_by_real_ids(healthy, tmp_path, monkeypatch):
    old = OldFile(healthy)
    old.run(SCRIPT.replace("_v2", "_v1"))
    # A purchase order that we have, twice under two hashes; one of two equal gross pay items that we have once.
    old.run(
        """INSERT INTO st_raw_v1.raw_purchase_orders (id, purchaseOrderId, _ingested_at, _ingestion_source)
SELECT 100 + n, MIN(id), TIMESTAMP '2025-01-01 00:00:00+00', 'x'
FROM st_raw_v2.raw_purchase_orders CROSS JOIN UNNEST([1, 2]) AS n GROUP BY n;
INSERT INTO st_raw_v1.raw_payroll (id, employeeId, jobId, date, amount, _ingested_at, _ingestion_source)
SELECT 200 + n, employeeId, jobId, CAST(date AS TIMESTAMP), CAST(amount AS FLOAT64),
  TIMESTAMP '2025-01-01 00:00:00+00', 'x'
FROM (
  SELECT employeeId, jobId, date, amount FROM st_raw_v2.raw_payroll
  GROUP BY employeeId, jobId, date, amount HAVING COUNT(*) = 1
  ORDER BY date, employeeId, jobId, amount LIMIT 1
) AS one CROSS JOIN UNNEST([1, 2]) AS n"""
    )
    before = old.dump("st_%")
    found = takeover.compare_old("st_{}_v1", tmp_path / "found")
    assert old.dump("st_%") == before
    counts = found.tables.set_index("table")[["rows", "only there"]].T.to_dict("list")
    assert counts == {
        "st_raw_v1.raw_collections": [0, 0],
        "st_raw_v1.raw_invoices": [0, 0],
        "st_raw_v1.raw_jobs": [2, 2],
        "st_raw_v1.raw_locations": [0, 0],
        "st_raw_v1.raw_payroll": [2, 1],
        "st_raw_v1.raw_payroll_adjustments": [0, 0],
        "st_raw_v1.raw_purchase_orders": [3, 1],
    }
    rows = pd.read_csv(tmp_path / "found" / "st_raw_v1.raw_purchase_orders.csv")
    assert rows[["purchaseOrderId", "number", "total"]].to_numpy().tolist() == [[99000001, "PO-1", 12.5]]
    views = ["kpi_weekly_by_bu", "leads_daily_bu", "regional_kpis"]
    assert [path.name for path in found.views] == [f"st_mart_v1.{name}.sql" for name in views]
    assert "lead_count" in found.views[0].read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("st_{}_v2", r"^OLD=st_\{\}_v2 are our own names"),
        ("st_{}_v7", r"^There are no raw tables under the names st_\{\}_v7: correct OLD\.$"),
        ("st_v1", "^OLD=st_v1 is not a name with one"),
    ],
)
def test_names_that_are_not_those_of_another_pipeline(healthy, tmp_path, pattern, sentence):
    with pytest.raises(UserError, match=sentence):
        takeover.compare_old(pattern, tmp_path)


@pytest.mark.parametrize(("now", "refused"), [(True, False), (False, True), (None, False)])
def test_a_table_without_a_label_is_looked_at_again_before_it_is_refused(now, refused):
    """It may have been listed while another program of ours was making it."""
    given = {"pattern": "st_{}_v2", "catalog": "db", "may_change": "", "read_only": False}
    ownership = Ownership({"st_raw_v2.raw_jobs": False}, ["st_raw_v2"], **given)
    with pytest.raises(UserError, match=r"did not make st_raw_v2\.raw_jobs") if refused else nullcontext():
        ownership.check(["st_raw_v2.raw_jobs"], lambda _: now)
