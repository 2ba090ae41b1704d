"""What `make find`, `make observe` and the notebook of the ledger do: check all numbers, read new ones, find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from zoneinfo import ZoneInfo

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.reconcile import render
from stkpi.reconcile.definitions import find as finder
from stkpi.reconcile.definitions.evaluate import load, values
from stkpi.reconcile.definitions.find import Bridge, Finding
from stkpi.reconcile.observations import fetch as readings
from stkpi.reconcile.observations import ledger as observed
from stkpi.reconcile.observations.ledger import API, MATCHED, OPEN, UNMATCHED, Checked, Observation
from stkpi.reconcile.pull import PREFIX, pull
from stkpi.servicetitan.client import Client
from stkpi.warehouse import Warehouse

ROW = ("kpi", "unit", "first_day", "last_day", "value", "tolerance", "source", "report", "read_by")  # what people give
MOST = 24  # numbers that the finder is given: more do not tell more, but take time


@dataclass(frozen=True)
class Search:
    """What the ledger's numbers say about a KPI's definition, and how each explained number came about."""

    kpi: str
    finding: Finding
    explained: tuple[tuple[Observation, Bridge | None], ...]


@dataclass(frozen=True)
class Ledger:
    """All observations beside our numbers; `notes` are what was read and what is to be known, in sentences."""

    checked: tuple[Checked, ...]
    notes: tuple[str, ...]
    history: pd.DataFrame

    @property
    def counts(self) -> dict[str, int]:
        """How many numbers are matched, unmatched and open."""
        found = Counter(one.outcome for one in self.checked)
        return {outcome: found[outcome] for outcome in (MATCHED, UNMATCHED, OPEN)}

    @property
    def error(self) -> str | None:
        """Which numbers matched before and do so no longer, in one sentence; None if none."""
        turned = [one for one in self.checked if one.turned]
        if not turned:
            return None
        first = turned[0]
        more = f" (and {len(turned) - 1} more)" if len(turned) > 1 else ""
        return (
            f"An observed number no longer matches: {first.observation.id}, {title(first.observation)} is "
            f"{shown(first.observation, first.observation.value)}, {first.why}{more}. Mend the cause, or say in "
            "expectations/observed.csv that the number is superseded."
        )

    @property
    def headline(self) -> str:
        """The ledger in one sentence."""
        counts = self.counts
        what = f"{counts[MATCHED]} of {counts[MATCHED] + counts[UNMATCHED]} observed numbers match ours"
        return f"{what}; {counts[OPEN]} cannot be compared yet." if counts[OPEN] else f"{what}."

    def table(self, *, api: bool) -> pd.DataFrame:
        """One row per number, of people or of the Reporting API, what does not match first."""
        order = (UNMATCHED, OPEN, MATCHED, "explained", "superseded")
        rows = [one for one in self.checked if (one.observation.source == API) == api]
        return pd.DataFrame(
            [
                {
                    "outcome": one.outcome,
                    "seen": shown(one.observation, one.observation.value),
                    "ours": shown(one.observation, one.ours),
                    "number": title(one.observation),
                    "why": one.why or one.observation.note,
                    "source": f"{one.observation.source}, {one.observation.report}",
                    "read": f"{one.observation.read_on} by {one.observation.read_by}",
                }
                for one in sorted(rows, key=lambda one: order.index(one.outcome))
            ],
            columns=["outcome", "seen", "ours", "number", "why", "source", "read"],
        )

    def lines(self) -> list[str]:
        """What the terminal is told: every number that does not match, and the notes."""
        told = [
            f"{one.outcome}: {title(one.observation)} is {shown(one.observation, one.observation.value)}, {one.why}"
            for one in self.checked
            if one.outcome == UNMATCHED
        ]
        return [self.headline, *told, *self.notes]


def title(one: Observation) -> str:
    """A number's place in words: Leads of Phoenix-Sales, Aug 18 to Aug 24, 2025."""
    return f"{one.kpi.replace('_', ' ')} of {one.unit}, {span(one.first_day, one.last_day)}"


