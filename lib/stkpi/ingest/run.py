"""Ingest entities from ServiceTitan into the raw tables: incremental, one window, or everything.

Every fetched row is loaded or quarantined with its reason, and the counts must add up. The rows of a window and its row
in the ingestion log become visible in one transaction, so a run that is killed resumes where it was.
"""

from __future__ import annotations

import signal
import sys
import threading
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi import log, settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.formatting import format_age, format_moment
from stkpi.garbage import collect_rarely
from stkpi.ingest import state
from stkpi.ingest.load import define_raw_table
from stkpi.ingest.progress import Progress
from stkpi.ingest.read import EntityReader, EntityResult, ingest_entity
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.endpoints import list_entities, select_entities
from stkpi.servicetitan.entities import Entity

MODES = ("incremental", "window", "full")
THREADS = 2  # lists that are read at once; more of them wait for each other, and hold more memory


@dataclass(frozen=True)
class IngestReport:
    """What an ingest run did, entity by entity."""

    run_id: str
    mode: str
    entities: tuple[EntityResult, ...]

    @property
    def status(self) -> str:
        """`ok`, or `partial` if any entity failed, lacks rows, or has rows in quarantine; not if one is refused."""
        return "ok" if all(entity.status in ("ok", "refused") for entity in self.entities) else "partial"

    def to_frame(self) -> pd.DataFrame:
        """Return one row per entity, with the fields of EntityResult as columns."""
        return pd.DataFrame([vars(result) for result in self.entities])


def run_ingest(
    entities: str = "all", mode: str = "incremental", window_start: str = "", window_end: str = ""
) -> IngestReport:
    """Read entities from ServiceTitan into the raw tables.

    entities: comma-separated names of the registry or of `extra` in company.yml, or "all"
    mode: incremental (what changed since the watermark; everything, if there is none yet), window (what was created
        from window_start to window_end, both days included, in the tenant's time zone) or full (everything again)
    Raises UserError, before anything is written, for wrong parameters, missing or refused credentials, an API that
    cannot be reached, or a warehouse that another program has open.
    """
    collect_rarely()
    config, stopping = settings.load(), threading.Event()
    chosen = select_entities(entities, config)
    days = _parse_days(mode, window_start, window_end)
    client = Client(config, stopping)
    client.check_access()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    log.write_to(config.warehouse.parent / "log.jsonl")
    folder = config.warehouse.with_suffix(".landing")
    with warehouse.connect(config, streams=True) as target:
        warehouse.ensure_tables(target, (*state.TABLES, *map(define_raw_table, chosen)))
        state.claim_warehouse(target, client.tenant_id)

        def ingest(entity: Entity) -> EntityResult:
            zone = ZoneInfo(config.time_zone)
            reader = EntityReader(entity, client, target, folder, run_id, mode, days, zone, stopping, progress.report)
            result = ingest_entity(reader)
            progress.finish(result)
            return result

        with Progress(len(chosen)) as progress, _stop_on_sigterm(stopping), ThreadPoolExecutor(THREADS) as pool:
            try:
                # The long ones first: else the last of them would run alone at the end.
                running = {entity: pool.submit(ingest, entity) for entity in sorted(chosen, key=lambda e: not e.grows)}
                results = tuple(running[entity].result() for entity in chosen)
            except BaseException:
                stopping.set()  # the other threads finish their current windows: nothing is lost
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return IngestReport(run_id, mode, results)


def describe_status() -> list[str]:
    """Say, an entity a line, when it was last read, up to when its changes are here, and what was left out.

    Raises UserError before the first ingest.
    """
    config, now = settings.load(), datetime.now(UTC)
    nothing = UserError("Nothing has been ingested yet: run the nightly first.")
    with warehouse.connect(config, read_only=True) as target:
        try:
            found = state.read_status(target)
        except target.NotFound:
            raise nothing from None
    if found.empty:
        raise nothing
    known = list_entities(config)
    lines = [f"The last reading of each list, with times in {config.time_zone}:"]
    width = max(map(len, found["entity"]))
    for row in found.to_dict("records"):
        parts = [format_age(now - row["last_read"])] if pd.notna(row["last_read"]) else []
        if row["refused"]:
            parts.append("ServiceTitan refuses it: the figures are built without what it has; see the doctor")
        if row["unfinished"]:
            parts.append("its whole history is not read yet: run again, and it goes on")
        elif row["entity"] not in known:
            parts.append("no longer read: `extra` in company.yml does not name it")
        elif known[row["entity"]].incremental == "whole":
            parts.append("the whole list")
        elif pd.notna(row["watermark"]):
            parts.append(f"changes up to {format_moment(row['watermark'], config.time_zone)}")
        if row["quarantined"]:
            parts.append(f"{row['quarantined']:,} records in quarantine")
        lines.append(f"  {row['entity']:<{width}}  {'; '.join(parts)}")
    return lines


def _parse_days(mode: str, first: str, last: str) -> tuple[date, date] | None:
    """Return the first and last day of mode window, both included; None for the other modes."""
    if mode not in MODES:
        raise UserError(f"Unknown mode {mode}. Choose from: {', '.join(MODES)}.")
    if mode != "window":
        if first or last:
            raise UserError(f"Mode {mode} takes no window_start and window_end: leave them out, or use mode window.")
        return None
    if not (first and last):
        raise UserError("Mode window needs window_start and window_end: days such as 2025-08-18, both included.")
    start, end = parse_day(first, "window_start"), parse_day(last, "window_end")
    if end < start:
        raise UserError(f"The window ends ({last}) before it starts ({first}): swap the dates.")
    return start, end


@contextmanager
def _stop_on_sigterm(stopping: threading.Event) -> Iterator[None]:
    """Set `stopping` at the first SIGTERM, so that current windows finish; exit with 143 at the second one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def handle(*_: object) -> None:
        if stopping.is_set():
            sys.exit(143)
        stopping.set()

    before = signal.signal(signal.SIGTERM, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
