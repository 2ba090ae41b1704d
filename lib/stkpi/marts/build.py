"""Dimensions, candidates, facts and KPI tables, built in the order in which they read each other.

Dimensions, candidates and the views for dashboards are files under sql/, found by their name; facts and KPI tables
follow from the catalog and the company's definitions (`stkpi.kpis.sql`). The header of a SELECT declares what is not in
it: `-- Kind: view`, `-- Partition:` and `-- Cluster:` (how BigQuery stores it), `-- Replaces:` (which rows an increment
computes; without it, always all).
"""

from __future__ import annotations

import csv
import json
import re
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.ingest import state
from stkpi.ingest.load import define_raw_table
from stkpi.kpis import sql
from stkpi.kpis.definition import Definition, name_facts, read_definitions
from stkpi.marts import history, increment
from stkpi.marts.names import remember_names
from stkpi.servicetitan.entities import ENTITIES

SQL = settings.ROOT / "sql"
# The company's own tables: CSV files in its folder, all columns text.
OWNED = {"business_unit_rollup": company.UNITS, "job_type_rules": company.JOB_TYPE_RULES}
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
    """A table or view that one SELECT defines, its header included."""

    name: str  # with its dataset
    sql: str

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

    def replace_sql(self, source: str = "") -> tuple[str, str]:
        """Return the statements, to be one transaction, that compute the rows of an increment.

        source: a table that has the rows already
        """
        rows = f"SELECT * FROM {source} WHERE {self.replaces}" if source else self.sql
        return f"DELETE FROM {self.name} WHERE {self.replaces}", f"INSERT INTO {self.name}\n{rows}"

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
    tables: one row per table, views left out, in order of building; columns table, rows (all that it has), seconds
    """

    as_of: date
    first_day: date
    plan: increment.Plan
    tables: pd.DataFrame

    @property
    def headline(self) -> str:
        """Which weeks were computed, and why."""
        return increment.describe_plan(self.plan, self.first_day, self.as_of)


def list_marts(definitions: Mapping[str, Definition] | None = None) -> tuple[Mart, ...]:
    """Return every mart, each after what it reads; `definitions` are by default the company's."""
    definitions = read_definitions() if definitions is None else definitions
    files = [path for dataset in ("st_ref_v2", "st_mart_v2") for path in (SQL / dataset).glob("*.sql")]
    found = {f"{path.parent.name}.{path.stem}": path.read_text(encoding="utf-8") for path in files}
    found |= {f"st_ref_v2.{d.kpi.candidates}": sql.candidates_view_sql(d.kpi) for d in definitions.values()}
    facts = name_facts(definitions)
    for table in dict.fromkeys(facts.values()):
        found[f"st_mart_v2.{table}"] = sql.fact_sql([d for name, d in definitions.items() if facts[name] == table])
    found |= {
        "st_mart_v2.kpi_daily_by_bu": sql.daily_sql(definitions),
        "st_mart_v2.kpi_weekly_by_bu": sql.weekly_sql(definitions),
        "st_mart_v2.regional_kpis": sql.regional_sql(definitions),
    }
    marts = {name: Mart(name, select) for name, select in found.items()}
    order = TopologicalSorter(
        {name: sorted((mart.reads & marts.keys()) - {name}) for name, mart in sorted(marts.items())}
    )
    return tuple(marts[name] for name in order.static_order())


def resolve_day(as_of: str | date | None, config: settings.Settings) -> date:
    """The last day that counts: as given, else AS_OF, else today in the tenant's time zone."""
    if isinstance(as_of, str) and as_of:
        return parse_day(as_of, "as_of")
    return as_of or config.as_of or config.compute_today()


