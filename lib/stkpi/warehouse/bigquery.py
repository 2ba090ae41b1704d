"""The warehouse on BigQuery, through Google's own client: load jobs, scripts as transactions, and their cost.

A statement is sent as a job. The client chooses the id of the job before it sends it, and asks for that job if the
answer is lost, so nothing is done twice. A failed job has changed nothing, so it may be sent again. A landing file
becomes load jobs whose ids follow from the table and the lines: if a program dies after submitting them, the next one
finds them by their ids and resumes.

Frames come through Arrow, as DuckDB's do, and have the same types. pandas-gbq 0.35 cannot give them: it makes DATE a
dbdate column with NaT for NULL (even with dtypes=object), INT64 an Int64 column and BOOL a boolean one; and `read_gbq`
starts a job of its own, without the job id, the retries and the count of bytes that are here. It stays a good way to
read these tables in a notebook of one's own.
"""

from __future__ import annotations

import csv
import io
import re
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from itertools import count, islice
from pathlib import Path
from typing import Any, Literal, Self, TypeVar, cast

import orjson
import pandas as pd
import requests
from google.api_core.client_options import ClientOptions
from google.api_core.exceptions import Conflict, Forbidden, GoogleAPICallError, NotFound, RetryError
from google.auth import exceptions as auth
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery import DEFAULT_RETRY, LoadJobConfig, QueryJobConfig, ScalarQueryParameter, SchemaField
from google.cloud.bigquery.dataset import DatasetListItem
from google.cloud.bigquery.table import TableListItem
from tenacity import RetryCallState, Retrying, retry_if_exception, wait_random_exponential

from stkpi.deadline import limit_answers
from stkpi.errors import UserError, WarehouseError
from stkpi.warehouse import chunks
from stkpi.warehouse.lease import TABLE, Lease
from stkpi.warehouse.names import DATASETS, LOGICAL, Statement, Write, map_name, prepare_statement
from stkpi.warehouse.ownership import LABEL, Ownership
from stkpi.warehouse.protocol import STAGE_DAYS, Usage
from stkpi.warehouse.schema import Columns

T = TypeVar("T")
Job = bigquery.QueryJob | bigquery.LoadJob

THREADS = 4  # chunks of a file that load at the same time
PREFIX = "stkpi-"
ROLES = "BigQuery Data Editor (roles/bigquery.dataEditor) and BigQuery Job User (roles/bigquery.jobUser)"
# The types of parameters that may be NULL; a value has its own type.
NULLABLE = {
    "window_start": "TIMESTAMP",
    "window_end": "TIMESTAMP",
    "watermark": "TIMESTAMP",
    "oldest_deleted": "TIMESTAMP",
    "cycle": "STRING",
    "total": "INT64",
}
_TYPES: tuple[tuple[type, str], ...] = (  # bool before int and datetime before date: they are subclasses
    (bool, "BOOL"),
    (int, "INT64"),
    (float, "FLOAT64"),
    (Decimal, "NUMERIC"),
    (str, "STRING"),
    (datetime, "TIMESTAMP"),
    (date, "DATE"),
)
_PARAMETER = re.compile(r"@([a-z_]+)")
_OPTIONS = f'labels=[("{LABEL[0]}", "{LABEL[1]}")]'


@dataclass(frozen=True)
class RetryLimits:
    """How many seconds to retry after a temporary refusal, by its kind, with pauses of at most `pause` seconds.

    answer: for the whole answer to one call; job: for a job to end
    """

    # "recent writes refers to writes that occur within the last 30 minutes" (Google's page on DML)
    streaming: float = 35 * 60
    busy: float = 10 * 60
    network: float = 10 * 60
    pause: float = 60
    answer: float = 120
    job: float = 60 * 60


@dataclass(frozen=True)
class _Refusal:
    """An error that BigQuery is known to answer with, and what to tell the user.

    pattern: a reason of Google's, or words of its message
    limit: the field of RetryLimits that says how long to retry; None: not at all
    """

    pattern: str
    sentence: str
    limit: Literal["streaming", "busy", "network"] | None = None
    kind: type[Exception] = WarehouseError


