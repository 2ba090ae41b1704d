"""Read the catalog: every KPI as an entry of sql/catalog.yml, which explains itself at its top.

The definitions of a KPI are the product of its options: a definition is its place in that product (a number from 0, the
default), or the options themselves.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from stkpi import settings
from stkpi.errors import UserError, suggest_name

FILE = settings.ROOT / "sql" / "catalog.yml"
TENANT_ZONE = "@time_zone"
# The dimensions that place a row in time and under a unit; of the others, measure counts and the rest are conditions.
PLACING = ("date", "zone", "window", "shift", "attribution", "rollup")
MEASURES = ("count", "distinct", "sum", "ratio", "net")
KINDS = ("count", "money", "rate")
DIVISIONS = ("Sales", "Production")
BOTH = "Both"
_AHEAD = re.compile(r"\+\d+[dy]$")
_DAY = re.compile(r"(first|last|monday)?([+-]\d+[dy])?")
_REPORT = (
    *("name", "where", "rows", "row", "key", "date", "only", "never", "fields"),
    *("counts_if", "changed", "recognized_by", "totals", "otherwise"),
)
_ENTRY = (
    *("label", "sentence", "because", "kind", "good", "division", "candidates", "fact", "columns", "terms", "sums"),
    *("beside", "complete_after", "report", "dimensions"),
)
_OPTIONAL = ("terms", "sums", "beside", "complete_after")


@dataclass(frozen=True)
class Option:
    """One choice within a dimension: what it says, its cost in bits, why somebody counts like that, and what a row is
    that it leaves out.

    basis: of a date, what the "Filter by" of ServiceTitan's reports calls it
    """

    id: str
    says: Any  # a column, condition, zone, day pair, shift; of a measure {kind: operands, per, least}
    bits: float
    why: str
    out: str = ""
    known_by: str | None = None
    basis: str = ""


@dataclass(frozen=True)
class Dimension:
    """A question that every definition answers with one of the options; the first is the default."""

    name: str
    options: tuple[Option, ...]

    def option(self, id: str) -> Option:
        """Return the option of that id. Raises UserError, with the nearest right one."""
        return self.options[_place(id, [option.id for option in self.options], f"option of {self.name}")]


@dataclass(frozen=True)
class Recognized:
    """The columns by which a file is taken for a KPI; of several KPIs the one of the lowest rank.

    filled: only if every row of the file has them
    """

    columns: tuple[str, ...]
    rank: int
    filled: bool = False


@dataclass(frozen=True)
class Report:
    """The ServiceTitan report that shows a KPI; the catalog's top explains each field.

    otherwise: the same with other columns, complete
    """

    name: str
    where: str
    rows: str
    row: str
    key: Mapping[str, str]
    date: str
    changed: str
    only: str | None = None
    never: tuple[str, str] | None = None
    fields: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    counts_if: Mapping[str, str] = field(default_factory=dict)
    recognized_by: tuple[Recognized, ...] = ()
    totals: tuple[str, ...] = ()
    otherwise: tuple[Report, ...] = ()


@dataclass(frozen=True)
class Kpi:
    """An entry of the catalog, and the space of its definitions, numbered from 0 in the order measure, conditions,
    PLACING (the last moves fastest).
    """

    name: str
    label: str
    sentence: str
    because: str
    kind: str
    good: int  # 1 where more is welcome, -1 where less is
    division: str
    candidates: str
    fact: str
    columns: Mapping[str, str]
    terms: Mapping[str, str]
    sums: tuple[str, ...]
    beside: Mapping[str, Mapping[str, Any]]
    complete_after: int
    report: Report
    dimensions: tuple[Dimension, ...]
    shape: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(len(dimension.options) for dimension in self.dimensions))

    def __len__(self) -> int:
        return math.prod(self.shape)

    def __getitem__(self, name: str) -> tuple[Option, ...]:
        return self.dimension(name).options

    def dimension(self, name: str) -> Dimension:
        """Return the dimension of that name. Raises UserError, with the nearest right one."""
        return self.dimensions[_place(name, [d.name for d in self.dimensions], f"dimension of {self.label}")]

    @property
    def conditions(self) -> tuple[Dimension, ...]:
        """The dimensions whose options are conditions."""
        return self.dimensions[1 : -len(PLACING)]

    @property
    def divisions(self) -> tuple[str, str]:
        """The divisions whose units have the KPI."""
        return self.division, BOTH

    @property
    def counts_rows(self) -> bool:
        """Whether every measure is a whole number of rows."""
        return all(option.says.keys() <= {"count", "distinct"} for option in self["measure"])

    @property
    def is_level(self) -> bool:
        """Whether the number is what stands at the end of a period's last day, and does not add up over days."""
        return not any(day.startswith("first") for day in self["window"][0].says)

    @property
    def looks_ahead(self) -> bool:
        """Whether the number is about days that follow, so that ServiceTitan shows it as of today only."""
        low, high = self["window"][0].says
        return low != "ever" and not low.startswith("first") and bool(_AHEAD.search(high))

    @cached_property
    def bits(self) -> np.ndarray:
        """The cost of every definition (float32, one per definition)."""
        total = np.zeros(1, np.float32)
        for dimension in self.dimensions:
            costs = np.array([option.bits for option in dimension.options], np.float32)
            total = (total[:, None] + costs).ravel()
        return total

    def options(self, number: int) -> dict[str, Option]:
        """Return the options of a definition, by dimension."""
        chosen = np.unravel_index(number, self.shape)
        return {d.name: d.options[i] for d, i in zip(self.dimensions, chosen, strict=True)}

    def choose(self, choices: Mapping[str, str]) -> dict[str, Option]:
        """Return the options of the definition with these choices (ids by dimension), the default where none is named.

        Raises UserError for a dimension or option that the KPI does not have, with the nearest right one.
        """
        for name in choices:
            self.dimension(name)
        return {d.name: d.option(choices[d.name]) if d.name in choices else d.options[0] for d in self.dimensions}

    def number(self, choices: Mapping[str, str]) -> int:
        """Return the definition with these choices, the default where none is named."""
        chosen = self.choose(choices)
        return int(np.ravel_multi_index([d.options.index(chosen[d.name]) for d in self.dimensions], self.shape))

    def replace_option(self, numbers: np.ndarray, dimension: str, option: str) -> np.ndarray:
        """Return definitions with another option of one dimension, each in the place of the one it was made of."""
        places = [each.name for each in self.dimensions]
        here = list(np.unravel_index(numbers, self.shape))
        at = places.index(dimension)
        chosen = [each.id for each in self[dimension]].index(option)
        here[at] = np.full_like(here[at], chosen)
        return np.ravel_multi_index(here, self.shape)

    def departures(self, number: int) -> dict[str, str]:
        """Return the choices of a definition that are not the default."""
        return {name: o.id for name, o in self.options(number).items() if o != self[name][0]}


