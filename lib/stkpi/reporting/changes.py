"""What changed since: weekly figures of the past that a later night found to be others, and why, down to the records.

A change is a row of st_logs_v2.kpi_history. Its reasons come from the fact rows before and after that night
(fact_history) and the records of their jobs (record_history). What a row contributed before and contributes now are
exact numbers; a ratio's change is divided among its reasons by the mean of both orders in which its numerator and its
denominator can have changed (Shapley). The reasons of a change add up to it, and what no row explains is a reason, too.
"""

from __future__ import annotations

import json
import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from itertools import zip_longest
from typing import Any
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi.formatting import (
    format_change,
    format_day,
    format_moment,
    format_number,
    format_rounded,
    format_short_day,
    format_span,
    join_words,
)
from stkpi.kpis.catalog import Kpi, read_records
from stkpi.kpis.days import read_days
from stkpi.kpis.definition import Definition, name_facts
from stkpi.kpis.sql import failing_sql, group_column, operands, row_keys, split_operand
from stkpi.marts.history import DEFINITION
from stkpi.reporting.figures import name_change, name_place
from stkpi.warehouse import Warehouse

SHOWN_DAYS = 35  # for which the page tells changes
RECENT_DAYS = 7  # for which the home page does
MOST_SHOWN = 40  # changes of a KPI that are told, those of the newest weeks first
MOST_ROWS = 25  # rows of a reason
ARRIVED, CHANGED, GONE = "arrived", "changed", "gone"
STOPPED = "no longer counts"
_UPDATED = "the program or the time zone has changed"
_DONE = {ARRIVED: "arrived", CHANGED: "changed", GONE: "no longer there"}


@dataclass(frozen=True)
class Row:
    """A fact row as it stood; `key` tells which record it is."""

    key: str
    day: date
    unit: str
    job_id: int | None
    values: Mapping[str, str | None]


@dataclass(frozen=True)
class Cause:
    """What one row does to a figure. `deltas`: what it adds to each operand of the measure.

    kind: what happened to the row; term: of a row that stayed, what of it changed; records: (entity, key, what);
    key: that of the row; entity: which kind of record it is, where the rows of a fact are of several
    """

    kind: str
    job_id: int | None
    deltas: tuple[Fraction, ...]
    term: str = ""
    records: tuple[tuple[str, str, str], ...] = ()
    key: str = ""
    entity: str = ""
    failed: str = ""  # what the row is, so that it does not count


@dataclass(frozen=True)
class Reason:
    """Causes of one kind, in words. `effect` is in the KPI's own unit; None where a ratio was or is none."""

    words: str
    effect: Fraction | None
    amount: Fraction | None  # of a ratio: the money or number that changed
    causes: tuple[Cause, ...]


@dataclass(frozen=True)
class Change:
    """A weekly figure that was found to be another."""

    kpi: Kpi
    unit: str
    week: date
    noted_at: datetime
    before_at: datetime
    value: Fraction | None
    value_before: Fraction | None
    reasons: tuple[Reason, ...] = ()

    @property
    def place(self) -> str:
        """What an address calls its unit."""
        return name_place("unit", self.unit)

    @property
    def id(self) -> str:
        """What an address calls it on its page."""
        return name_change(self.kpi.name, self.place, self.week.isoformat())

    @property
    def effect(self) -> Fraction | None:
        """The new number less the old one; None where one of them is none."""
        return None if self.value is None or self.value_before is None else self.value - self.value_before


@dataclass(frozen=True)
class Recount:
    """A KPI that was counted by another definition from a night on."""

    kpi: Kpi
    noted_at: datetime
    figures: int
    why: str


@dataclass(frozen=True)
class Changed:
    """What the pages tell: by KPI for the page (see `describe_changes`), a line for each KPI's scorecard (text, and the
    address of the change), and what the figures that the page lists were before, by place, period and KPI.
    """

    kpis: list[dict[str, Any]]
    lines: dict[str, dict[str, str]]
    was: dict[tuple[str, str, str], str]


