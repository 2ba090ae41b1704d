"""Find the company's saved report of each KPI: by its name, its columns, and the date that it is filtered by."""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

from stkpi import company
from stkpi.errors import UserError
from stkpi.kpis.catalog import Kpi, read_catalog
from stkpi.kpis.definition import Definition, read_definitions
from stkpi.reconcile.comparison import infer_comparison, is_totals
from stkpi.reconcile.exports import Export
from stkpi.reconcile.pull import read_header
from stkpi.servicetitan.client import Client
from stkpi.servicetitan.reports import PREFIX, Description, Reports

MOST = 40  # descriptions to read: a tenant can have hundreds of reports
LONGEST = 180  # seconds after which no further description is read
_NAMED_LIKE = 0.6  # share of the words of the catalog's name
_NO_NAME = {"api", "report", "reports", "daily", "by", "the", "and"}
_BY_UNIT = "business-unit"  # begins the category of the reports with a row per unit


@dataclass(frozen=True)
class _Listed:
    """A saved report of the tenant, as its category lists it."""

    category: str
    id: str
    name: str

    def is_like(self, kpi: Kpi) -> tuple[float, float]:
        """Return the share of the words of the KPI's report that its name has, and how alike the names are."""
        wanted, words = _list_words(kpi.report.name), _list_words(self.name)
        likeness = SequenceMatcher(None, kpi.report.name.lower(), self.name.lower()).ratio()
        return len(wanted & words) / max(1, len(wanted)), likeness


def propose_reports(client: Client) -> dict[str, dict[str, Any]]:
    """Return the entry of company.yml (category, id, name, parameters, guess) for each KPI that a saved report fits.

    Raises RequestFailed where the Reporting API is refused or keeps failing.
    """
    reports, definitions = Reports(client), read_definitions()
    found: dict[str, tuple[_Listed, Description]] = {}
    best: dict[str, tuple[float, float]] = {}
    for listed, described, header in _describe_reports(reports):
        for kpi in read_catalog().values():
            if _fits(listed, header, kpi, definitions) and listed.is_like(kpi) > best.get(kpi.name, (-1, -1)):
                best[kpi.name] = listed.is_like(kpi)
                found[kpi.name] = (listed, described)
    return {name: _write_entry(reports, definitions[name], *found[name]) for name in read_catalog() if name in found}


def _describe_reports(reports: Reports) -> Iterator[tuple[_Listed, Description, Export]]:
    """Yield the reports that may be one of the catalog's, likely ones first, with their descriptions and columns."""
    ends = time.monotonic() + LONGEST
    kpis = read_catalog().values()
    ranked = [(max(one.is_like(kpi) for kpi in kpis), one) for one in itertools.starmap(_Listed, reports.list_names())]
    likely = [each for each in ranked if each[0][0] >= _NAMED_LIKE or each[1].category.startswith(_BY_UNIT)]
    for _, listed in sorted(likely, key=lambda each: each[0], reverse=True)[:MOST]:
        if time.monotonic() > ends:
            return
        try:
            described = reports.describe(f"{PREFIX}{listed.category}/{listed.id}")
            yield listed, described, read_header(described)
        except UserError:  # it cannot be described, or none of its columns is known
            continue


def _fits(listed: _Listed, header: Export, kpi: Kpi, definitions: Mapping[str, Definition]) -> bool:
    """Whether a report has the columns of a KPI: its totals by unit, or its rows and a name that says so."""
    if kpi.report.totals:
        return is_totals(header) and {"business_unit", *kpi.report.totals} <= header.headers.keys()
    if is_totals(header) or listed.is_like(kpi)[0] < _NAMED_LIKE:
        return False
    try:
        infer_comparison(header, definitions, kpi.name)
    except UserError:
        return False
    return True


def _write_entry(reports: Reports, definition: Definition, listed: _Listed, described: Description) -> dict[str, Any]:
    guess, parameters = "by its name and columns", {}
    basis = definition["date"].basis
    for parameter in described.parameters:
        if parameter.is_date or parameter.is_unit or not (parameter.value_set or parameter.values):
            continue
        try:
            choices = reports.list_choices(parameter)
        except UserError:  # a person may know them
            choices = {}
        if basis in choices:
            parameters[parameter.label] = basis
        elif parameter.is_required:
            parameters[parameter.label] = ""
            guess += f"; choose {parameter.label}: {', '.join(choices)}"
    entry = {
        "category": listed.category,
        "id": int(listed.id) if listed.id.isdigit() else listed.id,
        "name": listed.name,
    }
    return entry | ({"parameters": parameters} if parameters else {}) | {company.GUESS: guess}


def _list_words(name: str) -> set[str]:
    return {word.rstrip("s") for word in re.findall(r"[a-z]+", name.lower()) if word not in _NO_NAME}
