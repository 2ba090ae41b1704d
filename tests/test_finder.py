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
from stkpi.kpis import sql
from stkpi.kpis.catalog import FILE, find_kpi, read_catalog
from stkpi.kpis.days import read_days
from stkpi.kpis.definition import Definition
from stkpi.reconcile.definitions import evaluate as cube
from stkpi.reconcile.definitions import find as finder
from stkpi.reconcile.definitions import shapley
from stkpi.reconcile.definitions.evaluate import Number, Period

NOW, AGO = (date(2025, 8, 18), date(2025, 8, 24)), (date(2024, 8, 18), date(2024, 8, 24))
KNOWN = Number("Phoenix-Sales", *NOW, Decimal(96))
YEAR_BEFORE = Number("Phoenix-Sales", *AGO, Decimal(124))
CATALOG = read_catalog()
LEADS = CATALOG["leads"]


@pytest.fixture
def target(healthy):
    with warehouse.connect() as opened:
        yield opened


@pytest.fixture
def could_ask(target) -> list[Period]:
    return finder.list_questions(finder.list_units(target, LEADS), LAST_DAY)


def known_values(target, kpi: str = "leads", period: Period = KNOWN.period) -> np.ndarray:
    """The values of all definitions for one period, the known one by default."""
    return cube.compute_values(cube.load_candidates(target, CATALOG[kpi], [period], TIME_ZONE), period)


def numbers(target, kpi: str, definition: int, periods: Sequence[Period]) -> list[Number]:
    """What a definition gives, as somebody would read it off."""
    space = CATALOG[kpi]
    values = cube.compute_table(cube.load_candidates(target, space, periods, TIME_ZONE), periods)[:, definition]
    return [Number(p.unit, p.first, p.last, Decimal(repr(float(v)))) for p, v in zip(periods, values, strict=True)]


# --- the known case ---------------------------------------------------------------------------------------------------


def test_the_known_numbers_alone_lead_to_the_definition_of_leads(target, could_ask):
    found = finder.find_definition(target, CATALOG["leads"], [KNOWN, YEAR_BEFORE], could_ask)
    assert found.classes[0].definition == 0
    assert found.table()["definition"][0] == "as expected"
    space, options = found.kpi, found.kpi.options(0)
    assert {name: options[name].id for name in ("date", "zone", "job_type", "status", "test_customers", "measure")} == {
        "date": "created", "zone": "tenant", "job_type": "estimate", "status": "any", "test_customers": "excluded",
        "measure": "customers",
    }  # fmt: skip
    assert len(space) >= 1_000_000
    # Two numbers are no proof: the sentence says so, and which number to read next.
    assert found.verdict == "ambiguous"
    assert found.sentence == f"Ambiguous, {found.left:,} definitions left. The simplest is Leads: as expected."
    assert found.question in could_ask


@pytest.mark.parametrize(
    ("seen", "line"),
    [
        (31, "31 instead of 96: status: only jobs with a sold estimate (-65)"),
        (124, "124 instead of 96: shift: the same dates of the year before (+28)"),
        (111, "111 instead of 96: status: completed jobs only (-18); shift: the same dates of the year before (+33)"),
        (97, "97 instead of 96: measure: every job (+1)"),
    ],
)
def test_another_number_has_its_reason_in_one_line(target, seen, line):
    space = CATALOG["leads"]
    seen_number = Number(KNOWN.unit, *NOW, Decimal(seen))
    assert str(finder.explain_number(space, known_values(target), seen_number, 0)) == line


def test_a_number_that_nothing_gives_is_not_explained(target):
    number = Number(KNOWN.unit, *NOW, Decimal(12345))
    assert finder.explain_number(CATALOG["leads"], known_values(target), number, 0) is None


@pytest.mark.parametrize("seen", [31, 124])
def test_a_bridge_adds_up_in_both_directions(target, seen):
    space, values = CATALOG["leads"], known_values(target)
    there = finder.explain_number(space, values, Number(KNOWN.unit, *NOW, Decimal(seen)), 0)
    wrong = {31: {"status": "sold"}, 124: {"shift": "year"}}[seen]
    back = finder.build_bridge(space, values, KNOWN.period, space.number(wrong), 0)
    assert (back.start, back.end) == (seen, 96)
    assert back.start + sum(change for _, _, change in back.steps) == 96
    assert there.start + sum(change for _, _, change in there.steps) == seen


# --- verdicts ---------------------------------------------------------------------------------------------------------


def test_many_definitions_give_one_number_and_what_gives_the_same_everywhere_is_one_class(target, could_ask):
    found = finder.find_definition(target, CATALOG["leads"], [KNOWN], could_ask)
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
    found = finder.find_definition(
        target, CATALOG["total_booked"], [number], [KNOWN.period, Period("Tucson-Sales", *AGO)]
    )
    assert found.verdict == "thin"
    assert "it takes 3 more numbers, another unit, a winter period, a number that was not needed" in found.sentence


