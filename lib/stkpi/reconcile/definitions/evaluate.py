"""The values of every definition of a KPI for many periods, from one query.

The query brings the rows that any definition could count, with their dates, names and one bit per condition; what
follows is arithmetic in memory. Rows that pass the same conditions are alike: the conditions of all definitions times
the number of rows per kind is one matrix product, however many definitions there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import compress, pairwise, product

import numpy as np
import pandas as pd

from stkpi.kpis.catalog import PLACING, TENANT_ZONE, Kpi
from stkpi.kpis.days import read_days
from stkpi.kpis.definition import Definition
from stkpi.kpis.sql import REF, is_calendar_date, operands, row_value_sql, terms_sql, unit_sql
from stkpi.warehouse import Warehouse

SCALE = 10_000  # money and weights as whole ten-thousandths: their sums are exact in a float64
SLACK = timedelta(days=2)  # no time zone or window convention moves a day further
NEVER = np.iinfo(np.int32).min
MOST_CONDITIONS = 62  # bits of a whole number, one for each option of a condition


@dataclass(frozen=True)
class Period:
    """A unit and the days from `first` to `last`, both included.

    dated_by: the option of the dimension date by which it was counted, whatever the KPI's own; empty: the KPI's own
    """

    unit: str
    first: date
    last: date
    dated_by: str = field(default="", kw_only=True)

    def __str__(self) -> str:
        return f"{self.unit}, {self.first} to {self.last}" + (f" by {self.dated_by}" if self.dated_by else "")


@dataclass(frozen=True)
class Number(Period):
    """A number that somebody read for a period; `tolerance` is how far a definition may be from it.

    A value of NaN is a ratio that has none, because nothing happened.
    """

    value: Decimal
    tolerance: Decimal = Decimal(0)

    def agrees(self, values: np.ndarray) -> np.ndarray:
        """Which of the values are this number."""
        if self.value.is_nan():
            return np.isnan(values)
        return np.abs(values - float(self.value)) <= float(self.tolerance) + 1e-9

    @property
    def tells(self) -> bool:
        """Whether something was counted."""
        return bool(self.value) and not self.value.is_nan()

    @property
    def period(self) -> Period:
        """Where it was read."""
        return Period(self.unit, self.first, self.last, dated_by=self.dated_by)


@dataclass(frozen=True)
class Candidates:
    """The rows that the definitions of `kpi` could count for some periods."""

    kpi: Kpi
    rows: pd.DataFrame
    zone: str

    @cached_property
    def days(self) -> dict[tuple[str, str], np.ndarray]:
        """The day of each row (int32, days since 1970, NEVER where none) by date column and zone."""
        found = {}
        for column, zone in product((o.says for o in self.kpi["date"]), (o.says for o in self.kpi["zone"])):
            values = self.rows[column]
            if not is_calendar_date(column):
                values = values.dt.tz_convert(self.zone if zone == TENANT_ZONE else zone).dt.tz_localize(None)
            found[column, zone] = _as_days(values)
        return found

    @cached_property
    def known(self) -> dict[str, np.ndarray]:
        """The day from which a row was known, by column, as in `days`."""
        columns = {option.known_by for option in self.kpi["window"] if option.known_by}
        return {column: _as_days(self.rows[column]) for column in columns}

    @cached_property
    def kinds(self) -> tuple[np.ndarray, np.ndarray]:
        """The kind of each row by the conditions that it passes, and which combination of conditions (rows, in the
        order of the kpi) each kind (columns) passes, as float32.
        """
        bits = [f"c{i}" for i in range(sum(len(d.options) for d in self.kpi.conditions))]
        if len(bits) > MOST_CONDITIONS:
            raise ValueError(
                f"{self.kpi.label} has {len(bits)} options of conditions, and {MOST_CONDITIONS} can be told apart"
            )
        kind, names = pd.factorize(self.rows[bits].to_numpy(bool) @ (1 << np.arange(len(bits))))
        table = (names[:, None] >> np.arange(len(bits)) & 1).astype(bool)
        passes, start = np.ones((1, len(table)), bool), 0
        for dimension in self.kpi.conditions:
            options = table[:, start : start + len(dimension.options)].T
            passes = (passes[:, None] & options).reshape(len(passes) * len(options), len(table))
            start += len(dimension.options)
        return kind, passes.astype(np.float32)

    @cached_property
    def codes(self) -> dict[str, np.ndarray]:
        """Whole numbers for the values of each column that is counted or grouped by; -1 for NULL."""
        columns = {option.says.get("distinct", option.says.get("per")) for option in self.kpi["measure"]}
        return {column: pd.factorize(self.rows[column])[0] for column in columns - {None}}

    @cached_property
    def units(self) -> tuple[np.ndarray, dict[str, int]]:
        """The unit of each row (columns) per attribution and rollup, a whole number, and which number a name has."""
        pairs = product(self.kpi["attribution"], self.kpi["rollup"])
        names = [self.rows[f"{whose.says}_{name.says}"].to_numpy() for whose, name in pairs]
        codes, found = pd.factorize(np.concatenate(names))
        return codes.reshape(len(names), -1), {name: code for code, name in enumerate(found)}

    @cached_property
    def amounts(self) -> dict[str, np.ndarray]:
        """What each row adds up to, by the operand of a measure."""
        return {sql: self.rows[f"m{i}"].to_numpy(np.float64) for i, sql in enumerate(all_operands(self.kpi))}

    def select_rows(self, definition: Definition, period: Period) -> dict[str, np.ndarray]:
        """Return which rows each part of a definition lets in: days, unit, and every condition by its dimension."""
        zone, window = definition["zone"], definition["window"]
        day = self.days[definition["date"].says, zone.says]
        first, last, known_until = read_days(window, definition["shift"], period.first, period.last)
        within = (day >= (NEVER + 1 if first == date.min else _since_1970(first))) & (day <= _since_1970(last))
        if window.known_by:
            known = self.known[window.known_by]
            within &= (known != NEVER) & (known <= _since_1970(known_until))
        attribution, rollup = definition["attribution"].says, definition["rollup"].says
        found = {"days": within, "unit": self.rows[f"{attribution}_{rollup}"].to_numpy() == period.unit}
        start = 0
        for dimension in self.kpi.conditions:
            option = definition[dimension.name]
            if option.says != "TRUE":
                found[dimension.name] = self.rows[f"c{start + dimension.options.index(option)}"].to_numpy(bool)
            start += len(dimension.options)
        return found


def _as_days(values: pd.Series) -> np.ndarray:
    stamps = pd.to_datetime(values).to_numpy("datetime64[D]")
    return np.where(np.isnat(stamps), NEVER, stamps.astype(np.int64)).astype(np.int32)


def _since_1970(day: date) -> int:
    return day.toordinal() - date(1970, 1, 1).toordinal()


# --- the query --------------------------------------------------------------------------------------------------------


def load_candidates(target: Warehouse, kpi: Kpi, periods: Iterable[Period], zone: str) -> Candidates:
    """Read the rows that any definition of `kpi` could count for `periods`, with one query.

    zone: the tenant's time zone
    """
    days = ",".join(sorted(map(str, _list_days(kpi, periods))))
    return Candidates(kpi, target.query(candidates_query_sql(kpi, every_day=not days), days=days, time_zone=zone), zone)


def _list_days(kpi: Kpi, periods: Iterable[Period]) -> set[date]:
    """Every day that some definition reads; none where a window has no beginning and all rows are needed."""
    asked = {(period.first, period.last) for period in periods}
    spans = {read_days(w, s, *days)[:2] for days, w, s in product(asked, kpi["window"], kpi["shift"])}
    if any(first == date.min for first, _ in spans):
        return set()
    found: set[date] = set()
    for first, last in spans:
        found.update(first - SLACK + timedelta(days=n) for n in range((last - first + 2 * SLACK).days + 1))
    return found


def candidates_query_sql(kpi: Kpi, *, every_day: bool) -> str:
    """Return the query of `load_candidates`: a bit per condition (c0, c1, …) and an amount per operand (m0, …)."""
    conditions = [option.says for dimension in kpi.conditions for option in dimension.options]
    dates = [option.says for option in kpi["date"]]
    columns = {
        *dates,
        *(option.known_by for option in kpi["window"] if option.known_by),
        *(option.says.get("distinct", option.says.get("per")) for option in kpi["measure"]),
    }
    units = product(kpi["attribution"], kpi["rollup"])
    selected = [
        *sorted(columns - {None}),
        *(f"{unit_sql(kpi, whose, name.says)} AS {whose.says}_{name.says}" for whose, name in units),
        *(f"COALESCE({sql}, FALSE) AS c{i}" for i, sql in enumerate(conditions)),
        *(f"CAST(ROUND(({row_value_sql(o)}) * {SCALE}) AS INT64) AS m{i}" for i, o in enumerate(all_operands(kpi))),
    ]
    # A row that no option of a condition lets in need not come.
    needed = [" OR ".join(f"({option.says})" for option in dimension.options) for dimension in kpi.conditions]
    if not every_day:
        needed.append(" OR ".join(f"DATE({column}) IN (SELECT day FROM days)" for column in dates))
    listed = "days AS (\n  SELECT DISTINCT CAST(day AS DATE) AS day FROM UNNEST(SPLIT(@days, ',')) AS day\n),\n\n"
    where = " AND\n  ".join(f"({condition})" for condition in needed)
    select = ",\n  ".join(selected)
    terms = "".join(f", {term}" for term in terms_sql(kpi))
    return (
        f"WITH {'' if every_day else listed}candidates AS (\n  SELECT *{terms}\n  FROM {REF}.{kpi.candidates}\n)\n\n"
        f"SELECT\n  {select}\nFROM candidates\nWHERE\n  {where}"
    )


def all_operands(kpi: Kpi) -> list[str]:
    """Return the operands that the KPI's measures add up, each once."""
    found: dict[str, None] = {}
    for option in kpi["measure"]:
        found |= dict.fromkeys(operands(option.says))
    return list(found)


