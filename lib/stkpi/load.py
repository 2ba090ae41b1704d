"""From pages of records into a raw table: land, type in the warehouse, quarantine or merge, and write the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from stkpi import landing, log
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.entities import LANDING, METADATA, Entity, projection_sql
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import Warehouse


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
    stage, typed = f"st_stage_v2.landing_{entity.name}", f"st_stage_v2.typed_{entity.name}"
    rows = target.load(stage, landed.path, [(field.name, field.type) for field in LANDING])
    if rows != landed.fetched:
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
    target.transaction(
        *quarantine_sql(typed), merge_sql(entity, typed, replaces=replaces), log_sql(entity, typed), **line, **days
    )
    target.execute(f"DROP TABLE {stage}", f"DROP TABLE {typed}")
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


def quarantine_sql(typed: str) -> tuple[str, str]:
    """Keep each rejected record once, and let go of those whose key has come well since."""
    return (
        f"""DELETE FROM st_logs_v2.quarantine
WHERE entity = @entity
  AND (key IN (SELECT _key FROM {typed} WHERE _key IS NOT NULL) OR digest IN (SELECT _hash FROM {typed}))""",
        f"""INSERT INTO st_logs_v2.quarantine (entity, key, reason, digest, record, run_id, quarantined_at)
SELECT @entity, _key, _reject, _hash, _record, @run_id, @now FROM {typed} WHERE _reject IS NOT NULL""",
    )


def merge_sql(entity: Entity, typed: str, *, replaces: bool) -> str:
    """The newest record of each key wins; an unchanged one is not touched, not even its load metadata."""
    given = [field.name for field in entity.fields] + ["_key", "_hash", "_record"]
    columns = [field.name for field in (*entity.fields, *METADATA)]
    metadata = {"_run_id": "@run_id", "_ingested_at": "@now", "_source": "@source"}
    value = {name: metadata.get(name, f"S.`{name}`") for name in columns}
    gone = "\nWHEN NOT MATCHED BY SOURCE AND T.`date` >= @first AND T.`date` < @end THEN DELETE" if replaces else ""
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
ON T._key = S._key
WHEN MATCHED AND T._hash != S._hash
  AND (S.modifiedOn >= T.modifiedOn OR S.modifiedOn IS NULL OR T.modifiedOn IS NULL) THEN UPDATE SET
  {", ".join(f"`{name}` = {value[name]}" for name in columns if name != "_key")}
WHEN NOT MATCHED BY TARGET THEN INSERT ({", ".join(f"`{name}`" for name in columns)})
  VALUES ({", ".join(value[name] for name in columns)}){gone}"""


def log_sql(entity: Entity, typed: str) -> str:
    """The reading's line in the ledger. `loaded` is counted in the raw table, not believed."""
    return f"""INSERT INTO st_logs_v2.ingestion_logs (
  run_id, entity, mode, source, window_start, window_end, status, fetched, loaded, quarantined, changed, total,
  watermark, digest, cycle, seconds, finished_at
)
SELECT
  @run_id, @entity, @mode, @source, @window_start, @window_end, @status, @fetched,
  COUNTIF(S._reject IS NULL AND T._key IS NOT NULL),
  COUNTIF(S._reject IS NOT NULL),
  COUNTIF(S._reject IS NULL AND T._ingested_at = @now),
  @total,
  MAX(IF(S._reject IS NULL, S.modifiedOn, NULL)),
  @digest, @cycle, @seconds, @now
FROM {typed} AS S
LEFT JOIN {entity.table} AS T ON T._key = S._key"""
