"""A definition: the options that a company has chosen for a KPI, one per dimension, and the fact table of its rows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from stkpi import company, settings
from stkpi.errors import UserError
from stkpi.kpis.catalog import Catalog, Kpi, Option, read_catalog

# What decides which rows count, on which day and under which unit; the others say how they add up over a period.
_ROWS_ONLY_OUTSIDE = ("measure", "window", "shift")
_CHOICE = re.compile(r"\s*([\w ]+?)\s*=\s*([\w ]+?)\s*")


@dataclass(frozen=True)
class Definition:
    """A KPI and one option per dimension."""

    kpi: Kpi
    options: Mapping[str, Option]

    def __getitem__(self, dimension: str) -> Option:
        return self.options[dimension]

    @property
    def number(self) -> int:
        """Its place among the KPI's definitions."""
        return self.kpi.number({name: option.id for name, option in self.options.items()})

    @property
    def departures(self) -> dict[str, str]:
        """The choices that are not the default, by dimension."""
        return {name: option.id for name, option in self.options.items() if option != self.kpi[name][0]}

    @property
    def conditions(self) -> dict[str, Option]:
        """The options that are conditions on a row, by dimension; those that let every row in are left out."""
        return {d.name: self[d.name] for d in self.kpi.conditions if self[d.name].says != "TRUE"}

    @property
    def rows(self) -> tuple[object, ...]:
        """What two definitions have in common that count the same rows on the same days under the same units."""
        chosen = [(name, option.says) for name, option in self.options.items() if name not in _ROWS_ONLY_OUTSIDE]
        return self.kpi.candidates, self.kpi.division, tuple(sorted(chosen, key=str))

    def describe(self, base: Mapping[str, Option] | None = None) -> str:
        """Return where it departs from another definition, by default the expected one, in words."""
        return describe_departures(self.kpi, self.options, base)


def describe_departures(kpi: Kpi, options: Mapping[str, Option], base: Mapping[str, Option] | None = None) -> str:
    """Return where the options depart from others: `status completed (completed jobs only); …`."""
    base = base or kpi.options(0)
    parts = [f"{name} {o.id} ({o.why})" for name, o in options.items() if o != base[name]]
    return "; ".join(parts) or "as expected"


def choose_definitions(
    departures: Mapping[str, Mapping[str, str]], catalog: Catalog | None = None
) -> dict[str, Definition]:
    """Return every KPI's chosen definition: the default, changed by the company's departures (choices by KPI).

    Raises UserError for a KPI, dimension or option that the catalog does not have.
    """
    catalog = catalog or read_catalog()
    if strange := [name for name in departures if name not in catalog]:
        raise UserError(f"company.yml defines {strange[0]}, which is no KPI: {', '.join(catalog)} are.")
    return {name: Definition(kpi, kpi.choose(departures.get(name, {}))) for name, kpi in catalog.items()}


def read_definitions(config: settings.Settings | None = None) -> dict[str, Definition]:
    """Return the definition that the company has chosen for every KPI, in the catalog's order.

    Raises UserError for a choice, or a report's KPI, in its company.yml that the catalog does not have.
    """
    own = company.read_company(config or settings.load())
    if strange := [name for name in own.reports if name not in read_catalog()]:
        raise UserError(f"company.yml has a report of {strange[0]}, which is no KPI: {', '.join(read_catalog())} are.")
    return choose_definitions({name: own.departures(name) for name in own.definitions})


def parse_choices(kpi: Kpi, text: str) -> dict[str, str]:
    """Return the choices that a person typed: `status=completed, test customers=counted`; `default` is none.

    Raises UserError for what is no choice of the KPI, with the nearest right one.
    """
    if text.strip().lower() in ("", "default"):
        return {}
    found: dict[str, str] = {}
    for part in re.split(r"[,;]", text):
        match = _CHOICE.fullmatch(part)
        if not match:
            raise UserError(f"DEFINITION={text} does not read as dimension=option, such as status=completed.")
        dimension = kpi.dimension(match[1].replace(" ", "_"))
        found[dimension.name] = dimension.option(match[2].replace(" ", "_")).id
    return found


def name_facts(definitions: Mapping[str, Definition]) -> dict[str, str]:
    """Return the fact table of every KPI: KPIs that count the same rows share the one that the catalog names; a KPI
    whose rows differ from those of the first has fact_<its name>.
    """
    owners: dict[str, Definition] = {}
    found = {}
    for name, definition in definitions.items():
        owner = owners.setdefault(definition.kpi.fact, definition)
        found[name] = definition.kpi.fact if owner.rows == definition.rows else f"fact_{name}"
    return found
