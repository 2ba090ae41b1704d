"""Note a number that ServiceTitan shows, and answer at once: it matches, what gives it, or what to read next."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import date

import pandas as pd

from stkpi import settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError, suggest_name
from stkpi.formatting import format_number
from stkpi.kpis.catalog import find_kpi
from stkpi.kpis.definition import read_definitions
from stkpi.reconcile.observations import ledger
from stkpi.reconcile.observations.ledger import Observation
from stkpi.reconcile.observations.outcomes import MATCHED, OPEN, check_kpi, covered_days
from stkpi.reconcile.observations.search import explain_numbers, search_definition
from stkpi.warehouse import Warehouse

# What people give.
FIELDS = ("kpi", "unit", "first_day", "last_day", "value", "tolerance", "source", "report", "read_by")


def observe_number(row: Mapping[str, str]) -> list[str]:
    """Add a number (the texts of FIELDS, as a person types them) to the ledger; return the answer, a sentence a line.

    Raises UserError, in the words of the command, for a KPI, unit or day that cannot be, with the nearest right one.
    """
    config = settings.load()
    today = config.compute_today()
    for name, field in (("KPI", "kpi"), ("BU", "unit"), ("FROM", "first_day"), ("TO", "last_day"), ("VALUE", "value")):
        if not row.get(field, "").strip():
            raise UserError(f"{name} is missing: KPI=, BU=, FROM=, TO= and VALUE= are needed.")
    kpi = find_kpi(row["kpi"])
    if parse_day(row["last_day"] or "", "TO") > today:
        raise UserError(f"TO={row['last_day']} is after today, {today}: ServiceTitan cannot have that number yet.")
    with warehouse.connect(config, read_only=True) as target:
        try:
            covered = covered_days(target)
        except UserError:
            one = ledger.append_observation({**row, "read_on": today.isoformat()})
            return [_confirm(one), "It is compared once the KPI tables are built."]
        unit = resolve_unit(target, row["unit"], covered, kpi.divisions, kpi.label)
        _check_days(row, covered["first_day"][unit])
        one = ledger.append_observation({**row, "unit": unit, "read_on": today.isoformat()})
        try:
            return _answer(target, one)
        except UserError as error:  # it is noted, whatever the tables count by
            return [_confirm(one), str(error)]


def undo_observation() -> str:
    """Take back the number that was noted last; return what it was, in one sentence."""
    one = ledger.remove_last()
    return f"Taken back: {one.id}, {one.title} is {one.shown}."


def _confirm(one: Observation) -> str:
    return f"Noted as {one.id}: {one.title} is {one.shown}."


def _answer(target: Warehouse, one: Observation) -> list[str]:
    definitions = read_definitions()
    kpi = one.entry
    known = [other for other in ledger.read_ledger() if other.kpi == kpi.name]
    checked = check_kpi(target, kpi.name, definitions)
    now = next(each for each in checked if each.observation.id == one.id)
    lines = [_confirm(one)]
    for other in ledger.find_others(one, known):
        lines.append(
            f"{other.id} says {other.shown} for the same unit and days: at most one of them is ServiceTitan's."
        )
    if now.outcome == OPEN:
        return [*lines, f"It cannot be compared yet: {now.why}."]
    if now.outcome == MATCHED:
        lines.append(f"It matches: we have {format_number(now.ours, kpi.kind)}.")
    else:
        [(_, way)] = explain_numbers(target, definitions[kpi.name], [one])
        lines.append(f"It does not match: {now.why}.")
        lines.append(f"{way}.")
    found = search_definition(target, kpi, checked, definitions)
    return [*lines, *filter(None, (found.finding.sentence, found.next_step))]


def resolve_unit(target: Warehouse, text: str, covered: pd.DataFrame, divisions: tuple[str, ...], label: str) -> str:
    """Return the rolled-up unit that a person means, in any letter case and punctuation.

    covered: as `covered_days` gives it
    divisions: whose units have the KPI called `label`
    Raises UserError for a unit that there is not, with the nearest right one.
    """
    units = {_plain(unit): unit for unit in covered.index}
    key = _plain(text)
    if key not in units:
        parts = target.query("SELECT unit_name, business_unit FROM st_ref_v2.dim_business_units")
        names = {_plain(str(name)): unit for name, unit in zip(parts["unit_name"], parts["business_unit"], strict=True)}
        if key in names:
            raise UserError(f"BU={text} is a part of {names[key]}: numbers are kept for the whole, BU={names[key]}.")
        unknown = f"There is no unit {text}" if text else "Name the unit, as BU=…"
        raise UserError(f"{unknown}; {suggest_name(text, covered.index)}")
    unit = units[key]
    if (division := covered.loc[unit, "division"]) not in divisions:
        right = [each for each in covered.index if covered.loc[each, "division"] in divisions]
        raise UserError(f"{unit} is a {division} unit, and has no {label}; {suggest_name(unit, right)}")
    return str(unit)


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def _check_days(row: Mapping[str, str], begin: date) -> None:
    if parse_day(row["first_day"], "FROM") < begin:
        raise UserError(f"FROM={row['first_day']} is before the first day that we have, {begin}.")
