"""Load pages of records into a raw table: land, type in the warehouse, quarantine or merge, and log the reading."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import log
from stkpi.ingest.landing import Landing, make_table, read_batches, substitute_line, write_landing
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import LANDING, METADATA, Entity, moment_sql, projection_sql, typing_sql
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import EmbeddedWarehouse, Warehouse, is_embedded
from stkpi.warehouse.schema import Column, Table

FEW, FEW_OF = 50, 10  # so many records, or one of so many, may be gone at once in ServiceTitan
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
    """One reading of an entity: its run and mode, the endpoint, and the window and the cycle it belongs to.

    began: when the reading of the entity began; a modification dated later than that says nothing
    undated: the reading of all records that have no real date
    removes: rows of the window (or without a date) that do not come again were deleted in ServiceTitan
    guarded: but not if they are many: that is a list that is not whole
    """

    entity: Entity
    run_id: str
    mode: str
    source: str
    window: Window | None = None
    cycle: str | None = None
    began: datetime = field(default_factory=lambda: datetime.now(UTC))
    undated: bool = False
    removes: bool = False
    guarded: bool = True

    @property
    def is_feed(self) -> bool:
        """Whether the records come from the export feed, which repeats deleted ones."""
        return self.source == self.entity.feed_path


@dataclass(frozen=True)
class LoadResult:
    """The counts of one reading: fetched = loaded + quarantined; `changed` of the loaded rows are new or different.

    deleted: rows that are gone in ServiceTitan, and now here
    kept: rows that did not come again, but are too many to believe that they were deleted
    complete: as many rows came as the server counts
    moved: rows moved between the pages while they were read
    drift: field names that the registry does not know
    """

    fetched: int
    loaded: int
    quarantined: int
    changed: int
    deleted: int
    kept: int
    complete: bool
    moved: bool
    drift: tuple[str, ...]


def load_pages(
    target: Warehouse, folder: Path, reading: Reading, pages: Iterable[Page], now: datetime | None = None
) -> LoadResult:
    """Land pages, merge them into the raw table and log the reading; merge and log are one transaction.

    folder: where a landing file goes, if the engine loads files; it is deleted after it
    now: the time that the rows and the log get; by default by this machine's clock
    Raises RequestFailed from the pages, and RuntimeError if not all landed rows were loaded; then nothing is merged.
    """
    started, entity, window = time.perf_counter(), reading.entity, reading.window
    landed = Landing()
    if is_embedded(target):
        typed = _stage_rows(target, entity, landed, pages)
    else:
        typed = _stage_file(target, folder, entity, landed, pages)
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
        "missing": ",".join(entity.find_missing(landed.names)) if landed.names else "",
        "cycle": reading.cycle,
        "seconds": round(time.perf_counter() - started, 3),
        "began": reading.began,
        "now": now or datetime.now(UTC),
    }
    gone = _find_gone(target, reading, typed, landed, parameters)
    parameters |= {"deleted": gone.rows, "oldest_deleted": gone.oldest}
    target.run_transaction(*_choose_statements(target, reading, typed, gone), **parameters)
    target.drop(typed)
    row = target.query(
        "SELECT fetched, loaded, quarantined, changed, deleted FROM st_logs_v2.ingestion_logs"
        " WHERE run_id = @run_id AND entity = @entity AND finished_at = @now",
        **parameters,
    ).iloc[-1]
    counts = {str(name): int(n) for name, n in row.items()}
    log.write_event("window", label=str(window or ""), **{**parameters, **counts})
    if counts["fetched"] != counts["loaded"] + counts["quarantined"]:
        raise RuntimeError(
            f"{counts['fetched']} rows were fetched, but {counts['loaded']} were loaded and {counts['quarantined']} "
            "quarantined"
        )
    drift = entity.find_drift(landed.names)
    return LoadResult(**counts, kept=gone.kept, complete=landed.complete, moved=landed.moved, drift=drift)


def _stage_file(target: Warehouse, folder: Path, entity: Entity, landed: Landing, pages: Iterable[Page]) -> str:
    """Load pages as a landing file and type them in SQL; return the table of the typed rows.

    An interrupted load resumes by its content.
    """
    path = folder / f"{entity.identifier}.ndjson.gz"
    write_landing(path, read_batches(landed, entity, pages))
    stage, typed = (f"st_stage_v2.{step}_{entity.identifier}_{landed.digest[:20]}" for step in ("landing", "typed"))
    columns = [(column.name, column.type) for column in LANDING]
    rows = target.load_file(stage, path, columns, substitute_line)
    if rows == landed.fetched:
        target.execute(f"CREATE OR REPLACE TABLE {typed} AS\n{projection_sql(entity, stage)}")
    target.drop(stage)
    _check_rows(rows, landed)
    path.unlink()
    return typed


def _stage_rows(target: EmbeddedWarehouse, entity: Entity, landed: Landing, pages: Iterable[Page]) -> str:
    """Hand the values of pages to the engine in this process; return the table of the typed rows.

    Only the records that do not fit at once are typed from their text, as those of a landing file are.
    """
    typed, stage, ordinals = f"typed_{entity.identifier}", f"landing_{entity.identifier}", Counter[str]()
    columns = ", ".join(f"`{name}` {kind}" for name, kind in _list_typed_columns(entity))
    target.execute(f"CREATE OR REPLACE TEMP TABLE {typed} ({columns})")
    insert = f"INSERT INTO {typed}\n{typing_sql(entity, 'batch')}"
    for batch in read_batches(landed, entity, pages, target.max_bytes):
        target.insert_rows(insert, batch=make_table(entity, batch, ordinals))
        del batch  # before the next page is fetched
    odd = "_reject IS NOT NULL"
    counted = f"SELECT COUNT(*) AS records, COUNTIF({odd}) AS odd FROM {typed}"
    if target.query(counted)["odd"][0]:
        # The ordinals of equal records count all of them.
        odd = "TRUE" if entity.keyless else odd
        target.execute(
            f"CREATE OR REPLACE TEMP TABLE {stage} AS\nSELECT _seq AS seq, _hash AS digest, _record AS record,"
            f" NULLIF(_reject, '') AS refused\nFROM {typed} WHERE {odd}",
            f"DELETE FROM {typed} WHERE {odd}",
            f"INSERT INTO {typed}\n{projection_sql(entity, stage)}",
        )
        target.drop(stage)
    _check_rows(int(target.query(counted)["records"][0]), landed)
    return typed


def _check_rows(rows: int, landed: Landing) -> None:
    """Raise RuntimeError unless all rows that came are staged."""
    if rows != landed.fetched:
        raise RuntimeError(f"{landed.fetched} records were landed and {rows} loaded: nothing was merged")


def _list_typed_columns(entity: Entity) -> list[tuple[str, str]]:
    """Return the names and types of the columns that `projection_sql` gives."""
    added = (("_key", "STRING"), ("_hash", "STRING"), ("_record", "JSON"), ("_seq", "INT64"), ("_reject", "STRING"))
    return [*((field.name, field.type) for field in entity.fields), *added]


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


@dataclass(frozen=True)
class _Gone:
    """The rows that a reading removes: how many, when the oldest was created, and whether any are to be looked for.

    kept: rows that did not come again and are too many to be removed
    """

    rows: int = 0
    oldest: datetime | None = None
    kept: int = 0
    verified: bool = False


def _find_gone(
    target: Warehouse, reading: Reading, typed: str, landed: Landing, parameters: Mapping[str, Any]
) -> _Gone:
    """Return which rows a reading removes; one that is not whole removes none."""
    if not reading.removes or not landed.complete or landed.moved:
        return _Gone()
    found = target.query(gone_rows_sql(reading, typed), **parameters).iloc[0]
    rows = int(found["gone"])
    if reading.guarded and rows > max(FEW, landed.fetched // FEW_OF):
        return _Gone(kept=rows)
    return _Gone(rows, None if pd.isna(found["oldest"]) else found["oldest"].to_pydatetime(), verified=True)


def _choose_statements(target: Warehouse, reading: Reading, typed: str, gone: _Gone) -> list[str]:
    """Return the statements that merge the typed rows, remove what is gone and log the reading.

    Where statements are billed: only those that have something to do, bounded by the months of the typed rows.
    """
    entity = reading.entity
    # A list tells what a record is now. A feed repeats old states, and those that were deleted.
    overwrites = reading.undated or reading.window is not None
    removal = remove_sql(reading, typed) if gone.rows else ()
    cleanup = (clean_quarantine_sql(reading, typed),) if gone.verified else ()
    revival = () if reading.is_feed else (revive_sql(typed),)
    statements: list[str] = []
    if not target.remote:
        known = target.query(known_sql(entity, typed), entity=entity.name).iloc[0]
        if known["rejected"] or known["held"]:
            statements += quarantine_sql(typed)
        if known["stored"]:
            statements.append(merge_sql(entity, typed, overwrites=overwrites, skips_deleted=reading.is_feed))
        else:
            statements.append(insert_sql(entity, typed, skips_deleted=reading.is_feed))
        statements += [*removal, *(cleanup if known["held"] else ()), *(revival if known["removed"] else ())]
        return [*statements, log_sql(entity, typed)]
    found = target.query(month_counts_sql(entity, typed), entity=entity.name)
    bound = created_in_sql(None if pd.isna(month) else month for month in found[found["good"] > 0]["month"])
    held, removed = (bool(len(found) and found[name][0]) for name in ("held", "removed"))
    if held or (found["fresh"] < found["records"]).any():
        statements += quarantine_sql(typed)
    if found["fresh"].sum():
        statements.append(merge_sql(entity, typed, bound, overwrites=overwrites, skips_deleted=reading.is_feed))
    statements += [*removal, *(cleanup if held else ()), *(revival if removed else ())]
    return [*statements, log_sql(entity, typed, bound)]


def known_sql(entity: Entity, typed: str) -> str:
    """Return the query of what is known of the typed rows, where reading is free.

    rejected: those that must go to quarantine; stored: those whose key the raw table has; held and removed: how many
    records of the entity are in quarantine and were deleted
    """
    return f"""SELECT
  COUNTIF(S._reject IS NOT NULL) AS rejected,
  COUNTIF(T._key IS NOT NULL) AS stored,
  (SELECT COUNT(*) FROM st_logs_v2.quarantine WHERE entity = @entity) AS held,
  (SELECT COUNT(*) FROM st_logs_v2.deleted WHERE entity = @entity) AS removed