def read_changed(target: Warehouse, definitions: Mapping[str, Definition], now: datetime, zone: str) -> Changed:
    """Return what changed lately, ready to be shown; `zone`: the tenant's time zone."""
    found, recounts = read_changes(target, definitions, now - timedelta(days=SHOWN_DAYS))
    jobs = _read_jobs(target, now - timedelta(days=SHOWN_DAYS))
    found = [change for change in found if change.value != change.value_before]  # of a ratio only its parts are others
    groups = {name: alike for name in definitions if (alike := _group_alike(found, name))}
    was: dict[tuple[str, str, str], str] = {}
    for change in (change for here in groups.values() for group in here[:MOST_SHOWN] for change in group):
        was.setdefault((change.place, change.week.isoformat(), change.kpi.name), _format_values(change)[0])
    lines = describe_newest(found, now - timedelta(days=RECENT_DAYS))
    return Changed(describe_changes(groups, recounts, jobs, zone), lines, was)


def _read_jobs(target: Warehouse, since: datetime) -> dict[int, dict[str, Any]]:
    """The number, type and status of the jobs that the reasons name."""
    lines: Any = target.query(
        "SELECT job_id, job_number AS job, job_type_name AS type, job_status AS status FROM st_ref_v2.dim_jobs"
        " WHERE job_id IN (SELECT job_id FROM st_logs_v2.fact_history WHERE noted_at >= @since)",
        since=since,
    )
    lines = lines.astype(object).where(lines.notna(), None)
    return {int(line.pop("job_id")): line for line in lines.to_dict("records")}


def read_changes(
    target: Warehouse, definitions: Mapping[str, Definition], since: datetime
) -> tuple[list[Change], list[Recount]]:
    """Return what was noted since, newest first. Figures of KPIs that the catalog no longer has are left out."""
    found: Any = target.query(
        "SELECT * FROM st_logs_v2.kpi_history WHERE noted_at >= @since ORDER BY noted_at DESC, week_start DESC",
        since=since,
    ).to_dict("records")
    rows, records = _read_rows(target, since), _read_records(target, since)
    facts = name_facts(definitions)
    failing: dict[str, dict[str, str]] = {}
    changes, recounts = [], []
    for line in found:
        if line["kpi"] not in definitions:
            continue
        definition, noted_at = definitions[line["kpi"]], line["noted_at"].to_pydatetime()
        if not isinstance(line["business_unit"], str):
            why = definition.describe() if line["reason"] == DEFINITION else _UPDATED
            recounts.append(Recount(definition.kpi, noted_at, int(line["figures"]), why))
            continue
        change = Change(
            definition.kpi,
            line["business_unit"],
            line["week_start"],
            noted_at,
            line["before_at"].to_pydatetime(),
            _to_fraction(line["value"]),
            _to_fraction(line["value_before"]),
        )
        here = rows.get((noted_at, facts[line["kpi"]]), {})
        totals = [_to_fraction(line[name]) for name in ("part_before", "whole_before", "part", "whole")]
        causes = list(_list_causes(definition, change, here, records.get(noted_at, {})))
        if any(cause.kind == STOPPED for cause in causes):
            if line["kpi"] not in failing:
                failing[line["kpi"]] = _read_failing(target, definition, facts[line["kpi"]], since)
            causes = [replace(c, failed=failing[line["kpi"]].get(c.key, "")) for c in causes]
        changes.append(replace(change, reasons=tuple(_explain(definition, change, causes, totals))))
    return changes, recounts


def _to_fraction(value: Any) -> Fraction | None:
    return None if pd.isna(value) else Fraction(value)


_Sides = Mapping[str, Mapping[str, list[Row]]]  # by row key, then side


def _read_rows(target: Warehouse, since: datetime) -> dict[tuple[datetime, str], dict[str, dict[str, list[Row]]]]:
    found: dict[tuple[datetime, str], Any] = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    lines: Any = target.query(
        "SELECT * FROM st_logs_v2.fact_history WHERE noted_at >= @since ORDER BY event_date, row_text", since=since
    )
    for line in lines.itertuples(index=False):
        job_id = None if pd.isna(line.job_id) else int(line.job_id)
        row = Row(line.row_key, line.event_date, line.business_unit, job_id, json.loads(line.row_text))
        found[line.noted_at.to_pydatetime(), line.fact][line.row_key][line.side] += [row] * int(line.times)
    return found


