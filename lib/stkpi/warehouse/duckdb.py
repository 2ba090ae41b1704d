"""The embedded warehouse: one DuckDB file, the same GoogleSQL as on BigQuery."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd

from stkpi.errors import UserError
from stkpi.warehouse import DATASETS
from stkpi.warehouse.googlesql import to_duckdb

# What does not fit spills to disk beside the warehouse: a large backfill must not need a large machine.
MEMORY_LIMIT = "350MB"
_PARAMETER = re.compile(r"\$([a-z_]+)")


class DuckDBWarehouse:
    """`stkpi.warehouse.Warehouse` on a DuckDB file. One program at a time can have it open."""

    name = "duckdb"
    NotFound = duckdb.CatalogException

    def __init__(self, path: Path, wait: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(path, wait)
        self._lock = threading.RLock()
        # The time zone of the session must not change a result: BigQuery's is UTC.
        self._connection.execute("SET TimeZone = 'UTC'")
        self._connection.execute(f"SET memory_limit = '{MEMORY_LIMIT}'")
        self._connection.execute("SET preserve_insertion_order = false")
        self.execute(*(f"CREATE SCHEMA IF NOT EXISTS {dataset}" for dataset in DATASETS))

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`. Through Arrow, because DuckDB's own frames turn a DECIMAL into a float."""
        with self._lock:
            (statement,) = to_duckdb(sql)
            table = self._connection.sql(statement, params=_used(statement, parameters)).to_arrow_table()
        return table.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`."""
        with self._lock:
            for sql in statements:
                for statement in to_duckdb(sql):
                    self._connection.execute(statement, _used(statement, parameters))

    def transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.transaction`."""
        with self._lock, self._atomic():
            self.execute(*statements, **parameters)

    def load(self, table: str, path: Path, columns: Sequence[tuple[str, str]]) -> int:
        """See `Warehouse.load`."""
        declared = ", ".join(f"{name} {kind}" for name, kind in columns)
        self.execute(f"CREATE OR REPLACE TABLE {table} ({declared})")
        types = {name: _landed_as(kind) for name, kind in columns}
        if path.suffix == ".csv":
            source = "read_csv($path, header = true, auto_detect = false, columns = $types)"
        else:
            source = "read_json($path, format = 'newline_delimited', columns = $types, maximum_object_size = 33554432)"
        source = source.replace("$types", str(types)).replace("$path", f"'{str(path).replace(chr(39), chr(39) * 2)}'")
        with self._lock:
            self._connection.execute(f"INSERT INTO {table} SELECT {', '.join(types)} FROM {source}")
            return self._connection.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _atomic(self) -> Iterator[None]:
        self._connection.begin()
        try:
            yield
        except BaseException:
            self._connection.rollback()
            raise
        self._connection.commit()


def _used(statement: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the statement names: DuckDB refuses others."""
    return {name: parameters[name] for name in set(_PARAMETER.findall(statement))}


def _landed_as(kind: str) -> str:
    return {"INT64": "BIGINT", "STRING": "VARCHAR"}.get(kind, kind)


def _open(path: Path, wait: float) -> duckdb.DuckDBPyConnection:
    until = time.monotonic() + wait
    while True:
        try:
            return duckdb.connect(path)
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise UserError(f"{path} cannot be opened as a DuckDB warehouse: set WAREHOUSE in .env.") from error
            if time.monotonic() > until:
                raise UserError(
                    f"Another program has {path} open: close it (a notebook in JupyterLab, perhaps) and try again."
                ) from None
            time.sleep(0.2)