_REFUSALS = (
    _Refusal(
        "would affect rows in the streaming buffer",
        "Rows that were streamed into {table} in the last 30 minutes cannot be changed yet: stop the program that "
        "streams into it, and run again after {later}. Nothing is lost.",
        "streaming",
    ),
    _Refusal(
        "Too many DML statements outstanding",
        "Too many statements are waiting for {table}: another program writes to it. Run again when it is done.",
        "busy",
    ),
    _Refusal(
        "due to concurrent update",
        "Another program keeps changing {table} at the same time: run again when it is done.",
        "busy",
    ),
    _Refusal(
        "quotaExceeded", "A quota of the Google project is used up: {message} Run again tomorrow, or raise the quota."
    ),
    _Refusal("bytesBilledLimitExceeded", "{budget}"),
    _Refusal(
        "without a filter over column",
        "A statement does not filter by the partition of its table; this is a bug: {message}",
    ),
    _Refusal(
        "accessDenied",
        f"The account is not allowed to do this in BigQuery: {{message}} Grant it {ROLES}.",
        kind=UserError,
    ),
    *(
        _Refusal(reason, "BigQuery is too busy: {message} Run again in an hour: finished work is kept.", "busy")
        for reason in ("ateLimitExceeded", "ackendError", "nternalError")  # rate…, jobRate…, backend…, jobBackend…
    ),
)
# A table whose partitioning or clustering changes must be dropped first.
_REPARTITIONED = re.compile(r"Cannot replace a table with a different (partitioning|clustering) spec", re.IGNORECASE)
# BigQuery answers a request that is too large with 413, or with 400 and these words; a load job with a row over 100 MB
# fails with "Row size is larger than".
_TOO_LARGE = re.compile(r"payload size exceeds|too large|larger than|exceeds the (maximum|limit)", re.IGNORECASE)


