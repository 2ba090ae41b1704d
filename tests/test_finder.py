"""The definition finder on the known case and on definitions drawn at random; its SQL on two engines."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, strategies

from sandbox.tenant import LAST_DAY, TIME_ZONE
from stkpi import warehouse
from stkpi.errors import UserError
from stkpi.reconcile.definitions import evaluate as cube
from stkpi.reconcile.definitions import find as finder
from stkpi.reconcile.definitions import shapley
from stkpi.reconcile.definitions import space as definitions
from stkpi.reconcile.definitions.evaluate import Number, Period

NOW, AGO = (date(2025, 8, 18), date(2025, 8, 24)), (date(2024, 8, 18), date(2024, 8, 24))
KNOWN = Number("Phoenix-Sales", *NOW, Decimal(96))
YEAR_BEFORE = Number("Phoenix-Sales", *AGO, Decimal(124))
KPIS = definitions.kpis()


@pytest.fixture
def target(healthy):
    with warehouse.connect() as opened:
        yield opened


@pytest.fixture
def could_ask(target) -> list[Period]:
    return finder.questions(finder.known_units(target, "Sales"), LAST_DAY)


def known_values(target, kpi: str = "leads", period: Period = KNOWN.period) -> np.ndarray:
    """The values of all definitions for one period, the known one by default."""
    return cube.values(cube.load(target, definitions.read_space(kpi), [period], TIME_ZONE), period)


def numbers(target, kpi: str, definition: int, periods: Sequence[Period]) -> list[Number]:
    """What a definition gives, as somebody would read it off."""
    space = definitions.read_space(kpi)
    values = cube.cube(cube.load(target, space, periods, TIME_ZONE), periods)[:, definition]
    return [Number(p.unit, p.first, p.last, Decimal(repr(float(v)))) for p, v in zip(periods, values, strict=True)]


# --- the known case ---------------------------------------------------------------------------------------------------


def test_the_known_numbers_alone_lead_to_the_definition_of_leads(target, could_ask):
    found = finder.find(target, "leads", [KNOWN, YEAR_BEFORE], could_ask)
    assert found.classes[0].definition == 0
    assert found.table()["definition"][0] == "as expected"
    space, options = found.space, found.space.options(0)
    assert {name: options[name].id for name in ("date", "zone", "job_type", "status", "test_customers", "measure")} == {
        "date": "created", "zone": "tenant", "job_type": "estimate", "status": "any", "test_customers": "excluded",
        "measure": "customers",
    }  # fmt: skip
    assert len(space) >= 1_000_000
    # Two numbers are no proof: the sentence says so, and which number to read next.
    assert found.verdict == "ambiguous"
    assert found.sentence.startswith(f"Ambiguous, {found.left} left. The simplest is leads: as expected. Read THIS")
    assert found.question in could_ask


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (31, "31 instead of 96: status: only jobs with a sold estimate (-65)"),
        (124, "124 instead of 96: shift: the same dates of the year before (+28)"),
        (111, "111 instead of 96: status: completed jobs only (-18); shift: the same dates of the year before (+33)"),
        (97, "97 instead of 96: measure: every row (+1)"),
    ],
)
def test_another_number_has_its_reason_in_one_line(target, seen, line):
    space = definitions.read_space("leads")
    seen_number = Number(KNOWN.unit, *NOW, Decimal(seen))
    assert str(finder.explain(space, known_values(target), seen_number, 0)) == line


def test_a_number_that_nothing_gives_is_not_explained(target):
    number = Number(KNOWN.unit, *NOW, Decimal(12345))
    assert finder.explain(definitions.read_space("leads"), known_values(target), number, 0) is None


@pytest.mark.parametrize("seen", [31, 124])
def test_a_bridge_adds_up_in_both_directions(target, seen):
    space, values = definitions.read_space("leads"), known_values(target)
    there = finder.explain(space, values, Number(KNOWN.unit, *NOW, Decimal(seen)), 0)
    wrong = {31: {"status": "sold"}, 124: {"shift": "year"}}[seen]
    back = finder.bridge(space, values, KNOWN.period, space.number(wrong), 0)
    assert (back.start, back.end) == (seen, 96)
    assert back.start + sum(change for _, _, change in back.steps) == 96
    assert there.start + sum(change for _, _, change in there.steps) == seen


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_many_definitions_give_one_number_and_what_gives_the_same_everywhere_is_one_class(target, could_ask):
    found = finder.find(target, "leads", [KNOWN], could_ask)
    assert (found.verdict, len(found.classes)) == ("ambiguous", finder.LISTED)
    assert found.left > 100
    assert found.classes[0].synonyms > 1
    assert len({c.definition for c in found.classes}) == finder.LISTED
    # What the first of them gives for the number to read next is not what all give.
    values = known_values(target, "leads", found.question)
    assert found.expected == values[0]
    assert len(set(values[[c.definition for c in found.classes]])) > 1


def test_one_number_can_leave_one_definition_and_is_still_too_little(target):
    [number] = numbers(target, "total_booked", 0, [KNOWN.period])
    found = finder.find(target, "total_booked", [number], [KNOWN.period, Period("Tucson-Sales", *AGO)])
    assert found.verdict == "thin"
    assert "it takes 3 more numbers, another unit, a winter period, a number that was not needed" in found.sentence


def test_reading_what_the_finder_asks_for_ends_in_one_accepted_definition(target, could_ask):
    truth = definitions.read_space("total_booked").number({"measure": "total"})
    read = [KNOWN.period]
    while True:
        found = finder.find(target, "total_booked", numbers(target, "total_booked", truth, read), could_ask)
        if found.question is None:
            break
        assert found.verdict in ("ambiguous", "thin")
        assert found.question not in read
        read.append(found.question)
    assert (found.verdict, found.classes[0].definition) == ("accepted", truth)
    assert found.sentence.startswith("total_booked: measure total (with tax). It alone gives all the numbers")
    assert len(read) <= 8
    assert len({period.unit for period in read}) > 1
    # Summer alone is not enough, however many numbers there are, nor is one unit.
    summer = [replace(KNOWN, unit=unit, first=day, last=day) for unit in ("A", "B") for day in NOW]
    assert finder.lacking(summer, held_out=True) == ["a winter period"]
    assert finder.lacking([replace(number, unit="A") for number in summer], held_out=True) == [
        "another unit", "a winter period"
    ]  # fmt: skip


def test_zeros_are_no_evidence():
    winter = (date(2025, 1, 1), date(2025, 1, 31))
    something = [Number(unit, *days, Decimal(5)) for unit in ("A", "B") for days in (NOW, winter)]
    assert finder.lacking(something, held_out=True) == []
    nothing = [replace(number, value=Decimal(0)) for number in something]
    lacks = ["4 more numbers", "another unit", "a summer period", "a winter period"]
    assert finder.lacking(nothing, held_out=True) == lacks


def test_none_fits_is_said_loudly(target, could_ask):
    wrong = Number("Phoenix-Sales", *AGO, Decimal(4711))
    found = finder.find(target, "leads", [KNOWN, wrong], could_ask)
    assert (found.verdict, found.classes, found.sql) == ("none", (), None)
    assert found.sentence.startswith("NONE FITS: no definition gives these numbers; the most that one gives is 1 of 2.")


def test_a_careless_reader_is_forgiven_a_few(target, could_ask):
    off = Number("Phoenix-Sales", *AGO, Decimal(125))
    right = numbers(target, "leads", 0, could_ask[:4])
    assert finder.find(target, "leads", [KNOWN, off, *right], could_ask).verdict == "none"
    found = finder.find(target, "leads", [KNOWN, off, *right], could_ask, careless=True)
    assert (found.verdict, found.classes[0].definition) == ("likely", 0)


def test_the_next_number_is_the_one_on_which_most_differ():
    # Three definitions: the first period tells them all the same, the second parts one, the third all.
    panel = np.array([[5, 5, 5], [1, 1, 2], [1, 2, 3]], np.float32)
    even = np.ones(3)
    assert finder.next_question(panel, even, ()) == 2
    assert finder.next_question(panel, even, {2}) == 1
    assert finder.next_question(panel, even, {1, 2}) is None


def test_an_unknown_kpi_is_refused():
    with pytest.raises(UserError, match=r"lead is none of leads, estimates, "):
        definitions.read_space("lead")


# --- the cube is the SQL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kpi", KPIS)
def test_the_expected_definition_is_the_kpi(target, kpi):
    column = target.query(
        f"SELECT business_unit, {kpi} AS value FROM st_mart_v2.kpi_weekly_by_bu"
        " WHERE division = @division AND week_start = @week",
        division=finder.division(kpi),
        week=NOW[0],
    ).set_index("business_unit")["value"]
    periods = [Period(unit, *NOW) for unit in column.index]
    space = definitions.read_space(kpi)
    given = cube.cube(cube.load(target, space, periods, TIME_ZONE), periods)[:, 0]
    assert all(map(same, given, column))
    assert not np.isnan(given).all()


@pytest.mark.parametrize("kpi", KPIS)
@pytest.mark.soak
def test_every_definition_gives_what_its_sql_gives(target, kpi):
    """Six definitions drawn at random, each for a month that is in one of the two years."""
    space, random = definitions.read_space(kpi), np.random.default_rng(7)
    units = finder.known_units(target, finder.division(kpi))[:3]
    days = [(date(2025, 1, 6), date(2025, 2, 9)), (date(2025, 6, 1), date(2025, 7, 31))]
    periods = [Period(unit, *window) for unit in units for window in days]
    candidates = cube.load(target, space, periods, TIME_ZONE)
    found = []
    for number, period in zip(random.integers(len(space), size=6), periods, strict=True):
        sql = definitions.as_sql(space, int(number), candidates.dates)
        found.append(cube.values(candidates, period)[number])
        assert same(found[-1], run(target, sql, period)), (number, period)
    assert np.nansum(np.abs(found)) > 0


@given(number=strategies.integers(0, len(definitions.read_space("leads")) - 1))
def test_a_definition_has_one_number_and_one_set_of_options(number):
    space = definitions.read_space("leads")
    assert space.number({name: option.id for name, option in space.options(number).items()}) == number
    assert space.bits[number] == sum(option.bits for option in space.options(number).values())


def run(target, sql: str, period: Period) -> float | None:
    """The value of a definition's SQL."""
    days = {"first_day": period.first, "last_day": period.last}
    return target.query(sql, business_unit=period.unit, time_zone=TIME_ZONE, **days)["value"][0]


