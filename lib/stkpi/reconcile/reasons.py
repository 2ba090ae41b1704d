"""Why a row is on one side only, or has another amount there.

What only the export has is held against our definition, which is known: the reason is the dimension whose chosen option
leaves the row out, and it is decisive if it is the only one. What only we have is held against the export's definition,
which is not known: another option, or a trait of the row, can be the reason only if it leaves out no row of the export;
the fewest that cover the rows are taken. What was changed after the export was made needs no other reason.

A reason is the name of a dimension (its chosen option), `dimension:option` (another option), or one of REASONS.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import chain
from typing import Any

import numpy as np
import pandas as pd

from stkpi.kpis.catalog import Option
from stkpi.kpis.days import read_days
from stkpi.kpis.sql import operands, split_operand
from stkpi.reconcile.comparison import EVER, Amount, Comparison, Window

IDENTICAL, ONLY_EXPORT, ONLY_WAREHOUSE, DIFFERENT = "identical", "only there", "only here", "different amount"
SIDES = (IDENTICAL, ONLY_EXPORT, ONLY_WAREHOUSE, DIFFERENT)
IN_EXPORT, IN_WAREHOUSE = "_in_export", "_in_warehouse"  # suffixes of the columns that both sides have

# The reasons that no definition has words for.
REASONS: Mapping[str, str] = {
    "changed": "changed after the export was made",
    "no_key": "no id in common, only the customer's name",
    "not_in_warehouse": "not in the warehouse at all",
    "other_key": "known, but not together with this number",
    "division": "a unit of the other division, or of none",
    "unit": "another business unit",
    "type_without_name": "a job type that has no name",
    "created_later": "created after the period's last day",
    "zero": "an amount of zero",
    "utc": "another day by UTC than by the company's clock",
    "other_year": "the same days of another year",
    "outside": "outside the dates",
    "undated": "without the date that counts",
    "unit_not_named": "a unit that the export does not have",
    "merged": "a customer who was merged into another",
    "same_customer": "a customer who is counted already",
    "counted_already": "counted already by another row",
    "no_customer": "a customer without a name",
    "listed_twice": "listed more than once in the export",
    "amount": "another amount of the same row",
    "rounding": "cents within the tolerance",
    "absent": "missing in the export, though it meets every rule",
    "stale": "newer than the KPI tables: build them again",
    "totals": "the report has no rows: export what is behind its number",
    "asked_dates": "the dates asked for are not those of the export",
}
# How the words of an option of these dimensions are introduced: they say how it counts, not what a row is.
_INTRODUCED = {
    "date": "counted by another date",
    "window": "counted over other days",
    "attribution": "counted under another unit",
    "rollup": "counted under another unit",
    "measure": "measured otherwise",
}
_LEAVES_OUT = re.compile(r"!=|\bNOT\b")
MOST = 0.5
_YEARS = tuple(timedelta(days=sign * days) for days in (364, 365, 366, 728, 730, 731) for sign in (1, -1))
Causes = dict[str, pd.Series]


@dataclass(frozen=True)
class Context:
    """What a row is judged by besides itself.

    exported_at: when the export was made, if that is known
    units_named: the units that the export names, None where it names none
    left_out: the keys that the chosen measure leaves out, such as those of small balances
    """

    comparison: Comparison
    window: Window
    exported_at: datetime | None = None
    units_named: frozenset[str] | None = None
    left_out: frozenset[str] = field(default_factory=frozenset)


def describe_reason(reason: str, comparison: Comparison) -> str:
    """Return a reason in words that follow `3 jobs only there, …`."""
    if reason in REASONS:
        return REASONS[reason]
    name, _, id = reason.partition(":")
    option = comparison.kpi.dimension(name).option(id) if id else comparison.definition[name]
    if id and name in _INTRODUCED and not option.out:
        return f"{_INTRODUCED[name]} ({option.why})"
    return option.out or f"left out by {name.replace('_', ' ')} {option.id} ({option.why})"


def explain(rows: pd.DataFrame, context: Context) -> pd.DataFrame:
    """Return the rows (see `compare`) with `reason`, `decisive` and `fails`: everything that speaks against a row.

    Every row that is not identical has a reason. It is decisive if nothing else keeps the row on its side.
    """
    found = pd.DataFrame({"reason": None, "decisive": False, "fails": ""}, index=rows.index, dtype=object)
    judges = {
        ONLY_EXPORT: _judge_export_rows,
        ONLY_WAREHOUSE: _judge_warehouse_rows,
        DIFFERENT: _judge_different_rows,
    }
    for side, judge in judges.items():
        chosen = rows["side"] == side
        if chosen.any():
            found.loc[chosen] = judge(rows, chosen, context)
    _pair_by_name(rows, found)
    _share_main_reason(rows, found)
    return rows.join(found)


# --- only there: which dimensions of our definition leave it out ------------------------------------------------------


def _judge_export_rows(rows: pd.DataFrame, chosen: pd.Series, context: Context) -> pd.DataFrame:
    definition = context.comparison.definition
    missing = rows["in_warehouse"].isna()
    known = ~missing & _is_true(rows, "is_exact")
    fails: Causes = {"not_in_warehouse": missing, "other_key": ~missing & ~known}
    in_division = _is_true(rows, "in_division")
    fails["division"] = known & ~in_division
    fails |= _find_other_units(rows, known & in_division & ~_is_true(rows, "in_unit"), context)
    for name, option in definition.conditions.items():
        failed = known & ~_is_true(rows, f"{name}:{option.id}")
        if "job_type_name" in str(option.says) and "job_type_name" in rows:
            unnamed = rows["job_type_name"].isna()
            fails["type_without_name"] = failed & unnamed
            failed &= ~unnamed
        fails[name] = failed
    fails |= {reason: known & failed for reason, failed in _find_other_days(rows, chosen, context).items()}
    fails["created_later"] = known & ~_is_true(rows, "was_known")
    fails = {name: failed[chosen] for name, failed in fails.items()}
    count = sum(failed.astype(int) for failed in fails.values())
    part, open_ = rows[chosen], count == 0
    fails["undated"] = part["day"].isna() & open_
    open_ &= ~fails["undated"]
    fails["measure"] = part["key"].isin(context.left_out) & open_
    fails["zero"] = open_ & ~fails["measure"] & context.comparison.has_no_beginning
    fails["stale"] = open_ & ~fails["measure"] & ~fails["zero"]
    changed = known[chosen] & _is_changed(part, context)
    return pd.DataFrame(
        {
            "reason": _take_first(fails, part.index).where(~changed, "changed"),
            "decisive": changed | (count <= 1),
            "fails": _list_causes({"changed": changed} | fails),
        }
    )


def _find_other_units(rows: pd.DataFrame, outside: pd.Series, context: Context) -> Causes:
    """Why a row's unit is another one: the export may take the unit from elsewhere, if that holds for all its rows."""
    matched = _is_matched(rows)
    others = {
        f"{name}:{option.id}": _is_true(rows, f"{name}:{option.id}")
        for name in ("attribution", "rollup")
        for option in _list_alternatives(context.comparison, name)
    }
    found = _take_fewest({name: hit for name, hit in others.items() if hit[matched].all() and matched.any()}, outside)
    found[outside & found.isna()] = "unit"
    return {reason: found == reason for reason in ("unit", *others)}


