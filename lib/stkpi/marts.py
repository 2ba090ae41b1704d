"""Dimensions, facts and KPI tables: each is one SELECT under sql/, found by its name, built in reading order."""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.servicetitan import windows

SQL = settings.ROOT / "sql"
DATASETS = ("st_ref_v2", "st_mart_v2")
# The owner's own tables: CSV files in the repo, all columns text.
OWNED = {"business_unit_rollup": "business_units.csv", "job_type_rules": "job_type_rules.csv"}
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
        return "VIEW" if "-- Kind: view" in self.sql else "TABLE"

    @property
    def reads(self) -> set[str]:
        """The tables that the SELECT names."""
        return set(_READ.findall(_COMMENT.sub("", self.sql)))


@dataclass(frozen=True)
class Build:
    """What a build made: one row per table in order of building (table, rows, seconds), and up to which day."""

    as_of: date
    first_day: date
    tables: pd.DataFrame


def all_marts() -> tuple[Mart, ...]:
    """Every mart under sql/, each after what it reads."""
    found = {
        f"{dataset}.{p.stem}": Mart(f"{dataset}.{p.stem}", p)
        for dataset in DATASETS
        for p in (SQL / dataset).glob("*.sql")
    }
    order = TopologicalSorter({name: sorted(mart.reads & found.keys()) for name, mart in sorted(found.items())})
    return tuple(found[name] for name in order.static_order())


def day_of(as_of: str | date | None, config: settings.Settings) -> date:
    """The last day that counts: as given, else AS_OF, else today in the tenant's time zone."""
    if isinstance(as_of, str) and as_of:
        return windows.parse_day(as_of, "as_of")
    return as_of or config.as_of or datetime.now(ZoneInfo(config.time_zone)).date()


def build(as_of: str = "") -> Build:
    """Build all dimensions, facts and KPI tables up to `as_of` (an ISO day, see `day_of`).

    Raises UserError where nothing was ingested yet.
    """
    config = settings.load()
    last_day = day_of(as_of, config)
    rows: list[dict[str, Any]] = []
    with warehouse.connect(config) as target:
        parameters = {"time_zone": config.time_zone, "as_of": last_day, "first_day": _first_day(target, config)}
        for table, file in OWNED.items():
            header = (SQL / file).read_text(encoding="utf-8").splitlines()[0].split(",")
            count = target.load(f"st_ref_v2.{table}", SQL / file, [(column.strip(), "STRING") for column in header])
            rows.append({"table": f"st_ref_v2.{table}", "rows": count, "seconds": 0.0})
        for mart in all_marts():
            started = time.perf_counter()
            target.execute(f"CREATE OR REPLACE {mart.kind} {mart.name} AS\n{mart.sql}", **parameters)
            count = int(target.query(f"SELECT COUNT(*) AS n FROM {mart.name}")["n"][0])
            rows.append({"table": mart.name, "rows": count, "seconds": round(time.perf_counter() - started, 2)})
    return Build(last_day, parameters["first_day"], pd.DataFrame(rows))


def _first_day(target: warehouse.Warehouse, config: settings.Settings) -> date:
    """The Monday of the week in which the tenant's first job was created: where the calendar of the KPIs starts."""
    try:
        found = target.query(
            "SELECT CAST(DATE_TRUNC(DATE(MIN(createdOn), @zone), WEEK(MONDAY)) AS DATE) AS day FROM st_raw_v2.raw_jobs",
            zone=config.time_zone,
        )["day"][0]
    except target.NotFound:
        found = None
    if found is None or pd.isna(found):
        raise UserError("There are no jobs in the warehouse yet: run `make nightly`, or `make ingest`, first.")
    return found
