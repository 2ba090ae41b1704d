"""The state of the ingest: the log of windows (ingestion_logs), the watermarks (sync_state) and the quarantine; and the
record that each build of the marts leaves for the next one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any

import pandas as pd

from stkpi.errors import UserError
from stkpi.servicetitan.entities import Entity, moment_sql
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import Warehouse
from stkpi.warehouse.schema import Column, Table


def _define_table(name: str, description: str, columns: str, **storage: Any) -> Table:
    """Define a table; `columns` are "name type", separated by commas."""
    declared = tuple(Column(*column.split()) for column in columns.split(","))
    return Table(name, declared, description=description, **storage)


# What a log row is that is no reading: rows were changed in the warehouse itself; or an optional entity was refused.
REPAIRED, REFUSED = "repaired", "refused"
TABLES = (
    _define_table(
        "st_logs_v2.ingestion_logs",
        "A row per reading of a window or list: rows fetched, loaded and quarantined.",
        "run_id STRING, entity STRING, mode STRING, source STRING, window_start TIMESTAMP, window_end TIMESTAMP,"
        "status STRING, fetched INT64, loaded INT64, quarantined INT64, changed INT64, total INT64,"
        "watermark TIMESTAMP, digest STRING, cycle STRING, seconds FLOAT64, finished_at TIMESTAMP, oldest TIMESTAMP,"
        "deleted INT64, held INT64, missing STRING",
        partition="TIMESTAMP_TRUNC(finished_at, MONTH)",
        cluster=("entity",),
    ),
    _define_table(
        "st_logs_v2.sync_state",
        "A row per entity: the modification time up to which its rows have been read.",
        "entity STRING, watermark TIMESTAMP, cycle STRING, run_id STRING, updated_at TIMESTAMP",
    ),
    _define_table(
        "st_logs_v2.quarantine",
        "Records that could not be loaded, each with the reason, until a reading brings them in a form that can be.",
        "entity STRING, key STRING, reason STRING, digest STRING, record JSON, run_id STRING, quarantined_at TIMESTAMP",
        cluster=("entity",),
    ),
    _define_table(
        "st_logs_v2.deleted",
        "Records that ServiceTitan no longer has, as they were last seen. No figure counts them.",
        "entity STRING, key STRING, digest STRING, record JSON, run_id STRING, deleted_at TIMESTAMP",
        cluster=("entity",),
    ),
    _define_table(
        "st_logs_v2.builds",
        "Two rows per build of the marts: its plan (planned), and its end (complete).",
        "started_at TIMESTAMP, noted_at TIMESTAMP, status STRING, mode STRING, reason STRING, as_of DATE,"
        "digest STRING, created_from TIMESTAMP, changed_from DATE, departures STRING, tables STRING",
    ),
    _define_table(
        "st_ref_v2.roots",
        "A row per job with all records that belong to it: when the first one was created, and its first day.",
        "kind STRING, id INT64, first_day DATE, first_created TIMESTAMP",
        partition="TIMESTAMP_TRUNC(first_created, MONTH)",
        cluster=("kind", "id"),
    ),
    _define_table(
        "st_logs_v2.counted_names",
        "As what units and job types counted; one that was renamed and counts otherwise since stays as it was.",
        "kind STRING, id INT64, name STRING, counted_as STRING",
    ),
    _define_table(
        "st_logs_v2.kpi_history",
        "A row per weekly figure that a build found another than the one before; of a definition, one for all of them.",
        "noted_at TIMESTAMP, before_at TIMESTAMP, kpi STRING, business_unit STRING, week_start DATE, value NUMERIC,"
        "value_before NUMERIC, part NUMERIC, part_before NUMERIC, whole NUMERIC, whole_before NUMERIC,"
        "figures INT64, reason STRING",
        partition="TIMESTAMP_TRUNC(noted_at, MONTH)",
        cluster=("kpi", "business_unit"),
    ),
    _define_table(
        "st_logs_v2.fact_history",
        "The fact rows behind kpi_history as they were before and after a build, and what is counted with them.",
        "noted_at TIMESTAMP, fact STRING, side STRING, times INT64, event_date DATE, business_unit STRING,"
        "job_id INT64, row_key STRING, row_text STRING",
        partition="TIMESTAMP_TRUNC(noted_at, MONTH)",
        cluster=("fact", "business_unit"),
    ),
    _define_table(
        "st_logs_v2.record_history",
        "The records behind fact_history that a build found to have arrived, changed or gone.",
        "noted_at TIMESTAMP, entity STRING, record_key STRING, job_id INT64, what STRING",
        partition="TIMESTAMP_TRUNC(noted_at, MONTH)",
        cluster=("entity",),
    ),
    _define_table("st_logs_v2.tenant", "The tenant whose data this warehouse holds.", "tenant STRING"),
)


@dataclass(frozen=True)
class State:
    """How far an entity has been read. `cycle` identifies a reading of the whole history that has not ended yet."""

    watermark: datetime | None = None
    cycle: str | None = None


def claim_warehouse(target: Warehouse, tenant: str) -> None:
    """Record the tenant as the owner of the warehouse.

    Raises UserError if it has another owner: the rows of two companies must never mix.
    """
    owner = find_owner(target)
    if owner is None:
        target.execute("INSERT INTO st_logs_v2.tenant (tenant) VALUES (@tenant)", tenant=tenant)
    else:
        check_owner(owner, tenant)


def find_owner(target: Warehouse) -> str | None:
    """Return the tenant whose data the warehouse holds; None if it holds none."""
    owners = target.query("SELECT tenant FROM st_logs_v2.tenant")["tenant"]
    return None if owners.empty else str(owners[0])


def check_owner(owner: str, tenant: str) -> None:
    """Raise UserError unless the tables are those of the tenant."""
    if owner != tenant:
        raise UserError(
            f"This warehouse holds the data of tenant {owner}, not of {tenant}: correct ST_TENANT_ID in .env, or set "
            "WAREHOUSE or DATASETS to another name."
        )


def read_state(target: Warehouse, entity: Entity) -> State:
    """Return the state of an entity; an empty one if it was never read."""
    rows = target.query("SELECT watermark, cycle FROM st_logs_v2.sync_state WHERE entity = @entity", entity=entity.name)
    if rows.empty:
        return State()
    row = rows.iloc[0].astype(object).where(rows.iloc[0].notna(), None)  # pandas has NaN for a NULL text
    return State(row["watermark"] and row["watermark"].to_pydatetime(), row["cycle"])


def write_state(target: Warehouse, entity: Entity, run_id: str, new: State) -> None:
    """Replace the state of an entity."""
    target.run_transaction(
        "DELETE FROM st_logs_v2.sync_state WHERE entity = @entity",
        "INSERT INTO st_logs_v2.sync_state (entity, watermark, cycle, run_id, updated_at)"
        " VALUES (@entity, @watermark, @cycle, @run_id, @now)",
        entity=entity.name,
        watermark=new.watermark,
        cycle=new.cycle,
        run_id=run_id,
        now=datetime.now(UTC),
    )


def advance_watermark(
    target: Warehouse, entity: Entity, run_id: str, began: datetime, cycle: str | None = None
) -> None:
    """Move the watermark to the newest modification that was read, never back, and close the cycle.

    began: when the reading began; the watermark never passes it
    Several runs may have read parts of a cycle, and a row may have changed after its window was read: only the newest
    modification of the run that saw the least is certain.
    """
    rows = target.query(
        """SELECT MIN(reached) AS watermark
