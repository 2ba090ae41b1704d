"""How fast the program is, beside what people would use instead (`make bench-ingest`).

The sandbox runs in a process of its own; so does each contender, in an environment of its own, one after the other and
in turn over BENCH_ROUNDS rounds. Medians, the fastest and slowest run, CPU seconds, peak memory, requests and ratios go
to runs/bench/ingest.json, .md and .png, and what README.md and docs/speed.md show of them is printed.

BENCH_ONLY: some cases and contenders (`b,ours,bare`); a contender alone means its first read, case a
BENCH_SCALE: the size of the company, of the pay and of the export (1)
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import psutil
from bench_increment import HISTORY, repeated
from bench_report import CONTENDERS, TITLES, Case, Run, write_report

from sandbox import server
from sandbox.__main__ import load_tenant
from sandbox.store import DEFAULT_COMPANY, Store
from sandbox.tenant import LAST_DAY, TIME_ZONE, populate
from stkpi import company
from stkpi.servicetitan.entities import ENTITIES
from stkpi.settings import ROOT, RUNS, Settings

FOLDER = Path(os.environ.get("BENCH_FOLDER") or RUNS / "bench")
HERE = Path(__file__).parent
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SCALE = float(os.environ.get("BENCH_SCALE", "1"))
ONLY = set(filter(None, os.environ.get("BENCH_ONLY", "").split(",")))
ONCE = {"dlt", "singer"}  # minutes each: they run in the first round only
CHANGED = 0.01  # of the records, between two nights
PAY, PAY_DAYS, PAY_CALLS, PAY_SECONDS = 100_000, 30, 60, 0.15
EXPORTED = 100_000
VOLUMES = (1, 5, 10)


# --- the sandbox ------------------------------------------------------------------------------------------------------


def serve(kind: str, scale: float) -> None:
    """Serve a company until the other end of standard input closes; print its environment as JSON.

    kind: `company`, without a limit on calls, or `pay`: 30 days of gross pay, at the rate and the pace of the real
        server
    A line of input is answered with a number: `count` with the requests so far, `change` with the records changed.
    """
    if kind == "pay":
        store = Store()
        populate(store, seed=1, scale=0.01)
        add_pay(store, round(PAY * scale))
        running = server.start(store, calls_per_second=PAY_CALLS)
        answer = running.answer

        def answer_slowly(request: Any) -> Any:
            time.sleep(PAY_SECONDS)
            return answer(request)

        running.answer = answer_slowly
    else:
        store = load_tenant(DEFAULT_COMPANY, 1, scale, RUNS / "sandbox" / DEFAULT_COMPANY / "records.pickle")
        running = server.start(store, calls_per_second=1_000_000, report_seconds=0)
    running.log = Counting()
    records = sum(int(np.count_nonzero(store.present(name))) for name in ENTITIES)
    print(json.dumps(running.environment | {"records": records}), flush=True)
    for number, line in enumerate(sys.stdin):
        print(change(running, number) if line.strip() == "change" else running.log.lines, flush=True)


class Counting:
    """A log that only counts."""

    lines = 0

    def append(self, _: Any) -> None:
        """Count a request."""
        self.lines += 1


def change(running: server.Sandbox, step: int) -> int:
    """Modify CHANGED of the records of every list that grows, whatever their age; of gross pay, the newest ones.

    They change on the day after the company's last one. Returns how many.
    """
    random = np.random.default_rng(step)
    at = datetime.combine(LAST_DAY, datetime.min.time(), UTC) + timedelta(days=1, hours=12, minutes=step)
    newest = f"{LAST_DAY - timedelta(days=PAY_DAYS)}"
    changed = 0
    with running.lock:
        for name, entity in ENTITIES.items():
            rows = np.flatnonzero(running.store.present(name)).tolist()
            count = int(len(rows) * CHANGED) if entity.grows else 0
            if entity.incremental == "slices":
                rows = [row for row in rows if running.store.get(name, row)["date"] >= newest]
            for row in random.choice(rows, min(count, len(rows)), replace=False).tolist():
                record = running.store.get(name, row) | {"modifiedOn": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
                running.store.replace(name, row, record, at)
                changed += 1
        running.store.settle()
    return changed


def add_pay(store: Store, count: int) -> None:
    """Replace the gross pay of a company by so many items in PAY_DAYS days."""
    rows = np.flatnonzero(store.present("payroll")).tolist()
    sample = store.get("payroll", rows[0])
    for row in rows:
        store.remove("payroll", row)
    for number in range(count):
        moment = datetime.combine(LAST_DAY - timedelta(days=number % PAY_DAYS), datetime.min.time(), UTC)
        text = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        record = sample | {"date": text, "createdOn": text, "modifiedOn": text, "amount": number / 100}
        store.add("payroll", record | {"id": 10**9 + number} if sample["id"] else record, moment)


@dataclass(frozen=True)
class Sandbox:
    """A sandbox in a process of its own, what a client must know of it, and how many records its lists have."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    records: int

    def ask(self, word: str = "count") -> int:
        """Return the number of requests so far; with the word `change`, change records and return how many."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


@contextmanager
def start_sandbox(kind: str, scale: float) -> Iterator[Sandbox]:
    """Start the sandbox in a process of its own."""
    command = [sys.executable, __file__, "serve", kind, str(scale)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        environment = json.loads(process.stdout.readline())
        records = environment.pop("records")
        try:
            yield Sandbox(process, environment, records)
        finally:
            process.stdin.close()


# --- programs ---------------------------------------------------------------------------------------------------------


class Peak:
    """The largest memory of a process and its children together, sampled: the kernel knows only that of each alone."""

    def __init__(self, pid: int) -> None:
        self._process, self._largest, self._ended = psutil.Process(pid), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.25):  # more often takes a sixth of a core from what is measured
            total = 0
            try:
                for each in (self._process, *self._process.children(recursive=True)):
                    total += each.memory_info().rss
            except psutil.Error:
                continue
            self._largest = max(self._largest, total / 2**20)

    def stop(self) -> float:
        """Return it, in MB."""
        self._ended.set()
        self._thread.join()
        return self._largest


def measure(
    command: list[Any], environment: dict[str, str], given: Sandbox, count: Callable[[str], int], code: int = 0
) -> Run:
    """Run a program to its end and measure it, its children included; `count` gets its records from what it printed.

    Exits where the program ends with another code.
    """
    # Whose .env and shell these are must not matter.
    ours = {name: value for name, value in os.environ.items() if name.lower() not in Settings.model_fields}
    lines = [{"name": e.name, "path": e.path, "params": dict(e.everything)} for e in ENTITIES.values()]
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as source:
        source.write("".join(json.dumps(line) + "\n" for line in lines))
        source.seek(0)
        before, began = given.ask(), time.perf_counter()
        process = subprocess.Popen(
            [str(part) for part in command],
            env=ours | given.environment | {"ENV_FILE": os.devnull} | environment,
            cwd=ROOT,
            stdin=source,
            stdout=output,
            stderr=output,
        )
        peak = Peak(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - began
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    memory = peak.stop()
    if process.returncode != code:
        sys.exit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{text[-3000:]}")
    seconds_cpu = used.ru_utime + used.ru_stime
    return Run(seconds, seconds_cpu, memory, given.ask() - before, count(text))


def read_number(text: str) -> int:
    """Return the number that a program printed last."""
    return int(text.rsplit(maxsplit=1)[-1])


def count_rows(file: Path) -> int:
    """Count the records in the raw tables of a warehouse."""
    with duckdb.connect(file, read_only=True) as target:
        found = target.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'st_raw_v2'").fetchall()
        names = {name for (name,) in found} & {entity.table.partition(".")[2] for entity in ENTITIES.values()}
        return sum(target.execute(f"SELECT COUNT(*) FROM st_raw_v2.{name}").fetchall()[0][0] for name in names)


def count_changed(file: Path) -> int:
    """Count the records that the newest ingest has added or changed."""
    newest = "SELECT MAX(run_id) FROM st_logs_v2.ingestion_logs"
    with duckdb.connect(file, read_only=True) as target:
        found = target.execute(f"SELECT SUM(changed) FROM st_logs_v2.ingestion_logs WHERE run_id = ({newest})")
        return int(found.fetchall()[0][0] or 0)


def check(done: Run, expected: int, what: str) -> Run:
    """Return a run. Exits where it does not have the expected number of records: its speed would mean nothing."""
    if done.records != expected:
        sys.exit(f"{what}: {done.records:,} records, and there are {expected:,}.")
    return done


def prepare(name: str) -> str:
    """Return the Python in which a contender runs: our own, or that of an environment made of its pins.

    Raises CalledProcessError, with what was printed, where its packages cannot be installed.
    """
    pins, folder = HERE / "contenders" / f"{name}.txt", ROOT / ".venv-bench" / name
    if not pins.exists():
        return sys.executable
    uv = Path(sys.executable).with_name("uv")
    commands = [[uv, "pip", "sync", "--python", folder, pins]]
    if not folder.exists():
        commands.insert(0, [uv, "venv", "--python", sys.executable, folder])
    for command in commands:
        subprocess.run(command, check=True, capture_output=True, text=True)
    return str(folder / "bin" / "python")


# --- cases ------------------------------------------------------------------------------------------------------------

INGEST = [sys.executable, "-m", "stkpi", "ingest", "--entities"]
NIGHT = """
import pathlib, sys
from stkpi.runs.runner import run_spec
sys.exit(run_spec("notebooks/nightly.yml", runs=pathlib.Path(sys.argv[1])))
"""
BUILD = "import sys; from stkpi.marts.build import build_marts; print(build_marts(full='full' in sys.argv).plan.mode)"
WEEK = LAST_DAY - timedelta(days=6)
CHANGE_WEEK = (
    "UPDATE st_raw_v2.raw_jobs SET _ingested_at = now() WHERE createdOn >= ?",
    "INSERT INTO st_logs_v2.ingestion_logs (entity, finished_at, oldest) VALUES ('jobs', now(), ?)",
)
LEADS = """
SELECT job_number AS "Job #", 'Marketing Lead' AS "Lead Type", unit_name AS "Job's Business Unit",
  customer_name AS "Customer Name", CAST(event_date AS VARCHAR) AS "Job Created Date"
