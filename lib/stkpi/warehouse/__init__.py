"""The warehouse: one small protocol, two engines. Nothing else in the product knows which one runs."""

from __future__ import annotations

from stkpi.settings import Settings, load
from stkpi.warehouse.protocol import DATASETS, STAGE_DAYS, USAGE, Usage, Warehouse, ensure_tables

__all__ = ["DATASETS", "STAGE_DAYS", "USAGE", "Usage", "Warehouse", "connect", "ensure_tables"]


def connect(settings: Settings | None = None, wait: float = 60) -> Warehouse:
    """Open the warehouse that the settings name (BigQuery if BQ_PROJECT is set, else a DuckDB file) with its datasets.

    settings: default: read from the environment and .env
    wait: seconds to wait while another program has the DuckDB file open
    Raises UserError if it cannot be used.
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
        )
    from stkpi.warehouse.duckdb import DuckDBWarehouse  # noqa: PLC0415

    return DuckDBWarehouse(settings.warehouse, wait)
