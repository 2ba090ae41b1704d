"""What the product needs from a warehouse: the protocol that both engines satisfy, and the bytes a process has read.

All SQL is GoogleSQL with named parameters (`@first_day`). Datasets: st_raw_v2 (records as they came, typed), st_ref_v2
(dimensions), st_mart_v2 (facts and KPIs), st_logs_v2 (ingestion_logs, sync_state, quarantine), st_stage_v2 (scratch).
The setting DATASETS gives them other names in the warehouse, which only the engines know.

An engine labels what it makes. Every method that writes raises UserError for a table or view without that label.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self, TypeGuard

import pandas as pd
import pyarrow as pa

from stkpi.warehouse.schema import Columns, Table, plan_migration

STAGE_DAYS = 3  # after which BigQuery deletes a scratch table that a crash left behind


@dataclass
class Usage:
    """Bytes that the statements of this process (one step of the nightly) have read and are billed for."""

    statements: int = 0
    processed: int = 0
    billed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, processed: int, billed: int) -> None:
        """Count one statement; sizes in bytes."""
        with self._lock:
            self.statements += 1
            self.processed += processed
            self.billed += billed


USAGE = Usage()


class Warehouse(Protocol):
    """What the product needs from an engine. Several threads may share it; as a context manager it closes itself."""

    name: str
    remote: bool  # statements are billed by the bytes they read, and a submitted job goes on if this program dies

    @property
    def NotFound(self) -> type[Exception]:
        """The exception that a statement raises for a table that does not exist."""

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """Return the rows of a SELECT. NUMERIC arrives as Decimal, DATE as date, TIMESTAMP as an aware UTC timestamp.

        parameters: the values of `@name` in the statement; names that it does not use are ignored
        """

    def execute(self, *statements: str, **parameters: Any) -> None:
        """Run statements in order, each in its own transaction."""

    def run_transaction(self, *statements: str, **parameters: Any) -> None:
        """Run DML statements so that all of them take effect, or none."""

    def load_file(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        substitute: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """Replace `table` with the rows of an NDJSON.gz or CSV file; return how many rows the table then has.

        columns: (name, GoogleSQL type) of each column
        substitute: called with a line that is too large and the reason; returns the line to load in its place

        Where `remote`, an existing table of that name counts as an unfinished load of the same NDJSON.gz file: put the
        digest of the content into the name, and drop the table after use.
        """

    def drop(self, *tables: str) -> None:
        """Drop tables; skip those that do not exist."""

    def list_columns(self, *datasets: str) -> Mapping[str, Columns]:
        """Return the tables of the datasets: full name to {column: GoogleSQL type}."""

    def list_views(self, dataset: str) -> Mapping[str, str]:
        """Return the views of a dataset: full name to the text of its definition."""

    def check_ownership(self, *tables: str) -> None:
        """Check that tables may be made or changed. Raises UserError, which names those that are not ours."""

    def resolve_name(self, table: str) -> str:
        """Return the name that a dataset or table has in the warehouse, for a person to read."""

    def qualify_name(self, table: str) -> str:
        """Return the real name of a dataset or table in the form that DATASETS does not change."""

    def estimate_bytes(self, sql: str, **parameters: Any) -> int:
        """Return the bytes that a statement would read (0 where reading is free), without running it."""

    def close(self) -> None:
        """Close the connection, or the file."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


class EmbeddedWarehouse(Warehouse, Protocol):
    """An engine in this process, which takes rows from memory. Temporary tables last as long as their thread.

    max_bytes: of a record, as text; a larger one cannot be stored
    """

    max_bytes: int

    def insert_rows(self, statement: str, **tables: pa.Table) -> None:
        """Run an INSERT whose SELECT reads Arrow tables by the names that they have here."""


def is_embedded(target: Warehouse) -> TypeGuard[EmbeddedWarehouse]:
    """Return whether an engine takes rows from memory; the others load files."""
    return not target.remote


def ensure_tables(target: Warehouse, tables: Iterable[Table]) -> None:
    """Create the tables that do not exist, and add the columns that the existing ones lack.

    Raises UserError for a table that this program did not make, and a column of another type.
    """
    tables = tuple(tables)
    target.check_ownership(*(table.name for table in tables))
    found = target.list_columns(*sorted({table.dataset for table in tables}))
    statements = list(plan_migration(tables, found, target.resolve_name))
    if statements:
        target.execute(*statements)
