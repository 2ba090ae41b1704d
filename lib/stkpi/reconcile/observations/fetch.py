"""Numbers for the ledger straight from ServiceTitan: the company's saved reports, run at night for the last full week,
then for the days and dates that tell the surviving definitions apart best, as often as there is time for.

One run gives the numbers of every unit, for all KPIs that the report shows. A report that has a "Filter by" can be run
by another date than the KPI's: its number is then about that date (`Observation.dated_by`).
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pandas as pd

from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.formatting import format_span
from stkpi.kpis.catalog import BOTH, Kpi
from stkpi.kpis.definition import Definition, read_definitions
from stkpi.reconcile import bridge
from stkpi.reconcile.compare import Result, compare
from stkpi.reconcile.comparison import UNIT_COLUMN, find_window, infer_comparison, is_totals
from stkpi.reconcile.definitions.evaluate import Period
from stkpi.reconcile.definitions.find import is_summer, list_questions, list_units
from stkpi.reconcile.exports import Export
from stkpi.reconcile.observations.ledger import API, Observation, read_ledger
from stkpi.reconcile.observations.outcomes import (
    OPEN,
    UNMATCHED,
    Checked,
    check_observations,
    covered_days,
    make_id,
    place_observation,
    read_api_numbers,
)
from stkpi.reconcile.observations.search import Searches
from stkpi.reconcile.pull import LONGEST, list_unit_ids, pull_report, read_header, split_days
from stkpi.reconcile.reasons import IN_EXPORT, ONLY_WAREHOUSE
from stkpi.reconcile.render import list_hints
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.reports import Description, Reports
from stkpi.warehouse import Warehouse, ensure_tables
from stkpi.warehouse.schema import Column, Table

PATIENCE = 180  # seconds for a report that does not answer: its night is a short one
ROUNDS = 8  # runs of one report a night
MONTHS = 12  # that a question of a night may be about
UNITS_ASKED = 6  # units that it may be about: one run gives all of them
TABLE = Table(
    "st_logs_v2.report_columns",
    (
        Column("report", "STRING"),
        Column("column_names", "STRING"),
        Column("seen_at", "TIMESTAMP"),
        Column("modified_on", "STRING"),
    ),
    description="The columns of a saved report, one a line, and when it was changed, each time that they had changed",
)
SEEN = (
    "SELECT column_names, modified_on FROM st_logs_v2.report_columns WHERE report = @report"
    " ORDER BY seen_at DESC LIMIT 1"
)
REMEMBER = (
    "INSERT INTO st_logs_v2.report_columns (report, column_names, seen_at, modified_on)"
    " VALUES (@report, @names, @at, @modified)"
)
# Half of the last digit that a report shows, by kind.
TOLERANCES = {"count": Decimal(0), "money": Decimal("0.01"), "rate": Decimal("0.00005")}
_DIGITS = {"count": Decimal(1), "money": Decimal("0.01"), "rate": Decimal("0.0001")}

Days = tuple[date, date]


@dataclass(frozen=True)
class Source:
    """A saved report, for those of its KPIs whose number is about the same days.

    filter: the label of its "Filter by", empty where it has none; bases: the dates that it offers, the company's first
    """

    saved: company.SavedReport
    described: Description
    header: Export
    kpis: tuple[Kpi, ...]
    filter: str = ""
    bases: tuple[str, ...] = ()

    @property
    def has_units(self) -> bool:
        """Whether its rows say of which unit they are, so that one run gives the numbers of all units."""
        return UNIT_COLUMN in self.header.headers

    @property
    def own_basis(self) -> str:
        """The date by which it shows the KPIs, as company.yml chose it."""
        return next(iter(self.bases), "")

    def list_days(self, definitions: Mapping[str, Definition], days: Days) -> list[Days]:
        """Return the days of each run that a number of these days takes."""
        window = find_window(infer_comparison(self.header, definitions, self.kpis[0].name), *days)
        return split_days(self.described, self.header, window.first_day, window.last_day)


@dataclass(frozen=True)
class Ask:
    """What to run a report for: days, a date ("Filter by") and, where its rows name no unit, one unit."""

    days: Days
    basis: str
    unit: str = ""


@dataclass
class Night:
    """The reading of one night: the numbers so far, and what is to be known of it, in sentences.

    hints: where to look first why the numbers of a report differ, by its name
    """

    config: settings.Settings
    own: company.Company
    definitions: Mapping[str, Definition]
    searches: Searches
    numbers: dict[str, Observation]
    notes: list[str]
    hints: dict[str, str] = field(default_factory=dict)


def read_reports(config: settings.Settings, searches: Searches) -> tuple[list[Observation], list[str]]:
    """Run the saved reports that company.yml names, for ST_REPORT_MINUTES at most; return the numbers that they gave,
    and what is to be known, in sentences. A report that cannot be run, or not be understood, is a yellow one of them.
    """
    own = company.read_company(config)
    if not own.reports:
        return [], []
    night = Night(config, own, read_definitions(config), searches, {}, [])
    reports = Reports(Client(config, patience=PATIENCE))
    sources = list(_open_sources(reports, night))
    done: dict[int, set[Ask]] = {place: set() for place in range(len(sources))}
    ends = time.monotonic() + 60 * config.st_report_minutes
    for _ in range(ROUNDS):
        asks = list(_choose_asks(sources, done, night))
        if not asks:
            break
        exports = []
        for place, ask in asks:  # the warehouse is closed meanwhile: other steps want it
            done[place].add(ask)
            runs = len(sources[place].list_days(night.definitions, ask.days))
            if time.monotonic() + (runs - 1) * config.st_report_seconds > ends:
                night.notes.append(
                    f"{sources[place].described.name}: there was no time left for {format_span(*ask.days)}."
                )
                continue
            if export := _pull(reports, sources[place], ask, night):
                exports.append((sources[place], ask, export))
        if exports:
            with warehouse.connect(config) as target:
                for source, ask, export in exports:
                    _note_numbers(target, source, ask, export, night)
    return list(night.numbers.values()), [*night.notes, *(f"{name}: {hint}" for name, hint in night.hints.items())]


def _open_sources(reports: Reports, night: Night) -> Iterator[Source]:
    """Yield the saved reports that can be run, with their KPIs; say of the others why not, and what has changed."""
    groups: dict[tuple[str, ...], list[Definition]] = {}
    for kpi, saved in night.own.reports.items():
        definition = night.definitions[kpi]
        ahead = definition["window"].says if definition.kpi.looks_ahead else ""
        groups.setdefault((saved.reference, str(saved.parameters), str(ahead)), []).append(definition)
    changed: dict[str, Description] = {}
    for definitions in groups.values():
        saved = night.own.reports[definitions[0].kpi.name]
        try:
            described = reports.describe(saved.reference)
            changed[saved.reference] = described
            header = read_header(described)
            kpis = tuple(one.kpi for one in definitions if _can_compare(header, one, night))
            if kpis:
                yield _open_source(reports, Source(saved, described, header, kpis), definitions[0])
        except UserError as error:
            night.notes.append(_warn(saved, error))
    with warehouse.connect(night.config) as target:
        night.notes += filter(None, (note_change(target, described) for described in changed.values()))


def _can_compare(header: Export, definition: Definition, night: Night) -> bool:
    try:
        infer_comparison(header, night.definitions, definition.kpi.name)
    except UserError as error:
        night.notes.append(_warn(night.own.reports[definition.kpi.name], error))
        return False
    return True


def _open_source(reports: Reports, source: Source, definition: Definition) -> Source:
    """Return a source with the dates that it can be run by."""
    labels = [option.basis for option in definition.kpi["date"] if option.basis]
    label, offered = reports.find_filter(source.described, labels)
    if not label:
        return source
    given = {name.lower(): str(value) for name, value in source.saved.parameters.items()}
    basis = given.get(label.lower()) or definition["date"].basis
    # By other dates than the company's it is only run where we know what its own is.
    bases = dict.fromkeys([basis, *offered] if basis in offered else [basis])
    return replace(source, filter=label, bases=tuple(bases))


def _warn(saved: company.SavedReport, error: UserError) -> str:
    return f"yellow: {saved.name or saved.reference} was not read. {error} It is named under `reports` in company.yml."


def _pull(reports: Reports, source: Source, ask: Ask, night: Night) -> Export | None:
    chosen = {
        label: value for label, value in source.saved.parameters.items() if label.lower() != source.filter.lower()
    }
    chosen |= {source.filter: ask.basis} if source.filter else {}
    try:
        with warehouse.connect(night.config, read_only=True) as target:
            units = list_unit_ids(target, ask.unit) if ask.unit else []
        return pull_report(
            reports,
            source.saved.reference,
            first_day=ask.days[0],
            last_day=ask.days[1],
            kpi=source.kpis[0].name,
            unit_ids=units,
            chosen=chosen,
        )
    except UserError as error:
        night.notes.append(_warn(source.saved, error))
        return None


# --- what to read -----------------------------------------------------------------------------------------------------


def _choose_asks(sources: Sequence[Source], done: Mapping[int, set[Ask]], night: Night) -> Iterator[tuple[int, Ask]]:
    """Yield the next run of each source, by its place: what has moved since it was read, the last full week, days of
    the other season, the number that parts the surviving definitions best, then what did not match. None where all of
    that was read.
    """
    with warehouse.connect(night.config, read_only=True) as target:
        covered = covered_days(target)
        known = {one.id: one for one in (*read_ledger(), *read_api_numbers(target, night.definitions))} | night.numbers
        checked = check_observations(target, list(known.values()), night.definitions, night.numbers.keys())
        for place, source in enumerate(sources):
            names = [kpi.name for kpi in source.kpis]
            of_kpis = [one for one in checked if one.observation.kpi in names]
            wanted = _list_wanted(target, source, of_kpis, covered, night)
            if ask := next((ask for ask in wanted if ask not in done[place]), None):
                yield place, ask


def _list_wanted(
    target: Warehouse, source: Source, checked: Sequence[Checked], covered: pd.DataFrame, night: Night
) -> Iterator[Ask]:
    units = [""] if source.has_units else list_units(target, source.kpis[0])
    own = [one for one in checked if one.observation.source == API]
    yield from _list_again(source, [one for one in own if one.outcome == OPEN and one.ours is not None])
    basis, begin = source.own_basis, covered["first_day"].min()
    read = {
        Ask(
            (one.observation.first_day, one.observation.last_day),
            one.observation.basis,
            "" if source.has_units else one.observation.unit,
        )
        for one in own
    }
    usual = _list_usual_days(source.kpis[0], covered["last_day"].max(), [one.observation for one in own])
    for unit in units[:2]:
        yield from (ask for days in usual if days[0] >= begin and (ask := Ask(days, basis, unit)) not in read)
    for kpi in source.kpis:
        if any(one.observation.kpi == kpi.name for one in own):
            could_run = _list_questions(target, source, kpi, covered)
            found = night.searches.search(target, kpi, checked, night.definitions, could_run=could_run)
            if found.finding.verdict != "accepted" and (question := found.finding.question):
                dates = {option.id: option.basis for option in kpi["date"]}
                chosen = dates[question.dated_by] if question.dated_by else basis
                yield Ask((question.first, question.last), chosen, "" if source.has_units else question.unit)
    # Either side may have been late on the night that read it.
    yield from _list_again(source, [one for one in own if one.outcome == UNMATCHED])


def _list_again(source: Source, checked: Iterable[Checked]) -> Iterator[Ask]:
    for one in checked:
        seen = one.observation
        if seen.basis in ("", *source.bases):
            yield Ask((seen.first_day, seen.last_day), seen.basis, "" if source.has_units else seen.unit)


def _list_usual_days(kpi: Kpi, as_of: date, read: Iterable[Observation]) -> list[Days]:
    """Return the last full week and a month of the other season; of a number about days that follow, the week up to now
    unless one was read within a week.
    """
    if kpi.looks_ahead:
        newest = max((one.last_day for one in read), default=date.min)
        monday = as_of - timedelta(days=as_of.weekday())
        return [] if newest > as_of - timedelta(days=7) else [(monday, as_of)]
    sunday = as_of - timedelta(days=(as_of.weekday() + 1) % 7)
    week = Period("", sunday - timedelta(days=6), sunday)
    months = [one for one in _list_months(as_of) if is_summer(Period("", *one)) != is_summer(week)]
    return [(week.first, week.last), *months[:1]]


def _list_months(as_of: date) -> list[Days]:
    """Return the newest full months, the newest first."""
    first = (as_of + timedelta(days=1)).replace(day=1)
    starts = [(pd.Timestamp(first) - pd.DateOffset(months=n)).date() for n in range(1, MONTHS + 1)]
    return [(day, (pd.Timestamp(day) + pd.offsets.MonthEnd(0)).date()) for day in starts]


def _list_questions(target: Warehouse, source: Source, kpi: Kpi, covered: pd.DataFrame) -> list[Period]:
    """Return the periods that a run of the report can be about: one run each, by every date that it offers."""
    units, as_of = list_units(target, kpi)[:UNITS_ASKED], covered["last_day"].max()
    if kpi.looks_ahead:
        return list_questions(units, as_of, ahead=True)
    begin = covered["first_day"].min()
    found = [Period(unit, *days) for unit in units for days in _list_months(as_of) if days[0] >= begin]
    longest = (
        timedelta.max if is_totals(source.header) else timedelta(days=LONGEST)
    )  # totals of a year take one run, too
    asked = (one for one in list_questions(units, as_of) if one.first >= begin and one.last - one.first < longest)
    found = list(dict.fromkeys([*found, *asked]))
    dates = {option.basis: option.id for option in kpi["date"] if option.basis}
    others = [dates[basis] for basis in source.bases[1:] if basis in dates]
    largest = [one for one in found if one.unit == units[0]]
    return [*found, *(replace(one, dated_by=option) for one in largest for option in others)]


# --- what a report says -----------------------------------------------------------------------------------------------


def _note_numbers(target: Warehouse, source: Source, ask: Ask, export: Export, night: Night) -> None:
    try:
        found: list[Observation] = []
        for kpi in source.kpis:
            result = compare(
                export, target, kpi=kpi.name, business_unit=ask.unit, first_day=ask.days[0], last_day=ask.days[1]
            )
            numbers = read_numbers(target, export, ask, source.saved.reference, result)
            found += filter(None, (place_observation(one, night.definitions[kpi.name], night.own) for one in numbers))
            if ask.basis == source.own_basis and (hints := list_hints(result)):
                night.hints.setdefault(source.described.name, hints[0])
    except UserError as error:
        night.notes.append(_warn(source.saved, error))
        return
    night.numbers.update({one.id: one for one in found})
    count = "1 number" if len(found) == 1 else f"{len(found)} numbers"
    night.notes.append(f"{count} of {export.name} read, {format_span(*ask.days)}.")


def read_numbers(target: Warehouse, export: Export, ask: Ask, reference: str, result: Result) -> Iterator[Observation]:
    """Yield a KPI's numbers in a pulled report, one per rolled-up unit: the number that the comparison found in it."""
    (first_day, last_day), comparison, kpi = ask.days, result.comparison, result.comparison.kpi
    measure = "" if comparison.is_totals else comparison.definition["measure"].id
    counted = ", ".join(export.headers[each] for each in kpi.report.totals) or comparison.definition["measure"].why
    for unit, rows in _split_by_unit(target, export, ask, result):
        denominator = comparison.parts[1] if len(comparison.parts) > 1 else ()
        if denominator and not sum(sign * sum(rows[f"{name}{IN_EXPORT}"], Decimal(0)) for sign, name in denominator):
            continue  # a ratio without a denominator is no number
        value = bridge.compute_number(rows, comparison, IN_EXPORT)
        yield Observation(
            id=make_id(reference, kpi.name, measure, unit, first_day, last_day, ask.basis),
            kpi=kpi.name,
            unit=unit,
            first_day=first_day,
            last_day=last_day,
            value=(Decimal(value.numerator) / value.denominator).quantize(_DIGITS[kpi.kind]),
            tolerance=TOLERANCES[kpi.kind],
            source=API,
            report=f"{export.name}: {counted}",
            read_by="nightly",
            read_on=datetime.now(UTC).date(),
            status=OPEN,
            basis=ask.basis,
            measure=measure,
        )


