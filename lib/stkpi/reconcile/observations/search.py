"""What the ledger's numbers say about a KPI's definition, and which number to read next."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from stkpi import settings
from stkpi.errors import UserError
from stkpi.formatting import format_number, format_span
from stkpi.kpis.catalog import Kpi
from stkpi.kpis.definition import Definition
from stkpi.reconcile.definitions.evaluate import Period, load_candidates
from stkpi.reconcile.definitions.find import Finding, find_definition, is_summer, list_questions, list_units
from stkpi.reconcile.definitions.ways import explain_value
from stkpi.reconcile.observations.ledger import API, Observation
from stkpi.reconcile.observations.outcomes import EXPLAINED, MATCHED, UNMATCHED, Checked, covered_days
from stkpi.warehouse import Warehouse

MOST = 240  # numbers that the search is given


@dataclass(frozen=True)
class Search:
    """What the numbers of a KPI say about its definition.

    chosen: the definition in force
    numbers: those that the search was given
    explained: every number that is not ours, and how it comes about
    """

    kpi: Kpi
    chosen: Definition
    finding: Finding
    numbers: tuple[Observation, ...]
    explained: tuple[tuple[Observation, str], ...]

    @property
    def found(self) -> Definition | None:
        """The definition that the numbers prove; None while they do not prove one."""
        if self.finding.verdict != "accepted":
            return None
        return Definition(self.kpi, self.kpi.options(self.finding.classes[0].definition))

    @property
    def next_step(self) -> str:
        """What to do now, in one sentence."""
        if other := self.other_date:
            return other
        if self.found is not None:
            if self.found.number == self.chosen.number:
                return f"{self.kpi.label} is counted as these numbers say: nothing to do."
            return f"Adopt it: KPI={self.kpi.name}. The next nightly then counts {self.kpi.label} so."
        return describe_question(self.chosen, self.finding.question) if self.finding.question else ""

    @property
    def other_date(self) -> str:
        """That a saved report counts by another date than we do, in one sentence; empty where no number says so."""
        of_report = {one.number: one for one in self.numbers if one.source == API and not one.dated_by}
        dates = [(self.finding.agreed["date"], self.finding.numbers)] if "date" in self.finding.agreed else []
        for group in self.finding.groups:
            if group.definition is not None:
                dates.append((self.kpi.options(group.definition)["date"], group.numbers))
        ours = self.chosen["date"]
        for date, numbers in dates:
            report = next((of_report[one] for one in numbers if one in of_report), None)
            if report and date != ours:
                return (
                    f"{report.report.partition(': ')[0]}: this report counts by {date.basis or date.why}, and we by "
                    f"{ours.basis or ours.why}. Change what it is filtered by under `reports` in company.yml, or adopt "
                    f"date={date.id}: KPI={self.kpi.name}."
                )
        return ""


def describe_question(definition: Definition, period: Period) -> str:
    """Return which number to read next, and where in ServiceTitan."""
    kpi = definition.kpi
    basis = f", Filter by {label}" if (label := definition["date"].basis) else ""
    return (
        f"Read next: {kpi.label} of {period.unit}, {format_span(period.first, period.last)}"
        f" ({kpi.report.name} in {kpi.report.where}{basis})."
    )


def select_evidence(checked: Sequence[Checked], kpi: str) -> list[Observation]:
    """Return the numbers of a KPI that say something about its definition: those that people read first, then those of
    the Reporting API, of each unit, season and date the newest first. Where several are about the same unit and days,
    those that another one rules out are left out.
    """
    found = [one.observation for one in checked if one.observation.kpi == kpi and one.outcome in (MATCHED, UNMATCHED)]
    found.sort(key=lambda one: -one.last_day.toordinal())
    kinds = Counter[tuple[Any, ...]]()
    ranked: list[tuple[Any, ...]] = []
    for one in found:
        kind = one.source == API, one.unit, is_summer(one.number), one.dated_by
        ranked.append((kind[0], kinds[kind], bool(one.dated_by), len(ranked), one))
        kinds[kind] += 1
    return [one for *_, one in sorted(ranked, key=lambda each: each[:-1])][:MOST]


def search_definition(
    target: Warehouse,
    kpi: Kpi,
    checked: Sequence[Checked],
    definitions: Mapping[str, Definition],
    *,
    careless: bool = False,
    could_run: Sequence[Period] | None = None,
) -> Search:
    """Find the definitions of a KPI that give the ledger's numbers, and how each number that is not ours comes about.

    careless: whether up to a third of the numbers may be off by one or two
    could_run: the numbers that could be read next, where they are not those that a person could read
    Raises UserError where the ledger has no number of the KPI.
    """
    evidence = select_evidence(checked, kpi.name)
    if not evidence:
        raise UserError(
            f"There is no number of {kpi.label} to go by: read one in ServiceTitan ({kpi.report.name}) and note it "
            f"with observe, KPI={kpi.name} BU=… FROM=… TO=… VALUE=…."
        )
    chosen = definitions[kpi.name]
    units, as_of = list_units(target, kpi), covered_days(target)["last_day"].max()
    could_ask = list_questions(units, as_of, ahead=kpi.looks_ahead)
    numbers = [one.number for one in evidence]
    finding = find_definition(
        target, kpi, numbers, could_ask, careless=careless, chosen=chosen.number, could_run=could_run
    )
    others = [
        one.observation
        for one in checked
        if one.observation.kpi == kpi.name and one.outcome in (UNMATCHED, EXPLAINED) and one.ours is not None
    ]
    return Search(kpi, chosen, finding, tuple(evidence), tuple(explain_numbers(target, chosen, others)))


class Searches:
    """The searches of a night: one with the same numbers is not made again."""

    def __init__(self) -> None:
        self._found: dict[object, Search] = {}

    def search(
        self,
        target: Warehouse,
        kpi: Kpi,
        checked: Sequence[Checked],
        definitions: Mapping[str, Definition],
        could_run: Sequence[Period] | None = None,
    ) -> Search:
        """Search like `search_definition`. A definition that is accepted is so whatever could be run next."""
        numbers = tuple(one.number for one in select_evidence(checked, kpi.name))
        key, asked = (kpi.name, numbers), could_run is not None
        for kind in ("accepted", asked):
            if (key, kind) in self._found:
                return self._found[key, kind]
        found = search_definition(target, kpi, checked, definitions, could_run=could_run)
        self._found[key, "accepted" if found.finding.verdict == "accepted" else asked] = found
        return found


def explain_numbers(
    target: Warehouse, chosen: Definition, numbers: Sequence[Observation]
) -> list[tuple[Observation, str]]:
    """Return how each number comes about where `chosen` is right, with one query."""
    if not numbers:
        return []
    periods = [one.number.period for one in numbers]
    candidates = load_candidates(target, chosen.kpi, periods, settings.load().time_zone)
    return [(one, explain_value(candidates, one.number, chosen)) for one in numbers]


def describe_search(found: Search) -> str:
    """Return a search for a terminal: the verdict, the definitions, what to do next, the explained numbers, the SQL."""
    finding, kind = found.finding, found.kpi.kind
    parts = [finding.sentence, "", f"From {len(finding.numbers)} numbers:"]
    parts += [f"  {one.shown} for {one.unit}, {format_span(one.first_day, one.last_day)}" for one in found.numbers]
    if finding.classes:
        parts += ["", *(f"  {row.bits:g} bits: {row.definition}" for row in finding.table().itertuples())]
    if found.next_step:
        parts += ["", found.next_step]
    if finding.question and finding.expected is not None:
        expected = format_number(Fraction(finding.expected) if finding.expected == finding.expected else None, kind)
        parts += [f"The first of the definitions gives {expected} for it."]
    headings = {
        True: "Not what we count:",
        False: "Left out, because another number for the same unit and days is the one that is right:",
    }
    for is_used, heading in headings.items():
        lines = [f"  {one.title}: {way}." for one, way in found.explained if (one in found.numbers) is is_used]
        parts += ["", heading, *lines] if lines else []
    if finding.sql:
        parts += ["", "-- The first of them, with @business_unit, @first_day, @last_day and @time_zone:", finding.sql]
    return "\n".join(parts)
