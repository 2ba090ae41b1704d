"""The ledger of numbers that people read off ServiceTitan, and what our facts give for each of them, night by night.

expectations/observed.csv holds what people read, st_logs_v2.observations one row per number and run: its outcome, and
the numbers that the Reporting API gave. A number is about any days, so it is computed from the fact rows.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from fractions import Fraction
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import settings
from stkpi.errors import UserError
from stkpi.marts import build as marts
from stkpi.reconcile import render
from stkpi.reconcile.comparisons import COMPARISONS
from stkpi.reconcile.definitions.evaluate import Number
from stkpi.warehouse import Warehouse, ensure
from stkpi.warehouse.schema import Column, Table

FILE = settings.ROOT / "expectations" / "observed.csv"
SOURCES = ("api report", "export file", "screen", "said")
STATUSES = ("open", "matched", "explained", "superseded")
API = SOURCES[0]
MATCHED, UNMATCHED, OPEN = "matched", "unmatched", "open"


@dataclass(frozen=True)
class Observation:
    """A number that somebody read: the row of the ledger. Days are inclusive, a rate is a fraction.

    status: open (to be compared), matched (must match from now on), explained (known to be another thing, see the
        note), superseded (no longer true)
    """

    id: str
    kpi: str
    unit: str
    first_day: date
    last_day: date
    value: Decimal
    tolerance: Decimal
    source: str
    report: str
    read_by: str
    read_on: date
    status: str
    note: str = ""

    @property
    def number(self) -> Number:
        """The number as the definition finder takes it."""
        return Number(self.unit, self.first_day, self.last_day, self.value, self.tolerance)

    @property
    def kind(self) -> str:
        """What its value is: count, money or rate."""
        return COMPARISONS[self.kpi].kind

    def agrees(self, ours: Decimal | None) -> bool:
        """Whether our number is this one."""
        return ours is not None and abs(ours - self.value) <= self.tolerance


COLUMNS = tuple(field.name for field in fields(Observation))
MATCHED_BEFORE = (
    "SELECT DISTINCT id, kpi, unit, first_day, last_day, value FROM st_logs_v2.observations WHERE outcome = 'matched'"
)
FROM_API = f"""SELECT {", ".join(COLUMNS)}
FROM st_logs_v2.observations
WHERE source = @source
QUALIFY ROW_NUMBER() OVER (PARTITION BY id ORDER BY checked_at DESC) = 1"""
HISTORY = """SELECT checked_at, id, source, outcome
FROM st_logs_v2.observations
WHERE TRUE
QUALIFY DENSE_RANK() OVER (ORDER BY checked_at DESC) <= @runs"""
_TYPES = {
    **dict.fromkeys((*COLUMNS, "ours", "outcome", "why"), "STRING"),
    **dict.fromkeys(("first_day", "last_day", "read_on"), "DATE"),
    **dict.fromkeys(("value", "tolerance", "ours"), "NUMERIC"),
}
TABLE = Table(
    "st_logs_v2.observations",
    (Column("checked_at", "TIMESTAMP"), *(Column(name, kind) for name, kind in _TYPES.items())),
    partition="TIMESTAMP_TRUNC(checked_at, MONTH)",
    description="One row per observed number and run: what ServiceTitan showed, what our facts gave, the outcome",
)
KEEP = f"""INSERT INTO {TABLE.name} (checked_at, {", ".join(_TYPES)})
SELECT
  @at AS checked_at,
  {", ".join(f"CAST(JSON_VALUE(line, '$.{name}') AS {kind}) AS {name}" for name, kind in _TYPES.items())}
FROM UNNEST(JSON_QUERY_ARRAY(@lines)) AS line"""


@dataclass(frozen=True)
class Checked:
    """An observation beside what our facts give for it.

    outcome: matched, unmatched, open (there is nothing to compare it with yet), or explained and superseded as it says
    why: of an open one what is missing; of an unmatched one how far off we are
    turned: whether it matched before and does so no longer
    """

    observation: Observation
    ours: Decimal | None
    outcome: str
    why: str = ""
    turned: bool = False


# --- the file ---------------------------------------------------------------------------------------------------------


def read(path: Path | None = None) -> tuple[Observation, ...]:
    """The ledger's rows. Raises UserError, with the line, for one that does not hold together."""
    path = path or FILE
    if not path.exists():
        return ()
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = csv.DictReader(file)
        if tuple(rows.fieldnames or ()) != COLUMNS:
            raise UserError(f"{path.name}, line 1: its columns must be {','.join(COLUMNS)}.")
        found: dict[str, Observation] = {}
        for row in rows:
            try:
                one = parse(row)
                if one.id in found:
                    raise ValueError(f"the id {one.id} is there twice")
            except ValueError as error:
                raise UserError(f"{path.name}, line {rows.line_num}: {error}.") from None
            found[one.id] = one
    return tuple(found.values())