def _split_by_unit(target: Warehouse, export: Export, ask: Ask, result: Result) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield the report's compared rows by the rolled-up unit that has the KPI; of one without units all of them."""
    rows = result.rows[result.rows["side"] != ONLY_WAREHOUSE]
    if ask.unit:
        yield ask.unit, rows
        return
    units = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    rollup = dict(zip(units["unit_name"], units["business_unit"], strict=True))
    division = dict(zip(units["business_unit"], units["division"], strict=True))
    named = dict(zip(export.cells["row"], export.text(UNIT_COLUMN), strict=True)) if len(rows) else {}
    for unit, group in rows.groupby(rows["row"].map(lambda row: rollup.get(named[row], named[row]))):
        if division.get(str(unit), BOTH) in result.comparison.kpi.divisions:
            yield str(unit), group


# --- a report that was changed ----------------------------------------------------------------------------------------


def note_change(target: Warehouse, described: Description) -> str | None:
    """Say in one sentence what is new and what is gone among a report's columns since it was read, or that it was
    changed otherwise; None if nothing was. What it says of itself is remembered.
    """
    ensure_tables(target, [TABLE])
    now, reference = sorted(described.columns), described.reference
    seen = target.query(SEEN, report=reference)
    names = seen["column_names"][0].split("\n") if len(seen) else None
    modified = seen["modified_on"].fillna("")[0] if len(seen) else ""
    if names == now and modified == described.modified_on:
        return None
    target.run_transaction(
        REMEMBER, report=reference, names="\n".join(now), at=datetime.now(UTC), modified=described.modified_on
    )
    if names is None:
        return None
    changed = f"yellow: {described.name} ({reference}) was changed in ServiceTitan"
    if names != now:
        new, gone = _list_names(set(now) - set(names)), _list_names(set(names) - set(now))
        return f"{changed}; new columns: {new}; gone: {gone}."
    if not modified:  # an earlier version did not remember when
        return None
    return f"{changed} on {described.modified_on[:10]}; its columns are the same: look at its filters."


def _list_names(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "none"
