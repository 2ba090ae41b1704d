"""What a nightly increment of the marts reads on BigQuery, by changed weeks and years of history.

Nothing is sent to Google. The bytes are derived: for each statement of the increment the engine's plan tells which
columns of which table it reads, and within which bound on the partition column; that is summed over the partitions
(months) that the bound touches, by the sizes that Google publishes for each type. A DELETE counts as Google bills it:
all columns of the partitions in which it deletes. The minimum of 10 MB that is billed per table is left out.

The years are those of a generated tenant, repeated into the past. SANDBOX_SCALE is heeded (without it 0.1,
63 jobs a week).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from sandbox import server
from sandbox.store import Store
from sandbox.tenant import FIRST_DAY, LAST_DAY, TIME_ZONE, populate
from stkpi import company, warehouse
from stkpi.ingest import run as ingest
from stkpi.marts import build as marts
from stkpi.marts import increment
from stkpi.warehouse.dialect import to_duckdb

YEARS = (1, 5)
CHANGED_WEEKS = (1, 4, 13, 52)
GENERATED = LAST_DAY - FIRST_DAY + timedelta(days=1)
# The sizes of Google's page on data types, in bytes; NULL is 0, a text 2 and its UTF-8.
SIZES = {"BIGINT": 8, "DOUBLE": 8, "DECIMAL(38,9)": 16, "BOOLEAN": 1, "DATE": 8, "TIMESTAMP WITH TIME ZONE": 8}
HISTORY = ("jobs", "appointments", "invoices", "estimates", "payments", "payroll", "purchase_orders", "returns")
LINKS = {
    "id",
    "jobId",
    "customerId",
    "locationId",
    "invoiceId",
    "firstAppointmentId",
    "lastAppointmentId",
    "mergedToId",
}
APPLICATION = {
    **dict.fromkeys(("appliedId", "appliedTo"), "BIGINT"),
    **dict.fromkeys(("appliedAmount", "appliedBy", "appliedToReferenceNumber"), "VARCHAR"),
    "appliedOn": "TIMESTAMP",
}


# --- a tenant with years of history -----------------------------------------------------------------------------------


def repeated(connection: duckdb.DuckDBPyConnection, entity: str, times: int) -> None:
    """Add the records of an entity again, `times` generated spans earlier, under ids of their own."""
    days, ids = f"INTERVAL {times * GENERATED.days} DAY", times * 10**11
    table, kinds = f"st_raw_v2.raw_{entity}", APPLICATION
    parsed = f"from_json(appliedTo, '{json.dumps([kinds])}')"
    part = {
        name: {"appliedOn": f"x.{name} - {days}", "appliedTo": f"x.{name} + {ids}"}.get(name, f"x.{name}")
        for name in kinds
    }
    packed = ", ".join(f"{name} := {value}" for name, value in part.items())
    values = {
        "_key": f"CAST({ids} AS VARCHAR) || _key",
        "appliedTo": f"to_json(list_transform({parsed}, lambda x: struct_pack({packed})))",
        **{name: f'"{name}" + {ids}' for name in LINKS},
    }
    columns = connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
    shifted = [
        values.get(name)
        or (
            f'CAST("{name}" - {days} AS {kind})'
            if kind in ("DATE", "TIMESTAMP WITH TIME ZONE") and name[0] != "_"
            else f'"{name}"'
        )
        for name, kind in columns
    ]
    connection.execute(
        f"INSERT INTO {table} SELECT {', '.join(shifted)} FROM {table} WHERE createdOn >= ?", [FIRST_DAY]
    )


def with_history(base: Path, years: int) -> Path:
    """A built warehouse with `years` of 52 weeks of history, up to LAST_DAY."""
    file = Path(shutil.copy(base, base.with_name(f"years{years}.duckdb")))
    first = LAST_DAY - timedelta(weeks=52 * years)
    with duckdb.connect(file) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for entity in (*HISTORY, "customers"):
            for times in range(1, -(-364 * years // GENERATED.days)):
                repeated(connection, entity, times)
            connection.execute(f"DELETE FROM st_raw_v2.raw_{entity} WHERE createdOn < ?", [first])
    os.environ["WAREHOUSE"] = str(file)
    marts.build_marts(full=True)
    return file


def planned(weeks: int) -> increment.Plan:
    """The plan of a night after which all jobs of the last weeks have changed."""
    since = datetime.combine(LAST_DAY + timedelta(days=1), datetime.min.time(), UTC) - timedelta(weeks=weeks)
    now = datetime.now(UTC)
    with warehouse.connect() as target:
        target.execute(
            "UPDATE st_raw_v2.raw_jobs SET _ingested_at = @now WHERE createdOn >= @since", now=now, since=since
        )
        target.execute(
            "INSERT INTO st_logs_v2.ingestion_logs (entity, finished_at, oldest) VALUES ('jobs', @now, @since)",
            now=now,
            since=since,
        )
        return increment.make_plan(target, {mart.name: mart.sql for mart in marts.list_marts()}, GIVEN, {}, full=False)


# --- what its statements read -----------------------------------------------------------------------------------------


def statements(plan: increment.Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each SELECT that the increment runs, with its parameters. No customer was read anew."""
    oldest = find_oldest()
    by_name = {mart.name: mart for mart in marts.list_marts()}
    for name in increment.REFERENCES:
        yield by_name[name].sql, GIVEN
    yield by_name[increment.RECORDS].sql, GIVEN | {"created_from": oldest}
    yield (
        (marts.SQL / "increment" / "bounds.sql").read_text(encoding="utf-8"),
        {
            "oldest": oldest,
            "oldest_customer": increment.NEVER,
        },
    )
    for mart in by_name.values():
        if mart.name == increment.RECORDS and plan.has_records:
            yield f"SELECT * FROM {increment.COMPARED_RECORDS} WHERE {mart.replaces}", asdict(plan.bounds)
        elif mart.kind == "TABLE":
            yield mart.sql, GIVEN | asdict(plan.bounds)


