"""The embedded warehouse: one DuckDB file, the same GoogleSQL as on BigQuery."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd

from stkpi.errors import UserError
from stkpi.warehouse import chunks
from stkpi.warehouse.dialect import to_duckdb
from stkpi.warehouse.protocol import DATASETS
from stkpi.warehouse.schema import Columns

# What does not fit spills to disk beside the warehouse: a large backfill must not need a large machine.
_CONFIG = {"memory_limit": "350MB", "preserve_insertion_order": "false"}
MAX_LINE = 16 * 2**20  # bytes of a record: DuckDB holds several buffers of this size for each thread
# DuckDB's names for GoogleSQL's types.
_GOOGLESQL = {
    "BIGINT": "INT64",
    "VARCHAR": "STRING",
    "DECIMAL(38,9)": "NUMERIC",
    "DOUBLE": "FLOAT64",
    "BOOLEAN": "BOOL",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
}
_PARAMETER = re.compile(r"\$([a-z_]+)")


class DuckDBWarehouse:
    """`stkpi.warehouse.Warehouse` on a DuckDB file. One program at a time can have it open."""

    name = "duckdb"
    remote = False
    NotFound = duckdb.CatalogException

    def __init__(self, path: Path, wait: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(path, wait)
        self._lock = threading.RLock()
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")  # as on BigQuery, whatever the machine's is
        self.execute(*(f"CREATE SCHEMA IF NOT EXISTS {dataset}" for dataset in DATASETS))

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`. Through Arrow, because DuckDB's own frames turn a DECIMAL into a float."""
        (statement,) = to_duckdb(sql)
        with self._session() as session:
            table = session.sql(statement, params=_used(statement, parameters)).to_arrow_table()
        return table.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`."""
        with self._session() as session:
            _execute(session, statements, parameters)

    def transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.transaction`."""
        with self._session() as session:
            session.begin()
            try:
                _execute(session, statements, parameters)
            except BaseException:
                session.rollback()
                raise
            session.commit()

    def drop(self, *tables: str) -> None:
        """See `Warehouse.drop`."""
        self.execute(*(f"DROP TABLE IF EXISTS {table}" for table in tables))

    def columns(self, *datasets: str) -> dict[str, Columns]:
        """See `Warehouse.columns`."""
        found: dict[str, dict[str, str]] = {}
        with self._session() as session:
            listed = session.execute("SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()")
            for dataset, table, column, kind in listed.fetchall():
                if dataset in datasets:
                    found.setdefault(f"{dataset}.{table}", {})[column] = _GOOGLESQL.get(kind, kind)
        return found

    def dry_run(self, sql: str, **parameters: Any) -> int:
        """See `Warehouse.dry_run`. Raises as the statement itself would, where it is not one."""
        for statement in to_duckdb(sql):
            with self._session() as session:
                session.execute(f"EXPLAIN {statement}", _used(statement, parameters))
        return 0

    def load(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        stand_in: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """See `Warehouse.load`."""
        declared = ", ".join(f"`{name}` {kind}" for name, kind in columns)
        types = {name: {"INT64": "BIGINT", "STRING": "VARCHAR"}.get(kind, kind) for name, kind in columns}
        if path.suffix == ".csv":
            options = "header = true, auto_detect = false"
            reader = "read_csv"
        else:
            options = f"format = 'newline_delimited', maximum_object_size = {MAX_LINE}"
            reader = "read_json"
        with self._session() as session:
            _execute(session, [f"CREATE OR REPLACE TABLE {table} ({declared})"], {})
            insert = f"INSERT INTO {table} SELECT * FROM {reader}($path, columns = {types}, {options})"
            try:
                session.execute(insert, {"path": str(path)})
            except duckdb.InvalidInputException as error:
                if not stand_in or "maximum_object_size" not in str(error):
                    raise
                small = chunks.without_large(path, MAX_LINE, stand_in)
                session.execute(insert, {"path": str(small)})
                small.unlink()
            return session.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0]

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection of its own for one thread at a time: results of one must not be in the way of another."""
        with self._lock, self._connection.cursor() as session:
            yield session


def _execute(session: duckdb.DuckDBPyConnection, statements: Iterable[str], parameters: dict[str, Any]) -> None:
    for sql in statements:
        for statement in to_duckdb(sql):
            session.execute(statement, _used(statement, parameters))


def _used(statement: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """The parameters that the statement names: DuckDB refuses others."""
    return {name: parameters[name] for name in set(_PARAMETER.findall(statement))}


def _open(path: Path, wait: float) -> duckdb.DuckDBPyConnection:
    until = time.monotonic() + wait
    while True:
        try:
            return duckdb.connect(path, config=_CONFIG)
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise UserError(f"{path} cannot be opened as a DuckDB warehouse: set WAREHOUSE in .env.") from error
            if time.monotonic() > until:
                raise UserError(
                    f"Another program has {path} open: close it (a notebook in JupyterLab, perhaps) and try again."
                ) from None
            time.sleep(0.2)
