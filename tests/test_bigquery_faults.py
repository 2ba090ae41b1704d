"""The BigQuery warehouse when the server refuses, breaks off or forgets: nothing is lost, nothing is done twice.

The client and the warehouse are the real ones; a proxy before the emulator plays the real server's refusals.
"""

import gzip
import json
import re
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import bigquery_proxy as faults
import pytest
from bigquery_proxy import Proxy

from stkpi.errors import UserError, WarehouseError
from stkpi.warehouse.bigquery import BigQueryWarehouse, RetryLimits

COLUMNS = (("id", "INT64"), ("text", "STRING"))
TABLE = "st_raw_v2.things"
PATIENT = RetryLimits(streaming=60, busy=60, network=60, pause=0.02)
HASTY = RetryLimits(streaming=0.1, busy=0.1, network=0.1, pause=0.02)
# Neither may be done twice.
MERGE_B = (
    f"MERGE INTO {TABLE} AS target\nUSING (SELECT 1 AS id) AS source ON target.id = source.id\n"
    "WHEN MATCHED THEN UPDATE SET text = CONCAT(target.text, 'b')"
)
ADD_C = f"UPDATE {TABLE} SET text = CONCAT(text, 'c') WHERE id = 1"


@pytest.fixture(scope="module")
def project(emulator: str) -> str:
    """A project of the emulator with all datasets."""
    name = f"faults-{uuid.uuid4().hex[:12]}"
    BigQueryWarehouse(name, emulator=emulator).close()
    return name


@pytest.fixture
def connect(proxy: Proxy, project: str) -> Iterator[Callable[..., BigQueryWarehouse]]:
    """`connect(limits)` opens the warehouse through the proxy."""
    opened = []

    def connect(limits: RetryLimits = PATIENT) -> BigQueryWarehouse:
        opened.append(BigQueryWarehouse(project, emulator=proxy.url, retry_limits=limits))
        return opened[-1]

    yield connect
    for each in opened:
        each.close()


@pytest.fixture
def target(connect: Callable[..., BigQueryWarehouse], proxy: Proxy) -> BigQueryWarehouse:
    """A warehouse with TABLE, whose one row is (1, 'a')."""
    warehouse = connect()
    warehouse.execute(f"CREATE OR REPLACE TABLE {TABLE} AS SELECT 1 AS id, 'a' AS text")
    proxy.requests.clear()
    return warehouse


def text(warehouse: BigQueryWarehouse) -> str:
    return warehouse.query(f"SELECT text FROM {TABLE}")["text"].item()


def submits(request: faults.Request) -> bool:
    return request.submits


# --- statements that are refused ----------------------------------------------------------------------------------

REFUSED = {
    "streaming buffer": lambda times: faults.streaming_buffer(TABLE, times),
    "too many statements": lambda times: faults.too_many_dml(TABLE, times),
    "aborted": lambda times: faults.failed(
        faults.changes(TABLE),
        "invalidQuery",
        f"Transaction is aborted due to concurrent update against table {TABLE}.",
        times,
    ),
    "rate limit of jobs": lambda times: faults.failed(
        submits, "jobRateLimitExceeded", "Job exceeded rate limits", times
    ),
    "backend error of a job": lambda times: faults.failed(submits, "jobBackendError", "Error while running.", times),
    "rate limit": lambda times: faults.rate_limit(submits, times),
    "429": lambda times: faults.too_many_requests(submits, times),
}


@pytest.mark.fault(60, 63, 64)
@pytest.mark.parametrize("kind", REFUSED)
def test_what_passes_is_waited_for_and_done_once(target, proxy, kind) -> None:
    proxy.faults = [REFUSED[kind](2)]
    target.run_transaction(MERGE_B, ADD_C)
    assert proxy.faults[0].met == 2
    assert len(proxy.jobs()) == 3
    assert text(target) == "abc"