def build_marts(as_of: str = "", *, full: bool = False) -> Build:
    """Bring all dimensions, facts and KPI tables up to `as_of` (an ISO day, see `resolve_day`).

    full: compute all weeks, not only those that changed since the last build
    Raises UserError, before a table of them is touched, where an entity that they need was never read, and for tables
    that this program did not make.
    """
    config = settings.load()
    definitions = read_definitions(config)
    departures = {name: d.departures for name, d in definitions.items() if d.departures}
    last_day, marts = resolve_day(as_of, config), list_marts(definitions)
    selects, replaces = {mart.name: mart.sql for mart in marts}, {mart.name: mart.replaces for mart in marts}
    with warehouse.connect(config) as target:
        _check_sources(target, marts)
        first_day = _first_day(target, config)
        given = {"time_zone": config.time_zone, "first_day": first_day, "as_of": last_day}
        _load_owned(target, config)
        started_at = datetime.now(UTC)
        plan = increment.make_plan(target, selects, given, departures, full=full)
        line = {
            "started_at": started_at,
            "mode": plan.mode,
            "reason": plan.reason,
            "as_of": last_day,
            "digest": increment.compute_digest(selects, config.time_zone),
            "departures": json.dumps(departures),
            "tables": ",".join(selects),
            **asdict(plan.bounds),
        }
        history.keep_before(target, replaces, definitions, plan)
        increment.record_build(target, "planned", line)
        spent = {mart: _compute(target, mart, plan, given) for mart in marts}
        if plan.mode != "nothing":
            target.run_transaction(*sql.settle_sql(definitions), as_of=last_day)
        remember_names(target, accept=full)
        target.drop(*_list_abandoned(target, selects), increment.COMPARED_RECORDS)
        history.note_changes(target, replaces, definitions, plan)
        increment.record_build(target, "complete", line)
        # The rows of a view are computed when they are read: to count them takes longer than to build an increment.
        seconds = {mart.name: each for mart, each in spent.items() if mart.kind == "TABLE"}
        rows = _count(target, [*(f"st_ref_v2.{table}" for table in OWNED), *seconds])
    tables = pd.DataFrame({"table": list(rows), "rows": rows.values()})
    return Build(last_day, first_day, plan, tables.assign(seconds=tables["table"].map(seconds).fillna(0.0)))


def _check_sources(target: warehouse.Warehouse, marts: Iterable[Mart]) -> None:
    """Check that the tables that are made may be made, and that those that they read are ours, and were read.

    Raises UserError.
    """
    target.check_ownership(*(f"st_ref_v2.{table}" for table in OWNED), *(mart.name for mart in marts))
    read = {table for mart in marts for table in mart.reads}
    needed = [entity for entity in ENTITIES.values() if entity.table in read]
    warehouse.ensure_tables(target, (*state.TABLES, *map(define_raw_table, needed)))
    if unread := state.find_unread(target, needed):
        raise UserError(
            f"Nothing of {', '.join(unread)} was read from ServiceTitan yet, and the figures need it: run the nightly, "
            "which says why."
        )


def _list_abandoned(target: warehouse.Warehouse, selects: Mapping[str, str]) -> list[str]:
    """Tables that an earlier build made for a definition that is no longer in force: nothing else is ever dropped."""
    made = target.query(f"SELECT DISTINCT tables FROM {increment.BUILDS} WHERE tables IS NOT NULL")["tables"]
    known = {table for tables in made for table in tables.split(",")}
    return sorted((known - selects.keys()) & target.list_columns("st_mart_v2").keys())


def _load_owned(target: warehouse.Warehouse, config: settings.Settings) -> None:
    """Load the company's CSV files, however they are written; of a missing one the table has no rows."""
    folder = company.find_folder(config)
    tables = {
        table: (company.COLUMNS[file], company.read_table(folder / file, company.COLUMNS[file]))
        for table, file in OWNED.items()
    }
    with tempfile.TemporaryDirectory() as temporary:
        for table, (columns, rows) in tables.items():
            clean = Path(temporary) / f"{table}.csv"
            with clean.open("w", encoding="utf-8", newline="") as file:
                writer = csv.DictWriter(file, columns, lineterminator="\n")
                writer.writeheader()
                writer.writerows(rows)
            target.load_file(f"st_ref_v2.{table}", clean, [(column, "STRING") for column in columns])


def _compute(target: warehouse.Warehouse, mart: Mart, plan: increment.Plan, given: Mapping[str, Any]) -> float:
    """Compute a mart, or the rows of it that the plan asks for; the seconds that it took."""
    started, mode, parameters = time.perf_counter(), plan.mode, dict(given) | asdict(plan.bounds)
    if mode == "nothing" or (mode == "days" and "@as_of" not in mart.sql) or (mode != "full" and mart.kind == "VIEW"):
        return 0.0
    # What reads itself is kept: all of its rows are replaced.
    if not mart.replaces or (mode == "full" and mart.name not in mart.reads):
        target.execute(mart.create_sql, **parameters)
    else:
        known = increment.COMPARED_RECORDS if mart.name == increment.RECORDS and plan.has_records else ""
        target.run_transaction(*mart.replace_sql(known), **parameters)
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
        raise UserError("There are no jobs in the warehouse yet: run the nightly or an ingest first.")
    return found
