"""Windows tile a range exactly: no instant is lost, none is in two."""

from datetime import UTC, date, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.servicetitan import windows
from stkpi.servicetitan.windows import Window

INSTANTS = st.datetimes(datetime(2020, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - bounds


def day(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def test_a_month_keeps_its_last_day():
    tiles = list(windows.split_by_month(day("2025-07-20"), day("2025-09-03")))
    assert tiles == [
        Window(day("2025-07-20"), day("2025-08-01")),
        Window(day("2025-08-01"), day("2025-09-01")),
        Window(day("2025-09-01"), day("2025-09-03")),
    ]
    evening_of_the_31st = datetime(2025, 8, 31, 23, 59, 59, tzinfo=UTC)
    assert [w for w in tiles if w.start <= evening_of_the_31st < w.end] == [tiles[1]]


@given(INSTANTS, INSTANTS, st.integers(1, 12))
def test_months_tile_the_range(one, other, length):
    start, end = sorted((one, other))
    tiles = list(windows.split_by_month(start, end, length))
    assert [w.start for w in tiles] == [start, *(w.end for w in tiles[:-1])] if tiles else start == end
    assert not tiles or tiles[-1].end == end


@given(INSTANTS, st.integers(2, 400))
def test_halves_tile_the_window(start, length):
    first, second = Window(start, start + timedelta(days=length)).split()
    assert (first.start, first.end, second.end) == (start, second.start, start + timedelta(days=length))


def test_one_day_cannot_be_split():
    with pytest.raises(ValueError, match="cannot be split"):
        Window(day("2025-08-18"), day("2025-08-19")).split()


def test_a_window_that_ends_before_it_starts_is_refused():
    with pytest.raises(UserError, match="must end after it starts"):
        Window(day("2025-08-19"), day("2025-08-18"))


def test_days_are_read_or_refused():
    assert parse_day(" 2025-08-18 ", "FROM") == date(2025, 8, 18)
    with pytest.raises(UserError, match="FROM=yesterday"):
        parse_day("yesterday", "FROM")