def _find_other_days(rows: pd.DataFrame, chosen: pd.Series, context: Context) -> Causes:
    """Why a row's date lies outside the days: one reason for each row that does, none for one without a date.

    The export can be by another date only if that date of all its rows lies inside; the fewest such dates are taken.
    """
    matched = _is_matched(rows)
    left = chosen & rows["day"].notna() & ~_is_within(rows, "day", context)
    others = ["utc", *(f"date:{option.id}" for option in _list_alternatives(context.comparison, "date"))]
    inside = {name: _is_within(rows, name, context) for name in others if name in rows}
    inside |= _find_other_windows(rows, context)
    found = _take_fewest({name: hit for name, hit in inside.items() if hit[matched].all()}, left)
    found[left & found.isna()] = "outside"
    days, year = pd.to_datetime(rows["day"]), pd.Series(False, index=rows.index)
    first, last = map(pd.Timestamp, context.window.days_read)
    for shift in _YEARS:
        year |= (days + shift).between(first, last)
    found[left & year & (found == "outside")] = "other_year"
    return {reason: found == reason for reason in (*inside, "other_year", "outside")}


def _find_other_windows(rows: pd.DataFrame, context: Context) -> Causes:
    """Whether each row lies within the days that another window reads for the same period; none where the days of the
    comparison are not a period's.
    """
    comparison, window = context.comparison, context.window
    if comparison.has_no_beginning or comparison.looks_ahead:
        return {}
    found: Causes = {}
    for option in _list_alternatives(comparison, "window"):
        first, last, _ = read_days(option, comparison.definition["shift"], window.first_day, window.last_day)
        if first > EVER:
            found[f"window:{option.id}"] = pd.to_datetime(rows["day"]).between(pd.Timestamp(first), pd.Timestamp(last))
    return found