FROM (SELECT *, ROW_NUMBER() OVER (ORDER BY event_date DESC, job_id) AS number FROM st_mart_v2.fact_leads)
WHERE number % 100 <> 0 ORDER BY number LIMIT ?
"""


class Bench:
    """What the cases share: a made-up company, its folder, and warehouses with it, each made when first needed."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self._stack, self.absent = folder, stack, {}
        self.home = Path(shutil.copytree(company.SANDBOX_PRESET, folder / "company"))

    def environ(self, file: Path) -> dict[str, str]:
        """The settings for a warehouse of the company."""
        given = {"WAREHOUSE": file, "COMPANY": self.home, "AS_OF": LAST_DAY, "TIME_ZONE": TIME_ZONE}
        return {name: str(value) for name, value in given.items()}

    @cached_property
    def sandbox(self) -> Sandbox:
        """The company, in a sandbox."""
        return self._stack.enter_context(start_sandbox("company", SCALE))

    def read_company(self, file: Path, given: Sandbox, entities: str = "all", expected: int | None = None) -> Run:
        """Read all records into a new warehouse."""
        done = measure([*INGEST, entities], self.environ(file), given, lambda _: count_rows(file))
        return check(done, given.records if expected is None else expected, "A first read")

    @cached_property
    def base(self) -> Path:
        """A warehouse with all records: the one of the first round, if there was one."""
        file = self.folder / "ours0.duckdb"
        if not file.exists():
            self.read_company(file, self.sandbox)
        return file

    @cache  # noqa: B019 - there is one
    def copy(self, times: int) -> Path:
        """A warehouse with so many times the records, each time further in the past, and no KPIs yet."""
        file = Path(shutil.copy(self.base, self.folder / f"volume{times}.duckdb"))
        with duckdb.connect(file) as connection:
            connection.execute("SET TimeZone = 'UTC'")
            for entity in (*HISTORY, "customers"):
                for past in range(1, times):
                    repeated(connection, entity, past)
            connection.execute("UPDATE st_raw_v2.raw_jobs SET jobNumber = id WHERE id >= 100000000000")  # the repeated
        return file

    def build(self, file: Path, mode: str) -> Run:
        """Build the KPIs. Exits where they were not built in this mode: full, increment, nothing; empty: in any."""

        def count(text: str) -> int:
            if mode not in text:
                sys.exit(f"The KPIs were built in full, not as {mode}:\n{text}")
            return count_rows(file)

        return measure([sys.executable, "-c", BUILD, mode], self.environ(file), self.sandbox, count)