def find_oldest() -> datetime:
    """The creation of the oldest record that the night has loaded."""
    with warehouse.connect() as target:
        found: Any = target.query("SELECT MAX(oldest) AS oldest FROM st_logs_v2.ingestion_logs")["oldest"][0]
    return found.to_pydatetime()


class Meter:
    """The bytes of columns and partitions of a warehouse."""

    def __init__(self, file: Path, oldest: datetime) -> None:
        self.connection = duckdb.connect(file)
        self.connection.execute("SET TimeZone = 'UTC'")
        # Else a bound that all rows are within is not in the plan.
        self.connection.execute("SET disabled_optimizers = 'statistics_propagation'")
        self.connection.execute(
            f"CREATE OR REPLACE TABLE {increment.COMPARED_RECORDS} AS SELECT * FROM {increment.RECORDS}"
            " WHERE created_on >= $oldest OR created_on IS NULL",
            {"oldest": oldest},
        )
        self.size = cache(self._size)

    def read(self, sql: str, parameters: dict[str, Any]) -> Iterator[tuple[bool, int]]:
        """Per scan of the plan of a SELECT: whether it is bounded, and its bytes."""
        [statement] = to_duckdb(sql)
        used = {name: parameters[name] for name in re.findall(r"\$([a-z_]+)", statement)}
        [(_, plan)] = self.connection.execute(f"EXPLAIN (FORMAT JSON) {statement}", used).fetchall()
        for scan in _scans(json.loads(plan)[0]):
            table = scan["Table"].split(".", 1)[1]
            filters = scan.get("Filters", [])
            filters = [filters] if isinstance(filters, str) else filters
            filtered = re.findall(r"\w+", re.sub(r"'[^']*'", "", " ".join(filters)))
            projected = scan.get("Projections", [])
            projected = [projected] if isinstance(projected, str) else projected
            bound = _bound(partition(table), filters)
            yield (
                bool(bound) or table.startswith("st_stage_v2."),
                self.size(table, frozenset((*projected, *filtered)), bound),
            )

    def replaced(self, mart: marts.Mart, plan: increment.Plan) -> int:
        """The bytes of the DELETE of an increment."""
        bounds = {name: f"{value}" for name, value in asdict(plan.bounds).items()}
        name = re.search(r"@(\w+)", mart.replaces)[1]
        return self.size(mart.name, None, bounds[name])

    def _size(self, table: str, columns: frozenset[str] | None, bound: str) -> int:
        found = self.connection.execute(f"SELECT column_name, column_type FROM (DESCRIBE {table})").fetchall()
        sizes = [
            f"COALESCE(SUM({_size_of(name, kind)}), 0)" for name, kind in found if columns is None or name in columns
        ]
        where = (
            f"{partition(table)} >= date_trunc('month', TIMESTAMPTZ '{bound}') OR {partition(table)} IS NULL"
            if bound
            else "TRUE"
        )
        return int(self.connection.execute(f"SELECT {' + '.join(sizes) or 0} FROM {table} WHERE {where}").fetchone()[0])