def parse(row: Mapping[str, Any]) -> Observation:
    """A row of texts as an observation. Raises ValueError that says what is wrong with it."""
    if None in row or None in row.values():
        raise ValueError(f"it must have {len(COLUMNS)} columns; a text with a comma wants quotes around it")
    text = {name: value.strip() for name, value in row.items()}
    for name in ("id", "kpi", "unit", "first_day", "last_day", "value", "source", "status"):
        if not text[name]:
            raise ValueError(f"{name} is empty")
    for name, known in (("kpi", tuple(COMPARISONS)), ("source", SOURCES), ("status", STATUSES)):
        if text[name] not in known:
            raise ValueError(f"{name} {text[name]} is none of {', '.join(known)}")
    days = {name: _day(name, text[name]) for name in ("first_day", "last_day", "read_on")}
    if days["first_day"] > days["last_day"]:
        raise ValueError(f"first_day {days['first_day']} is after last_day {days['last_day']}")
    kind = COMPARISONS[text["kpi"]].kind
    value, step = _number(text["value"], kind)
    tolerance = _number(text["tolerance"], "money")[0] if text["tolerance"] else step
    if tolerance < 0:
        raise ValueError(f"tolerance {tolerance} is below zero")
    return Observation(**text | days | {"value": value, "tolerance": tolerance})