_Records = Mapping[tuple[str, int | str], Sequence[tuple[str, str, str]]]


def _read_records(target: Warehouse, since: datetime) -> dict[datetime, _Records]:
    """Return the records by night, each under its job and under its own id."""
    found: dict[datetime, Any] = defaultdict(lambda: defaultdict(list))
    lines: Any = target.query(
        "SELECT * FROM st_logs_v2.record_history WHERE noted_at >= @since ORDER BY entity, record_key", since=since
    )
    for line in lines.itertuples(index=False):
        record, night = (line.entity, line.record_key, line.what), found[line.noted_at.to_pydatetime()]
        if not pd.isna(line.job_id):
            night["job_id", int(line.job_id)].append(record)
        night[line.entity, line.record_key].append(record)
    return found


def _read_failing(target: Warehouse, definition: Definition, table: str, since: datetime) -> dict[str, str]:
    """Say what the rows are that do not count now, by their keys."""
    lines = target.query(failing_sql(definition, table), since=since)
    outs = {name: option.out for name, option in definition.conditions.items()}
    outs |= {"attribution": "its unit does not have this figure", "date": "without a date"}
    return {key: outs.get(failed, "") for key, failed in zip(lines["row_key"], lines["failed"], strict=True)}


# --- what each row does -----------------------------------------------------------------------------------------------


_Pair = tuple[Row | None, Row | None]  # before and after; None: it was not there


@dataclass(frozen=True)
class _Scope:
    """What a figure counts: the rows of its unit on the days of its week, by its definition."""

    definition: Definition
    unit: str
    first: date
    last: date
    known_by: date
    records: _Records

    def holds(self, row: Row | None) -> bool:
        """Whether a row counts."""
        if row is None or row.unit != self.unit or not self.first <= row.day <= self.last:
            return False
        column = self.definition["window"].known_by
        return not column or date.fromisoformat(str(row.values[column])[:10]) <= self.known_by


def _list_causes(definition: Definition, change: Change, rows: _Sides, records: _Records) -> Iterator[Cause]:
    """Yield what the rows of a fact do to a figure of one unit and week."""
    measure = definition["measure"].says
    days = read_days(definition["window"], definition["shift"], change.week, _sunday(change.week))
    scope = _Scope(definition, change.unit, *days, records)
    pairs = [
        pair
        for sides in rows.values()
        for pair in zip_longest(sides.get("before", ()), sides.get("after", ()))
        if scope.holds(pair[0]) or scope.holds(pair[1])
    ]
    same = [row for sides in rows.values() for row in sides.get("same", ()) if scope.holds(row)]
    if "distinct" in measure:
        yield from _list_key_causes(scope, pairs, same)
        return
    for pair in pairs:
        yield from _list_pair_causes(scope, pair)
    if "net" in measure:
        yield from _list_cuts(scope, pairs, same)


def _list_operands(definition: Definition) -> list[str]:
    return operands(definition["measure"].says) or ["rows"]


def _list_pair_causes(scope: _Scope, pair: _Pair) -> Iterator[Cause]:
    sums = _list_operands(scope.definition)
    old, new = (row if row and scope.holds(row) else None for row in pair)
    if not (old and new):
        deltas = tuple(_measure_row(new, operand) - _measure_row(old, operand) for operand in sums)
        yield _describe_whole(scope, pair, deltas)
        return
    for term in dict.fromkeys(term for operand in sums for _, term in split_operand(operand)):
        delta = _read_term(new, term) - _read_term(old, term)
        if delta:
            deltas = tuple(sum(sign for sign, each in split_operand(o) if each == term) * delta for o in sums)
            kinds = _list_feeding(scope.definition.kpi, term) or _list_relevant(scope.definition)
            yield Cause("amount", new.job_id, deltas, term, tuple(_find_records(new, scope.records, kinds)))