def _take_fewest(causes: Mapping[str, pd.Series], left: pd.Series) -> pd.Series:
    """For each row that is left one cause that holds for it, the fewest that cover them all; None where none does."""
    found = pd.Series(None, index=left.index, dtype=object)
    causes, left = dict(causes), left.copy()
    while causes:
        name = max(causes, key=lambda name: int((causes[name] & left).sum()))  # of equals the first
        covered = causes.pop(name) & left
        found[covered] = name
        left &= ~covered
    return found


# --- only here: what the rows have in common that no row of the export has --------------------------------------------


def _judge_warehouse_rows(rows: pd.DataFrame, chosen: pd.Series, context: Context) -> pd.DataFrame:
    part, matched = rows[chosen], _is_matched(rows)
    changed = _is_changed(part, context)
    traits = dict(_list_traits(rows, matched, context)) if matched.any() else {}
    possible = {name: trait[chosen] for name, trait in traits.items() if not trait[matched].any()}
    reason = _take_fewest(possible, ~changed).fillna("absent").where(~changed, "changed")
    fails = _list_causes({"changed": changed} | possible)
    return pd.DataFrame({"reason": reason, "decisive": True, "fails": fails.where(fails != "", reason)})


def _list_traits(rows: pd.DataFrame, matched: pd.Series, context: Context) -> Iterator[tuple[str, pd.Series]]:
    """Everything for which a report could leave a row out.

    Of those that hold for the same rows the first is taken: what is said of a row itself, then other options (those
    that say what they leave out, such as `!= 'Canceled'`, before those that say what they let in; the likelier first),
    then other units, dates and days.
    """
    comparison = context.comparison
    if "utc" in rows:
        yield "utc", ~_is_within(rows, "utc", context)
    if "job_type_name" in rows and "job_type_name" in " ".join(_condition_texts(comparison)):
        yield "type_without_name", rows["job_type_name"].isna()
    if (column := comparison.distinct) is not None:
        taken = _is_counted_already(rows[f"members{IN_WAREHOUSE}"], matched)
        if column == "customer_id":
            roots = rows["root_customer_id"].map(lambda id: () if pd.isna(id) else (id,))
            yield "merged", _is_counted_already(roots, matched) & ~taken
        yield "same_customer" if "customer" in column else "counted_already", taken
    money = next((amount for amount in comparison.amounts if not amount.is_whole), None)
    if money:
        yield "zero", rows[f"{money.name}{IN_WAREHOUSE}"] == 0
    for option in _list_alternatives(comparison, "measure"):
        if money and "net" in option.says:
            amounts, groups = rows[f"{money.name}{IN_WAREHOUSE}"], rows[f"per:{option.id}"]
            balances = groups.map(amounts.groupby(groups).sum())
            yield f"measure:{option.id}", (balances < option.says["least"]).fillna(False).astype(bool)
    options = [
        (not _LEAVES_OUT.search(str(option.says)), option.bits, f"{dimension.name}:{option.id}")
        for dimension in comparison.kpi.conditions
        for option in _list_alternatives(comparison, dimension.name)
        if option.says != "TRUE"
    ]
    for _, _, name in sorted(options, key=lambda option: option[:2]):
        yield name, ~_is_true(rows, name)
    yield "no_customer", rows["customer_name"].isna()
    if context.units_named is not None:
        yield "unit_not_named", ~rows["unit_name"].isin(context.units_named)
    for name in ("attribution", "rollup", "date"):
        for option in _list_alternatives(comparison, name):
            reason = f"{name}:{option.id}"
            yield reason, ~(_is_within(rows, reason, context) if name == "date" else _is_true(rows, reason))
    for reason, within in _find_other_windows(rows, context).items():
        yield reason, ~within


