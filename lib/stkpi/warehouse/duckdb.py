"""The embedded warehouse: one DuckDB file, the same GoogleSQL as on BigQuery."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
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

# Data that does not fit into memory spills to disk beside the warehouse: a large backfill needs no large machine.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "350MB",
    "preserve_insertion_order": "false",
}
MAX_LINE = 16 * 2**20  # bytes of a record: DuckDB holds several buffers of this size per thread
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
    """A `stkpi.warehouse.Warehouse` in a DuckDB file, which one program at a time can open."""

    name = "duckdb"
    remote = False
    NotFound = duckdb.CatalogException

    def __init__(self, path: Path, wait: float) -> None:
        """Open the file, or create it, with the datasets as schemas.

        wait: seconds to wait while another program has the file open
        Raises UserError if the file is still in use then, or is not a DuckDB file.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        self._connection = _open(path, wait)
        self._lock = threading.RLock()
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")  # BigQuery's default, whatever the machine's is
        self.execute(*(f"CREATE SCHEMA IF NOT EXISTS {dataset}" for dataset in DATASETS))

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`. Through Arrow, because DuckDB's own frames turn a DECIMAL into a float."""
        (statement,) = to_duckdb(sql)
        with self._open_session() as session:
            table = session.sql(statement, params=_select_parameters(statement, parameters)).to_arrow_table()
        return table.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`."""
        with self._open_session() as session:
            _execute(session, statements, parameters)

    def run_transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.run_transaction`."""
        with self._open_session() as session:
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

    def list_columns(self, *datasets: str) -> Mapping[str, Columns]:
        """See `Warehouse.list_columns`."""
        found: dict[str, dict[str, str]] = {}
        with self._open_session() as session:
            listed = session.execute("SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()")
            for dataset, table, column, kind in listed.fetchall():
                if dataset in datasets:
                    found.setdefault(f"{dataset}.{table}", {})[column] = _GOOGLESQL.get(kind, kind)
        return found

    def estimate_bytes(self, sql: str, **parameters: Any) -> int:
        """See `Warehouse.estimate_bytes`. Raises what the statement itself would raise if it is invalid."""
        for statement in to_duckdb(sql):
            with self._open_session() as session:
                session.execute(f"EXPLAIN {statement}", _select_parameters(statement, parameters))
        return 0

    def load_file(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        substitute: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """See `Warehouse.load_file`."""
        declared = ", ".join(f"`{name}` {kind}" for name, kind in columns)
        types = {name: {"INT64": "BIGINT", "STRING": "VARCHAR"}.get(kind, kind) for name, kind in columns}
        if path.suffix == ".csv":
            options = "header = true, auto_detect = false"
            reader = "read_csv"
        else:
            options = f"format = 'newline_delimited', maximum_object_size = {MAX_LINE}"
            reader = "read_json"
        with self._open_session() as session:
            _execute(session, [f"CREATE OR REPLACE TABLE {table} ({declared})"], {})
            insert = f"INSERT INTO {table} SELECT * FROM {reader}($path, columns = {types}, {options})"
            try:
                session.execute(insert, {"path": str(path)})
            except duckdb.InvalidInputException as error:
                if not substitute or "maximum_object_size" not in str(error):
                    raise
                small = chunks.replace_large_lines(path, MAX_LINE, substitute)
                session.execute(insert, {"path": str(small)})
                small.unlink()
            [(rows,)] = session.execute(f"SELECT COUNT(*) FROM {table}").fetchall()
            return int(rows)

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _open_session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Open a cursor for one thread at a time, so that the results of two threads cannot mix."""
        with self._lock, self._connection.cursor() as session:
            yield session


def _execute(session: duckdb.DuckDBPyConnection, statements: Iterable[str], parameters: dict[str, Any]) -> None:
    for sql in statements:
        for statement in to_duckdb(sql):
            session.execute(statement, _select_parameters(statement, parameters))


def _select_parameters(statement: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that the statement names: DuckDB refuses any other."""
    return {name: parameters[name] for name in set(_PARAMETER.findall(statement))}


def _open(path: Path, wait: float) -> duckdb.DuckDBPyConnection:
    """Open the file; retry for `wait` seconds while another program has it open."""
    until = time.monotonic() + wait
    while True:
        try:
            return duckdb.connect(path, config=_CONFIG)
        except duckdb.IOException as error:
            if "lock" not in str(error).lower():
                raise UserError(f"{path} is not a DuckDB warehouse: set WAREHOUSE in .env to another file.") from error
            if time.monotonic() > until:
                raise UserError(
                    f"Another program has {path} open: close it (perhaps a notebook in JupyterLab) and try again."
                ) from None
            time.sleep(0.2)