@pytest.mark.parametrize("kind", ["streaming buffer", "too many statements", "aborted", "rate limit of jobs"])
def test_what_does_not_pass_ends_with_one_sentence_and_nothing_done(connect, target, proxy, kind) -> None:
    proxy.faults = [REFUSED[kind](None)]
    with pytest.raises(WarehouseError) as raised:
        connect(HASTY).run_transaction(MERGE_B, ADD_C)
    assert proxy.faults[0].met > 1
    said = str(raised.value)
    assert "\n" not in said
    assert re.search(r"[Rr]un again", said)
    proxy.faults.clear()
    assert text(target) == "a"
    target.run_transaction(MERGE_B, ADD_C)
    assert text(target) == "abc"


def test_the_sentence_on_the_streaming_buffer_names_the_table_and_the_time(connect, target, proxy) -> None:
    proxy.faults = [faults.streaming_buffer(TABLE)]
    with pytest.raises(WarehouseError, match=rf"{TABLE}.*run again after \d\d:\d\d UTC"):
        connect(HASTY).execute(MERGE_B)


@pytest.mark.fault(60)
def test_a_quota_that_is_used_up_is_not_asked_again(target, proxy) -> None:
    proxy.faults = [faults.quota(submits)]
    with pytest.raises(WarehouseError, match=r"quota of the Google project is used up: .*Quota exceeded.* tomorrow"):
        target.run_transaction(ADD_C)
    assert proxy.faults[0].met == 1


def test_a_quota_that_a_job_meets_is_not_asked_again_either(target, proxy) -> None:
    proxy.faults = [faults.failed(submits, "quotaExceeded", "Quota exceeded: DML statements per table per day")]
    with pytest.raises(WarehouseError, match="used up"):
        target.run_transaction(ADD_C)
    assert proxy.faults[0].met == 1


def test_a_right_that_is_missing_is_named_with_its_roles(target, proxy, project) -> None:
    proxy.faults = [faults.denied(submits, "bigquery.jobs.create", project)]
    with pytest.raises(UserError, match=r"bigquery\.jobs\.create.*roles/bigquery\.jobUser"):
        target.query("SELECT 1")
    assert proxy.faults[0].met == 1


@pytest.mark.fault(65)
def test_a_statement_without_the_bound_that_its_table_wants_is_called_a_bug(target) -> None:
    target.execute(
        "CREATE OR REPLACE TABLE st_raw_v2.bounded (day DATE, id INT64) PARTITION BY day"
        " OPTIONS (require_partition_filter = TRUE)"
    )
    with pytest.raises(WarehouseError, match=r"does not filter by the partition .* bug"):
        target.query("SELECT id FROM st_raw_v2.bounded")


# --- connections that break ---------------------------------------------------------------------------------------


@pytest.mark.fault(61)
def test_errors_while_polling_do_not_start_the_job_again(target, proxy) -> None:
    proxy.faults = [faults.unfinished(), faults.backend_error(times=3)]
    target.run_transaction(MERGE_B, ADD_C)
    assert proxy.faults[1].met == 3
    assert len(proxy.jobs()) == 1
    assert text(target) == "abc"


def test_a_server_that_stays_away_while_a_job_runs_ends_with_one_sentence(connect, target, proxy) -> None:
    hasty = connect(HASTY)
    proxy.faults = [faults.unfinished(), faults.backend_error()]
    with pytest.raises(WarehouseError, match="run again"):
        hasty.query("SELECT 1")


def test_a_transaction_whose_answer_is_lost_is_not_done_again(target, proxy) -> None:
    proxy.faults = [faults.reset_after(submits, times=1)]
    target.run_transaction(MERGE_B, ADD_C)
    assert len(proxy.jobs()) == 2  # asked for twice …
    assert len(set(proxy.jobs())) == 1  # … under one id
    assert text(target) == "abc"


def test_a_server_that_stays_away_ends_with_one_sentence(connect, target, proxy) -> None:
    hasty = connect(HASTY)
    proxy.faults = [faults.backend_error(lambda request: True)]
    with pytest.raises(WarehouseError, match="run again"):
        hasty.query("SELECT 1")


# --- loads --------------------------------------------------------------------------------------------------------


