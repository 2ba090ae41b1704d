"""What our facts give for every observed number, night by night.

st_logs_v2.observations has one row per number and night: its outcome, and the numbers that the Reporting API gave. A
number is about any days: it is computed from the fact rows.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from stkpi import company, settings
from stkpi.errors import UserError
from stkpi.formatting import format_change, format_number
from stkpi.kpis.definition import Definition
from stkpi.kpis.sql import numbers_sql
from stkpi.marts.increment import check_built
from stkpi.reconcile.definitions.evaluate import compute_values, load_candidates
from stkpi.reconcile.observations.ledger import API, COLUMNS, SUPERSEDED, Observation, read_ledger, to_row
from stkpi.servicetitan.reports import PREFIX
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.schema import Column, Table

MATCHED, UNMATCHED, OPEN, EXPLAINED = "matched", "unmatched", "open", "explained"
OUTCOMES = (UNMATCHED, OPEN, MATCHED, EXPLAINED, SUPERSEDED)
# Numbers that matched, each with the definition by which it did.
MATCHED_BEFORE = (
    "SELECT DISTINCT id, kpi, unit, first_day, last_day, value, COALESCE(definition, '{}') AS definition"
    " FROM st_logs_v2.observations WHERE outcome = 'matched'"
)
FROM_API = """SELECT *
FROM st_logs_v2.observations
WHERE source = @source
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY checked_at DESC) = 1"""
HISTORY = """SELECT checked_at, id, source, outcome
FROM st_logs_v2.observations
WHERE TRUE
QUALIFY DENSE_RANK() OVER (ORDER BY checked_at DESC) <= @runs"""
_TYPES = {
    **dict.fromkeys((*COLUMNS, "basis", "measure", "ours", "outcome", "why", "definition"), "STRING"),
    **dict.fromkeys(("first_day", "last_day", "read_on"), "DATE"),
    **dict.fromkeys(("value", "tolerance", "ours"), "NUMERIC"),
}
TABLE = Table(
    "st_logs_v2.observations",
    (Column("checked_at", "TIMESTAMP"), *(Column(name, kind) for name, kind in _TYPES.items())),
    partition="TIMESTAMP_TRUNC(checked_at, MONTH)",
    description="One row per observed number and night: what ServiceTitan showed, what our facts gave, the outcome",
)
KEEP = f"""INSERT INTO {TABLE.name} (checked_at, {", ".join(_TYPES)})
SELECT
  @at AS checked_at,
  {", ".join(f"CAST(JSON_VALUE(line, '$.{name}') AS {kind}) AS {name}" for name, kind in _TYPES.items())}