def _describe_whole(scope: _Scope, pair: _Pair, deltas: tuple[Fraction, ...]) -> Cause:
    """Say why a row counts that did not, or no longer does."""
    before, after = pair
    left = scope.holds(before)
    row = next(row for row in (before if left else after, before, after) if row)
    named = tuple(_find_records(row, scope.records, _list_relevant(scope.definition)))
    what = {each for entity, _, each in named if entity in _list_own(scope.definition)}
    if before and after:
        kind = f"{'to' if left else 'from'} another {'unit' if before.unit != after.unit else 'week'}"
    elif left:
        kind = "deleted" if GONE in what else STOPPED
    else:
        kind = "arrived" if ARRIVED in what else "counts now"
    return Cause(kind, row.job_id, deltas, "", named, row.key, _find_entity(scope.definition, row))


def _find_entity(definition: Definition, row: Row) -> str:
    """The kind of record that a row is, where the rows of the fact are of several kinds: that of its last own id."""
    own = [name for name in row_keys(definition.kpi) if _name_entity(name) in read_records()]
    return next((_name_entity(name) for name in reversed(own) if row.values.get(name)), "") if len(own) > 1 else ""


def _name_entity(column: str) -> str:
    return f"{column.removesuffix('_id')}s"


def _list_key_causes(scope: _Scope, pairs: Sequence[_Pair], same: Sequence[Row]) -> Iterator[Cause]:
    """Yield a cause for each thing that is counted once and came or went."""
    column = group_column(scope.definition)
    stayed = {row.values[column] for row in same}
    then = {pair[0].values[column]: pair for pair in pairs if pair[0] and scope.holds(pair[0])}
    now = {pair[1].values[column]: pair for pair in pairs if pair[1] and scope.holds(pair[1])}
    for found, others, sign in ((then, now, -1), (now, then, 1)):
        for key, (before, after) in found.items():
            if key is None or key in others or key in stayed:
                continue
            delta = (Fraction(sign),)
            if before and after and scope.holds(before) and scope.holds(after):
                named = _find_records(after, scope.records, {"jobs"})
                yield Cause("other", after.job_id, delta, column, tuple(named))
            else:
                yield _describe_whole(scope, (before, after), delta)


def _list_cuts(scope: _Scope, pairs: Sequence[_Pair], same: Sequence[Row]) -> Iterator[Cause]:
    """Yield what leaving small balances out does beyond the rows themselves."""
    [operand], column = _list_operands(scope.definition), group_column(scope.definition)
    least = Fraction(scope.definition["measure"].says["least"])
    balances: dict[str | None, list[Fraction]] = defaultdict(lambda: [Fraction(0), Fraction(0)])
    jobs: dict[str | None, int | None] = {}
    for pair in [*pairs, *((row, row) for row in same)]:
        for place, row in enumerate(pair):
            if row is not None and scope.holds(row):
                balances[row.values[column]][place] += _measure_row(row, operand)
                jobs[row.values[column]] = row.job_id
    for item, (then, now) in balances.items():
        beyond = (now if now >= least else 0) - (then if then >= least else 0) - (now - then)
        if beyond:
            yield Cause("cut", jobs[item], (Fraction(beyond),))


def _measure_row(row: Row | None, operand: str) -> Fraction:
    if row is None:
        return Fraction(0)
    return sum((sign * _read_term(row, term) for sign, term in split_operand(operand)), Fraction(0))


def _read_term(row: Row, term: str) -> Fraction:
    if term == "rows":
        return Fraction(1)
    value = row.values.get(term)
    if term.startswith("is_"):
        return Fraction(value == "true")
    return Fraction(value) if value else Fraction(0)


def _sunday(week: date) -> date:
    return week + timedelta(days=6)


@lru_cache(maxsize=1000)
def _words_of(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text))


def _list_feeding(kpi: Kpi, term: str) -> set[str]:
    """The kinds of records that a term is made of."""
    columns = _words_of(kpi.terms.get(term, term))
    return {record.entity for record in read_records().values() if columns & record.feeds}


