"""An owner's report straight from ServiceTitan's Reporting API, in the place of an exported file."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

from stkpi.errors import UserError
from stkpi.kpis.definition import read_definitions
from stkpi.reconcile import exports
from stkpi.reconcile.compare import find_units
from stkpi.reconcile.comparison import Window, find_window, infer_comparison
from stkpi.reconcile.exports import Export
from stkpi.servicetitan.client import Client, RequestFailed
from stkpi.warehouse import Warehouse

PREFIX = "report:"  # before the report's category and id, such as report:marketing/1001


def pull_report(
    client: Client,
    target: Warehouse | None,
    reference: str,
    *,
    first_day: date | None,
    last_day: date | None,
    kpi: str = "",
    business_unit: str = "",
    chosen: Mapping[str, str] | None = None,
) -> Export:
    """Run a saved report (`report:category/id`) over a period and a rolled-up unit; its rows as an export.

    target: where the unit's ServiceTitan units are known; not needed for all units
    chosen: the values of other parameters, both by their labels, as company.yml has them
    Raises UserError where the report does not exist, is refused, or has no column that is known.
    """
    category, _, report = reference.removeprefix(PREFIX).partition("/")
    if not category or not report:
        raise UserError(f"{reference} names no report: write it as report:marketing/1001, category and id.")
    if first_day is None or last_day is None:
        raise UserError("A report is run for days: give FROM= and TO=.")
    try:
        described = client.describe_report(category, report)
        names = [field["name"] for field in described["fields"]]
        labels = dict(zip(names, list_labels(category, described["fields"]), strict=True))
        header = exports.read_table(described["name"], [list(labels.values())])
        window = find_window(infer_comparison(header, read_definitions(), kpi), first_day, last_day)
        units = _list_unit_ids(target, business_unit) if target and business_unit else ()
        given = _choose_values(client, described["parameters"], chosen or {})
        values = choose_parameters(described["parameters"], window, units, given)
        rows = [
            {labels.get(name, name): value for name, value in row.items()}
            for row in client.run_report(category, report, values)
        ]
    except RequestFailed as error:
        raise UserError(f"ServiceTitan does not run report {category}/{report}: {error}.") from error
    export = exports.read_records(described["name"], rows) if rows else header
    return replace(
        export, first_day=window.starts_on or window.last_day, last_day=window.last_day, exported_at=datetime.now(UTC)
    )


def list_labels(category: str, fields: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return the labels of a report's fields. In a report with a row per unit, Name is the unit."""
    labels = [str(field.get("label") or field["name"]) for field in fields]
    return (
        ["Business Unit" if one == "Name" else one for one in labels]
        if category.startswith("business-unit")
        else labels
    )


def list_choices(client: Client, parameter: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that a parameter may have, by their labels; none where it takes any. Raises RequestFailed."""
    accepted = parameter.get("acceptValues") or {}
    if accepted.get("dynamicSetId"):
        return client.read_value_set(accepted["dynamicSetId"])
    return {str(row[1]): row[0] for row in accepted.get("values") or ()}


def _choose_values(client: Client, described: Iterable[Mapping[str, Any]], chosen: Mapping[str, str]) -> dict[str, Any]:
    """Return the values by parameter name of what was chosen by label.

    Raises UserError for a label that the report does not have: it would silently be filtered by something else.
    """
    values, known = {}, {str(one.get("label") or one["name"]): one for one in described}
    for label, value in chosen.items():
        if not value:
            continue
        if label not in known:
            raise UserError(f"The report has no parameter {label}, which company.yml names; it has {', '.join(known)}.")
        choices = list_choices(client, known[label])
        if choices and value not in choices:
            raise UserError(f"{label} cannot be {value}, which company.yml says; it can be {', '.join(choices)}.")
        is_flag = known[label]["dataType"] == "Boolean"
        values[known[label]["name"]] = value.lower() == "true" if is_flag else choices.get(value, value)
    return values


def choose_parameters(
    described: Iterable[Mapping[str, Any]],
    window: Window,
    unit_ids: Iterable[int],
    given: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The values of a report's parameters: its dates in their order (one alone is the last day), its unit filter, and
    what is `given` by name.

    Raises UserError for a parameter that must be given and is none of these.
    """
    dates = [one["name"] for one in described if one["dataType"].startswith("Date")]
    days = [window.first_day, window.last_day] if len(dates) > 1 else [window.last_day]
    values: dict[str, Any] = {name: day.isoformat() for name, day in zip(dates, days, strict=False)} | dict(given or {})
    for one in described:
        name = one["name"]
        if "businessunit" in name.lower() and (ids := list(unit_ids)):
            values[name] = ids if one["isArray"] else ids[0]
        elif one["isRequired"] and name not in values:
            raise UserError(
                f"The report wants {one.get('label') or name}, which is neither a date nor a unit: choose it under "
                "`reports` in company.yml."
            )
    return values


def _list_unit_ids(target: Warehouse, business_unit: str) -> list[int]:
    units = find_units(target, business_unit)
    known = target.query("SELECT business_unit_id, business_unit FROM st_ref_v2.dim_business_units")
    return [int(id) for id in known[known["business_unit"].isin(units)]["business_unit_id"]]
