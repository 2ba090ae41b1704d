"""From ServiceTitan into the raw tables: windows, a ledger of what was read, and a MERGE that a repetition can't hurt.

Every row that is fetched is loaded or quarantined with its reason, and the counts must add up. A window's rows and its
line in the ledger become visible in one transaction, so a run that is killed resumes where it was.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
import uuid
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, Self
from zoneinfo import ZoneInfo

import pandas as pd
from tqdm import tqdm

from stkpi import log, settings, warehouse
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import state
from stkpi.ingest.load import Read, load, raw_table
from stkpi.ingest.state import State
from stkpi.servicetitan import windows
from stkpi.servicetitan.client import MAX_PAGE_SIZE, PAGE_SIZE, Client, Page, RequestFailed
from stkpi.servicetitan.entities import Entity, select
from stkpi.servicetitan.windows import Window

MODES = ("incremental", "window", "full")
THREADS = 4
WINDOW_ROWS = 10_000  # about as many make a window, of whole months
READS = 3  # of one window, until as many records came as the server counts
FEED_PAGES = 20  # pages of a feed that are merged together
QUIET = 10  # seconds without a word, where no bar can show that the work goes on
EPOCH, DAYS = datetime(2000, 1, 1, tzinfo=UTC), 40_000  # no company's calendar reaches further


@dataclass(frozen=True)
class EntityResult:
    """What one entity's ingest did. `error` says what failed and where the next run will resume."""

    entity: str
    status: str  # ok | partial | failed
    windows: int
    fetched: int
    loaded: int
    quarantined: int
    changed: int
    in_warehouse: int | None
    in_servicetitan: int | None
    seconds: float
    error: str | None
    drift: tuple[str, ...]


@dataclass(frozen=True)
class IngestReport:
    """What an ingest run did, entity by entity."""

    run_id: str
    mode: str
    entities: tuple[EntityResult, ...]

    @property
    def status(self) -> str:
        """`ok`, or `partial` if any entity failed, lacks rows, or has rows in quarantine."""
        return "ok" if all(entity.status == "ok" for entity in self.entities) else "partial"

    def frame(self) -> pd.DataFrame:
        """One row per entity, columns as in EntityResult."""
        return pd.DataFrame([vars(result) for result in self.entities])


def run(entities: str = "all", mode: str = "incremental", window_start: str = "", window_end: str = "") -> IngestReport:
    """Read entities from ServiceTitan into the raw tables.

    entities: comma-separated names of the registry, or "all"
    mode: incremental (what changed since the watermark; everything, where there is none yet), window (what was created
        from window_start to window_end, both days included, in the tenant's time zone) or full (everything again)
    Raises UserError, before anything is written, for wrong parameters, missing or refused credentials, an API that
    cannot be reached, or a warehouse that is in use.
    """
    chosen = select(entities)
    span = _span(mode, window_start, window_end)
    config = settings.load()
    client = Client(config)
    client.check()
    run_id = f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{uuid.uuid4().hex[:6]}"
    log.write_to(config.warehouse.parent / "log.jsonl")
    folder = config.warehouse.with_suffix(".landing")
    stopping = threading.Event()
    with warehouse.connect(config) as target:
        warehouse.ensure(target, (*state.TABLES, *map(raw_table, chosen)))
        state.claim(target, config.st_tenant_id)

        def ingest(entity: Entity) -> EntityResult:
            zone = ZoneInfo(config.time_zone)
            task = _Task(entity, client, target, folder, run_id, mode, span, zone, stopping, progress.window)
            return progress.entity(_guarded(task))

        with _Progress(len(chosen)) as progress, _finish_on_sigterm(stopping), ThreadPoolExecutor(THREADS) as pool:
            try:
                results = tuple(pool.map(ingest, chosen))
            except BaseException:
                stopping.set()  # let the windows in hand finish: nothing else is lost
                raise
    return IngestReport(run_id, mode, results)


def status() -> pd.DataFrame:
    """One row per entity: last read, watermark, lag, rows in quarantine. Raises UserError before the first ingest."""
    config = settings.load()
    with warehouse.connect(config) as target:
        warehouse.ensure(target, state.TABLES)
        found = state.status(target)
    if found.empty:
        raise UserError("Nothing was ingested yet: run `make nightly` first.")
    return found