def _list_own(definition: Definition) -> set[str]:
    """The kinds of records that a fact row is: by its own ids, else its job."""
    return {_name_entity(name) for name in row_keys(definition.kpi)} & read_records().keys()


def _list_relevant(definition: Definition) -> set[str]:
    """The kinds of records by which a row of the fact can come or go: not those that feed what it does not look at."""
    conditions = " ".join(str(option.says) for option in definition.conditions.values())
    terms = {term for operand in _list_operands(definition) for _, term in split_operand(operand)}
    feeding = {entity for term in (*terms, conditions) for entity in _list_feeding(definition.kpi, term)}
    return {name for name, kind in read_records().items() if not kind.feeds} | _list_own(definition) | feeding


def _find_records(row: Row, records: _Records, kinds: Collection[str]) -> list[tuple[str, str, str]]:
    """The records of these kinds that changed: of the row's job, and of its own ids."""
    found = list(records.get(("job_id", row.job_id), ())) if row.job_id else []
    for column, value in row.values.items():
        if column.endswith("_id") and value:
            found += records.get((_name_entity(column), value), ())
    return [record for record in dict.fromkeys(found) if record[0] in kinds]


# --- reasons in words -------------------------------------------------------------------------------------------------


def _explain(
    definition: Definition, change: Change, causes: Iterable[Cause], totals: Sequence[Fraction | None]
) -> Iterator[Reason]:
    """Yield the reasons of a change, largest first; their effects add up to it exactly."""
    measure = definition["measure"].says
    is_ratio = "ratio" in measure
    weights: tuple[Fraction, ...] | None = (Fraction(1),)
    if is_ratio:
        weights = _weigh(*totals) if all(totals[place] is not None for place in range(4)) else None
    groups: dict[tuple[str, ...], list[Cause]] = defaultdict(list)
    for cause in causes:
        if any(cause.deltas):
            groups[cause.kind, cause.term, cause.failed].append(cause)
    found = []
    for group in groups.values():
        deltas = [sum(each, Fraction(0)) for each in zip(*(cause.deltas for cause in group), strict=True)]
        effect = sum((d * w for d, w in zip(deltas, weights, strict=True)), Fraction(0)) if weights else None
        amount = (deltas[-1] or deltas[0]) if is_ratio else None
        if is_ratio and group[0].term:
            amount = _sum_term(group, operands(measure))
        found.append(Reason(_describe_group(definition, group), effect, amount, tuple(group)))
    wanted = change.effect
    if is_ratio and weights:
        wanted = _divide(totals[2], totals[3]) - _divide(totals[0], totals[1])
    rest = None if wanted is None or not weights else wanted - sum((r.effect or 0 for r in found), Fraction(0))
    if rest:
        found.append(Reason("what cannot be traced row by row, because too much changed in that night", rest, None, ()))
    yield from sorted(found, key=lambda reason: -abs(float(reason.effect or reason.amount or 0)))


def _divide(part: Fraction | None, whole: Fraction | None) -> Fraction:
    return Fraction(part or 0) / Fraction(whole or 1)


def _weigh(
    part_before: Fraction | None, whole_before: Fraction | None, part: Fraction | None, whole: Fraction | None
) -> tuple[Fraction, Fraction] | None:
    """What a dollar more in the numerator, and one in the denominator, does to a ratio that went from one to another.

    >>> _weigh(Fraction(1), Fraction(2), Fraction(1), Fraction(4))[1] * 2 == Fraction(1, 4) - Fraction(1, 2)
    True
    """
    if not whole_before or not whole or part_before is None or part is None:
        return None
    return (1 / whole_before + 1 / whole) / 2, -(part_before + part) / (2 * whole_before * whole)


def _sum_term(group: Sequence[Cause], sums: Sequence[str]) -> Fraction:
    """By how much a term changed, whatever its sign in the measure."""
    for place, operand in enumerate(sums):
        for sign, term in split_operand(operand):
            if term == group[0].term:
                return sum((sign * cause.deltas[place] for cause in group), Fraction(0))
    return Fraction(0)


