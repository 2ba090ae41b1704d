"""The values of many records column by column, and as Arrow columns where each has its column's type already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import orjson
import pyarrow as pa

from stkpi.servicetitan.entities import Entity, Field

pa.set_memory_pool(pa.system_memory_pool())  # the others keep what was freed, 45 MB with four lists at a time

# The Python types that say what the column says. Of a text, the warehouse finds out whether it is a number or a moment.
_FITTING: Mapping[str, tuple[pa.DataType, frozenset[type]]] = {
    "INT64": (pa.int64(), frozenset({int})),
    "FLOAT64": (pa.float64(), frozenset({float})),
    "BOOL": (pa.bool_(), frozenset({bool})),
    "STRING": (pa.string(), frozenset({str, int})),
    "NUMERIC": (pa.string(), frozenset({str, int, float})),
    "TIMESTAMP": (pa.string(), frozenset({str})),
    "DATE": (pa.string(), frozenset({str})),
}
_NONE = frozenset({type(None)})


class Columns:
    """The values of records by their place (`job.id`); None where a record has none, or is no object."""

    def __init__(self, records: Sequence[Any]) -> None:
        self.records = [record if isinstance(record, dict) else {} for record in records]
        self._kinds: dict[str, frozenset[type]] = {}
        # Usually all records have the same fields in the same order: then all values are turned at once.
        orders = set(map(tuple, self.records))
        names = orders.pop() if len(orders) == 1 else ()
        values = map(list, zip(*map(dict.values, self.records), strict=True)) if names else ()
        self._values: dict[str, list[Any]] = dict(zip(names, values, strict=True))

    def read(self, place: str) -> list[Any]:
        """Return the value of each record."""
        if place not in self._values:
            head, _, inner = place.rpartition(".")
            if head:
                values = [value.get(inner) if isinstance(value, dict) else None for value in self.read(head)]
            else:
                values = [record.get(inner) for record in self.records]
            self._values[place] = values
        return self._values[place]

    def read_kinds(self, place: str) -> frozenset[type]:
        """Return the types of the values, None's left out."""
        if place not in self._kinds:
            self._kinds[place] = find_kinds(self.read(place))
        return self._kinds[place]


def find_kinds(values: Iterable[Any]) -> frozenset[type]:
    """Return the types of the values, None's left out."""
    return frozenset(map(type, values)) - _NONE


def make_arrays(entity: Entity, columns: Columns, fits: list[bool]) -> dict[str, pa.Array]:
    """Return the entity's columns as Arrow arrays; set `fits` to False for each record with a value of another type.

    Amounts and moments are texts. Of the records that fit, all others are what `projection_sql` reads from them.
    """
    return {field.name: _make_array(field, columns, fits) for field in entity.fields}


def _make_array(field: Field, columns: Columns, fits: list[bool]) -> pa.Array:
    place, *others = field.sources
    if field.type == "JSON":  # whose null is a value
        return pa.array([_dump(each[place]) if place in each else None for each in columns.records], pa.string())
    values = columns.read(place)
    for other in others:
        values = [second if first is None else first for first, second in zip(values, columns.read(other), strict=True)]
    kinds = find_kinds(values) if others else columns.read_kinds(place)
    kind, fitting = _FITTING[field.type]
    if not (kinds <= fitting and (kind != pa.int64() or _are_small(values))):
        values = list(values)
        for number, value in enumerate(values):
            if value is not None and not (type(value) in fitting and (kind != pa.int64() or _are_small([value]))):
                values[number], fits[number] = None, False
    if kind == pa.string() and not kinds <= {str}:
        values = [None if value is None else str(value) for value in values]
    return pa.array(values, kind)


def _are_small(values: Sequence[Any]) -> bool:
    """Return whether whole numbers have 64 bits at most."""
    found = [value for value in values if value is not None]
    return not found or (min(found) >= -(2**63) and max(found) < 2**63)


def _dump(value: Any) -> str:
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS).decode()
