"""How fast a company's records come into the warehouse, beside what people would use instead (`make bench-ingest`).

The sandbox runs in a process of its own, without a limit on calls; so does each contender, in an environment of its
own and one after the other, in turn over BENCH_ROUNDS rounds. Medians, the fastest and slowest run, CPU seconds, peak
memory, requests and ratios go to runs/bench/ingest.json, .md and .png. SANDBOX_SCALE and BENCH_ONLY (contenders or
cases, comma-separated) are heeded.
"""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import duckdb
import numpy as np
import psutil
from bench_increment import HISTORY, repeated

from sandbox import server
from sandbox.__main__ import load_tenant
from sandbox.store import DEFAULT_COMPANY, Store
from sandbox.tenant import LAST_DAY, populate
from stkpi import company
from stkpi.servicetitan.entities import ENTITIES
from stkpi.settings import RUNS

FOLDER = RUNS / "bench"
CONTENDERS = Path(__file__).with_name("bench_contenders.py")
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "3"))
SCALE = float(os.environ.get("SANDBOX_SCALE", "1"))
ONLY = set(filter(None, os.environ.get("BENCH_ONLY", "").split(",")))
PACKAGES = {"dlt": ["dlt[duckdb]==1.31.0"]}  # what does not come with this project
ABSENT = {"Singer tap": "tap-service-titan is not on PyPI"}
CHANGED = 0.01  # of the records, between two nights
PAY, PAY_DAYS, PAY_CALLS, PAY_SECONDS = 100_000, 30, 60, 0.15


@dataclass(frozen=True)
class Run:
    """One run of a program: seconds by the clock and of the CPU, peak memory in MB, requests, records in the end."""

    seconds: float
    cpu: float
    memory: float
    requests: int
    records: int


# --- the sandbox ------------------------------------------------------------------------------------------------------


def serve(kind: str) -> None:
    """Serve a company until the other end of standard input closes; print its environment as JSON.

    kind: `company`, or `pay`: 30 days of gross pay, at the rate and the pace of the real server
    A line of input changes CHANGED of all records, as of the day after the company's last one.
    """
    if kind == "pay":
        store = Store()
        populate(store, seed=1, scale=0.01)
        add_pay(store)
        running = server.start(store, calls_per_second=PAY_CALLS)
        answer = running.answer

        def answer_slowly(request: Any) -> Any:
            time.sleep(PAY_SECONDS)
            return answer(request)

        running.answer = answer_slowly
    else:
        store = load_tenant(DEFAULT_COMPANY, 1, SCALE, RUNS / "sandbox" / DEFAULT_COMPANY / "records.pickle")
        running = server.start(store, calls_per_second=1_000_000, report_seconds=0)
    running.log = Counting()
    print(json.dumps(running.environment | {"records": len(store)}), flush=True)
    for number, line in enumerate(sys.stdin):
        if line.strip() == "change":
            change(running, number)
        print(running.log.lines, flush=True)


class Counting:
    """A log that only counts."""

    lines = 0

    def append(self, _: Any) -> None:
        """Count a request."""
        self.lines += 1


def change(running: server.Sandbox, step: int) -> None:
    """Modify CHANGED of the records of every list that grows, whatever their age."""
    random = np.random.default_rng(step)
    at = datetime.combine(LAST_DAY, datetime.min.time(), UTC) + timedelta(days=1, hours=12 + step)
    with running.lock:
        for name, entity in ENTITIES.items():
            rows = np.flatnonzero(running.store.present(name))
            if not entity.grows or not len(rows):
                continue
            for row in random.choice(rows, int(len(rows) * CHANGED), replace=False).tolist():
                record = running.store.get(name, row) | {"modifiedOn": f"{at:%Y-%m-%dT%H:%M:%SZ}"}
                running.store.replace(name, row, record, at)
        running.store.settle()


def add_pay(store: Store) -> None:
    """Replace the gross pay of a company by PAY items in PAY_DAYS days."""
    [sample] = [store.get("payroll", row) for row in np.flatnonzero(store.present("payroll"))[:1].tolist()]
    for row in np.flatnonzero(store.present("payroll")).tolist():
        store.remove("payroll", row)
    for number in range(PAY):
        day = LAST_DAY - timedelta(days=number % PAY_DAYS)
        moment = datetime.combine(day, datetime.min.time(), UTC)
        text = f"{moment:%Y-%m-%dT%H:%M:%SZ}"
        record = sample | {"date": text, "createdOn": text, "modifiedOn": text, "amount": number / 100}
        store.add("payroll", record | {"id": 10**9 + number} if sample["id"] else record, moment)


