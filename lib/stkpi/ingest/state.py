"""The ledger of windows (ingestion_logs), the watermarks (sync_state), the quarantine, and what a build leaves for the
next one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pandas as pd

from stkpi.errors import UserError
from stkpi.servicetitan.entities import Entity
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import Warehouse
from stkpi.warehouse.schema import Column, Table


def _table(name: str, description: str, columns: str, **stored: Any) -> Table:
    """A table; `columns` as name and type, with commas between."""
    declared = tuple(Column(*column.split()) for column in columns.split(","))
    return Table(name, declared, description=description, **stored)


REPAIRED = "repaired"  # the status of a line that tells of no reading: rows were changed in the warehouse itself
TABLES = (
    _table(
        "st_logs_v2.ingestion_logs",
        "A row per reading of a window or list: what was fetched, loaded and quarantined.",
        "run_id STRING, entity STRING, mode STRING, source STRING, window_start TIMESTAMP, window_end TIMESTAMP,"
        "status STRING, fetched INT64, loaded INT64, quarantined INT64, changed INT64, total INT64,"
        "watermark TIMESTAMP, digest STRING, cycle STRING, seconds FLOAT64, finished_at TIMESTAMP, oldest TIMESTAMP",
        partition="TIMESTAMP_TRUNC(finished_at, MONTH)",
        cluster=("entity",),
    ),
    _table(
        "st_logs_v2.sync_state",
        "A row per entity: up to which modification its rows are read.",
        "entity STRING, watermark TIMESTAMP, cycle STRING, run_id STRING, updated_at TIMESTAMP",
    ),
    _table(
        "st_logs_v2.quarantine",
        "Records that could not be loaded, each with the reason; a record that has come well since is gone from here.",
        "entity STRING, key STRING, reason STRING, digest STRING, record JSON, run_id STRING, quarantined_at TIMESTAMP",
        cluster=("entity",),
    ),
    _table(
        "st_logs_v2.builds",
        "Two rows per build of the marts: what it was going to compute (planned), and that it did (complete).",
        "started_at TIMESTAMP, noted_at TIMESTAMP, status STRING, mode STRING, reason STRING, as_of DATE,"
        "digest STRING, created_from TIMESTAMP, changed_from DATE",
    ),
    _table(
        "st_ref_v2.roots",
        "Of each job with what belongs to it: when the first record was created, and its first day.",
        "kind STRING, id INT64, first_day DATE, first_created TIMESTAMP",
        partition="TIMESTAMP_TRUNC(first_created, MONTH)",
        cluster=("kind", "id"),
    ),
    _table("st_logs_v2.tenant", "Whose data this is.", "tenant STRING"),
)


@dataclass(frozen=True)
class State:
    """How far an entity is. `cycle` names a reading of the whole history that has not ended yet."""

    watermark: datetime | None = None
    cycle: str | None = None


def claim(target: Warehouse, tenant: str) -> None:
    """Make the warehouse this tenant's. Raises UserError where it is another's: two companies' rows must never mix."""
    owners = target.query("SELECT tenant FROM st_logs_v2.tenant")["tenant"]
    if owners.empty:
        target.execute("INSERT INTO st_logs_v2.tenant (tenant) VALUES (@tenant)", tenant=tenant)
    elif owners[0] != tenant:
        raise UserError(
            f"This warehouse holds the data of tenant {owners[0]}, not of {tenant}: "
            "name another one for it (WAREHOUSE or BQ_PROJECT in .env)."
        )


def read_state(target: Warehouse, entity: Entity) -> State:
    """The state of an entity; empty where it was never read."""
    rows = target.query("SELECT watermark, cycle FROM st_logs_v2.sync_state WHERE entity = @entity", entity=entity.name)
    if rows.empty:
        return State()
    row = rows.iloc[0].astype(object).where(rows.iloc[0].notna(), None)  # pandas has NaN for a NULL text
    return State(row["watermark"] and row["watermark"].to_pydatetime(), row["cycle"])


def set_state(target: Warehouse, entity: Entity, run_id: str, new: State) -> None:
    """Replace the state of an entity."""
    target.transaction(
        "DELETE FROM st_logs_v2.sync_state WHERE entity = @entity",
        "INSERT INTO st_logs_v2.sync_state (entity, watermark, cycle, run_id, updated_at)"
        " VALUES (@entity, @watermark, @cycle, @run_id, @now)",
        entity=entity.name,
        watermark=new.watermark,
        cycle=new.cycle,
        run_id=run_id,
        now=datetime.now(UTC),
    )


def advance(target: Warehouse, entity: Entity, run_id: str, cycle: str | None = None) -> None:
    """Move the watermark to what the rows say, never back, and close the cycle.

    Of a run's reads the newest modification counts. A cycle may have been read by several runs, and a row may have
    changed after its window was read: only what the least advanced of these runs saw is certain.
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
    found = rows["watermark"].dropna()
    marks = [read_state(target, entity).watermark, *(mark.to_pydatetime() for mark in found)]
    set_state(target, entity, run_id, State(max(filter(None, marks), default=None)))


def windows_done(target: Warehouse, entity: Entity, cycle: str) -> set[Window]:
    """The windows that a cycle has read whole."""
    rows = target.query(
        "SELECT window_start, window_end FROM st_logs_v2.ingestion_logs"
        " WHERE entity = @entity AND cycle = @cycle AND status = 'loaded'",
        entity=entity.name,
        cycle=cycle,
    )
    ends = zip(rows["window_start"], rows["window_end"], strict=True)
    return {Window(start.to_pydatetime(), end.to_pydatetime()) for start, end in ends}


def stored(target: Warehouse, entity: Entity, window: Window | None = None) -> int:
    """How many records the warehouse has of an entity, quarantined ones included; of a window, by its own date."""
    held = (
        f"SELECT _record FROM {entity.table} UNION ALL SELECT record FROM st_logs_v2.quarantine WHERE entity = @entity"
    )
    values: dict[str, Any] = {"entity": entity.name}
    where = ""
    if window:
        # As text: a quarantined record has no typed date, and ISO dates sort as they are written.
        column, length = ("date", 10) if entity.incremental == "slices" else ("createdOn", 19)
        value = f"SUBSTR(JSON_VALUE(_record, '$.{column}'), 1, {length})"
        where = f"WHERE {value} >= @start AND {value} < @end"
        values |= {"start": window.start.isoformat()[:length], "end": window.end.isoformat()[:length]}
    return int(target.query(f"SELECT COUNT(*) AS n FROM ({held}) AS held {where}", **values)["n"][0])


def status(target: Warehouse) -> pd.DataFrame:
    """One row per entity: last successful read, watermark, lag in hours behind now, rows in quarantine."""
    return target.query(
        """WITH reads AS (
  SELECT entity, MAX(finished_at) AS last_read
  FROM st_logs_v2.ingestion_logs
  WHERE status != @repaired
  GROUP BY entity
),
held AS (
  SELECT entity, COUNT(*) AS quarantined FROM st_logs_v2.quarantine GROUP BY entity
)
SELECT
  reads.entity,
  reads.last_read,
  sync_state.watermark,
  CAST(FLOOR(TIMESTAMP_DIFF(@now, sync_state.watermark, SECOND) / 3600) AS INT64) AS lag_hours,
  sync_state.cycle IS NOT NULL AS unfinished,
  COALESCE(held.quarantined, 0) AS quarantined
FROM reads
LEFT JOIN st_logs_v2.sync_state AS sync_state USING (entity)
LEFT JOIN held USING (entity)
ORDER BY reads.entity""",
        now=datetime.now(UTC),
        repaired=REPAIRED,
    )
