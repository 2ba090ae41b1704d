"""The warehouse: one small protocol, two engines. Nothing else in the product knows which one runs.

All SQL is GoogleSQL with named parameters (`@first_day`). Datasets: st_raw_v2 (records as they came, typed), st_ref_v2
(dimensions), st_mart_v2 (facts and KPIs), st_logs_v2 (ingestion_logs, sync_state, quarantine), st_stage_v2 (scratch).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, Self

import pandas as pd

from stkpi.settings import Settings, load

DATASETS = ("st_raw_v2", "st_ref_v2", "st_mart_v2", "st_logs_v2", "st_stage_v2")


class Warehouse(Protocol):
    """What the product needs of an engine. Usable by several threads, and as a context manager that closes it."""

    name: str
    NotFound: type[Exception]  # raised for a table that does not exist

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """Rows of a SELECT. NUMERIC arrives as Decimal, DATE as date, TIMESTAMP as an aware UTC timestamp."""

    def execute(self, *statements: str, **parameters: Any) -> None:
        """Run statements in order, each on its own."""

    def transaction(self, *statements: str, **parameters: Any) -> None:
        """Run DML statements that become visible together or not at all."""

    def load(self, table: str, path: Path, columns: Sequence[tuple[str, str]]) -> int:
        """Replace `table` (columns as name, type) by the rows of an NDJSON.gz or CSV file; their count."""

    def close(self) -> None:
        """Let go of the warehouse."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...


def connect(settings: Settings | None = None, wait: float = 60) -> Warehouse:
    """The warehouse that the settings name, with its datasets created.

    wait: seconds to wait while another program has the DuckDB file open
    Raises UserError where it stays locked or the file is not a warehouse.
    """
    settings = settings or load()
    from stkpi.warehouse.duckdb import DuckDBWarehouse  # noqa: PLC0415 - the engine in use is the only one imported

    return DuckDBWarehouse(settings.warehouse, wait)
