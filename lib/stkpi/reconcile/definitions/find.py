"""Which definition gives the numbers that ServiceTitan shows? One matched number proves nothing: hundreds of different
definitions reproduce a weekly count. So the finder keeps every definition that gives all the numbers, takes those that
differ nowhere for one, and asks for the number that parts the rest best.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from fractions import Fraction
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.kpis.catalog import BOTH, Kpi, Option
from stkpi.kpis.definition import Definition, describe_departures
from stkpi.kpis.sql import definition_sql
from stkpi.reconcile.definitions import shapley
from stkpi.reconcile.definitions.evaluate import Candidates, Number, Period, compute_values, load_candidates
from stkpi.warehouse import Warehouse

NUMBERS_NEEDED = 4
UNITS_NEEDED = 2
SAMPLE = 20_000  # definitions that are asked about the next number: more do not change which one parts them best
OFF = 2  # a careless reader's numbers are off by this many steps at most
# log2 of the chance of a number that is right, and of each of the four that are off by one or two steps: 30% are.
RIGHT, WRONG = np.log2(0.7), np.log2(0.3 / 4)
LISTED = 10
GROUPED = 24  # numbers that are parted into groups: each takes the time of all definitions
EXACT = 1_000_000_000  # larger than any denominator that a company's week has in its ratios and cents
# First month and length of the periods asked about. More of them are in summer, whose year before is in the books of a
# young tenant, too.
ASKED = ((6, 3), (7, 1), (8, 1), (12, 3), (1, 1), (9, 12))
WEEK_IN = (8, 1)  # months of which a week is asked about, too
SEASON = timedelta(days=100)  # what is longer is neither summer nor winter
DST_ZONE = ZoneInfo("America/Los_Angeles")  # Arizona equals it in summer and Denver in winter


@dataclass(frozen=True)
class Class:
    """Definitions that give the same value for every period looked at; `definition` is the simplest of them."""

    definition: int
    synonyms: int
    bits: float
    log2_likelihood: float


@dataclass(frozen=True)
class Group:
    """Numbers that one definition gives where no definition gives all of them; no definition where none gives them."""

    definition: int | None
    numbers: tuple[Number, ...]


@dataclass(frozen=True)
class Finding:
    """What the numbers say about the definition of a KPI.

    verdict    accepted, ambiguous, thin (one is left on too little evidence), likely (numbers may be off), groups (the
               numbers come from several definitions) or none
    classes    the most plausible LISTED of the classes that are `left`
    question   the period whose number parts what is left best; None where nothing does
    expected   what the first of the classes gives for it
    agreed     the options on which all definitions that are left agree, by dimension
    """

    kpi: Kpi
    numbers: tuple[Number, ...]
    verdict: str
    classes: tuple[Class, ...]
    left: int
    question: Period | None
    expected: float | None
    sentence: str
    sql: str | None
    groups: tuple[Group, ...] = ()
    agreed: Mapping[str, Option] = field(default_factory=dict)

    def table(self) -> pd.DataFrame:
        """One row per class: what it does otherwise than expected, its bits and the number of its synonyms."""
        return pd.DataFrame(
            {
                "definition": [describe_definition(self.kpi, found.definition) for found in self.classes],
                "bits": [found.bits for found in self.classes],
                "synonyms": [found.synonyms for found in self.classes],
            }
        )


def describe_definition(kpi: Kpi, definition: int, base: int = 0) -> str:
    """Where a definition departs from another, by default the expected one: `status sold (only jobs …); …`."""
    return describe_departures(kpi, kpi.options(definition), kpi.options(base))


# --- the core: arrays in, arrays out ----------------------------------------------------------------------------------


def compute_log2_likelihood(given: np.ndarray, number: Number, step: float | None = None) -> np.ndarray:
    """How likely the number is, by definition (float32), given what each of them gives.

    step: the smallest difference that a careless reader makes; None where numbers are read rightly
    """
    right = number.agrees(given)
    if step is None:
        return np.where(right, 0, -np.inf).astype(np.float32)
    near = np.abs(given - float(number.value)) <= OFF * step + float(number.tolerance) + 1e-9
    return np.where(right, RIGHT, np.where(near, WRONG, -np.inf)).astype(np.float32)


def select_plausible(likelihood: np.ndarray) -> np.ndarray:
    """The definitions that can have given the numbers."""
    return np.flatnonzero(likelihood > -np.inf)


def fingerprint_definitions(panel: np.ndarray) -> np.ndarray:
    """A whole number per definition (column of periods by definitions) that is the same where all its values are."""
    found = np.zeros(panel.shape[1], np.uint64)
    for row in panel:
        # -0.0 is 0.0, and every NaN the same one.
        bits = (np.where(np.isnan(row), np.nan, row).astype(np.float64) + 0.0).view(np.uint64)
        found = (found ^ bits) * np.uint64(0x9E3779B97F4A7C15)
        found ^= found >> np.uint64(32)
    return found


def rank_classes(alive: np.ndarray, likelihood: np.ndarray, bits: np.ndarray, prints: np.ndarray) -> list[Class]:
    """The classes of the definitions `alive`, the most plausible first: of those that explain the numbers equally well
    the simplest.

    likelihood, bits, prints: of the definitions in `alive`
    """
    order = np.lexsort((alive, bits - likelihood))
    _, first, synonyms = np.unique(prints[order], return_index=True, return_counts=True)
    found = [
        Class(int(alive[order[i]]), int(n), float(bits[order[i]]), float(likelihood[order[i]]))
        for i, n in zip(first, synonyms, strict=True)
    ]
    return sorted(found, key=lambda c: (c.bits - c.log2_likelihood, -c.synonyms, c.definition))


def choose_next_question(panel: np.ndarray, weights: np.ndarray, asked: Collection[int]) -> int | None:
    """The period (row of the panel) whose number tells most about the definitions (its columns): that on which their
    values, weighted, have the highest entropy. None where they agree on everything that was not yet asked.
    """
    if panel.shape[1] > SAMPLE:
        chosen = np.random.default_rng(0).choice(panel.shape[1], SAMPLE, replace=False)
        panel, weights = panel[:, chosen], weights[chosen]
    best, question = 1e-9, None
    for row in sorted(set(range(len(panel))) - set(asked)):
        _, group = np.unique(panel[row], return_inverse=True)
        share = np.bincount(group.ravel(), weights)
        share = share[share > 0] / share.sum()
        entropy = -(share * np.log2(share)).sum()
        if entropy > best:
            best, question = entropy, row
    return question


def choose_confirming_period(
    periods: Sequence[Period], numbers: Sequence[Number], given: np.ndarray, near: np.ndarray
) -> int:
    """The period (its place) to read where nothing is left to tell apart: one where something happened, of another unit
    or season than all that was read, and where most of the nearest definitions would give another number.

    given: what is left gives, by period; near: what its `list_neighbors` give, periods by definitions
    """
    units = {number.unit for number in numbers if number.tells}
    seasons = {is_summer(number) for number in numbers if number.tells}
    read = {(number.unit, number.last) for number in numbers}  # what is as of a day is the same for a month and a year

    def worth(place: int) -> tuple[bool, bool, int, int]:
        period = periods[place]
        news = (period.unit not in units) + (is_summer(period) not in seasons)
        something = bool(given[place]) and not np.isnan(given[place])
        return (period.unit, period.last) not in read, something, news, int((near[place] != given[place]).sum())

    return max(range(len(periods)), key=worth)


def list_neighbors(kpi: Kpi, definition: int) -> np.ndarray:
    """The definitions that differ from one in a single dimension."""
    here = np.unravel_index(definition, kpi.shape)
    found = []
    for dimension, size in enumerate(kpi.shape):
        for other in set(range(size)) - {int(here[dimension])}:
            found.append(np.ravel_multi_index([*here[:dimension], other, *here[dimension + 1 :]], kpi.shape))
    return np.array(found, np.int64)


def round_as_read(kpi: Kpi, panel: np.ndarray) -> np.ndarray:
    """Values as they can be read: a ratio has four decimals."""
    return panel if smallest_step(kpi) == 1 else panel.round(4)


def list_missing_evidence(numbers: Sequence[Number], *, held_out: bool, in_seasons: bool = True) -> list[str]:
    """What the numbers still lack as evidence for a definition; nothing where it may be accepted. A zero is no
    evidence: every definition that looks where nothing is gives it.

    held_out: whether one of the numbers was foretold by all the definitions that the others leave
    in_seasons: whether it takes numbers of summer and of winter, which tell time zones apart
    """
    numbers = [number for number in numbers if number.tells]
    seasons = {is_summer(number) for number in numbers} if in_seasons else {True, False}
    units = {number.unit for number in numbers}
    found = []
    if len(numbers) < NUMBERS_NEEDED:
        found.append(f"{NUMBERS_NEEDED - len(numbers)} more number{'s' * (NUMBERS_NEEDED - len(numbers) > 1)}")
    if len(units) < UNITS_NEEDED:
        found.append("another unit")
    found += [f"a {name} period" for summer, name in ((True, "summer"), (False, "winter")) if summer not in seasons]
    if not held_out:
        found.append("a number that was not needed to find it")
    return found


def is_summer(period: Period) -> bool | None:
    """Return whether a period is in daylight saving time, None where it is too long to be in a season."""
    if period.last - period.first > SEASON:
        return None
    return bool(pd.Timestamp(period.first, tz=DST_ZONE).dst())


# --- questions that can be asked --------------------------------------------------------------------------------------


def list_questions(units: Sequence[str], as_of: date, count: int = 6, *, ahead: bool = False) -> list[Period]:
    """Periods whose number a person can read off ServiceTitan: for each of the first `count` units a year, quarters,
    months and weeks, the newest of summer and winter. A longer period says more, a week is easier to check.

    ahead: the number is about days that follow, and ServiceTitan has that of the running week only
    """
    if ahead:
        return [Period(unit, as_of - timedelta(days=as_of.weekday()), as_of) for unit in units[:count]]
    found = []
    for month, length in ASKED:
        ends = (_month_span(year, month, length) for year in range(as_of.year - 2, as_of.year + 1))
        days = [max((first, last) for first, last in ends if last <= as_of)]
        if length == 1 and month in WEEK_IN:
            monday = days[0][0] + timedelta(days=7 + -days[0][0].weekday() % 7)
            days.append((monday, monday + timedelta(days=6)))
        found += [Period(unit, *each) for unit in units[:count] for each in days]
    return found


def _month_span(year: int, month: int, length: int) -> tuple[date, date]:
    """The first day of a month and the last day of the months that begin with it."""
    first = date(year, month, 1)
    return first, (pd.Timestamp(first) + pd.DateOffset(months=length, days=-1)).date()


def list_units(target: Warehouse, kpi: Kpi) -> list[str]:
    """Return the rolled-up units that have the KPI and had jobs, those with most first."""
    try:
        found = target.query(
            "SELECT business_unit FROM st_ref_v2.dim_jobs WHERE division IN (@division, @both)"
            " GROUP BY business_unit ORDER BY COUNT(*) DESC, business_unit",
            division=kpi.division,
            both=BOTH,
        )
    except target.NotFound:
        raise UserError("There are no KPI tables yet: run the nightly first.") from None
    return list(found["business_unit"])


# --- finding ----------------------------------------------------------------------------------------------------------


def smallest_step(kpi: Kpi) -> float:
    """Return the smallest difference between two numbers as they are read: 1, a dollar, a hundredth of a percent."""
    return 0.0001 if kpi.kind == "rate" else 1


def find_definition(
    target: Warehouse,
    kpi: Kpi,
    numbers: Iterable[Number],
    could_ask: Sequence[Period],
    *,
    careless: bool = False,
    chosen: int = 0,
    could_run: Sequence[Period] | None = None,
) -> Finding:
    """Find the definitions of a KPI that give all the numbers. One query brings what they could count.

    could_ask: the periods whose numbers could be read next, and over which definitions are told apart
    could_run: what the question is rather chosen from than from `could_ask`, such as numbers by another date
    careless: whether up to a third of the numbers may be off by one or two
    """
    numbers = tuple(numbers)
    read = [number.period for number in numbers]
    # On what was read all that is left agrees, unless some of it may be wrong.
    periods = list(dict.fromkeys([*(read if careless else ()), *could_ask]))
    candidates = load_candidates(target, kpi, [*read, *periods, *(could_run or ())], settings.load().time_zone)
    step = smallest_step(kpi) if careless else None
    kept, each = _evaluate_numbers(candidates, numbers, step)
    alive = select_plausible(each.sum(0))
    if not len(alive):
        groups = tuple(group_numbers(candidates, numbers[:GROUPED], chosen))
        verdict = "groups" if any(group.definition is not None for group in groups) else "none"
        sentence = _describe_groups(kpi, groups)
        return Finding(kpi, numbers, verdict, (), 0, None, None, sentence, None, groups)
    likelihood, alive = each[:, alive].sum(0), kept[alive]
    panel = _build_panel(candidates, periods, alive)
    classes = rank_classes(alive, likelihood, kpi.bits[alive], fingerprint_definitions(panel))
    in_seasons = len(kpi["zone"]) > 1 and not kpi.looks_ahead  # a year ahead has both
    missing = list_missing_evidence(numbers, held_out=has_held_out_support(numbers, each), in_seasons=in_seasons)
    verdict = "likely" if careless else "ambiguous" if len(classes) > 1 else "thin" if missing else "accepted"
    question = expected = None
    if verdict != "accepted":
        choices: list[tuple[Sequence[Period], np.ndarray]] = [(periods, panel)]
        if could_run is not None:  # where none of these tells the definitions apart, a longer one that costs more may
            choices.insert(0, (could_run, _build_panel(candidates, could_run, alive)))
        simplest = int(alive[np.argmin(kpi.bits[alive] - likelihood)])
        weights = np.exp2(likelihood - likelihood.max())
        question = _choose_question(candidates, numbers, choices, weights, simplest)
        if question:
            expected = float(_build_panel(candidates, [question], np.array([simplest]))[0, 0])
    sentence = _write_sentence(kpi, verdict, classes, missing)
    sql = definition_sql(Definition(kpi, kpi.options(classes[0].definition)))
    listed, agreed = tuple(classes[:LISTED]), find_agreed(kpi, alive)
    return Finding(kpi, numbers, verdict, listed, len(classes), question, expected, sentence, sql, agreed=agreed)


def find_agreed(kpi: Kpi, definitions: np.ndarray) -> dict[str, Option]:
    """Return the options that all of the definitions have in common, by dimension."""
    places = np.unravel_index(definitions, kpi.shape)
    return {
        dimension.name: dimension.options[int(place[0])]
        for dimension, place in zip(kpi.dimensions, places, strict=True)
        if (place == place[0]).all()
    }


def _build_panel(candidates: Candidates, periods: Sequence[Period], definitions: np.ndarray) -> np.ndarray:
    """What definitions give for periods, as it can be read: periods by definitions."""
    values = [compute_values(candidates, period, definitions) for period in periods]
    return round_as_read(candidates.kpi, np.stack(values)) if values else np.zeros((0, len(definitions)))


def _choose_question(
    candidates: Candidates,
    numbers: Sequence[Number],
    choices: Sequence[tuple[Sequence[Period], np.ndarray]],
    weights: np.ndarray,
    simplest: int,
) -> Period | None:
    """The period, of the first of the choices that has one, that tells the definitions that are left apart; else one
    that confirms the simplest.

    choices: periods, and what the definitions that are left give for them; weights: of these definitions
    """
    read = {number.period for number in numbers}
    for periods, panel in choices:
        asked = {i for i, period in enumerate(periods) if period in read}
        if (place := choose_next_question(panel, weights, asked)) is not None:
            return periods[place]
    periods, _ = choices[0]
    if not periods:
        return None
    shown = np.concatenate([[simplest], list_neighbors(candidates.kpi, simplest)])
    given = _build_panel(candidates, periods, shown)
    return periods[choose_confirming_period(periods, numbers, given[:, 0], given[:, 1:])]


def _evaluate_numbers(
    candidates: Candidates, numbers: Sequence[Number], step: float | None
) -> tuple[np.ndarray, np.ndarray]:
    """The definitions that give all numbers but one at least, and their log2 likelihoods (numbers by definitions).

    Only these matter (see `has_held_out_support`), and after the first numbers they are few: the rest is not evaluated
    again.
    """
    kept = np.arange(len(candidates.kpi))
    each = np.zeros((0, len(kept)), np.float32)
    for number in numbers:
        values = compute_values(candidates, number, kept if len(kept) < len(candidates.kpi) else None)
        each = np.vstack([each, compute_log2_likelihood(values, number, step)])
        few = (each == -np.inf).sum(0) <= 1
        kept, each = kept[few], each[:, few]
    return kept, each


def has_held_out_support(numbers: Sequence[Number], each: np.ndarray) -> bool:
    """Whether one of the numbers could be left out without another definition coming in.

    each: their log2 likelihoods, numbers by definitions
    """
    gives = each > -np.inf
    left = gives.all(0).sum()
    could = [i for i, number in enumerate(numbers) if number.tells]
    return len(could) > 1 and any(np.delete(gives, i, 0).all(0).sum() == left for i in could)


def _write_sentence(kpi: Kpi, verdict: str, classes: Sequence[Class], missing: Sequence[str]) -> str:
    best = f"{kpi.label}: {describe_definition(kpi, classes[0].definition)}"
    match verdict:
        case "accepted":
            return f"Accepted: {best}. It alone gives all the numbers, one of which was not needed to find it."
        case "thin":
            return f"One definition is left, {best}, but it takes {', '.join(missing)}."
        case "likely":
            return f"Most plausible of {len(classes):,} left, if some numbers are off: {best}."
    return f"Ambiguous, {len(classes):,} definitions left. The simplest is {best}."


def group_numbers(candidates: Candidates, numbers: Sequence[Number], chosen: int = 0) -> list[Group]:
    """Part the numbers into groups that one definition gives each, the largest first.

    Of definitions that give equally many the `chosen` one is taken, else the simplest. Numbers that no definition gives
    are the last group, without one.
    """
    gives = np.zeros(len(candidates.kpi), np.uint64)
    for place, number in enumerate(numbers):
        gives |= number.agrees(compute_values(candidates, number)).astype(np.uint64) << np.uint64(place)
    left, found = np.uint64(2 ** len(numbers) - 1), list[Group]()
    while left:
        counts = np.bitwise_count(gives & left)
        most = np.flatnonzero(counts == counts.max())
        if not counts.max():
            return [*found, Group(None, _pick(numbers, left))]
        best = chosen if counts[chosen] == counts.max() else int(most[np.argmin(candidates.kpi.bits[most])])
        found.append(Group(best, _pick(numbers, gives[best] & left)))
        left &= ~gives[best]
    return found


def _pick(numbers: Sequence[Number], places: np.uint64) -> tuple[Number, ...]:
    return tuple(number for place, number in enumerate(numbers) if int(places) >> place & 1)


def _describe_groups(kpi: Kpi, groups: Sequence[Group]) -> str:
    if groups[0].definition is None:
        return (
            f"NONE FITS: no definition of {kpi.label} gives any of these numbers. Read them once more, then add what "
            "is counted otherwise to sql/catalog.yml."
        )
    parts = []
    for group in groups:
        shown = ", ".join(f"{_format_plain(Fraction(number.value))} for {number}" for number in group.numbers)
        way = "no definition" if group.definition is None else describe_definition(kpi, group.definition)
        parts.append(f"{way}: {shown}")
    return f"The numbers of {kpi.label} come from {len(groups)} ways of counting. " + "; ".join(parts) + "."


# --- from one definition to another -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Bridge:
    """How a period's value changes from one definition to another; `steps` is (dimension, why, change), exact."""

    period: Period
    start: Fraction
    end: Fraction
    steps: tuple[tuple[str, str, Fraction], ...]

    def __str__(self) -> str:
        parts = "; ".join(f"{name}: {why} ({_format_signed(change)})" for name, why, change in self.steps)
        return f"{_format_plain(self.end)} instead of {_format_plain(self.start)}: {parts or 'the same definition'}"