def same(value: float, other: float | None) -> bool:
    """Whether two values are one; a ratio without a denominator is NULL in SQL, which a frame of floats has as NaN."""
    return bool(np.isclose(value, np.nan if other is None else float(other), rtol=0, atol=1e-6, equal_nan=True))


def test_the_winner_as_googlesql_gives_the_number(target, could_ask):
    found = finder.find(target, "leads", [KNOWN, YEAR_BEFORE], could_ask)
    assert run(target, found.sql, KNOWN.period) == 96
    assert run(target, found.sql, YEAR_BEFORE.period) == 124


# --- the arithmetic, by hand ------------------------------------------------------------------------------------------


def test_shapley_shares_by_hand():
    # Alone a gives 4 and b 2; together 10. a comes first or second: (4 + 8) / 2 = 6, b: (2 + 6) / 2 = 4.
    worth = {frozenset(): 0, frozenset("a"): 4, frozenset("b"): 2, frozenset("ab"): 10}
    assert shapley.shares(["a", "b"], lambda who: Fraction(worth[who])) == {"a": 6, "b": 4}


@given(strategies.lists(strategies.integers(-50, 50), min_size=8, max_size=8))
def test_shapley_shares_always_add_up(values):
    worth = {frozenset(name for i, name in enumerate("abc") if place >> i & 1): v for place, v in enumerate(values)}
    found = shapley.shares("abc", lambda who: Fraction(worth[who]))
    assert sum(found.values()) == values[7] - values[0]