def span(first: date, last: date) -> str:
    """Days as people say them: Aug 18 to Aug 24, 2025."""
    return f"{first:%b} {first.day} to {last:%b} {last.day}, {last.year}" if first != last else f"{last:%b %-d, %Y}"


def shown(one: Observation, value: Decimal | None) -> str:
    """A value to the last digit that matters; a dash for none."""
    return "—" if value is None else render.figure(Fraction(value), one.kind)


# --- the night --------------------------------------------------------------------------------------------------------


def run(report: str = "") -> Ledger:
    """Check every number of the ledger and of the Reporting API against the facts, and write the outcomes down.

    report: the saved report with totals by unit that is read once (`report:category/id`); empty: none
    """
    config = settings.load()
    own = observed.read()
    with warehouse.connect(config) as target:
        api = observed.from_api(target)
        checked = observed.check(target, [*own, *api])
        covered = observed.reach(target)
        units = target.query("SELECT unit_name, business_unit, division FROM st_ref_v2.dim_business_units")
    fresh: list[Observation] = []
    notes: list[str] = []
    export, days = None, readings.next_period(checked, covered) if report else None
    if days:
        try:  # the warehouse is closed meanwhile: ServiceTitan may take its time, and other steps want it
            export = pull(Client(config), None, report, first_day=days[0], last_day=days[1])
            fresh = readings.observations(export, units, report.removeprefix(PREFIX), days)
            notes.append(f"{len(fresh)} numbers of {export.name} were read, {span(*days)}.")
        except UserError as error:
            notes.append(f"yellow: no report was read. {error} It is named in notebooks/nightly.yml.")
    with warehouse.connect(config) as target:
        if export and (changed := readings.columns_changed(target, report, export)):
            notes.append(changed)
        newest = {one.id: one for one in (*own, *api, *fresh)}
        checked = observed.check(target, list(newest.values()), {one.id for one in fresh})
        observed.keep(target, checked)
        return Ledger(tuple(checked), tuple(notes), observed.history(target))


# --- finding ----------------------------------------------------------------------------------------------------------


def evidence(checked: Sequence[Checked], kpi: str) -> list[Observation]:
    """The numbers of a KPI that say something about its definition, those that people read first, then the newest."""
    found = [one.observation for one in checked if one.observation.kpi == kpi and one.outcome in (MATCHED, UNMATCHED)]
    return sorted(found, key=lambda one: (one.source == API, -one.last_day.toordinal()))[:MOST]


def search(target: Warehouse, kpi: str, checked: Sequence[Checked], *, careless: bool = False) -> Search:
    """Find the definitions of a KPI that give the ledger's numbers, and how each explained number came about.

    careless: whether up to a third of the numbers may be off by one or two
    Raises UserError where the ledger has no number of the KPI.
    """
    numbers = evidence(checked, kpi)
    if not numbers:
        finder.read_space(kpi)  # refuses what is no KPI
        raise UserError(
            f"The ledger has no number of {kpi} that can be compared: read one in ServiceTitan and add it, such as "
            f"make observe KPI={kpi} BU=Phoenix-Sales FROM=2025-08-18 TO=2025-08-24 VALUE=96."
        )
    config = settings.load()
    as_of = observed.reach(target)["last_day"].max()
    could_ask = finder.questions(finder.known_units(target, finder.division(kpi)), as_of)
    finding = finder.find(target, kpi, [one.number for one in numbers], could_ask, careless=careless)
    definition = finding.classes[0].definition if finding.classes else 0
    told = [one.observation for one in checked if one.observation.kpi == kpi and one.outcome == "explained"]
    explained = []
    if told:
        periods = list(dict.fromkeys(one.number.period for one in told))
        candidates = load(target, finding.space, periods, config.time_zone)
        given = {period: values(candidates, period) for period in periods}
        explained = [
            (one, finder.explain(finding.space, given[one.number.period], one.number, definition)) for one in told
        ]
    return Search(kpi, finding, tuple(explained))