FROM {typed} AS S
LEFT JOIN {entity.table} AS T ON T._key = S._key"""


def month_counts_sql(entity: Entity, typed: str) -> str:
    """Return the query of the months in which rows with the typed keys were created: records, and good ones.

    As they are here now, too: a creation may have moved to another month. `held` and `removed` are how many records of
    the entity are in quarantine and were deleted.
    """
    return f"""-- Unbounded: where a key stands is not known before; its column and that of the creation are read.
WITH months AS (
  SELECT CAST(DATE_TRUNC(DATE(createdOn), MONTH) AS DATE) AS month, _reject IS NULL AS is_good, 1 AS records
  FROM {typed}
  UNION ALL
  SELECT CAST(DATE_TRUNC(DATE(T.createdOn), MONTH) AS DATE) AS month, TRUE AS is_good, 0 AS records
  FROM {entity.table} AS T
  INNER JOIN {typed} AS S ON T._key = S._key
  WHERE S._reject IS NULL AND T.createdOn IS DISTINCT FROM S.createdOn
)

SELECT
  month,
  COUNTIF(is_good) AS good,
  COUNTIF(records = 1 AND is_good) AS fresh,
  SUM(records) AS records,
  (SELECT COUNT(*) FROM st_logs_v2.quarantine WHERE entity = @entity) AS held,
  (SELECT COUNT(*) FROM st_logs_v2.deleted WHERE entity = @entity) AS removed
