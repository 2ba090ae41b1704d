"""The warehouse on BigQuery, through Google's own client: load jobs, scripts as transactions, and what they cost.

A statement is sent as a job. The client gives the job an id before it sends it and asks for that job where the answer
is lost, so nothing is done twice; a job that failed has done nothing, so it may be sent again. A landing file becomes
load jobs whose ids follow from the table and the lines: a program that died between submitting and using them is
resumed by the next one, for which they are "already there".

Frames come by Arrow, as DuckDB's do, and are equal to the type: pandas-gbq would make dates, integers and texts of
types of its own, and reads the tables of results with another client than the one it's given.
"""

from __future__ import annotations

import csv
import io
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import Any, Self, TypeVar

import orjson
import pandas as pd
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery import DEFAULT_RETRY, LoadJobConfig, QueryJobConfig, ScalarQueryParameter, SchemaField
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from stkpi.errors import UserError, WarehouseError
from stkpi.warehouse import chunks
from stkpi.warehouse.protocol import DATASETS, STAGE_DAYS, Usage
from stkpi.warehouse.schema import Columns

T = TypeVar("T")
Job = bigquery.QueryJob | bigquery.LoadJob

THREADS = 4  # parts of a file that are loaded at once
PREFIX = "stkpi-"
ROLES = "BigQuery Data Editor (roles/bigquery.dataEditor) and BigQuery Job User (roles/bigquery.jobUser)"
# Of parameters that may be NULL, the type: a value tells its own.
NULLABLE = {
    "window_start": "TIMESTAMP",
    "window_end": "TIMESTAMP",
    "watermark": "TIMESTAMP",
    "gone": "TIMESTAMP",
    "cycle": "STRING",
    "total": "INT64",
}
_TYPES: tuple[tuple[type, str], ...] = (  # bool before int and datetime before date, which they are, too
    (bool, "BOOL"),
    (int, "INT64"),
    (float, "FLOAT64"),
    (Decimal, "NUMERIC"),
    (str, "STRING"),
    (datetime, "TIMESTAMP"),
    (date, "DATE"),
)
_PARAMETER = re.compile(r"@([a-z_]+)")
_REPLACES = re.compile(r"^\s*CREATE OR REPLACE TABLE\s+([\w.]+)", re.MULTILINE)
_CHANGES = re.compile(r"^\s*(?:UPDATE|DELETE FROM|MERGE INTO)\s+([\w.]+)", re.MULTILINE)


@dataclass(frozen=True)
class Patience:
    """How many seconds a refusal that passes is waited for, by its kind, with pauses of at most `pause` seconds."""

    # "recent writes refers to writes that occur within the last 30 minutes" (Google's page on DML)
    streaming: float = 35 * 60
    busy: float = 10 * 60
    network: float = 10 * 60
    pause: float = 60


@dataclass(frozen=True)
class _Refusal:
    """How an error is known (a reason of Google's, or words of its message), and what is done and said."""

    known_by: str
    sentence: str
    waits: str | None = None  # the field of Patience
    kind: type[Exception] = WarehouseError


_REFUSALS = (
    _Refusal(
        "would affect rows in the streaming buffer",
        "Rows that were streamed into {table} within the last 30 minutes cannot be changed yet: stop what streams into "
        "it, and run again after {later}. Nothing is lost.",
        "streaming",
    ),
    _Refusal(
        "Too many DML statements outstanding",
        "Too many statements wait for {table}: something else writes to it. Run again when that is done.",
        "busy",
    ),
    _Refusal(
        "due to concurrent update",
        "Something else keeps changing {table} at the same time: run again when that is done.",
        "busy",
    ),
    _Refusal("quotaExceeded", "A quota of the Google project is used up: {message} Run again tomorrow, or raise it."),
    _Refusal("bytesBilledLimitExceeded", "{budget}"),
    _Refusal("without a filter over column", "A statement lacks its bound on the partition, which is a bug: {message}"),
    _Refusal(
        "accessDenied",
        f"The account may not do this in BigQuery: {{message}} Give it {ROLES}.",
        kind=UserError,
    ),
    *(
        _Refusal(reason, "BigQuery refuses for now: {message} Run again in an hour: finished work is kept.", "busy")
        for reason in ("ateLimitExceeded", "ackendError", "nternalError")  # rate…, jobRate…, backend…, jobBackend…
    ),
)
# A table that is to be partitioned or clustered otherwise has to go first.
_REPARTITIONED = re.compile(r"Cannot replace a table with a different (partitioning|clustering) spec", re.IGNORECASE)
# A request that the front end finds too large answers with 413, or with 400 and these words; a load job with a row over
# 100 MB fails with "Row size is larger than".
_TOO_LARGE = re.compile(r"payload size exceeds|too large|larger than|exceeds the (maximum|limit)", re.IGNORECASE)


