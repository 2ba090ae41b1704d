"""The night's look at the ledger: check all numbers, read new ones, search for definitions, explain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

import pandas as pd

from stkpi import settings, warehouse
from stkpi.dates import parse_day
from stkpi.errors import UserError
from stkpi.formatting import format_number, mask_name
from stkpi.kpis.catalog import find_kpi, read_catalog
from stkpi.kpis.definition import Definition, read_definitions
from stkpi.marts.increment import check_built
from stkpi.reconcile.definitions.evaluate import Number, Period
from stkpi.reconcile.definitions.find import list_units
from stkpi.reconcile.definitions.ways import Ways, list_ways
from stkpi.reconcile.observations import fetch, ledger
from stkpi.reconcile.observations.ledger import API, parse_number
from stkpi.reconcile.observations.outcomes import (
    MATCHED,
    OUTCOMES,
    UNMATCHED,
    Checked,
    check_kpi,
    check_observations,
    count_outcomes,
    covered_days,
    describe_match,
    keep_outcomes,
    read_api_numbers,
    read_history,
)
from stkpi.reconcile.observations.search import Search, Searches, search_definition, select_evidence


@dataclass(frozen=True)
class Report:
    """All observations beside our numbers; `notes` are what was read and what is to be known, in sentences.

    searches: those that were made for it
    """

    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    history: pd.DataFrame
    searches: Searches

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers are matched, unmatched and open, as the pages count them."""
        return count_outcomes(self.checked)

    @property
    def error(self) -> str | None:
        """Which numbers matched before and do so no longer, in one sentence; None if none."""
        regressed = [one for one in self.checked if one.regressed]
        if not regressed:
            return None
        first = regressed[0]
        more = f" (and {len(regressed) - 1} more)" if len(regressed) > 1 else ""
        return (
            f"An observed number no longer matches: {first.observation.id}, {first.observation.title} is "
            f"{first.observation.shown}, {first.why}{more}. Fix the cause, or mark the number as superseded in "
            "observed.csv of the company folder."
        )

    @property
    def headline(self) -> str:
        """The ledger in one sentence."""
        return f"{describe_match(self.counts)}."

    def table(self, *, api: bool) -> pd.DataFrame:
        """Return one row per number, of people or of the Reporting API, what does not match first."""
        rows = [one for one in self.checked if (one.observation.source == API) == api]
        return pd.DataFrame(
            [
                {
                    "outcome": one.outcome,
                    "seen": one.observation.shown,
                    "ours": format_number(one.ours, one.observation.entry.kind),
                    "number": one.observation.title,
                    "why": one.why or one.observation.note,
                    "source": f"{one.observation.source}, {one.observation.report}",
                    "read": f"{one.observation.read_on} by {one.observation.read_by}",
                }
                for one in sorted(rows, key=lambda one: OUTCOMES.index(one.outcome))
            ],
            columns=["outcome", "seen", "ours", "number", "why", "source", "read"],
        )

    def lines(self) -> list[str]:
        """Return what the terminal shows: every number that does not match, and the notes."""
        unmatched = [
            f"{one.outcome}: {one.observation.title} is {one.observation.shown}, {one.why}"
            for one in self.checked
            if one.outcome == UNMATCHED
        ]
        return [self.headline, *unmatched, *self.notes]


def check_ledger(*, read_reports: bool = False) -> Report:
    """Check every number of the ledger and of the Reporting API against the facts, and write the outcomes down.

    read_reports: whether the saved reports of company.yml are run for new numbers, for ST_REPORT_MINUTES at most
    """
    config = settings.load()
    definitions, own, searches = read_definitions(config), ledger.read_ledger(), Searches()
    with warehouse.connect(config, read_only=True) as target:
        covered_days(target)  # whoever has no tables yet is told so before a report is run
    fresh, notes = fetch.read_reports(config, searches) if read_reports and config.st_report_minutes else ([], [])
    with warehouse.connect(config) as target:
        newest = {one.id: one for one in (*own, *read_api_numbers(target, definitions), *fresh)}
        checked = check_observations(target, list(newest.values()), definitions, {one.id for one in fresh})
        keep_outcomes(target, checked, definitions)
        dated = count_outcomes(checked, dated=True)
        if known := dated[MATCHED] + dated[UNMATCHED]:
            notes = [*notes, f"By another date than yours, {dated[MATCHED]} of {known} numbers match."]
        return Report(tuple(checked), tuple(notes), read_history(target), searches)


def search_kpi(kpi: str, *, careless: bool = False) -> Search:
    """Search for the definition of a KPI with the ledger as it is now. Nothing is written."""
    entry, definitions = find_kpi(kpi), read_definitions()
    with warehouse.connect(read_only=True) as target:
        checked = check_kpi(target, entry.name, definitions)
        return search_definition(target, entry, checked, definitions, careless=careless)


