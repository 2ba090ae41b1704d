"""The main job over real HTTP: whatever happens on the way, the tables end up equal to the tenant's own truth."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from datetime import date, timedelta
from fractions import Fraction
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import requests

from sandbox import server, truth
from sandbox.companies import COMPANIES
from sandbox.organization import Company
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import __main__ as command
from stkpi import company, warehouse
from stkpi.errors import UserError
from stkpi.ingest import run as ingest
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.servicetitan import client
from stkpi.servicetitan.entities import ENTITIES

SCALE = 0.02
EXACT = {"leads", "estimates", "estimates_scheduled"}


@pytest.fixture
def use(monkeypatch, tmp_path) -> Callable[..., Path]:
    """`use(sandbox, name)` points the product at a sandbox and at a warehouse of its own; returns the file."""

    def point(sandbox: server.Sandbox, name: str = "warehouse") -> Path:
        file = tmp_path / f"{name}.duckdb"
        for key, value in sandbox.environment.items():
            monkeypatch.setenv(key, value)
        monkeypatch.setenv("WAREHOUSE", str(file))
        return file

    return point


@pytest.fixture
def own(serve) -> Iterator[server.Sandbox]:
    """A generated tenant that a test may change."""
    store = Store()
    populate(store, seed=3, scale=SCALE)
    return serve(store, seed=3, calls_per_second=1_000_000, export_page_size=300)


def raw_tables() -> dict[str, pd.DataFrame]:
    """Every raw table without its load metadata, in the order of its key."""
    with warehouse.connect() as target:
        return {
            name: target.query(
                f"SELECT * EXCEPT (_run_id, _ingested_at, _source) FROM {entity.table} ORDER BY _key"
            ).astype(str)
            for name, entity in ENTITIES.items()
        }


def assert_equal(left: dict[str, pd.DataFrame], right: dict[str, pd.DataFrame]) -> None:
    for name in ENTITIES:
        pd.testing.assert_frame_equal(left[name], right[name], obj=name)


def assert_equals_truth(store: Store, as_of: date) -> None:
    """Every KPI of every unit, week and day equals the oracle's: counts and money exactly, ratios to nine digits."""
    marts.build_marts(as_of.isoformat())
    own = COMPANIES[store.company]
    for table, key, oracle in (
        ("kpi_weekly_by_bu", "week_start", truth.compute_weekly_kpis),
        ("kpi_daily_by_bu", "event_date", truth.compute_daily_kpis),
    ):
        expected = oracle(store, own.list_rollups(), own.time_zone, as_of, own.rules)
        with warehouse.connect() as target:
            rows = target.query(f"SELECT * FROM st_mart_v2.{table}").to_dict("records")
        found = {(row["business_unit"], row[key]): row for row in rows}
        assert found.keys() == expected.keys()
        wrong = [
            (table, *where, name, value, found[where][name])
            for where, kpis in expected.items()
            for name, value in kpis.items()
            if not same(value, found[where][name])
        ]
        assert wrong == []


def write_files(folder: Path, own: Company) -> None:
    """Write what a person would say of a made-up company into its folder."""
    company.write_rows(folder / company.UNITS, company.COLUMNS[company.UNITS], own.list_rollups())
    rules = {"excluded_from_production": own.rules.not_production, "warranty": own.rules.warranty}
    rows = [{"job_type": name, "rule": rule} for rule, names in rules.items() for name in sorted(names)]
    company.write_rows(folder / company.JOB_TYPE_RULES, company.COLUMNS[company.JOB_TYPE_RULES], rows)


def same(expected: Any, found: Any) -> bool:
    if expected is None or pd.isna(found):
        return expected is None and pd.isna(found)
    tolerance = Fraction(1, 10**9) if isinstance(expected, Fraction) else 0
    return abs(Fraction(expected) - Fraction(found)) <= tolerance


def statuses(report: ingest.IngestReport) -> dict[str, str]:
    return {result.entity: result.status for result in report.entities}