@contextmanager
def sandbox(kind: str) -> Iterator[Sandbox]:
    """Start the sandbox in a process of its own."""
    command = [sys.executable, __file__, "serve", kind]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        environment = json.loads(line)
        records = environment.pop("records")
        try:
            yield Sandbox(process, environment, records)
        finally:
            process.stdin.close()


@dataclass(frozen=True)
class Sandbox:
    """A sandbox in a process of its own."""

    process: subprocess.Popen[str]
    environment: dict[str, str]
    records: int

    def ask(self, word: str = "count") -> int:
        """Return the number of requests so far; the word `change` changes records."""
        self.process.stdin.write(f"{word}\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())


# --- programs ---------------------------------------------------------------------------------------------------------


def run(command: list[str], given: Sandbox, environment: dict[str, str], count: Callable[[str], int]) -> Run:
    """Run a program to its end and measure it, its children included. Exits where it fails."""
    before, began = given.ask(), time.perf_counter()
    lines = "".join(
        json.dumps({"name": e.name, "path": e.path, "params": dict(e.everything)}) + "\n" for e in ENTITIES.values()
    )
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as source:
        source.write(lines)
        source.seek(0)
        process = subprocess.Popen(
            command, env=os.environ | given.environment | environment, stdin=source, stdout=output, stderr=output
        )
        peak = Peak(process.pid)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        output.seek(0)
        text = output.read()
    if process.returncode not in (0,):
        sys.exit(f"{' '.join(command)} ended with {process.returncode}:\n{text[-3000:]}")
    memory = max(used.ru_maxrss / 1024, peak.stop())
    return Run(seconds, used.ru_utime + used.ru_stime, memory, given.ask() - before, count(text))


class Peak:
    """The largest memory of a process and its children, sampled: the kernel knows only that of each alone."""

    def __init__(self, pid: int) -> None:
        self._process, self._largest, self._ended = psutil.Process(pid), 0.0, threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._ended.wait(0.1):
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


def prepare(name: str) -> str | None:
    """Return the Python in which a contender runs; None where its packages cannot be installed."""
    if name not in PACKAGES:
        return sys.executable
    python = FOLDER / name / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", FOLDER / name], check=True)
        install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES[name]]
        if subprocess.run(install, check=False).returncode:
            shutil.rmtree(FOLDER / name)
            return None
    return str(python)


# --- cases ------------------------------------------------------------------------------------------------------------

VOLUMES = (1, 5, 10)
BUILD = "import sys; from stkpi.marts.build import build_marts; build_marts(sys.argv[1], full=sys.argv[2] == 'full')"
CHANGE_WEEK = (
    "UPDATE st_raw_v2.raw_jobs SET _ingested_at = now() WHERE createdOn >= ?",
    "INSERT INTO st_logs_v2.ingestion_logs (entity, finished_at, oldest) VALUES ('jobs', now(), ?)",
)
INGEST = ["-m", "stkpi", "ingest", "--entities"]


@dataclass(frozen=True)
class Case:
    """What is measured: runs by name, and the name that the others are compared with."""

    title: str
    runs: dict[str, list[Run]]
    base: str


def count_rows(file: Path) -> Callable[[str], int]:
    """Return what counts the records of our raw tables in a file."""

    def count(_: str) -> int:
        with duckdb.connect(file, read_only=True) as target:
            tables = target.execute(
                "SELECT table_name FROM duckdb_tables() WHERE schema_name = 'st_raw_v2' AND table_name LIKE 'raw_%'"
            ).fetchall()
            return sum(target.execute(f"SELECT COUNT(*) FROM st_raw_v2.{name}").fetchall()[0][0] for (name,) in tables)

    return count


