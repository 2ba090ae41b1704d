"""What a KPI could mean: one option per dimension, from expectations/definitions.yaml; a definition as GoogleSQL.

The file explains itself at its top. The definitions of a KPI are the product of its options: a definition is its place
in that product, or the options themselves. Days move the same way here (`bounds`) and in the SQL (`as_sql`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml

from stkpi import settings
from stkpi.errors import UserError

FILE = settings.ROOT / "expectations" / "definitions.yaml"
CANDIDATES = settings.ROOT / "sql" / "reconcile"
TENANT_ZONE = "@time_zone"
# The dimensions that place a row in time and under a unit; of the others, measure counts and the rest are conditions.
PLACING = ("date", "zone", "window", "shift", "attribution", "rollup")
MEASURES = ("count", "distinct", "sum", "ratio", "net")
_DAY = re.compile(r"(first|last|monday)?([+-]\d+[dy])?")


@dataclass(frozen=True)
class Option:
    """One choice within a dimension: what it says, its cost in bits and why somebody counts like that."""

    id: str
    says: Any  # a column, condition, zone, day pair, shift; of a measure {kind: operands, per, least}
    bits: float
    why: str
    known_by: str | None = None


@dataclass(frozen=True)
class Dimension:
    """A question that every definition answers with one of the options."""

    name: str
    options: tuple[Option, ...]


@dataclass(frozen=True)
class Space:
    """All definitions of a KPI, numbered from 0 in the order measure, conditions, PLACING (the last moves fastest)."""

    kpi: str
    candidates: Path
    dimensions: tuple[Dimension, ...]
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(len(dimension.options) for dimension in self.dimensions))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, name: str) -> tuple[Option, ...]:
        return next(dimension.options for dimension in self.dimensions if dimension.name == name)

    @property
    def conditions(self) -> tuple[Dimension, ...]:
        """The dimensions whose options are conditions."""
        return self.dimensions[1 : -len(PLACING)]

    @property
    def counts(self) -> bool:
        """Whether every measure is a whole number of rows."""
        return all(option.says.keys() <= {"count", "distinct"} for option in self["measure"])

    @cached_property
    def bits(self) -> np.ndarray:
        """The cost of every definition (float32, one per definition)."""
        costs = [[option.bits for option in dimension.options] for dimension in self.dimensions]
        total = np.zeros(1, np.float32)
        for cost in costs:
            total = (total[:, None] + np.array(cost, np.float32)).ravel()
        return total

    def options(self, number: int) -> dict[str, Option]:
        """The options of a definition, by dimension."""
        chosen = np.unravel_index(number, self.shape)
        return {d.name: d.options[i] for d, i in zip(self.dimensions, chosen, strict=True)}

    def number(self, options: Mapping[str, str]) -> int:
        """The definition with the options (ids by dimension); where none is named, the first."""
        places = [
            next((i for i, option in enumerate(d.options) if option.id == options.get(d.name)), 0)
            for d in self.dimensions
        ]
        return int(np.ravel_multi_index(places, self.shape))


@cache
def _file(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def kpis(path: Path = FILE) -> tuple[str, ...]:
    """The KPIs that have definitions."""
    return tuple(name for name in _file(path) if name != "shared")


def read_space(kpi: str, path: Path = FILE) -> Space:
    """The space of a KPI's definitions.

    Raises UserError for a KPI that the file lacks, and for an option that does not read as the file's top explains.
    """
    if kpi not in kpis(path):
        raise UserError(f"{kpi or 'No KPI'} is none of {', '.join(kpis(path))}: name one of them as KPI.")
    entry = dict(_file(path)[kpi])
    candidates = CANDIDATES / f"{entry.pop('candidates')}.sql"
    if missing := [name for name in (*PLACING, "measure") if name not in entry]:
        raise UserError(f"{path.name}: {kpi} has no {missing[0]}; give it one option at least.")
    names = ["measure", *(name for name in entry if name not in (*PLACING, "measure")), *PLACING]
    dimensions = []
    for name in names:
        try:
            dimensions.append(Dimension(name, tuple(_option(name, id, given) for id, given in entry[name].items())))
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(f"{path.name}: an option of {kpi}, {name} cannot be read ({error}); see its top.") from None
    return Space(kpi, candidates, tuple(dimensions))


def _option(dimension: str, id: str, given: Mapping[str, Any]) -> Option:
    given = dict(given)
    bits, why, known_by = float(given.pop("bits")), str(given.pop("why")), given.pop("known_by", None)
    if dimension == "measure":
        if len(given.keys() & set(MEASURES)) != 1 or given.keys() - {*MEASURES, "per", "least"}:
            raise ValueError(f"{id} is none of {', '.join(MEASURES)}")
        return Option(id, given, bits, why)
    says = given.pop("is")
    if given:
        raise ValueError(f"{id} has an unknown {next(iter(given))}")
    for day in says if dimension == "window" else [says] if dimension == "shift" else ():
        if day != "ever" and not _DAY.fullmatch(day):
            raise ValueError(f"{id} is not a day: {day}")
    return Option(id, says, bits, why, known_by)


# --- days -------------------------------------------------------------------------------------------------------------


def _moved(day: date, step: str) -> date:
    """A day some days (+7d) or years (-1y, 28 February for the 29th) on."""
    if step.endswith("y"):
        return (pd.Timestamp(day) + pd.DateOffset(years=int(step[:-1]))).date()
    return day + timedelta(days=int(step[:-1])) if step else day


def bounds(window: Option, shift: Option, first: date, last: date) -> tuple[date, date, date]:
    """The first and last day that a definition reads for the period from `first` to `last`, and the period's last day
    as shifted; the first is date.min where the window has no beginning.
    """
    first, last = _moved(first, shift.says), _moved(last, shift.says)
    days = {"first": first, "last": last, "monday": last - timedelta(days=last.weekday())}
    found = []
    for text in window.says:
        anchor, step = (None, "") if text == "ever" else _DAY.fullmatch(text).groups("")
        found.append(_moved(days[anchor], step) if anchor else date.min)
    return found[0], found[1], last


def _moved_sql(sql: str, step: str) -> str:
    if not step:
        return sql
    name = "SUB" if step[0] == "-" else "ADD"
    return f"DATE_{name}({sql}, INTERVAL {step[1:-1]} {'YEAR' if step[-1] == 'y' else 'DAY'})"


def _day_sql(text: str, shift: str) -> str:
    anchor, step = _DAY.fullmatch(text).groups("")
    day = _moved_sql("@first_day" if anchor == "first" else "@last_day", shift)
    return _moved_sql(f"DATE_TRUNC({day}, WEEK(MONDAY))" if anchor == "monday" else day, step)


# --- SQL --------------------------------------------------------------------------------------------------------------


def candidates_sql(space: Space) -> str:
    """The SELECT of the rows that the KPI could count."""
    return space.candidates.read_text(encoding="utf-8").rstrip()


def as_sql(space: Space, number: int, dates: Sequence[str]) -> str:
    """A definition as one SELECT of one `value`, with @business_unit, @first_day, @last_day and @time_zone.

    dates: the columns of the candidates that are calendar dates and have no time zone
    """
    options = space.options(number)
    conditions = [options[d.name].says for d in space.conditions if options[d.name].says != "TRUE"]
    column, zone, window, shift = (options[name] for name in ("date", "zone", "window", "shift"))
    zone_sql = zone.says if zone.says == TENANT_ZONE else f"'{zone.says}'"
    day = column.says if column.says in dates else f"DATE({column.says}, {zone_sql})"
    low, high = window.says
    last = _day_sql(high, shift.says)
    conditions.append(f"{day} <= {last}" if low == "ever" else f"{day} BETWEEN {_day_sql(low, shift.says)} AND {last}")
    if window.known_by:
        conditions.append(f"{window.known_by} <= {_day_sql('last', shift.says)}")
    conditions.append(f"{options['attribution'].says}_{options['rollup'].says} = @business_unit")
    joined = "\n  AND ".join(f"({condition})" if " OR " in condition else condition for condition in conditions)
    source = f"FROM candidates\nWHERE\n  {joined}"
    return f"WITH candidates AS (\n{candidates_sql(space)}\n)\n\n{_measured(options['measure'].says, source)}"


def _measured(measure: Mapping[str, Any], source: str) -> str:
    match measure:
        case {"count": _}:
            return f"SELECT COUNT(*) AS value\n{source}"
        case {"distinct": column}:
            return f"SELECT COUNT(DISTINCT {column}) AS value\n{source}"
        case {"sum": amount}:
            return f"SELECT COALESCE(SUM({amount}), 0) AS value\n{source}"
        case {"ratio": [part, whole]}:
            return f"SELECT SAFE_DIVIDE(SUM({part}), SUM({whole})) AS value\n{source}"
    net, per, least = (measure[name] for name in ("net", "per", "least"))
    grouped = f"SELECT SUM({net}) AS balance\n{source}\nGROUP BY {per}\nHAVING SUM({net}) >= {least}"
    return f"SELECT COALESCE(SUM(balance), 0) AS value\nFROM (\n{grouped}\n) AS balances"
