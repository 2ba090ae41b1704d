"""The two queries of a comparison: our rows of the KPI, and what the warehouse knows of a row's key."""

from __future__ import annotations

import csv
import re
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd

from stkpi.kpis.catalog import Kpi, Option
from stkpi.kpis.sql import (
    MART,
    REF,
    date_sql,
    is_calendar_date,
    operands,
    row_value_sql,
    split_operand,
    terms_sql,
    unit_sql,
)
from stkpi.reconcile.comparison import Comparison, Window
from stkpi.warehouse import Warehouse

UNITS = "st_stage_v2.reconcile_units"
KEYS = "st_stage_v2.reconcile_keys"
JOINER = " to "  # between the columns of a key that has several
OF_UNIT = "of "  # before the unit that stands for an empty first column
# What no fact has because it can be renamed: the table that has it under `name`, and our column of its id.
_LOOKUPS = {"location_name": ("st_raw_v2.raw_locations", "location_id")}
_OF_UNITS = f"(SELECT business_unit FROM {UNITS})"
_DESCRIBING = ("job_type_name", "job_status")


def stage_units(target: Warehouse, units: Iterable[str]) -> None:
    """Put the rolled-up units of a comparison where its queries find them."""
    _stage(target, UNITS, ["business_unit"], ([unit] for unit in units))


def _stage_keys(target: Warehouse, keys: Iterable[str]) -> None:
    _stage(target, KEYS, ["key", "first_key"], ([key, key.rpartition(JOINER)[0] or key] for key in keys))