def read_first() -> Iterator[tuple[str, Case]]:
    """(a) A first read of all lists beside the other ways, and (c) the night after CHANGED of the records changed."""
    names = [name for name in ("ours", "bare", "servicepytan", "dlt") if not ONLY or name in ONLY or "a" in ONLY]
    pythons = {name: python for name in names if (python := prepare(name))}
    for name in set(names) - set(pythons):
        ABSENT[name] = "its packages cannot be installed here"
    runs: dict[str, list[Run]] = {name: [] for name in pythons}
    nights: list[Run] = []
    with sandbox("company") as given, tempfile.TemporaryDirectory() as folder:
        for number in range(ROUNDS):
            turn = number % len(pythons)
            for name in [*pythons][turn:] + [*pythons][:turn]:
                file = Path(folder) / f"{name}{number}.duckdb"
                if name == "ours":
                    environment = {"WAREHOUSE": str(file), "COMPANY": str(company.SANDBOX_PRESET)}
                    runs[name].append(run([pythons[name], *INGEST, "all"], given, environment, count_rows(file)))
                else:
                    command = [pythons[name], str(CONTENDERS), name, str(file)]
                    runs[name].append(run(command, given, {}, lambda text: int(text.split()[-1])))
                tell(name, runs[name][-1])
        if "ours" in runs:
            for _ in range(ROUNDS):
                given.ask("change")
                nights.append(run([pythons["ours"], *INGEST, "all"], given, environment, count_rows(file)))
                tell("a night", nights[-1])
    yield "a", Case(f"A first read of all lists ({given.records:,} records)", runs, "bare")
    if nights:
        yield (
            "c",
            Case(
                f"A night after {CHANGED:.0%} changed",
                {"a night": nights, "a first read": runs["ours"]},
                "a first read",
            ),
        )


def read_pay() -> Iterator[tuple[str, Case]]:
    """(b) A first read of gross pay with the rate and the pace of the real server."""
    with sandbox("pay") as given, tempfile.TemporaryDirectory() as folder:
        runs = []
        for number in range(ROUNDS):
            file = Path(folder) / f"pay{number}.duckdb"
            environment = {"WAREHOUSE": str(file), "COMPANY": str(company.SANDBOX_PRESET)}
            runs.append(run([sys.executable, *INGEST, "payroll"], given, environment, count_rows(file)))
            tell("gross pay", runs[-1])
    title = (
        f"{PAY:,} items of gross pay in {PAY_DAYS} days, {PAY_CALLS} calls a second, {PAY_SECONDS * 1000:.0f} ms each"
    )
    yield "b", Case(title, {"ours": runs}, "ours")


def run_nights() -> Iterator[tuple[str, Case]]:
    """(e) A night in which nothing changed: all notebooks, pages and the validation."""
    with sandbox("company") as given, tempfile.TemporaryDirectory() as folder:
        home = Path(shutil.copytree(company.SANDBOX_PRESET, Path(folder) / "bench-nights"))
        file = Path(folder) / "nights.duckdb"
        environment = {"WAREHOUSE": str(file), "COMPANY": str(home), "AS_OF": LAST_DAY.isoformat()}
        night = [sys.executable, "-m", "stkpi.runner", "notebooks/nightly.yml"]
        runs: dict[str, list[Run]] = {"the first night": [], "nothing changed": []}
        for number in range(ROUNDS + 1):
            name = "nothing changed" if number else "the first night"
            runs[name].append(run(night, given, environment, count_rows(file)))
            tell(name, runs[name][-1])
    yield "e", Case("Whole nights", runs, "the first night")


def build_kpis() -> Iterator[tuple[str, Case]]:
    """(d) The KPIs from the raw tables, of 1, 5 and 10 times the past, in full and after a changed week."""
    runs: dict[str, list[Run]] = {}
    with sandbox("company") as given, tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.duckdb"
        environment = {"COMPANY": str(company.SANDBOX_PRESET), "AS_OF": LAST_DAY.isoformat()}
        run([sys.executable, *INGEST, "all"], given, environment | {"WAREHOUSE": str(base)}, count_rows(base))
        for times in VOLUMES:
            file = Path(shutil.copy(base, base.with_name(f"volume{times}.duckdb")))
            with duckdb.connect(file) as connection:
                connection.execute("SET TimeZone = 'UTC'")
                for entity in (*HISTORY, "customers"):
                    for past in range(1, times):
                        repeated(connection, entity, past)
            for _ in range(ROUNDS):
                for kind in ("full", "a changed week"):
                    command = [sys.executable, "-c", BUILD, LAST_DAY.isoformat(), kind]
                    with duckdb.connect(file) as connection:
                        for statement in CHANGE_WEEK:
                            connection.execute(statement, [LAST_DAY - timedelta(days=6)])
                    done = run(command, given, environment | {"WAREHOUSE": str(file)}, count_rows(file))
                    runs.setdefault(f"{times} times, {kind}", []).append(done)
                    tell(f"{times} times, {kind}", done)
            file.unlink()
    yield "d", Case("The KPIs from the raw tables", runs, f"{VOLUMES[0]} times, full")


