"""Old invoice rows: the job that the old mapper lost, linked by evidence and never by a guess.

The old mapper read `jobId`, `job.jobNumber` and `businessUnitId`, which the API does not send: ServiceTitan nests them
(`job.id`, `job.number`, `businessUnit.id`). Its rows have NULL in all three. The job is found by invoice_links.sql.

A repair and an ingest do not undo each other. Rows that the old mapper wrote have no `_key`, by which the MERGE finds
them, and no `_hash`, without which it takes no newer record: the repair gives them the id and an empty text. So the
next record of the invoice replaces the whole row, and its own `job.id` is the best evidence there is. A row that has a
`_hash` keeps it, so that the same record, come again, leaves the repaired row alone.

`run_old` does it to a table that another program made: the only one that this project ever changes without having made
it. It gets two columns, and the rows without a job, job number or unit get what the evidence names. The best evidence
is the invoice as our ingest has read it since.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi import settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.ingest import state
from stkpi.marts import build as marts
from stkpi.servicetitan.entities import ENTITIES, METADATA
from stkpi.servicetitan.windows import Window

INVOICES = ENTITIES["invoices"]
COPY, LINKS = "st_stage_v2.invoices_dry_run", "st_stage_v2.invoice_links"
OLD = "st_stage_v2.old_invoices"
ADDED = {"jobNumber": "STRING", "businessUnitName": "STRING"}  # the columns that an old table gets
METHODS = {
    "record": "by its own record",
    "invoice_id": "by the job's invoiceId",
    "job_number": "by the job number",
    "reference": "by the reference number",
    "ambiguous": "no: several jobs are possible",
    "no evidence": "no: nothing names a job",
    "no job": "no: ServiceTitan says it has none",
}
LISTED = ("ambiguous", "no evidence")


@dataclass(frozen=True)
class Repair:
    """What a repair did, or in a dry run would do.

    columns: the columns that the table lacked and now has
    filled, keyed, superseded: how many rows got a job or unit, got a `_key` or `_hash`, were deleted because an ingest
        has written the same invoice since; all are 0 in a second run
    coverage: rows before and after; columns invoices, with_job, with_job_number, with_unit
    methods: columns linked (texts of METHODS, in the order of the evidence) and invoices
    unresolved: the invoices left alone; columns invoice (id), created (day), reference number, linked (why not, of
        METHODS), possible jobs (ids)
    """

    dry_run: bool
    columns: tuple[str, ...]
    filled: int
    keyed: int
    superseded: int
    coverage: pd.DataFrame
    methods: pd.DataFrame
    unresolved: pd.DataFrame

    @property
    def headline(self) -> str:
        """What it did in one sentence."""
        linked = int(self.coverage["with_job"].diff().iloc[-1])
        if not (linked or self.filled or self.keyed or self.superseded or len(self.unresolved)):
            return "No old invoice lacks its job."
        verb = "would be" if self.dry_run else "were"
        return (
            f"{linked:,} invoices {verb} linked to their job, {len(self.unresolved):,} left alone for want of evidence"
        )


def run(dry_run: bool = True, window_start: str = "", window_end: str = "") -> Repair:
    """Link the invoices without a job that were created on the days of a window, both included; empty: on any day.

    A dry run does all of it to a copy. Raises UserError for a day that cannot be read, and before the first ingest.
    """
    config = settings.load()
    bounds = _bounds(window_start, window_end, ZoneInfo(config.time_zone))
    table = COPY if dry_run else INVOICES.table
    with warehouse.connect(config) as target:
        try:
            found = target.query(f"SELECT * FROM {INVOICES.table} WHERE FALSE").columns
        except target.NotFound:
            raise UserError("There are no invoices in the warehouse yet: run the nightly first.") from None
        if dry_run:
            target.execute(
                f"CREATE OR REPLACE TABLE {COPY} AS SELECT * FROM {INVOICES.table} WHERE {_IN_WINDOW}", **bounds
            )
        missing = [field for field in (*INVOICES.fields, *METADATA) if field.name not in found]
        for field in missing:
            target.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS `{field.name}` {field.type}")
        before = target.query(_COVERAGE.format(table=table), **bounds)
        target.execute(f"CREATE OR REPLACE TABLE {LINKS} AS\n{links_sql(table)}", **bounds)
        links = target.query(f"SELECT * FROM {LINKS} ORDER BY created_on, invoice_id")
        if not dry_run:
            warehouse.ensure_tables(target, state.TABLES)
        statements = [statement.format(table=table) for statement in STATEMENTS]
        note = [] if dry_run else [NOTE]
        target.run_transaction(*note, *statements, **bounds, now=datetime.now(UTC))
        after = target.query(_COVERAGE.format(table=table), **bounds)
        target.drop(LINKS, COPY)
    superseded = int(before["invoices"][0] - after["invoices"][0])
    keyed = int(before.pop("without_key")[0] - after.pop("without_key")[0]) - superseded
    added = tuple(field.name for field in missing)
    done = _describe(dry_run, added, pd.concat([before, after]), links, config.time_zone)
    return replace(done, keyed=keyed, superseded=superseded)


def run_old(name: str, dry_run: bool = True, window_start: str = "", window_end: str = "") -> Repair:
    """Link the invoices of a table that another program made, as `run` does those of ours.

    name: its real name, such as st_raw_v2.raw_invoices, whatever DATASETS says
    A dry run does all of it to a copy. Raises UserError for a table that does not hold old invoices, and before the
    first ingest.
    """
    if not re.fullmatch(r"\w+\.\w+", name):
        raise UserError(f"TABLE={name} is not a table: write its dataset and its name, such as st_raw_v2.raw_invoices.")
    config = settings.load()
    bounds = _bounds(window_start, window_end, ZoneInfo(config.time_zone))
    with warehouse.connect(config, may_change=name) as target:
        old = target.qualify_name(name)
        try:
            found = set(target.query(f"SELECT * FROM {old} WHERE FALSE").columns)
        except target.NotFound:
            raise UserError(f"There is no table {name}: correct TABLE.") from None
        if "_key" in found or not found >= _OLD_COLUMNS:
            raise UserError(f"{name} is not a table of another program's old invoices: correct TABLE.")
        try:
            target.query(f"SELECT 1 AS x FROM {INVOICES.table} WHERE FALSE")
        except target.NotFound:
            raise UserError(
                "Our own invoices are the evidence, and there are none yet: run the nightly first."
            ) from None
        table = COPY if dry_run else old
        if dry_run:
            target.execute(f"CREATE OR REPLACE TABLE {COPY} AS SELECT * FROM {old}")
        missing = [column for column in ADDED if column not in found]
        for column in missing:
            target.execute(f"ALTER TABLE {table} ADD COLUMN IF NOT EXISTS `{column}` {ADDED[column]}")
        before = target.query(_COUNTS.format(table=table))
        target.execute(
            f"CREATE OR REPLACE TABLE {OLD} AS\n{old_invoices_sql(table)}",
            f"CREATE OR REPLACE TABLE {LINKS} AS\n{links_sql(OLD)}",
            **bounds,
        )
        links = target.query(f"SELECT * FROM {LINKS} ORDER BY created_on, invoice_id")
        if links["changes"].any():
            target.run_transaction(_LINK_OLD.format(table=table))
        after = target.query(_COUNTS.format(table=table))
        target.drop(COPY, OLD, LINKS)
    return _describe(dry_run, tuple(missing), pd.concat([before, after]), links, config.time_zone)


def _describe(
    dry_run: bool, columns: tuple[str, ...], coverage: pd.DataFrame, links: pd.DataFrame, zone: str
) -> Repair:
    """Describe what was done; `coverage` has the counts before and after, `links` the rows of LINKS."""
    counts = links["method"].value_counts()
    listed = links[links["method"].isin(LISTED)].reset_index(drop=True)
    return Repair(
        dry_run=dry_run,
        columns=columns,
        filled=int(links["changes"].sum()),
        keyed=0,
        superseded=0,
        coverage=coverage.set_axis(["before", "after"]),
        methods=pd.DataFrame({"linked": METHODS.values(), "invoices": [int(counts.get(name, 0)) for name in METHODS]}),
        unresolved=pd.DataFrame(
            {
                "invoice": listed["invoice_id"].astype(str),
                "created": listed["created_on"].dt.tz_convert(zone).dt.date,
                "reference number": listed["reference_number"],
                "linked": listed["method"].map(METHODS),
                "possible jobs": listed["candidate_jobs"],
            }
        ),
    )


def links_sql(table: str = INVOICES.table) -> str:
    """The SELECT of sql/repair/invoice_links.sql, over the invoices of `table`."""
    return (marts.SQL / "repair" / "invoice_links.sql").read_text(encoding="utf-8").replace(INVOICES.table, table)


def old_invoices_sql(table: str) -> str:
    """The SELECT of sql/repair/old_invoices.sql, over the rows of `table`."""
    sql = (marts.SQL / "repair" / "old_invoices.sql").read_text(encoding="utf-8")
    return sql.replace("FROM old_invoices", f"FROM {table}")


def _bounds(first: str, last: str, zone: ZoneInfo) -> dict[str, datetime]:
    """Local days, both included, as instants; without them, wider than any company's history."""
    start = parse_day(first or "2000-01-01", "window_start")
    end = parse_day(last or "2099-12-31", "window_end") + timedelta(days=1)
    window = Window(*(datetime.combine(day, datetime.min.time(), zone).astimezone(UTC) for day in (start, end)))
    return {"start": window.start, "end": window.end}


