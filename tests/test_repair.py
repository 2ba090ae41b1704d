"""Old invoices find their jobs again: by evidence, never by a guess, once and for all."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from zetasql_judge import Judge, Row

from sandbox import legacy
from stkpi import warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.ingest.load import define_raw_table
from stkpi.marts import invoice_repair as repair
from stkpi.servicetitan.entities import ENTITIES
from stkpi.warehouse.duckdb import DuckDBWarehouse
from stkpi.warehouse.schema import create_sql

CREATED = datetime(2024, 3, 5, 12, tzinfo=UTC)
BOUNDS = {"start": datetime(2024, 1, 1, tzinfo=UTC), "end": datetime(2025, 1, 1, tzinfo=UTC)}


def stored() -> dict[int, int | None]:
    """Every invoice's job. Fails where an invoice is there twice."""
    with warehouse.connect() as target:
        rows = target.query("SELECT id, jobId FROM st_raw_v2.raw_invoices")
    assert rows["id"].is_unique
    return dict(zip(rows["id"], rows["jobId"], strict=True))


def seeded() -> dict[int, legacy.Planted]:
    with warehouse.connect() as target:
        return legacy.plant_old_rows(target, share=0.15)


# --- a whole tenant --------------------------------------------------------------------------------------------------


def test_every_recoverable_invoice_finds_its_job_and_no_other_does(healthy):
    truth = seeded()
    before = stored()
    assert not any(before[invoice] for invoice in truth)

    done = repair.run(dry_run=False)

    expected = {
        invoice: planted.job_id if planted.evidence not in ("ambiguous", "none") else None
        for invoice, planted in truth.items()
    }
    assert stored() == before | expected
    found = {planted.evidence for planted in truth.values()}
    assert found == {"record", "invoice_id", "job_number", "reference", "ambiguous", "none"}
    ambiguous = {invoice for invoice, planted in truth.items() if planted.evidence == "ambiguous"}
    listed = done.unresolved[done.unresolved["linked"] == repair.METHODS["ambiguous"]]
    assert set(listed["invoice"].astype(int)) == ambiguous
    assert listed["possible jobs"].str.match(r"^\d+, \d+$").all()
    gained = done.coverage.loc["after"] - done.coverage.loc["before"]
    assert gained["with_job"] == gained["with_job_number"] == sum(job is not None for job in expected.values())
    assert gained["invoices"] == 0


def test_a_dry_run_tells_the_same_and_changes_nothing(healthy):
    seeded()
    before = stored()
    told = repair.run()
    assert stored() == before
    done = repair.run(dry_run=False)
    assert (told.filled, told.keyed, told.superseded) == (done.filled, done.keyed, done.superseded)
    assert told.coverage.equals(done.coverage)
    assert told.methods.equals(done.methods)
    assert told.unresolved.equals(done.unresolved)
    assert told.dry_run
    assert told.filled > 50


def test_a_second_run_changes_no_row(healthy):
    seeded()
    repair.run(dry_run=False)
    with warehouse.connect() as target:
        before = target.query("SELECT * FROM st_raw_v2.raw_invoices ORDER BY id")
    again = repair.run(dry_run=False)
    assert (again.filled, again.keyed, again.superseded) == (0, 0, 0)
    with warehouse.connect() as target:
        assert target.query("SELECT * FROM st_raw_v2.raw_invoices ORDER BY id").equals(before)


def test_nothing_outside_the_window_is_touched(healthy):
    seeded()
    before = stored()
    with warehouse.connect() as target:
        in_january = set(
            target.query(
                # Arizona's January, seven hours behind UTC
                "SELECT id FROM st_raw_v2.raw_invoices WHERE createdOn >= TIMESTAMP '2025-01-01 07:00:00+00'"
                " AND createdOn < TIMESTAMP '2025-02-01 07:00:00+00'"
            )["id"]
        )
    repair.run(dry_run=False, window_start="2025-01-01", window_end="2025-01-31")
    changed = {invoice for invoice, job in stored().items() if job != before[invoice]}
    assert changed
    assert changed < in_january


def test_a_healthy_warehouse_has_nothing_to_repair(healthy):
    done = repair.run(dry_run=False)
    assert (done.filled, done.keyed, done.superseded, len(done.unresolved)) == (0, 0, 0, 0)
    assert done.coverage.loc["before"].equals(done.coverage.loc["after"])


