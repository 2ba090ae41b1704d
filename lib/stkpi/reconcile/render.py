"""A comparison for people: one sentence, a text for the terminal, tables for a page, JSON and CSV. Names are masked."""

from __future__ import annotations

import json
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi.reconcile.bridge import Step
from stkpi.reconcile.compare import EVER, Result, Window
from stkpi.reconcile.reasons import HERE, IDENTICAL, REASONS, SIDES, THERE

MAIN_STEPS = 3


def figure(value: Fraction, kind: str) -> str:
    """A number to the last digit that matters: 1,234 · $1,234.56 · 39.74%."""
    if kind == "count":
        return f"{round(value):,}"
    if kind == "rate":
        return f"{float(value):.2%}"
    sign = "-" if value < 0 else ""
    return f"{sign}${abs(Decimal(value.numerator) / value.denominator):,.2f}"


def change(value: Fraction, kind: str) -> str:
    """A change with its sign: +3 · -$12.50 · +0.81 pt, ±0 for none."""
    if not value:
        return "±0"
    text = f"{float(value) * 100:+.2f} pt" if kind == "rate" else figure(value, kind)
    return text if text[0] in "+-" else f"+{text}"


def days(window: Window) -> str:
    """A window as people say it: Aug 18 to Aug 24, 2025."""
    last = f"{window.last_day:%b} {window.last_day.day}, {window.last_day.year}"
    if window.first_day in (EVER, window.last_day):
        return last
    year = "" if window.first_day.year == window.last_day.year else f", {window.first_day.year}"
    return f"{window.first_day:%b} {window.first_day.day}{year} to {last}"


def sentence(result: Result) -> str:
    """What a manager needs to know, in one sentence."""
    comparison, kind = result.comparison, result.comparison.kind
    theirs, ours = figure(result.theirs, kind), figure(result.ours, kind)
    units = ", ".join(result.business_units) if len(result.business_units) < MAIN_STEPS else "all units"
    if result.matches:
        rows = f"all {len(result.rows):,} {comparison.rows} are the same" if len(result.rows) else "there is nothing"
        return (
            f"ServiceTitan and we have the same {comparison.label}, {theirs} ({units}, {days(result.window)}): {rows}."
        )
    what = f"{theirs} {comparison.label}" if kind == "count" else f"{comparison.label} of {theirs}"
    start = f"ServiceTitan has {what}, we have {ours}"
    if result.asked:
        own = figure(result.ours_in_window, kind)
        same = "also" if own == theirs else ""
        return (
            f"{start}: the export covers {days(result.window)}, but {days(result.asked)} was asked for; "
            f"on the export's own days we have {' '.join(filter(None, [same, own]))} ({units})."
        )
    main = sorted(result.steps, key=lambda step: (abs(step.change), step.rows), reverse=True)[:MAIN_STEPS]
    told = "; ".join(f"{_told(step, result)} ({change(step.change, kind)})" for step in main)
    same = ", and the differences cancel out" if theirs == ours else ""
    return f"{start} ({units}, {days(result.window)}){same}: {told}."


def _told(step: Step, result: Result) -> str:
    rows = result.comparison.rows if step.rows != 1 else result.comparison.rows.removesuffix("s")
    return f"{step.rows:,} {rows} {step.side}, {REASONS[step.reason]}"


def label(step: Step) -> str:
    """A step in a few words."""
    return f"{step.side}: {REASONS[step.reason]}" if step.side else REASONS[step.reason]


def bridge_table(result: Result) -> pd.DataFrame:
    """From their number to ours: what, rows, change, number after it. The last row is the residual."""
    kind = result.comparison.kind
    lines = [("ServiceTitan", int((result.rows["side"] != HERE).sum()), "", figure(result.theirs, kind))]
    lines += [(label(step), step.rows, change(step.change, kind), figure(step.after, kind)) for step in result.steps]
    lines.append(("ours", int((result.rows["side"] != THERE).sum()), "", figure(result.ours, kind)))
    lines.append(("unexplained", 0, change(result.residual, kind), ""))
    return pd.DataFrame(lines, columns=["step", "rows", "change", "number"])


def waterfall_steps(result: Result) -> list[tuple[str, float, str]]:
    """The bridge as a chart takes it: name, amount, its text; ServiceTitan's number first, ours last."""
    kind = result.comparison.kind
    between = [(label(step), float(step.change), change(step.change, kind)) for step in result.steps if step.change]
    first = ("ServiceTitan", float(result.theirs), figure(result.theirs, kind))
    return [first, *between, ("ours", float(result.ours), figure(result.ours, kind))]