Catalog = Mapping[str, Kpi]


def _load_yaml(path: Path) -> dict[str, Any]:
    """The content of a file. Every program reads the catalog at its start, and in C that takes a sixth of the time."""
    found: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506
    return found


@cache
def _read_file(path: Path, _modified: int) -> dict[str, Kpi]:
    given = _load_yaml(path)["kpis"]
    return {name: _read_entry(path.name, name, entry) for name, entry in given.items()}


def read_catalog(path: Path | None = None) -> Catalog:
    """Return the KPIs by name, in the order of the file. Raises UserError, with the place, for an entry that does not
    read as the file's top explains.
    """
    path = path or FILE
    return _read_file(path, path.stat().st_mtime_ns)


@dataclass(frozen=True)
class Record:
    """A kind of ServiceTitan's records: what people call one and several, and the candidates' columns that it feeds."""

    entity: str
    one: str
    several: str
    feeds: frozenset[str]


@cache
def read_records() -> dict[str, Record]:
    """Return the kinds of records by their entity."""
    given = _load_yaml(FILE)["records"]
    found = {}
    for name, each in given.items():
        one, several = each["called"]
        found[name] = Record(name, one, several, frozenset(each["feeds"]))
    return found


def find_kpi(text: str, catalog: Catalog | None = None) -> Kpi:
    """Return the KPI that a person means by its name or label, in any letter case.

    >>> find_kpi("Leads").name == find_kpi(" leads ").name
    True

    Raises UserError, with the nearest right one.
    """
    catalog = catalog or read_catalog()
    spoken = {_plain(name): kpi for kpi in catalog.values() for name in (kpi.label, kpi.name)}
    if (key := _plain(text)) in spoken:
        return spoken[key]
    if not key:
        raise UserError(f"Name the KPI: one of {', '.join(catalog)}.")
    raise UserError(f"There is no KPI {text}; {suggest_name(text, catalog)}")


def _plain(text: str) -> str:
    return re.sub(r"[^a-z0-9$%/]", "", text.lower())


def _place(id: str, known: list[str], what: str) -> int:
    if id in known:
        return known.index(id)
    raise UserError(f"There is no {what} called {id}; {suggest_name(id, known)}")