def build_bridge(kpi: Kpi, given: np.ndarray, period: Period, start: int, end: int) -> Bridge:
    """Split what changes from one definition to another over the dimensions in which they differ (Shapley, exact).

    given: the values of all definitions for the period
    """
    here, there = kpi.options(start), kpi.options(end)
    differing = [name for name in here if here[name] != there[name]]

    def value(changed: frozenset[str]) -> Fraction:
        mixed = {name: (there if name in changed else here)[name].id for name in here}
        return _to_fraction(given[kpi.number(mixed)])

    shares = shapley.shares(differing, value)
    steps = tuple((name, there[name].why, shares[name]) for name in differing)
    return Bridge(period, value(frozenset()), value(frozenset(differing)), steps)


def explain_number(kpi: Kpi, given: np.ndarray, number: Number, definition: int) -> Bridge | None:
    """Why somebody got `number` where `definition` is right: the bridge to the nearest definition that gives it (the
    fewest dimensions, then the fewest bits); None where none does.

    given: the values of all definitions for the period
    """
    found = np.flatnonzero(number.agrees(given))
    if not len(found):
        return None
    here = np.unravel_index(definition, kpi.shape)
    there = np.unravel_index(found, kpi.shape)
    differing = np.sum([a != b for a, b in zip(here, there, strict=True)], axis=0)
    nearest = found[np.lexsort((found, kpi.bits[found], differing))[0]]
    return build_bridge(kpi, given, number.period, definition, int(nearest))


def _to_fraction(value: float) -> Fraction:
    """A value as an exact number; a ratio without a denominator counts as zero."""
    return Fraction(0) if np.isnan(value) else Fraction(float(value)).limit_denominator(EXACT)


def _format_plain(value: Fraction) -> str:
    return f"{float(value):,.4f}".rstrip("0").rstrip(".")


def _format_signed(value: Fraction) -> str:
    return f"{'+' if value > 0 else ''}{_format_plain(value)}"