CASES = {"b": read_pay, "d": build_kpis, "e": run_nights}


# --- the report -------------------------------------------------------------------------------------------------------


def tell(name: str, done: Run) -> None:
    """Print a run."""
    print(
        f"{name:<18}{done.seconds:>8.1f} s{done.cpu:>8.1f} s CPU{done.memory:>8.0f} MB{done.requests:>7} requests"
        f"{done.records:>10,} records",
        flush=True,
    )


def write_report(cases: dict[str, Case]) -> None:
    """Write runs/bench/ingest.json, .md and .png."""
    machine = (
        f"{os.cpu_count()} cores, {psutil.virtual_memory().total / 2**30:.0f} GB, Python {platform.python_version()}"
    )
    found = {
        name: {"title": case.title, "base": case.base, "runs": {k: list(map(asdict, v)) for k, v in case.runs.items()}}
        for name, case in cases.items()
    }
    report = {"machine": machine, "scale": SCALE, "absent": ABSENT, "cases": found}
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "ingest.json").write_text(json.dumps(report, indent=1))
    lines = [f"Measured on {machine}, scale {SCALE:g}; medians of {ROUNDS} rounds (fastest to slowest).", ""]
    for name, case in cases.items():
        base = median(each.seconds for each in case.runs[case.base]) if case.runs.get(case.base) else None
        lines += [f"({name}) {case.title}", "", "| | seconds | CPU | MB | requests | records | ratio |"]
        lines += ["| --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
        for who, runs in case.runs.items():
            seconds = sorted(each.seconds for each in runs)
            ratio = f"{median(seconds) / base:.2f}" if base else ""
            lines.append(
                f"| {who} | {median(seconds):.1f} ({seconds[0]:.1f} to {seconds[-1]:.1f}) "
                f"| {median(r.cpu for r in runs):.1f} | {max(r.memory for r in runs):.0f} "
                f"| {median(r.requests for r in runs):.0f} | {runs[-1].records:,} | {ratio} |"
            )
        lines.append("")
    lines += [f"Not measured: {name}, because {reason}." for name, reason in ABSENT.items()]
    (FOLDER / "ingest.md").write_text("\n".join(lines) + "\n")
    draw(cases)
    print("\n".join(lines))


def draw(cases: dict[str, Case]) -> None:
    """Draw a bar per program: the median, and a line from the fastest run to the slowest."""
    import matplotlib  # noqa: PLC0415

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    figure, panels = plt.subplots(len(cases), 1, figsize=(8, 2 + 1.6 * len(cases)), squeeze=False, layout="constrained")
    for panel, case in zip(panels[:, 0], cases.values(), strict=True):
        seconds = {who: sorted(each.seconds for each in runs) for who, runs in case.runs.items()}
        middle = [median(values) for values in seconds.values()]
        spread = [[m - v[0] for m, v in zip(middle, seconds.values(), strict=True)]]
        spread += [[v[-1] - m for m, v in zip(middle, seconds.values(), strict=True)]]
        panel.barh(list(seconds), middle, xerr=spread, color="#4c72b0")
        panel.invert_yaxis()
        panel.set(title=case.title, xlabel="seconds")
    figure.savefig(FOLDER / "ingest.png", dpi=120)


def main() -> None:
    """Measure and write the report."""
    cases: dict[str, Case] = {}
    if not ONLY or ONLY - set(CASES):
        cases |= dict(read_first())
    for name, measure in CASES.items():
        if not ONLY or name in ONLY:
            cases |= dict(measure())
    write_report(cases)


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        main()