# --- the arithmetic ---------------------------------------------------------------------------------------------------


def compute_values(candidates: Candidates, period: Period, definitions: np.ndarray | None = None) -> np.ndarray:
    """The value of every definition for a period, in their order: float32 where all are counts, else float64 (NaN is a
    ratio without a denominator). Of a period that is `dated_by` an option, every definition is taken with that date.

    definitions: those that are wanted, by number; a few of them take a fraction of the time
    """
    kpi = candidates.kpi
    if definitions is not None and not len(definitions):
        return np.zeros(0)
    kind, passes = candidates.kinds
    # What a number stands for: its measure, its combination of conditions, and its place in PLACING.
    shape = len(kpi["measure"]), len(passes), math.prod(kpi.shape[-len(PLACING) :])
    if period.dated_by:
        every = np.arange(len(kpi)) if definitions is None else definitions
        definitions = kpi.replace_option(every, "date", period.dated_by)
    asked = None if definitions is None else np.unravel_index(definitions, shape)
    measures, combinations, wanted = (np.ones(size, bool) for size in shape)
    if asked is not None:
        measures, combinations, wanted = (np.bincount(a, minlength=n) > 0 for a, n in zip(asked, shape, strict=True))
    cells = list(_list_cells(candidates, period, wanted))
    rows = np.concatenate([np.zeros(0, np.int64), *cells])
    cell = np.repeat(np.arange(len(cells)), [len(members) for members in cells])
    used = np.bincount(kind[rows], minlength=passes.shape[1]) > 0  # few kinds occur in one period
    grid = _Grid(passes[np.ix_(combinations, used)], (np.cumsum(used) - 1)[kind[rows]], cell, len(cells))

    def amount(sql: str) -> np.ndarray:
        return candidates.amounts[sql][rows]

    measured = []
    for option in compress(kpi["measure"], measures):
        match option.says:
            case {"count": _}:
                measured.append(grid.count())
            case {"distinct": column}:
                measured.append(grid.distinct(candidates.codes[column][rows]))
            case {"sum": sql}:
                measured.append(grid.sum(amount(sql)) / SCALE)
            case {"ratio": [part, whole]}:
                below = grid.sum(amount(whole))
                measured.append(grid.sum(amount(part)) / np.where(below == 0, np.nan, below))
            case {"net": sql, "per": column, "least": least}:
                measured.append(grid.net(amount(sql), candidates.codes[column][rows], least * SCALE) / SCALE)
    found = np.stack(measured).astype(np.float32 if kpi.counts_rows else np.float64, copy=False)
    if asked is None:
        return found.ravel()
    places = [np.cumsum(used) - 1 for used in (measures, combinations, wanted)]
    return found[tuple(place[each] for place, each in zip(places, asked, strict=True))]