@pytest.mark.parametrize("ingest_first", [False, True])
def test_an_ingest_neither_undoes_a_repair_nor_doubles_or_misses_an_old_row(healthy, ingest_first):
    truth = seeded()
    if ingest_first:  # it writes anew the invoices whose old rows have no key
        assert ingest.run_ingest("invoices", "window", "2024-07-01", "2025-03-31").status == "ok"
    repaired = repair.run(dry_run=False)
    assert (repaired.superseded > 0) == ingest_first
    links = stored()

    assert ingest.run_ingest("invoices").status == "ok"
    after = stored()
    assert all(after[invoice] == job for invoice, job in links.items() if job is not None)

    assert ingest.run_ingest("invoices", "full").status == "ok"
    after = stored()
    assert all(after[invoice] == planted.job_id for invoice, planted in truth.items())
    assert repair.run(dry_run=False).filled == 0


def test_columns_that_an_old_table_lacks_are_added(healthy):
    lost = ["jobId", "jobNumber", "businessUnitId", "_key", "_hash"]
    with warehouse.connect() as target:
        expected = stored_jobs(target)
        target.execute(*(f"ALTER TABLE st_raw_v2.raw_invoices DROP COLUMN {name}" for name in lost))
    assert repair.run().columns == ("jobId", "jobNumber", "businessUnitId", "_key", "_hash")
    with warehouse.connect() as target:
        assert "jobId" not in target.query("SELECT * FROM st_raw_v2.raw_invoices WHERE FALSE").columns
    assert repair.run(dry_run=False).columns == ("jobId", "jobNumber", "businessUnitId", "_key", "_hash")
    with warehouse.connect() as target:
        assert stored_jobs(target) == expected
    assert repair.run().columns == ()
    assert ingest.run_ingest("invoices", "full").status == "ok"
    with warehouse.connect() as target:  # no row was doubled
        assert stored_jobs(target) == expected


def stored_jobs(target: warehouse.Warehouse) -> list[tuple[int, int | None]]:
    rows = target.query("SELECT id, jobId FROM st_raw_v2.raw_invoices ORDER BY id")
    return list(rows.astype(object).where(rows.notna(), None).itertuples(index=False, name=None))


# --- the evidence, case by case --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """An invoice (of customer 7 unless it says otherwise), what is expected of it, among JOBS."""

    invoice: dict[str, Any]
    method: str
    job_id: int | None = None
    candidates: str | None = None


JOBS = (
    {"id": 1, "jobNumber": "12345", "customerId": 7, "invoiceId": 801, "businessUnitId": 11},
    {"id": 2, "jobNumber": "23456", "customerId": 7, "invoiceId": 802, "businessUnitId": 12},
    {"id": 3, "jobNumber": "777", "customerId": 7, "invoiceId": 803, "businessUnitId": 11},
    {"id": 4, "jobNumber": "777", "customerId": 8, "invoiceId": 803, "businessUnitId": 11},
    {"id": 5, "jobNumber": "88", "customerId": 8, "invoiceId": 804, "businessUnitId": 12},
)
CASES = {
    "its record, nested as the API sends it": Case({"_record": '{"job": {"id": 2, "number": "23456"}}'}, "record", 2),
    "its record, flat": Case({"_record": '{"jobId": 2}'}, "record", 2),
    "a record beats all other evidence": Case(
        {"id": 804, "_record": '{"jobId": 2}', "referenceNumber": "12345"}, "record", 2
    ),
    "a job that the warehouse does not have yet": Case({"_record": '{"job": {"id": 99}}'}, "record", 99),
    "a record that says no job": Case({"_record": '{"job": null}', "referenceNumber": "12345"}, "no job"),
    "a job id of 0 is none": Case({"jobId": 0, "_record": '{"jobId": 0}', "referenceNumber": "12345"}, "reference", 1),
    "the job's invoiceId": Case({"id": 801}, "invoice_id", 1),
    "the job's invoiceId beats the reference": Case({"id": 802, "referenceNumber": "12345"}, "invoice_id", 2),
    "two jobs claim it": Case({"id": 803, "referenceNumber": "12345"}, "ambiguous", candidates="3, 4"),
    "a job number in the row": Case({"jobNumber": "12345"}, "job_number", 1),
    "a job number in the record": Case({"_record": '{"jobNumber": "12345"}'}, "job_number", 1),
    "a job number that two jobs have": Case({"jobNumber": "777"}, "ambiguous", candidates="3, 4"),
    "a word of the reference": Case({"referenceNumber": "Job 12345 deposit"}, "reference", 1),
    "a reference with a hash and a suffix": Case({"referenceNumber": "job#12345-2"}, "reference", 1),
    "a part of a word is no word": Case({"referenceNumber": "123456 A12345"}, "no evidence"),
    "twice the same job is one": Case({"referenceNumber": "12345, see 12345"}, "reference", 1),
    "two jobs in the reference": Case({"referenceNumber": "12345 and 23456"}, "ambiguous", candidates="1, 2"),
    "of two jobs with the number, the customer's own": Case({"referenceNumber": "Job 777"}, "reference", 3),
    "a customer unknown, and two jobs with the number": Case(
        {"referenceNumber": "Job 777", "customerId": None}, "ambiguous", candidates="3, 4"
    ),
    "a number of another customer's job": Case({"referenceNumber": "88 gallons"}, "no evidence"),
    "nothing at all": Case({}, "no evidence"),
}


