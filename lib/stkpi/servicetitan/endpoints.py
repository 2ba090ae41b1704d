"""Every other endpoint of ServiceTitan's API: `extra` in a company's company.yml names some, and no code is needed.

    extra: [telecom/calls, crm/bookings, jpm/export/job-notes]

endpoints.csv has the facts of all lists and export feeds of the published description (2026-07), a line for each:

    path        module, version and name; between them stands `tenant/{tenant}` in the URL
    parameters  what has to be sent with every request: that inactive records are to come too, and what is required
    filters     which it takes: created (createdOnOrAfter, createdBefore), modified (modifiedOnOrAfter), and total
                (includeTotal), without which nobody knows how many rows there are
    id          where in the record its id is, and of which type; empty where rows have none
    fields      its top-level fields; and where its dates are, if they are inside of one of them

A record keeps its id, its dates and whether it is active in columns, and all of itself in `_record`. Where rows have no
id (seven lists and three feeds), the key is a digest of the whole row, as with gross pay; and because nothing tells a
changed row from a new one, such a table is read and replaced whole.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

from stkpi import company
from stkpi.errors import UserError, suggest_name
from stkpi.servicetitan.entities import ENTITIES, Entity, Field, Type
from stkpi.settings import Settings

FILE = Path(__file__).with_name("endpoints.csv")
EXPORT = "export"  # the first part of the name of most feeds, and the last one of an older one
_TYPES: dict[str, Type] = {"integer": "INT64", "string": "STRING"}
_COLUMNS: dict[str, Type] = {"createdOn": "TIMESTAMP", "modifiedOn": "TIMESTAMP", "active": "BOOL"}


@dataclass(frozen=True)
class Endpoint:
    """A line of endpoints.csv."""

    path: str
    parameters: str
    filters: str
    id: str
    fields: str

    @property
    def name(self) -> str:
        """How people call it: without its version, `telecom/calls`."""
        module, _, rest = self.path.split("/", 2)
        return f"{module}/{rest}"

    @property
    def is_feed(self) -> bool:
        """Whether it is an export feed, which knows a beginning and no filters, and not a list."""
        return EXPORT in self.path.split("/")

    @property
    def has_ids(self) -> bool:
        """Whether every row has an id."""
        return self.id != "" and not self.id.endswith("|null")

    def find_place(self, column: str) -> str:
        """Return where in the record a column's value is; the column's own name where the description has none."""
        return next((field for field in self.fields.split() if field.rpartition(".")[2] == column), column)

    def has_fields(self, *columns: str) -> bool:
        """Return whether the record has all of these columns."""
        return all(self.find_place(column) in self.fields.split() for column in columns)


@cache
def read_endpoints() -> dict[str, Endpoint]:
    """Return every endpoint by its name; of two versions the newer one, and the older one by its path too."""
    with FILE.open(encoding="utf-8", newline="") as file:
        lines = [Endpoint(**line) for line in csv.DictReader(file)]
    by_path = {line.path: line for line in sorted(lines, key=lambda line: line.path)}
    newest = {line.name: line for line in by_path.values()}
    return newest | {path: line for path, line in by_path.items() if newest[line.name] is not line}


def make_entity(name: str, endpoint: Endpoint) -> Entity:
    """Make the entity of an endpoint: how it is read, and the columns of its raw table."""
    module, version, resource = endpoint.path.split("/", 2)
    fields = [Field(column, type, (endpoint.find_place(column),)) for column, type in _COLUMNS.items()]
    if endpoint.id:
        place, _, type = endpoint.id.partition(" ")
        fields.insert(0, Field("id", _TYPES[type.removesuffix("|null")], (place,)))
    return Entity(
        name,
        f"{module}/{version}/tenant/{{tenant}}/{resource}",
        tuple(fields),
        everything=tuple((key, value) for key, _, value in (p.partition("=") for p in endpoint.parameters.split())),
        incremental=_choose_incremental(endpoint),
        known=tuple(field for field in endpoint.fields.split() if "." not in field),
        is_feed=endpoint.is_feed,
        keyless=not endpoint.has_ids,
        may_be_empty=True,
    )


def _choose_incremental(endpoint: Endpoint) -> Literal["feed", "modified", "whole"]:
    """Choose how a night finds what changed; what the endpoint cannot tell is read whole."""
    if endpoint.is_feed:
        return "feed" if endpoint.has_ids and endpoint.has_fields("modifiedOn") else "whole"
    filters = endpoint.filters.split() == ["created", "modified", "total"]
    if not (filters and endpoint.has_ids and endpoint.has_fields("createdOn", "modifiedOn")):
        return "whole"
    module, _, resource = endpoint.name.partition("/")
    twin = read_endpoints().get(f"{module}/{EXPORT}/{resource}")
    # Where the feed describes the record differently from the list, one record would have two hashes.
    return "feed" if twin and set(twin.fields.split()) == set(endpoint.fields.split()) else "modified"


def find_entity(name: str) -> Entity:
    """Return the entity that a person means by the name of an endpoint; the registry's own where that reads it.

    >>> find_entity("telecom/calls").table
    'st_raw_v2.raw_telecom_calls'
    >>> find_entity("accounting/export/invoices").name
    'invoices'

    Raises UserError, with the nearest right one.
    """
    wanted = name.strip().strip("/").lower().replace("_", "-")
    known = read_endpoints()
    if wanted not in known:
        ends = [each for each in known if each.rpartition("/")[2] == wanted.rpartition("/")[2]]
        raise UserError(f"ServiceTitan's API has no list {name}; {suggest_name(wanted, ends or known)}")
    endpoint = known[wanted]
    own = {f"{entity.path.partition('/')[0]}/{entity.resource}": entity for entity in ENTITIES.values()}
    listed = endpoint.name.replace(f"/{EXPORT}/", "/")
    return own.get(listed.removesuffix("/paginated")) or make_entity(wanted, endpoint)


def list_entities(config: Settings) -> dict[str, Entity]:
    """Return the registry and what `extra` in the company's company.yml adds to it, by name.

    Raises UserError for what cannot be read in it.
    """
    own = company.read_company(config)
    try:
        extra = [find_entity(name) for name in own.extra]
    except UserError as error:
        raise UserError(f"{company.show_path(own.folder / company.FILE)}, extra: {error}") from None
    return ENTITIES | {entity.name: entity for entity in extra}


def select_entities(names: str, config: Settings) -> tuple[Entity, ...]:
    """Return the entities of a comma-separated list, or all for "all", in the order of the registry.

    Raises UserError for an entity that is not read.
    """
    known = list_entities(config)
    if names.strip().lower() in ("", "all"):
        return tuple(known.values())
    wanted = {name.strip() for name in names.split(",") if name.strip()}
    for name in sorted(wanted - known.keys()):
        if "/" not in name:
            raise UserError(f"Unknown entity {name}. Choose from: {', '.join(known)}.")
        if (found := find_entity(name)).name not in known:
            raise UserError(f"{found.name} is not read: write `extra: [{found.name}]` into company.yml first.")
        wanted = wanted - {name} | {found.name}
    return tuple(entity for entity in known.values() if entity.name in wanted)