# --- an entry ---------------------------------------------------------------------------------------------------------


def _read_entry(file: str, name: str, given: Mapping[str, Any]) -> Kpi:
    where = f"{file}: {name}"
    _check_keys(where, given, _ENTRY, required=[key for key in _ENTRY if key not in _OPTIONAL])
    dimensions = given["dimensions"]
    if missing := [each for each in (*PLACING, "measure") if each not in dimensions]:
        raise UserError(f"{where} has no {missing[0]}: give it one option at least.")
    if given["kind"] not in KINDS or given["good"] not in ("up", "down") or given["division"] not in DIVISIONS:
        raise UserError(f"{where}: kind is one of {', '.join(KINDS)}, good up or down, division Sales or Production.")
    names = ["measure", *(each for each in dimensions if each not in (*PLACING, "measure")), *PLACING]
    kpi = Kpi(
        name=name,
        **{
            key: str(given[key]).strip()
            for key in ("label", "sentence", "because", "kind", "division", "candidates", "fact")
        },
        good=1 if given["good"] == "up" else -1,
        columns=given["columns"],
        terms=given.get("terms", {}),
        sums=tuple(given.get("sums", ())),
        beside=given.get("beside", {}),
        complete_after=given.get("complete_after", 0),
        report=_read_report(f"{where}, report", given["report"]),
        dimensions=tuple(
            Dimension(each, tuple(_read_option(where, each, id, option) for id, option in dimensions[each].items()))
            for each in names
        ),
    )
    ratios = ["ratio" in option.says for option in kpi["measure"]]
    if any(ratios) and (not all(ratios) or len(kpi.sums) != 2):  # noqa: PLR2004 a numerator and a denominator
        raise UserError(f"{where} has a ratio among its measures: make all of them ratios, and name its two sums.")
    if kpi.is_level and any(option.says.keys() & {"distinct", "ratio"} for option in kpi["measure"]):
        raise UserError(f"{where} is as of a day: measure it by count, sum or net.")
    return kpi


def _read_report(where: str, given: Mapping[str, Any]) -> Report:
    optional = ("only", "never", "fields", "counts_if", "recognized_by", "totals", "otherwise")
    _check_keys(where, given, _REPORT, required=[key for key in _REPORT if key not in optional])
    return Report(
        **{key: given[key] for key in ("name", "where", "rows", "row", "key", "date", "changed")},
        only=given.get("only"),
        never=tuple(given["never"]) if "never" in given else None,
        fields={term: tuple(fields) for term, fields in given.get("fields", {}).items()},
        counts_if=given.get("counts_if", {}),
        recognized_by=tuple(
            Recognized(tuple(each["columns"]), each["rank"], each.get("filled", False))
            for each in given.get("recognized_by", ())
        ),
        totals=tuple(given.get("totals", ())),
        otherwise=tuple(_read_report(where, {**given, "otherwise": (), **each}) for each in given.get("otherwise", ())),
    )


def _check_keys(where: str, given: Mapping[str, Any], known: Iterable[str], required: Iterable[str]) -> None:
    if strange := [key for key in given if key not in known]:
        raise UserError(f"{where} has an unknown {strange[0]}: its keys are {', '.join(known)}.")
    if missing := [key for key in required if key not in given]:
        raise UserError(f"{where} has no {missing[0]}.")


def _read_option(where: str, dimension: str, id: str, given: Mapping[str, Any]) -> Option:
    try:
        return _option(dimension, id, dict(given))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{where}, {dimension}: {id} cannot be read ({error}); see the file's top.") from None


def _option(dimension: str, id: str, given: dict[str, Any]) -> Option:
    bits, why = float(given.pop("bits")), str(given.pop("why"))
    out, known_by, basis = str(given.pop("out", "")), given.pop("known_by", None), str(given.pop("basis", ""))
    if dimension == "measure":
        if len(given.keys() & set(MEASURES)) != 1 or given.keys() - {*MEASURES, "per", "least"}:
            raise ValueError(f"it is none of {', '.join(MEASURES)}")
        return Option(id, given, bits, why, out)
    says = given.pop("is")
    if given:
        raise ValueError(f"it has an unknown {next(iter(given))}")
    for day in says if dimension == "window" else [says] if dimension == "shift" else ():
        if day != "ever" and not _DAY.fullmatch(day):
            raise ValueError(f"{day} is not a day")
    if dimension not in PLACING and says != "TRUE" and dimension != "entity" and not out:
        raise ValueError("it does not say what a row is that it leaves `out`")
    return Option(id, says, bits, why, out, known_by, basis)