def _span(mode: str, first: str, last: str) -> tuple[date, date] | None:
    """The days of an explicit window, both included."""
    if mode not in MODES:
        raise UserError(f"There is no mode “{mode}”. Choose from: {', '.join(MODES)}.")
    if mode != "window":
        if first or last:
            raise UserError(f"A window goes with mode=window, not with mode={mode}.")
        return None
    if not (first and last):
        raise UserError("Mode window needs window_start and window_end, days such as 2025-08-18 (both included).")
    start, end = windows.parse_day(first, "window_start"), windows.parse_day(last, "window_end")
    if end < start:
        raise UserError(f"The window ends ({last}) before it starts ({first}): exchange the two days.")
    return start, end


# --- one entity -----------------------------------------------------------------------------------------------------


class _Stopped(Exception):
    """The user asked to stop; the window in hand was finished."""


@dataclass
class _Task:
    """The ingest of one entity in one run, and what it has counted so far."""

    entity: Entity
    client: Client
    target: warehouse.Warehouse
    folder: Path
    run_id: str
    mode: str
    span: tuple[date, date] | None
    zone: ZoneInfo
    stopping: threading.Event
    tell: Callable[[str], None]

    windows: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_COUNTS, 0))
    drift: set[str] = field(default_factory=set)
    done: set[Window] = field(default_factory=set)  # windows that need not be read again
    in_hand: str = ""  # the window that is being read
    short: list[str] = field(default_factory=list)  # windows of which the server gave fewer rows than it counts
    in_warehouse: int | None = None
    in_servicetitan: int | None = None

    @property
    def slices(self) -> bool:
        """Whether rows are read by their calendar date instead of their creation."""
        return self.entity.incremental == "slices"

    def read(self, source: str, pages: Iterable[Page], window: Window | None = None, cycle: str | None = None) -> bool:
        """Load pages and count them. Whether all rows came that the server counts."""
        if self.stopping.is_set():
            raise _Stopped
        self.in_hand = str(window or source)
        reading = Read(self.entity, self.run_id, self.mode, source, window, cycle)
        done = load(self.target, self.folder, reading, pages)
        self.windows += 1
        self.drift.update(done.drift)
        for name in _COUNTS:
            self.counts[name] += getattr(done, name)
        self.tell(f"{self.entity.name}: {self.counts['fetched']:,} rows so far, {self.in_hand}")
        self.in_hand = ""
        return done.complete

    def read_list(self, params: dict[str, Any], window: Window | None = None, cycle: str | None = None) -> None:
        """The rows that the list gives for `params`, read again while fewer come than the server counts."""
        everything = {**dict(self.entity.everything), **params}
        for _ in range(READS):
            if self.read(self.entity.path, self.client.pages(self.entity.path, everything, PAGE_SIZE), window, cycle):
                return
        self.short.append(str(window or "the list"))

    def read_window(self, window: Window, cycle: str | None = None) -> None:
        """One window of the list."""
        if window in self.done:
            return
        if self.slices:
            self.read_slice(window, cycle)
        else:
            self.read_list(self.bounds(window), window, cycle)

    def read_slice(self, window: Window, cycle: str | None) -> None:
        """A window on one page, or else its halves: a second page would repeat and miss rows of the first."""
        params = {**self.bounds(window), "includeTotal": "true", "page": 1, "pageSize": MAX_PAGE_SIZE}
        for _ in range(READS):
            page = self.client.get(self.entity.path, params)
            fits = not page.has_more or page.total == len(page.rows)  # a server may leave hasMore out
            if not fits and window.end - window.start <= timedelta(days=1):
                raise RequestFailed(f"{self.entity.path} has more rows on one day, {window}, than fit a page")
            if not fits:
                for half in window.halves():
                    self.read_window(half, cycle)
                return
            if self.read(self.entity.path, [page], window, cycle):
                return
        self.short.append(str(window))

    def bounds(self, window: Window) -> dict[str, str]:
        """The list's filters for a window."""
        start, end = self.entity.window
        return {start: _timestamp(window.start), end: _timestamp(window.end)}

    def total(self, window: Window | None = None) -> int:
        """How many rows the server counts, in a window or in all."""
        bounds = self.bounds(window) if window else {}
        return self.client.total(self.entity.path, {**dict(self.entity.everything), **bounds})

    def history(self) -> tuple[datetime, datetime] | None:
        """The midnights around everything that the list has, by the server's word, not by a clock; None if empty."""
        if not self.total():
            return None
        if self.slices:
            return self._calendar()
        ends = []
        for order in ("+CreatedOn", "-CreatedOn"):
            params = {**dict(self.entity.everything), "sort": order, "page": 1, "pageSize": 1}
            row = self.client.get(self.entity.path, params).rows[0]
            ends.append(windows.midnight(datetime.fromisoformat(row["createdOn"])))
        return ends[0], ends[1] + timedelta(days=1)

    def _calendar(self) -> tuple[datetime, datetime]:
        """The first day with rows and the day after the last one, by counts: such lists are not sorted reliably."""
        after, before = self.entity.window

        def has_rows(name: str, day: int) -> bool:
            return self.client.total(self.entity.path, {name: _timestamp(EPOCH + timedelta(days=day))}) > 0

        end = bisect_left(range(DAYS), True, key=lambda day: not has_rows(after, day))
        start = bisect_left(range(end), True, key=lambda day: has_rows(before, day + 1))
        return EPOCH + timedelta(days=start), EPOCH + timedelta(days=end)

    def tiles(self, start: datetime, end: datetime) -> Iterator[Window]:
        """The windows in which a range is read: months, or several where they are small."""
        rows_a_month = self.total(Window(start, end)) * 30 / ((end - start) / timedelta(days=1))
        return windows.months(start, end, int(min(12, max(1, WINDOW_ROWS // max(1, rows_a_month)))))

    def result(self, error: str | None, seconds: float) -> EntityResult:
        """What came of it."""
        status = "failed"
        if error:
            where = f" at {self.in_hand}" if self.in_hand else ""
            error = f"{error}. Nothing is lost: the next run resumes{where}."
        elif self.short:
            status, error = "partial", f"ServiceTitan gave fewer rows than it counts for {', '.join(self.short)}."
        elif self.mode != "window" and (self.in_warehouse or 0) < (self.in_servicetitan or 0):
            status = "partial"
            error = f"The warehouse has {self.in_warehouse:,} rows, ServiceTitan counts {self.in_servicetitan:,}."
        elif self.counts["quarantined"]:
            status = "partial"
            error = f"{self.counts['quarantined']} rows are in quarantine: see the reasons in st_logs_v2.quarantine."
        else:
            status = "ok"
        return EntityResult(
            entity=self.entity.name,
            status=status,
            windows=self.windows,
            **self.counts,
            in_warehouse=self.in_warehouse,
            in_servicetitan=self.in_servicetitan,
            seconds=seconds,
            error=error,
            drift=tuple(sorted(self.drift)),
        )


_COUNTS = ("fetched", "loaded", "quarantined", "changed")


def _guarded(task: _Task) -> EntityResult:
    """Ingest one entity; what goes wrong with it is its own result and does not stop the others."""
    started, error = time.perf_counter(), None
    try:
        _ingest(task)
    except _Stopped:
        error = "Stopped on request"
    except (RequestFailed, UserError, WarehouseError) as failure:
        error = str(failure).rstrip(".")
    except Exception as failure:
        log.event("bug", entity=task.entity.name, error=repr(failure))
        error = f"{type(failure).__name__}: {(str(failure).splitlines() or ['no details'])[0]}"
    result = task.result(error, round(time.perf_counter() - started, 1))
    log.event("entity", run_id=task.run_id, **vars(result))
    return result


def _ingest(task: _Task) -> None:
    entity, last = task.entity, state.read_state(task.target, task.entity)
    if entity.incremental == "whole":
        task.read_list({})
        state.advance(task.target, entity, task.run_id)
        return
    if task.mode == "window":
        for window in task.tiles(*_instants(task)):
            task.read_window(window)
    elif task.mode == "full" or last.watermark is None:
        _read_everything(task, last)
    else:
        {"feed": _read_feed, "modified": _read_modified, "slices": _read_slices}[entity.incremental](
            task, last.watermark
        )
        state.advance(task.target, entity, task.run_id)
    _close_gaps(task)


def _read_everything(task: _Task, last: State) -> None:
    """All windows of the history that the open cycle has not read yet."""
    span = task.history()
    if span is None:
        return
    cycle = last.cycle or task.run_id
    state.set_state(task.target, task.entity, task.run_id, State(last.watermark, cycle))
    task.done = state.windows_done(task.target, task.entity, cycle)
    for window in task.tiles(*span):
        task.read_window(window, cycle)
    if task.short:
        return  # the cycle stays open: the next run reads what is missing
    if last.watermark is None:
        state.advance(task.target, task.entity, task.run_id, cycle)
    else:  # reading the past again says nothing about what changed since the watermark
        state.set_state(task.target, task.entity, task.run_id, State(last.watermark))


def _read_feed(task: _Task, watermark: datetime) -> None:
    """What changed, from the export feed with an overlap, and from the filters that see what the feed may not."""
    since = watermark - task.entity.lookback
    for name in task.entity.also:
        task.read_list({name: _timestamp(since)})
    path = task.entity.feed_path
    batch: list[Page] = []
    for page in task.client.feed(path, f"{since:%Y-%m-%d}"):
        batch.append(page)
        if len(batch) == FEED_PAGES:
            task.read(path, batch)
            batch = []
    task.read(path, batch)


def _read_modified(task: _Task, watermark: datetime) -> None:
    """What changed, from the list, with an overlap: many rows share one modifiedOn, and some are committed late."""
    task.read_list({"modifiedOnOrAfter": _timestamp(watermark - task.entity.lookback)})


def _read_slices(task: _Task, watermark: datetime) -> None:
    """The calendar slices in which rows may still appear, and the older days of which a row was modified."""
    span = task.history()
    if span is None:
        return
    first = windows.midnight(watermark - task.entity.lookback)
    changed = task.client.pages(
        task.entity.path, {"modifiedOnOrAfter": _timestamp(watermark - timedelta(days=1))}, MAX_PAGE_SIZE
    )
    days = {windows.midnight(datetime.fromisoformat(row["date"])) for page in changed for row in page.rows}
    for day in sorted(day for day in days if day < first):
        task.read_window(Window(day, day + timedelta(days=1)))
    for window in task.tiles(first, max(span[1], first + timedelta(days=1))):
        task.read_window(window)


def _close_gaps(task: _Task) -> None:
    """Compare the warehouse with the server's own count, and read again the windows that lack rows."""
    task.in_servicetitan = task.total()
    task.in_warehouse = state.stored(task.target, task.entity)
    if task.in_warehouse >= task.in_servicetitan or task.mode == "window" or not (span := task.history()):
        return
    for window in task.tiles(*span):
        missing = task.total(window) - state.stored(task.target, task.entity, window)
        if missing > 0:
            log.event("gap", entity=task.entity.name, window=str(window), missing=missing)
            task.read_window(window)
    task.in_warehouse = state.stored(task.target, task.entity)


def _instants(task: _Task) -> tuple[datetime, datetime]:
    """The explicit window as instants: local midnights, or plain UTC midnights where the filter is a calendar date."""
    first, last = task.span
    zone = UTC if task.slices else task.zone
    start, end = (datetime.combine(day, datetime.min.time(), zone) for day in (first, last + timedelta(days=1)))
    return start.astimezone(UTC), end.astimezone(UTC)


def _timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


# --- progress and signals -------------------------------------------------------------------------------------------


class _Progress:
    """A bar on a terminal; elsewhere a plain line per entity, and one now and then of an entity that takes long."""

    def __init__(self, entities: int) -> None:
        self._bar = tqdm(total=entities, unit="entity", disable=None)
        self._lock, self._told = threading.Lock(), time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def window(self, text: str) -> None:
        """Tell that a window was read."""
        with self._lock:
            if not self._bar.disable:
                self._bar.set_postfix_str(text)
            elif time.monotonic() - self._told > QUIET:
                self._print(text)

    def entity(self, result: EntityResult) -> EntityResult:
        """Tell that an entity has ended, and hand its result on."""
        text = f"{result.entity}: {result.fetched:,} rows fetched, {result.changed:,} new or changed"
        with self._lock:
            if self._bar.disable:
                self._print(f"{text}, {result.seconds} s" + (f" — {result.error}" if result.error else ""))
            else:
                self._bar.set_postfix_str(text)
                self._bar.update()
        return result

    def _print(self, text: str) -> None:
        print(text, flush=True)
        self._told = time.monotonic()


@contextmanager
def _finish_on_sigterm(stopping: threading.Event) -> Iterator[None]:
    """The first SIGTERM lets the window in hand finish, the second one stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ask(*_: object) -> None:
        if stopping.is_set():
            sys.exit(143)
        stopping.set()

    before = signal.signal(signal.SIGTERM, ask)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