def test_reading_what_the_finder_asks_for_ends_in_one_accepted_definition(target, could_ask):
    truth = CATALOG["total_booked"].number({"measure": "total"})
    read = [KNOWN.period]
    while True:
        found = finder.find_definition(
            target, CATALOG["total_booked"], numbers(target, "total_booked", truth, read), could_ask
        )
        if found.question is None:
            break
        assert found.verdict in ("ambiguous", "thin")
        assert found.question not in read
        read.append(found.question)
    assert (found.verdict, found.classes[0].definition) == ("accepted", truth)
    assert "Accepted: Total Booked: measure total (with tax)" in found.sentence
    assert len(read) <= 8
    assert len({period.unit for period in read}) > 1
    # Summer alone is not enough, however many numbers there are, nor is one unit.
    summer = [replace(KNOWN, unit=unit, first=day, last=day) for unit in ("A", "B") for day in NOW]
    assert finder.list_missing_evidence(summer, held_out=True) == ["a winter period"]
    assert finder.list_missing_evidence([replace(number, unit="A") for number in summer], held_out=True) == [
        "another unit", "a winter period"
    ]  # fmt: skip


def test_zeros_are_no_evidence():
    winter = (date(2025, 1, 1), date(2025, 1, 31))
    something = [Number(unit, *days, Decimal(5)) for unit in ("A", "B") for days in (NOW, winter)]
    assert finder.list_missing_evidence(something, held_out=True) == []
    nothing = [replace(number, value=Decimal(0)) for number in something]
    lacks = ["4 more numbers", "another unit", "a summer period", "a winter period"]
    assert finder.list_missing_evidence(nothing, held_out=True) == lacks


def test_numbers_of_several_definitions_are_named_by_group(target, could_ask):
    """31 of the old dashboard beside 96 of the report, and the same week of the year before."""
    old = Number("Phoenix-Sales", *NOW, Decimal(31))
    found = finder.find_definition(target, LEADS, [KNOWN, YEAR_BEFORE, old], could_ask)
    assert (found.verdict, found.classes, found.sql) == ("groups", (), None)
    ways = [(finder.describe_definition(LEADS, group.definition), group.numbers) for group in found.groups]
    assert ways == [("as expected", (KNOWN, YEAR_BEFORE)), ("status sold (only jobs with a sold estimate)", (old,))]
    for words in ("2 ways of counting", "as expected: 96", "status sold", "31 for Phoenix-Sales"):
        assert words in found.sentence


def test_a_number_that_no_definition_gives_is_a_group_without_one(target, could_ask):
    wrong = Number("Phoenix-Sales", *AGO, Decimal(4711))
    found = finder.find_definition(target, LEADS, [KNOWN, wrong], could_ask)
    assert [(group.definition, group.numbers) for group in found.groups] == [(0, (KNOWN,)), (None, (wrong,))]
    assert "no definition: 4,711" in found.sentence
    alone = finder.find_definition(target, LEADS, [wrong], could_ask)
    assert alone.verdict == "none"
    assert alone.sentence.startswith("NONE FITS")


def test_a_careless_reader_is_forgiven_a_few(target, could_ask):
    off = Number("Phoenix-Sales", *AGO, Decimal(125))
    right = numbers(target, "leads", 0, could_ask[:4])
    assert finder.find_definition(target, CATALOG["leads"], [KNOWN, off, *right], could_ask).verdict == "groups"
    found = finder.find_definition(target, CATALOG["leads"], [KNOWN, off, *right], could_ask, careless=True)
    assert (found.verdict, found.classes[0].definition) == ("likely", 0)


def test_the_next_number_is_the_one_on_which_most_differ():
    # Three definitions: the first period tells them all the same, the second parts one, the third all.
    panel = np.array([[5, 5, 5], [1, 1, 2], [1, 2, 3]], np.float32)
    even = np.ones(3)
    assert finder.choose_next_question(panel, even, ()) == 2
    assert finder.choose_next_question(panel, even, {2}) == 1
    assert finder.choose_next_question(panel, even, {1, 2}) is None


def test_a_kpi_is_found_as_people_call_it_and_an_unknown_one_is_refused():
    assert find_kpi(" total booked ") is find_kpi("Total Booked") is CATALOG["total_booked"]
    assert find_kpi("$ Produced") is CATALOG["dollars_produced"]
    with pytest.raises(UserError, match="no KPI lead; did you mean leads"):
        find_kpi("lead")


