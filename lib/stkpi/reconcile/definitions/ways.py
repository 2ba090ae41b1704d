"""Every other way to count: what a KPI would be if one thing about its definition were different."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import date, timedelta
from fractions import Fraction

import numpy as np
import pandas as pd

from stkpi.formatting import format_change, format_number, format_span
from stkpi.kpis.catalog import Option
from stkpi.kpis.definition import Definition, name_facts, read_definitions
from stkpi.kpis.sql import fact_rows_sql
from stkpi.reconcile.definitions.evaluate import Candidates, Number, Period, compute_values, load_candidates
from stkpi.reconcile.definitions.find import Bridge, explain_number, list_neighbors
from stkpi.warehouse import Warehouse

MOST_DAYS = 31  # of a longer period the single days tell nothing


@dataclass(frozen=True)
class Way:
    """One option of one dimension instead of the chosen one, and the number that it gives (NaN: nothing happened)."""

    dimension: str
    option: Option
    value: float


@dataclass(frozen=True)
class Ways:
    """The chosen definition's number for a unit and days, and what every other way to count gives.

    table: a row per way, the chosen definition first; columns way, number, difference, changed
    funnel: a row per step from all rows of the days to those that count; columns step, rows left, what counts
    days: the number of each day, and by UTC
    rows: the fact rows behind the number
    """

    definition: Definition
    period: Period
    value: float
    ways: tuple[Way, ...]
    table: pd.DataFrame
    funnel: pd.DataFrame
    days: pd.DataFrame
    rows: pd.DataFrame
    candidates: Candidates

    @property
    def headline(self) -> str:
        """The number in one sentence."""
        kpi, period = self.definition.kpi, self.period
        span = format_span(period.first, period.last)
        return f"{kpi.label} of {period.unit}, {span}: {_show(self.value, kpi.kind)}. {kpi.sentence}"

    def explain(self, number: Number) -> str:
        """Return how somebody got a number for these days, in one sentence."""
        return explain_value(self.candidates, number, self.definition)


def list_ways(target: Warehouse, definition: Definition, period: Period, zone: str) -> Ways:
    """Count a KPI for a unit and days in every way that changes one thing about its definition.

    zone: the tenant's time zone
    """
    days = [Period(period.unit, day, day) for day in _days_of(period)]
    candidates = load_candidates(target, definition.kpi, [period, *days], zone)
    value, ways = _compute_ways(candidates, definition, period)
    kind = definition.kpi.kind
    lines = [("as it is defined", _show(value, kind), "", definition.describe())]
    for way in ways:
        nothing = np.isnan(way.value) or np.isnan(value)
        change = "" if nothing else format_change(_exact(way.value) - _exact(value), kind)
        words = f"{way.dimension.replace('_', ' ')}: {way.option.why}"
        lines.append((words, _show(way.value, kind), change, f"{way.dimension}={way.option.id}"))
    table = pd.DataFrame(lines, columns=["way to count", "number", "difference", "definition"])
    funnel = _count_steps(candidates, definition, period)
    rows = target.query(
        fact_rows_sql(definition, name_facts(read_definitions())[definition.kpi.name]), **asdict(period)
    )
    return Ways(
        definition,
        period,
        value,
        tuple(ways),
        table,
        funnel,
        _count_days(candidates, definition, days),
        rows,
        candidates,
    )


def _days_of(period: Period) -> list[date]:
    return [period.first + timedelta(days=n) for n in range(min((period.last - period.first).days + 1, MOST_DAYS))]


def _count_days(candidates: Candidates, definition: Definition, days: list[Period]) -> pd.DataFrame:
    kpi = definition.kpi
    numbers = [definition.number]
    if utc := [option.id for option in kpi["zone"] if option.says == "UTC"]:
        choices = {name: option.id for name, option in definition.options.items()}
        numbers.append(kpi.number({**choices, "zone": utc[0]}))
    lines = []
    for day in days:
        values = compute_values(candidates, day, np.array(numbers)).astype(float)
        lines.append((f"{day.first:%a %b} {day.first.day}", *(_show(float(value), kpi.kind) for value in values)))
    return pd.DataFrame(lines, columns=["day", "number", "by UTC"][: 1 + len(numbers)])


def explain_value(candidates: Candidates, number: Number, definition: Definition) -> str:
    """Return how a number comes about where `definition` is right: the single change that gives it (the simplest of
    them), else the fewest changes; that nothing gives it, where nothing does.
    """
    kpi = definition.kpi
    value, ways = _compute_ways(candidates, definition, number.period)
    shown, change = format_number(number.value, kpi.kind), _exact(float(number.value)) - _exact(value)
    fitting = [way for way in ways if bool(number.agrees(np.array([way.value]))[0])]
    if fitting:
        fitting.sort(key=lambda way: way.option.bits)
        options = "; or with ".join(f"{way.dimension}={way.option.id}: {way.option.why}" for way in fitting[:4])
        return f"{shown} is what you get with {options} ({format_change(change, kpi.kind)})"
    bridge = explain_number(kpi, compute_values(candidates, number), number, definition.number)
    if bridge is None:
        why = "it was misread, or ServiceTitan has records that we do not"
        return f"no way of counting gives {shown} for {number.period}: {why}"
    return f"{shown} takes several changes: {describe_bridge(bridge, kpi.kind)}"


def describe_bridge(bridge: Bridge, kind: str) -> str:
    """Return the steps of a bridge in words, each with what it changes."""
    return "; ".join(f"{name}: {why} ({format_change(change, kind)})" for name, why, change in bridge.steps)


def _compute_ways(candidates: Candidates, definition: Definition, period: Period) -> tuple[float, list[Way]]:
    kpi = definition.kpi
    numbers = np.concatenate([[definition.number], list_neighbors(kpi, definition.number)])
    values = compute_values(candidates, period, numbers).astype(float)
    found = []
    for number, value in zip(numbers[1:], values[1:], strict=True):
        options = kpi.options(int(number))
        [name] = [each for each in options if options[each] != definition[each]]
        found.append(Way(name, options[name], float(value)))
    order = [dimension.name for dimension in kpi.dimensions]
    found.sort(key=lambda way: (order.index(way.dimension), kpi[way.dimension].index(way.option)))
    return float(values[0]), found


def _count_steps(candidates: Candidates, definition: Definition, period: Period) -> pd.DataFrame:
    """From every row that has its date in the window to the rows that count, a condition at a time."""
    masks = candidates.select_rows(definition, period)
    # The candidates have rows of other days, too, which other definitions count: by itself their number says nothing.
    kept = masks.pop("days") & masks.pop("entity", True)
    of_days = f"{definition['date'].why}, from {period.first} to {period.last}"
    if "entity" in definition.options:
        of_days = f"{definition['entity'].why}; {of_days}"
    steps = [("every row", int(kept.sum()), of_days)]
    for name in sorted(masks, key=lambda name: name != "unit"):
        kept = kept & masks[name]
        why = f"of {period.unit}" if name == "unit" else definition[name].why
        steps.append((name.replace("_", " "), int(kept.sum()), why))
    return pd.DataFrame(steps, columns=["step", "rows left", "what counts"])


def _exact(value: float) -> Fraction:
    return Fraction(0) if np.isnan(value) else Fraction(float(value)).limit_denominator(10**9)


def _show(value: float, kind: str) -> str:
    return "—" if np.isnan(value) else format_number(_exact(value), kind)