def _day(name: str, text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{name} {text or 'is empty, which'} is not a day such as 2025-08-24") from None


def _number(text: str, kind: str) -> tuple[Decimal, Decimal]:
    """A number as people write it (96, $1,234.50, 39.74%), and half of its last digit: nothing for a count."""
    try:
        value = Decimal(re.sub(r"[$,%\s]", "", text))
        step = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
    except (InvalidOperation, TypeError, ValueError):
        raise ValueError(f"{text} is not a number") from None
    if text.endswith("%"):
        value, step = value / 100, step / 100
    if kind == "count" and (value < 0 or value != int(value)):
        raise ValueError(f"{text} is not a count: a whole number")
    if kind == "rate" and abs(value) > 10:  # noqa: PLR2004 a margin of -1000% is the furthest a unit has been
        raise ValueError(f"{text} is not a rate: write 39.74% or 0.3974")
    return value, Decimal(0) if kind == "count" else step


def append(row: Mapping[str, str], path: Path | None = None) -> Observation:
    """Add a row to the ledger; its id is the KPI's next. Raises UserError for one that does not hold together."""
    path = path or FILE
    known = read(path)
    taken = [int(n) for one in known if (n := one.id.removeprefix(f"{row['kpi']}-")).isdigit()]
    text = (
        dict.fromkeys(COLUMNS, "") | {"status": OPEN} | dict(row) | {"id": f"{row['kpi']}-{max(taken, default=0) + 1}"}
    )
    try:
        one = parse(text)
    except ValueError as error:
        raise UserError(f"Not added: {error}.") from None
    if same := next((other for other in known if _place(other) == _place(one)), None):
        raise UserError(f"Not added: {same.id} says the same already.")
    line = StringIO()
    csv.DictWriter(line, COLUMNS, lineterminator="\n").writerow(told(one))
    before = path.read_text(encoding="utf-8") if path.exists() else ",".join(COLUMNS) + "\n"
    beside = path.with_name(f".{path.name}.tmp")
    beside.write_text(before + "\n" * (not before.endswith("\n")) + line.getvalue(), encoding="utf-8")
    beside.replace(path)
    return one


def _place(one: Observation) -> tuple[Any, ...]:
    return one.kpi, one.unit, one.first_day, one.last_day, one.value, one.source, one.report


def told(one: Observation) -> dict[str, str]:
    """An observation as texts: numbers without an exponent."""
    return {name: f"{value:f}" if isinstance(value, Decimal) else str(value) for name, value in asdict(one).items()}


# --- what our facts give ----------------------------------------------------------------------------------------------


def ours(target: Warehouse, observations: Iterable[Observation]) -> dict[str, Decimal | None]:
    """What the facts give for each of them, by id, with one query; None is a ratio without a denominator."""
    keys = ("id", "kpi", "unit", "first_day", "last_day")
    numbers = json.dumps([{key: str(getattr(one, key)) for key in keys} for one in observations])
    sql = (marts.SQL / "reconcile" / "observed.sql").read_text(encoding="utf-8")
    found = target.query(sql, numbers=numbers)
    return {id: _exact(value) for id, value in zip(found["id"], found["value"], strict=True)}


def reach(target: Warehouse) -> pd.DataFrame:
    """The division, first_day and last_day of every unit (the index) in the KPI tables.

    Raises UserError where they are not built yet.
    """
    try:
        return target.query(
            "SELECT business_unit, division, MIN(event_date) AS first_day, MAX(event_date) AS last_day"
            " FROM st_mart_v2.kpi_daily_by_bu GROUP BY business_unit, division"
        ).set_index("business_unit")
    except target.NotFound:
        raise UserError("There are no KPI tables yet: run `make nightly` first.") from None


def check(target: Warehouse, observations: Sequence[Observation], fresh: Collection[str] = ()) -> list[Checked]:
    """Hold every observation against the facts. Raises UserError where the KPI tables are not built yet.

    fresh: the ids of those that the Reporting API gave just now
    """
    covered = reach(target)
    given, before = ours(target, observations), _matched_before(target)
    return [_checked(one, given[one.id], covered, before, one.id in fresh) for one in observations]


def _checked(
    one: Observation, given: Decimal | None, covered: pd.DataFrame, before: Mapping[str, set[Any]], fresh: bool
) -> Checked:
    if one.status in ("explained", "superseded"):
        return Checked(one, given, one.status, one.note)
    if missing := _missing(one, covered):
        return Checked(one, None, OPEN, missing)
    if one.agrees(given):
        return Checked(one, given, MATCHED)
    why = "we have none: nothing happened"
    if given is not None:
        difference = render.change(Fraction(given - one.value), one.kind)
        why = f"we have {render.figure(Fraction(given), one.kind)}, {difference}"
    if one.source != API:
        return Checked(one, given, UNMATCHED, why, one.status == MATCHED or _said(one) in before.get(one.id, ()))
    # ServiceTitan's own number of a past week moves, too: an old reading says nothing until it is read anew.
    if fresh or one.id not in before:
        return Checked(one, given, UNMATCHED, why, one.id in before)
    return Checked(one, given, OPEN, f"{why} since it was read: to be read again")


def _missing(one: Observation, covered: pd.DataFrame) -> str:
    """What the warehouse lacks for the number; nothing where it can be compared."""
    if one.unit not in covered.index:
        return f"this company has no unit {one.unit}"
    unit = covered.loc[one.unit]
    division = COMPARISONS[one.kpi].division
    if unit["division"] != division:
        return f"{one.unit} is no {division} unit"
    if one.first_day < unit["first_day"] or one.last_day > unit["last_day"]:
        return f"the warehouse covers {unit['first_day']} to {unit['last_day']}"
    return ""


def _exact(value: Any) -> Decimal | None:
    return None if pd.isna(value) else Decimal(str(value)).quantize(Decimal("1e-9")).normalize() + 0


# --- history ----------------------------------------------------------------------------------------------------------


def _said(one: Any) -> tuple[Any, ...]:
    """What a number says: a row of the ledger whose value or days are changed is another number."""
    return one.kpi, one.unit, one.first_day, one.last_day, _exact(one.value)


def _matched_before(target: Warehouse) -> dict[str, set[tuple[Any, ...]]]:
    """What was said, by id, when it matched."""
    ensure(target, [TABLE])
    rows = target.query(MATCHED_BEFORE)
    found: dict[str, set[tuple[Any, ...]]] = {}
    for row in rows.itertuples():
        found.setdefault(row.id, set()).add(_said(row))
    return found


def from_api(target: Warehouse) -> tuple[Observation, ...]:
    """The numbers that the Reporting API gave, the newest of each id."""
    ensure(target, [TABLE])
    rows = target.query(FROM_API, source=API)
    return tuple(
        Observation(**row | {"value": _exact(row["value"]), "tolerance": _exact(row["tolerance"])})
        for row in rows.sort_values("id").to_dict("records")
    )


def keep(target: Warehouse, checked: Sequence[Checked], at: datetime | None = None) -> None:
    """Write one row per observation into the history, all or none."""
    ensure(target, [TABLE])
    at = at or datetime.now(UTC)
    rows = [
        told(one.observation) | {"ours": None if one.ours is None else f"{one.ours:f}", "outcome": one.outcome}
        | {"why": one.why}
        for one in checked
    ]  # fmt: skip
    target.transaction(KEEP, at=at, lines=json.dumps(rows))


def history(target: Warehouse, runs: int = 14) -> pd.DataFrame:
    """The outcomes of the last runs: a row per number, of the Reporting API's only those that did not always match, a
    column per run, the newest first.
    """
    ensure(target, [TABLE])
    rows = target.query(HISTORY, runs=runs)
    rows = rows[(rows["source"] != API) | rows["id"].isin(rows.loc[rows["outcome"] != MATCHED, "id"])]
    table = rows.pivot(index="id", columns="checked_at", values="outcome").sort_index(axis=1, ascending=False)
    return table.set_axis([f"{at:%b %-d, %H:%M:%S}" for at in table.columns], axis=1).reset_index()