@pytest.mark.parametrize(
    ("name", "seed"), [("painting", 2), pytest.param("painting", 7, marks=pytest.mark.soak), ("hvac", 3)]
)
def test_every_kpi_of_every_unit_week_and_day_equals_the_truth(name, seed, serve, use, tmp_path, monkeypatch):
    store = Store(name)
    populate(store, seed=seed, scale=SCALE)
    write_files(tmp_path / "company", COMPANIES[name])
    monkeypatch.setenv("COMPANY", str(tmp_path / "company"))
    use(serve(store, seed=seed, calls_per_second=1_000_000))
    report = ingest.run_ingest()
    assert report.status == "ok"
    assert all(result.fetched == result.loaded + result.quarantined for result in report.entities)
    assert {r.entity: r.fetched for r in report.entities} == {name: len(list(store.rows(name))) for name in ENTITIES}
    assert_equals_truth(store, LAST_DAY)
    assert_equals_truth(store, date(2025, 9, 10))  # a Wednesday: the running week ends there


@pytest.mark.fault(35)
def test_a_second_run_reads_the_overlap_and_changes_nothing(healthy):
    before = raw_tables()
    second = ingest.run_ingest()
    assert second.status == "ok"
    assert sum(r.changed for r in second.entities) == 0
    assert sum(r.fetched for r in second.entities) < sum(map(len, before.values())) / 10
    assert_equal(before, raw_tables())


@pytest.mark.fault(36)
def test_incremental_and_full_reach_the_same_tables_while_the_tenant_changes(own, use):
    use(own, "incremental")
    ingest.run_ingest()
    for step in (1, 2, 3):
        requests.post(f"{own.url}/sandbox/mutate", json={"step": step}, timeout=60).raise_for_status()
        assert ingest.run_ingest().status == "ok"
    incremental = raw_tables()
    assert_equals_truth(own.store, LAST_DAY + timedelta(days=3))
    use(own, "full")
    assert ingest.run_ingest(mode="full").status == "ok"
    assert_equal(incremental, raw_tables())


@pytest.mark.fault(37, 38, 40, 41, 42)
@pytest.mark.soak
def test_a_run_that_is_killed_resumes_and_ends_with_the_same_tables(sandbox, use):
    use(sandbox, "whole")
    ingest.run_ingest()
    whole = raw_tables()
    file = use(sandbox, "killed")
    for windows in (4, 12):
        command = [sys.executable, "-m", "stkpi", "ingest"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, env=os.environ) as run:
            lines = file.parent / "log.jsonl"
            while (lines.read_text().count('"event":"window"') if lines.exists() else 0) < windows:
                assert run.poll() is None, "the run ended before it could be killed"
                time.sleep(0.01)
            run.send_signal(signal.SIGKILL)
        lines.unlink()
    assert ingest.run_ingest().status == "ok"
    assert_equal(whole, raw_tables())


@pytest.mark.fault(33)
def test_a_deleted_month_is_noticed_and_read_again(sandbox, use):
    use(sandbox)
    ingest.run_ingest("jobs")
    with warehouse.connect() as target:
        count = state.count_stored(target, ENTITIES["jobs"])
        target.execute(
            "DELETE FROM st_raw_v2.raw_jobs"
            " WHERE createdOn >= TIMESTAMP '2025-03-01' AND createdOn < TIMESTAMP '2025-04-01'"
        )
        assert state.count_stored(target, ENTITIES["jobs"]) < count
    assert ingest.run_ingest("jobs").status == "ok"
    with warehouse.connect() as target:
        assert state.count_stored(target, ENTITIES["jobs"]) == count


@pytest.mark.fault(32)
def test_a_backfill_loads_its_days_and_leaves_the_watermark(sandbox, use):
    use(sandbox)
    report = ingest.run_ingest("invoices", "window", "2025-08-18", "2025-08-18")
    assert report.status == "ok"
    with warehouse.connect() as target:
        days = target.query("SELECT DISTINCT DATE(createdOn, 'America/Phoenix') AS day FROM st_raw_v2.raw_invoices")
        assert list(days["day"]) == [date(2025, 8, 18)]
        assert state.read_state(target, ENTITIES["invoices"]) == state.State()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"entities": "jobs,leads"}, "Unknown entity leads"),
        ({"mode": "monthly"}, "Unknown mode monthly"),
        ({"mode": "window", "window_start": "2025-08-18"}, "Mode window needs window_start and window_end"),
        ({"mode": "window", "window_start": "2025-08-18", "window_end": "2025-08-17"}, "before it starts"),
        ({"mode": "window", "window_start": "18.8.2025", "window_end": "2025-08-17"}, "window_start=18.8.2025"),
    ],
)
def test_a_usage_error_is_one_sentence_and_writes_nothing(arguments, sentence, sandbox, use):
    file = use(sandbox)
    with pytest.raises(UserError, match=sentence):
        ingest.run_ingest(**arguments)
    assert not file.exists()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("ST_CLIENT_SECRET", "wrong", "refuses these credentials"),
        ("ST_APP_KEY", "wrong", "refuses the app key"),
        ("ST_TENANT_ID", "7", "not permitted"),
        ("ST_APP_KEY", "", "ST_APP_KEY missing"),
        ("ST_API_URL", "http://127.0.0.1:9", "no connection"),
        ("ST_AUTH_URL", "http://127.0.0.1:9", "the sign-in server does not answer"),
    ],
)
def test_what_cannot_work_is_one_sentence_and_writes_nothing(name, value, sentence, sandbox, use, monkeypatch):
    file = use(sandbox)
    monkeypatch.setattr(client, "BACKOFF", 0.001)
    monkeypatch.setattr(client, "PATIENCE", 1)
    monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=sentence):
        ingest.run_ingest()
    assert not file.exists()