# --- the cube is the SQL ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kpi", CATALOG)
def test_the_expected_definition_is_the_kpi(target, kpi):
    column = target.query(
        f"SELECT business_unit, {kpi} AS value FROM st_mart_v2.kpi_weekly_by_bu"
        " WHERE division IN (@division, 'Both') AND week_start = @week",
        division=CATALOG[kpi].division,
        week=NOW[0],
    ).set_index("business_unit")["value"]
    periods = [Period(unit, *NOW) for unit in column.index]
    space = CATALOG[kpi]
    given = cube.compute_table(cube.load_candidates(target, space, periods, TIME_ZONE), periods)[:, 0]
    assert all(map(same, given, column))
    assert not np.isnan(given).all()


@pytest.mark.parametrize("kpi", CATALOG)
@pytest.mark.soak
def test_every_definition_gives_what_its_sql_gives(target, kpi):
    """Six definitions drawn at random, each for a month that is in one of the two years."""
    space, random = CATALOG[kpi], np.random.default_rng(7)
    units = finder.list_units(target, space)[:3]
    days = [(date(2025, 1, 6), date(2025, 2, 9)), (date(2025, 6, 1), date(2025, 7, 31))]
    periods = [Period(unit, *window) for unit in units for window in days]
    candidates = cube.load_candidates(target, space, periods, TIME_ZONE)
    found = []
    for number, period in zip(random.integers(len(space), size=6), periods, strict=True):
        statement = sql.definition_sql(Definition(space, space.options(int(number))))
        found.append(cube.compute_values(candidates, period)[number])
        assert same(found[-1], run(target, statement, period)), (number, period)
    assert len(found) == 6


@pytest.mark.parametrize("kpi", CATALOG)
def test_some_definitions_get_what_they_get_among_all(target, kpi):
    space, random = CATALOG[kpi], np.random.default_rng(11)
    unit = finder.list_units(target, space)[0]
    by_day = Period(unit, date(2025, 6, 1), date(2025, 7, 31))
    candidates = cube.load_candidates(target, space, [by_day], TIME_ZONE)
    for period in (by_day, replace(by_day, dated_by=space["date"][-1].id)):
        every = cube.compute_values(candidates, period)
        assert len(np.unique(every)) > 1
        for size in (1, 2, 300):
            some = random.integers(len(space), size=size)
            np.testing.assert_array_equal(cube.compute_values(candidates, period, some), every[some])


def test_where_nothing_happened_every_definition_counts_nothing(target):
    nowhere = Period("Phoenix-Sales", date(1999, 1, 4), date(1999, 1, 10))
    candidates = cube.load_candidates(target, LEADS, [nowhere], TIME_ZONE)
    assert not cube.compute_values(candidates, nowhere).any()


@given(number=strategies.integers(0, len(CATALOG["leads"]) - 1))
def test_a_definition_has_one_number_and_one_set_of_options(number):
    space = CATALOG["leads"]
    assert space.number({name: option.id for name, option in space.options(number).items()}) == number
    assert space.bits[number] == sum(option.bits for option in space.options(number).values())


def run(target, statement: str, period: Period) -> float | None:
    """The value of a definition's SQL."""
    days = {"first_day": period.first, "last_day": period.last}
    return target.query(statement, business_unit=period.unit, time_zone=TIME_ZONE, **days)["value"][0]


def same(value: float, other: float | None) -> bool:
    """Whether two values are one; a ratio without a denominator is NULL in SQL, which a frame of floats has as NaN."""
    return bool(np.isclose(value, np.nan if other is None else float(other), rtol=0, atol=1e-6, equal_nan=True))


def test_the_winner_as_googlesql_gives_the_number(target, could_ask):
    found = finder.find_definition(target, CATALOG["leads"], [KNOWN, YEAR_BEFORE], could_ask)
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
        ("future_bookings", "year", "none", (date(2025, 8, 18), date(2026, 8, 18))),
        ("future_bookings", "last_day", "none", (date(2025, 8, 18), date(2026, 8, 24))),
        ("outstanding_ar", "last", "none", (date.min, date(2025, 8, 24))),
    ],
)
def test_the_days_that_a_definition_reads(kpi, window, shift, expected):
    space = CATALOG[kpi]
    [its_window] = [option for option in space["window"] if option.id == window]
    [its_shift] = [option for option in space["shift"] if option.id == shift]
    assert read_days(its_window, its_shift, *NOW)[:2] == expected


def test_the_options_are_data(tmp_path):
    text = FILE.read_text(encoding="utf-8")
    fewer, wrong = tmp_path / "fewer.yml", tmp_path / "wrong.yml"
    fewer.write_text(text.replace("        rows: {count: rows, bits: 2, why: every job}\n", "", 1), encoding="utf-8")
    assert len(read_catalog(fewer)["leads"]) == len(LEADS) * 4 / 5
    wrong.write_text(text.replace("[first, last-1d]", "[first, yesterday]"), encoding="utf-8")
    with pytest.raises(UserError, match=r"wrong.yml: leads, window: exclusive_end .*yesterday"):
        read_catalog(wrong)