def _condition_texts(comparison: Comparison) -> list[str]:
    return [str(option.says) for option in comparison.definition.conditions.values()]


def _list_alternatives(comparison: Comparison, dimension: str) -> list[Option]:
    """The options of a dimension that were not chosen."""
    chosen = comparison.definition[dimension]
    return [option for option in comparison.kpi[dimension] if option.says != chosen.says]


def _is_counted_already(members: pd.Series, matched: pd.Series) -> pd.Series:
    """Whether another row that both sides have stands for the same value."""
    counts = Counter(chain.from_iterable(members[matched].tolist()))
    own = [max(map(counts.__getitem__, values), default=0) for values in members.tolist()]
    return pd.Series(own, members.index, int) > matched.astype(int)


# --- on both sides, with another amount -------------------------------------------------------------------------------


def _judge_different_rows(rows: pd.DataFrame, chosen: pd.Series, context: Context) -> pd.DataFrame:
    part, comparison = rows[chosen], context.comparison
    names = [amount.name for amount in comparison.amounts]
    theirs = {name: part[f"{name}{IN_EXPORT}"] for name in names}
    ours = {name: part[f"{name}{IN_WAREHOUSE}"] for name in names}
    every = pd.Series(True, index=part.index)
    changed = _is_changed(part, context)
    times, listed = part["listed"].map(lambda n: Decimal(int(n))), part["listed"] > 1
    for amount in comparison.amounts:
        if not amount.is_whole:
            listed &= (theirs[amount.name] - ours[amount.name] * times).abs() <= amount.tolerance
    listed &= ~changed
    others: Causes = {}
    for option in _list_alternatives(comparison, "measure"):
        fits = every.copy()
        for amount in comparison.amounts:
            value = _compute_otherwise(part, comparison, amount, option)
            fits &= (theirs[amount.name] - (ours[amount.name] if value is None else value)).abs() <= amount.tolerance
        others[f"measure:{option.id}"] = fits & ~changed & ~listed
    otherwise = _take_fewest(others, ~changed & ~listed)
    fails: Causes = {"changed": changed, "listed_twice": listed}
    fails |= {name: otherwise == name for name in others}
    fails["amount"] = ~changed & ~listed & otherwise.isna()
    return pd.DataFrame(
        {"reason": _take_first(fails, part.index), "decisive": True, "fails": _list_causes(fails)}, index=part.index
    )


def _compute_otherwise(part: pd.DataFrame, comparison: Comparison, amount: Amount, option: Option) -> pd.Series | None:
    """What an amount would have to be for the number of another measure; None where it would not change."""
    others = [split_operand(operand) for operand in operands(option.says)]
    if len(others) != len(comparison.parts):
        return None
    for own, other in zip(comparison.parts, others, strict=True):
        added = [term for term in other if term not in own]
        removed = [term for term in own if term not in other]
        # Terms that are only added count with the last one of their sign: labor, then labor and materials.
        hosts = removed or [term for term in own if added and term[0] == added[0][0]][-1:]
        for sign, name in hosts[:1]:
            if name == amount.name:
                terms = added if removed else [(sign, name), *added]
                values = (part[f"term:{term}"].map(_to_decimal) * Decimal(s * sign) for s, term in terms)
                return sum(values, pd.Series(Decimal(0), index=part.index, dtype=object))
    return None