def test_two_companies_do_not_mix_in_one_warehouse(sandbox, use, monkeypatch, serve):
    use(sandbox)
    ingest.run_ingest("tag_types")
    other = serve(sandbox.store, seed=2)
    use(other)
    with pytest.raises(UserError, match="holds the data of tenant 1000001, not of 1000002"):
        ingest.run_ingest("tag_types")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--from", "", "--to", "2025-08-18"], "FROM and TO"),
        (["--from", "18.8.2025", "--to", "2025-08-18"], "FROM=18.8.2025"),
        (["--from", "2025-08-18", "--to", "2025-08-17"], "TO .*FROM .*swap"),
    ],
)
def test_a_backfill_is_refused_in_the_words_of_its_command(arguments, words, sandbox, use, monkeypatch, capsys):
    file = use(sandbox)
    monkeypatch.setattr(sys, "argv", ["stkpi", "backfill", "--entity", "jobs", *arguments])
    assert command.main() == 2
    assert re.search(words, capsys.readouterr().err)
    assert not file.exists()


def test_the_status_is_told_in_words_and_in_the_company_s_time(healthy):
    first, *lines = ingest.describe_status()
    assert first.endswith("America/Phoenix:")
    [jobs] = [line for line in lines if line.split()[0] == "jobs"]
    assert re.fullmatch(
        r" +jobs +(just now|\d+ (minute|hour)s? ago); changes up to [A-Z][a-z]+ \d+, 20\d\d, \d+:\d\d [AP]M", jobs
    )


HOLD = """
import os, sys, time
from stkpi import warehouse
with warehouse.connect():
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.mark.fault(45)
def test_a_command_that_must_wait_says_for_which_program(healthy, capsys, monkeypatch):
    with subprocess.Popen(
        [sys.executable, "-c", HOLD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(UserError) as raised:
            warehouse.connect(wait=0.1)
        said = f"{healthy} is open in another program ("
        assert capsys.readouterr().err.startswith(f"Waiting: {said}")
        assert str(raised.value).startswith(said.replace("is open", "is still open"))
        assert f"process {holder.pid})" in str(raised.value)
        with monkeypatch.context() as patch:
            patch.setattr(warehouse, "connect", partial(warehouse.connect, wait=0.1))
            patch.setattr(sys, "argv", ["stkpi", "ingest"])
            assert command.main() == 2
        waiting, told = capsys.readouterr().err.splitlines()
        assert (waiting.startswith("Waiting: "), told) == (True, str(raised.value))
        holder.stdin.close()
    warehouse.connect(wait=0.1).close()


@pytest.mark.fault(45)
def test_a_command_that_must_wait_for_a_notebook_says_so(healthy):
    """The kernels of a night are forks, whose command line is another's."""
    holding = f"import os, time\nos.environ.update({dict(os.environ)})\nfrom stkpi import warehouse\n"
    holding += "with warehouse.connect():\n    ready.send(True)\n    time.sleep(60)"
    context = get_context("forkserver")
    opened, ready = context.Pipe(duplex=False)
    notebook = context.Process(target=exec, args=(holding, {"ready": ready}))
    notebook.start()
    assert opened.poll(60)
    try:
        with pytest.raises(UserError, match=rf"another program \(a notebook, .* of a night; process {notebook.pid}\)"):
            warehouse.connect(wait=0.1)
    finally:
        notebook.kill()
        notebook.join()
    warehouse.connect(wait=0.1).close()
