"""Adopt a found definition: the company's company.yml then says so, and the next build counts the KPI by it."""

from __future__ import annotations

import numpy as np

from stkpi import company, settings, warehouse
from stkpi.errors import UserError
from stkpi.kpis.catalog import Kpi, find_kpi
from stkpi.kpis.definition import Definition, parse_choices, read_definitions
from stkpi.reconcile.definitions.evaluate import compute_values, load_candidates
from stkpi.reconcile.observations.outcomes import check_kpi
from stkpi.reconcile.observations.search import Search, search_definition, select_evidence


def adopt_definition(kpi: str, definition: str = "") -> str:
    """Adopt the definition that the ledger's numbers prove, or the one named; return what changed, in one sentence.

    kpi: a KPI as people call it; definition: `status=completed`, several with commas, or `default`; empty: as found
    Raises UserError where the numbers prove none and none is named.
    """
    config, entry = settings.load(), find_kpi(kpi)
    chosen = read_definitions(config)[entry.name]
    if definition:
        wanted = Definition(entry, entry.choose(parse_choices(entry, definition)))
        evidence, note, proof = [], "named by a person", _weigh(wanted, config)
    else:
        found = _search(entry, config)
        if found.found is None:
            raise UserError(f"Not adopted. {found.finding.sentence} {found.next_step or _name_it(found)}".strip())
        wanted, evidence, proof = found.found, [one.id for one in found.numbers], ""
        note = f"it alone gives {len(evidence)} numbers of ServiceTitan"
    if wanted.number == chosen.number:
        return f"{entry.label} is counted so already: {chosen.describe()}."
    company.adopt_definition(
        config, entry.name, wanted.departures, adopted_on=config.compute_today(), evidence=evidence, note=note
    )
    adopted = f"Adopted for {entry.label}: {wanted.describe()}. {proof}"
    return f"{adopted}The next nightly or rebuild recomputes its whole history."


def undo_adoption(kpi: str) -> str:
    """Bring back the definition before the last adoption; return what is in force now, in one sentence.

    Raises UserError where nothing was adopted.
    """
    config, entry = settings.load(), find_kpi(kpi)
    company.undo_adoption(config, entry.name, undone_on=config.compute_today())
    now = read_definitions(config)[entry.name]
    return f"{entry.label} is counted {now.describe()} again. The next nightly or rebuild recomputes its whole history."


def _search(kpi: Kpi, config: settings.Settings) -> Search:
    definitions = read_definitions(config)
    with warehouse.connect(config, read_only=True) as target:
        return search_definition(target, kpi, check_kpi(target, kpi.name, definitions), definitions)


def _weigh(wanted: Definition, config: settings.Settings) -> str:
    """Return what the ledger's numbers say about a definition that a person named, in one sentence."""
    try:
        with warehouse.connect(config, read_only=True) as target:
            numbers = select_evidence(check_kpi(target, wanted.kpi.name, read_definitions(config)), wanted.kpi.name)
            periods = [one.number.period for one in numbers]
            candidates = load_candidates(target, wanted.kpi, periods, config.time_zone) if numbers else None
    except UserError:  # nothing was built yet: a definition may be named before the first night
        candidates = None
    if candidates is None:
        return "No number proves it: it is taken as named. "
    values = [compute_values(candidates, one.number, np.array([wanted.number])).astype(float) for one in numbers]
    fitting = sum(bool(one.number.agrees(value)[0]) for one, value in zip(numbers, values, strict=True))
    return f"It gives {fitting} of the ledger's {len(numbers)} numbers. "


def _name_it(found: Search) -> str:
    return f"Name one of them, such as DEFINITION={'status=completed' if not found.finding.groups else 'default'}."
