"""Load pages of records into a raw table: land, type in the warehouse, quarantine or merge, and log the reading."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import log
from stkpi.ingest import landing
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import LANDING, METADATA, Entity, projection_sql
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import Warehouse
from stkpi.warehouse.schema import Column, Table

DESCRIPTIONS = {
    "_key": "The id as text; for rows without one a digest and an ordinal",
    "_hash": "SHA-256 of the record with sorted keys",
    "_record": "The whole record as ServiceTitan sent it",
    "_run_id": "The run that wrote the row",
    "_ingested_at": "When it did",
    "_source": "The endpoint that the record came from",
}


@dataclass(frozen=True)
class Reading:
    """One reading of an entity: its run and mode, the endpoint, and the window and the cycle it belongs to."""

    entity: Entity
    run_id: str
    mode: str
    source: str
    window: Window | None = None
    cycle: str | None = None


@dataclass(frozen=True)
class LoadResult:
    """The counts of one reading: fetched = loaded + quarantined; `changed` of the loaded rows are new or different.

    complete: as many rows came as the server counts
    drift: field names that the registry does not know
    """

    fetched: int
    loaded: int
    quarantined: int
    changed: int
    complete: bool
    drift: tuple[str, ...]


def load_pages(target: Warehouse, folder: Path, reading: Reading, pages: Iterable[Page]) -> LoadResult:
    """Land pages, merge them into the raw table and log the reading; merge and log are one transaction.

    folder: where the landing file goes; it is deleted after the merge
    Raises RequestFailed from the pages, and RuntimeError if not all landed rows were loaded; then nothing is merged.
    """
    started, entity, window = time.perf_counter(), reading.entity, reading.window
    landed = landing.write_landing(
        folder / f"{entity.identifier}.ndjson.gz",
        pages,
        repeats=entity.keyless,
        place=entity.find_place("id").split("."),
    )
    # An interrupted load resumes by its content. DuckDB has nothing to resume, and parses each new statement again.
    content = f"_{landed.digest[:20]}" if target.remote else ""
    stage, typed = (f"st_stage_v2.{step}_{entity.identifier}{content}" for step in ("landing", "typed"))
    rows = target.load_file(
        stage, landed.path, [(field.name, field.type) for field in LANDING], landing.substitute_line
    )
    if rows != landed.fetched:
        target.drop(stage)
        raise RuntimeError(f"{landed.fetched} records were landed and {rows} loaded: nothing was merged")
    target.execute(f"CREATE OR REPLACE TABLE {typed} AS\n{projection_sql(entity, stage)}")
    parameters: dict[str, Any] = {
        "run_id": reading.run_id,
        "entity": entity.name,
        "mode": reading.mode,
        "source": reading.source,
        "window_start": window and window.start,
        "window_end": window and window.end,
        "status": "loaded" if landed.complete else "short",
        "fetched": landed.fetched,
        "total": landed.total,
        "digest": landed.digest,
        "cycle": reading.cycle,
        "seconds": round(time.perf_counter() - started, 3),
        "now": datetime.now(UTC),
    }
    # Where rows have no key, what was read is replaced: a row that did not come again is deleted, or has changed.
    slice = window if entity.incremental == "slices" else None
    replaces = entity.keyless and landed.complete and (slice is not None or entity.incremental == "whole")
    days = {"first": slice.start.date(), "end": slice.end.date()} if slice and replaces else {}
    parameters["oldest_deleted"] = _find_oldest_deleted(target, entity, typed, days) if replaces else None
    statements = _choose_statements(target, entity, typed, replaces=replaces)
    target.run_transaction(*statements, **parameters, **days)
    target.drop(stage, typed)
    landed.path.unlink()
    row = target.query(
        "SELECT fetched, loaded, quarantined, changed FROM st_logs_v2.ingestion_logs"
        " WHERE run_id = @run_id AND entity = @entity AND finished_at = @now",
        **parameters,
    ).iloc[0]
    counts = {str(name): int(n) for name, n in row.items()}
    log.write_event("window", label=str(window or ""), **{**parameters, **counts})
    if counts["fetched"] != counts["loaded"] + counts["quarantined"]:
        raise RuntimeError(
            f"{counts['fetched']} rows were fetched, but {counts['loaded']} were loaded and {counts['quarantined']} "
            "quarantined"
        )
    return LoadResult(**counts, complete=landed.complete, drift=entity.find_drift(landed.names))


def define_raw_table(entity: Entity) -> Table:
    """Define the raw table of an entity, partitioned by creation, which never changes: a MERGE may prune by it."""
    columns = tuple(
        Column(field.name, field.type, "The record's " + ", else its ".join(field.sources)) for field in entity.fields
    )
    metadata = tuple(Column(field.name, field.type, DESCRIPTIONS[field.name]) for field in METADATA)
    return Table(
        entity.table,
        columns + metadata,
        partition="TIMESTAMP_TRUNC(createdOn, MONTH)",
        cluster=("_key",),
        description=f"ServiceTitan's {entity.path.partition('/')[0]} API, {entity.resource}.",
    )


def _choose_statements(target: Warehouse, entity: Entity, typed: str, *, replaces: bool) -> list[str]:
    """Return the statements that merge the typed rows and log the reading.

    Where statements are billed: only those that have something to do, bounded by the months of the typed rows.
    """
    if not target.remote:
        return [*quarantine_sql(typed), merge_sql(entity, typed, replaces=replaces), log_sql(entity, typed)]
    found = target.query(month_counts_sql(typed), entity=entity.name)
    good = found[found["good"] > 0]
    bound = created_in_sql(good["month"])
    statements: list[str] = []
    if len(found) and (found["held"][0] or (found["good"] < found["records"]).any()):
        statements += quarantine_sql(typed)
    if len(good) or replaces:
        statements.append(merge_sql(entity, typed, bound, replaces=replaces))
    return [*statements, log_sql(entity, typed, bound)]


def month_counts_sql(typed: str) -> str:
    """Return the query of the typed rows by month of creation: records, good ones, and those in quarantine now."""
    return f"""SELECT
  CAST(DATE_TRUNC(DATE(createdOn), MONTH) AS DATE) AS month,
  COUNTIF(_reject IS NULL) AS good,
  COUNT(*) AS records,
  (SELECT COUNT(*) FROM st_logs_v2.quarantine WHERE entity = @entity) AS held