def _list_cells(candidates: Candidates, period: Period, wanted: np.ndarray) -> Iterator[np.ndarray]:
    """The rows of the wanted combinations of PLACING, in its order."""
    assert PLACING == ("date", "zone", "window", "shift", "attribution", "rollup")  # noqa: S101 the loops below are it
    kpi = candidates.kpi
    codes, names = candidates.units
    units = list(codes == names.get(period.unit, NEVER))
    of_unit = np.flatnonzero(np.any(units, axis=0))  # the period's rows are few: the rest is not looked at again
    units = [mask[of_unit] for mask in units]
    windows = [read_days(w, s, period.first, period.last) for w, s in product(kpi["window"], kpi["shift"])]
    known_by = [window.known_by for window, _ in product(kpi["window"], kpi["shift"])]
    known = {column: days[of_unit] for column, days in candidates.known.items()}
    turn = iter(wanted.reshape(-1, len(units)))
    for column, zone in product(kpi["date"], kpi["zone"]):
        day = candidates.days[column.says, zone.says][of_unit]
        for (first, last, known_until), known_column in zip(windows, known_by, strict=True):
            if not (of_units := next(turn)).any():
                continue
            low = NEVER + 1 if first == date.min else _since_1970(first)
            within = (day >= low) & (day <= _since_1970(last))
            if known_column:
                within &= (known[known_column] != NEVER) & (known[known_column] <= _since_1970(known_until))
            places = np.flatnonzero(within)
            for mask in compress(units, of_units):
                yield of_unit[places[mask[places]]]