def headline(result: Result) -> str:
    """The bridge in one line: both numbers, and the reason that weighs most."""
    kind = result.comparison.kind
    start = f"{figure(result.theirs, kind)} in ServiceTitan, {figure(result.ours, kind)} here"
    main = max(result.steps, key=lambda step: abs(step.change), default=None)
    return f"{start}; the largest step is {label(main)}" if main and main.change else start


def counts_table(result: Result) -> pd.DataFrame:
    """How many rows are identical, only there, only here, and different."""
    counts = result.rows["side"].value_counts()
    return (
        pd.DataFrame({"rows": [int(counts.get(side, 0)) for side in SIDES]}, index=SIDES).rename_axis("").reset_index()
    )


def mask(name: Any) -> str | None:
    """A name of which only the first letters are left."""
    return " ".join(f"{word[0]}•••" for word in name.split()) if isinstance(name, str) else None


def rows_table(result: Result, *, differing: bool = True, names: bool = False) -> pd.DataFrame:
    """The rows, those with a difference only or all, with what a person needs to find them in ServiceTitan.

    names: show the customers' names
    """
    rows = result.rows
    if differing:
        rows = rows[rows["side"] != IDENTICAL]
    rows = rows.sort_values(["side", "reason", "key"], key=lambda column: column.astype(str))
    customer = rows["customer_name"].where(rows["customer_name"].notna(), rows["customer_there"])
    table = pd.DataFrame(
        {
            "side": rows["side"],
            "reason": rows["reason"].map(REASONS),
            "decisive": rows["decisive"].map({True: "yes", False: "no"}),
        }
    )
    table["all reasons"] = rows["fails"]
    table[result.comparison.key[0].replace("_", " ")] = rows["key"]
    table["line of the export"] = rows["row"]
    table["customer"] = customer if names else customer.map(mask)
    for column in ("unit_name", "job_type_name", "job_status", f"{result.comparison.date}_date"):
        if column in rows:
            table[column.removesuffix("_name").replace("_", " ")] = rows[column]
    for column in result.comparison.columns:
        for hand in ("there", "here"):
            table[f"{column.name.replace('_', ' ')} {hand}"] = rows[f"{column.name}_{hand}"].map(_short)
    return table.reset_index(drop=True)


def _short(amount: Decimal) -> str:
    return f"{amount.normalize():f}"


def text(result: Result) -> str:
    """The comparison for a terminal."""
    parts = [sentence(result), *result.notes, "", counts_table(result).to_string(index=False, header=False)]
    if not result.matches:
        parts += ["", bridge_table(result).to_string(index=False)]
    return "\n".join(parts)


def as_dict(result: Result) -> dict[str, Any]:
    """The comparison as JSON holds it: numbers as text to the last digit, no rows."""
    exact = {"theirs": result.theirs, "ours": result.ours, "ours_in_window": result.ours_in_window}
    return {
        "sentence": sentence(result),
        "matches": result.matches,
        "kpi": result.comparison.name,
        "export": result.export,
        "business_units": list(result.business_units),
        "window": _iso(result.window),
        "asked": result.asked and _iso(result.asked),
        **{name: _decimal(value) for name, value in exact.items()},
        "residual": _decimal(result.residual),
        "rows": dict(counts_table(result).itertuples(index=False)),
        "steps": [
            {"side": s.side, "reason": s.reason, "rows": s.rows, "change": _decimal(s.change)} for s in result.steps
        ],
        "notes": list(result.notes),
    }


def _iso(window: Window) -> Sequence[str]:
    return [day.isoformat() for day in (window.first_day, window.last_day) if day > EVER]


def _decimal(value: Fraction) -> str:
    return f"{Decimal(value.numerator) / value.denominator:f}"


def write(result: Result, folder: Path, *, names: bool = False) -> Path:
    """Write rows.csv and result.json into a folder of their own below `folder`; return it."""
    window = result.window
    own = folder / f"{result.comparison.name}-{window.last_day if window.first_day == EVER else window.first_day}"
    own.mkdir(parents=True, exist_ok=True)
    rows_table(result, differing=False, names=names).to_csv(own / "rows.csv", index=False)
    (own / "result.json").write_text(json.dumps(as_dict(result), indent=2), encoding="utf-8")
    return own
