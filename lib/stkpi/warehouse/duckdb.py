"""The embedded warehouse: one DuckDB file, the same GoogleSQL as on BigQuery."""

from __future__ import annotations

import errno
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import duckdb
import pandas as pd
import pyarrow as pa

from stkpi.errors import UserError, WarehouseError, explain_os_error
from stkpi.warehouse.dialect import to_duckdb
from stkpi.warehouse.names import DATASETS, LOGICAL, Statement, map_name, prepare_statement
from stkpi.warehouse.ownership import LABEL, Ownership
from stkpi.warehouse.schema import Columns

# Most data that does not fit into memory spills to disk beside the warehouse. Not all: with 350 MB, a build of 1.7
# million records ended in "Out of Memory"; with 1 GB, one of 3.4 million is made.
_CONFIG: dict[str, str | bool | int | float | list[str]] = {
    "memory_limit": "1GB",
    "preserve_insertion_order": "false",
}
_STREAM_MEMORY = "100MB"  # DuckDB keeps what it has read for as long as it may: it fills any limit
_STREAM_LOG = "128MB"  # each checkpoint writes the newest rows of a table once more: a few large ones are cheaper
MAX_BYTES = 16 * 2**20  # of a record: DuckDB holds several buffers of this size per thread
# DuckDB's names for GoogleSQL's types.
_GOOGLESQL = {
    "BIGINT": "INT64",
    "VARCHAR": "STRING",
    "DECIMAL(38,9)": "NUMERIC",
    "DOUBLE": "FLOAT64",
    "BOOLEAN": "BOOL",
    "TIMESTAMP WITH TIME ZONE": "TIMESTAMP",
}
_COMMENT = "=".join(LABEL)
_OBJECTS = """SELECT schema_name || '.' || table_name, comment FROM duckdb_tables() WHERE NOT internal
UNION ALL SELECT schema_name || '.' || view_name, comment FROM duckdb_views() WHERE NOT internal"""
_TABLES = """SELECT '"' || schema_name || '"."' || table_name || '"' FROM duckdb_tables() WHERE NOT internal"""
_HOLDER = re.compile(r"lock is held in (.+) \(PID (\d+)\)")
_PARAMETER = re.compile(r"\$([a-z_]+)")
# DuckDB's own words.
_LOCKED = re.compile("Could not set lock on file", re.IGNORECASE)
_FULL = re.compile("No space left on device|File too large|disk is full|Disk quota", re.IGNORECASE)
_FORBIDDEN = re.compile("Permission denied|Read-only file system", re.IGNORECASE)
_FOREIGN = re.compile("not a valid DuckDB database file", re.IGNORECASE)
_DAMAGED = re.compile("corrupt|checksum|could not read enough bytes|Failure while replaying WAL", re.IGNORECASE)
_DAMAGED_KINDS = (duckdb.FatalException, duckdb.InternalException, duckdb.SerializationException)