class BigQueryWarehouse:
    """`stkpi.warehouse.Warehouse` on the datasets of a Google project."""

    name = "bigquery"
    remote = True
    NotFound = NotFound

    def __init__(
        self,
        project: str,
        location: str = "US",
        *,
        emulator: str | None = None,
        budget: int | None = None,
        usage: Usage | None = None,
        patience: Patience = Patience(),
    ) -> None:
        """Connect, and create the datasets that are missing.

        emulator: the address of an emulator, which wants no credentials
        budget: the bytes that may be billed to `usage`
        Raises UserError, in one sentence, for credentials, a role, a project or a location that do not serve.
        """
        self._project, self._budget, self._patience = project, budget, patience
        self._retry = DEFAULT_RETRY.with_timeout(patience.network)
        self.usage = usage or Usage()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS)
        options = ClientOptions(api_endpoint=emulator) if emulator else None
        try:
            credentials = AnonymousCredentials() if emulator else None
            self._client = bigquery.Client(project, credentials, location=location, client_options=options)
            self._create_datasets(location)
        except auth.DefaultCredentialsError as error:
            raise UserError(
                "There are no Google credentials: run `gcloud auth application-default login`, or start this as a "
                "service account; without BQ_PROJECT the warehouse is a file."
            ) from error
        except auth.RefreshError as error:
            raise UserError(
                "Google refuses the credentials: renew them by `gcloud auth application-default login`."
            ) from error
        except Forbidden as error:
            raise UserError(
                f"The account may not use BigQuery in project {project}: give it {ROLES}, or correct BQ_PROJECT."
            ) from error
        except GoogleAPICallError as error:
            raise UserError(f"BigQuery refuses project {project}, correct BQ_PROJECT: {_text(error)}") from error
        except (RetryError, requests.RequestException, auth.TransportError) as error:
            where = emulator or "bigquery.googleapis.com"
            raise UserError(f"{where} cannot be reached: check the network and BIGQUERY_EMULATOR_HOST.") from error

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`."""
        job = self._run(sql, parameters)
        rows = job.result(retry=self._retry, job_retry=None).to_arrow(create_bqstorage_client=False)
        return rows.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`. Several are one script: each of them alone would wait for its turn."""
        script = "\n;\n".join(statements)
        try:
            self._run(script, parameters)
        except GoogleAPICallError as error:
            if not _REPARTITIONED.search(str(error.message)):
                raise
            self.drop(*_REPLACES.findall(script))
            self._run(script, parameters)

    def transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.transaction`.

        Of two transactions that change rows of one table BigQuery aborts one: ours take turns.
        """
        script = "\n;\n".join(("BEGIN TRANSACTION", *statements, "COMMIT TRANSACTION"))
        with ExitStack() as turns:
            for table in sorted({table for statement in statements for table in _CHANGES.findall(statement)}):
                turns.enter_context(self._turn(table))
            self._run(script, parameters)

    def dry_run(self, sql: str, **parameters: Any) -> int:
        """See `Warehouse.dry_run`."""
        config = QueryJobConfig(query_parameters=_parameters(sql, parameters), dry_run=True, use_query_cache=False)
        return self._patiently(lambda: self._client.query(sql, config, job_retry=None).total_bytes_processed or 0, sql)

    def load(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        stand_in: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """See `Warehouse.load`."""
        schema = [SchemaField(name, kind) for name, kind in columns]
        config = LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", schema=schema, max_bad_records=0, ignore_unknown_values=False
        )
        if path.suffix == ".csv":
            config.write_disposition = "WRITE_TRUNCATE"
            return self._load_lines(table, _ndjson(path), config, f"{PREFIX}{time.time_ns()}").output_rows
        # The table outlives a crash and the jobs' ids contain its creation: what was submitted before is found again,
        # and what went into an earlier table of the name is not.
        made = self._client.create_table(
            bigquery.Table(f"{self._project}.{table}", schema), exists_ok=True, retry=self._retry
        )
        seed = f"{PREFIX}{made.table_id}-{made.created.timestamp() * 1000:.0f}"

        def load(part: chunks.Part) -> None:
            self._load_part(table, part, config, seed, stand_in)

        pieces = chunks.read(path)
        while batch := list(islice(pieces, THREADS)):
            list(self._pool.map(load, batch))
        rows = self._client.get_table(made.reference, retry=self._retry).num_rows
        return int(rows)

    def drop(self, *tables: str) -> None:
        """See `Warehouse.drop`. Not a statement: a call costs nothing and takes no turn."""
        for table in tables:
            self._client.delete_table(f"{self._project}.{table}", not_found_ok=True, retry=self._retry)

    def columns(self, *datasets: str) -> dict[str, Columns]:
        """See `Warehouse.columns`."""
        listed = " UNION ALL ".join(
            f"SELECT '{dataset}' AS dataset, table_name, column_name, data_type"
            f" FROM {dataset}.INFORMATION_SCHEMA.COLUMNS"
            for dataset in datasets
        )
        found: dict[str, dict[str, str]] = {}
        for row in self.query(listed).itertuples():
            found.setdefault(f"{row.dataset}.{row.table_name}", {})[row.column_name] = row.data_type
        return found

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._pool.shutdown()
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _run(self, sql: str, parameters: Mapping[str, Any]) -> bigquery.QueryJob:
        """Run a statement or a script as a job, within the budget; the job when it's done."""
        given = _parameters(sql, parameters)

        def attempt() -> bigquery.QueryJob:
            config = QueryJobConfig(query_parameters=given)
            if self._budget is not None:
                config.maximum_bytes_billed = self._left()
            job = self._client.query(sql, config, job_id_prefix=PREFIX, retry=self._retry, job_retry=None)
            self._wait(job)
            self.usage.add(job.total_bytes_processed or 0, job.total_bytes_billed or 0)
            return job

        return self._patiently(attempt, sql)

    def _left(self) -> int:
        left = self._budget - self.usage.billed
        if left <= 0:
            raise WarehouseError(self._overspent())
        return left

    def _overspent(self) -> str:
        return (
            f"This step would be billed more than its budget of {self._budget:,} bytes ({self.usage.billed:,} are "
            "used): raise BQ_STEP_BUDGET, or find out what reads so much."
        )

    def _wait(self, job: Job) -> None:
        """Wait for a job's end; raises its error. By jobs.get, which tells an error of the job from one of the call."""
        pause = 0.05
        while not job.done(retry=self._retry):
            time.sleep(pause)
            pause = min(2, pause * 1.5)
        if error := job.exception():
            raise error

    def _patiently(self, attempt: Callable[[], T], about: str) -> T:
        """Try until it succeeds, while the refusal is one that passes."""

        def passes(error: BaseException) -> bool:
            refusal = _refusal(error)
            return bool(refusal and refusal.waits)

        def enough(state: RetryCallState) -> bool:
            refusal = _refusal(state.outcome.exception())
            return state.seconds_since_start >= getattr(self._patience, refusal.waits)

        retrying = Retrying(
            retry=retry_if_exception(passes),
            stop=enough,
            wait=wait_random_exponential(max=self._patience.pause),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except GoogleAPICallError as error:
            if refusal := _refusal(error):
                raise refusal.kind(self._said(refusal, error, about)) from error
            raise
        except (RetryError, requests.RequestException, auth.TransportError) as error:
            raise WarehouseError("BigQuery did not answer: run again, finished work is kept.") from error

    def _said(self, refusal: _Refusal, error: GoogleAPICallError, about: str) -> str:
        tables = _CHANGES.findall(about)
        later = datetime.now(UTC) + timedelta(minutes=30)
        return refusal.sentence.format(
            table=tables[0] if tables else "a table",
            later=f"{later:%H:%M} UTC",
            message=_text(error),
            budget=self._overspent() if self._budget is not None else _text(error),
        )

    def _turn(self, table: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(table, threading.Lock())

    # --- load jobs --------------------------------------------------------------------------------------------------

    def _load_part(
        self,
        table: str,
        part: chunks.Part,
        config: LoadJobConfig,
        seed: str,
        stand_in: Callable[[bytes, str], bytes] | None,
    ) -> None:
        """Load a part; where it's too large its halves, down to one line, and for that the line that stands in."""
        try:
            self._load_lines(table, part.body, config, f"{seed}-{part.name}")
        except GoogleAPICallError as error:
            if not _too_large(error):
                raise
            if len(part.lines) > 1:
                for half in part.halves():
                    self._load_part(table, half, config, seed, stand_in)
            elif stand_in:
                [line] = part.lines
                reason = f"too large for a request: {len(line):,} bytes"
                self._load_lines(table, stand_in(line, reason), config, f"{seed}-{part.name}-stand-in")
            else:
                raise

    def _load_lines(self, table: str, body: bytes, config: LoadJobConfig, job_id: str) -> bigquery.LoadJob:
        """Load NDJSON by the job of this id: started, or found from before. One that had failed gets a successor."""
        numbers = count()

        def attempt() -> bigquery.LoadJob:
            while True:
                name, found = f"{job_id}-{next(numbers)}", False
                try:
                    job = self._client.load_table_from_file(
                        io.BytesIO(body), f"{self._project}.{table}", size=len(body), job_id=name, job_config=config
                    )
                except Conflict:
                    job, found = self._client.get_job(name, retry=self._retry), True
                try:
                    self._wait(job)
                except GoogleAPICallError:
                    if not found:
                        raise
                else:
                    return job

        return self._patiently(attempt, table)

    def _create_datasets(self, location: str) -> None:
        there = {item.dataset_id for item in self._client.list_datasets(retry=DEFAULT_RETRY.with_timeout(20))}
        for name in DATASETS:
            if name in there:
                continue
            dataset = bigquery.Dataset(f"{self._project}.{name}")
            dataset.location = location
            if name == "st_stage_v2":
                dataset.default_table_expiration_ms = int(timedelta(days=STAGE_DAYS) / timedelta(milliseconds=1))
            self._client.create_dataset(dataset, exists_ok=True, retry=self._retry)
        if there & set(DATASETS):
            actual = self._client.get_dataset(f"{self._project}.{min(there & set(DATASETS))}").location
            if actual.upper() != location.upper():
                raise UserError(f"The datasets are in {actual}, not in {location}: set BQ_LOCATION={actual}.")


def parameter(name: str, value: Any) -> ScalarQueryParameter:
    """A named parameter with the type of its value; of None, the type that NULLABLE gives."""
    if value is None:
        return ScalarQueryParameter(name, NULLABLE[name], None)
    return ScalarQueryParameter(name, next(kind for cls, kind in _TYPES if isinstance(value, cls)), value)


def _parameters(sql: str, values: Mapping[str, Any]) -> list[ScalarQueryParameter]:
    """The parameters that the statement names."""
    return [parameter(name, values[name]) for name in sorted(set(_PARAMETER.findall(sql)) & values.keys())]


def _ndjson(path: Path) -> bytes:
    """A CSV file as NDJSON, an empty cell as null, as DuckDB reads it: of CSV BigQuery makes it an empty text."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return b"".join(orjson.dumps({k.strip(): v or None for k, v in row.items()}) + b"\n" for row in rows)


def _refusal(error: BaseException | None) -> _Refusal | None:
    if not isinstance(error, GoogleAPICallError):
        return None
    reasons = [str(detail.get("reason")) for detail in error.errors or () if isinstance(detail, Mapping)]
    told = "\n".join((str(error.message), *reasons))
    return next((refusal for refusal in _REFUSALS if refusal.known_by in told), None)


def _too_large(error: GoogleAPICallError) -> bool:
    return error.code == 413 or (error.code == 400 and bool(_TOO_LARGE.search(str(error.message))))  # noqa: PLR2004 HTTP


def _text(error: BaseException) -> str:
    """The first line of what Google says, ended as a sentence."""
    message = str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__]
    return message[0].split("; reason:")[0].rstrip(".") + "."
