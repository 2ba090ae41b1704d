"""Why a row is on one side only, or has another amount there.

What only the export has is held against our definition, which is known: the reason is the predicate that it fails, and
it is decisive if it is the only one. What only we have is held against the export's definition, which is not known: a
trait of the row can be the reason only if no row of the export has it; the fewest such traits that cover the rows are
taken. What was changed after the export was made needs no other reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

import numpy as np
import pandas as pd

from stkpi.reconcile.comparisons import Comparison

IDENTICAL, THERE, HERE, DIFFERENT = "identical", "only there", "only here", "different amount"
SIDES = (IDENTICAL, THERE, HERE, DIFFERENT)

REASONS: Mapping[str, str] = {
    "changed": "changed after the export was made",
    "no_key": "no id in common, only the customer's name",
    "not_in_warehouse": "not in the warehouse at all",
    "inactive": "inactive or deleted in ServiceTitan",
    "division": "a unit of the other division, or of none",
    "unit": "another business unit",
    "type_without_name": "a job type that has no name",
    "type": "a job type that does not count",
    "type_inactive": "an inactive job type",
    "test_customer": "a test customer",
    "status": "a status that does not count",
    "no_charge": "a no-charge job",
    "created_later": "created after the period's last day",
    "zero": "an amount of zero",
    "small_balance": "a location that owes less than $10",
    "utc": "another day by UTC than by the tenant's clock",
    "other_date": "counted by another date",
    "other_year": "the same days of another year",
    "outside": "outside the dates",
    "undated": "without the date that counts",
    "commercial": "a commercial (COMM) unit",
    "unit_not_named": "a unit that the export does not have",
    "canceled": "canceled",
    "not_completed": "not completed",
    "not_sold": "not sold",
    "merged": "a customer who was merged into another",
    "same_customer": "a customer who is counted already",
    "no_customer": "a customer without a name",
    "refund": "a refund",
    "unapplied": "a payment that is not applied",
    "not_applied": "a payment that is not applied like this",
    "adjustment": "an adjustment invoice",
    "change_order": "a change order",
    "no_job": "an estimate without a job",
    "listed_twice": "listed more than once in the export",
    "amount": "another amount of the same row",
    "rounding": "cents within the tolerance",
    "absent": "missing in the export, though it meets every rule",
    "stale": "newer than the KPI tables: build them again",
    "summary": "the report has no rows: export what is behind its number",
    "asked_dates": "the dates asked for are not those of the export",
}
_OF_PREDICATE = {
    "is_active": "inactive",
    "in_division": "division",
    "in_unit": "unit",
    "has_type_name": "type_without_name",
    "is_estimate": "type",
    "is_production_type": "type",
    "is_real_customer": "test_customer",
    "is_completed": "status",
    "is_not_canceled": "status",
    "has_outcome": "status",
    "is_sold": "status",
    "has_appointment": "status",
    "is_charged": "no_charge",
    "is_created_in_time": "created_later",
    "has_amount": "not_applied",
    "has_balance": "zero",
    "is_large": "small_balance",
}
MOST = 0.5
_SHIFTS = tuple(timedelta(days=sign * days) for days in (364, 365, 366, 728, 730, 731) for sign in (1, -1))


@dataclass(frozen=True)
class Frame:
    """What a row is judged by beside itself: the window, when the export was made, and the units that it names."""

    comparison: Comparison
    first_day: date
    last_day: date
    exported_at: datetime | None
    units_named: frozenset[str] | None


def explain(rows: pd.DataFrame, frame: Frame) -> pd.DataFrame:
    """The rows (see `compare`) with `reason`, `decisive` and `fails`, the list of everything that speaks against a row.

    Every row that is not identical has a reason. It is decisive if nothing else keeps the row on its side.
    """
    found = pd.DataFrame({"reason": None, "decisive": False, "fails": ""}, index=rows.index, dtype=object)
    for side, judge in ((THERE, _there), (HERE, _here), (DIFFERENT, _different)):
        chosen = rows["side"] == side
        if chosen.any():
            found.loc[chosen] = judge(rows, chosen, frame)
    _pair_by_name(rows, found)
    _share(rows, found)
    return rows.join(found)


# --- only there: which predicates of our definition fail ------------------------------------------------------------


def _there(rows: pd.DataFrame, chosen: pd.Series, frame: Frame) -> pd.DataFrame:
    part = rows[chosen]
    fails: dict[str, pd.Series] = {"not_in_warehouse": part["record_id"].isna()}
    known = ~fails["not_in_warehouse"]
    for predicate in frame.comparison.predicates:
        failed = known & ~part[predicate].fillna(True).astype(bool)
        reason = _OF_PREDICATE[predicate]
        fails[reason] = fails.get(reason, False) | failed
    fails |= {reason: known & failed for reason, failed in _outside(rows, chosen, frame).items()}
    count = sum(failed.astype(int) for failed in fails.values())
    undated = part[f"{frame.comparison.date}_date"].isna()
    fails["undated"] = undated & (count == 0)
    fails["stale"] = ~undated & (count == 0)
    changed = known & _changed(part, frame)
    decisive = changed | (count <= 1)
    first = _first(fails, part.index)
    return pd.DataFrame(
        {
            "reason": first.where(~changed, "changed"),
            "decisive": decisive,
            "fails": _joined({"changed": changed} | fails),
        }
    )


def _outside(rows: pd.DataFrame, chosen: pd.Series, frame: Frame) -> dict[str, pd.Series]:
    """Why a row's date lies outside the window: one reason for each row that does, none for one without a date.

    The export can be by another date only if that date of all its rows lies inside; the fewest such dates are taken.
    """
    name = frame.comparison.date
    own = f"{name}_date"
    matched = rows["side"].isin([IDENTICAL, DIFFERENT])
    left = chosen & rows[own].notna() & ~_within(rows, own, frame)
    others = {"utc": f"{name}_utc"} | {f"other_date:{column}": column for column in _dates(rows) if column != own}
    inside = {reason: _within(rows, column, frame) for reason, column in others.items()}
    found = _fewest({reason: hit for reason, hit in inside.items() if hit[matched].all()}, left)
    days = pd.to_datetime(rows[own])
    year = pd.Series(False, index=rows.index)
    for shift in _SHIFTS:
        year |= (days + shift).between(pd.Timestamp(frame.first_day), pd.Timestamp(frame.last_day))
    found[left & found.isna()] = "outside"
    found[left & year & (found == "outside")] = "other_year"
    return {reason: (found == reason)[chosen] for reason in ("utc", "other_date", "other_year", "outside")}


def _fewest(causes: Mapping[str, pd.Series], left: pd.Series) -> pd.Series:
    """For each row that is left one cause that holds for it, the fewest that cover them all; None where none does."""
    found = pd.Series(None, index=left.index, dtype=object)
    causes, left = dict(causes), left.copy()
    while causes:
        name = max(causes, key=lambda name: int((causes[name] & left).sum()))  # of equals the first
        covered = causes.pop(name) & left
        found[covered] = name.partition(":")[0]
        left &= ~covered
    return found


# --- only here: what the rows have in common that no row of the export has -------------------------------------------


def _here(rows: pd.DataFrame, chosen: pd.Series, frame: Frame) -> pd.DataFrame:
    part = rows[chosen]
    matched = rows["side"].isin([IDENTICAL, DIFFERENT])
    changed = _changed(part, frame)
    traits = _traits(rows, matched, frame) if matched.any() else {}
    possible = {name: trait[chosen] for name, trait in traits.items() if not trait[matched].any()}
    reason = _fewest(possible, ~changed).fillna("absent").where(~changed, "changed")
    fails = _joined({"changed": changed} | possible)
    return pd.DataFrame({"reason": reason, "decisive": True, "fails": fails.where(fails != "", reason)})


def _traits(rows: pd.DataFrame, matched: pd.Series, frame: Frame) -> dict[str, pd.Series]:
    """Everything for which a report could leave a row out, the more specific first; a suffix tells two dates apart."""
    comparison = frame.comparison
    date_name = f"{comparison.date}_date"
    has: Callable[[str], bool] = rows.columns.__contains__
    no = pd.Series(False, index=rows.index)

    def flag(name: str, missing: bool) -> pd.Series:
        return rows[name].astype(object).where(rows[name].notna(), missing).astype(bool) if has(name) else no

    def out(column: str) -> pd.Series:
        return ~_within(rows, column, frame) if has(column) else no

    # One customer counts once in a distinct count only.
    customers = _counted_already(rows["customer_id"], matched) if comparison.distinct else no
    traits = {"utc": out(f"{comparison.date}_utc")}
    traits["type_inactive"] = ~flag("type_is_active", True) if has("type_is_active") else no
    traits["type_without_name"] = rows["job_type_name"].isna() if has("has_type_name") else no
    traits["commercial"] = rows["segment"] == "COMM"
    traits["unit_not_named"] = no if frame.units_named is None else ~rows["unit_name"].isin(frame.units_named)
    traits["no_customer"] = rows["customer_name"].isna()
    roots = _counted_already(rows["root_customer_id"], matched) if comparison.distinct else no
    traits["merged"] = roots & ~customers
    traits["same_customer"] = customers
    traits["zero"] = _zero(rows, comparison)
    traits["refund"] = (rows["amount_here"] < 0) if comparison.name == "dollars_collected" else no
    traits["adjustment"] = flag("is_adjustment", False)
    traits["unapplied"] = ~flag("is_applied", True) if has("is_applied") else no
    traits["change_order"] = flag("is_change_order", False)
    traits["no_job"] = ~flag("has_job", True) if has("has_job") else no
    traits["type"] = ~flag("is_estimate_job", True) if has("is_estimate_job") else no
    traits["canceled"] = rows["job_status"] == "Canceled"
    traits["not_completed"] = rows["job_status"] != "Completed"
    traits["not_sold"] = ~flag("is_closed", True) if has("is_closed") else no
    for column in _dates(rows):
        if column != date_name:
            traits[f"other_date:{column}"] = out(column)
    return traits


def _counted_already(ids: pd.Series, matched: pd.Series) -> pd.Series:
    """Whether another row that both sides have is of the same customer."""
    counts = ids.map(ids[matched].value_counts()).fillna(0)
    return counts > matched.astype(int)


def _zero(rows: pd.DataFrame, comparison: Comparison) -> pd.Series:
    amounts = [rows[f"{column.name}_here"] for column in comparison.columns if not column.flag]
    return (amounts[0] == 0) if amounts else pd.Series(False, index=rows.index)


# --- on both sides, with another amount -------------------------------------------------------------------------------


def _different(rows: pd.DataFrame, chosen: pd.Series, frame: Frame) -> pd.DataFrame:
    part = rows[chosen]
    column = next(column for column in frame.comparison.columns if column.fields)
    there, here = part[f"{column.name}_there"], part[f"{column.name}_here"]
    fails = {
        "changed": _changed(part, frame),
        "listed_twice": (part["listed"] > 1) & ((there - here * part["listed"]).abs() <= column.tolerance),
        "adjustment": _equal(part.get("adjustments"), here - there, column.tolerance),
    }
    fails["amount"] = ~(fails["changed"] | fails["listed_twice"] | fails["adjustment"])
    return pd.DataFrame({"reason": _first(fails, part.index), "decisive": True, "fails": _joined(fails)})


def _equal(amounts: pd.Series | None, others: pd.Series, tolerance: object) -> pd.Series:
    if amounts is None:
        return pd.Series(False, index=others.index)
    return (amounts != 0) & ((amounts - others).abs() <= tolerance)


# --- shared -----------------------------------------------------------------------------------------------------------


def _pair_by_name(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    """A row there without a known id and a row that only we have, of one customer, are said to be one.

    A row there without any id is said to repeat another of its customer, if there is one.
    """
    there = rows.index[(rows["side"] == THERE) & rows["record_id"].isna() & rows["customer_there"].notna()]
    if there.empty:
        return
    names = rows["customer_name"].map(_same_name, na_action="ignore")
    here = rows["side"] == HERE
    waiting: dict[str, list[object]] = {}
    for index, name in names[here].dropna().items():
        waiting.setdefault(name, []).append(index)
    others = set(names[~here].dropna())
    wanted = rows.loc[there, "customer_there"].map(_same_name)
    without_id = rows.loc[there, "key"] == "row " + rows.loc[there, "row"].astype(str)
    for index, name in wanted.items():
        if waiting.get(name):
            found.loc[[index, waiting[name].pop()], ["reason", "decisive", "fails"]] = ["no_key", True, "no_key"]
        elif without_id[index] and name in others:
            found.loc[index, ["reason", "fails"]] = "no_key"


def _share(rows: pd.DataFrame, found: pd.DataFrame) -> None:
    """Where no row is in common because the export is of other days or units, that is why it lacks ours."""
    there = found.loc[rows["side"] == THERE, "reason"]
    here = (rows["side"] == HERE) & (found["reason"] == "absent")
    if len(there) and not rows["side"].isin([IDENTICAL, DIFFERENT]).any():
        main = there.mode()[0]
        if main in ("other_year", "outside", "unit", "division") and (there == main).mean() > MOST:
            found.loc[here, ["reason", "fails"]] = main


def _same_name(name: str) -> str:
    return " ".join(name.lower().split())


def _changed(part: pd.DataFrame, frame: Frame) -> pd.Series:
    column = part[frame.comparison.changed]
    if frame.exported_at is None:
        return pd.Series(False, index=part.index)
    return (pd.to_datetime(column, utc=True) > pd.Timestamp(frame.exported_at)).fillna(False)


def _dates(rows: pd.DataFrame) -> Sequence[str]:
    return [column for column in rows.columns if column.endswith("_date")]


def _within(rows: pd.DataFrame, column: str, frame: Frame) -> pd.Series:
    if column not in rows:
        return pd.Series(False, index=rows.index)
    days = pd.to_datetime(rows[column])
    return days.between(pd.Timestamp(frame.first_day), pd.Timestamp(frame.last_day))


def _first(fails: Mapping[str, pd.Series], index: pd.Index) -> pd.Series:
    reason = pd.Series(None, index=index, dtype=object)
    for name, failed in reversed(fails.items()):
        reason = reason.where(~failed, name)
    return reason


def _joined(fails: Mapping[str, pd.Series]) -> pd.Series:
    names = list(fails)
    table = np.column_stack([failed.astype(bool) for failed in fails.values()])
    index = next(iter(fails.values())).index
    return pd.Series(
        [", ".join(name for name, failed in zip(names, row, strict=True) if failed) for row in table], index
    )