FROM months
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


def _in_window_sql(reading: Reading) -> str:
    """Return the condition that a row of the raw table (T) lies in what the reading covers."""
    column = reading.entity.day_column
    if reading.undated:
        return f"T.`{column}` IS NULL"
    if not reading.window:
        return "TRUE"
    if column == "date":
        return "T.`date` >= DATE(@window_start) AND T.`date` < DATE(@window_end)"
    return f"T.`{column}` >= @window_start AND T.`{column}` < @window_end"


def gone_rows_sql(reading: Reading, typed: str) -> str:
    """Return the query of how many rows of the window did not come again, and when the oldest was created."""
    return f"""-- Unbounded: a slice is a range of calendar days, and its rows may have been created at any time.
SELECT COUNT(*) AS gone, MIN(T.createdOn) AS oldest
FROM {reading.entity.table} AS T
LEFT JOIN {typed} AS S ON T._key = S._key
WHERE {_in_window_sql(reading)} AND T._key IS NOT NULL AND S._key IS NULL"""


def remove_sql(reading: Reading, typed: str) -> tuple[str, str, str]:
    """Return the statements that move the rows of the window that did not come again to st_logs_v2.deleted.

    Not those without an id, such as of gross pay: they have another key after each change.
    """
    table = reading.entity.table
    gone = f"{_in_window_sql(reading)} AND T._key NOT IN (SELECT _key FROM {typed} WHERE _key IS NOT NULL)"
    named = " AND NOT STARTS_WITH(T._key, T._hash)" if reading.entity.keyless else ""
    return (
        f"""DELETE FROM st_logs_v2.deleted
WHERE entity = @entity AND key IN (SELECT T._key FROM {table} AS T WHERE {gone})""",
        f"""INSERT INTO st_logs_v2.deleted (entity, key, digest, record, run_id, deleted_at)
SELECT @entity, T._key, T._hash, T._record, @run_id, @now FROM {table} AS T WHERE {gone}{named}""",
        f"DELETE FROM {table} AS T WHERE {gone}",
    )