@dataclass(frozen=True)
class _Grid:
    """Rows in cells (a row may be in many), each of a kind; every method gives combinations of conditions by cells.

    passes  combinations by kinds, 1.0 where the kind passes
    kind    of each row
    cell    of each row
    """

    passes: np.ndarray
    kind: np.ndarray
    cell: np.ndarray
    cells: int

    def _table(self, kind: np.ndarray, cell: np.ndarray, kinds: int, weights: np.ndarray | None = None) -> np.ndarray:
        """Kinds by cells: how many rows, or the sum of their weights."""
        flat = np.bincount(kind * self.cells + cell, weights, minlength=kinds * self.cells)
        return flat.reshape(kinds, self.cells)

    def count(self) -> np.ndarray:
        return self.passes @ self._table(self.kind, self.cell, self.passes.shape[1]).astype(np.float32)

    def sum(self, weights: np.ndarray) -> np.ndarray:
        return self.passes.astype(np.float64) @ self._table(self.kind, self.cell, self.passes.shape[1], weights)

    def distinct(self, code: np.ndarray) -> np.ndarray:
        """How many codes occur; -1 is none.

        The rows of a code in a cell are a set of kinds, and it occurs where one of them passes. Few sets differ, so
        they are kinds again: the one-hot product `((M @ onehot(key)) > 0).sum(1)` over sets instead of keys.
        """
        kinds = self.passes.shape[1]
        named = code >= 0
        key = self.cell[named] * (int(code.max(initial=0)) + 1) + code[named]
        pairs = np.sort(key * kinds + self.kind[named])
        pairs = pairs[np.diff(pairs, prepend=-1) != 0]  # np.unique hashes whole numbers, which takes ten times as long
        key, kind = pairs // kinds, pairs % kinds
        starts = np.flatnonzero(np.diff(key, prepend=-1))
        if not len(starts):
            return np.zeros((len(self.passes), self.cells), np.float32)
        random = np.asarray(np.random.default_rng(0).integers(0, 2**63, kinds, dtype=np.uint64))
        fingerprint = np.add.reduceat(random[kind], starts)
        _, example, kind_of_set = np.unique(fingerprint, return_index=True, return_inverse=True)
        ends = np.append(starts[1:], len(kind))
        sets = [self.passes[:, kind[starts[i] : ends[i]]].max(1) for i in example]
        cell = key[starts] // (int(code.max(initial=0)) + 1)
        table = self._table(kind_of_set.ravel(), cell, len(sets))
        return np.stack(sets, axis=1) @ table.astype(np.float32)

    def net(self, weights: np.ndarray, code: np.ndarray, least: float) -> np.ndarray:
        """The sum of the codes (NULL is one, too) whose own sum is at least `least`."""
        found = np.zeros((len(self.passes), self.cells))
        edges = np.searchsorted(self.cell, np.arange(self.cells + 1))
        kinds, passes = self.passes.shape[1], self.passes.astype(np.float64)
        for cell, (start, end) in enumerate(pairwise(edges)):
            names, group = np.unique(code[start:end], return_inverse=True)
            flat = np.bincount(self.kind[start:end] * len(names) + group, weights[start:end], kinds * len(names))
            sums = passes @ flat.reshape(kinds, len(names))
            found[:, cell] = np.where(sums >= least, sums, 0).sum(1)
        return found


def compute_table(candidates: Candidates, periods: Sequence[Period]) -> np.ndarray:
    """`compute_values` of every period: periods by definitions."""
    first = compute_values(candidates, periods[0]) if periods else np.zeros(0)
    found = np.empty((len(periods), len(candidates.kpi)), first.dtype)
    for i, period in enumerate(periods):
        found[i] = compute_values(candidates, period) if i else first
    return found
