"""The ledger of numbers that people read off ServiceTitan: observed.csv in the company folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, timedelta
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

from stkpi import company, settings
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.formatting import format_number, format_span
from stkpi.kpis.catalog import Kpi, find_kpi
from stkpi.reconcile.definitions.evaluate import Number

SOURCES = ("api report", "export file", "screen", "said")
API = SOURCES[0]
# What a person may say of a row: nothing (open), that it must match (matched), or that it holds no longer.
STATUSES = ("open", "matched", "explained", "superseded")
SUPERSEDED = "superseded"


@dataclass(frozen=True)
class Observation:
    """A number that somebody read: a row of the ledger. Days are inclusive, a rate is a fraction.

    basis: of a number of the Reporting API, the date that its report was filtered by, such as Job Creation Date
    measure: of one that was counted from a report's rows, the option of the KPI's dimension measure by which
    dated_by: the option of the KPI's dimension date that this is, where it is not the one by which the report shows the
        KPI: the number is about that date, and not the KPI's own
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
    basis: str = ""
    measure: str = ""
    dated_by: str = ""

    @property
    def number(self) -> Number:
        """The number as the search takes it."""
        return Number(self.unit, self.first_day, self.last_day, self.value, self.tolerance, dated_by=self.dated_by)

    @property
    def entry(self) -> Kpi:
        """The KPI's entry of the catalog."""
        return find_kpi(self.kpi)

    @property
    def place(self) -> tuple[str, str, date, date, str]:
        """What the number is about: of two numbers about the same at most one is right."""
        return self.kpi, self.unit, self.first_day, self.last_day, self.dated_by

    @property
    def title(self) -> str:
        """What the number is about, in words: Leads of North Sales, Aug 18 to Aug 24, 2025."""
        basis = f", by {self.basis}" if self.dated_by else ""
        return f"{self.entry.label} of {self.unit}, {format_span(self.first_day, self.last_day)}{basis}"

    @property
    def shown(self) -> str:
        """The number as ServiceTitan shows it."""
        return format_number(self.value, self.entry.kind)

    def agrees(self, ours: Decimal | None) -> bool:
        """Whether our number is this one."""
        return ours is not None and abs(ours - self.value) <= self.tolerance


COLUMNS = tuple(field.name for field in fields(Observation) if field.name not in ("basis", "measure", "dated_by"))


def find_file() -> Path:
    """Return the place of the ledger, in the company folder."""
    return company.find_folder(settings.load()) / company.OBSERVED


def read_ledger(path: Path | None = None) -> tuple[Observation, ...]:
    """Return the ledger's rows. Raises UserError, with the line, for one that does not hold together."""
    path = path or find_file()
    found: dict[str, Observation] = {}
    for line, row in company.read_rows(path, COLUMNS):
        try:
            one = parse_observation(row)
        except UserError as error:
            raise UserError(f"{company.show_path(path)}, line {line}: {error}") from None
        if one.id in found:
            raise UserError(f"{company.show_path(path)}, line {line}: the id {one.id} appears twice.")
        found[one.id] = one
    return tuple(found.values())


def parse_observation(row: Mapping[str, str]) -> Observation:
    """Return a row of texts, as people write them, as an observation.

    Raises UserError for a KPI, day or number that cannot be, in the words of the command `observe`.
    """
    text = {name: str(row.get(name) or "").strip() for name in COLUMNS}
    names = {"kpi": "KPI", "unit": "BU", "first_day": "FROM", "last_day": "TO", "value": "VALUE"}
    for column, name in names.items():
        if not text[column]:
            raise UserError(f"{name} is missing: KPI=, BU=, FROM=, TO= and VALUE= are needed.")
    kpi = find_kpi(text["kpi"])
    for column, known in (("source", SOURCES), ("status", STATUSES)):
        if text[column] not in known:
            raise UserError(f"{column} {text[column] or 'is empty: it'} is none of {', '.join(known)}.")
    first, last = parse_day(text["first_day"], "FROM"), parse_day(text["last_day"], "TO")
    if first > last:
        raise UserError(f"FROM {first} is after TO {last}: swap the dates.")
    value, step = parse_number(text["value"], kpi.kind)
    tolerance = parse_number(text["tolerance"], "money")[0] if text["tolerance"] else step
    if tolerance < 0:
        raise UserError(f"TOLERANCE={text['tolerance']} is below zero.")
    days = {"first_day": first, "last_day": last, "read_on": parse_day(text["read_on"], "read_on")}
    return Observation(**{**text, **days, "kpi": kpi.name, "value": value, "tolerance": tolerance})  # type: ignore[arg-type]