def clean_quarantine_sql(reading: Reading, typed: str) -> str:
    """Return the statement that drops the rejected records of the window that did not come again."""
    moment = moment_sql(f"JSON_VALUE(record, '$.{reading.entity.find_place(reading.entity.day_column)}')")
    window = f"{moment} >= @window_start AND {moment} < @window_end" if reading.window else "TRUE"
    window = f"{moment} IS NULL" if reading.undated else window
    return f"""DELETE FROM st_logs_v2.quarantine
WHERE entity = @entity AND {window} AND digest NOT IN (SELECT _hash FROM {typed})"""


def revive_sql(typed: str) -> str:
    """Return the statement that forgets the deletion of records that the list has again."""
    return f"""DELETE FROM st_logs_v2.deleted
WHERE entity = @entity AND key IN (SELECT _key FROM {typed} WHERE _reject IS NULL)"""


def quarantine_sql(typed: str) -> tuple[str, str]:
    """Return the statements that keep each rejected record once, and drop those that could be loaded since."""
    return (
        f"""DELETE FROM st_logs_v2.quarantine
WHERE entity = @entity
  AND (key IN (SELECT _key FROM {typed} WHERE _key IS NOT NULL) OR digest IN (SELECT _hash FROM {typed}))""",
        f"""INSERT INTO st_logs_v2.quarantine (entity, key, reason, digest, record, run_id, quarantined_at)
SELECT @entity, _key, _reject, _hash, _record, @run_id, @now FROM {typed} WHERE _reject IS NOT NULL""",
    )


def merge_sql(
    entity: Entity, typed: str, bound: str = "TRUE", *, overwrites: bool = False, skips_deleted: bool = False
) -> str:
    """Return the MERGE of the typed rows: the newest record of each key wins, an unchanged row stays as it is.

    bound: a condition on the raw table (T) that holds for all rows with these keys
    overwrites: also a row that says that it was modified later
    skips_deleted: not the records that are known as deleted
    """
    columns = _list_columns(entity)
    # A modification that is still to come is none.
    newer = """
  AND (S.modifiedOn >= T.modifiedOn OR S.modifiedOn IS NULL OR T.modifiedOn IS NULL OR T.modifiedOn > @began)"""
    return f"""MERGE INTO {entity.table} AS T
USING (
{_newest_sql(entity, typed, skips_deleted)}
) AS S
ON T._key = S._key AND {bound}
WHEN MATCHED AND T._hash != S._hash{"" if overwrites else newer} THEN UPDATE SET
  {", ".join(f"`{name}` = {value}" for name, value in columns.items() if name != "_key")}
WHEN NOT MATCHED BY TARGET THEN INSERT ({", ".join(f"`{name}`" for name in columns)})
  VALUES ({", ".join(columns.values())})"""


