"""Read one entity from ServiceTitan: everything, one window, or what changed since the watermark."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import reduce
from itertools import chain, islice, pairwise
from math import ceil
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from stkpi import log
from stkpi.dates import FIRST_YEAR, parse_moment
from stkpi.errors import UserError, WarehouseError
from stkpi.ingest import state
from stkpi.ingest.load import LoadResult, Reading, load_pages
from stkpi.ingest.state import State
from stkpi.servicetitan.client import MAX_PAGE_SIZE, PAGE_SIZE, Client, Page, PageRepeated, RequestFailed, Unavailable
from stkpi.servicetitan.entities import LATE, Entity
from stkpi.servicetitan.windows import Window, floor_to_midnight
from stkpi.warehouse import Warehouse

WINDOW_ROWS = 10_000  # a window holds about as many, in whole months
READS = 3  # of the same window, until as many rows came as the server counts
SLICES_AHEAD = 2  # pages of the next slices that are fetched while others are loaded
COUNTS_AT_ONCE = 4
FEED_PAGES = 20  # pages of a feed that are merged together
EPOCH, END = datetime(FIRST_YEAR, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)  # around all real dates
FIRST, LAST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
DAY = timedelta(days=1)
COUNTS = ("fetched", "loaded", "quarantined", "changed", "deleted")


@dataclass(frozen=True)
class EntityResult:
    """The ingest of one entity. `error` says what failed, and where the next run resumes.

    status: ok, partial, failed; or refused: it may not be read, and the night goes on without it
    quarantined: of the rows that were fetched; in_quarantine: all that wait there
    deleted: rows that ServiceTitan no longer has, and now the raw table neither
    """

    entity: str
    status: str
    windows: int
    fetched: int
    loaded: int
    quarantined: int
    changed: int
    deleted: int
    in_quarantine: int
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

    began: datetime = EPOCH  # when the reading began, by the server's clock
    windows: int = 0
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COUNTS, 0))
    drift: set[str] = field(default_factory=set)
    finished: set[Window] = field(default_factory=set)  # windows that need no second read
    current: str = ""  # the window that is being read
    incomplete: list[str] = field(default_factory=list)  # windows that gave fewer rows than the server counts
    kept: int = 0  # rows that ServiceTitan no longer lists, but too many to remove them
    daily_rows: float = 0  # of the slice that came last
    in_quarantine: int = 0
    in_warehouse: int | None = None
    in_servicetitan: int | None = None

    @property
    def slices(self) -> bool:
        """Whether the filters select rows by their calendar date instead of their creation."""
        return self.entity.incremental == "slices"

    def load(
        self,
        source: str,
        pages: Iterable[Page],
        window: Window | None = None,
        cycle: str | None = None,
        **kind: bool,
    ) -> LoadResult:
        """Load pages and count their rows.

        kind: `undated` and `removes` of Reading
        Raises Stopped if the user has asked to stop, RequestFailed from the pages.
        """
        if self.stopping.is_set():
            raise Stopped
        self.current = str(window or source)
        guarded = self.mode != "full" and not self.entity.keyless
        reading = Reading(
            self.entity, self.run_id, self.mode, source, window, cycle, self.began, guarded=guarded, **kind
        )
        loaded = load_pages(self.target, self.folder, reading, pages, self.client.read_clock())
        self.windows += 1
        self.drift.update(loaded.drift)
        self.kept += loaded.kept
        for name in COUNTS:
            self.counts[name] += getattr(loaded, name)
        self.report(f"{self.entity.name}: {self.counts['fetched']:,} rows so far, {self.current}")
        self.current = ""
        return loaded

    def read_list(
        self, params: dict[str, Any], window: Window | None = None, cycle: str | None = None, *, removes: bool = False
    ) -> None:
        """Load the rows that the list gives for `params`; read again while fewer come than the server counts.

        So it is while rows move from page to page; if they never rest, the count decides.
        """
        params = {**dict(self.entity.everything), **params}
        complete = False
        for read in range(1, READS + 1):
            if self.entity.is_feed:
                pages = self.client.read_feed(self.entity.path, "")
            else:
                pages = self.client.read_whole(self.entity.path, params, PAGE_SIZE)
            try:
                loaded = self.load(self.entity.path, pages, window, cycle, removes=removes)
            except PageRepeated:
                if read == READS:
                    raise
                continue
            complete = loaded.complete
            if complete and not loaded.moved:
                return
        if not complete:
            self.incomplete.append(str(window or "the list"))

    def read_windows(self, windows: Iterable[Window], cycle: str | None = None, *, removes: bool = False) -> None:
        """Load windows of the list, one after the other; what is finished of them is left out."""
        rest = [part for window in windows for part in window.leave_out(self.finished)]
        if self.slices:
            for window, page in join_slices(self.fetch_slices(rest)):
                self.load_slice(window, cycle, page)
            return
        for window in rest:
            self.read_list(self.make_filters(window), window, cycle, removes=removes)

    def fetch_slices(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Page]]:
        """Fetch windows, some at a time, each in one page: a second page would repeat and miss rows of the first one.

        A window that does not fit into a page comes in parts. Raises RequestFailed where a day does not.
        """
        waiting = deque(windows)
        coming: deque[tuple[Window, Future[Page]]] = deque()
        with ThreadPoolExecutor(SLICES_AHEAD) as pool:
            while waiting or coming:
                while waiting and len(coming) < SLICES_AHEAD:
                    window = waiting.popleft()
                    rows = self.daily_rows * (window.end - window.start) / DAY
                    if rows > MAX_PAGE_SIZE and window.end - window.start > DAY:
                        waiting.extendleft(reversed(cut_slice(window, rows)))
                    else:
                        coming.append((window, pool.submit(self.fetch_slice, window)))
                window, future = coming.popleft()
                page = future.result()
                # The next windows are cut by it before they are fetched.
                self.daily_rows = (page.total or len(page.rows)) / max(1, (window.end - window.start) / DAY)
                if not page.has_more or page.total == len(page.rows):  # a server may leave hasMore out
                    yield window, page
                elif window.end - window.start <= DAY:
                    raise RequestFailed(f"{self.entity.path} has more rows on one day, {window}, than fit into a page")
                else:
                    waiting.extendleft(reversed(cut_slice(window, page.total or 0)))

    def fetch_slice(self, window: Window) -> Page:
        """Fetch the first page of a window."""
        params = {**self.make_filters(window), "includeTotal": "true", "page": 1, "pageSize": MAX_PAGE_SIZE}
        return self.client.get(self.entity.path, params)

    def load_slice(self, window: Window, cycle: str | None, page: Page) -> None:
        """Load the rows of a window; read again while fewer come than the server counts.

        Rows of its days that do not come again were deleted in ServiceTitan.
        """
        for read in range(READS):
            pages = (page for _, page in self.fetch_slices([window])) if read else [page]
            if self.load(self.entity.path, [reduce(add_pages, pages)], window, cycle, removes=True).complete:
                return
        self.incomplete.append(str(window))

    def read_undated(self) -> None:
        """Load all records that have no real date, which no filter selects, and remove those that are gone."""
        if self.slices:  # whose pages repeat and miss rows
            pages = self.read_feed("1990-01-01")
        else:
            pages = self.client.read_whole(self.entity.path, dict(self.entity.everything), PAGE_SIZE)
        rows: list[Any] = []
        ids: set[str] = set()
        total, moved = None, False
        for page in pages:
            total, moved = total if page.total is None else page.total, moved or page.moved
            ids.update(str(row.get("id")) for row in page.rows if isinstance(row, dict))
            rows += [row for row in page.rows if self.read_day(row) is None]
        whole = not moved and (total is None or len(ids) >= total)
        self.load(self.entity.path, [Page(rows, has_more=False)], undated=True, removes=whole)

    def read_feed(self, start: str) -> Iterator[Page]:
        """Yield the pages of the export feed, with records as the list has them, from a day on."""
        extra = self.entity.feed_only
        for page in self.client.read_feed(self.entity.feed_path, start):
            if not extra:
                yield page
                del page
                continue
            # Where only the feed says that a record is active, one that is not was deleted.
            rows = [_leave_out(row, extra) for row in page.rows if not ("active" in extra and _is_inactive(row))]
            page = replace(page, rows=rows)  # noqa: PLW2901 - one page is held at a time
            del rows
            yield page
            del page

    def read_day(self, row: Any) -> datetime | None:
        """Return the date by which the filters select a record; None if it has none."""
        value = row
        for name in self.entity.find_place(self.entity.day_column).split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if self.slices and isinstance(value, str):
            value = value[:10]
        return parse_moment(value)

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

    def count_windows(self, windows: Sequence[Window | None]) -> list[int]:
        """Return how many rows the server counts in each window, some at a time; None is all rows."""
        with ThreadPoolExecutor(COUNTS_AT_ONCE) as pool:
            return list(pool.map(self.count_rows, windows))

    def list_windows(self) -> list[Window]:
        """Return the windows in which all rows of the list are; what has no real date is in two windows of its own.

        Raises RequestFailed where the server ignores the filters.
        """
        ages, dates = (Window(FIRST, EPOCH), Window(END, LAST)), Window(EPOCH, END)
        *counts, dated, rows = self.count_windows([*ages, dates, None])
        self.check_filters(rows, *counts, dated)
        found = [*zip(ages, counts, strict=True), *self.split_window(dates, dated)]
        return [window for window, rows in found if rows]

    def check_filters(self, rows: int, *parts: int) -> None:
        """Raise RequestFailed where the server ignores the filters: each part of the rows then has all of them."""
        if 0 < 2 * rows <= sum(parts):
            raise RequestFailed(
                f"{self.entity.path} ignores {' or '.join(self.entity.window)}: it cannot be read by windows"
            )

    def tile_stored(self, stored: Mapping[date | None, int]) -> Iterator[tuple[Window, int]]:
        """Tile all real dates with windows, in whole months, each with its number of stored records.

        stored: records by month
        """
        months = sorted(month for month in stored if month)
        cuts, rows = [EPOCH], 0
        for month in months:
            start = datetime.combine(month, datetime.min.time(), UTC)
            if month == months[0] or rows + stored[month] > WINDOW_ROWS:
                cuts.append(start)
                rows = 0
            rows += stored[month]
        if months:
            cuts.append((start + timedelta(days=31)).replace(day=1))
        for first, end in pairwise([*cuts, END]):
            if first < end:
                yield Window(first, end), sum(stored[m] for m in months if first.date() <= m < end.date())

    def split_window(self, window: Window, rows: int) -> Iterator[tuple[Window, int]]:
        """Cut a window until none has many more than WINDOW_ROWS, or is a month; yield each with its number of rows.

        A month of slices is cut in as many as pages are needed, by days, with about as many rows in each.
        """
        limit = MAX_PAGE_SIZE if self.slices else WINDOW_ROWS
        halves = window.split_at_month() if rows > limit else None
        if not halves:
            parts = window.split_in_days(ceil(rows / limit)) if self.slices else [window]
            yield from ((part, ceil(rows / len(parts))) for part in parts)
            return
        quarters = [part for half in halves for part in half.split_at_month() or (half,)]
        counts = self.count_windows(quarters)
        self.check_filters(rows, *counts)
        for part, count in zip(quarters, counts, strict=True):
            yield from self.split_window(part, count)

    def make_result(self, error: str | None, refusal: str | None, seconds: float) -> EntityResult:
        """Make the result; `error` is what stopped the ingest, `refusal` why nothing could be read, no full stops."""
        status = "failed"
        if refusal:
            status, error = "refused", f"{refusal}. Until then the figures are built without it."
        elif error:
            where = f" at {self.current}" if self.current else ""
            error = f"{error}. Nothing is lost: the next run resumes{where}."
        elif self.incomplete:
            status = "partial"
            error = f"ServiceTitan sent fewer rows than it counts for {', '.join(self.incomplete)}."
        elif self.kept:
            status = "partial"
            error = (
                f"{self.kept:,} records are no longer in ServiceTitan's list, too many to believe it at once: they are "
                'kept. Were they deleted? Then run 01_ingest with mode = "full".'
            )
        elif self.mode != "window" and self.in_warehouse != self.in_servicetitan:
            status = "partial"
            error = f"The warehouse has {self.in_warehouse:,} rows, ServiceTitan counts {self.in_servicetitan:,}."
        elif self.in_quarantine:
            status = "partial"
            table = self.target.resolve_name("st_logs_v2.quarantine")
            error = f"{self.in_quarantine} rows are in quarantine: see the reasons in {table}."
        else:
            status = "ok"
        return EntityResult(
            entity=self.entity.name,
            status=status,
            windows=self.windows,
            **self.counts,
            in_quarantine=self.in_quarantine,
            in_warehouse=self.in_warehouse,
            in_servicetitan=self.in_servicetitan,
            seconds=seconds,
            error=error,
            drift=tuple(sorted(self.drift)),
        )


def ingest_entity(reader: EntityReader) -> EntityResult:
    """Ingest one entity; any error becomes part of its result, so that other entities go on."""
    started, error, refusal = time.perf_counter(), None, None
    try:
        refusal = _read_if_permitted(reader)
    except Stopped:
        error = "Stopped on request"
    except (RequestFailed, UserError, WarehouseError) as failure:
        error = str(failure).rstrip(".")
    except Exception as failure:
        log.write_event("bug", entity=reader.entity.name, error=repr(failure))
        error = f"{type(failure).__name__}: {(str(failure).splitlines() or ['no details'])[0]}"
    result = reader.make_result(error, refusal, round(time.perf_counter() - started, 1))
    log.write_event("entity", run_id=reader.run_id, **vars(result))
    return result


def _read_if_permitted(reader: EntityReader) -> str | None:
    """Read the entity, or note that ServiceTitan refuses an optional one; return how it does."""
    try:
        _read_entity(reader)
    except Unavailable as failure:
        if not reader.entity.optional:
            raise
        state.note_refusal(reader.target, reader.entity, reader.run_id)
        return str(failure).rstrip(".")
    return None


def _read_entity(reader: EntityReader) -> None:
    entity, target = reader.entity, reader.target
    reader.began = reader.client.read_clock()
    last = state.read_state(target, entity)
    if last.watermark and last.watermark > reader.began:  # of a time that is still to come nothing is known
        last = State(None, last.cycle)
    lost = state.has_lost_rows(target, entity)
    if entity.incremental == "whole":
        reader.read_list({}, removes=entity.keyless)
        state.advance_watermark(target, entity, reader.run_id, reader.began)
    elif entity.is_feed:
        _read_only_feed(reader, last)
    elif reader.days:
        days = Window(*_to_instants(reader, *reader.days))
        reader.read_windows(window for window, _ in reader.split_window(days, reader.count_rows(days)))
        reader.in_servicetitan = reader.count_rows()
        reader.in_warehouse = state.count_stored(target, entity)
    else:
        if reader.mode == "full" or last.watermark is None:
            _read_history(reader, last)
            lost = False
        else:
            {"feed": _read_feed, "modified": _read_modified, "slices": _read_slices}[entity.incremental](
                reader, last.watermark
            )
            state.advance_watermark(target, entity, reader.run_id, reader.began)
        _compare(reader, everything=lost)
    reader.in_quarantine = state.count_quarantined(target, entity)


def _read_history(reader: EntityReader, last: State) -> None:
    """Read all windows of the history that the open cycle has not read yet; what is gone in one goes here as well."""
    target, entity = reader.target, reader.entity
    planned = reader.list_windows()
    if not planned:
        # A build of the marts tells an empty entity from one that was never read.
        state.write_state(target, entity, reader.run_id, last)
        return
    cycle = last.cycle or reader.run_id
    state.write_state(target, entity, reader.run_id, State(last.watermark, cycle))
    reader.finished = state.read_finished_windows(target, entity, cycle)
    reader.read_windows(planned, cycle, removes=reader.mode == "full" or last.cycle is not None)
    if reader.incomplete:
        return  # the cycle stays open: the next run reads the missing rows
    reader.finished = set()
    if not last.cycle:
        state.clear_quarantine(target, entity, reader.began)
    if last.watermark is None:
        state.advance_watermark(target, entity, reader.run_id, reader.began, cycle)
    else:  # a second read of the past does not say what changed since the watermark
        state.write_state(target, entity, reader.run_id, State(last.watermark))


def _read_only_feed(reader: EntityReader, last: State) -> None:
    """Read a feed that no list stands beside: what changed, all of it at first, or what changed since the first day."""
    if reader.days:
        _read_changes(reader, reader.days[0].isoformat())
        return
    since = None if reader.mode == "full" else last.watermark
    _read_changes(reader, f"{since - reader.entity.lookback:%Y-%m-%d}" if since else "")
    state.advance_watermark(reader.target, reader.entity, reader.run_id, reader.began)


def _read_feed(reader: EntityReader, watermark: datetime) -> None:
    """Read changes from the export feed, with an overlap, and from the filters for changes that the feed may miss."""
    since = watermark - reader.entity.lookback
    for name in reader.entity.also:
        reader.read_list({name: _format_timestamp(since)})
    _read_changes(reader, f"{since:%Y-%m-%d}")


def _read_changes(reader: EntityReader, start: str) -> None:
    """Read the export feed from a day on, or from its beginning."""
    path = reader.entity.feed_path
    pages = reader.read_feed(start)
    for first in pages:  # and those that follow it, one at a time: records may be large
        reader.load(path, chain([first], islice(pages, FEED_PAGES - 1)))


def _read_modified(reader: EntityReader, watermark: datetime) -> None:
    """Read changes from the list, with an overlap: many rows share one modifiedOn, and some are committed late."""
    reader.read_list({"modifiedOnOrAfter": _format_timestamp(watermark - reader.entity.lookback)})


def _read_slices(reader: EntityReader, watermark: datetime) -> None:
    """Read the calendar slices in which rows may still appear, and the older rows that were modified.

    A row without an id that was modified is another row; the one before it shows when the counts are compared.
    """
    first = floor_to_midnight(watermark - reader.entity.lookback)
    changed = reader.client.read_pages(
        reader.entity.path, {"modifiedOnOrAfter": _format_timestamp(watermark - LATE)}, MAX_PAGE_SIZE
    )
    older = [row for page in changed for row in page.rows if (reader.read_day(row) or EPOCH) < first]
    if older:
        reader.load(reader.entity.path, [Page(older, has_more=False)], undated=True)
    recent = Window(first, END)
    reader.read_windows(window for window, rows in reader.split_window(recent, reader.count_rows(recent)) if rows)


def _compare(reader: EntityReader, *, everything: bool) -> None:
    """Compare the warehouse with the server's own counts, window by window, and read again by key what differs.

    Rows that are missing here come, and those that ServiceTitan no longer has are removed.
    everything: read all windows, whatever the counts are
    """
    target, entity = reader.target, reader.entity
    stored = state.count_by_month(target, entity)
    tiles = list(reader.tile_stored(stored))
    total, *counts = reader.count_windows([None, *(window for window, _ in tiles)])
    dated, read = sum(counts), False
    for (window, here), there in zip(tiles, counts, strict=True):
        if there == here and not (everything and here):
            continue
        read = True
        log.write_event("gap", entity=entity.name, window=str(window), there=there, here=here)
        reader.read_windows((part for part, _ in reader.split_window(window, there)), removes=True)
    undated = stored.get(None, 0)
    if total - dated != undated or (everything and undated):
        read = True
        log.write_event("gap", entity=entity.name, window="no date", there=total - dated, here=undated)
        reader.read_undated()
    reader.in_servicetitan = reader.count_rows() if read else total
    reader.in_warehouse = state.count_stored(target, entity) if read else sum(stored.values())


def _is_inactive(row: Any) -> bool:
    return isinstance(row, dict) and row.get("active") is False


def _leave_out(row: Any, names: tuple[str, ...]) -> Any:
    return {name: value for name, value in row.items() if name not in names} if isinstance(row, dict) else row


def _to_instants(reader: EntityReader, first: date, last: date) -> tuple[datetime, datetime]:
    """Return the instants of a range of days: local midnights, or UTC midnights where the filter is a calendar date."""
    zone = UTC if reader.slices else reader.zone
    start, end = (datetime.combine(day, datetime.min.time(), zone) for day in (first, last + timedelta(days=1)))
    return start.astimezone(UTC), end.astimezone(UTC)


def join_slices(slices: Iterable[tuple[Window, Page]]) -> Iterator[tuple[Window, Page]]:
    """Join windows that follow on each other, each with its rows, until they have as many as a page of a list: a load
    has costs of its own, and many a day has few rows. One that came short stays alone: another must not make up for it.
    """
    held: list[tuple[Window, Page]] = []
    for window, page in slices:
        short = page.total != len(page.rows)
        if held and (held[0][0].end != window.start or short or len(held[0][1].rows) + len(page.rows) > MAX_PAGE_SIZE):
            yield held.pop()
        first, rows = held.pop() if held else (window, Page([], has_more=False, total=0))
        joined = Window(first.start, window.end), add_pages(rows, page)
        if len(joined[1].rows) >= PAGE_SIZE or short:
            yield joined
        else:
            held.append(joined)
    yield from held


def add_pages(first: Page, second: Page) -> Page:
    """Return the rows of two windows as one page."""
    total = None if first.total is None or second.total is None else first.total + second.total
    return Page([*first.rows, *second.rows], has_more=False, total=total)


def cut_slice(window: Window, rows: float) -> list[Window]:
    """Cut a window in whole days, each with no more of its rows than fit into a page, if they are spread evenly."""
    return window.split_in_days(max(2, ceil(rows / MAX_PAGE_SIZE)))


def _format_timestamp(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")