def find(kpi: str, *, careless: bool = False) -> Search:
    """`make find`: `search` on the ledger as it is now. Nothing is written."""
    with warehouse.connect() as target:
        return search(
            target, kpi, observed.check(target, [*observed.read(), *observed.from_api(target)]), careless=careless
        )


def find_all(ledger: Ledger) -> list[Search]:
    """`search` for every KPI of which the ledger has numbers."""
    with warehouse.connect() as target:
        return [search(target, kpi, ledger.checked) for kpi in finder.COMPARISONS if evidence(ledger.checked, kpi)]


def observe(row: dict[str, str]) -> tuple[Observation, Checked | None]:
    """`make observe`: add a number (the texts of ROW); how it compares, where the KPI tables are built."""
    today = datetime.now(ZoneInfo(settings.load().time_zone)).date()
    one = observed.append({**row, "read_on": today.isoformat()})
    try:
        with warehouse.connect() as target:
            return one, observed.check(target, [one])[0]
    except UserError:
        return one, None


def added(one: Observation, now: Checked | None) -> str:
    """What became of a number that was added, in one sentence."""
    start = f"Added as {one.id}: {title(one)} is {shown(one, one.value)}"
    if now is None:
        return f"{start}. It is compared when the KPI tables are built: run `make nightly`."
    return f"{start}; {f'we have {shown(one, now.ours)}' if now.outcome == MATCHED else now.why}: {now.outcome}."


def text(found: Search) -> str:
    """A search for a terminal: the verdict, the definitions, the next question, the explained numbers, the SQL."""
    finding = found.finding
    parts = [finding.sentence, "", f"From {len(finding.numbers)} numbers:"]
    parts += [f"  {number.value} for {number}" for number in finding.numbers]
    if finding.classes:
        parts += ["", *(f"  {row.bits:g} bits: {row.definition}" for row in finding.table().itertuples())]
    if finding.question:
        expected = render.figure(Fraction(finding.expected), finder.COMPARISONS[found.kpi].kind)
        parts += ["", f"The first of them gives {expected} for {finding.question}."]
    if found.explained:
        parts += ["", *(f"Explained: {explanation(one, way)}" for one, way in found.explained)]
    if finding.sql:
        parts += ["", "-- The first of them, with @business_unit, @first_day, @last_day and @time_zone:", finding.sql]
    return "\n".join(parts)


def explanation(one: Observation, way: Bridge | None) -> str:
    """Why somebody saw another number, in one line."""
    return f"{title(one)}: {way or f'no definition gives {shown(one, one.value)}; {one.note}'}"


def verdicts(found: Sequence[Search]) -> pd.DataFrame:
    """One row per KPI: its verdict, how many numbers and definitions there are, and what to read next."""
    return pd.DataFrame(
        {
            "KPI": [one.kpi.replace("_", " ") for one in found],
            "numbers": [len(one.finding.numbers) for one in found],
            "verdict": [one.finding.verdict for one in found],
            "definitions left": [one.finding.left for one in found],
            "the simplest of them": [one.finding.table()["definition"].get(0, "none") for one in found],
            "read next": [str(one.finding.question or "nothing") for one in found],
        }
    )


def waterfall_steps(one: Observation, way: Bridge) -> list[tuple[str, float, str]]:
    """From the number that somebody saw to ours, as `reports.waterfall` takes it."""
    between = [
        (f"{name}: not “{why}”", -float(change), render.change(-change, one.kind)) for name, why, change in way.steps
    ]
    ends = [
        (name, float(value), render.figure(value, one.kind)) for name, value in (("seen", way.end), ("ours", way.start))
    ]
    return [ends[0], *between, ends[1]]
