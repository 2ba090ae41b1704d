"""A company small enough to know by heart, over HTTP, and what a test asks of the warehouse that it is read into."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from sandbox import server
from sandbox.store import Store
from stkpi import warehouse
from stkpi.ingest import read
from stkpi.ingest import run as ingest
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES

# An entity per way of reading: the export feed (jobs with a field of its own), slices, and the whole list.
READ = "jobs,returns,payroll,tag_types"
FIRST_JOB, LAST_JOB = 101, 130


def job(number: int, **changes: Any) -> dict[str, Any]:
    """A job created on day `number - 100` of 2025, every third on the same modification instant."""
    day = datetime(2025, 1, 1, 12, tzinfo=UTC) + timedelta(days=number - FIRST_JOB)
    modified = day.replace(day=28) if number % 3 == 0 else day
    text = f"{modified:%Y-%m-%dT%H:%M:%S}.1234567Z"
    record = {
        "id": number,
        "jobNumber": str(number),
        "customerId": 7,
        "locationId": 8,
        "jobStatus": "Completed",
        "businessUnitId": 9,
        "jobTypeId": 10,
        "total": 1234.5,
        "createdOn": f"{day:%Y-%m-%dT%H:%M:%S}Z",
        "modifiedOn": text,
        "tagTypeIds": [1, 2],
        "summary": "plain",
    }
    return record | changes


def pay(number: int, **changes: Any) -> dict[str, Any]:
    """A gross pay item without an id; two of three are equal to another."""
    day = f"2025-01-{1 + number // 3:02d}"
    record = {"id": None, "payrollId": 5, "date": f"{day}T00:00:00Z", "amount": 100.25 + number % 3 // 2, "jobId": 101}
    return record | {"createdOn": f"{day}T18:00:00Z", "modifiedOn": f"{day}T18:00:00Z"} | changes


def company() -> Store:
    """Thirty jobs, thirty gross pay items, thirty returns and two tag types, small enough to know by heart."""
    store = Store()
    for number in range(FIRST_JOB, LAST_JOB + 1):
        record = job(number)
        store.add("jobs", record)
        store.add("payroll", pay(number - FIRST_JOB))
        dates = {"createdOn": record["createdOn"], "modifiedOn": record["modifiedOn"]}
        store.add("returns", {"id": number, "active": number % 5 > 0, "returnAmount": 10.01, **dates})
    for number in (1, 2):
        dates = {"createdOn": "2025-01-01T00:00:00Z", "modifiedOn": "2025-01-01T00:00:00Z"}
        store.add("tag_types", {"id": number, "name": f"tag {number}", "active": number == 1, **dates})
    return store


def use(running: server.Sandbox, folder: Path, patch: pytest.MonkeyPatch) -> None:
    """Read the company in pages of ten, with a client that waits for no longer than a test can."""
    for key, value in running.environment.items():
        patch.setenv(key, value)
    patch.setenv("WAREHOUSE", str(folder / "warehouse.duckdb"))
    patch.setattr(client, "BACKOFF", 0.001)
    patch.setattr(read, "PAGE_SIZE", 10)


@pytest.fixture
def api(serve, monkeypatch, tmp_path) -> server.Sandbox:
    """The small company over HTTP, and a warehouse that is still empty."""
    running = serve(company(), calls_per_second=1_000_000, export_page_size=10)
    use(running, tmp_path, monkeypatch)
    return running


@pytest.fixture
def break_(api) -> Callable[..., None]:
    """`break_(fault, path, **arguments)` orders a fault; `break_()` clears all."""

    def order(fault: str = "", path: str = "", **arguments: Any) -> None:
        url = f"{api.url}/sandbox/faults"
        reply = (
            requests.post(url, json={"fault": fault, "path": path, **arguments}, timeout=10)
            if fault
            else requests.delete(url, timeout=10)
        )
        reply.raise_for_status()

    return order


def run(entities: str = READ) -> dict[str, read.EntityResult]:
    return {result.entity: result for result in ingest.run_ingest(entities).entities}


def tables(entities: str = READ) -> dict[str, pd.DataFrame]:
    with warehouse.connect() as target:
        return {
            name: target.query(
                f"SELECT * EXCEPT (_run_id, _ingested_at, _source) FROM {ENTITIES[name].table} ORDER BY _key"
            ).astype(str)
            for name in entities.split(",")
        }


def column(name: str, entity: str = "jobs") -> dict[str, Any]:
    with warehouse.connect() as target:
        rows = target.query(f"SELECT _key, {name} AS value FROM {ENTITIES[entity].table}")
    return dict(zip(rows["_key"], rows["value"], strict=True))


def quarantine() -> list[tuple[str, str, str]]:
    with warehouse.connect() as target:
        rows = target.query("SELECT entity, key, reason FROM st_logs_v2.quarantine ORDER BY entity, key")
    return [tuple(None if pd.isna(value) else value for value in row) for row in rows.itertuples(index=False)]


def assert_equal(found: dict[str, pd.DataFrame], healthy: dict[str, pd.DataFrame]) -> None:
    for name, rows in healthy.items():
        pd.testing.assert_frame_equal(found[name], rows, obj=name)