def read_first(bench: Bench) -> Case:
    """(a) A first read of all lists, beside the other ways."""
    runs: dict[str, list[Run]] = {}
    pythons: dict[str, str] = {}
    for name in [name for name in CONTENDERS if name in ONLY] or CONTENDERS:
        try:
            pythons[name] = prepare(name)
        except subprocess.CalledProcessError as error:
            bench.absent[name] = error.stderr.strip().splitlines()[-1]
    for number in range(ROUNDS):
        names = [name for name in pythons if number == 0 or name not in ONCE]
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            file = bench.folder / f"{name}{number}.duckdb"
            if name == "ours":
                done = bench.read_company(file, bench.sandbox)
            else:
                command = [pythons[name], HERE / "bench_contenders.py", name, file]
                done = measure(command, {}, bench.sandbox, read_number)
            runs.setdefault(name, []).append(tell(CONTENDERS[name], done))
            if number or name != "ours":  # that file is the base of other cases
                remove(file)
    return Case("ours", runs)


def remove(file: Path) -> None:
    """Remove what a contender wrote: gigabytes, at full size."""
    for path in file.parent.glob(f"{file.name}*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def read_tenfold(bench: Bench) -> Case:
    """(a10) A first read of ten times the records: the time grows with them, and the memory should not."""
    file = bench.folder / "tenfold.duckdb"
    with start_sandbox("company", 10 * SCALE) as given:
        done = tell("ten times", bench.read_company(file, given))
    remove(file)
    return Case("ours", {"ours": [done]})


def read_pay(bench: Bench) -> Case:
    """(b) A first read of gross pay with the rate and the pace of the real server; each item is counted."""
    runs = []
    with start_sandbox("pay", SCALE) as given:
        for number in range(ROUNDS):
            file = bench.folder / f"pay{number}.duckdb"
            runs.append(tell("gross pay", bench.read_company(file, given, "payroll", round(PAY * SCALE))))
    return Case("ours", {"ours": runs})


def run_nights(bench: Bench) -> Case:
    """(e) A night in which nothing changed: all notebooks, pages and the validation."""
    file = bench.folder / "nights.duckdb"
    night = [
        sys.executable,
        "-c",
        NIGHT,
        bench.folder / "runs",
    ]  # not in the runs of this project: they have a home page
    runs: dict[str, list[Run]] = {}
    for number in range(ROUNDS + 1):
        name = "nothing changed" if number else "the first night"
        done = measure(night, bench.environ(file), bench.sandbox, lambda _: count_changed(file))
        check(done, 0 if number else bench.sandbox.records, name)
        runs.setdefault(name, []).append(tell(name, done))
    return Case("nothing changed", runs)


def build_kpis(bench: Bench) -> Case:
    """(d) The KPIs from the raw tables, of 1, 5 and 10 times the past, in full and after a changed week."""
    runs: dict[str, list[Run]] = {}
    for times in VOLUMES:
        file = bench.copy(times)
        for number in range(ROUNDS):
            for mode in ("full", "increment") if number == 0 else ("increment",):  # all of them take minutes
                if mode == "increment":
                    with duckdb.connect(file) as connection:
                        for statement in CHANGE_WEEK:
                            connection.execute(statement, [WEEK])
                name = f"{times} times, {'all' if mode == 'full' else 'one changed week'}"
                runs.setdefault(name, []).append(tell(name, bench.build(file, mode)))
    return Case(f"{VOLUMES[-1]} times, one changed week", runs)


def search_definitions(bench: Bench) -> Case:
    """(f) The search: every definition of the KPI that has most, for 12 numbers, without the start of the process."""
    file = bench.copy(1)
    bench.build(file, "")
    runs = []
    for _ in range(ROUNDS):
        found: list[str] = []

        def count(text: str, found: list[str] = found) -> int:
            found += re.search(r"([\d,]+) definitions, 12 numbers: ([\d.]+) s", text).groups()
            return int(found[0].replace(",", ""))

        command = [sys.executable, HERE / "bench_finder.py", "speed"]
        done = measure(command, bench.environ(file), bench.sandbox, count)
        runs.append(tell("the search", replace(done, seconds=float(found[1]))))
    return Case("ours", {"ours": runs})


def compare_export(bench: Bench) -> Case:
    """(g) The comparison of a large export with the warehouse: one row in a hundred is missing from it."""
    file, rows = bench.copy(5), round(EXPORTED * SCALE)
    bench.build(file, "")
    export = bench.folder / "Leads.csv"
    with duckdb.connect(file, read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        frame = connection.execute(LEADS, [rows]).df()
    frame.to_csv(export, index=False)
    days = frame["Job Created Date"].min(), frame["Job Created Date"].max()
    command = [sys.executable, "-m", "stkpi", "reconcile", "--export", export, "--kpi", "leads", "--from", days[0]]
    command += ["--to", days[1], "--out", bench.folder / "compared"]
    runs = []
    for _ in range(ROUNDS):
        done = measure(
            command,
            bench.environ(file),
            bench.sandbox,
            lambda text: int(re.search(r"([\d,]+) rows are data", text)[1].replace(",", "")),
            code=1,  # they differ
        )
        runs.append(tell("the comparison", check(done, rows, "The export")))
    return Case("ours", {"ours": runs})


def read_changes(bench: Bench) -> Case:
    """(c) The ingest of a night after CHANGED of the records changed."""
    file, runs = bench.base, []
    for _ in range(ROUNDS):
        changed = bench.sandbox.ask("change")
        done = measure([*INGEST, "all"], bench.environ(file), bench.sandbox, lambda _: count_changed(file))
        runs.append(tell("a night", check(done, changed, "A night")))
    return Case("ours", {"ours": runs})


# In this order: the last one changes the company.
CASES = {
    "a": read_first,
    "a10": read_tenfold,
    "b": read_pay,
    "d": build_kpis,
    "e": run_nights,
    "f": search_definitions,
    "g": compare_export,
    "c": read_changes,
}


def tell(name: str, done: Run) -> Run:
    """Print a run and return it."""
    print(
        f"{name:<30}{done.seconds:>8.1f} s{done.cpu:>8.1f} s CPU{done.memory:>8.0f} MB{done.requests:>7} requests"
        f"{done.records:>11,} records",
        flush=True,
    )
    return done


def main() -> None:
    """Measure and write the report; exit 2 for a case or a contender that there is not."""
    if unknown := ONLY - CASES.keys() - CONTENDERS.keys():
        known = ", ".join([*sorted(CASES), *CONTENDERS])
        sys.stderr.write(f"BENCH_ONLY={','.join(sorted(unknown))} does not work: choose from {known}.\n")
        sys.exit(2)
    wanted = ONLY & CASES.keys() | ({"a"} if ONLY & CONTENDERS.keys() else set()) or CASES.keys()
    cases: dict[str, Case] = {}
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, ExitStack() as stack:
        bench = Bench(Path(folder), stack)
        for name in [name for name in CASES if name in wanted]:
            cases[name] = CASES[name](bench)
    write_report(FOLDER, {name: cases[name] for name in TITLES if name in cases}, bench.absent, SCALE, ROUNDS)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2], float(sys.argv[3]))
    else:
        main()
