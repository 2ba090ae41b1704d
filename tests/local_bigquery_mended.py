"""The command local-bigquery, with one thing mended that version 0.3.2 does wrong: MERGE inside a transaction.

Its MERGE begins a transaction of its own, and takes the refusal for "one is open already". Since DuckDB 1.4 that
refusal aborts the open one. Runs in the emulator's environment.
"""

import sys

import duckdb
from local_bigquery.cli import main
from local_bigquery.jobs import merge


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

if __name__ == "__main__":
    sys.exit(main())