def _stage(target: Warehouse, table: str, columns: Sequence[str], lines: Iterable[Sequence[str]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "values.csv"
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(columns)
            writer.writerows(lines)
        target.load_file(table, path, [(column, "STRING") for column in columns])


def key_sql(columns: Iterable[str], unit: str = "") -> str:
    """Return what identifies a row as text; a row without the first column is one of those without it.

    unit: the column of the unit's name, where rows with an empty first column are told apart by it
    """
    first, *others = columns
    key = f"CAST({first} AS STRING)"
    if unit:
        key = f"COALESCE(NULLIF({key}, ''), CONCAT('{OF_UNIT}', {unit}))"
    key = f"COALESCE({key}, 'without {first}')"
    for column in others:
        key = f"CONCAT({key}, '{JOINER}', COALESCE(CAST({column} AS STRING), ''))"
    return key


def _our_key_sql(comparison: Comparison) -> str:
    return key_sql(comparison.key.values(), "unit_name" if comparison.parts_units else "")


def _candidates_key_sql(comparison: Comparison, columns: Sequence[str]) -> str:
    return key_sql(columns, f"{comparison.definition['attribution'].says}_unit_name" if comparison.parts_units else "")


def _with_names(table: str, columns: Iterable[str]) -> str:
    """The FROM of a table with those names of `columns` that it does not have itself."""
    for column in columns:
        if column in _LOOKUPS:
            source, id = _LOOKUPS[column]
            table += f"\n  LEFT JOIN (SELECT id AS {id}, name AS {column} FROM {source}) AS {column}s USING ({id})"
    return table


# --- our rows ---------------------------------------------------------------------------------------------------------


def our_rows_sql(comparison: Comparison, *, left_out: bool = False) -> str:
    """Return the SELECT of our rows, for @first_day, @last_day and (where rows must be known) @as_of: key, customer_id,
    member (a distinct value, else NULL) and the amounts as a0, a1, …

    left_out: instead, the keys of the rows whose group is below the balance from which it counts
    """
    known_by, net = comparison.definition["window"].known_by, comparison.net
    conditions = ["event_date BETWEEN @first_day AND @last_day", f"business_unit IN {_OF_UNITS}"]
    if known_by:
        conditions.append(f"{known_by} <= @as_of")
    selected = [f"{_our_key_sql(comparison)} AS key", "*"]
    if net:
        value = row_value_sql(str(net["net"]))
        selected.append(f"SUM({value}) OVER (PARTITION BY business_unit, {net['per']}) AS balance")
    member = f"CAST({comparison.distinct} AS STRING)" if comparison.distinct else "CAST(NULL AS STRING)"
    amounts = [f"CAST({amount.sql} AS NUMERIC)" for amount in comparison.amounts]
    counted = [*(f"{sql} AS a{i}" for i, sql in enumerate(amounts))]
    columns = ",\n  ".join(["key", f"{member} AS member", "MIN(customer_id) AS customer_id", *counted])
    where = f"\nWHERE balance {'<' if left_out else '>='} {net['least']}" if net else ""
    # What is settled stands in no report that has everything up to a day.
    settled = " OR ".join(f"{sql} != 0" for sql in amounts) if comparison.has_no_beginning and amounts else ""
    having = f"\nHAVING {settled}" if settled else ""
    facts = ",\n    ".join(selected)
    table = _with_names(f"{MART}.{comparison.table}", comparison.key.values())
    return (
        f"WITH facts AS (\n  SELECT\n    {facts}\n  FROM {table}\n  WHERE\n    "
        + "\n    AND ".join(conditions)
        + f"\n)\n\nSELECT\n  {columns}\nFROM facts{where}\nGROUP BY key, member{having}\n"
    )


def load_our_rows(target: Warehouse, comparison: Comparison, window: Window) -> pd.DataFrame:
    """Return our rows, one per key, for the units of `stage_units`: key, customer_id, members (the distinct values that
    the key stands for), and every amount by its name, as Decimal.
    """
    found = target.query(our_rows_sql(comparison), **_parameters(comparison, window))
    names = {f"a{i}": amount.name for i, amount in enumerate(comparison.amounts)}
    found = found.rename(columns=names)
    for name in names.values():
        found[name] = found[name].astype(object).where(found[name].notna(), Decimal(0))
    members = found["member"].map(lambda value: (value,) if isinstance(value, str) else ())
    found = found.drop(columns="member").assign(members=members)
    if not found["key"].duplicated().any():
        return found
    # Several distinct values of one key, such as two customers of jobs with the same number.
    grouped = found.groupby("key", sort=False)
    sums: dict[str, Any] = dict.fromkeys(names.values(), "sum")
    joined = {"customer_id": "first", "members": lambda members: tuple(chain.from_iterable(members)), **sums}
    return grouped.agg(joined).reset_index()


def unit_keys_sql(comparison: Comparison) -> str:
    """Return the SELECT of every unit with the keys of its rows from @first_day to @last_day: business_unit, key."""
    key = _our_key_sql(comparison)
    table = _with_names(f"{MART}.{comparison.table}", comparison.key.values())
    days = "event_date BETWEEN @first_day AND @last_day"
    return f"SELECT DISTINCT business_unit, {key} AS key\nFROM {table}\nWHERE {days}\n"


def load_unit_keys(target: Warehouse, comparison: Comparison, window: Window) -> pd.DataFrame:
    """Return every unit with the keys of its rows in a window: business_unit, key."""
    first, last = window.days_read
    return target.query(unit_keys_sql(comparison), first_day=first, last_day=last)


def load_keys_left_out(target: Warehouse, comparison: Comparison, window: Window) -> frozenset[str]:
    """Return the keys that our rows leave out because their group is below the balance from which it counts."""
    if not comparison.net:
        return frozenset()
    found = target.query(our_rows_sql(comparison, left_out=True), **_parameters(comparison, window))
    return frozenset(found["key"])


def _parameters(comparison: Comparison, window: Window) -> dict[str, Any]:
    first, last = window.days_read
    known = {"as_of": window.as_of} if comparison.definition["window"].known_by else {}
    return {"first_day": first, "last_day": last, **known}


# --- what is known of a key -------------------------------------------------------------------------------------------


def condition_bits(kpi: Kpi) -> dict[str, str]:
    """Return the conditions of every option, by `dimension:option`, as GoogleSQL over the candidates."""
    return {f"{d.name}:{option.id}": str(option.says) for d in kpi.conditions for option in d.options}


def list_terms(kpi: Kpi) -> list[str]:
    """Return the terms of all measures of a KPI, `rows` among them, each once."""
    found: dict[str, None] = {}
    for option in kpi["measure"]:
        for operand in ["rows"] if "count" in option.says else operands(option.says):
            found |= dict.fromkeys(term for _, term in split_operand(operand))
    return list(found)


def known_columns(comparison: Comparison) -> dict[str, str]:
    """Return what is read of a candidate besides its key, GoogleSQL by name: the names that `load_known_keys` gives."""
    kpi, chosen = comparison.kpi, comparison.definition
    texts = [*kpi.columns.values(), *condition_bits(kpi).values()]
    described = [name for name in _DESCRIBING if any(re.search(rf"\b{name}\b", text) for text in texts)]
    zone = str(chosen["zone"].says)
    found = {name: name for name in ("customer_id", "root_customer_id", "customer_name", "segment", *described)}
    found["modified_on"] = comparison.report.changed
    if "job_id" in kpi.columns.values():
        found["job_id"] = "job_id"
    found["unit_name"] = f"{chosen['attribution'].says}_unit_name"
    found["day"] = date_sql(str(chosen["date"].says), zone)
    if not is_calendar_date(str(chosen["date"].says)) and zone != "UTC":
        found["utc"] = date_sql(str(chosen["date"].says), "UTC")
    found |= {f"date:{option.id}": date_sql(str(option.says), zone) for option in kpi["date"]}
    found |= {
        f"member:{option.id}": str(option.says["distinct"]) for option in kpi["measure"] if "distinct" in option.says
    }
    found |= {f"per:{option.id}": str(option.says["per"]) for option in kpi["measure"] if "per" in option.says}
    found |= {name: f"COALESCE({condition}, FALSE)" for name, condition in condition_bits(kpi).items()}
    counts_if = {amount.name: amount.counts_if for amount in comparison.amounts if amount.counts_if}
    found |= {f"counts_if:{name}": f"COALESCE({condition}, FALSE)" for name, condition in counts_if.items()}
    divisions = ", ".join(f"'{division}'" for division in kpi.divisions)
    found["in_division"] = f"COALESCE({chosen['attribution'].says}_division IN ({divisions}), FALSE)"
    found["in_unit"] = _in_unit_sql(kpi, chosen["attribution"], chosen["rollup"])
    found |= {f"attribution:{o.id}": _in_unit_sql(kpi, o, chosen["rollup"]) for o in kpi["attribution"]}
    found |= {f"rollup:{o.id}": _in_unit_sql(kpi, chosen["attribution"], o) for o in kpi["rollup"]}
    known_by = chosen["window"].known_by
    found["was_known"] = f"COALESCE({known_by} <= @as_of, FALSE)" if known_by else "TRUE"
    return found


def _in_unit_sql(kpi: Kpi, attribution: Option, rollup: Option) -> str:
    return f"COALESCE({unit_sql(kpi, attribution, str(rollup.says))} IN {_OF_UNITS}, FALSE)"


def known_keys_sql(comparison: Comparison) -> str:
    """Return the SELECT of what the warehouse knows of the keys of st_stage_v2.reconcile_keys, one row per key that it
    knows, with `known_columns` as `_number_columns` says and the terms as t0, t1, …; for @time_zone and the days read.

    Of several candidates with a key it is one that the report's rows are, before others; of these the one that fails
    least of the definition, then the one with the lowest ids. The terms are of all that count.
    """
    kpi, columns = comparison.kpi, known_columns(comparison)
    own = [kpi.columns.get(column, column) for column in comparison.key.values()]
    is_row = (
        f"({kpi.report.row}) OR ({comparison.definition['entity'].says})" if _has_entity(comparison) else kpi.report.row
    )
    names = _number_columns(columns)
    chosen = [f"{d.name}:{comparison.definition[d.name].id}" for d in kpi.conditions]
    asked = [names[each] for each in (*chosen, "in_division", "in_unit", "was_known")]
    within = f"{names['day']} IS NOT NULL AND {names['day']} BETWEEN @first_day AND @last_day"
    fails = " + ".join([*(f"IF({bit}, 0, 1)" for bit in asked), f"IF({within}, 0, 1)"])
    terms = [
        f"SUM(IF(is_exact AND fails = 0, CAST({row_value_sql(term)} AS NUMERIC), 0)) "
        f"OVER (PARTITION BY asked_key) AS t{i}"
        for i, term in enumerate(list_terms(kpi))
    ]
    # The ids of records of different kinds may be the same number.
    where = f"  WHERE {is_row}\n" if any(column.startswith("own_") for column in own) else ""
    ids = [column for column in dict.fromkeys((*own, *kpi.columns.values())) if column.endswith("_id")]
    order = ", ".join(["IF(is_exact, 0, 1)", "IF(is_row, 0, 1)", "fails", *ids])
    read = {names[name]: sql for name, sql in columns.items()}
    selected = "".join(f",\n    {sql} AS {number}" for number, sql in read.items())
    computed = "".join(f", {term}" for term in terms_sql(kpi))
    matched = "first_key" if len(own) > 1 else "key"
    return (
        f"WITH candidates AS (\n  SELECT\n    *{computed},\n    {_candidates_key_sql(comparison, own)} AS key,\n"
        f"    {_candidates_key_sql(comparison, own[:1])} AS first_key,\n    COALESCE({is_row}, FALSE) AS is_row\n"
        f"  FROM {_with_names(f'{REF}.{kpi.candidates}', own)}\n{where}),\n\n"
        f"asked AS (\n  SELECT candidates.*, keys.key AS asked_key, keys.key = candidates.key AS is_exact\n"
        f"  FROM {KEYS} AS keys\n  INNER JOIN candidates ON keys.{matched} = candidates.{matched}\n),\n\n"
        f"judged AS (\n  SELECT\n    *{selected}\n  FROM asked\n),\n\n"
        f"failing AS (\n  SELECT *, {fails} AS fails FROM judged\n)\n\n"
        f"SELECT\n  asked_key,\n  is_exact,\n  {', '.join(read)},\n  "
        + ",\n  ".join(terms)
        + f"\nFROM failing\nWHERE TRUE\nQUALIFY ROW_NUMBER() OVER (PARTITION BY asked_key ORDER BY {order}) = 1\n"
    )


def _number_columns(columns: Mapping[str, str]) -> dict[str, str]:
    """Return k0, k1, … for columns: the same for those with the same SQL, such as options that let in everything."""
    numbers = {sql: f"k{i}" for i, sql in enumerate(dict.fromkeys(columns.values()))}
    return {name: numbers[sql] for name, sql in columns.items()}


def _has_entity(comparison: Comparison) -> bool:
    return "entity" in comparison.definition.options


def count_known_keys_sql(comparison: Comparison) -> str:
    """Return the SELECT of how many keys of st_stage_v2.reconcile_keys a candidate has, whatever else it is: known."""
    kpi = comparison.kpi
    own = [kpi.columns.get(column, column) for column in comparison.key.values()]
    table, key = _with_names(f"{REF}.{kpi.candidates}", own), _candidates_key_sql(comparison, own)
    return f"SELECT COUNT(*) AS known FROM {KEYS} AS keys WHERE keys.key IN (SELECT {key} FROM {table})\n"


def count_known_keys(target: Warehouse, comparison: Comparison, keys: Iterable[str]) -> int:
    """Return how many of the keys are known, see `count_known_keys_sql`."""
    _stage_keys(target, keys)
    return int(target.query(count_known_keys_sql(comparison))["known"].iloc[0])


def load_known_keys(
    target: Warehouse, comparison: Comparison, window: Window, keys: pd.Series, zone: str
) -> pd.DataFrame:
    """Return what the warehouse knows of keys, one row per key that it knows: key, is_exact (else only the first of its
    columns is known), the `known_columns`, and the amount that each term of the KPI adds up to as `term:<name>`.
    """
    _stage_keys(target, keys.tolist())
    sql = known_keys_sql(comparison)
    first, last = window.days_read
    given: Mapping[str, Any] = {"first_day": first, "last_day": last, "as_of": window.as_of, "time_zone": zone}
    found = target.query(sql, **{name: value for name, value in given.items() if f"@{name}" in sql})
    terms = {f"t{i}": f"term:{term}" for i, term in enumerate(list_terms(comparison.kpi))}
    named = {name: found[number] for name, number in _number_columns(known_columns(comparison)).items()}
    return found[["asked_key", "is_exact", *terms]].rename(columns={"asked_key": "key", **terms}).assign(**named)