FROM UNNEST(JSON_QUERY_ARRAY(@lines)) AS line"""


@dataclass(frozen=True)
class Checked:
    """An observation beside what our facts give for it.

    outcome: matched, unmatched, open (there is nothing to compare it with yet), explained (another number about the
        same is the one that matches), or superseded as its row says
    why: of an open one what is missing; of an unmatched one how far off we are
    regressed: whether it matched by the definition in force, and does so no longer
    """

    observation: Observation
    ours: Decimal | None
    outcome: str
    why: str = ""
    regressed: bool = False


def compute_numbers(
    target: Warehouse, observations: Sequence[Observation], definitions: Mapping[str, Definition]
) -> dict[str, Decimal | None]:
    """Return what we have for each of them, by id; None is a ratio without a denominator.

    One query gives all those of the facts. The facts know one date of a row: those by another date take a query a KPI.
    """
    own = [one for one in observations if not one.dated_by]
    found: dict[str, Decimal | None] = {}
    if own:
        keys = ("id", "kpi", "unit", "first_day", "last_day")
        numbers = json.dumps([{key: str(getattr(one, key)) for key in keys} for one in own])
        values = target.query(numbers_sql(definitions, {one.kpi for one in own}), numbers=numbers)
        found = {id: to_decimal(value) for id, value in zip(values["id"], values["value"], strict=True)}
    for kpi in dict.fromkeys(one.kpi for one in observations if one.dated_by):
        dated = [one for one in observations if one.dated_by and one.kpi == kpi]
        definition = definitions[kpi]
        candidates = load_candidates(target, definition.kpi, [one.number for one in dated], settings.load().time_zone)
        for one in dated:
            [value] = compute_values(candidates, one.number, np.array([definition.number]))
            found[one.id] = to_decimal(float(value))
    return found


def covered_days(target: Warehouse) -> pd.DataFrame:
    """Return the division, first_day and last_day of every unit (the index) in the KPI tables.

    Raises UserError where they are not built yet.
    """
    try:
        return target.query(
            "SELECT business_unit, division, MIN(event_date) AS first_day, MAX(event_date) AS last_day"
            " FROM st_mart_v2.kpi_daily_by_bu GROUP BY business_unit, division"
        ).set_index("business_unit")
    except target.NotFound:
        raise UserError("There are no KPI tables yet: run the nightly first.") from None


def check_observations(
    target: Warehouse,
    observations: Sequence[Observation],
    definitions: Mapping[str, Definition],
    fresh: Collection[str] = (),
) -> list[Checked]:
    """Hold every observation against the facts. Raises UserError where the KPI tables are not built yet.

    fresh: the ids of those that the Reporting API gave just now
    """
    covered = covered_days(target)
    check_built(target, {one.kpi: definitions[one.kpi] for one in observations})
    ours, before = compute_numbers(target, observations, definitions), _read_matched(target)
    found = [
        _check(one, ours[one.id], covered, _Past(definitions[one.kpi], before), one.id in fresh) for one in observations
    ]
    return _explain_rivals(found)


def check_shown(target: Warehouse, definitions: Mapping[str, Definition]) -> list[Checked]:
    """Hold the numbers that the pages show against the facts: those by the KPIs' own dates, as the newest night has
    them. What it read and found unmatched is unmatched, not yet "to be read again".
    """
    rows = _read_api_rows(target)
    known = (*read_ledger(), *_place_rows(rows, definitions))
    fresh = {row["id"] for row in rows if row["outcome"] == UNMATCHED}
    return check_observations(target, [one for one in known if not one.dated_by], definitions, fresh)


def count_outcomes(checked: Iterable[Checked], *, dated: bool = False) -> dict[str, int]:
    """Return how many numbers are matched, unmatched and open: of those by the KPIs' own dates, which are what people
    see as their figures, or where `dated` of those by other dates, which only tell definitions apart.
    """
    found = Counter(one.outcome for one in checked if bool(one.observation.dated_by) == dated)
    return {outcome: found[outcome] for outcome in (MATCHED, UNMATCHED, OPEN)}


def describe_match(counts: Mapping[str, int]) -> str:
    """Say how many of the numbers that ServiceTitan showed match, given how many are matched, unmatched and open.

    >>> describe_match({"matched": 129, "unmatched": 2, "open": 0})
    '129 of 131 of your numbers match ServiceTitan'
    """
    known, still_open = counts[MATCHED] + counts[UNMATCHED], counts.get(OPEN, 0)
    if not known:
        return "No number of ServiceTitan is known yet, so nobody can say whether these match"
    found = f"{counts[MATCHED]:,} of {known:,} of your numbers match ServiceTitan"
    return f"{found} ({still_open:,} cannot be compared yet)" if still_open else found


def check_kpi(target: Warehouse, kpi: str, definitions: Mapping[str, Definition]) -> list[Checked]:
    """Hold every number of a KPI, of the ledger and of the Reporting API, against the facts."""
    known = (*read_ledger(), *read_api_numbers(target, definitions))
    return check_observations(target, [one for one in known if one.kpi == kpi], definitions)


@dataclass(frozen=True)
class _Past:
    """What matched before, and the definition in force: a number that matched by another one says nothing about it."""

    definition: Definition
    matched: Mapping[str, Mapping[str, set[tuple[Any, ...]]]]

    def has(self, one: Observation) -> bool:
        """Whether the number matched by this definition, as it stands in the ledger today."""
        if one.status == MATCHED and not self.definition.departures:  # a person says that it must
            return True
        return _key(one) in self.matched.get(describe_choices(self.definition), {}).get(one.id, ())


def _check(one: Observation, ours: Decimal | None, covered: pd.DataFrame, past: _Past, fresh: bool) -> Checked:
    if one.status == SUPERSEDED:
        return Checked(one, ours, SUPERSEDED, one.note)
    if missing := find_missing(one, covered):
        return Checked(one, None, OPEN, missing)
    if one.agrees(ours):
        return Checked(one, ours, MATCHED)
    why = "we have none: nothing happened"
    if ours is not None:
        difference = format_change(Fraction(ours - one.value), one.entry.kind)
        why = f"we have {format_number(ours, one.entry.kind)}, {difference}"
    if one.source != API:
        return Checked(one, ours, UNMATCHED, why, past.has(one))
    # ServiceTitan's own number of a past week moves, too: an old reading says nothing until it is read again.
    read_before = one.id in past.matched.get(describe_choices(past.definition), {})
    if fresh or not read_before:
        return Checked(one, ours, UNMATCHED, why, read_before)
    # A report of the days ahead shows what has been booked since, whatever days it is run for.
    gone = one.entry.looks_ahead
    told = "ServiceTitan has it of the running week only" if gone else "to be read again"
    return Checked(one, ours, SUPERSEDED if gone else OPEN, f"{why} since it was read: {told}")


def _explain_rivals(checked: Sequence[Checked]) -> list[Checked]:
    """Of several numbers about the same at most one is right: where one matches, the others counted something else."""
    right = {one.observation.place: one for one in checked if one.outcome == MATCHED}
    return [
        replace(one, outcome=EXPLAINED, regressed=False)
        if one.outcome == UNMATCHED and one.observation.place in right
        else one
        for one in checked
    ]


def find_missing(one: Observation, covered: pd.DataFrame) -> str:
    """Return what the warehouse lacks for the number; nothing where it can be compared."""
    if one.unit not in covered.index:
        return f"this company has no unit {one.unit}"
    unit = covered.loc[one.unit]
    if unit["division"] not in one.entry.divisions:
        return f"{one.unit} is not a {one.entry.division} unit"
    if one.first_day < unit["first_day"] or one.last_day > unit["last_day"]:
        return f"the warehouse covers {unit['first_day']} to {unit['last_day']}"
    return ""


def to_decimal(value: Any) -> Decimal | None:
    """Return a value of a frame as a Decimal of nine digits at most; None for none."""
    return None if pd.isna(value) else Decimal(str(value)).quantize(Decimal("1e-9")).normalize() + 0


# --- history ----------------------------------------------------------------------------------------------------------


def describe_choices(definition: Definition) -> str:
    """Return where a definition departs from the default, as the history keeps it."""
    return json.dumps(definition.departures, sort_keys=True)


def _key(one: Any) -> tuple[Any, ...]:
    """What a number says: a row of the ledger whose value or days were edited is another number."""
    return one.kpi, one.unit, one.first_day, one.last_day, to_decimal(one.value)


def _query_history(target: Warehouse, sql: str, **parameters: Any) -> pd.DataFrame:
    """Return rows of the history; none before the first night has written it."""
    try:
        return target.query(sql, **parameters)
    except target.NotFound:
        return pd.DataFrame(columns=[column.name for column in TABLE.columns])


def _read_matched(target: Warehouse) -> defaultdict[str, dict[str, set[tuple[Any, ...]]]]:
    """What was said when it matched, by definition and id."""
    found: defaultdict[str, dict[str, set[tuple[Any, ...]]]] = defaultdict(dict)
    for row in _query_history(target, MATCHED_BEFORE).itertuples():
        found[str(row.definition)].setdefault(str(row.id), set()).add(_key(row))
    return found


def read_api_numbers(target: Warehouse, definitions: Mapping[str, Definition]) -> tuple[Observation, ...]:
    """Return the numbers that the Reporting API gave, the newest of each id: those of the saved reports that
    company.yml names, as far as they say something about the definitions in force.
    """
    return _place_rows(_read_api_rows(target), definitions)


def _read_api_rows(target: Warehouse) -> list[dict[str, Any]]:
    rows: list[Any] = _query_history(target, FROM_API, source=API).sort_values("id").to_dict("records")
    return rows


def _place_rows(rows: Iterable[Mapping[str, Any]], definitions: Mapping[str, Definition]) -> tuple[Observation, ...]:
    own, found = company.read_company(settings.load()), []
    for row in rows:
        values: dict[str, Any] = {name: row[name] for name in COLUMNS}
        values |= {name: to_decimal(row[name]) for name in ("value", "tolerance")}
        values |= {name: row.get(name) or "" for name in ("basis", "measure")}  # an earlier version wrote none
        if one := place_observation(Observation(**values), definitions[row["kpi"]], own):
            found.append(one)
    return tuple(found)


def place_observation(one: Observation, definition: Definition, own: company.Company) -> Observation | None:
    """Return a number of the Reporting API with the date that it is about; None where it says nothing (any more): it is
    of another report than company.yml names, was counted by another measure, or by a date that the KPI does not have.
    """
    saved = own.reports.get(one.kpi)
    if saved and not one.id.startswith(make_id(saved.reference, one.kpi)):
        return None
    if one.measure not in ("", definition["measure"].id):
        return None
    if one.basis in ("", *list_own_bases(definition, saved)):
        return one
    option = next((each for each in definition.kpi["date"] if each.basis == one.basis), None)
    return replace(one, dated_by=option.id) if option else None


def make_id(reference: str, *parts: object) -> str:
    """Return the id of a number that a saved report gave, or how it begins."""
    return ":".join(["api", reference.removeprefix(PREFIX), *map(str, parts), ""])


def list_own_bases(definition: Definition, saved: company.SavedReport | None) -> list[str]:
    """Return what the company's saved report of a KPI is filtered by: as company.yml says; by our own date, where it
    chooses none.
    """
    chosen = [str(value) for value in (saved.parameters.values() if saved else ()) if value]
    ours = definition["date"].basis
    return chosen if {option.basis for option in definition.kpi["date"]} & set(chosen) else [*chosen, ours]


def keep_outcomes(
    target: Warehouse, checked: Iterable[Checked], definitions: Mapping[str, Definition], at: datetime | None = None
) -> None:
    """Write one row per observation into the history, all or none."""
    ensure_tables(target, [TABLE])
    rows = [
        {
            **to_row(one.observation),
            "basis": one.observation.basis,
            "measure": one.observation.measure,
            "ours": None if one.ours is None else f"{one.ours:f}",
            "outcome": one.outcome,
            "why": one.why,
            "definition": describe_choices(definitions[one.observation.kpi]),
        }
        for one in checked
    ]
    target.run_transaction(KEEP, at=at or datetime.now(UTC), lines=json.dumps(rows))


def read_history(target: Warehouse, runs: int = 14) -> pd.DataFrame:
    """Return the outcomes of the last nights: a row per number, of the Reporting API's only those that did not always
    match, a column per night, the newest first.
    """
    rows = _query_history(target, HISTORY, runs=runs)
    rows = rows[(rows["source"] != API) | rows["id"].isin(rows.loc[rows["outcome"] != MATCHED, "id"])]
    table = rows.pivot(index="id", columns="checked_at", values="outcome").sort_index(axis=1, ascending=False)
    return table.set_axis([f"{at:%b %-d, %H:%M:%S}" for at in table.columns], axis=1).reset_index()
