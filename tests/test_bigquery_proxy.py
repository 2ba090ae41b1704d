"""The emulator harness and the fault proxy, seen through the unmodified google client."""

import io
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import bigquery_proxy as faults
import pytest
import requests
from bigquery_proxy import Proxy
from emulator import MISSING, find_python, told
from google.api_core import exceptions
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery

pytestmark = pytest.mark.soak  # what is proved here are tools of the tests
SCHEMA = [bigquery.SchemaField("id", "INT64", mode="REQUIRED"), bigquery.SchemaField("text", "STRING")]


@pytest.fixture
def client(proxy: Proxy) -> Iterator[bigquery.Client]:
    """A client of the proxy, with an empty table `shop.things` in its project."""
    project = f"proxied-{uuid.uuid4().hex}"
    options = {"api_endpoint": proxy.url}
    with bigquery.Client(project, AnonymousCredentials(), client_options=options) as opened:
        opened.create_dataset("shop")
        opened.create_table(bigquery.Table(f"{project}.shop.things", SCHEMA))
        proxy.requests.clear()
        yield opened


def load(client: bigquery.Client, rows: list[dict], job_id: str | None = None, size: bool = True) -> bigquery.LoadJob:
    """Load rows as NDJSON; with `size` in one request, without it as a resumable upload."""
    data = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    config = bigquery.LoadJobConfig(schema=SCHEMA, source_format="NEWLINE_DELIMITED_JSON")
    job = client.load_table_from_file(
        io.BytesIO(data), "shop.things", size=len(data) if size else None, job_id=job_id, job_config=config
    )
    return job.result(retry=bigquery.DEFAULT_RETRY.with_timeout(5))


def count(client: bigquery.Client) -> int:
    return next(iter(client.query_and_wait("SELECT COUNT(*) FROM shop.things")))[0]


@pytest.mark.parametrize("size", [True, False], ids=["one request", "resumable"])
def test_without_faults_everything_goes_through(client: bigquery.Client, proxy: Proxy, size: bool) -> None:
    load(client, [{"id": 1, "text": "a"}, {"id": 2, "text": "é"}], "first", size)
    assert count(client) == 2
    assert proxy.jobs()[0] == "first"
    assert any(b'"id": 2' in request.rows for request in proxy.requests)


@pytest.mark.parametrize("size", [True, False], ids=["one request", "resumable"])
@pytest.mark.parametrize("html", [True, False], ids=["413", "400"])
def test_a_request_over_the_limit_is_refused(client: bigquery.Client, proxy: Proxy, html: bool, size: bool) -> None:
    proxy.faults = [faults.too_large(2_000, html)]
    with pytest.raises(exceptions.GoogleAPICallError) as refused:
        load(client, [{"id": 1, "text": "x" * 3_000}], size=size)
    assert refused.value.code == (413 if html else 400)
    assert html or "Request payload size exceeds the limit: 2000 bytes" in str(refused.value)
    assert count(client) == 0


def test_a_row_over_the_limit_fails_its_job_and_the_id_stays_taken(client: bigquery.Client, proxy: Proxy) -> None:
    proxy.faults = [faults.row_too_large(100)]
    rows = [{"id": 1, "text": "short"}, {"id": 2, "text": "x" * 200}]
    with pytest.raises(exceptions.BadRequest, match="Row size is larger than: 100"):
        load(client, rows, "big")
    with pytest.raises(exceptions.Conflict):
        load(client, rows[:1], "big")
    assert client.get_job("big").error_result["reason"] == "invalid"
    assert count(client) == 0


def test_null_in_a_required_column_fails_the_load(client: bigquery.Client, proxy: Proxy) -> None:
    proxy.faults = [faults.null_in_required()]
    with pytest.raises(exceptions.BadRequest, match="Field: id; Value: NULL"):
        load(client, [{"id": 1, "text": None}, {"id": None, "text": "a"}])
    load(client, [{"id": 1, "text": None}])
    assert count(client) == 1


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (faults.streaming_buffer, "would affect rows in the streaming buffer, which is not supported"),
        (faults.too_many_dml, "Too many DML statements outstanding against table shop.things, limit is 20."),
    ],
)
def test_dml_is_refused_for_a_while(client: bigquery.Client, proxy: Proxy, fault, message: str) -> None:
    load(client, [{"id": 1, "text": "a"}])
    proxy.faults = [fault("shop.things", times=3)]
    target = f"`{client.project}`.`shop`.`things`"
    merge = f"MERGE INTO {target} t USING (SELECT 1 AS id) s ON t.id = s.id WHEN MATCHED THEN DELETE"
    with pytest.raises(exceptions.BadRequest, match=message):
        client.query(merge, job_id="merge", job_retry=None).result()
    with pytest.raises(exceptions.BadRequest, match=message):
        client.query_and_wait("UPDATE shop.things SET text = 'b' WHERE TRUE")
    with pytest.raises(exceptions.BadRequest, match="Query error: .*" + message):
        client.query(f"BEGIN TRANSACTION; {merge}; COMMIT TRANSACTION;").result()
    assert count(client) == 1
    client.query(merge).result()
    assert count(client) == 0


