"""Read one entity from ServiceTitan: everything, one window, or what changed since the watermark."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from stkpi import log
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import state
from stkpi.ingest.load import Reading, load_pages
from stkpi.ingest.state import State
from stkpi.servicetitan import windows
from stkpi.servicetitan.client import MAX_PAGE_SIZE, PAGE_SIZE, Client, Page, RequestFailed
from stkpi.servicetitan.entities import Entity
from stkpi.servicetitan.windows import Window
from stkpi.warehouse import Warehouse

WINDOW_ROWS = 10_000  # a window holds about as many, in whole months
READS = 3  # of the same window, until as many rows came as the server counts
FEED_PAGES = 20  # pages of a feed that are merged together
EPOCH, DAYS = datetime(1990, 1, 1, tzinfo=UTC), 40_542  # real dates: 1990 to 2100
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
COUNTS = ("fetched", "loaded", "quarantined", "changed")


@dataclass(frozen=True)
class EntityResult:
    """The ingest of one entity. `error` says what failed, and where the next run resumes."""

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


class Stopped(Exception):
    """The user asked to stop; the current window was finished."""


@dataclass
class EntityReader:
    """The ingest of one entity in one run, and its counts so far.

    days: the first and last day of mode window, both included; None in the other modes
    zone: the tenant's time zone
    stopping: is set when the user asks to stop
    report: called with a line of progress after each window
    """

    entity: Entity
    client: Client
    target: Warehouse
    folder: Path
    run_id: str
    mode: str
    days: tuple[date, date] | None
    zone: ZoneInfo
    stopping: threading.Event
    report: Callable[[str], None]

    windows: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    drift: set[str] = field(default_factory=set)
    finished: set[Window] = field(default_factory=set)  # windows that need no second read
    current: str = ""  # the window that is being read
    incomplete: list[str] = field(default_factory=list)  # windows that gave fewer rows than the server counts
    in_warehouse: int | None = None
    in_servicetitan: int | None = None

    @property
    def slices(self) -> bool:
        """Whether the filters select rows by their calendar date instead of their creation."""
        return self.entity.incremental == "slices"

    def load(self, source: str, pages: Iterable[Page], window: Window | None = None, cycle: str | None = None) -> bool:
        """Load pages and count their rows; return whether all rows came that the server counts.

        Raises Stopped if the user has asked to stop, RequestFailed from the pages.
        """
        if self.stopping.is_set():
            raise Stopped
        self.current = str(window or source)
        reading = Reading(self.entity, self.run_id, self.mode, source, window, cycle)
        loaded = load_pages(self.target, self.folder, reading, pages)
        self.windows += 1
        self.drift.update(loaded.drift)
        for name in COUNTS:
            self.counts[name] += getattr(loaded, name)
        self.report(f"{self.entity.name}: {self.counts['fetched']:,} rows so far, {self.current}")
        self.current = ""
        return loaded.complete

    def read_list(self, params: dict[str, Any], window: Window | None = None, cycle: str | None = None) -> None:
        """Load the rows that the list gives for `params`; read again while fewer come than the server counts."""
        params = {**dict(self.entity.everything), **params}
        for _ in range(READS):
            if self.entity.is_feed:
                pages = self.client.read_feed(self.entity.path, "")
            else:
                pages = self.client.read_pages(self.entity.path, params, PAGE_SIZE)
            if self.load(self.entity.path, pages, window, cycle):
                return
        self.incomplete.append(str(window or "the list"))

    def read_window(self, window: Window, cycle: str | None = None) -> None:
        """Load one window of the list, unless it is finished."""
        if window in self.finished:
            return
        if self.slices:
            self.read_slice(window, cycle)
        else:
            self.read_list(self.make_filters(window), window, cycle)

    def read_slice(self, window: Window, cycle: str | None) -> None:
        """Load a window in one page, or its halves: a second page would repeat and miss rows of the first one."""
        params = {**self.make_filters(window), "includeTotal": "true", "page": 1, "pageSize": MAX_PAGE_SIZE}
        for _ in range(READS):
            page = self.client.get(self.entity.path, params)
            fits = not page.has_more or page.total == len(page.rows)  # a server may leave hasMore out
            if not fits and window.end - window.start <= timedelta(days=1):
                raise RequestFailed(f"{self.entity.path} has more rows on one day, {window}, than fit into a page")
            if not fits:
                for half in window.split():
                    self.read_window(half, cycle)
                return
            if self.load(self.entity.path, [page], window, cycle):
                return
        self.incomplete.append(str(window))

    def make_filters(self, window: Window) -> dict[str, Any]:
        """Make the list parameters that select the rows of a window."""
        start, end = self.entity.window
        # A server may refuse year 1, and year 9999.
        after = {} if window.start == FIRST else {start: _format_timestamp(window.start)}
        return after | ({} if window.end == LAST else {end: _format_timestamp(window.end)})

    def count_rows(self, window: Window | None = None) -> int:
        """Return how many rows the server counts, in a window or in all."""
        filters = self.make_filters(window) if window else {}
        return self.client.count_rows(self.entity.path, {**dict(self.entity.everything), **filters})

    def find_history(self) -> tuple[datetime, datetime] | None:
        """Return the midnights around all rows of the list that have a real date; None if it has none.

        By counts, because most lists do not sort by it.
        """

        def has_rows(first: int, end: int) -> bool:
            return self.count_rows(Window(EPOCH + timedelta(days=first), EPOCH + timedelta(days=end))) > 0

        end = bisect_left(range(DAYS), True, key=lambda day: not has_rows(day, DAYS))
        if not end:
            return None
        start = bisect_left(range(end), True, key=lambda day: has_rows(0, day + 1))
        return EPOCH + timedelta(days=start), EPOCH + timedelta(days=end)

    def list_windows(self) -> list[Window]:
        """Return the windows in which all rows of the list are; what has no real date is in two windows of its own."""
        ages = (Window(FIRST, EPOCH), Window(EPOCH + timedelta(days=DAYS), LAST))
        found = [age for age in ages if self.count_rows(age)]
        if history := self.find_history():
            found += self.split_windows(*history)
        return found

    def split_windows(self, start: datetime, end: datetime) -> Iterator[Window]:
        """Split a range into windows of one month, or of several where months have few rows."""
        rows_a_month = self.count_rows(Window(start, end)) * 30 / ((end - start) / timedelta(days=1))
        return windows.split_by_month(start, end, int(min(120, max(1, WINDOW_ROWS // max(1, rows_a_month)))))

    def make_result(self, error: str | None, seconds: float) -> EntityResult:
        """Make the result; `error` is what stopped the ingest, without a full stop."""
        status = "failed"
        if error:
            where = f" at {self.current}" if self.current else ""
            error = f"{error}. Nothing is lost: the next run resumes{where}."
        elif self.incomplete:
            status = "partial"
            error = f"ServiceTitan sent fewer rows than it counts for {', '.join(self.incomplete)}."
        elif self.mode != "window" and (self.in_warehouse or 0) < (self.in_servicetitan or 0):
            status = "partial"
            error = f"The warehouse has {self.in_warehouse:,} rows, ServiceTitan counts {self.in_servicetitan:,}."
        elif self.counts["quarantined"]:
            status = "partial"
            table = self.target.resolve_name("st_logs_v2.quarantine")
            error = f"{self.counts['quarantined']} rows are in quarantine: see the reasons in {table}."
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


def ingest_entity(reader: EntityReader) -> EntityResult:
    """Ingest one entity; any error becomes part of its result, so that other entities go on."""
    started, error = time.perf_counter(), None
    try:
        _read_entity(reader)
    except Stopped:
        error = "Stopped on request"
    except (RequestFailed, UserError, WarehouseError) as failure:
        error = str(failure).rstrip(".")
    except Exception as failure:
        log.write_event("bug", entity=reader.entity.name, error=repr(failure))
        error = f"{type(failure).__name__}: {(str(failure).splitlines() or ['no details'])[0]}"
    result = reader.make_result(error, round(time.perf_counter() - started, 1))
    log.write_event("entity", run_id=reader.run_id, **vars(result))
    return result


def _read_entity(reader: EntityReader) -> None:
    entity, last = reader.entity, state.read_state(reader.target, reader.entity)
    if entity.incremental == "whole":
        reader.read_list({})
        state.advance_watermark(reader.target, entity, reader.run_id)
        return
    if entity.is_feed:
        _read_only_feed(reader, last)
        return
    if reader.days:
        for window in reader.split_windows(*_to_instants(reader, *reader.days)):
            reader.read_window(window)
    elif reader.mode == "full" or last.watermark is None:
        _read_history(reader, last)
    else:
        {"feed": _read_feed, "modified": _read_modified, "slices": _read_slices}[entity.incremental](
            reader, last.watermark
        )
        state.advance_watermark(reader.target, entity, reader.run_id)
    _fill_gaps(reader)


def _read_history(reader: EntityReader, last: State) -> None:
    """Read all windows of the history that the open cycle has not read yet."""
    planned = reader.list_windows()
    if not planned:
        # A build of the marts tells an empty entity from one that was never read.
        state.write_state(reader.target, reader.entity, reader.run_id, last)
        return
    cycle = last.cycle or reader.run_id
    state.write_state(reader.target, reader.entity, reader.run_id, State(last.watermark, cycle))
    reader.finished = state.read_finished_windows(reader.target, reader.entity, cycle)
    for window in planned:
        reader.read_window(window, cycle)
    if reader.incomplete:
        return  # the cycle stays open: the next run reads the missing rows
    if last.watermark is None:
        state.advance_watermark(reader.target, reader.entity, reader.run_id, cycle)
    else:  # a second read of the past does not say what changed since the watermark
        state.write_state(reader.target, reader.entity, reader.run_id, State(last.watermark))


def _read_only_feed(reader: EntityReader, last: State) -> None:
    """Read a feed that no list stands beside: what changed, all of it at first, or what changed since the first day."""
    if reader.days:
        _read_changes(reader, reader.days[0].isoformat())
        return
    since = None if reader.mode == "full" else last.watermark
    _read_changes(reader, f"{since - reader.entity.lookback:%Y-%m-%d}" if since else "")
    state.advance_watermark(reader.target, reader.entity, reader.run_id)


def _read_feed(reader: EntityReader, watermark: datetime) -> None:
    """Read changes from the export feed, with an overlap, and from the filters for changes that the feed may miss."""
    since = watermark - reader.entity.lookback
    for name in reader.entity.also:
        reader.read_list({name: _format_timestamp(since)})
    _read_changes(reader, f"{since:%Y-%m-%d}")


def _read_changes(reader: EntityReader, start: str) -> None:
    """Read the export feed from a day on, or from its beginning."""
    path = reader.entity.feed_path
    batch: list[Page] = []
    for page in reader.client.read_feed(path, start):
        batch.append(page)
        if len(batch) == FEED_PAGES:
            reader.load(path, batch)
            batch = []
    reader.load(path, batch)


def _read_modified(reader: EntityReader, watermark: datetime) -> None:
    """Read changes from the list, with an overlap: many rows share one modifiedOn, and some are committed late."""
    reader.read_list({"modifiedOnOrAfter": _format_timestamp(watermark - reader.entity.lookback)})


def _read_slices(reader: EntityReader, watermark: datetime) -> None:
    """Read the calendar slices in which rows may still appear, and older days on which a row was modified."""
    history = reader.find_history()
    if history is None:
        return
    first = windows.floor_to_midnight(watermark - reader.entity.lookback)
    changed = reader.client.read_pages(
        reader.entity.path, {"modifiedOnOrAfter": _format_timestamp(watermark - timedelta(days=1))}, MAX_PAGE_SIZE
    )
    days = {windows.floor_to_midnight(datetime.fromisoformat(row["date"])) for page in changed for row in page.rows}
    for day in sorted(day for day in days if day < first):
        reader.read_window(Window(day, day + timedelta(days=1)))
    for window in reader.split_windows(first, max(history[1], first + timedelta(days=1))):
        reader.read_window(window)


def _fill_gaps(reader: EntityReader) -> None:
    """Compare the warehouse with the server's own count, and read the windows again that lack rows."""
    target, entity = reader.target, reader.entity
    reader.in_servicetitan = reader.count_rows()
    reader.in_warehouse = state.count_stored(target, entity)
    if reader.in_warehouse >= reader.in_servicetitan or reader.days:
        return
    for window in reader.list_windows():
        missing = reader.count_rows(window) - state.count_stored(target, entity, window)
        if missing > 0:
            log.write_event("gap", entity=entity.name, window=str(window), missing=missing)
            reader.read_window(window)
    reader.in_warehouse = state.count_stored(target, entity)


def _to_instants(reader: EntityReader, first: date, last: date) -> tuple[datetime, datetime]:
    """Return the instants of a range of days: local midnights, or UTC midnights where the filter is a calendar date."""
    zone = UTC if reader.slices else reader.zone
    start, end = (datetime.combine(day, datetime.min.time(), zone) for day in (first, last + timedelta(days=1)))
    return start.astimezone(UTC), end.astimezone(UTC)


def _format_timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
