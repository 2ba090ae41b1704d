"""From pages of records into a raw table: land, type in the warehouse, quarantine or merge, and write the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

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
    "_record": "The whole record as it came",
    "_run_id": "The run that wrote the row",
    "_ingested_at": "When it did",
    "_source": "The endpoint that the record came from",
}


@dataclass(frozen=True)
class Read:
    """One reading of an entity: which run and mode, from which endpoint, which window, as part of which cycle."""

    entity: Entity
    run_id: str
    mode: str
    source: str
    window: Window | None = None
    cycle: str | None = None


@dataclass(frozen=True)
class Loaded:
    """The counts of one reading: fetched = loaded + quarantined; `changed` of the loaded were new or different."""

    fetched: int
    loaded: int
    quarantined: int
    changed: int
    complete: bool
    drift: tuple[str, ...]


def load(target: Warehouse, folder: Path, read: Read, pages: Iterable[Page]) -> Loaded:
    """Land pages, merge them into the raw table and write their line into the ledger, in one transaction.

    Raises RequestFailed from the pages, and RuntimeError where the counts do not add up; nothing is merged then.
    """
    started, entity, window = time.perf_counter(), read.entity, read.window
    slices = entity.incremental == "slices"
    landed = landing.write(folder / f"{entity.name}.ndjson.gz", pages, repeats=slices)
    # A load that was cut off is resumed by its content. DuckDB has nothing to resume, and parses each new text anew.
    content = f"_{landed.digest[:20]}" if target.remote else ""
    stage, typed = f"st_stage_v2.landing_{entity.name}{content}", f"st_stage_v2.typed_{entity.name}{content}"
    rows = target.load(stage, landed.path, [(field.name, field.type) for field in LANDING], landing.stand_in)
    if rows != landed.fetched:
        target.drop(stage)
        raise RuntimeError(f"{landed.fetched} records were landed and {rows} loaded: nothing was merged")
    target.execute(f"CREATE OR REPLACE TABLE {typed} AS\n{projection_sql(entity, stage)}")
    line = {
        "run_id": read.run_id,
        "entity": entity.name,
        "mode": read.mode,
        "source": read.source,
        "window_start": window and window.start,
        "window_end": window and window.end,
        "status": "loaded" if landed.complete else "short",
        "fetched": landed.fetched,
        "total": landed.total,
        "digest": landed.digest,
        "cycle": read.cycle,
        "seconds": round(time.perf_counter() - started, 3),
        "now": datetime.now(UTC),
    }
    # A slice is replaced: rows of its days that did not come again are gone from ServiceTitan.
    replaces = slices and window is not None and landed.complete
    days = {"first": window.start.date(), "end": window.end.date()} if replaces else {}
    line["gone"] = _gone(target, entity, typed, days) if replaces else None
    target.transaction(*_statements(target, entity, typed, replaces=replaces), **line, **days)
    target.drop(stage, typed)
    landed.path.unlink()
    counts = target.query(
        "SELECT fetched, loaded, quarantined, changed FROM st_logs_v2.ingestion_logs"
        " WHERE run_id = @run_id AND entity = @entity AND finished_at = @now",
        **line,
    ).iloc[0]
    log.event("window", label=str(window or ""), **{**line, **{name: int(n) for name, n in counts.items()}})
    if counts["fetched"] != counts["loaded"] + counts["quarantined"]:
        raise RuntimeError(
            f"{counts['fetched']} rows fetched are not {counts['loaded']} loaded and the rest quarantined"
        )
    return Loaded(
        **{name: int(n) for name, n in counts.items()}, complete=landed.complete, drift=entity.drift(landed.names)
    )


def raw_table(entity: Entity) -> Table:
    """The raw table of an entity. Partitioned on the creation date, which never changes: a MERGE may prune by it."""
    columns = tuple(
        Column(field.name, field.type, "The record's " + ", else its ".join(field.sources)) for field in entity.fields
    )
    metadata = tuple(Column(field.name, field.type, DESCRIPTIONS[field.name]) for field in METADATA)
    return Table(
        entity.table,
        columns + metadata,
        partition="TIMESTAMP_TRUNC(createdOn, MONTH)",
        cluster=("_key",),
        description=f"ServiceTitan's {entity.path.partition('/')[0]} API, {entity.path.rpartition('/')[2]}.",
    )


def _statements(target: Warehouse, entity: Entity, typed: str, *, replaces: bool) -> list[str]:
    """What merges a stage and tells the ledger.

    Where statements are billed, only those that have something to do, and within the months of the stage's rows.
    """
    if not target.remote:
        return [*quarantine_sql(typed), merge_sql(entity, typed, replaces=replaces), log_sql(entity, typed)]
    found = target.query(stage_sql(typed), entity=entity.name)
    good = found[found["good"] > 0]
    bound = created_in(good["month"])
    statements = []
    if len(found) and (found["held"][0] or (found["good"] < found["records"]).any()):
        statements += quarantine_sql(typed)
    if len(good) or replaces:
        statements.append(merge_sql(entity, typed, bound, replaces=replaces))
    return [*statements, log_sql(entity, typed, bound)]


def stage_sql(typed: str) -> str:
    """A row per month of creation: how many records, how many of them good, and how many the quarantine holds now."""
    return f"""SELECT
  CAST(DATE_TRUNC(DATE(createdOn), MONTH) AS DATE) AS month,
  COUNTIF(_reject IS NULL) AS good,
  COUNT(*) AS records,
  (SELECT COUNT(*) FROM st_logs_v2.quarantine WHERE entity = @entity) AS held