def _scans(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if node["name"].strip() == "SEQ_SCAN":
        yield node["extra_info"]
    for child in node["children"]:
        yield from _scans(child)


@cache
def partition(table: str) -> str:
    """The column by whose months a table is partitioned on BigQuery; empty where it is not."""
    if table.startswith("st_raw_v2."):
        return "createdOn"
    headers = {mart.name: mart.header("Partition") for mart in marts.list_marts()}
    found = re.search(r"\((\w+)", headers.get(table, ""))
    return found[1] if found else ""


def _bound(column: str, filters: list[str]) -> str:
    found = re.search(rf"\b{column} >= '([^']+)'", " ".join(filters)) if column else None
    return found[1] if found else ""


def _size_of(name: str, kind: str) -> str:
    if size := SIZES.get(kind):
        return f'IF("{name}" IS NULL, 0, {size})'
    return f'COALESCE(2 + strlen(CAST("{name}" AS VARCHAR)), 0)'


def measured(file: Path, plan: increment.Plan) -> tuple[int, int]:
    """The bytes of an increment: within its bounds, and without any."""
    bounded = unbounded = 0
    selects = list(statements(plan))
    meter = Meter(file, find_oldest())
    for sql, parameters in selects:
        for within, size in meter.read(sql, parameters):
            bounded, unbounded = bounded + size * within, unbounded + size * (not within)
    bounded += sum(meter.replaced(mart, plan) for mart in marts.list_marts() if mart.replaces)
    meter.connection.execute(f"DROP TABLE {increment.COMPARED_RECORDS}")  # without our label, a build would refuse it
    meter.connection.close()
    return bounded, unbounded


GIVEN = {"time_zone": TIME_ZONE, "first_day": date(2019, 1, 7), "as_of": LAST_DAY}


def main() -> None:
    """Print the table."""
    scale = float(os.environ.get("SANDBOX_SCALE", "0.1"))
    store = Store()
    populate(store, seed=1, scale=scale)
    running = server.start(store, calls_per_second=1_000_000)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder) / "base.duckdb"
        os.environ |= running.environment | {
            "WAREHOUSE": str(base),
            "AS_OF": LAST_DAY.isoformat(),
            "TIME_ZONE": TIME_ZONE,
            "COMPANY": str(company.SANDBOX_PRESET),
        }
        assert ingest.run_ingest().status == "ok"
        running.close()
        print("Bytes that an increment reads on BigQuery: derived from its bounds and Google's sizes of types, not")
        print(f"measured there. In MB, for a tenant of scale {scale:g}.\n")
        print(f"{'changed':>10}{'history':>10}{'bounded':>12}{'unbounded':>12}{'computed from':>16}{'read from':>13}")
        for years in YEARS:
            file = with_history(base, years)
            for weeks in CHANGED_WEEKS:
                plan = planned(weeks)
                bounded, unbounded = measured(file, plan)
                print(
                    f"{weeks:>4} weeks{years:>4} years{bounded / 1e6:>12.2f}{unbounded / 1e6:>12.2f}"
                    f"{plan.bounds.changed_from!s:>16}{plan.bounds.created_from.date()!s:>13}"
                )
        print(
            f"\nA full rebuild of {years} years reads {sum(measured(file, increment.Plan('full', ''))) / 1e6:.2f} MB."
        )


if __name__ == "__main__":
    main()