class DuckDBWarehouse:
    """A `stkpi.warehouse.Warehouse` in a DuckDB file, which one program at a time can open."""

    name = "duckdb"
    remote = False
    max_bytes = MAX_BYTES
    NotFound = duckdb.CatalogException

    def __init__(
        self,
        path: Path,
        wait: float,
        *,
        datasets: str = LOGICAL,
        read_only: bool = False,
        may_change: str = "",
        streams: bool = False,
    ) -> None:
        """Open the file, or create it, with the datasets as schemas.

        wait: seconds to wait while another program has the file open
        datasets, read_only, may_change, streams: see `stkpi.warehouse.connect`; a file that is missing is empty to a
            reader
        Raises UserError if the file is still in use then, is not a DuckDB file, or has tables in these datasets that
        this program did not make.
        """
        self._datasets, self._path = datasets, path
        self._connection = _open(path, wait, read_only=read_only)
        self._local = threading.local()
        self._sessions: list[duckdb.DuckDBPyConnection] = []
        if streams:
            self._connection.execute(f"SET GLOBAL memory_limit = '{_STREAM_MEMORY}'")
            self._connection.execute(f"SET GLOBAL checkpoint_threshold = '{_STREAM_LOG}'")
        self._connection.execute("SET GLOBAL TimeZone = 'UTC'")  # BigQuery's default, whatever the machine's is
        real = {map_name(dataset, datasets) for dataset in DATASETS}
        found = {name: ours for name, ours in self._list_objects().items() if name.partition(".")[0] in real}
        # Schemas cannot be labeled. A file with anything of ours is ours.
        try:
            self._ownership = Ownership(
                found,
                real if any(found.values()) else (),
                pattern=datasets,
                catalog=self._catalog,
                may_change=may_change,
                read_only=read_only,
            )
        except UserError:
            self._connection.close()
            raise
        if not read_only:
            for schema in sorted(real):
                self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`. Through Arrow, because DuckDB's own frames turn a DECIMAL into a float."""
        (statement,) = to_duckdb(self._prepare(sql).sql)
        with self._open_session() as session:
            table = session.sql(statement, params=_select_parameters(statement, parameters)).to_arrow_table()
        return table.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`."""
        for statement in [self._prepare(statement) for statement in statements]:
            self._run_transaction([statement], parameters)

    def run_transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.run_transaction`."""
        self._run_transaction([self._prepare(statement) for statement in statements], parameters)

    def drop(self, *tables: str) -> None:
        """See `Warehouse.drop`."""
        self.execute(*(f"DROP TABLE IF EXISTS {table}" for table in tables))

    def list_columns(self, *datasets: str) -> Mapping[str, Columns]:
        """See `Warehouse.list_columns`."""
        found: dict[str, dict[str, str]] = {}
        with self._open_session() as session:
            listed = session.execute("SELECT schema_name, table_name, column_name, data_type FROM duckdb_columns()")
            logical = {self._name_schema(dataset): dataset for dataset in datasets}
            for schema, table, column, kind in listed.fetchall():
                if dataset := logical.get(schema):
                    found.setdefault(f"{dataset}.{table}", {})[column] = _GOOGLESQL.get(kind, kind)
        return found

    def list_views(self, dataset: str) -> Mapping[str, str]:
        """See `Warehouse.list_views`."""
        with self._open_session() as session:
            found = session.execute(
                "SELECT view_name, sql FROM duckdb_views() WHERE schema_name = ?", [self._name_schema(dataset)]
            ).fetchall()
        return {f"{dataset}.{name}": sql for name, sql in found}

    def check_ownership(self, *tables: str) -> None:
        """See `Warehouse.check_ownership`."""
        self._ownership.check(map(self.resolve_name, tables), self._look_up)

    def resolve_name(self, table: str) -> str:
        """See `Warehouse.resolve_name`."""
        return map_name(table, self._datasets)

    def qualify_name(self, table: str) -> str:
        """See `Warehouse.qualify_name`."""
        return f"`{self._catalog}`.{table}"

    def estimate_bytes(self, sql: str, **parameters: Any) -> int:
        """See `Warehouse.estimate_bytes`. Raises what the statement itself would raise if it is invalid."""
        for statement in to_duckdb(prepare_statement(sql, self._datasets).sql):
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
            options = f"format = 'newline_delimited', maximum_object_size = {MAX_BYTES}"
            reader = "read_json"
        self.execute(f"CREATE OR REPLACE TABLE {table} ({declared})")
        table = self.resolve_name(table)
        with self._open_session() as session:
            insert = f"INSERT INTO {table} SELECT * FROM {reader}($path, columns = {types}, {options})"
            session.execute(insert, {"path": str(path)})
            [(rows,)] = session.execute(f"SELECT COUNT(*) FROM {table}").fetchall()
            return int(rows)

    def insert_rows(self, statement: str, **tables: pa.Table) -> None:
        """See `Warehouse.insert_rows`."""
        (translated,) = to_duckdb(self._prepare(statement).sql)
        with self._open_session() as session:
            for name, table in tables.items():
                session.register(name, table)
            try:
                session.execute(translated)
            finally:
                for name in tables:
                    session.unregister(name)

    def close(self) -> None:
        """See `Warehouse.close`."""
        for session in self._sessions:
            session.close()
        self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare(self, sql: str) -> Statement:
        """Translate the names of a statement. Raises UserError if it would change what is not ours."""
        prepared = prepare_statement(sql, self._datasets)
        self._ownership.check_writes(prepared.writes, self._look_up)
        return prepared

    def _run_transaction(self, prepared: Sequence[Statement], parameters: dict[str, Any]) -> None:
        """Execute statements, and label what they create, so that all of it takes effect, or nothing."""
        with self._open_session() as session:
            session.begin()
            try:
                for each in prepared:
                    _execute(session, each, parameters)
            except BaseException:
                with suppress(duckdb.Error):  # after a full disk there may be nothing left to undo
                    session.rollback()
                raise
            session.commit()
        for each in prepared:
            self._ownership.note(each.writes)

    def _name_schema(self, dataset: str) -> str:
        return self.resolve_name(dataset).removeprefix(self.qualify_name(""))

    def _list_objects(self) -> dict[str, bool]:
        """Return every table and view of the file: whether it is ours."""
        with self._open_session() as session:
            listed = session.execute(_OBJECTS).fetchall()
        return {name: _COMMENT in (comment or "") for name, comment in listed}

    def _look_up(self, name: str) -> bool | None:
        """Return whether a table or view is ours; None: it does not exist."""
        return {each.lower(): ours for each, ours in self._list_objects().items()}.get(name.lower())

    @property
    def _catalog(self) -> str:
        [(name,)] = self._connection.execute("SELECT current_database()").fetchall()
        return str(name)

    @contextmanager
    def _open_session(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """Give the session of this thread: so the results of two threads cannot mix.

        Temporary tables last as long as the session.
        """
        if not hasattr(self._local, "session"):
            self._local.session = self._connection.cursor()
            self._sessions.append(self._local.session)
        try:
            yield self._local.session
        except duckdb.Error as error:
            if sentence := _explain(error, self._path):
                raise WarehouseError(sentence) from error
            raise


def verify_file(path: Path, wait: float = 60) -> int:
    """Read every value of every table of a warehouse file; return the number of its rows.

    Raises UserError or WarehouseError where that cannot be done, with what to do.
    """
    with DuckDBWarehouse(path, wait, read_only=True) as target, target._open_session() as session:
        names = [name for (name,) in session.execute(_TABLES).fetchall()]
        read = [session.execute(f"SELECT COUNT(*), BIT_XOR(HASH(t)) FROM {name} AS t").fetchall() for name in names]
    return sum(rows for ((rows, _),) in read)


def _execute(session: duckdb.DuckDBPyConnection, prepared: Statement, parameters: dict[str, Any]) -> None:
    """Execute a statement; label what it creates."""
    for statement in to_duckdb(prepared.sql):
        session.execute(statement, _select_parameters(statement, parameters))
    for write in prepared.writes:
        if write.verb == "CREATE":
            session.execute(f"COMMENT ON {write.kind} {write.name} IS '{_COMMENT}'")


def _select_parameters(statement: str, parameters: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that the statement names: DuckDB refuses any other."""
    return {name: parameters[name] for name in set(_PARAMETER.findall(statement))}


def _open(path: Path, wait: float, *, read_only: bool) -> duckdb.DuckDBPyConnection:
    """Open the file; say at once which other program has it open, and retry for `wait` seconds."""
    if read_only and not path.exists():
        return duckdb.connect(config=_CONFIG)
    path.parent.mkdir(parents=True, exist_ok=True)
    until, told = time.monotonic() + wait, False
    while True:
        try:
            return duckdb.connect(path, read_only, _CONFIG)
        except duckdb.ConnectionException:  # for reading and for writing at once, in this very program
            raise UserError(
                f"{path} is open already, in this program: close it first, as `with connect()` does."
            ) from None
        except duckdb.Error as error:
            if not _LOCKED.search(str(error)):
                sentence = _explain(error, path) or f"{path} cannot be opened: {str(error).splitlines()[0]}"
                raise UserError(sentence) from error
            holder = _name_holder(str(error))
            if time.monotonic() > until:
                raise UserError(f"{path} is still open in {holder}: end that, or wait for it, and try again.") from None
            if not told:
                print(f"Waiting: {path} is open in {holder}.", file=sys.stderr, flush=True)
                told = True
            time.sleep(0.2)


def _explain(error: duckdb.Error, path: Path) -> str | None:
    """Return what to do about an error of the file or of its disk; None for an error of a statement."""
    text = str(error)
    if _FULL.search(text):
        return explain_os_error(f"[Errno {errno.ENOSPC}]")
    if _FORBIDDEN.search(text):
        return explain_os_error(f"[Errno {errno.EACCES}] : '{path}'")
    if _FOREIGN.search(text):
        return f"{path} is not a DuckDB warehouse: set WAREHOUSE in .env to another file."
    if isinstance(error, _DAMAGED_KINDS) or _DAMAGED.search(text):
        return (
            f"The warehouse file is damaged: set {path} aside (rename it, and {path.name}.wal if it is there) and run "
            "again. The next run reads everything from ServiceTitan."
        )
    return None


def _name_holder(error: str) -> str:
    """Name the program that has the file open by DuckDB's message, as the person who started it knows it."""
    held = _HOLDER.search(error)
    if not held:
        return "another program"
    program, number = Path(held[1]).name, held[2]
    try:
        words = Path("/proc", number, "cmdline").read_text().split("\0")
    except OSError:  # not Linux, or another user's
        words = []
    if any(mark in word for mark in ("ipykernel_launcher", "multiprocessing.forkserver") for word in words):
        program = "a notebook, in JupyterLab or of a night"
    elif "-m" in words:  # with the command, without its values
        program = " ".join(["python -m", *words[words.index("-m") + 1 :][:2]]).strip()
    return f"another program ({program}; process {number})"