@pytest.mark.parametrize(
    ("kpi", "window", "shift", "expected"),
    [
        ("leads", "inclusive", "none", (date(2025, 8, 18), date(2025, 8, 24))),
        ("leads", "exclusive_end", "none", (date(2025, 8, 18), date(2025, 8, 23))),
        ("leads", "sunday_to_saturday", "none", (date(2025, 8, 17), date(2025, 8, 23))),
        ("leads", "inclusive", "year", (date(2024, 8, 18), date(2024, 8, 24))),
        ("leads", "inclusive", "weeks_52", (date(2024, 8, 19), date(2024, 8, 25))),
        ("future_bookings", "year", "none", (date(2025, 8, 18), date(2026, 8, 24))),
        ("outstanding_ar", "last", "none", (date.min, date(2025, 8, 24))),
    ],
)
def test_the_days_that_a_definition_reads(kpi, window, shift, expected):
    space = definitions.read_space(kpi)
    [its_window] = [option for option in space["window"] if option.id == window]
    [its_shift] = [option for option in space["shift"] if option.id == shift]
    assert definitions.bounds(its_window, its_shift, *NOW)[:2] == expected


def test_the_options_are_data(tmp_path):
    text = definitions.FILE.read_text(encoding="utf-8")
    fewer, wrong = tmp_path / "fewer.yaml", tmp_path / "wrong.yaml"
    fewer.write_text(text.replace("    rows: {count: rows, bits: 2, why: every row}", "", 1), encoding="utf-8")
    assert len(definitions.read_space("leads", fewer)) == len(definitions.read_space("leads")) * 4 / 5
    wrong.write_text(text.replace("[first, last-1d]", "[first, yesterday]"), encoding="utf-8")
    with pytest.raises(UserError, match="an option of leads, window cannot be read"):
        definitions.read_space("leads", wrong)