def _describe_group(definition: Definition, group: Sequence[Cause]) -> str:
    first, jobs = group[0], len({cause.job_id for cause in group})
    count = _count_rows(definition, group)
    way, _, where = first.kind.partition(" ")
    if way in ("to", "from"):
        return f"{count} moved {way} {where}"
    term = _humanize(first.term)
    why = f" ({first.failed})" if first.failed else ""
    return {
        "amount": _describe_records(group) or f"{term} of {count} changed",
        "other": f"another {term.lower().removesuffix(' id')} on {_count(jobs, 'job', 'jobs')}",
        "cut": f"left out or let in again: {definition['measure'].out}",
        "arrived": f"{count} arrived late",
        "deleted": f"{count} deleted in ServiceTitan",
        "counts now": f"{count} that did not count before",
        STOPPED: f"{count} that no longer count{'s' if len(group) == 1 else ''}{why}",
    }[first.kind]


def _count_rows(definition: Definition, group: Sequence[Cause]) -> str:
    """Count what the rows of a fact are: jobs, or invoices and payments."""
    known, noun = read_records(), definition.kpi.report.rows
    numbers = Counter(cause.entity for cause in group)
    words = {name: (kind.one, kind.several) for name, kind in known.items()} | {"": (noun.removesuffix("s"), noun)}
    return join_words([_count(number, *words[entity]) for entity, number in numbers.items()])


def _describe_records(group: Sequence[Cause]) -> str:
    """Say which records changed: `14 gross pay items arrived, one invoice changed`."""
    known, records = read_records(), {record for cause in group for record in cause.records}
    parts = []
    for entity, kind in known.items():
        for what in (ARRIVED, CHANGED, GONE):
            number = sum(1 for record in records if (record[0], record[2]) == (entity, what))
            if number:
                parts.append(f"{_count(number, kind.one, kind.several)} {_DONE[what]}")
    jobs = len({cause.job_id for cause in group})
    return f"{join_words(parts)}{f', on {jobs} jobs' if jobs > 1 else ''}" if parts else ""