FROM (
  SELECT run_id, MAX(watermark) AS reached
  FROM st_logs_v2.ingestion_logs
  WHERE entity = @entity AND status = 'loaded' AND COALESCE(cycle, run_id) = @reading
  GROUP BY run_id
) AS runs
WHERE reached IS NOT NULL""",
        entity=entity.name,
        reading=cycle or run_id,
    )
    marks = [read_state(target, entity).watermark, *(mark.to_pydatetime() for mark in rows["watermark"].dropna())]
    certain = (mark for mark in marks if mark and mark <= began)
    write_state(target, entity, run_id, State(max(certain, default=None)))


def note_refusal(target: Warehouse, entity: Entity, run_id: str) -> None:
    """Write down that ServiceTitan refuses an entity, until it is read again."""
    target.execute(
        "INSERT INTO st_logs_v2.ingestion_logs (run_id, entity, source, status, finished_at)"
        " VALUES (@run_id, @entity, @source, @status, @now)",
        run_id=run_id,
        entity=entity.name,
        source=entity.path,
        status=REFUSED,
        now=datetime.now(UTC),
    )


def find_unread(target: Warehouse, entities: Iterable[Entity]) -> list[str]:
    """Return the names of the entities of which nothing was ever read, not even that ServiceTitan has none.

    An optional one that was refused is not among them: it counts as empty.
    """
    rows = target.query(
        """SELECT entity FROM st_logs_v2.ingestion_logs WHERE status IN ('loaded', 'short', 'refused')
UNION ALL
SELECT entity FROM st_logs_v2.sync_state WHERE cycle IS NULL"""
    )
    return sorted({entity.name for entity in entities} - set(rows["entity"]))


def read_finished_windows(target: Warehouse, entity: Entity, cycle: str) -> set[Window]:
    """Return the windows that a cycle has read completely."""
    rows = target.query(
        "SELECT window_start, window_end FROM st_logs_v2.ingestion_logs"
        " WHERE entity = @entity AND cycle = @cycle AND status = 'loaded'",
        entity=entity.name,
        cycle=cycle,
    )
    ends = zip(rows["window_start"], rows["window_end"], strict=True)
    return {Window(start.to_pydatetime(), end.to_pydatetime()) for start, end in ends}


def count_stored(target: Warehouse, entity: Entity) -> int:
    """Count the records of an entity in the warehouse, and those in quarantine that are not in it as well."""
    return sum(count_by_month(target, entity).values())


def count_by_month(target: Warehouse, entity: Entity) -> dict[date | None, int]:
    """Count them by the first day of the month (UTC) of their creation, slices by date; None for no real date."""
    column, zone = entity.day_column, ", 'UTC'" if entity.day_column == "createdOn" else ""
    day = f"DATE({column}{zone})" if zone else column
    held = moment_sql(f"JSON_VALUE(held.record, '$.{entity.find_place(column)}')")
    rows = target.query(
        f"""WITH days AS (
  SELECT {day} AS day FROM {entity.table}
  UNION ALL
  SELECT DATE({held}, 'UTC') AS day
  FROM st_logs_v2.quarantine AS held
  LEFT JOIN {entity.table} AS T ON held.key = T._key
  WHERE held.entity = @entity AND T._key IS NULL
)

