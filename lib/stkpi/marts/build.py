"""Dimensions, facts and KPI tables: each is one SELECT under sql/, found by its name, built in reading order.

The header of a file declares what is not in the SELECT: `-- Kind: view`, `-- Partition:` and `-- Cluster:` (how
BigQuery stores it), `-- Replaces:` (which rows an increment computes; without it, always all).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.marts import increment
from stkpi.servicetitan import windows

SQL = settings.ROOT / "sql"
DATASETS = ("st_ref_v2", "st_mart_v2")
# The owner's own tables: CSV files in the repo, all columns text.
OWNED = {"business_unit_rollup": "business_units.csv", "job_type_rules": "job_type_rules.csv"}
# The types of the values that the SELECTs take.
PARAMETERS = {
    "time_zone": "STRING",
    "first_day": "DATE",
    "as_of": "DATE",
    "changed_from": "DATE",
    "created_from": "TIMESTAMP",
}
_READ = re.compile(r"\b(st_\w+_v2\.\w+)\b")
_COMMENT = re.compile(r"--.*")


@dataclass(frozen=True)
class Mart:
    """A table or view that one SQL file defines."""

    name: str  # with its dataset
    path: Path

    @cached_property
    def sql(self) -> str:
        """The SELECT, header included."""
        return self.path.read_text(encoding="utf-8")

    @property
    def kind(self) -> str:
        """TABLE, or VIEW where the header says so."""
        return "VIEW" if self.header("Kind") == "view" else "TABLE"

    @property
    def replaces(self) -> str:
        """The condition of the rows that an increment replaces; empty where the table is always computed whole."""
        return self.header("Replaces")

    @property
    def create_sql(self) -> str:
        """The statement that computes it whole."""
        partition, cluster = self.header("Partition"), self.header("Cluster")
        storage = (partition and f"\nPARTITION BY {partition}") + (cluster and f"\nCLUSTER BY {cluster}")
        return f"CREATE OR REPLACE {self.kind} {self.name}{storage} AS\n{self.sql}"

    @property
    def replace_sql(self) -> tuple[str, str]:
        """The statements, to be one transaction, that compute the rows of an increment."""
        return f"DELETE FROM {self.name} WHERE {self.replaces}", f"INSERT INTO {self.name}\n{self.sql}"

    @property
    def reads(self) -> set[str]:
        """The tables that the SELECT names."""
        return set(_READ.findall(_COMMENT.sub("", self.sql)))

    def header(self, label: str) -> str:
        """What the line `-- Label: …` says; empty without one."""
        found = re.search(rf"^-- {label}: (.+)$", self.sql, re.MULTILINE)
        return found[1] if found else ""


@dataclass(frozen=True)
class Build:
    """What a build made.

    plan: which weeks it computed, and why
    tables: one row per table in order of building; columns table, rows (all that it has), seconds
    """

    as_of: date
    first_day: date
    plan: increment.Plan
    tables: pd.DataFrame

    @property
    def headline(self) -> str:
        """Which weeks were computed, and why."""
        return increment.sentence(self.plan, self.first_day, self.as_of)


def all_marts() -> tuple[Mart, ...]:
    """Every mart under sql/, each after what it reads."""
    found = {
        f"{dataset}.{p.stem}": Mart(f"{dataset}.{p.stem}", p)
        for dataset in DATASETS
        for p in (SQL / dataset).glob("*.sql")
    }
    order = TopologicalSorter(
        {name: sorted((mart.reads & found.keys()) - {name}) for name, mart in sorted(found.items())}
    )
    return tuple(found[name] for name in order.static_order())


def day_of(as_of: str | date | None, config: settings.Settings) -> date:
    """The last day that counts: as given, else AS_OF, else today in the tenant's time zone."""
    if isinstance(as_of, str) and as_of:
        return windows.parse_day(as_of, "as_of")
    return as_of or config.as_of or datetime.now(ZoneInfo(config.time_zone)).date()


def build(as_of: str = "", *, full: bool = False) -> Build:
    """Bring all dimensions, facts and KPI tables up to `as_of` (an ISO day, see `day_of`).

    full: compute all weeks, not only those that changed since the last build
    Raises UserError where nothing was ingested yet.
    """
    config = settings.load()
    last_day, marts = day_of(as_of, config), all_marts()
    selects = {mart.name: mart.sql for mart in marts}
    with warehouse.connect(config) as target:
        first_day = _first_day(target, config)
        given = {"time_zone": config.time_zone, "first_day": first_day, "as_of": last_day}
        for table, file in OWNED.items():
            header = (SQL / file).read_text(encoding="utf-8").splitlines()[0].split(",")
            target.load(f"st_ref_v2.{table}", SQL / file, [(column.strip(), "STRING") for column in header])
        started_at = datetime.now(UTC)
        plan = increment.plan(target, selects, given, full=full)
        line = {
            "started_at": started_at,
            "mode": plan.mode,
            "reason": plan.reason,
            "as_of": last_day,
            "digest": increment.digest(selects, config.time_zone),
            **asdict(plan.bounds),
        }
        increment.note(target, "planned", line)
        seconds = {mart.name: _compute(target, mart, plan.mode, given | asdict(plan.bounds)) for mart in marts}
        increment.note(target, "complete", line)
        rows = _count(target, [*(f"st_ref_v2.{table}" for table in OWNED), *seconds])
    tables = pd.DataFrame({"table": list(rows), "rows": rows.values()})
    return Build(last_day, first_day, plan, tables.assign(seconds=tables["table"].map(seconds).fillna(0.0)))


def _compute(target: warehouse.Warehouse, mart: Mart, mode: str, parameters: dict[str, Any]) -> float:
    """Compute a mart, or the rows of it that the mode asks for; the seconds that it took."""
    started = time.perf_counter()
    if mode == "nothing" or (mode == "days" and "@as_of" not in mart.sql):
        return 0.0
    # What reads itself is kept: all of its rows are replaced.
    if not mart.replaces or (mode == "full" and mart.name not in mart.reads):
        target.execute(mart.create_sql, **parameters)
    else:
        target.transaction(*mart.replace_sql, **parameters)
    return round(time.perf_counter() - started, 2)


def _count(target: warehouse.Warehouse, tables: Iterable[str]) -> dict[str, int]:
    """The rows of each table."""
    counts = " UNION ALL ".join(f"SELECT '{table}' AS name, COUNT(*) AS n FROM {table}" for table in tables)
    found = target.query(counts).set_index("name")["n"]
    return {table: int(found[table]) for table in tables}


def _first_day(target: warehouse.Warehouse, config: settings.Settings) -> date:
    """The Monday of the week in which the tenant's first job was created: where the calendar of the KPIs starts."""
    try:
        found = target.query(
            "-- Unbounded: the first of all days is wanted; one column is read.\n"
            "SELECT CAST(DATE_TRUNC(DATE(MIN(createdOn), @zone), WEEK(MONDAY)) AS DATE) AS day FROM st_raw_v2.raw_jobs",
            zone=config.time_zone,
        )["day"][0]
    except target.NotFound:
        found = None
    if found is None or pd.isna(found):
        raise UserError("There are no jobs in the warehouse yet: run `make nightly`, or `make ingest`, first.")
    return found