# Every statement is bounded by createdOn, the partition column: no other part of the table is read or rewritten.
_IN_WINDOW = "createdOn >= @start AND createdOn < @end"
_COUNTED = """COUNT(*) AS invoices,
  COUNT(jobId) AS with_job,
  COUNT(jobNumber) AS with_job_number,
  COUNT(businessUnitId) AS with_unit"""
_COUNTS = f"SELECT\n  {_COUNTED}\nFROM {{table}}"
_COVERAGE = f"""SELECT
  {_COUNTED},
  COUNTIF(_key IS NULL OR _hash IS NULL) AS without_key
FROM {{table}}
WHERE {_IN_WINDOW}"""
# An ingest that met old rows before they had a key has written the same invoices beside them.
_SUPERSEDED = f"""DELETE FROM {{table}}
WHERE {_IN_WINDOW} AND _key IS NULL
  AND id IN (SELECT id FROM {{table}} WHERE {_IN_WINDOW} AND _key IS NOT NULL)"""
_LINK = f"""UPDATE {{table}} AS T
SET
  jobId = COALESCE(S.job_id, T.jobId),
  jobNumber = COALESCE(T.jobNumber, S.job_number),
  businessUnitId = COALESCE(T.businessUnitId, S.business_unit_id),
  _ingested_at = @now
FROM {LINKS} AS S
WHERE T.id = S.invoice_id AND S.changes AND T.createdOn >= @start AND T.createdOn < @end"""
_KEY = f"""UPDATE {{table}}
SET _key = COALESCE(_key, CAST(id AS STRING)), _hash = COALESCE(_hash, '')
WHERE {_IN_WINDOW} AND (_key IS NULL OR _hash IS NULL)"""
# The ledger says what is about to change, as of a reading: the next build of the marts looks as far back.
NOTE = f"""INSERT INTO st_logs_v2.ingestion_logs (
  run_id, entity, mode, status, fetched, loaded, quarantined, changed, finished_at, oldest
)
SELECT 'repair', 'invoices', 'repair', '{state.REPAIRED}', 0, 0, 0, COUNT(*), @now, MIN(createdOn)
FROM {INVOICES.table}
WHERE {_IN_WINDOW} AND (_key IS NULL OR id IN (SELECT invoice_id FROM {LINKS} WHERE changes))
HAVING COUNT(*) > 0"""
# What another program wrote is kept: only what is missing is filled.
_OLD_COLUMNS = {"id", "createdOn", "modifiedOn", "referenceNumber", "jobId", "businessUnitId", "customerId"}
_LINK_OLD = f"""UPDATE {{table}} AS T
SET
  jobId = COALESCE(S.job_id, T.jobId),
  jobNumber = COALESCE(T.jobNumber, S.job_number),
  businessUnitId = COALESCE(T.businessUnitId, S.business_unit_id),
  businessUnitName = COALESCE(T.businessUnitName, S.unit_name)
FROM (
  SELECT links.*, units.name AS unit_name
  FROM {LINKS} AS links
  LEFT JOIN {ENTITIES["business_units"].table} AS units ON links.business_unit_id = units.id
  WHERE links.changes
) AS S
WHERE T.id = S.invoice_id"""
STATEMENTS = (_SUPERSEDED, _LINK, _KEY)