@pytest.fixture
def landed(tmp_path: Path) -> Callable[[list[int]], Path]:
    """`landed(sizes)` writes a file with one row a size: `id` is its place, and `text` has that many letters."""

    def write(sizes: list[int]) -> Path:
        rows = [json.dumps({"id": place, "text": "x" * size}) + "\n" for place, size in enumerate(sizes)]
        path = tmp_path / f"{uuid.uuid4().hex}.ndjson.gz"
        path.write_bytes(gzip.compress("".join(rows).encode()))
        return path

    return write


@pytest.fixture
def warehouse(connect: Callable[..., BigQueryWarehouse], proxy: Proxy) -> BigQueryWarehouse:
    opened = connect()
    proxy.requests.clear()
    return opened


@pytest.fixture
def table() -> str:
    """A table that no other load has."""
    return f"st_stage_v2.landing_{uuid.uuid4().hex[:12]}"


def stand_in(line: bytes, reason: str) -> bytes:
    return json.dumps({"id": json.loads(line)["id"], "text": reason}).encode() + b"\n"


def lengths(warehouse: BigQueryWarehouse, table: str) -> list[int]:
    return warehouse.query(f"SELECT LENGTH(text) AS size FROM {table} ORDER BY id")["size"].tolist()


@pytest.mark.fault(58)
@pytest.mark.parametrize("html", [True, False], ids=["413", "400"])
def test_a_request_that_is_too_large_is_halved_until_it_fits(warehouse, table, proxy, landed, html) -> None:
    proxy.faults = [faults.too_large(10_000, html)]
    sizes = [1_000 + place for place in range(30)]
    assert warehouse.load_file(table, landed(sizes), COLUMNS) == 30
    assert proxy.faults[0].met == 3  # 30 rows, and each 15 of them; 7 or 8 fit
    assert lengths(warehouse, table) == sizes


TOO_LARGE = {
    "413": faults.too_large(5_000),
    "400": faults.too_large(5_000, html=False),
    "of the job": faults.row_too_large(5_000),
}


@pytest.mark.fault(58)
@pytest.mark.parametrize("kind", TOO_LARGE)
def test_a_row_that_is_too_large_alone_is_stood_in_for(warehouse, table, proxy, landed, kind) -> None:
    proxy.faults = [TOO_LARGE[kind]]
    path = landed([10, 20, 6_000, 40])
    assert warehouse.load_file(table, path, COLUMNS, stand_in) == 4
    first, second, third, fourth = warehouse.query(f"SELECT text FROM {table} ORDER BY id")["text"]
    assert [len(first), len(second), len(fourth)] == [10, 20, 40]
    assert third.startswith("too large for a request: 6,0")
    with pytest.raises(Exception, match=r"413|limit|larger"):
        warehouse.load_file(f"{table}_2", path, COLUMNS)


def test_a_load_whose_answer_is_lost_is_not_done_again(warehouse, table, proxy, landed) -> None:
    proxy.faults = [faults.reset_after(submits, times=1)]
    assert warehouse.load_file(table, landed([1, 2, 3]), COLUMNS) == 3
    assert lengths(warehouse, table) == [1, 2, 3]


def test_a_load_that_goes_on_is_waited_for(warehouse, table, proxy, landed) -> None:
    proxy.faults = [faults.unfinished(), faults.backend_error(times=2)]
    assert warehouse.load_file(table, landed([1, 2, 3]), COLUMNS) == 3
    assert proxy.faults[1].met == 2
    assert len(proxy.jobs()) == 1


@pytest.mark.parametrize("kind", ["rate limit", "429", "rate limit of jobs", "backend error of a job"])
def test_a_load_waits_for_what_passes(warehouse, table, proxy, landed, kind) -> None:
    proxy.faults = [REFUSED[kind](1)]
    assert warehouse.load_file(table, landed([1, 2, 3]), COLUMNS) == 3
    assert proxy.faults[0].met == 1


@pytest.mark.fault(59)
def test_a_second_program_takes_the_finished_loads_of_the_first(warehouse, connect, table, proxy, landed) -> None:
    path = landed([4_000, 4_001, 4_002])
    proxy.faults = [faults.too_large(7_000)]
    assert warehouse.load_file(table, path, COLUMNS) == 3
    first = set(proxy.jobs())
    proxy.requests.clear()
    assert connect().load_file(table, path, COLUMNS) == 3
    assert set(proxy.jobs()) == first