def search_all(report: Report) -> list[Search]:
    """Search for the definition of every KPI of which the ledger has numbers."""
    definitions = read_definitions()
    with warehouse.connect(read_only=True) as target:
        return [
            report.searches.search(target, kpi, report.checked, definitions)
            for kpi in read_catalog().values()
            if select_evidence(report.checked, kpi.name)
        ]


def verdicts_table(found: Sequence[Search]) -> pd.DataFrame:
    """Return one row per KPI: its verdict, how many numbers and definitions there are, and what to do next."""
    return pd.DataFrame(
        {
            "KPI": [one.kpi.label for one in found],
            "numbers": [len(one.finding.numbers) for one in found],
            "verdict": [one.finding.verdict for one in found],
            "definitions left": [one.finding.left for one in found],
            "the simplest of them": [one.finding.table()["definition"].get(0, one.finding.sentence) for one in found],
            "next": [one.next_step for one in found],
        }
    )


def explained_table(found: Sequence[Search]) -> pd.DataFrame:
    """Return one row per number that is not ours: how it comes about."""
    lines = [(one.title, one.shown, way) for search in found for one, way in search.explained]
    return pd.DataFrame(lines, columns=["number", "seen", "how it comes about"])


def definitions_table(definitions: Mapping[str, Definition] | None = None) -> pd.DataFrame:
    """Return one row per KPI: how it is counted in this company."""
    rows = [(d.kpi.label, d.kpi.sentence, d.describe()) for d in (definitions or read_definitions()).values()]
    return pd.DataFrame(rows, columns=["KPI", "counts", "definition"])


# --- every other way to count -----------------------------------------------------------------------------------------


def show_ways(kpi: str, unit: str = "", first_day: str = "", last_day: str = "", *, names: bool = False) -> Ways:
    """Count a KPI in every other way, for a unit and days.

    unit, first_day, last_day: as people write them; empty: those of the number that was noted last, else the largest
    unit and the newest full week
    names: leave the customers' names in the rows readable
    Raises UserError for a KPI, unit or day that cannot be.
    """
    config, entry = settings.load(), find_kpi(kpi)
    definition = read_definitions(config)[entry.name]
    with warehouse.connect(config, read_only=True) as target:
        covered = covered_days(target)
        check_built(target, {entry.name: definition})
        units = [name for name in list_units(target, entry) if name in covered.index]
        if unit and unit not in covered.index:
            raise UserError(f"There is no unit {unit}: choose from {', '.join(covered.index)}.")
        period = _default_period(entry.name, units or list(covered.index), covered)
        first = parse_day(first_day, "first_day") if first_day else period.first
        last = parse_day(last_day, "last_day") if last_day else period.last
        if first > last:
            raise UserError(f"The days begin ({first}) after they end ({last}): swap the dates.")
        found = list_ways(target, definition, Period(unit or period.unit, first, last), config.time_zone)
    if not names and "customer_name" in found.rows:
        found.rows["customer_name"] = found.rows["customer_name"].map(mask_name)
    return found


def _default_period(kpi: str, units: Sequence[str], covered: pd.DataFrame) -> Period:
    noted = [one for one in ledger.read_ledger() if one.kpi == kpi and one.unit in covered.index]
    if noted:
        return Period(noted[0].unit, noted[0].first_day, noted[0].last_day)
    as_of: date = covered["last_day"].max()
    sunday = as_of - timedelta(days=(as_of.weekday() + 1) % 7)
    return Period(units[0], sunday - timedelta(days=6), sunday)


def explain_seen(ways: Ways, seen: str = "") -> pd.DataFrame:
    """Return how numbers that people saw for the unit and days come about; columns seen, how it comes about.

    seen: numbers with commas between; empty: those of the ledger
    Raises UserError for what is no number of the KPI.
    """
    kpi, period = ways.definition.kpi, ways.period
    if seen:
        texts = [text for text in seen.split(",") if text.strip()]
        numbers = [Number(period.unit, period.first, period.last, *parse_number(text, kpi.kind)) for text in texts]
    else:
        place = (kpi.name, period.unit, period.first, period.last, "")
        numbers = [one.number for one in ledger.read_ledger() if one.place == place]
    lines = []
    for number in numbers:
        agrees = number.agrees(pd.Series([ways.value]).to_numpy())[0]
        way = "the definition: we have it too" if agrees else ways.explain(number)
        lines.append((format_number(number.value, kpi.kind), way))
    return pd.DataFrame(lines, columns=["seen", "how it comes about"])
