"""Random nights: ServiceTitan changes and misbehaves, and programs are killed at any moment; then all tables are right.

After all that, and one more ordinary night, every table equals the one that a clean reading of everything makes. The
environment says how much: NIGHTS a company and warehouse, KILLS a night, NIGHTS_SEED.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
import uuid
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import psutil
import pytest
import requests
import yaml
from test_bigquery import rows
from test_ingest import write_files

from sandbox import server
from sandbox.companies import COMPANIES
from sandbox.faults import Order
from sandbox.store import Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import settings, warehouse
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.servicetitan.entities import ENTITIES

NIGHTS, KILLS, SEED = (
    int(os.environ.get(name, default)) for name, default in (("NIGHTS", 4), ("KILLS", 2), ("NIGHTS_SEED", 1))
)
# The two long steps of a night in one process, with a client and a lease that do not wait long.
PROGRAM = """
from stkpi.servicetitan import client
from stkpi.warehouse import lease
client.BACKOFF, client.ANSWER_SECONDS, lease.SECONDS = 0.01, 2, 9
from stkpi.ingest import run
from stkpi.marts import build
print(*(f"{each.entity}: {each.error}" for each in run.run_ingest().entities if each.error), sep="\\n", flush=True)
print(build.build_marts().headline)
"""
# And in two kernels, by the runner.
RUNNER = """
import pathlib, sys
from stkpi import terminal
from stkpi.runs import runner
spec, runs = map(pathlib.Path, sys.argv[1:])
terminal.run_command(lambda: runner.run_spec(spec, {}, runs))
"""
STEPS = {"ingest": "01_ingest.ipynb", "build": "03_kpi_build.ipynb"}
LISTS = (
    r"/(jobs|appointments|invoices|estimates|payments|gross-pay-items|customers|purchase-orders|returns|technicians)"
)
# What goes wrong, and how often: more often than a call is tried, its entity fails and the others go on.
FAULTS: tuple[tuple[str, int, dict[str, Any]], ...] = (
    ("status", 3, {"status": 500}),
    ("status", 40, {"status": 500}),
    ("status", 2, {"status": 503}),
    ("status", 5, {"status": 429, "headers": {"Retry-After": "0"}}),
    ("status", 3, {"status": 403}),
    ("expire_token", 3, {}),
    ("html", 3, {}),
    ("empty", 3, {}),
    ("no_data", 2, {}),
    ("data_null", 2, {}),
    ("empty_page", 2, {}),
    ("reset", 4, {}),
    ("timeout", 1, {"seconds": 3}),
    ("repeat_page", 3, {}),
    ("repeat_token", 1, {}),
    ("null_token", 1, {}),
    ("has_more_missing", 9, {}),
    ("has_more_string", 9, {}),
    ("quote_total", 9, {}),
    ("bad_total", 3, {"value": None}),
    ("cap_page_size", 3, {"size": 7}),
    ("ignore", 2, {"names": ["createdBefore"]}),
    ("duplicate_row", 3, {"rows": 3}),
    ("add_row", 1, {"raw": '"no record"'}),
    ("move_rows", 1, {"rows": 2, "at": "2025-09-15T01:00:00Z"}),
)


def list_kernels(process: psutil.Process) -> list[psutil.Process]:
    """The kernels of the runner: the first by its command line, the others as forks of the child that forks."""
    children = [(each, " ".join(each.cmdline())) for each in process.children(recursive=True)]
    return [
        each for each, line in children if "ipykernel" in line or ("forkserver" in line and each.ppid() != process.pid)
    ]


def kill_kernel(process: psutil.Process) -> None:
    list_kernels(process)[0].kill()


def cut_power(process: psutil.Process) -> None:
    """Kill a program and all that it has started."""
    for each in [process, *process.children(recursive=True)]:
        with suppress(psutil.NoSuchProcess):  # what ended just now
            each.kill()


def terminate_twice(process: psutil.Process) -> None:
    process.terminate()
    time.sleep(0.2)
    with suppress(psutil.NoSuchProcess):
        process.terminate()


WAYS: dict[str, Callable[[psutil.Process], None]] = {
    "SIGKILL": psutil.Process.kill,
    "SIGTERM": psutil.Process.terminate,
    "SIGTERM twice": terminate_twice,
    "SIGKILL of all": cut_power,
    "SIGKILL of a kernel": kill_kernel,
}


class Nights:
    """The nights of a company, and what happened in them."""

    def __init__(self, running: server.Sandbox, rng: Random, folder: Path) -> None:
        self.running, self.rng, self.folder = running, rng, folder
        self.faults: Counter[str] = Counter()
        self.kills: Counter[str] = Counter()
        self.seconds = {False: 12.0, True: 25.0}  # that a program took when it was let live: the runner, or not
        steps = [{"name": name, "notebook": str(settings.ROOT / "notebooks" / file)} for name, file in STEPS.items()]
        (folder / "spec.yml").write_text(yaml.safe_dump({"steps": [steps[0], steps[1] | {"needs": ["ingest"]}]}))

    def run(self, *, kill: bool, runner: bool) -> None:
        """Run a program while the API misbehaves; kill it at a random moment if it is to be."""
        ordered = [
            Order(re.compile(LISTS), fault, dict(arguments), self.rng.randrange(20), times)
            for fault, times, arguments in self.rng.sample(FAULTS, self.rng.randrange(1, 2 if runner else 5))
        ]
        granted = [order.times or 0 for order in ordered]
        self.running.faults.extend(ordered)
        command = [sys.executable, "-c", RUNNER, self.folder / "spec.yml", self.folder / "runs"]
        began = time.monotonic()
        with (self.folder / "said").open("ab") as said:
            started = subprocess.Popen(command if runner else [sys.executable, "-c", PROGRAM], stdout=said, stderr=said)
        process, way = psutil.Process(started.pid), self.rng.choice(list(WAYS))
        if kill:
            try:
                started.wait(self.rng.uniform(1, self.seconds[runner]))
            except subprocess.TimeoutExpired:
                way = way if way != "SIGKILL of a kernel" or (runner and list_kernels(process)) else "SIGKILL of all"
                WAYS[way](process)
                self.kills[f"{way}{' of the runner' * (runner and 'kernel' not in way)}"] += 1
        started.wait(900)
        if not kill:
            self.seconds[runner] = time.monotonic() - began
        self.running.faults.clear()
        for order, times in zip(ordered, granted, strict=True):
            self.faults[f"{order.fault} {order.args.get('status', '')}".strip()] += times - (order.times or 0)


def read_tables() -> dict[str, list[tuple]]:
    """The rows of every raw table and of all that is made of them, but for when and by which run they were written."""
    made = [mart.name for mart in marts.list_marts() if mart.kind == "TABLE"]
    left_out = dict.fromkeys(made, "")
    left_out["st_ref_v2.records"] = " EXCEPT (version)"
    left_out |= {entity.table: " EXCEPT (_run_id, _ingested_at, _source)" for entity in ENTITIES.values()}
    with warehouse.connect() as target:
        return {name: rows(target.query(f"SELECT *{less} FROM {name}")) for name, less in left_out.items()}


def describe(times: Counter[str]) -> str:
    return ", ".join(f"{kind} {number}" for kind, number in sorted(times.items()) if number)


@pytest.mark.soak
@pytest.mark.parametrize("engine", ["duckdb", "bigquery"])
@pytest.mark.parametrize("name", COMPANIES)
def test_after_random_nights_every_table_equals_a_clean_reading(
    name, engine, serve, tmp_path, monkeypatch, request, record_property
):
    store, own = Store(name), COMPANIES[name]
    populate(store, seed=SEED, scale=0.02)
    running = serve(store, seed=SEED, calls_per_second=1_000_000, export_page_size=300)
    write_files(tmp_path / "company", own)
    files = {"COMPANY": tmp_path / "company", "WAREHOUSE": tmp_path / "warehouse.duckdb"}
    for key, value in (running.environment | files | {"TIME_ZONE": own.time_zone}).items():
        monkeypatch.setenv(key, str(value))
    if engine == "bigquery":
        monkeypatch.setenv("BQ_PROJECT", f"nights-{uuid.uuid4().hex[:12]}")
        monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", request.getfixturevalue("emulator"))
    nights = Nights(running, Random(f"{name} {engine} {SEED}"), tmp_path)
    for night in range(NIGHTS):
        monkeypatch.setenv("AS_OF", f"{LAST_DAY + timedelta(days=night)}")
        if night:
            requests.post(f"{running.url}/sandbox/mutate", json={"step": night}, timeout=60).raise_for_status()
        for attempt in range(KILLS):
            nights.run(kill=True, runner=(night + attempt) % 4 == 3)
        if night % 2 == 0:  # every other night is not made up for
            nights.run(kill=False, runner=night % 4 == 2)
    last = ingest.run_ingest()
    assert [(each.entity, each.error) for each in last.entities if each.status != "ok"] == []
    marts.build_marts()
    found = read_tables()
    monkeypatch.delenv("BQ_PROJECT", raising=False)
    monkeypatch.setenv("WAREHOUSE", str(tmp_path / "clean.duckdb"))
    assert ingest.run_ingest().status == "ok"
    marts.build_marts()
    clean = read_tables()
    different = [table for table, expected in clean.items() if found[table] != expected]
    record_property(
        "told",
        f"{name} on {engine}: {NIGHTS} nights, {nights.kills.total()} kills, {nights.faults.total()} faults; "
        f"{len(different)} of {len(clean)} tables differ\n  kills: {describe(nights.kills)}\n"
        f"  faults: {describe(nights.faults)}",
    )
    assert different == []
    assert nights.kills.total() > 0 or not KILLS
    assert nights.faults.total() > 0
