"""The warehouse: one small protocol, two engines. Nothing else in the product knows which one runs."""

from __future__ import annotations

from stkpi.settings import Settings, load
from stkpi.warehouse.names import DATASETS
from stkpi.warehouse.protocol import (
    STAGE_DAYS,
    USAGE,
    EmbeddedWarehouse,
    Usage,
    Warehouse,
    ensure_tables,
    is_embedded,
)

__all__ = [
    "DATASETS",
    "STAGE_DAYS",
    "USAGE",
    "EmbeddedWarehouse",
    "Usage",
    "Warehouse",
    "connect",
    "ensure_tables",
    "is_embedded",
]


def connect(
    settings: Settings | None = None,
    wait: float = 60,
    *,
    read_only: bool = False,
    may_change: str = "",
    streams: bool = False,
) -> Warehouse:
    """Open the warehouse that the settings name (BigQuery if BQ_PROJECT is set, else a DuckDB file) with its datasets.

    settings: default: read from the environment and .env
    wait: seconds to wait while another program has the DuckDB file open, or writes to the datasets
    read_only: create nothing, not even datasets; several programs may read at a time
    may_change: the real name of the one table that may be changed although this program did not make it
    streams: the work goes through many small batches: little memory is enough for it
    Raises UserError if it cannot be used, or its datasets hold what this program did not make.
    """
    settings = settings or load()
    if settings.bq_project:
        from stkpi.warehouse.bigquery import BigQueryWarehouse  # noqa: PLC0415 - the engine in use is the only one imported

        return BigQueryWarehouse(
            settings.bq_project,
            settings.bq_location,
            emulator=settings.bigquery_emulator_host,
            budget=settings.bq_step_budget,
            usage=USAGE,
            datasets=settings.datasets,
            read_only=read_only,
            may_change=may_change,
            wait=wait,
        )
    from stkpi.warehouse.duckdb import DuckDBWarehouse  # noqa: PLC0415

    return DuckDBWarehouse(
        settings.warehouse,
        wait,
        datasets=settings.datasets,
        read_only=read_only,
        may_change=may_change,
        streams=streams,
    )