FROM {typed}
GROUP BY month"""


def created_in(months: Iterable[date | None], table: str = "T") -> str:
    """The condition that a row of `table` was created in one of the months, by literals, by which BigQuery prunes.

    Rows that don't tell (there are such of the old pipeline) are never left out, and a month of None leaves out none.
    """
    months = set(months)
    if None in months:
        return "TRUE"
    column, ranges = f"{table}.createdOn", []
    for month in sorted(months):
        if ranges and ranges[-1][1] == month:
            ranges[-1] = (ranges[-1][0], _next(month))
        else:
            ranges.append((month, _next(month)))
    parts = [f"{column} >= TIMESTAMP '{a} 00:00:00+00' AND {column} < TIMESTAMP '{b} 00:00:00+00'" for a, b in ranges]
    return "(" + " OR ".join([*parts, f"{column} IS NULL"]) + ")"


def _next(month: date) -> date:
    return (month + timedelta(days=31)).replace(day=1)


def _gone(target: Warehouse, entity: Entity, typed: str, days: dict[str, date]) -> datetime | None:
    """When the oldest of the rows was created that a replaced slice will lose."""
    found = target.query(gone_sql(entity, typed), **days)["oldest"][0]
    return None if pd.isna(found) else found.to_pydatetime()


def gone_sql(entity: Entity, typed: str) -> str:
    """The rows of the slice from @first to before @end that did not come again, by the creation of the oldest."""
    return f"""-- Unbounded: a slice is one of calendar days, whose rows may have been created whenever.
SELECT MIN(T.createdOn) AS oldest
FROM {entity.table} AS T
LEFT JOIN {typed} AS S ON T._key = S._key
WHERE T.`date` >= @first AND T.`date` < @end AND S._key IS NULL"""


def quarantine_sql(typed: str) -> tuple[str, str]:
    """Keep each rejected record once, and let go of those whose key has come well since."""
    return (
        f"""DELETE FROM st_logs_v2.quarantine
WHERE entity = @entity
  AND (key IN (SELECT _key FROM {typed} WHERE _key IS NOT NULL) OR digest IN (SELECT _hash FROM {typed}))""",
        f"""INSERT INTO st_logs_v2.quarantine (entity, key, reason, digest, record, run_id, quarantined_at)
SELECT @entity, _key, _reject, _hash, _record, @run_id, @now FROM {typed} WHERE _reject IS NOT NULL""",
    )


def merge_sql(entity: Entity, typed: str, bound: str = "TRUE", *, replaces: bool) -> str:
    """The newest record of each key wins; an unchanged one is not touched, not even its load metadata.

    bound: where in the raw table (T) the keys can be; not used where rows of any creation are to be deleted
    """
    given = [field.name for field in entity.fields] + ["_key", "_hash", "_record"]
    columns = [field.name for field in (*entity.fields, *METADATA)]
    metadata = {"_run_id": "@run_id", "_ingested_at": "@now", "_source": "@source"}
    value = {name: metadata.get(name, f"S.`{name}`") for name in columns}
    on, gone = f"T._key = S._key AND {bound}", ""
    if replaces:
        on = "T._key = S._key"
        gone = "\nWHEN NOT MATCHED BY SOURCE AND T.`date` >= @first AND T.`date` < @end THEN DELETE"
    return f"""MERGE INTO {entity.table} AS T
USING (
  SELECT {", ".join(f"`{name}`" for name in given)}
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
  VALUES ({", ".join(value[name] for name in columns)}){gone}"""


def log_sql(entity: Entity, typed: str, bound: str = "TRUE") -> str:
    """The reading's line in the ledger. `loaded` is counted in the raw table (within `bound`), not believed.

    `oldest` is when the oldest of the rows was created that are new, changed or gone (@gone) by it: what was created
    before need not be looked at to find them.
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
  LEAST(COALESCE({written}, @gone), COALESCE(@gone, {written}))
FROM {typed} AS S
LEFT JOIN (SELECT T._key, T._ingested_at FROM {entity.table} AS T WHERE {bound}) AS R ON R._key = S._key"""