def insert_sql(entity: Entity, typed: str, *, skips_deleted: bool = False) -> str:
    """Return the INSERT of the typed rows: what `merge_sql` does where the raw table has none of their keys."""
    columns = _list_columns(entity)
    return f"""INSERT INTO {entity.table} ({", ".join(f"`{name}`" for name in columns)})
SELECT {", ".join(columns.values())}
FROM (
{_newest_sql(entity, typed, skips_deleted)}
) AS S"""


def _list_columns(entity: Entity) -> dict[str, str]:
    """Return the columns of the raw table, each with its value; the typed rows are S."""
    metadata = {"_run_id": "@run_id", "_ingested_at": "@now", "_source": "@source"}
    names = [field.name for field in (*entity.fields, *METADATA)]
    return {name: metadata.get(name, f"S.`{name}`") for name in names}


def _newest_sql(entity: Entity, typed: str, skips_deleted: bool) -> str:
    """Return the SELECT of the newest good record of each key."""
    sources = [field.name for field in entity.fields] + ["_key", "_hash", "_record"]
    deleted = "SELECT CONCAT(key, ' ', COALESCE(digest, '')) FROM st_logs_v2.deleted WHERE entity = @entity"
    known = f" AND CONCAT(_key, ' ', _hash) NOT IN ({deleted})" if skips_deleted else ""
    return f"""  SELECT {", ".join(f"`{name}`" for name in sources)}
  FROM {typed}
  WHERE _seq IN (
    SELECT _seq FROM {typed}
    WHERE _reject IS NULL{known}
    QUALIFY ROW_NUMBER() OVER (
      PARTITION BY _key ORDER BY IF(modifiedOn > @began, NULL, modifiedOn) DESC, _seq DESC
    ) = 1
  )"""


def log_sql(entity: Entity, typed: str, bound: str = "TRUE") -> str:
    """Return the INSERT of the reading into the ingestion log; `loaded` is counted in the raw table, within `bound`.

    `oldest` is the oldest creation of the rows that the reading added, changed or deleted (@oldest_deleted): to find
    them, no rows from before need to be read. `watermark` is the newest modification that is not after the beginning of
    the reading; `held` is how many rows the raw table has.
    """
    written = "MIN(IF(S._reject IS NULL AND R._ingested_at = @now, S.createdOn, NULL))"
    return f"""INSERT INTO st_logs_v2.ingestion_logs (
  run_id, entity, mode, source, window_start, window_end, status, fetched, loaded, quarantined, changed, total,
  watermark, digest, cycle, seconds, finished_at, oldest, deleted, held, missing
)
SELECT
  @run_id, @entity, @mode, @source, @window_start, @window_end, @status, @fetched,
  COUNTIF(S._reject IS NULL AND (R._key IS NOT NULL OR D.key IS NOT NULL)),
  COUNTIF(S._reject IS NOT NULL),
  COUNTIF(S._reject IS NULL AND R._ingested_at = @now),
  @total,
  MAX(IF(S._reject IS NULL AND S.modifiedOn <= @began, S.modifiedOn, NULL)),
  @digest, @cycle, @seconds, @now,
  LEAST(COALESCE({written}, @oldest_deleted), COALESCE(@oldest_deleted, {written})),
  @deleted,
  (SELECT COUNT(*) FROM {entity.table}),
  @missing
FROM {typed} AS S
LEFT JOIN (SELECT T._key, T._ingested_at FROM {entity.table} AS T WHERE {bound}) AS R ON R._key = S._key
LEFT JOIN (SELECT key, digest FROM st_logs_v2.deleted WHERE entity = @entity) AS D
  ON D.key = S._key AND D.digest = S._hash"""
