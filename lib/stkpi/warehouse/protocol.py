"""What the product needs of a warehouse: the protocol that both engines satisfy, and what a process has read of it.

All SQL is GoogleSQL with named parameters (`@first_day`). Datasets: st_raw_v2 (records as they came, typed), st_ref_v2
(dimensions), st_mart_v2 (facts and KPIs), st_logs_v2 (ingestion_logs, sync_state, quarantine), st_stage_v2 (scratch).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd

from stkpi.warehouse.schema import Columns, Table, migration

DATASETS = ("st_raw_v2", "st_ref_v2", "st_mart_v2", "st_logs_v2", "st_stage_v2")
STAGE_DAYS = 3  # after which a scratch table is gone, if a crash has left it


@dataclass
class Usage:
    """What the statements of this process (of a step of the nightly) have read and are billed for, in bytes."""

    statements: int = 0
    processed: int = 0
    billed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, processed: int, billed: int) -> None:
        """Count a statement."""
        with self._lock:
            self.statements += 1
            self.processed += processed
            self.billed += billed


USAGE = Usage()


class Warehouse(Protocol):
    """What the product needs of an engine. Usable by several threads, and as a context manager that closes it."""

    name: str
    remote: bool  # statements are billed by what they read, and what was submitted goes on if this program dies
    NotFound: type[Exception]  # raised for a table that does not exist

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """Rows of a SELECT. NUMERIC arrives as Decimal, DATE as date, TIMESTAMP as an aware UTC timestamp."""

    def execute(self, *statements: str, **parameters: Any) -> None:
        """Run statements in order, each on its own."""

    def transaction(self, *statements: str, **parameters: Any) -> None:
        """Run DML statements that become visible together or not at all."""

    def load(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        stand_in: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """Replace `table` (columns as name, type) by the rows of an NDJSON.gz or CSV file; how many it then has.

        Of an NDJSON.gz file, a table of the name is taken for an unfinished load of the same content where `remote`:
        have the content's digest in the name, and drop the table after use. `stand_in(line, reason)` gives the line
        that is loaded in place of one that is too large.
        """

    def drop(self, *tables: str) -> None:
        """Drop tables, if they are there."""

    def columns(self, *datasets: str) -> dict[str, Columns]:
        """The tables of datasets, by full name, each with the types of its columns by name."""

    def dry_run(self, sql: str, **parameters: Any) -> int:
        """The bytes that a statement would read (0 where reading costs nothing); it is not run."""

    def close(self) -> None:
        """Let go of the warehouse."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def ensure(target: Warehouse, tables: Iterable[Table]) -> None:
    """Create the tables that are missing, and add the columns that the others lack.

    Raises UserError for a column that has another type.
    """
    tables = tuple(tables)
    statements = list(migration(tables, target.columns(*sorted({table.dataset for table in tables}))))
    if statements:
        target.execute(*statements)