FROM {typed}
GROUP BY month"""


def created_in_sql(months: Iterable[date | None], table: str = "T") -> str:
    """Return the condition that a row of `table` was created in one of the months.

    months: the first days of months; None among them selects all rows
    In literals, because BigQuery prunes by them. Rows without a creation date (the old pipeline has some) always match.
    """
    months = set(months)
    if None in months:
        return "TRUE"
    column = f"{table}.createdOn"
    ranges: list[tuple[date, date]] = []
    for month in sorted(month for month in months if month):
        if ranges and ranges[-1][1] == month:
            ranges[-1] = (ranges[-1][0], _get_next_month(month))
        else:
            ranges.append((month, _get_next_month(month)))
    parts = [f"{column} >= TIMESTAMP '{a} 00:00:00+00' AND {column} < TIMESTAMP '{b} 00:00:00+00'" for a, b in ranges]
    return "(" + " OR ".join([*parts, f"{column} IS NULL"]) + ")"


def _get_next_month(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _find_oldest_deleted(target: Warehouse, entity: Entity, typed: str, days: dict[str, date]) -> datetime | None:
    """Return when the oldest row was created that replacing a slice will delete."""
    found = target.query(deleted_rows_sql(entity, typed), **days)["oldest"][0]
    return None if pd.isna(found) else found.to_pydatetime()


def deleted_rows_sql(entity: Entity, typed: str) -> str:
    """Return the query for the oldest creation of the rows of the slice, or of all, that did not come again."""
    return f"""-- Unbounded: a slice is a range of calendar days, and its rows may have been created at any time.