class BigQueryWarehouse:
    """A `stkpi.warehouse.Warehouse` in the datasets of a Google project."""

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
        retry_limits: RetryLimits = RetryLimits(),
        datasets: str = LOGICAL,
        read_only: bool = False,
        may_change: str = "",
        wait: float = 60,
    ) -> None:
        """Connect, look at what is there, and create the missing datasets.

        emulator: the URL of an emulator, which needs no credentials
        budget: the bytes that may be billed to `usage`; None: no limit
        usage: where to count the bytes; default: a count of its own
        datasets, read_only, may_change, wait: see `stkpi.warehouse.connect`
        Raises UserError for missing credentials or roles, a project or location that cannot be used, tables in these
        datasets that this program did not make, and another program that still writes to them after `wait` seconds.
        """
        self._project, self._budget, self._limits = project, budget, retry_limits
        self._datasets = {name: map_name(name, datasets) for name in DATASETS}
        self._pattern = datasets
        self._retry = DEFAULT_RETRY.with_timeout(retry_limits.network)
        self.usage = usage or Usage()
        self._locks: dict[str, threading.Lock] = {}
        self._guard = threading.Lock()
        self._pool = ThreadPoolExecutor(THREADS)
        options = ClientOptions(api_endpoint=emulator) if emulator else None
        try:
            credentials = AnonymousCredentials() if emulator else None
            self._client = bigquery.Client(project, credentials, location=location, client_options=options)
            # Google's client gives its calls no deadline at all: a server that accepts and never answers would hold us.
            limit_answers(self._client._http, retry_limits.answer)
            existing = self._find_datasets(location)
            self._ownership = Ownership(
                self._list_objects(existing),
                [name for name, ours in existing.items() if ours],
                pattern=datasets,
                catalog=project,
                may_change=may_change,
                read_only=read_only,
            )
            self._lease: Lease | None = None
            if not read_only:
                self._create_datasets(location, existing)
                sign = f"{project}.{self._datasets['st_stage_v2']}.{TABLE}"
                self._lease = Lease.acquire(self._client, sign, self._retry, wait)
        except auth.DefaultCredentialsError as error:
            raise UserError(
                "Google credentials are missing: run `gcloud auth application-default login`, or use a service "
                "account. To keep the warehouse in a file instead, leave BQ_PROJECT out."
            ) from error
        except auth.RefreshError as error:
            raise UserError(
                "Google refuses the credentials: renew them with `gcloud auth application-default login`."
            ) from error
        except Forbidden as error:
            raise UserError(
                f"The account is not allowed to use BigQuery in project {project}: grant it {ROLES}, or "
                "correct BQ_PROJECT."
            ) from error
        except GoogleAPICallError as error:
            raise UserError(
                f"BigQuery refuses project {project}: correct BQ_PROJECT. {_format_message(error)}"
            ) from error
        except (RetryError, requests.RequestException, auth.TransportError) as error:
            where = emulator or "bigquery.googleapis.com"
            raise UserError(f"Cannot reach {where}: check the network and BIGQUERY_EMULATOR_HOST.") from error

    def query(self, sql: str, **parameters: Any) -> pd.DataFrame:
        """See `Warehouse.query`."""
        job = self._run_job(self._prepare(sql), parameters)
        rows = job.result(retry=self._retry, job_retry=None).to_arrow(create_bqstorage_client=False)
        return rows.to_pandas(date_as_object=True, integer_object_nulls=True)

    def execute(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.execute`. Several statements are one script: one job instead of several."""
        script = self._prepare("\n;\n".join(statements))
        try:
            self._run_job(script, parameters)
        except GoogleAPICallError as error:
            if not _REPARTITIONED.search(str(error.message)):
                raise
            self.drop(*(write.name for write in script.writes if write.surely))
            self._run_job(script, parameters)

    def run_transaction(self, *statements: str, **parameters: Any) -> None:
        """See `Warehouse.run_transaction`.

        BigQuery aborts one of two transactions that change rows of the same table, so those of this process take turns.
        """
        script = self._prepare("\n;\n".join(("BEGIN TRANSACTION", *statements, "COMMIT TRANSACTION")))
        with ExitStack() as locks:
            for table in sorted({write.name for write in script.writes if write.verb != "INSERT"}):
                locks.enter_context(self._get_lock(table))
            self._run_job(script, parameters)

    def estimate_bytes(self, sql: str, **parameters: Any) -> int:
        """See `Warehouse.estimate_bytes`."""
        sql = prepare_statement(sql, self._pattern).sql
        config = QueryJobConfig(query_parameters=_make_parameters(sql, parameters), dry_run=True, use_query_cache=False)

        def attempt() -> int:
            return self._client.query(sql, config, job_retry=None).total_bytes_processed or 0

        return self._with_retries(attempt, "")

    def load_file(
        self,
        table: str,
        path: Path,
        columns: Sequence[tuple[str, str]],
        substitute: Callable[[bytes, str], bytes] | None = None,
    ) -> int:
        """See `Warehouse.load_file`."""
        schema = [SchemaField(name, kind) for name, kind in columns]
        config = LoadJobConfig(
            source_format="NEWLINE_DELIMITED_JSON", schema=schema, max_bad_records=0, ignore_unknown_values=False
        )
        table = self.resolve_name(table)
        self._ownership.check([table], self._look_up)
        # A load job cannot label the table that it creates, and leaves the labels of one that it fills.
        labeled = bigquery.Table(f"{self._project}.{table}", schema)
        labeled.labels = dict([LABEL])
        created = self._client.create_table(labeled, exists_ok=True, retry=self._retry)
        if path.suffix == ".csv":
            config.write_disposition = "WRITE_TRUNCATE"
            return self._load_lines(table, _to_ndjson(path), config, f"{PREFIX}{time.time_ns()}").output_rows or 0
        # The table outlives a crash, and the ids of the jobs contain its creation time: jobs submitted before the crash
        # are found again, and jobs that filled an earlier table of that name are not.
        seed = f"{PREFIX}{created.table_id}-{created.created.timestamp() * 1000:.0f}"

        def load(chunk: chunks.Chunk) -> None:
            self._load_chunk(table, chunk, config, seed, substitute)

        pieces = chunks.split_file(path)
        while batch := list(islice(pieces, THREADS)):
            list(self._pool.map(load, batch))
        rows = self._client.get_table(created.reference, retry=self._retry).num_rows
        return int(rows)

    def drop(self, *tables: str) -> None:
        """See `Warehouse.drop`. An API call, which costs nothing and waits for no other statement."""
        names = [self.resolve_name(table) for table in tables]
        self._ownership.check_writes([Write("DROP", "TABLE", name) for name in names], self._look_up)
        self._check_lease()
        for name in names:
            self._client.delete_table(f"{self._project}.{name}", not_found_ok=True, retry=self._retry)
            self._ownership.note([Write("DROP", "TABLE", name)])

    def list_columns(self, *datasets: str) -> Mapping[str, Columns]:
        """See `Warehouse.list_columns`."""
        listed = " UNION ALL ".join(
            f"SELECT '{dataset}' AS dataset, table_name, column_name, data_type"
            f" FROM {dataset}.INFORMATION_SCHEMA.COLUMNS"
            for dataset in datasets
        )
        found: dict[str, dict[str, str]] = {}
        for row in self.query(listed).to_dict("records"):
            found.setdefault(f"{row['dataset']}.{row['table_name']}", {})[row["column_name"]] = row["data_type"]
        return found

    def list_views(self, dataset: str) -> Mapping[str, str]:
        """See `Warehouse.list_views`."""
        found = self.query(f"SELECT table_name, view_definition FROM {dataset}.INFORMATION_SCHEMA.VIEWS")
        names = f"{dataset}." + found["table_name"]
        return dict(zip(names, found["view_definition"], strict=True))

    def check_ownership(self, *tables: str) -> None:
        """See `Warehouse.check_ownership`."""
        self._ownership.check(map(self.resolve_name, tables), self._look_up)

    def resolve_name(self, table: str) -> str:
        """See `Warehouse.resolve_name`."""
        return map_name(table, self._pattern)

    def qualify_name(self, table: str) -> str:
        """See `Warehouse.qualify_name`."""
        return f"`{self._project}`.{table}"

    def close(self) -> None:
        """See `Warehouse.close`."""
        self._pool.shutdown()
        if self._lease:
            self._lease.release()
            self._lease = None
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- jobs -------------------------------------------------------------------------------------------------------

    def _prepare(self, sql: str) -> Statement:
        """Translate and label a statement or a script. Raises UserError if it would change what is not ours."""
        prepared = prepare_statement(sql, self._pattern, _OPTIONS)
        self._ownership.check_writes(prepared.writes, self._look_up)
        return prepared

    def _look_up(self, name: str) -> bool | None:
        """Return whether a table or view is ours; None: it does not exist."""
        path = name if name.count(".") > 1 else f"{self._project}.{name}"
        try:
            return _is_ours(self._client.get_table(path, retry=self._retry))
        except NotFound:
            return None

    def _run_job(self, prepared: Statement, parameters: Mapping[str, Any]) -> bigquery.QueryJob:
        """Run a statement or a script as a job, within the budget; return the finished job."""
        sql, given = prepared.sql, _make_parameters(prepared.sql, parameters)

        def attempt() -> bigquery.QueryJob:
            self._check_lease()
            config = QueryJobConfig(query_parameters=given)
            if self._budget is not None:
                config.maximum_bytes_billed = self._count_remaining_bytes(self._budget)
            job = self._client.query(sql, config, job_id_prefix=PREFIX, retry=self._retry, job_retry=None)
            self._wait_for(job)
            self.usage.add(job.total_bytes_processed or 0, job.total_bytes_billed or 0)
            return job

        changed = (write.name for write in prepared.writes if write.verb in ("UPDATE", "DELETE", "MERGE"))
        done = self._with_retries(attempt, next(changed, ""))
        self._ownership.note(prepared.writes)
        return done

    def _check_lease(self) -> None:
        """Raise WarehouseError if another program may be writing by now."""
        if self._lease:
            self._lease.check()

    def _count_remaining_bytes(self, budget: int) -> int:
        """Return the bytes that may still be billed. Raises WarehouseError if there are none."""
        remaining = budget - self.usage.billed
        if remaining <= 0:
            raise WarehouseError(self._explain_budget(budget))
        return remaining

    def _explain_budget(self, budget: int) -> str:
        return (
            f"This step would be billed more than its budget of {budget:,} bytes ({self.usage.billed:,} are "
            "used): raise BQ_STEP_BUDGET, or find the statement that reads so much."
        )

    def _wait_for(self, job: Job) -> None:
        """Wait for a job to end; raise its error. By jobs.get, which tells an error of the job from one of the call.

        Raises WarehouseError for one that does not end, after asking BigQuery to cancel it.
        """
        pause, until = 0.05, time.monotonic() + self._limits.job
        while not job.done(retry=self._retry):
            if time.monotonic() > until:
                job.cancel(retry=self._retry)
                raise WarehouseError(
                    f"BigQuery did not finish a job within {self._limits.job / 60:.0f} minutes ({job.job_id}), which "
                    "was told to cancel it: run again; finished work is kept."
                )
            time.sleep(pause)
            pause = min(2, pause * 1.5)
        if error := job.exception():
            raise error

    def _with_retries(self, attempt: Callable[[], T], about: str) -> T:
        """Call `attempt` until it succeeds, as long as BigQuery refuses only temporarily.

        about: the table that is written, for the error message
        Raises UserError or WarehouseError for a known refusal, and a server that does not answer.
        """

        def is_temporary(error: BaseException) -> bool:
            return bool((refusal := _find_refusal(error)) and refusal.limit)

        def should_stop(state: RetryCallState) -> bool:
            refusal = _find_refusal(state.outcome.exception() if state.outcome else None)
            if not (refusal and refusal.limit and state.seconds_since_start is not None):
                return True
            return bool(state.seconds_since_start >= getattr(self._limits, refusal.limit))

        retrying = Retrying(
            retry=retry_if_exception(is_temporary),
            stop=should_stop,
            wait=wait_random_exponential(max=self._limits.pause),
            reraise=True,
        )
        try:
            return retrying(attempt)
        except GoogleAPICallError as error:
            if refusal := _find_refusal(error):
                raise refusal.kind(self._explain(refusal, error, about)) from error
            raise
        except (RetryError, requests.RequestException, auth.TransportError) as error:
            raise WarehouseError("BigQuery did not answer: run again; finished work is kept.") from error

    def _explain(self, refusal: _Refusal, error: GoogleAPICallError, about: str) -> str:
        later = datetime.now(UTC) + timedelta(minutes=30)
        return refusal.sentence.format(
            table=about or "a table",
            later=f"{later:%H:%M} UTC",
            message=_format_message(error),
            budget=self._explain_budget(self._budget) if self._budget is not None else _format_message(error),
        )

    def _get_lock(self, table: str) -> threading.Lock:
        with self._guard:
            return self._locks.setdefault(table, threading.Lock())

    # --- load jobs --------------------------------------------------------------------------------------------------

    def _load_chunk(
        self,
        table: str,
        chunk: chunks.Chunk,
        config: LoadJobConfig,
        seed: str,
        substitute: Callable[[bytes, str], bytes] | None,
    ) -> None:
        """Load a chunk; if it is too large, its halves, down to one line, and then the substitute of that line."""
        try:
            self._load_lines(table, chunk.body, config, f"{seed}-{chunk.name}")
        except GoogleAPICallError as error:
            if not _is_too_large(error):
                raise
            if len(chunk.lines) > 1:
                for half in chunk.split():
                    self._load_chunk(table, half, config, seed, substitute)
            elif substitute:
                [line] = chunk.lines
                reason = f"too large for a request: {len(line):,} bytes"
                self._load_lines(table, substitute(line, reason), config, f"{seed}-{chunk.name}-substitute")
            else:
                raise

    def _load_lines(self, table: str, body: bytes, config: LoadJobConfig, job_id: str) -> bigquery.LoadJob:
        """Load NDJSON with the job of this id: start it, or find it from before; replace it if it had failed."""
        numbers = count()

        def attempt() -> bigquery.LoadJob:
            self._check_lease()
            while True:
                name, found = f"{job_id}-{next(numbers)}", False
                try:
                    job = self._client.load_table_from_file(
                        io.BytesIO(body), f"{self._project}.{table}", size=len(body), job_id=name, job_config=config
                    )
                except Conflict:  # HTTP 409: a job of this id exists
                    job, found = cast("bigquery.LoadJob", self._client.get_job(name, retry=self._retry)), True
                try:
                    self._wait_for(job)
                except GoogleAPICallError:
                    if not found:
                        raise
                else:
                    return job

        return self._with_retries(attempt, table)

    # --- what is there ----------------------------------------------------------------------------------------------

    def _find_datasets(self, location: str) -> dict[str, bool]:
        """Return those of our datasets that exist, by real name: whether they have the label.

        Raises UserError if they are in another location.
        """
        real = set(self._datasets.values())
        listed = self._client.list_datasets(retry=DEFAULT_RETRY.with_timeout(min(20, self._limits.network)))
        existing = {item.dataset_id: _is_ours(item) for item in listed if item.dataset_id in real}
        if existing:
            actual = self._client.get_dataset(f"{self._project}.{min(existing)}").location
            if actual.upper() != location.upper():
                raise UserError(f"The datasets are in {actual}, not in {location}: set BQ_LOCATION={actual}.")
        return existing

    def _list_objects(self, datasets: Iterable[str]) -> dict[str, bool]:
        """Return every table and view of datasets, by real name: whether it has the label. It costs nothing."""

        def list_dataset(dataset: str) -> dict[str, bool]:
            tables = self._client.list_tables(f"{self._project}.{dataset}", page_size=1000, retry=self._retry)
            return {f"{dataset}.{table.table_id}": _is_ours(table) for table in tables}

        return {name: ours for part in self._pool.map(list_dataset, datasets) for name, ours in part.items()}

    def _create_datasets(self, location: str, existing: Container[str]) -> None:
        for logical, name in self._datasets.items():
            if name in existing:
                continue
            dataset = bigquery.Dataset(f"{self._project}.{name}")
            dataset.location = location
            dataset.labels = dict([LABEL])
            if logical == "st_stage_v2":
                dataset.default_table_expiration_ms = int(timedelta(days=STAGE_DAYS) / timedelta(milliseconds=1))
            self._client.create_dataset(dataset, exists_ok=True, retry=self._retry)


def _is_ours(resource: bigquery.Table | TableListItem | DatasetListItem) -> bool:
    key, value = LABEL
    return bool(resource.labels.get(key) == value)


def make_parameter(name: str, value: Any) -> ScalarQueryParameter:
    """Make a named parameter with the type of its value; for None, the type in NULLABLE."""
    if value is None:
        return ScalarQueryParameter(name, NULLABLE[name], None)
    return ScalarQueryParameter(name, next(kind for cls, kind in _TYPES if isinstance(value, cls)), value)


def _make_parameters(sql: str, values: Mapping[str, Any]) -> list[ScalarQueryParameter]:
    """Make the parameters that the statement names."""
    return [make_parameter(name, values[name]) for name in sorted(set(_PARAMETER.findall(sql)) & values.keys())]


def _to_ndjson(path: Path) -> bytes:
    """Convert a CSV file to NDJSON, with null for an empty cell, as DuckDB reads it: BigQuery would read ''."""
    with path.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file)
        return b"".join(orjson.dumps({k.strip(): v or None for k, v in row.items()}) + b"\n" for row in rows)


def _find_refusal(error: BaseException | None) -> _Refusal | None:
    """Return the known refusal that an error is, or None."""
    if not isinstance(error, GoogleAPICallError):
        return None
    reasons = [str(detail.get("reason")) for detail in error.errors or () if isinstance(detail, Mapping)]
    text = "\n".join((str(error.message), *reasons))
    return next((refusal for refusal in _REFUSALS if refusal.pattern in text), None)


def _is_too_large(error: GoogleAPICallError) -> bool:
    return error.code == 413 or (error.code == 400 and bool(_TOO_LARGE.search(str(error.message))))  # noqa: PLR2004 HTTP


def _format_message(error: BaseException) -> str:
    """Return the first line of Google's message as a sentence."""
    message = str(getattr(error, "message", error)).strip().splitlines() or [type(error).__name__]
    return message[0].split("; reason:")[0].rstrip(".") + "."
