"""Windows tile a range exactly: no instant is lost, none is in two."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.ingest import read
from stkpi.servicetitan.client import Page
from stkpi.servicetitan.windows import Window, floor_to_midnight

INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_month_keeps_its_last_day():
    first, second = Window(day("2025-07-20"), day("2025-09-01")).split_at_month()
    assert (first, second) == (
        Window(day("2025-07-20"), day("2025-08-01")),
        Window(day("2025-08-01"), day("2025-09-01")),
    )
    assert (first.split_at_month(), second.split_at_month()) == (None, None)


@given(INSTANTS, INSTANTS)
def test_months_tile_the_window(one, other):
    if one == other:
        return
    tiles, whole = [], [Window(*sorted((one, other)))]
    while whole:
        window = whole.pop()
        halves = window.split_at_month()
        whole += reversed(halves or ())
        tiles += [] if halves else [window]
    starts = [window.start for window in tiles]
    assert [*starts, tiles[-1].end] == [min(one, other), *(window.end for window in tiles)]
    assert all((start.day, start.time()) == (1, time()) for start in starts[1:])
    assert len({(start.year, start.month) for start in starts}) == len(starts)


@given(INSTANTS, st.integers(1, 40), st.integers(0, 50))
def test_days_tile_the_window(start, length, parts):
    tiles = Window(start, start + timedelta(days=length)).split_in_days(parts)
    assert [window.start for window in tiles[1:]] == [window.end for window in tiles[:-1]]
    assert (tiles[0].start, tiles[-1].end) == (start, start + timedelta(days=length))
    assert min(parts, length) <= len(tiles)
    assert {window.end - window.start for window in tiles[:-1]} <= {timedelta(days=max(1, length // max(1, parts)))}


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(1, 10)), max_size=5))
def test_what_is_left_of_a_window_is_what_no_other_has(others):
    start, whole = day("2025-08-01"), range(5, 15)
    at = [Window(start + timedelta(days=first), start + timedelta(days=first + days)) for first, days in others]
    window = Window(start + timedelta(days=whole[0]), start + timedelta(days=whole[-1] + 1))
    left = [n for rest in window.leave_out(at) for n in range((rest.start - start).days, (rest.end - start).days)]
    covered = {n for first, days in others for n in range(first, first + days)}
    assert left == [n for n in whole if n not in covered]


SLICES = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 4), st.sampled_from((0, 0, 1, None))), max_size=12)


@given(SLICES)
def test_joined_windows_have_all_rows_and_hide_none_that_is_missing(given):
    slices, start, number = [], day("2025-08-01"), 0
    for days, rows, missing in given:
        window = Window(start, start + timedelta(days=days))
        page = Page([{"id": number + n} for n in range(rows)], False, None if missing is None else rows + missing)
        slices.append((window, page))
        start, number = window.end + timedelta(days=rows == 3), number + rows  # after three rows a gap
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(read, "PAGE_SIZE", 5)
        joined = list(read.join_slices(slices))
    assert [row["id"] for _, page in joined for row in page.rows] == list(range(number))
    for window, page in joined:
        parts = [(each, part) for each, part in slices if window.start <= each.start < window.end]
        assert (parts[0][0].start, parts[-1][0].end) == (window.start, window.end)
        assert all(one.end == other.start for (one, _), (other, _) in pairwise(parts))
        assert [row for _, part in parts for row in part.rows] == page.rows
        short = [part for _, part in parts if part.total != len(part.rows)]
        assert len(parts) == 1 if short else page.total == len(page.rows)
        assert len(page.rows) - len(parts[-1][1].rows) < 5


def test_windows_of_few_rows_are_joined_until_they_fill_a_page(monkeypatch):
    monkeypatch.setattr(read, "PAGE_SIZE", 5)
    whole = Window(day("2025-08-01"), day("2025-08-08"))
    pages = [Page([{}] * rows, has_more=False, total=rows) for rows in (0, 2, 0, 4, 5, 1, 3)]
    joined = read.join_slices(zip(whole.split_in_days(7), pages, strict=True))
    assert [(window.end.day, len(page.rows)) for window, page in joined] == [(5, 6), (6, 5), (8, 4)]


def test_a_window_that_ends_before_it_starts_is_refused():
    for end in ("2025-08-18", "2025-08-19"):
        with pytest.raises(UserError, match="must end after it starts"):
            Window(day("2025-08-19"), day(end))


def test_midnight_is_that_of_utc():
    late = datetime(2025, 8, 18, 23, 59, 58, 7, tzinfo=ZoneInfo("America/Phoenix"))
    assert floor_to_midnight(late) == day("2025-08-19")
    assert floor_to_midnight(day("2025-08-19")) == day("2025-08-19")


def test_days_are_read_or_refused():
    assert parse_day(" 2025-08-18 ", "FROM") == date(2025, 8, 18)
    with pytest.raises(UserError, match="FROM=yesterday"):
        parse_day("yesterday", "FROM")