SELECT CAST(DATE_TRUNC(day, MONTH) AS DATE) AS month, COUNT(*) AS records
FROM days
GROUP BY month
ORDER BY month""",
        entity=entity.name,
    )
    return {None if pd.isna(m) else m: int(n) for m, n in zip(rows["month"], rows["records"], strict=True)}


def has_lost_rows(target: Warehouse, entity: Entity) -> bool:
    """Tell whether the raw table has another number of rows than the last reading left."""
    rows = target.query(
        f"""SELECT held, (SELECT COUNT(*) FROM {entity.table}) AS found
FROM st_logs_v2.ingestion_logs
WHERE entity = @entity AND held IS NOT NULL
ORDER BY finished_at DESC
LIMIT 1""",
        entity=entity.name,
    )
    return bool((rows["held"] != rows["found"]).any())


def count_quarantined(target: Warehouse, entity: Entity) -> int:
    """Count the records of an entity that are in quarantine."""
    rows = target.query("SELECT COUNT(*) AS n FROM st_logs_v2.quarantine WHERE entity = @entity", entity=entity.name)
    return int(rows["n"][0])


def clear_quarantine(target: Warehouse, entity: Entity, since: datetime) -> None:
    """Drop the records in quarantine that a reading of the whole history, which began then, has not met again."""
    target.execute(
        "DELETE FROM st_logs_v2.quarantine WHERE entity = @entity AND quarantined_at < @since",
        entity=entity.name,
        since=since,
    )


def read_missing_fields(target: Warehouse) -> dict[str, list[str]]:
    """Return by entity the columns whose field no record of its newest reading had: they are NULL in all of them."""
    rows = target.query(
        """SELECT entity, missing FROM st_logs_v2.ingestion_logs
WHERE fetched > 0
QUALIFY run_id = FIRST_VALUE(run_id) OVER (PARTITION BY entity ORDER BY finished_at DESC)"""
    )
    found: dict[str, set[str]] = {}
    for entity, missing in zip(rows["entity"], rows["missing"].fillna(""), strict=True):
        columns = set(filter(None, missing.split(",")))
        found[entity] = found.get(entity, columns) & columns
    return {entity: sorted(columns) for entity, columns in found.items()}


def read_deleted(target: Warehouse, since: datetime) -> pd.DataFrame:
    """Return the records that were found to be deleted in ServiceTitan since then: entity, key, deleted_at."""
    return target.query(
        "SELECT entity, key, deleted_at FROM st_logs_v2.deleted WHERE deleted_at >= @since ORDER BY entity, key",
        since=since,
    )


def read_status(target: Warehouse) -> pd.DataFrame:
    """Return one row per entity.

    Columns: entity, last_read (NULL if it was always refused), watermark, unfinished (a reading of the whole history
    has not ended), refused (by the last try), quarantined.
    """
    return target.query(
        """WITH logs AS (
  SELECT
    entity,
    MAX(IF(status = @refused, NULL, finished_at)) AS last_read,
    MAX(IF(status = @refused, finished_at, NULL)) AS refused_at
  FROM st_logs_v2.ingestion_logs
  WHERE status != @repaired
  GROUP BY entity
),
reads AS (
  SELECT
    COALESCE(logs.entity, sync_state.entity) AS entity,
    -- Of a list that is empty there is nothing to load, and no line in the log.
    COALESCE(logs.last_read, IF(sync_state.cycle IS NULL, sync_state.updated_at, NULL)) AS last_read,
    logs.refused_at,
    sync_state.watermark,
    sync_state.cycle
  FROM logs
  FULL JOIN st_logs_v2.sync_state AS sync_state ON logs.entity = sync_state.entity
),
held AS (
  SELECT entity, COUNT(*) AS quarantined FROM st_logs_v2.quarantine GROUP BY entity
)
SELECT
  reads.entity,
  reads.last_read,
  reads.watermark,
  reads.cycle IS NOT NULL AS unfinished,
  reads.refused_at IS NOT NULL AND (reads.last_read IS NULL OR reads.refused_at > reads.last_read) AS refused,
  COALESCE(held.quarantined, 0) AS quarantined
FROM reads
LEFT JOIN held ON reads.entity = held.entity
WHERE reads.last_read IS NOT NULL OR reads.refused_at IS NOT NULL
ORDER BY reads.entity""",
        repaired=REPAIRED,
        refused=REFUSED,
    )