def _count(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _humanize(name: str) -> str:
    words = name.removeprefix("is_").replace("_", " ")
    return words[:1].upper() + words[1:]


# --- for the pages ----------------------------------------------------------------------------------------------------


def describe_changes(
    groups: Mapping[str, Sequence[Sequence[Change]]],
    recounts: Sequence[Recount],
    jobs: Mapping[int, Mapping[str, Any]],
    zone: str,
) -> list[dict[str, Any]]:
    """Return what the page shows: by KPI, its changes of the newest weeks first, those that are alike together.

    groups: the changes by KPI (see `_group_alike`); jobs: number, type and status of the jobs
    """
    found = []
    known: set[str] = set()
    kpis = [*(here[0][0].kpi for here in groups.values()), *(recount.kpi for recount in recounts)]
    for kpi in {kpi.name: kpi for kpi in kpis}.values():
        here = groups.get(kpi.name, ())
        found.append(
            {
                "id": kpi.name,
                "label": kpi.label,
                "recounts": [
                    {"day": format_moment(r.noted_at, zone), "figures": f"{r.figures:,}", "why": r.why}
                    for r in recounts
                    if r.kpi == kpi
                ],
                "changes": [_describe_change(group, jobs, zone, known) for group in here[:MOST_SHOWN]],
                "more": max(0, len(here) - MOST_SHOWN),
            }
        )
    return found


def describe_newest(changes: Sequence[Change], since: datetime) -> dict[str, dict[str, str]]:
    """Return for each KPI one line about what changed since, of the newest week, and where the page tells it."""
    found: dict[str, list[Change]] = defaultdict(list)
    for change in changes:
        if change.noted_at >= since:
            found[change.kpi.name].append(change)
    lines = {}
    for name, here in found.items():
        newest = max(here, key=lambda change: (change.week, abs(change.effect or 0)))
        more = f", and {len(here) - 1:,} more" if len(here) > 1 else ""
        before, now = _format_values(newest)
        text = f"Changed lately: {newest.unit}, week of {format_short_day(newest.week)}: {before}, now {now}{more}"
        lines[name] = {"text": text, "id": newest.id}
    return lines


def _format_values(change: Change) -> list[str]:
    """The old and the new number as a manager writes them; to the last digit where they are the same otherwise."""
    values = (change.value_before, change.value)
    short = [format_rounded(float("nan") if value is None else float(value), change.kpi.kind) for value in values]
    return short if short[0] != short[1] else [format_number(value, change.kpi.kind) for value in values]


def _group_alike(changes: Sequence[Change], kpi: str) -> list[list[Change]]:
    """Changes of a KPI, of one unit and night with the same effect for the same reasons: a balance of many weeks."""
    found: dict[Any, list[Change]] = {}
    for change in sorted((c for c in changes if c.kpi.name == kpi), key=lambda change: change.week, reverse=True):
        causes = tuple(reason.causes for reason in change.reasons)
        effect = change.effect if change.kpi.kind != "rate" else change.week
        found.setdefault((change.unit, change.noted_at, effect, causes), []).append(change)
    return list(found.values())


def _describe_change(
    group: Sequence[Change], jobs: Mapping[int, Mapping[str, Any]], zone: str, known: set[str]
) -> dict[str, Any]:
    """known: the ids that are taken, because a figure's address leads to its newest change; gets those of the group"""
    newest, oldest = group[0], group[-1]
    kpi = newest.kpi
    ids = [change.id for change in group if change.id not in known]
    known.update(ids)
    also = _count(len(group) - 1, "more week", "more weeks")
    return {
        "ids": ids,
        "unit": newest.unit,
        "period": newest.week.isoformat(),
        "place": newest.place,
        "kpi": kpi.name,
        "week": format_span(newest.week, _sunday(newest.week)),
        "also": f"{also}, back to that of {format_day(oldest.week)}" if len(group) > 1 else "",
        "before": format_number(newest.value_before, kpi.kind),
        "before_at": f"{newest.before_at.astimezone(ZoneInfo(zone)):%A}, {format_moment(newest.before_at, zone)}",
        "now": format_number(newest.value, kpi.kind),
        "noted_at": format_moment(newest.noted_at, zone),
        "effect": "" if newest.effect is None else format_change(newest.effect, kpi.kind),
        "reasons": [_describe_reason(reason, kpi, jobs) for reason in newest.reasons],
    }


def _describe_reason(reason: Reason, kpi: Kpi, jobs: Mapping[int, Mapping[str, Any]]) -> dict[str, Any]:
    words = reason.words
    if reason.amount is not None:
        is_count = all(sign_term.startswith("is_") or sign_term == "rows" for sign_term in _list_terms(reason, kpi))
        words += f" ({format_change(reason.amount, 'count' if is_count else 'money')})"
    effect = "" if reason.effect is None else format_change(reason.effect, kpi.kind)
    known = read_records()
    rows = []
    for cause in reason.causes[:MOST_ROWS]:
        job = jobs.get(cause.job_id or 0, {})
        rows.append(
            {
                "job": job.get("job") or "",
                "id": cause.job_id or "",
                "type": job.get("type") or "",
                "status": job.get("status") or "",
                "records": join_words(
                    [
                        f"{known[e].one} {key.split(':')[0]} {_DONE[what]}"
                        for e, key, what in cause.records[:6]
                        if e in known
                    ]
                ),
                "amount": "" if kpi.kind == "rate" else format_change(cause.deltas[0], kpi.kind),
            }
        )
    more = max(0, len(reason.causes) - MOST_ROWS)
    return {"words": words, "effect": effect, "rows": rows, "more": more}


def _list_terms(reason: Reason, kpi: Kpi) -> set[str]:
    terms = {cause.term for cause in reason.causes if cause.term}
    return terms or {term for o in kpi["measure"][0].says.get("ratio", ()) for _, term in split_operand(o)}