def parse_number(text: str, kind: str) -> tuple[Decimal, Decimal]:
    """Return a number as people write it (96, $1,234.50, (12.00), 39.74%), and half of its last digit: nothing for a
    count. Raises UserError for what is no number of the kind.
    """
    plain = re.sub(r"[$,%\s]", "", text)
    if plain.startswith("(") and plain.endswith(")"):
        plain = f"-{plain[1:-1]}"
    try:
        value = Decimal(plain)
        step = Decimal(1).scaleb(int(value.as_tuple().exponent)) / 2
    except (InvalidOperation, TypeError, ValueError):
        raise UserError(f"VALUE={text} is not a number: write 96, $1,234.50 or 39.74%.") from None
    if text.strip().endswith("%"):
        value, step = value / 100, step / 100
    if kind == "count" and (value < 0 or value != int(value)):
        raise UserError(f"VALUE={text} is not a count: write a whole number such as 96.")
    if kind == "rate" and abs(value) > 10:  # noqa: PLR2004 a margin of -1000% is the furthest a unit has been
        raise UserError(f"VALUE={text} is not a rate: write 39.74% or 0.3974.")
    return value, Decimal(0) if kind == "count" else step


def append_observation(row: Mapping[str, str], path: Path | None = None) -> Observation:
    """Add a row to the ledger; its id is the KPI's next. Raises UserError for one that does not hold together, and for
    a number that is noted already.
    """
    path = path or find_file()
    known = read_ledger(path)
    kpi = find_kpi(row.get("kpi", "")).name
    taken = [int(n) for one in known if (n := one.id.removeprefix(f"{kpi}-")).isdigit()]
    one = parse_observation({"status": STATUSES[0], **row, "id": f"{kpi}-{max(taken, default=0) + 1}"})
    if same := next((o for o in known if (o.place, o.value, o.source) == (one.place, one.value, one.source)), None):
        raise UserError(f"Not noted: {same.id} says the same already, {same.title} is {same.shown}.")
    company.append_row(path, COLUMNS, to_row(one))
    return one


def remove_last(path: Path | None = None) -> Observation:
    """Take back the number that was noted last. Raises UserError for an empty ledger."""
    path = path or find_file()
    known = read_ledger(path)
    if not known:
        raise UserError(f"There is nothing to undo: {company.show_path(path)} has no numbers.")
    if known[-1].read_on < date.today() - timedelta(days=1):  # noqa: DTZ011 whatever the zone, it was not just noted
        raise UserError(
            f"There is nothing to undo: {known[-1].id}, the last number, was noted on {known[-1].read_on}. To drop it, "
            f"delete its line in {company.show_path(path)}."
        )
    company.write_rows(path, COLUMNS, [to_row(one) for one in known[:-1]])
    return known[-1]


def to_row(one: Observation) -> dict[str, str]:
    """Return an observation as texts, as a row of the ledger: numbers without an exponent."""
    return {name: as_text(getattr(one, name)) for name in COLUMNS}


def find_others(one: Observation, among: Sequence[Observation]) -> list[Observation]:
    """Return the other numbers that are about the same KPI, unit and days."""
    return [other for other in among if other.place == one.place and other.id != one.id]


def as_text(value: Any) -> str:
    """Return a value as the history keeps it."""
    return f"{value:f}" if isinstance(value, Decimal) else str(value)
