"""A comparison for people: one sentence, a text for the terminal, tables for a page, JSON and CSV. Names are masked,
unless the owner looks at them on a machine of the company.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi import company
from stkpi.formatting import format_change, format_decimal, format_number, format_span, mask_name
from stkpi.reconcile.bridge import Step
from stkpi.reconcile.compare import Result
from stkpi.reconcile.comparison import EVER, Window
from stkpi.reconcile.reasons import (
    DIFFERENT,
    IDENTICAL,
    IN_EXPORT,
    IN_WAREHOUSE,
    ONLY_EXPORT,
    ONLY_WAREHOUSE,
    SIDES,
    describe_reason,
)
from stkpi.spreadsheets import format_csv

MAIN_STEPS = 3
JOB_LINK = "https://go.servicetitan.com/#/Job/Index/{}"  # a job by its id, for who is logged in


def format_window(window: Window) -> str:
    """Return a window as people say it: Aug 18 to Aug 24, 2025."""
    return format_span(window.starts_on or window.last_day, window.last_day)


def summarize(result: Result) -> str:
    """Return what a manager needs to know, in one sentence."""
    comparison, kind = result.comparison, result.comparison.kpi.kind
    theirs, ours = format_number(result.theirs, kind), format_number(result.ours, kind)
    units = ", ".join(result.business_units) if len(result.business_units) < MAIN_STEPS else "all units"
    where = f"({units}, {format_window(result.window)})"
    if result.matches:
        rows = f"all {len(result.rows):,} {comparison.rows} are the same" if len(result.rows) else "there is nothing"
        return f"{result.origin} and we have the same {comparison.label}, {theirs} {where}: {rows}."
    what = f"{theirs} {comparison.label}" if kind == "count" else f"{comparison.label} of {theirs}"
    start = f"{result.origin} has {what}, we have {ours}"
    if result.asked:
        own = format_number(result.ours_in_window, kind)
        same = "also" if own == theirs else ""
        return (
            f"{start}: the export covers {format_window(result.window)}, but {format_window(result.asked)} was asked "
            f"for; on the export's own days we have {' '.join(filter(None, [same, own]))} ({units})."
        )
    largest = sorted(result.steps, key=lambda step: (abs(step.change), step.rows), reverse=True)[:MAIN_STEPS]
    main = "; ".join(f"{_count_step(step, result)} ({format_change(step.change, kind)})" for step in largest)
    same = ", and the differences cancel out" if theirs == ours else ""
    return f"{start} {where}{same}: {main}."


MOST_TYPES = 8  # that a hint names


def list_hints(result: Result) -> list[str]:
    """Return where to look first: the few job types that all rows of one side have, and none that is on both sides."""
    rows, comparison = result.rows, result.comparison
    if "job_type_name" not in rows:
        return []
    known, hints = rows["job_type_name"], []
    types = known.where(known.notna(), rows[f"job_type{IN_EXPORT}"])
    on_both = set(types[rows["side"].isin([IDENTICAL, DIFFERENT])].unique())
    options = [option for dimension in comparison.kpi.dimensions for option in dimension.options]
    by_rule = any(company.JOB_TYPE_RULES in option.why for option in options)
    for side, of_side in ((ONLY_EXPORT, IN_EXPORT), (ONLY_WAREHOUSE, IN_WAREHOUSE)):
        # A row that adds nothing, such as a job without revenue, says nothing about why the numbers differ.
        amounts = rows[[f"{amount.name}{of_side}" for amount in comparison.amounts]]
        counts = amounts.ne(0).any(axis=1) | bool(comparison.distinct)
        # Rows of the other division are in the report of all units only.
        here = types[(rows["side"] == side) & counts & (rows["reason"] != "division")]
        named = sorted(here.dropna().unique())
        if len(here) > 1 and here.notna().all() and len(named) <= MOST_TYPES and not on_both & set(named):
            words = f"{'s' if len(named) > 1 else ''} {' or '.join(filter(None, (', '.join(named[:-1]), named[-1])))}"
            kinds = f"{len(here):,} {comparison.rows} {side} that count are of the job type{words}"
            file = f"{company.JOB_TYPE_RULES} of your company folder"
            look = f" {file} says whether they count: correct it if it is wrong." if by_rule else ""
            hints.append(f"All {kinds}, and none on both sides is.{look}")
    return hints


def _count_step(step: Step, result: Result) -> str:
    rows = result.comparison.rows if step.rows != 1 else result.comparison.rows.removesuffix("s")
    return f"{step.rows:,} {rows} {step.side}, {describe_reason(step.reason, result.comparison)}"


def describe_step(step: Step, result: Result) -> str:
    """Return a step in a few words."""
    words = describe_reason(step.reason, result.comparison)
    return f"{step.side}: {words}" if step.side else words


def build_bridge_table(result: Result) -> pd.DataFrame:
    """Return the way from their number to ours: what, rows, change, number after it. The last row is the residual."""
    kind = result.comparison.kpi.kind
    lines = [
        (result.origin, int((result.rows["side"] != ONLY_WAREHOUSE).sum()), "", format_number(result.theirs, kind))
    ]
    lines += [
        (describe_step(step, result), step.rows, format_change(step.change, kind), format_number(step.after, kind))
        for step in result.steps
    ]
    lines.append(("ours", int((result.rows["side"] != ONLY_EXPORT).sum()), "", format_number(result.ours, kind)))
    lines.append(("unexplained", 0, format_change(result.residual, kind), ""))
    return pd.DataFrame(lines, columns=["step", "rows", "change", "number"])


def list_waterfall_steps(result: Result) -> list[tuple[str, float, str]]:
    """Return the bridge as a chart takes it: name, amount, its text; their number first, ours last."""
    kind = result.comparison.kpi.kind
    between = [
        (describe_step(step, result), float(step.change), format_change(step.change, kind))
        for step in result.steps
        if step.change
    ]
    first = (result.origin, float(result.theirs), format_number(result.theirs, kind))
    return [first, *between, ("ours", float(result.ours), format_number(result.ours, kind))]


def write_headline(result: Result) -> str:
    """Return the bridge in one line: both numbers, and the reason that weighs most."""
    kind = result.comparison.kpi.kind
    start = f"{format_number(result.theirs, kind)} in {result.origin}, {format_number(result.ours, kind)} here"
    main = max(result.steps, key=lambda step: abs(step.change), default=None)
    return f"{start}; the largest step is {describe_step(main, result)}" if main and main.change else start


def count_sides(result: Result) -> pd.DataFrame:
    """Return how many rows are identical, only there, only here, and different."""
    counts = result.rows["side"].value_counts()
    return (
        pd.DataFrame({"rows": [int(counts.get(side, 0)) for side in SIDES]}, index=SIDES).rename_axis("").reset_index()
    )


def build_rows_table(
    result: Result, *, differing: bool = True, names: bool = False, most: int | None = None
) -> pd.DataFrame:
    """Return the rows, those with a difference only or all (these first), with what a person needs to find them in
    ServiceTitan.

    names: show the customers' names
    most: how many rows, the first ones
    """
    rows = result.rows
    if differing:
        rows = rows[rows["side"] != IDENTICAL]
    rows = rows.sort_values(["side", "reason", "key"], key=lambda column: column.astype(str))
    rows = rows.sort_values("side", key=lambda side: side == IDENTICAL, kind="stable").head(most or len(rows))
    comparison = result.comparison
    customer = rows["customer_name"].where(rows["customer_name"].notna(), rows[f"customer{IN_EXPORT}"])
    describe = cache(lambda reason: describe_reason(reason, comparison))  # there are few
    table = pd.DataFrame(
        {
            "side": rows["side"],
            "reason": rows["reason"].map(describe, na_action="ignore"),
            "decisive": rows["decisive"].map({True: "yes", False: "no"}),
        }
    )
    table["all reasons"] = rows["fails"].map(
        cache(lambda fails: "; ".join(map(describe, filter(None, fails.split(", ")))))
    )
    shows_key = names or not comparison.names_people
    table[next(iter(comparison.key)).replace("_", " ")] = rows["key"] if shows_key else rows["key"].map(mask_name)
    table["line of the export"] = rows["row"]
    table["customer"] = customer if names else customer.map(mask_name)
    shown = {"unit_name": "unit", "job_type_name": "job type", "job_status": "job status"}
    for column, header in (shown | {"day": comparison.report.date.replace("_", " ")}).items():
        if column in rows:
            table[header] = rows[column]
    for amount in comparison.amounts:
        for suffix, side in ((IN_EXPORT, "there"), (IN_WAREHOUSE, "here")):
            table[f"{amount.name.replace('_', ' ')} {side}"] = rows[f"{amount.name}{suffix}"].map(_shorten)
    if "job_id" in rows and not comparison.names_people:
        table["in ServiceTitan"] = rows["job_id"].map(lambda id: "" if pd.isna(id) else JOB_LINK.format(int(id)))
    return table.reset_index(drop=True)


def _shorten(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def format_text(result: Result) -> str:
    """Return the comparison for a terminal: how the export was read, then what was found."""
    parts = [
        *result.doubts,
        *result.notes,
        "",
        summarize(result),
        *list_hints(result),
        "",
        count_sides(result).to_string(index=False, header=False),
    ]
    if not result.matches:
        parts += ["", build_bridge_table(result).to_string(index=False)]
    return "\n".join(parts)


def to_dict(result: Result) -> dict[str, Any]:
    """Return the comparison as JSON holds it: numbers as text to the last digit, no rows."""
    exact = {"theirs": result.theirs, "ours": result.ours, "ours_in_window": result.ours_in_window}
    return {
        "sentence": summarize(result),
        "matches": result.matches,
        "kpi": result.comparison.name,
        "export": result.export,
        "business_units": list(result.business_units),
        "window": _iso(result.window),
        "asked": result.asked and _iso(result.asked),
        **{name: format_decimal(value) for name, value in exact.items()},
        "residual": format_decimal(result.residual),
        "rows": dict(count_sides(result).itertuples(index=False)),
        "steps": [
            {"side": s.side, "reason": s.reason, "rows": s.rows, "change": format_decimal(s.change)}
            for s in result.steps
        ],
        "doubts": list(result.doubts),
        "notes": list(result.notes),
    }


def _iso(window: Window) -> Sequence[str]:
    return [day.isoformat() for day in (window.first_day, window.last_day) if day > EVER]


def write_files(result: Result, folder: Path, *, names: bool = False) -> Path:
    """Write rows.csv and result.json into a new folder below `folder`, named by the export and the time; return it."""
    stem = re.sub(r"[^\w.-]+", "-", result.export.rpartition(".")[0] or result.export).strip("-.")
    own = folder / f"{stem or 'export'}-{datetime.now(UTC):%Y-%m-%d-%H%M%S}"
    while own.exists():  # the same file twice within a second
        own = own.with_name(f"{own.name}-again")
    own.mkdir(parents=True)
    rows = build_rows_table(result, differing=False, names=names)
    (own / "rows.csv").write_text(format_csv(rows), encoding="utf-8")
    (own / "result.json").write_text(json.dumps(to_dict(result), indent=2), encoding="utf-8")
    return own
