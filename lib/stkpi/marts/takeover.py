"""What only the tables of an older pipeline have, so that its owner can decide before anything of it is deleted.

Its rows are compared with ours by the ids that ServiceTitan gave them: some of its own ids are hashes. The warehouse is
only read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from stkpi import settings, warehouse
from stkpi.errors import UserError
from stkpi.servicetitan.entities import ENTITIES
from stkpi.spreadsheets import format_csv
from stkpi.warehouse.schema import Columns

PARTS = ("raw", "ref", "dim", "mart", "logs")
REAL_IDS = {"purchase_orders": "purchaseOrderId", "returns": "returnId", "payroll_adjustments": "adjustment_id"}
# A gross pay item has no id of its own there. The number tells equal items apart.
_PAY = """CONCAT(
  COALESCE(CAST(employeeId AS STRING), ''), ' ', COALESCE(CAST(jobId AS STRING), ''), ' ',
  CAST(DATE(`date`) AS STRING), ' ', CAST(ROUND(CAST(amount AS NUMERIC), 2) AS STRING)
)"""
_NUMBERED = f"CONCAT({_PAY}, ' ', CAST(ROW_NUMBER() OVER (PARTITION BY {_PAY}) AS STRING))"
# No other texts: names of customers stay in the warehouse.
_SHOWN_TYPES = ("INT64", "FLOAT64", "NUMERIC", "BOOL", "DATE", "TIMESTAMP")
_SHOWN = ("id", "number", "jobNumber", "status")


@dataclass(frozen=True)
class Takeover:
    """What was found.

    tables: one row per raw table; columns table, rows, only there, file (of the rows that only it has)
    views: the files with the definitions of its views
    """

    tables: pd.DataFrame
    views: tuple[Path, ...]


def compare_old(pattern: str, folder: Path | None = None) -> Takeover:
    """Compare the raw tables of an older pipeline with ours, and save its views as text.

    pattern: its names, as DATASETS has ours
    folder: where the files go; default: `takeover` in the company's runs
    Raises UserError for a pattern that is not one of another pipeline, and before the first ingest.
    """
    config = settings.load()
    folder = folder or config.runs / "takeover"
    if pattern == config.datasets:
        raise UserError(f"OLD={pattern} are our own names: set OLD to those of the other program, such as st_{{}}_v2.")
    with warehouse.connect(config, read_only=True) as target:
        raw, *others = (target.qualify_name(settings.check_pattern(pattern).format(part)) for part in PARTS)
        tables = {name: columns for name, columns in _list_columns(target, raw).items() if _name_entity(name)}
        if not tables:
            raise UserError(f"There are no raw tables under the names {pattern}: correct OLD.")
        ours = target.list_columns("st_raw_v2")
        if not ours:
            raise UserError("There is nothing of ours to compare with: run the nightly first.")
        folder.mkdir(parents=True, exist_ok=True)
        rows = [_compare_table(target, name, columns, ours, folder) for name, columns in sorted(tables.items())]
        views = []
        for dataset in (raw, *others):
            for name, definition in _list_views(target, dataset).items():
                views.append(folder / f"{_name_file(name)}.sql")
                views[-1].write_text(definition.rstrip() + "\n", encoding="utf-8")
    return Takeover(pd.DataFrame(rows), tuple(sorted(views)))


def _compare_table(
    target: warehouse.Warehouse, name: str, columns: Columns, ours: Mapping[str, Columns], folder: Path
) -> dict[str, object]:
    entity = ENTITIES.get(_name_entity(name))
    dataset, _, table = name.rpartition(".")
    quoted = f"{dataset}.`{table}`"
    count = int(target.query(f"SELECT COUNT(*) AS n FROM {quoted}")["n"][0])
    shown = [column for column, kind in columns.items() if kind in _SHOWN_TYPES or column in _SHOWN]
    listed = ", ".join(f"`{column}`" for column in shown)
    is_pay = entity is not None and entity.name == "payroll"
    keys = {"employeeId", "jobId", "date", "amount"} if is_pay else {REAL_IDS.get(entity.name, "id") if entity else ""}
    if entity and entity.table in ours and keys <= columns.keys():
        key = _NUMBERED if is_pay else f"CAST(`{REAL_IDS.get(entity.name, 'id')}` AS STRING)"
        known = _NUMBERED if is_pay else "CAST(id AS STRING)"
        only = target.query(
            f"""SELECT {listed}
FROM (SELECT *, {key} AS real_key FROM {quoted}) AS old
LEFT JOIN (SELECT DISTINCT {known} AS known_key FROM {entity.table}) AS ours ON old.real_key = ours.known_key
WHERE ours.known_key IS NULL"""
        )
    else:  # nothing that we read is like it
        only = target.query(f"SELECT {listed} FROM {quoted}")
    file = folder / f"{_name_file(name)}.csv"
    file.write_text(format_csv(only), encoding="utf-8")
    return {"table": _show(name), "rows": count, "only there": len(only), "file": file}


def _list_columns(target: warehouse.Warehouse, dataset: str) -> Mapping[str, Columns]:
    try:
        return target.list_columns(dataset)
    except target.NotFound:
        return {}


def _list_views(target: warehouse.Warehouse, dataset: str) -> Mapping[str, str]:
    try:
        return target.list_views(dataset)
    except target.NotFound:
        return {}


def _name_entity(table: str) -> str:
    """Return the entity that a raw table has by its name; empty where it is not a raw table."""
    name = table.rpartition(".")[2]
    return name.removeprefix("raw_") if name.startswith("raw_") else ""


def _show(name: str) -> str:
    """Return the name of a table without its project."""
    return ".".join(name.split(".")[-2:])


def _name_file(name: str) -> str:
    return re.sub(r"[/\\]", "_", _show(name))
