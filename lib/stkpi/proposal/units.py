"""Guess what each ServiceTitan unit is: which one it counts under, its region, its division, its segment.

By its name where that says it, else by what its jobs are. What stays unclear is no guess: a unit counts as itself, as
Both, and without a region and segment.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from stkpi import company

SALES, PRODUCTION = "Sales", "Production"
_SELLS = re.compile(r"\b(sales|selling|estimat\w+|consult\w*)\b", re.IGNORECASE)
_PRODUCES = re.compile(r"\b(production|install\w*|crews?)\b", re.IGNORECASE)
_SEGMENTS = {
    "COMM": re.compile(r"\bcomm(ercial)?\b", re.IGNORECASE),
    "RES": re.compile(r"\bres(idential)?\b", re.IGNORECASE),
}
_RETIRED = re.compile(r"do not use|\bdnu\b|\binactive\b|\bretired\b|\barchived\b|^z+\b\W+", re.IGNORECASE)
_OLD = re.compile(r"\b(old|closed|legacy)\b", re.IGNORECASE)  # "Old Town" is in use
_SEPARATOR = re.compile(r"\s+[-\u2013\u2014:|]+\s+|:\s+")
_MARKS = " -\N{EN DASH}\N{EM DASH}:|/"
# What a unit does, and not where.
_NO_PLACE = re.compile(
    r"\b(hvac|heating|cooling|air|ac|plumbing|drains?|sewer|electric\w*|roof\w*|paint\w*|solar|garage|service|repairs?"
    r"|maintenance|replacement|construction|admin|office|warranty|z+)\b",
    re.IGNORECASE,
)
_LIKE = 0.85  # of two words of a name: "Plumbng" is "Plumbing"
_FEW = 10  # jobs that say something; fewer say nothing
_CLEAR = 0.1  # up to this share of the other kind a unit is of one division
_CONTRADICTS = 0.25  # from this share on, the jobs outweigh the name


@dataclass(frozen=True)
class Unit:
    """A ServiceTitan unit, and how many of its jobs have an estimate, and how many are invoiced work."""

    name: str
    active: bool = True
    trade: str = ""
    estimated: int = 0
    worked: int = 0

    @property
    def is_retired(self) -> bool:
        """Whether it is inactive, or its name says so."""
        return not self.active or bool(_RETIRED.search(self.name))


def propose_units(units: Sequence[Unit], known: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """Return a row of business_units.csv, its reason in `guess`, for each unit that no row of `known` names."""
    rows = {row["business_unit"]: dict(row) for row in known}
    regions = _find_regions([unit.name for unit in units])
    missing = [unit for unit in units if unit.name not in rows]
    for unit in sorted(missing, key=lambda unit: unit.is_retired):  # a retired one counts as its successor does
        rows[unit.name] = _propose_unit(unit, units, regions, rows)
    return [rows[unit.name] for unit in missing]


def _propose_unit(
    unit: Unit, units: Sequence[Unit], regions: Mapping[str, str], rows: Mapping[str, Mapping[str, str]]
) -> dict[str, str]:
    segment = next((segment for segment, pattern in _SEGMENTS.items() if pattern.search(unit.name)), "")
    successor, reason = _find_successor(unit, units) if unit.is_retired else (None, "")
    if successor:
        row = rows[successor.name]
        given = {"rollup": row["rollup"] or successor.name, "region": row["region"], "division": row["division"]}
        reasons = [reason]
    else:
        division, reason = guess_division(unit)
        given = {"rollup": unit.name, "region": regions.get(unit.name, ""), "division": division}
        reasons = [reason, "region by the beginning of its name" * bool(given["region"])]
    reasons.append("segment by name" * bool(segment))
    return {"business_unit": unit.name, **given, "segment": segment, company.GUESS: "; ".join(filter(None, reasons))}


def guess_division(unit: Unit) -> tuple[str, str]:
    """Return the division of a unit, and the reason in words."""
    sells, produces = bool(_SELLS.search(unit.name)), bool(_PRODUCES.search(unit.name))
    total = unit.estimated + unit.worked
    seen = f"{unit.estimated} jobs with an estimate, {unit.worked} invoiced work"
    produced = unit.worked / total if total >= _FEW else None
    if sells != produces:
        named, other = (SALES, produced) if sells else (PRODUCTION, None if produced is None else 1 - produced)
        if other is not None and other >= _CONTRADICTS:
            return company.BOTH, f"its name says {named}, its jobs say more ({seen}): counts as Both"
        return named, "division by name"
    if produced is None:
        return company.BOTH, "no evidence: counts as Both"
    if produced <= _CLEAR or produced >= 1 - _CLEAR:
        return SALES if produced <= _CLEAR else PRODUCTION, f"division by its jobs: {seen}"
    return company.BOTH, f"it sells and produces: {seen}"


def _find_successor(unit: Unit, units: Sequence[Unit]) -> tuple[Unit | None, str]:
    """Return the one unit in use that a retired one became, and why it is taken for it."""
    in_use = [other for other in units if not other.is_retired]
    words = _list_words(_OLD.sub(" ", unit.name))
    for reason, found in (
        ("its name is that of", [other for other in in_use if _are_alike(words, _list_words(other.name))]),
        ("its trade is that of", [other for other in in_use if unit.trade and other.trade == unit.trade]),
    ):
        if len(found) == 1:
            return found[0], f"not in use, and {reason} {found[0].name}"
    return None, ""


def _list_words(name: str) -> list[str]:
    return sorted(re.findall(r"[^\W_]+", _RETIRED.sub(" ", name).lower()))


def _are_alike(left: Sequence[str], right: Sequence[str]) -> bool:
    """Whether two names have the same words, each but for a letter."""
    pairs = zip(left, right, strict=False)
    return 0 < len(left) == len(right) and all(SequenceMatcher(None, *pair).ratio() >= _LIKE for pair in pairs)


def _find_regions(names: Iterable[str]) -> dict[str, str]:
    """Return the region of each name: how it begins, where several units begin so and several such beginnings exist."""
    begins = {name: begin for name in names if (begin := _find_beginning(name))}
    shared = {begin for begin, count in Counter(begins.values()).items() if count > 1}
    return {name: begin for name, begin in begins.items() if begin in shared} if len(shared) > 1 else {}


def _find_beginning(name: str) -> str:
    """Return what stands before the division or segment of a name, else before its first dash; empty where that is no
    place: "Plumbing - Install" begins with what the unit does.
    """
    plain = _RETIRED.sub(" ", name).strip(_MARKS)
    ends = [found.start() for pattern in (_SELLS, _PRODUCES, *_SEGMENTS.values()) if (found := pattern.search(plain))]
    parts = _SEPARATOR.split(plain[: min(ends)] if ends else plain)
    begin = parts[0].strip(_MARKS) if ends or len(parts) > 1 else ""
    return "" if _NO_PLACE.search(begin) else begin