def test_a_transaction_with_a_merge_is_done_whole_or_not_at_all(client: bigquery.Client) -> None:
    load(client, [{"id": 1, "text": "a"}])
    merge = (
        "MERGE INTO shop.things t USING (SELECT 1 AS id) s ON t.id = s.id "
        "WHEN MATCHED THEN UPDATE SET text = CONCAT(t.text, 'b')"
    )
    insert = "INSERT INTO shop.things (id, text) VALUES (2, 'c')"
    with pytest.raises(exceptions.BadRequest, match="Function not found"):
        client.query(f"BEGIN TRANSACTION; {merge}; {insert}; SELECT no_such_function(1); COMMIT TRANSACTION").result()
    assert [tuple(row) for row in client.query_and_wait("SELECT id, text FROM shop.things")] == [(1, "a")]
    client.query(f"BEGIN TRANSACTION; {merge}; {insert}; {merge}; COMMIT TRANSACTION").result()
    found = client.query_and_wait("SELECT id, text FROM shop.things ORDER BY id")
    assert [tuple(row) for row in found] == [(1, "abb"), (2, "c")]


def test_other_tables_and_inserts_are_not_refused(client: bigquery.Client, proxy: Proxy) -> None:
    proxy.faults = [faults.streaming_buffer("shop.things"), faults.streaming_buffer("shop.thing")]
    client.query_and_wait("INSERT INTO shop.things (id, text) VALUES (1, 'UPDATE')")
    client.query_and_wait("CREATE TABLE shop.things_2 AS SELECT 1 AS id")
    client.query_and_wait("DELETE FROM shop.things_2 WHERE TRUE")
    assert [fault.met for fault in proxy.faults] == [0, 0]


def test_a_rate_limit_heals_and_a_quota_does_not(client: bigquery.Client, proxy: Proxy) -> None:
    def submits(request: faults.Request) -> bool:
        return request.submits

    proxy.faults = [faults.rate_limit(submits, times=1)]
    assert count(client) == 0  # the client tries again by itself
    assert proxy.faults[0].met == 1
    proxy.faults = [faults.too_many_requests(submits, times=1)]
    assert count(client) == 0
    proxy.faults = [faults.quota(submits)]
    with pytest.raises(exceptions.Forbidden, match="Quota exceeded"):
        count(client)
    assert proxy.faults[0].met == 1


@pytest.mark.parametrize(
    ("sql", "is_refused"),
    [
        ("SELECT id FROM shop.things", True),
        ("SELECT id FROM shop.things WHERE id = 7 AND FALSE", True),
        ("SELECT id FROM shop.things WHERE day >= '2025-01-01' OR day IS NULL", False),
        ("SELECT (SELECT COUNT(*) FROM shop.things) FROM shop.other WHERE day >= '2025-01-01'", True),
        ("WITH a AS (SELECT * FROM shop.things) SELECT * FROM a WHERE day >= '2025-01-01'", True),
        ("BEGIN TRANSACTION;\nDELETE FROM `shop`.`things` AS T WHERE T.id IN (SELECT 1);\nCOMMIT TRANSACTION", True),
        ("UPDATE shop.things AS T SET id = 1 WHERE T.day < '2025-01-01'", False),
        ("MERGE INTO shop.things AS T USING (SELECT 1 AS id) AS S ON T.id = S.id WHEN MATCHED THEN DELETE", True),
        ("INSERT INTO shop.things (id) SELECT 1", False),
        ("SELECT id FROM shop.others", False),
    ],
)
def test_what_is_bounded_by_the_partition_goes_through(sql, is_refused) -> None:
    assert faults.reads_unbounded(sql, "shop.things", "day") == is_refused


def test_an_error_while_polling_is_passed(client: bigquery.Client, proxy: Proxy) -> None:
    proxy.faults = [faults.backend_error(times=2)]
    assert load(client, [{"id": 1, "text": "a"}]).output_rows == 1
    job = client.query("SELECT 1")
    assert [tuple(row) for row in job.result()] == [(1,)]


def test_a_load_is_done_though_the_connection_breaks(client: bigquery.Client, proxy: Proxy) -> None:
    proxy.faults = [faults.reset_after(lambda request: request.submits, times=1)]
    with pytest.raises(exceptions.Conflict):  # the client tries again by itself, and meets its own job
        load(client, [{"id": 1, "text": "a"}], "once")
    assert proxy.jobs() == ["once", "once"]
    assert client.get_job("once").result().output_rows == 1
    assert count(client) == 1


def test_the_emulator_ends_with_the_process_that_started_it(emulator: str) -> None:
    script = Path(__file__).with_name("emulator.py")
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        url = parent.stdout.readline().split("HOST=")[1].split()[0]
        path = f"{url}/discovery/v1/apis/bigquery/v2/rest"
        assert requests.get(path, timeout=10).ok
        os.kill(parent.pid, signal.SIGKILL)
    until = time.monotonic() + 10
    with pytest.raises(requests.ConnectionError):
        while time.monotonic() < until:
            requests.get(path, timeout=10)
            time.sleep(0.05)


def test_a_missing_python_is_told_once() -> None:
    reason = f"('tests/conftest.py', 62, 'Skipped: {MISSING}')"
    assert told([reason, reason, "Skipped: no Chromium"]).startswith("NOT RUN: 2 tests of the BigQuery warehouse")
    assert told(["Skipped: no Chromium"]) == ""


def test_a_shim_that_does_not_run_is_no_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shim = tmp_path / "python3.13"
    shim.write_text("#!/bin/sh\nexit 127\n")
    shim.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("PYENV_ROOT", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(shim))
    assert find_python() is None
    real = tmp_path / "versions" / "3.13.9" / "bin" / "python3.13"
    real.parent.mkdir(parents=True)
    real.write_text("#!/bin/sh\nexit 0\n")
    real.chmod(0o755)
    assert find_python() == real