def _to_decimal(value: Any) -> Decimal:
    return value if isinstance(value, Decimal) else Decimal(0)


# --- shared -----------------------------------------------------------------------------------------------------------


def _pair_by_name(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    """A row there without a known id and a row that only we have, of one customer, are said to be one.

    A row there without any id is said to repeat another of its customer, if there is one.
    """
    unknown = rows.index[
        (rows["side"] == ONLY_EXPORT) & rows["in_warehouse"].isna() & rows["customer_in_export"].notna()
    ]
    if unknown.empty:
        return
    names = rows["customer_name"].map(_plain_name, na_action="ignore")
    ours = rows["side"] == ONLY_WAREHOUSE
    waiting: dict[str, list[Any]] = {}
    for index, name in names[ours].dropna().items():
        waiting.setdefault(name, []).append(index)
    others = set(names[~ours].dropna())
    wanted = rows.loc[unknown, "customer_in_export"].map(_plain_name)
    without_id = rows.loc[unknown, "key"] == "row " + rows.loc[unknown, "row"].astype(str)
    for index, name in wanted.items():
        if waiting.get(name):
            pair = [index, waiting[name].pop()]
            found.loc[pair, ["reason", "fails"]] = "no_key"
            found.loc[pair, "decisive"] = True
        elif without_id[index] and name in others:
            found.loc[index, ["reason", "fails"]] = "no_key"


def _share_main_reason(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    """Where no row is in common because the export is of other days or units, that is why it lacks ours."""
    theirs = found.loc[rows["side"] == ONLY_EXPORT, "reason"]
    ours = (rows["side"] == ONLY_WAREHOUSE) & (found["reason"] == "absent")
    if len(theirs) and not _is_matched(rows).any():
        main = theirs.mode()[0]
        if main in ("other_year", "outside", "unit", "division") and (theirs == main).mean() > MOST:
            found.loc[ours, ["reason", "fails"]] = main


def _plain_name(name: str) -> str:
    return " ".join(name.lower().split())


def _is_matched(rows: pd.DataFrame) -> pd.Series:
    return rows["side"].isin([IDENTICAL, DIFFERENT])


def _is_true(rows: pd.DataFrame, column: str) -> pd.Series:
    """A bit of what is known of each row; of what is not known nothing is said to fail."""
    bits = rows[column].astype(object)
    return bits.where(bits.notna(), True).astype(bool)


def _is_changed(part: pd.DataFrame, context: Context) -> pd.Series:
    if context.exported_at is None:
        return pd.Series(False, index=part.index)
    return (pd.to_datetime(part["modified_on"], utc=True) > pd.Timestamp(context.exported_at)).fillna(False)


def _is_within(rows: pd.DataFrame, column: str, context: Context) -> pd.Series:
    first, last = map(pd.Timestamp, context.window.days_read)
    return pd.to_datetime(rows[column]).between(first, last)


def _take_first(fails: Mapping[str, pd.Series], index: pd.Index) -> pd.Series:
    reason = pd.Series(None, index=index, dtype=object)
    for name, failed in reversed(list(fails.items())):
        reason = reason.where(~failed, name)
    return reason


def _list_causes(fails: Mapping[str, pd.Series]) -> pd.Series:
    names = list(fails)
    table = np.column_stack([failed.astype(bool) for failed in fails.values()])
    index = next(iter(fails.values())).index
    return pd.Series(
        [", ".join(name for name, failed in zip(names, row, strict=True) if failed) for row in table], index
    )