@pytest.fixture(scope="module")
def judge() -> Judge:
    """GoogleSQL's analyzer, knowing what a repair reads and writes."""
    judge = Judge()
    for table in (*(define_raw_table(ENTITIES[name]) for name in ("invoices", "jobs")), *state.TABLES):
        judge.declare_ddl(create_sql(table))
    return judge


INVOICES = {
    name: {"id": number, "customerId": 7, "createdOn": CREATED, "modifiedOn": CREATED, "_key": name} | case.invoice
    for number, (name, case) in enumerate(CASES.items(), 900)
}


@pytest.fixture(scope="module", params=["duckdb", "zetasql"])
def links(request, judge, tmp_path_factory) -> dict[int, Row]:
    """What each of two engines finds for the invoices of all cases, by invoice."""
    given = {"st_raw_v2.raw_invoices": list(INVOICES.values()), "st_raw_v2.raw_jobs": list(JOBS)}
    if request.param == "zetasql":
        parameters = {name: ("TIMESTAMP", value) for name, value in BOUNDS.items()}
        rows = judge.evaluate(repair.links_sql(), given, parameters)
    else:
        with DuckDBWarehouse(tmp_path_factory.mktemp("cases") / "warehouse.duckdb", wait=0) as target:
            target.execute(*(create_sql(define_raw_table(ENTITIES[name])) for name in ("invoices", "jobs")))
            for table, records in given.items():
                for record in records:
                    named = {f"p{name.lower()}": value for name, value in record.items()}
                    marks = ", ".join(f"@{name}" for name in named)
                    target.execute(f"INSERT INTO {table} ({', '.join(record)}) VALUES ({marks})", **named)
            rows = target.query(repair.links_sql(), **BOUNDS).to_dict("records")
    assert len(rows) == len(CASES)
    return {row["invoice_id"]: {name: None if pd.isna(value) else value for name, value in row.items()} for row in rows}


@pytest.mark.fault(66)
@pytest.mark.parametrize("name", CASES)
def test_evidence(links, name):
    found, case = links[INVOICES[name]["id"]], CASES[name]
    assert (found["method"], found["job_id"], found["candidate_jobs"]) == (case.method, case.job_id, case.candidates)


def test_the_statements_are_googlesql(judge):
    types = {"start": "TIMESTAMP", "end": "TIMESTAMP", "now": "TIMESTAMP"}
    judge.declare(repair.LINKS, judge.analyze(repair.links_sql(), types))
    for statement in (*repair.STATEMENTS, repair.NOTE):
        judge.analyze(statement.format(table="st_raw_v2.raw_invoices"), types)
        assert "createdOn >= @start" in statement
        assert "createdOn < @end" in statement


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("days", "sentence"),
    [
        (("1.8.2025", ""), "window_start=1.8.2025 is not a day"),
        (("2025-08-02", "2025-08-01"), "A window must end after it starts"),
    ],
)
def test_a_window_that_cannot_be(healthy, days, sentence):
    with pytest.raises(UserError, match=sentence):
        repair.run(False, *days)


def test_before_the_first_ingest(monkeypatch, tmp_path):
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "empty.duckdb"))
    with pytest.raises(UserError, match="There are no invoices in the warehouse yet"):
        repair.run()