SELECT MIN(T.createdOn) AS oldest
FROM {entity.table} AS T
LEFT JOIN {typed} AS S ON T._key = S._key
WHERE {_replaced_sql(entity)} AND S._key IS NULL"""


def _replaced_sql(entity: Entity) -> str:
    """Return the condition on the raw table (T) for the rows that a reading replaces."""
    return "T.`date` >= @first AND T.`date` < @end" if entity.incremental == "slices" else "TRUE"


def quarantine_sql(typed: str) -> tuple[str, str]:
    """Return the statements that keep each rejected record once, and drop those that could be loaded since."""
    return (
        f"""DELETE FROM st_logs_v2.quarantine
WHERE entity = @entity
  AND (key IN (SELECT _key FROM {typed} WHERE _key IS NOT NULL) OR digest IN (SELECT _hash FROM {typed}))""",
        f"""INSERT INTO st_logs_v2.quarantine (entity, key, reason, digest, record, run_id, quarantined_at)
SELECT @entity, _key, _reject, _hash, _record, @run_id, @now FROM {typed} WHERE _reject IS NOT NULL""",
    )


def merge_sql(entity: Entity, typed: str, bound: str = "TRUE", *, replaces: bool) -> str:
    """Return the MERGE of the typed rows: the newest record of each key wins, an unchanged row stays as it is.

    bound: a condition on the raw table (T) that holds for all rows with these keys; not used with `replaces`
    replaces: delete the rows of the slice (@first to before @end), or of the whole table, that did not come again
    """
    sources = [field.name for field in entity.fields] + ["_key", "_hash", "_record"]
    columns = [field.name for field in (*entity.fields, *METADATA)]
    metadata = {"_run_id": "@run_id", "_ingested_at": "@now", "_source": "@source"}
    value = {name: metadata.get(name, f"S.`{name}`") for name in columns}
    on, delete = f"T._key = S._key AND {bound}", ""
    if replaces:
        on = "T._key = S._key"
        delete = f"\nWHEN NOT MATCHED BY SOURCE AND {_replaced_sql(entity)} THEN DELETE"
    return f"""MERGE INTO {entity.table} AS T
USING (
  SELECT {", ".join(f"`{name}`" for name in sources)}
  FROM {typed}
  WHERE _seq IN (
    SELECT _seq FROM {typed}
    WHERE _reject IS NULL
    QUALIFY ROW_NUMBER() OVER (PARTITION BY _key ORDER BY modifiedOn DESC, _seq DESC) = 1
  )
) AS S
ON {on}
WHEN MATCHED AND T._hash != S._hash
  AND (S.modifiedOn >= T.modifiedOn OR S.modifiedOn IS NULL OR T.modifiedOn IS NULL) THEN UPDATE SET
  {", ".join(f"`{name}` = {value[name]}" for name in columns if name != "_key")}
WHEN NOT MATCHED BY TARGET THEN INSERT ({", ".join(f"`{name}`" for name in columns)})
  VALUES ({", ".join(value[name] for name in columns)}){delete}"""


def log_sql(entity: Entity, typed: str, bound: str = "TRUE") -> str:
    """Return the INSERT of the reading into the ingestion log; `loaded` is counted in the raw table, within `bound`.

    `oldest` is the oldest creation of the rows that the reading added, changed or deleted (@oldest_deleted): to find
    them, no rows from before need to be read.
    """
    written = "MIN(IF(S._reject IS NULL AND R._ingested_at = @now, S.createdOn, NULL))"
    return f"""INSERT INTO st_logs_v2.ingestion_logs (
  run_id, entity, mode, source, window_start, window_end, status, fetched, loaded, quarantined, changed, total,
  watermark, digest, cycle, seconds, finished_at, oldest
)
SELECT
  @run_id, @entity, @mode, @source, @window_start, @window_end, @status, @fetched,
  COUNTIF(S._reject IS NULL AND R._key IS NOT NULL),
  COUNTIF(S._reject IS NOT NULL),
  COUNTIF(S._reject IS NULL AND R._ingested_at = @now),
  @total,
  MAX(IF(S._reject IS NULL, S.modifiedOn, NULL)),
  @digest, @cycle, @seconds, @now,
  LEAST(COALESCE({written}, @oldest_deleted), COALESCE(@oldest_deleted, {written}))
FROM {typed} AS S
LEFT JOIN (SELECT T._key, T._ingested_at FROM {entity.table} AS T WHERE {bound}) AS R ON R._key = S._key"""
