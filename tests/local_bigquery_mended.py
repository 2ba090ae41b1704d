"""The command local-bigquery 0.3.2, with two things mended. Runs in the emulator's environment.

Its MERGE begins a transaction of its own, and takes the refusal for "one is open already". Since DuckDB 1.4 that
refusal aborts the open one.

Several times a statement it asks for one table or dataset by listing all of all projects, in 5 to 40 ms each time;
a project's own catalog has the answer in 2.
"""

import sys

import duckdb
from local_bigquery.cli import main
from local_bigquery.engine import database
from local_bigquery.jobs import merge

# --- MERGE inside a transaction ---------------------------------------------------------------------------------------


class _InTransaction:
    """A cursor with an open transaction: BEGIN is refused before DuckDB hears of it."""

    def __init__(self, cursor):
        self._cursor = cursor

    def __getattr__(self, name):
        return getattr(self._cursor, name)

    def execute(self, sql, *arguments):
        if sql == "BEGIN":
            raise duckdb.TransactionException("a transaction is open already")
        return self._cursor.execute(sql, *arguments)


def _is_open(cursor) -> bool:
    """Outside of a transaction each statement is one of its own, with a time of its own."""
    first, second = (cursor.execute("SELECT now()::VARCHAR").fetchone() for _ in range(2))
    return first == second


def _run(cursor, tree, context, run=merge.run):
    return run(_InTransaction(cursor) if _is_open(cursor) else cursor, tree, context)


merge.run = _run


# --- what a project's catalog says ------------------------------------------------------------------------------------

OBJECTS = """
SELECT table_name, 'TABLE', COALESCE(record_count, 0)
FROM {0}.ducklake_table AS t JOIN {0}.ducklake_schema AS s USING (schema_id)
LEFT JOIN {0}.ducklake_table_stats USING (table_id)
WHERE t.end_snapshot IS NULL AND s.end_snapshot IS NULL AND schema_name = $1 AND table_name = COALESCE($2, table_name)
UNION ALL
SELECT view_name, 'VIEW', 0
FROM {0}.ducklake_view AS v JOIN {0}.ducklake_schema AS s USING (schema_id)
WHERE v.end_snapshot IS NULL AND s.end_snapshot IS NULL AND schema_name = $1 AND view_name = COALESCE($2, view_name)
ORDER BY 1
"""
COLUMNS = """
SELECT column_name
FROM {0}.ducklake_column AS c JOIN {0}.ducklake_table AS t USING (table_id)
JOIN {0}.ducklake_schema AS s USING (schema_id)
WHERE c.end_snapshot IS NULL AND t.end_snapshot IS NULL AND s.end_snapshot IS NULL
  AND schema_name = $1 AND table_name = $2 AND
"""
SCHEMAS = "SELECT 1 FROM {0}.ducklake_schema WHERE end_snapshot IS NULL AND schema_name = $1"
# The emulator's own statements, by their beginnings, with what is to be asked of a project's catalog.
ASKED = {
    "SELECT column_name FROM duckdb_columns() WHERE database_name = ? ": f"{COLUMNS} NOT nulls_allowed",
    "SELECT 1 FROM duckdb_columns() WHERE database_name = ? AND ": f"{COLUMNS} column_name = $3",
    "SELECT 1 FROM duckdb_schemas() WHERE database_name = ? AND ": SCHEMAS,
    "SELECT table_name, 'TABLE', estimated_size FROM duckdb_tables() ": OBJECTS,
}


def _fetch(sql, parameters=None, fetch=database.fetch):
    asked = next((ours for theirs, ours in ASKED.items() if sql.startswith(theirs)), None)
    if not asked:
        return fetch(sql, parameters)
    project, *values = parameters
    if project == "emulator":  # where it keeps the results of queries
        return _result(*values) if asked is OBJECTS else []
    if project not in database._attached:
        return []
    return fetch(asked.format(database.quote(f"__ducklake_metadata_{project}")), values)


def _result(dataset, table, fetch=database.fetch):
    try:
        [(count,)] = fetch(f"SELECT COUNT(*) FROM {database.quote('emulator', dataset, table)}")
    except duckdb.CatalogException:
        return []
    return [(table, "TABLE", count)]


database.fetch = _fetch
if __name__ == "__main__":
    sys.exit(main())
